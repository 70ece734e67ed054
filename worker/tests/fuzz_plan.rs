//! Scripts that nobody would write, and the repository's own with a few bytes changed, given to `weir-worker plan`: each is planned
//! or refused, in a process that may take half a GiB and half a minute. A crash, a panic and a time-out are faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use weir_fuzz::{Random, cases};

/// Scripts of the short form.
const SHORT: u64 = 120;

/// Longer than what a process may take of its processor, and what it waits for beside that.
const PATIENCE: Duration = Duration::from_mins(2);

const TABLES: &str = "\
CREATE TABLE bids (auction BIGINT, bidder INT, price DECIMAL(10, 2), channel STRING, ok BOOLEAN, rate DOUBLE, day DATE,
  t TIMESTAMP(3), inner_row ROW<a INT, b STRING>, p AS PROCTIME(), WATERMARK FOR t AS t - INTERVAL '5' SECOND)
  WITH ('connector' = 'datagen', 'number-of-rows' = '10');
CREATE TABLE texts (s STRING) WITH ('connector' = 'blackhole');
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'blackhole');
CREATE TABLE pairs (k STRING, n BIGINT) WITH ('connector' = 'blackhole');
";

const WRITTEN: [&str; 5] = [
    "CREATE VIEW late AS SELECT auction, bidder, UPPER(channel) AS channel FROM bids WHERE price > 10 AND ok;
     INSERT INTO pairs SELECT channel, COUNT(DISTINCT bidder) FROM late GROUP BY channel;",
    "INSERT INTO pairs SELECT channel, n FROM (SELECT channel, auction AS n, ROW_NUMBER() OVER (PARTITION BY channel
     ORDER BY t DESC) AS row_num FROM bids) WHERE row_num = 1;",
    "INSERT INTO numbers SELECT SUM(auction) FILTER (WHERE price > 100) FROM TABLE(HOP(TABLE bids, DESCRIPTOR(t),
     INTERVAL '10' SECOND, INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;",
    "INSERT INTO texts SELECT CASE WHEN channel LIKE '%a%' THEN REGEXP_EXTRACT(channel, '(a+)(b*)', 2) ELSE
     DATE_FORMAT(t, 'yyyy-MM-dd HH:mm') END FROM bids WHERE channel IS NOT NULL AND rate BETWEEN -1.5e3 AND 2;",
    "SET 'table.exec.source.idle-timeout' = '5s'; EXECUTE STATEMENT SET BEGIN INSERT INTO texts SELECT
     CONCAT_WS('-', channel, CAST(auction AS STRING), SPLIT_INDEX(channel, ',', 1)) FROM bids; INSERT INTO numbers
     SELECT EXTRACT(HOUR FROM t) * 60 + MINUTE(t) FROM bids GROUP BY TUMBLE(t, INTERVAL '1' HOUR), t; END;",
];

const COLUMNS: [&str; 11] =
    ["auction", "bidder", "price", "channel", "ok", "rate", "day", "t", "p", "inner_row.a", "inner_row.b"];

const LITERALS: [&str; 24] = [
    "0",
    "1",
    "-1",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1e308",
    "1e-400",
    "0.1",
    "123456789012345678901234567890.12345678",
    "''",
    "'a'",
    "'%_'",
    "'(('",
    "'yyyy-MM-dd'",
    "'2020-02-30'",
    "NULL",
    "TRUE",
    "TIMESTAMP '2020-01-01 00:00:00'",
    "DATE '0001-01-01'",
    "INTERVAL '1' DAY",
    "INTERVAL '9999999999' SECOND",
    "'\u{1F600}'",
];

const OPERATORS: [&str; 17] = [
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "=",
    "<>",
    "<",
    ">=",
    "AND",
    "OR",
    "LIKE",
    "IS DISTINCT FROM",
    "SIMILAR TO",
    "NOT LIKE",
    ".",
];

const FUNCTIONS: [&str; 70] = [
    "ABS",
    "ASCII",
    "ATAN2",
    "AVG",
    "CEIL",
    "CHAR_LENGTH",
    "CHR",
    "COALESCE",
    "CONCAT",
    "CONCAT_WS",
    "COT",
    "COUNT",
    "DATE_FORMAT",
    "DAYOFWEEK",
    "DEGREES",
    "EXP",
    "FLOOR",
    "FROM_UNIXTIME",
    "GET_FIELD",
    "HOUR",
    "IF",
    "IFNULL",
    "INITCAP",
    "INSTR",
    "LEFT",
    "LN",
    "LOCATE",
    "LOG10",
    "LOWER",
    "LPAD",
    "LTRIM",
    "MAX",
    "MIN",
    "MOD",
    "NOW",
    "NULLIF",
    "PI",
    "POSITION",
    "POWER",
    "PROCTIME",
    "QUARTER",
    "REGEXP",
    "REGEXP_EXTRACT",
    "REGEXP_REPLACE",
    "REPEAT",
    "REPLACE",
    "REVERSE",
    "RIGHT",
    "ROUND",
    "ROW_NUMBER",
    "RPAD",
    "SIGNUM",
    "SPLIT_INDEX",
    "SQRT",
    "STARTS_WITH",
    "SUBSTRING",
    "SUM",
    "TO_DATE",
    "TO_TIMESTAMP",
    "TO_TIMESTAMP_LTZ",
    "TRANSLATE",
    "TRIM",
    "TRUNCATE",
    "TUMBLE_START",
    "UNIX_TIMESTAMP",
    "UPPER",
    "WEEK",
    "YEAR",
    "NO_SUCH",
    "CAST",
];

