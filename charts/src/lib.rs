//! What is generated for the charts: the table of values in their READMEs, from the comments in `values.yaml`.
//!
//! The charts themselves are Helm's. The tests of this crate hold them against the API's types, the controller's version and
//! their own documentation.

use serde_json::Value;
use thiserror::Error;

/// Stands in a README above the generated table.
pub const BEGIN: &str = "<!-- values: written by `make generate` from the comments in values.yaml -->";
/// Stands below it.
pub const END: &str = "<!-- end of values -->";

/// Why no table can be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValuesError {
    /// The file is not YAML.
    #[error("values.yaml is no YAML: {0}")]
    Yaml(String),
    /// A value has no comment, and none above it speaks for it.
    #[error("line {line} of values.yaml: {path} has no comment; say above it what it is for")]
    Undocumented {
        /// The line, from 1.
        line: usize,
        /// The value's path.
        path: String,
    },
    /// The README has no place for the table.
    #[error("the README has no place for the table of values; write {BEGIN} and {END} on lines of their own")]
    NoPlace,
}

/// A line of `values.yaml` that begins a value.
#[derive(Debug)]
struct Entry {
    line: usize,
    indent: usize,
    path: String,
    comment: String,
    has_children: bool,
}

/// The README with the table of values put between its marks.
pub fn readme(readme: &str, values: &str) -> Result<String, ValuesError> {
    let (before, rest) = readme.split_once(BEGIN).ok_or(ValuesError::NoPlace)?;
    let (_, after) = rest.split_once(END).ok_or(ValuesError::NoPlace)?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", table(values)?))
}

/// The values as a Markdown table: path, default, and the comment above it, in the file's order.
///
/// A map whose comment speaks for all that is in it is one row; one whose parts have comments of their own is a row for each.
pub fn table(values: &str) -> Result<String, ValuesError> {
    let defaults: Value = serde_saphyr::from_str(values).map_err(|error| ValuesError::Yaml(error.to_string()))?;
    let entries = entries(values);
    let mut rows = String::from("| Value | Default | What it is |\n|---|---|---|\n");
    for (i, entry) in entries.iter().enumerate() {
        let below = || entries[i + 1..].iter().take_while(|other| other.indent > entry.indent);
        let parts_speak = below().any(|other| !other.comment.is_empty());
        let spoken_for = entries[..i].iter().rev().any(|other| {
            entry.path.starts_with(&format!("{}.", other.path))
                && !other.comment.is_empty()
                && !any_comment_below(&entries, other)
        });
        if entry.comment.is_empty() {
            if !entry.has_children && !spoken_for {
                return Err(ValuesError::Undocumented { line: entry.line, path: entry.path.clone() });
            }
            continue;
        }
        let pointer = format!("/{}", entry.path.replace('.', "/"));
        let default = match defaults.pointer(&pointer) {
            Some(value) if !parts_speak => format!("`{value}`"),
            _ => String::new(),
        };
        let comment = entry.comment.replace('|', "\\|");
        rows.extend(["| `", &entry.path, "` | ", &default, " | ", &comment, " |\n"]);
    }
    Ok(rows)
}

fn any_comment_below(entries: &[Entry], of: &Entry) -> bool {
    entries.iter().any(|entry| entry.path.starts_with(&format!("{}.", of.path)) && !entry.comment.is_empty())
}

/// All keys of the file's block maps. Flow maps and lists are their keys' defaults and not looked into.
fn entries(values: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for (i, line) in values.lines().enumerate() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let key = text.split_once(':').map(|(key, _)| key).filter(|key| is_key(key));
        let Some(key) = key else {
            comment.clear();
            continue;
        };
        parents.retain(|(above, _)| *above < indent);
        let path = match parents.last() {
            Some((_, parent)) => format!("{parent}.{key}"),
            None => key.to_string(),
        };
        if let Some(last) = entries.last_mut().filter(|last| last.indent < indent) {
            last.has_children = true;
        }
        parents.push((indent, path.clone()));
        entries.push(Entry { line: i + 1, indent, path, comment: comment.join(" "), has_children: false });
        comment.clear();
    }
    entries
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const VALUES: &str = "\
# How many, \n# at most.
replicas: 2

image:
  # Where it is: a|b.
  repository: weir
  # All of it.
  pull: {policy: Always}

# One comment for all.
context:
  user: 1
  group: 2
";

    #[test]
    fn a_table_has_a_row_for_each_comment() {
        let expected = "\
| Value | Default | What it is |
|---|---|---|
| `replicas` | `2` | How many, at most. |
| `image.repository` | `\"weir\"` | Where it is: a\\|b. |
| `image.pull` | `{\"policy\":\"Always\"}` | All of it. |
| `context` | `{\"group\":2,\"user\":1}` | One comment for all. |
";
        assert_eq!(table(VALUES).unwrap(), expected);
    }

    #[test]
    fn a_value_that_nothing_speaks_for_is_refused() {
        let values = "# For one.\na: 1\nb:\n  c: 2\n";
        assert_eq!(table(values), Err(ValuesError::Undocumented { line: 4, path: "b.c".to_string() }));
    }

    #[test]
    fn the_table_replaces_what_stood_between_the_marks() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = readme(&text, "# So many.\na: 1\n").unwrap();
        assert!(
            once.contains("| `a` | `1` | So many. |\n<!-- end") && !once.contains("old") && once.ends_with("after\n")
        );
        assert_eq!(readme(&once, "# So many.\na: 1\n").unwrap(), once);
        assert_eq!(readme("no marks", ""), Err(ValuesError::NoPlace));
    }
}
