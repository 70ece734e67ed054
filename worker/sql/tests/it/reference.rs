//! The second half of docs/sql.md is what this build knows: its settings, connectors and functions.

use std::{fmt::Write, fs, path::Path};

use weir_connectors::ConnectorRegistry;
use weir_sql::{SETTINGS, names::functions::Functions};

const MARK: &str = "<!-- generated from here on: `make generate` writes it anew -->\n";

fn reference() -> String {
    let mut text = String::from("\n## Settings\n\n| key | default | |\n|---|---|---|\n");
    for (key, default, about) in SETTINGS {
        writeln!(text, "| `{key}` | {default} | {about} |").unwrap();
    }
    text.push_str("\n## Connectors\n");
    let connectors = ConnectorRegistry::with_builtin();
    for name in connectors.names() {
        writeln!(text, "\n### {name}\n").unwrap();
        let options = connectors.get(name).unwrap().options();
        if options.is_empty() {
            text.push_str("No options.\n");
            continue;
        }
        text.push_str("| option | value | default | |\n|---|---|---|---|\n");
        for option in options {
            let default = option.default.unwrap_or("**required**");
            writeln!(text, "| `{}` | {} | {default} | {} |", option.name, option.expects, option.about).unwrap();
        }
    }
    text.push_str("\n## Functions\n\nTheir meaning is Flink's.\n\n");
    let functions = Functions::builtin();
    let list = |names: Vec<String>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let plain = |name: &&String| !name.starts_with('$');
    let upper = |name: &String| name.to_ascii_uppercase();
    writeln!(text, "Aggregates: {}.\n", list(functions.aggregate.keys().filter(plain).map(upper).collect())).unwrap();
    writeln!(text, "Of a row: {}.", list(functions.scalar.keys().filter(plain).map(upper).collect())).unwrap();
    text
}

#[test]
fn the_reference_says_what_this_build_knows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sql.md");
    let committed = fs::read_to_string(&path).unwrap();
    let (written, generated) = committed.split_once(MARK).expect("docs/sql.md has the mark");
    let now = reference();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{written}{MARK}{now}")).unwrap();
        return;
    }
    assert_eq!(generated, now, "docs/sql.md has drifted; `make generate` writes it anew");
}
