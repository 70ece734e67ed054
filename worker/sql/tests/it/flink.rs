//! Holds queries over rows that change, the first rows of partitions, and joins within bounds of time, against Flink's own answers,
//! `tests/data/changes.jsonl`, `topn.jsonl` and `joins.jsonl`: each query of `changes.sql`, `topn.sql` and `joins.sql` over each set of its
//! rows, folded before the exchange or not, with checkpoints, restores and other numbers of subtasks between batches. `tests/answers/generate.sh --changes` makes the tables.

use std::collections::BTreeMap;
use std::path::Path;

use crate::run::{Pieces, Texts, Way, run, script, table};

/// What hangs on the order in which rows come.
const BY_ARRIVAL: [&str; 3] = ["FIRST_VALUE", "LAST_VALUE", "LISTAGG"];

/// What is another thing here on purpose: Flink puts out the first row of a key by event time when the watermark reaches it, and drops what
/// comes behind that; here an earlier row that comes later takes its place.
const OTHERWISE: &str = "FROM earliest";

/// The way in which a query is run: every third in one go.
fn way(query: &str, seed: u64) -> Way {
    let ordered = BY_ARRIVAL.iter().any(|function| query.contains(function));
    let pieces = match (ordered, seed % 3) {
        (true, _) => Pieces::InOrder,
        (false, 0) => Pieces::Whole,
        (false, _) => Pieces::Few,
    };
    Way { seed, pieces }
}

/// What the script declares, its sets of rows, and its queries.
struct Asked {
    declared: Vec<String>,
    rows: BTreeMap<String, Texts>,
    queries: Vec<String>,
}

fn asked(script: &str) -> Asked {
    let mut asked = Asked { declared: Vec::new(), rows: BTreeMap::new(), queries: Vec::new() };
    let (mut set, mut asks, mut statement) = (None::<String>, false, String::new());
    for line in script.lines().filter(|line| !line.starts_with("--")) {
        if let Some(name) = line.strip_prefix("ROWS ") {
            asked.rows.insert(name.to_string(), Vec::new());
            set = Some(name.to_string());
        } else if line == "QUERIES" {
            (set, asks) = (None, true);
        } else if let Some(set) = &set {
            let cells = |line: &str| line.split('|').map(|cell| (cell != "NULL").then(|| cell.to_string())).collect();
            asked.rows.get_mut(set).unwrap().extend((!line.is_empty()).then(|| cells(line)));
        } else if let Some(end) = line.strip_suffix(';') {
            statement.push_str(end);
            let done = std::mem::take(&mut statement);
            if asks { asked.queries.push(done) } else { asked.declared.push(done) }
        } else {
            statement.push_str(line);
        }
    }
    asked
}

/// A query as an INSERT into a table of these types.
fn statement(declared: &[String], types: &[&str], query: &str, settings: &str) -> String {
    let declared = declared.iter().map(|statement| {
        let values = if statement.starts_with("CREATE TABLE") { " WITH ('connector' = 'values')" } else { "" };
        format!("{statement}{values};\n")
    });
    let columns: Vec<String> = types.iter().enumerate().map(|(i, name)| format!("c{i} {name}")).collect();
    format!(
        "SET 'weir.projection-pushdown' = 'false';\n{settings}\n{}CREATE TABLE result ({}) WITH ('connector' = 'values');\nINSERT INTO result {query}",
        declared.collect::<String>(),
        columns.join(", ")
    )
}

/// A value as Flink's text of it.
fn flink(cell: &str, data_type: &str) -> Option<String> {
    if cell == "-" {
        return None;
    }
    let double = || cell.parse::<f64>().map(|value| format!("{value:?}"));
    Some(match data_type {
        "DOUBLE" => double().unwrap(),
        time if time.starts_with("TIMESTAMP") => {
            let text = cell.replacen('T', " ", 1);
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
        }
        _ => cell.to_string(),
    })
}

fn answer(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn queries_over_rows_that_change_come_to_what_flink_says() {
    hold("changes");
}

#[test]
fn first_rows_are_those_that_flink_says() {
    hold("topn");
}

#[test]
fn joins_within_bounds_of_time_and_of_windows_are_what_flink_says() {
    hold("joins");
}

fn hold(name: &str) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let read = |file: String| std::fs::read_to_string(data.join(file)).unwrap();
    let (script_text, answers) = (read(format!("{name}.sql")), read(format!("{name}.jsonl")));
    let asked = asked(&script_text);
    let answers: Vec<serde_json::Value> = answers.lines().map(answer).collect();
    assert_eq!(answers.len(), asked.queries.len() * asked.rows.len(), "generate.sh --changes makes the table");
    let mut wrong = Vec::new();
    for (seed, answer) in (1_u64..).zip(&answers) {
        let (set, query) = (answer["rows"].as_str().unwrap(), answer["sql"].as_str().unwrap());
        assert!(asked.queries.iter().any(|asked| asked == query), "generate.sh --changes makes the table: {query}");
        let Some(types) = answer["types"].as_array().filter(|_| !query.contains(OTHERWISE)) else { continue };
        // Whether a time is one of events is no matter of the sink.
        let types: Vec<&str> = types.iter().map(|name| name.as_str().unwrap().trim_end_matches(" *ROWTIME*")).collect();
        let mut expected: BTreeMap<Vec<Option<String>>, i64> = BTreeMap::new();
        for row in answer["table"].as_array().unwrap() {
            let cells = row.as_array().unwrap().iter().map(|cell| cell.as_str().map(ToString::to_string));
            *expected.entry(cells.collect()).or_default() += 1;
        }
        let rows = BTreeMap::from([("t".to_string(), asked.rows[set].clone())]);
        let way = way(query, seed);
        // What is folded before the exchange comes in another order.
        let local = way.pieces != Pieces::InOrder && seed % 2 == 1;
        let settings = format!("SET 'weir.local-aggregation' = '{local}';");
        let planned = match script(&statement(&asked.declared, &types, query, &settings)) {
            Ok(planned) => planned,
            Err(error) => {
                wrong.push(format!("{query}\n  is refused: {error}"));
                continue;
            }
        };
        let out = run(&planned, &rows, way);
        let found = table(out.get("result").map_or(&[][..], Vec::as_slice));
        let cells = |row: Vec<String>| row.iter().zip(&types).map(|(cell, name)| flink(cell, name)).collect();
        let found: BTreeMap<Vec<Option<String>>, i64> =
            found.into_iter().map(|(row, count)| (cells(row), count)).collect();
        if found != expected {
            wrong.push(format!("{query}\n  of {set}, {way:?}, local {local}\n  {found:?}\n  Flink: {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
