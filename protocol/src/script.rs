//! What a job's script sets, for whoever does not plan it: `SET 'key' = 'value';`, as the planner reads it. Comments and texts are
//! told apart from statements, and nothing else is understood.

use std::time::Duration;

/// What the script sets, in the order written: the last of a key counts. `RESET 'key'` and `RESET` take back.
pub fn settings(script: &str) -> Vec<(String, String)> {
    let mut set: Vec<(String, String)> = Vec::new();
    for statement in statements(script) {
        let Some((first, rest)) = word(&statement) else { continue };
        if first.eq_ignore_ascii_case("RESET") {
            match rest.first() {
                Some(_) => {
                    let key = text(rest);
                    set.retain(|(set, _)| *set != key);
                }
                None => set.clear(),
            }
        } else if first.eq_ignore_ascii_case("SET")
            && let Some(equals) = rest.iter().position(|part| *part == Part::Sign('='))
        {
            set.push((text(&rest[..equals]), text(&rest[equals + 1..])));
        }
    }
    set
}

/// A duration as Flink's settings have it: a whole number and a unit, or of milliseconds.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let nanos = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        _ => return None,
    };
    number.checked_mul(nanos).map(Duration::from_nanos)
}

/// What a statement does for whoever runs scripts by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It makes a job: a query, an INSERT, CREATE TABLE … AS.
    Runs,
    /// It asks, and changes nothing.
    Asks,
    /// It changes what later statements mean.
    Declares,
}

/// What the first statement of a text does.
pub fn kind(text: &str) -> Kind {
    statements(text).iter().map(|statement| kind_of(statement)).next().unwrap_or(Kind::Declares)
}

/// How many statements of a text make a job.
pub fn queries_and_inserts(text: &str) -> usize {
    statements(text).iter().filter(|statement| kind_of(statement) == Kind::Runs).count()
}

/// Whether the last statement of a text has its `;`.
pub fn is_whole(text: &str) -> bool {
    let all = statements(text);
    all.len() > 1 && all.last().is_some_and(|last| trimmed(last).is_empty())
}

fn kind_of(statement: &[Part]) -> Kind {
    let Some((first, rest)) = word(statement) else {
        return if matches!(trimmed(statement).first(), Some(Part::Sign('('))) { Kind::Runs } else { Kind::Declares };
    };
    match first.to_ascii_uppercase().as_str() {
        "SELECT" | "WITH" | "VALUES" | "INSERT" | "EXECUTE" | "BEGIN" => Kind::Runs,
        "SHOW" | "DESCRIBE" | "DESC" | "EXPLAIN" => Kind::Asks,
        "SET" if rest.is_empty() => Kind::Asks,
        // Outside of parentheses AS is only before a query.
        "CREATE" if has_query(rest) => Kind::Runs,
        _ => Kind::Declares,
    }
}

/// Whether it is CREATE TABLE … AS.
fn has_query(statement: &[Part]) -> bool {
    let mut depth = 0;
    let mut flat = String::new();
    for part in statement {
        match part {
            Part::Sign('(') => depth += 1,
            Part::Sign(')') => depth -= 1,
            Part::Sign(sign) if depth == 0 => flat.push(*sign),
            _ => {}
        }
    }
    let words: Vec<String> = flat.split_whitespace().map(str::to_ascii_uppercase).collect();
    words.iter().any(|word| word == "TABLE") && words.iter().skip(2).any(|word| word == "AS")
}

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// What stands in single quotes.
    Text(String),
    /// Any other character, also a blank.
    Sign(char),
}

/// The first word of a statement, and what follows it without blanks at both ends.
fn word(statement: &[Part]) -> Option<(String, &[Part])> {
    let statement = trimmed(statement);
    let length = statement.iter().take_while(|part| matches!(part, Part::Sign(sign) if sign.is_alphabetic())).count();
    (length > 0).then(|| (text(&statement[..length]), trimmed(&statement[length..])))
}

fn trimmed(mut parts: &[Part]) -> &[Part] {
    let blank = |part: &Part| matches!(part, Part::Sign(sign) if sign.is_whitespace());
    while let [first, rest @ ..] = parts
        && blank(first)
    {
        parts = rest;
    }
    while let [rest @ .., last] = parts
        && blank(last)
    {
        parts = rest;
    }
    parts
}

/// A key or a value: what stands in quotes, or all that stands there.
fn text(parts: &[Part]) -> String {
    match trimmed(parts) {
        [Part::Text(text)] => text.clone(),
        parts => {
            let mut all = String::new();
            for part in parts {
                match part {
                    Part::Text(text) => {
                        all.push('\'');
                        all.push_str(text);
                        all.push('\'');
                    }
                    Part::Sign(sign) => all.push(*sign),
                }
            }
            all
        }
    }
}