const TYPES: [&str; 13] = [
    "STRING",
    "INT",
    "BIGINT",
    "DOUBLE",
    "DECIMAL(38, 38)",
    "DECIMAL(1, 0)",
    "DATE",
    "TIME",
    "TIMESTAMP(3)",
    "TIMESTAMP_LTZ(3)",
    "BOOLEAN",
    "BYTES",
    "ROW<a INT>",
];

const WORDS: [&str; 40] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "AS",
    "(",
    ")",
    ",",
    ";",
    "'",
    "`",
    "\"",
    "--",
    "/*",
    "*/",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "OVER",
    "PARTITION BY",
    "ORDER BY",
    "DESC",
    "NOT",
    "NULL",
    "IS",
    "IN",
    "BETWEEN",
    "EXISTS",
    "UNION ALL",
    "JOIN",
    "ON",
    "INSERT INTO",
    "CREATE VIEW",
    "CREATE TABLE",
    "TABLE",
    "\0",
    "\u{202e}",
];

/// An expression of about so many levels.
fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 || random.one_in(6) {
        return if random.one_in(2) { random.pick(&COLUMNS) } else { random.pick(&LITERALS) }.to_string();
    }
    let one = |random: &mut Random| expression(random, depth - 1);
    match random.below(10) {
        0..=2 => format!("{} {} {}", one(random), random.pick(&OPERATORS), one(random)),
        3 => format!("({} {} {})", one(random), random.pick(&OPERATORS), one(random)),
        4..=6 => {
            let name = random.pick(&FUNCTIONS);
            if name == "CAST" {
                return format!("CAST({} AS {})", one(random), random.pick(&TYPES));
            }
            let arguments: Vec<String> = (0..random.below(4)).map(|_| one(random)).collect();
            format!("{name}({})", arguments.join(", "))
        }
        7 => format!("CASE WHEN {} THEN {} ELSE {} END", one(random), one(random), one(random)),
        8 => format!("{} IN ({}, {})", one(random), one(random), one(random)),
        _ => format!("NOT {} IS NULL", one(random)),
    }
}

/// The same link again and again: short chains, and such as no planner could bear.
fn chain(random: &mut Random) -> String {
    let length = [10, 300, 2_000, 4_000, 20_000, 150_000][random.below(6)];
    let columns = random.pick(&COLUMNS);
    let link = match random.below(7) {
        0 => format!(" {} {columns}", random.pick(&OPERATORS)),
        1 => " OR auction = 1".to_string(),
        2 => " || channel".to_string(),
        3 => " IS NULL".to_string(),
        4 => format!(" + {}", expression(random, 2)),
        5 => " + CASE WHEN ok THEN 1 ELSE 2 END".to_string(),
        _ => ", auction".to_string(),
    };
    format!("{columns}{}", link.repeat(length))
}

fn nested(random: &mut Random) -> String {
    let depth = [5, 40, 60, 1_500][random.below(4)];
    let (open, close) =
        [("(", ")"), ("ABS(", ")"), ("CASE WHEN ok THEN ", " ELSE 1 END"), ("NOT ", ""), ("- ", "")][random.below(5)];
    format!("{}auction{}", open.repeat(depth), close.repeat(depth))
}

/// Views that name each column of the one below a few times.
fn views(random: &mut Random) -> String {
    let step = match random.below(5) {
        0 => "a + a".to_string(),
        1 => "a".to_string(),
        2 => "CASE WHEN a > 1 THEN a WHEN a < 0 THEN -a ELSE a END".to_string(),
        3 => format!("a{}", " + 1".repeat(random.below(900))),
        _ => expression(random, 2).replace("auction", "a"),
    };
    let mut text = "CREATE VIEW v0 AS SELECT auction AS a, t FROM bids;\n".to_string();
    let count = 1 + random.below(60);
    for view in 1..=count {
        let _ = writeln!(text, "CREATE VIEW v{view} AS SELECT {step} AS a, t FROM v{};", view - 1);
    }
    let end = random.pick(&["", " WHERE a > 0", " GROUP BY a", " WHERE a IN (1, 2, 3) AND a < 5"]);
    format!("{text}INSERT INTO numbers SELECT a FROM v{count}{end};")
}

