//! A script as a StreamJob.

use std::fmt::Write as _;

use weir_crds::load_job;

use super::super::{Exit, Failure};

/// The longest name that a job may have.
const LONGEST: usize = 50;

/// What a StreamJob is made of here.
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// The script.
    pub script: &'a str,
    /// Where checkpoints go.
    pub storage: &'a str,
    /// Lines below `spec`, beside these.
    pub more: &'a str,
}

/// The StreamJob's text. It holds, or the failure says why not.
pub fn of(wanted: &Wanted<'_>) -> Result<String, Failure> {
    let Wanted { name, script, storage, more } = wanted;
    let storage = serde_json::Value::from(*storage);
    let mut text = format!("apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata:\n  name: {name}\nspec:\n");
    if script.chars().any(|sign| sign.is_control() && !matches!(sign, '\n' | '\t')) {
        // Only in quotes can such characters stand. JSON's are YAML's.
        let _ = writeln!(text, "  sql: {}", serde_json::Value::from(*script));
    } else {
        text.push_str("  sql: |2\n");
        for line in script.trim_end().lines() {
            text.push_str(if line.is_empty() { "" } else { "    " });
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(more);
    let _ = writeln!(text, "  checkpoint:\n    storage:\n      url: {storage}");
    load_job(&text).map_err(|error| Failure::new(Exit::BadInput, error))?;
    Ok(text)
}

/// A name for a job out of that of a file.
pub fn name_of(file: &str) -> String {
    let mut name = String::new();
    for sign in file.to_lowercase().chars() {
        match sign {
            'a'..='z' | '0'..='9' => name.push(sign),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let name: String = name.trim_start_matches(|sign: char| !sign.is_ascii_lowercase()).chars().take(LONGEST).collect();
    let name = name.trim_end_matches('-');
    if name.is_empty() { "sql".to_string() } else { name.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_stands_in_the_yaml_as_it_is() {
        for script in
            ["SELECT 1", "  -- ä: #x\n\tSELECT 'a: b' -- c\n\n  FROM t;\n", "SELECT '\u{1}\r\n'", "%x\n---\n...\n"]
        {
            let wanted = Wanted { name: "j", script, storage: "./a: b", more: "  workers: {slots: 2}\n" };
            let text = of(&wanted).unwrap_or_else(|failure| panic!("{}\n{script:?}", failure.message));
            let job = load_job(&text).unwrap();
            assert_eq!(job.spec.sql.trim_end(), script.trim_end(), "{text}");
            assert_eq!(job.spec.checkpoint.storage.url, "./a: b");
        }
    }

    #[test]
    fn a_jobs_name_is_made_of_a_files() {
        for (file, name) in [
            ("orders", "orders"),
            ("01_Orders v2", "orders-v2"),
            ("--", "sql"),
            ("été", "t"),
            (&"x".repeat(80), &"x".repeat(50)),
        ] {
            assert_eq!(name_of(file), *name, "{file}");
        }
    }
}