/// Cuts at each `;`, and leaves comments out.
fn statements(script: &str) -> Vec<Vec<Part>> {
    let mut all = vec![Vec::new()];
    let mut rest = script.chars().peekable();
    while let Some(sign) = rest.next() {
        let Some(statement) = all.last_mut() else { return all };
        match (sign, rest.peek()) {
            ('-', Some('-')) => while rest.next_if(|sign| *sign != '\n').is_some() {},
            ('/', Some('*')) => {
                rest.next();
                let mut before = ' ';
                for sign in rest.by_ref() {
                    if (before, sign) == ('*', '/') {
                        break;
                    }
                    before = sign;
                }
                statement.push(Part::Sign(' '));
            }
            ('\'', _) => statement.push(Part::Text(quoted('\'', &mut rest))),
            ('`', _) => {
                quoted('`', &mut rest);
                statement.push(Part::Sign('`'));
            }
            (';', _) => all.push(Vec::new()),
            (sign, _) => statement.push(Part::Sign(sign)),
        }
    }
    all
}

/// What stands up to the closing quote. Two of them are one.
fn quoted(quote: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(sign) = rest.next() {
        if sign == quote && rest.next_if_eq(&quote).is_none() {
            break;
        }
        text.push(sign);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(script: &str) -> Vec<(String, String)> {
        settings(script)
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn keys_and_values_stand_with_and_without_quotes() {
        let script =
            "SET 'a.b' = 'c d';\nset execution.checkpointing.interval = 3s; SET x-y=file:///z ;\nSET 'q' = 'it''s'";
        let expected =
            [("a.b", "c d"), ("execution.checkpointing.interval", "3s"), ("x-y", "file:///z"), ("q", "it's")];
        assert_eq!(read(script), pairs(&expected));
    }

    #[test]
    fn what_is_no_statement_of_its_own_sets_nothing() {
        for script in [
            "-- SET a = b;\n",
            "/* SET a = b; */",
            "/**/",
            "/*",
            "/*/ SET a = b; */",
            "SELECT 'x; SET a = b;'",
            "INSERT INTO t SELECT `;SET a = b` FROM u",
            "ALTER TABLE t SET ('a' = 'b')",
            "SETTING a = b",
            "SET",
            "BEGIN STATEMENT SET; END",
            "",
        ] {
            assert_eq!(read(script), [], "{script}");
        }
    }

    #[test]
    fn statements_run_ask_or_declare() {
        for (text, expected) in [
            ("SELECT 1", Kind::Runs),
            ("-- x\n(SELECT 1)", Kind::Runs),
            ("insert into t values (1)", Kind::Runs),
            ("CREATE TABLE t (a INT, b AS a + 1) WITH ('a' = 'b')", Kind::Declares),
            ("CREATE TABLE t WITH ('a' = 'b') AS SELECT 1", Kind::Runs),
            ("CREATE VIEW v AS SELECT 1", Kind::Declares),
            ("SHOW TABLES", Kind::Asks),
            ("SET", Kind::Asks),
            ("SET a = b", Kind::Declares),
            ("DROP TABLE t", Kind::Declares),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        assert_eq!(queries_and_inserts("SET a = b; SELECT 1; INSERT INTO t SELECT 2; SHOW TABLES"), 2);
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in
            [("3s", 3_000), ("10 s", 10_000), ("1 min", 60_000), ("500", 500), ("2 h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1.5s", "-1s", "1 week", "99999999999999999999s", "99999999999 d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_statement_is_whole_with_its_end() {
        for (text, whole) in [("SELECT 1;", true), ("SELECT 1; -- x", true), ("SELECT 1", false), ("SELECT ';", false)]
        {
            assert_eq!(is_whole(text), whole, "{text}");
        }
    }

    #[test]
    fn comments_stand_within() {
        assert_eq!(read("/* x */ SET /* y; */ a = b -- z\n;"), pairs(&[("a", "b")]));
    }

    #[test]
    fn reset_takes_one_back_or_all() {
        assert_eq!(read("SET a = 1; SET b = 2; RESET a;"), pairs(&[("b", "2")]));
        assert_eq!(read("SET a = 1; SET b = 2; RESET 'b'; SET a = 3"), pairs(&[("a", "1"), ("a", "3")]));
        assert_eq!(read("SET a = 1; RESET;"), []);
    }
}