fn window(random: &mut Random) -> String {
    let units = ["SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "MILLISECOND"];
    let lengths = ["1", "0.001", "0", "-5", "999999999", "7", "1.5"];
    let interval = |random: &mut Random| format!("INTERVAL '{}' {}", random.pick(&lengths), random.pick(&units));
    let (name, arguments) = if random.one_in(2) {
        ("TUMBLE", interval(random))
    } else {
        ("HOP", format!("{}, {}", interval(random), interval(random)))
    };
    let group = random.pick(&[
        "GROUP BY window_start, window_end",
        "GROUP BY channel, window_end, window_start, window_time",
        "",
    ]);
    let time = random.pick(&["t", "p", "auction"]);
    let from = format!("FROM TABLE({name}(TABLE bids, DESCRIPTOR({time}), {arguments}))");
    let select = if group.is_empty() { "auction".to_string() } else { format!("COUNT({})", expression(random, 2)) };
    format!("INSERT INTO numbers SELECT {select} {from} {group};")
}

fn generated(random: &mut Random) -> String {
    let value = |random: &mut Random| match random.below(5) {
        0 => chain(random),
        1 => nested(random),
        _ => {
            let depth = 1 + random.below(6);
            expression(random, depth)
        }
    };
    let statement = match random.below(8) {
        0 => views(random),
        1 => window(random),
        2 => format!("INSERT INTO numbers SELECT auction FROM bids WHERE {};", value(random)),
        3 => format!("INSERT INTO numbers SELECT COUNT(*) FROM bids GROUP BY {};", value(random)),
        4 => format!("INSERT INTO texts SELECT CAST({} AS STRING) FROM bids;", value(random)),
        5 => format!(
            "CREATE TABLE c (a INT, auction BIGINT, channel STRING, b AS {}) WITH ('connector' = 'datagen');",
            value(random)
        ),
        6 => format!("INSERT INTO pairs SELECT {}, {} FROM bids;", value(random), value(random)),
        _ => format!("INSERT INTO numbers SELECT {} FROM bids;", value(random)),
    };
    format!("{TABLES}{statement}")
}

/// A script with some bytes and words changed.
fn mutated(random: &mut Random, scripts: &[String]) -> String {
    let mut bytes = scripts[random.below(scripts.len())].clone().into_bytes();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(30)).min(bytes.len());
        match random.below(7) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes[at] = random.number() as u8,
            2 => drop(bytes.splice(at..at, random.pick(&WORDS).bytes())),
            3 => {
                let piece = bytes[at..end].to_vec();
                let times = [1, 2, 50, 2_000][random.below(4)];
                drop(bytes.splice(at..at, piece.repeat(times)));
            }
            4 => {
                let other = scripts[random.below(scripts.len())].as_bytes();
                let from = random.below(other.len());
                let to = (from + random.below(200)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            5 => drop(bytes.splice(at..at, expression(random, 3).bytes())),
            _ => bytes.swap(at, end - 1),
        }
        if bytes.is_empty() {
            bytes.push(b';');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn flights() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flights")
}

/// The scripts of the repository's examples, and some that use what those do not.
fn scripts() -> Vec<String> {
    let mut scripts: Vec<String> = WRITTEN.iter().map(|text| format!("{TABLES}{text}")).collect();
    let yaml = fs::read_to_string(flights().join("job.yaml")).expect("the example is there");
    let lines = yaml.lines().skip_while(|line| *line != "  sql: |").skip(1);
    scripts.push(lines.take_while(|line| line.starts_with("    ")).map(str::trim).collect::<Vec<_>>().join("\n"));
    scripts
}

/// What came of one script, where that is a fault.
fn fault(script: &str) -> Option<String> {
    let request = json!({"script": script, "baseDir": flights(), "maxParallelism": 128});
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir-worker"))
        .arg("plan")
        .env("WEIR_LOG", "off")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the worker binary starts");
    let (answer, words) = (reader(child.stdout.take()), reader(child.stderr.take()));
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(request.to_string().as_bytes());
    }
    let Ok(answer) = answer.recv_timeout(PATIENCE) else {
        end(&mut child);
        return Some("it does not end".to_string());
    };
    let status = child.wait().expect("it has ended");
    let words = String::from_utf8_lossy(&words.recv_timeout(PATIENCE).unwrap_or_default()).into_owned();
    let told: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let first = &told["errors"][0];
    match status.code() {
        Some(0) if told["fingerprint"].is_string() => None,
        Some(2) if first["message"].as_str().is_some_and(|message| !message.is_empty()) => {
            // Errors are shown to people, in a condition of the resource too.
            let length = first.to_string().len();
            (length > 100_000).then(|| format!("its error has {length} bytes"))
        }
        _ => Some(format!("{status}\n{words}\n{}", String::from_utf8_lossy(&answer))),
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn reader(from: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (told, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        let _ = told.send(bytes);
    });
    heard
}

fn shown(text: &str) -> String {
    let start: String = text.chars().take(3_000).collect();
    if start.len() < text.len() { format!("{start} … ({} bytes)", text.len()) } else { start }
}

#[test]
fn whatever_a_script_is_it_is_planned_or_refused() {
    let scripts = scripts();
    for script in &scripts {
        assert_eq!(fault(script), None, "{script}");
    }
    cases(SHORT, |random| {
        let script = if random.one_in(2) { generated(random) } else { mutated(random, &scripts) };
        let fault = fault(&script);
        assert!(fault.is_none(), "{}\n{}", fault.unwrap_or_default(), shown(&script));
    });
}
