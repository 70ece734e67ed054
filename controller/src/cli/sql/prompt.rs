//! The prompt: statements are kept as long as it is open, queries and INSERTs run when they are entered.

use std::{
    env,
    io::{BufRead, Write},
    path::PathBuf,
};

use weir_protocol::script::{Kind, is_whole, kind};

use super::{Form, Planned, Source, start, tell};
use crate::cli::{Exit, Failure};

/// What the prompt itself understands.
const WORDS: [&str; 3] = ["QUIT", "EXIT", "HELP"];

const HELP: &str = "\
A statement ends with ; and may have several lines. Tables and views stay until the prompt is left.
  CREATE TABLE t (n BIGINT) WITH ('connector' = 'datagen');   declares a table
  SELECT n, COUNT(*) FROM t GROUP BY n;                       runs, and shows its rows; Ctrl-C ends it
  INSERT INTO other SELECT n FROM t;                          runs until its input ends; Ctrl-C ends it
  SHOW TABLES;  DESCRIBE t;  EXPLAIN SELECT n FROM t;         tell of what there is
QUIT; or Ctrl-D leaves.";

/// Reads and does until the user leaves.
pub(super) async fn run(form: Form) -> Result<(), Failure> {
    println!("weir {}: Flink SQL on this machine. HELP; says what there is, QUIT; leaves.", env!("CARGO_PKG_VERSION"));
    let mut declared = String::new();
    while let Some(text) = ask().await? {
        let text = text.trim().trim_end_matches(';').trim();
        match WORDS.iter().position(|word| text.eq_ignore_ascii_case(word)) {
            _ if text.is_empty() => {}
            Some(0 | 1) => return Ok(()),
            Some(_) => println!("{HELP}"),
            None => match enter(&declared, text, form).await {
                Ok(true) => {
                    declared.push_str(text);
                    declared.push_str("\n;\n");
                }
                Ok(false) => {}
                Err(failure) => eprintln!("{}", failure.message),
            },
        }
    }
    println!();
    Ok(())
}

/// Does what a statement says. Says whether it is to be kept.
async fn enter(declared: &str, text: &str, form: Form) -> Result<bool, Failure> {
    let source = Source {
        text: text.to_string(),
        shown: "input".to_string(),
        stem: "sql".to_string(),
        base: env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
    };
    let planned = Planned::behind(&source, declared).await?;
    tell(&planned, declared.lines().count() as u64);
    match kind(text) {
        Kind::Runs => {
            start(planned, form).await?;
            Ok(false)
        }
        Kind::Asks => Ok(false),
        Kind::Declares => {
            println!("ok");
            Ok(true)
        }
    }
}

/// One statement from the terminal; none where the user leaves. In a thread that may wait.
async fn ask() -> Result<Option<String>, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        loop {
            print!("{}", if text.is_empty() { "weir> " } else { "  ... " });
            std::io::stdout().flush()?;
            if std::io::stdin().lock().read_line(&mut text)? == 0 {
                return Ok((!text.trim().is_empty()).then_some(text));
            }
            let word = text.trim();
            if word.is_empty() {
                text.clear();
            } else if is_whole(&text) || WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)) {
                return Ok(Some(text));
            }
        }
    });
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Environment, format!("the terminal cannot be read: {error}; use weir sql --file"))
    };
    let read: std::io::Result<Option<String>> = read.await.map_err(|error| failed(&error))?;
    read.map_err(|error| failed(&error))
}
