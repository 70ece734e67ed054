//! `make bench`: measures Weir as a user runs it, real processes of a release build, and prints tables. The figures are kept
//! as JSON beside the build output. It judges nothing: no test depends on a time.

mod keys;
mod nexmark;
mod pause;
mod recovery;
mod runner;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::runner::BenchError;

/// Measures Weir with real processes.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything when none is given.
    #[arg(value_enum)]
    what: Vec<What>,
    /// Nexmark queries to run; all when none is given.
    #[arg(long)]
    query: Vec<String>,
    /// Scales the number of events, for a quick look.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Where the figures are kept as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Events per second and per CPU-second, against Flink's figures.
    Nexmark,
    /// Ten million keys within 512 MiB.
    Keys,
    /// The pause of processing at a checkpoint.
    Pause,
    /// From `kill -9` to the first output.
    Recovery,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let wants = |what| arguments.what.is_empty() || arguments.what.contains(&what);
    let mut figures = serde_json::Map::new();
    if wants(What::Nexmark) {
        figures.insert("nexmark".into(), nexmark::run(&arguments.query, arguments.scale)?);
    }
    if wants(What::Keys) {
        figures.insert("keys".into(), keys::run(arguments.scale)?);
    }
    if wants(What::Pause) {
        figures.insert("pause".into(), pause::run(arguments.scale)?);
    }
    if wants(What::Recovery) {
        figures.insert("recovery".into(), recovery::run(arguments.scale)?);
    }
    let path = arguments.json.clone().unwrap_or_else(|| runner::binary_folder().join("weir-bench.json"));
    let text = serde_json::to_string_pretty(&figures).map_err(BenchError::Report)?;
    std::fs::write(&path, text).map_err(|source| BenchError::Io { what: path.display().to_string(), source })?;
    println!("\nkept in {}", path.display());
    Ok(())
}
