//! Java's regular expressions as those of the `regex` crate: the same letters with the same meaning. What that crate cannot do in
//! linear time (look-around, back references) is refused.

use regex::{Regex, RegexBuilder};

/// What `.` stands for in Java: all but the ends of lines.
const DOT: &str = "[^\\n\\r\\u{85}\\u{2028}\\u{2029}]";

/// Classes of one letter, as they stand within brackets.
const LETTERS: [(char, &str); 4] = [
    ('d', "0-9"),
    ('w', "0-9A-Z_a-z"),
    ('s', " \\t\\n\\x0B\\f\\r"),
    ('h', " \\t\\u{A0}\\u{1680}\\u{180E}\\u{2000}-\\u{200A}\\u{202F}\\u{205F}\\u{3000}"),
];

/// Java's names for classes of ASCII.
const NAMES: [(&str, &str); 13] = [
    ("Lower", "a-z"),
    ("Upper", "A-Z"),
    ("ASCII", "\\x00-\\x7F"),
    ("Alpha", "A-Za-z"),
    ("Digit", "0-9"),
    ("Alnum", "0-9A-Za-z"),
    ("Punct", "!-/:-@\\[-`{-\\~"),
    ("Graph", "!-\\~"),
    ("Print", " -\\~"),
    ("Blank", " \\t"),
    ("Cntrl", "\\x00-\\x1F\\x7F"),
    ("XDigit", "0-9A-Fa-f"),
    ("Space", " \\t\\n\\x0B\\f\\r"),
];

/// Bytes of a compiled pattern that is a constant: the limit of the library.
const MAX_CONSTANT: usize = 10 << 20;

/// Compiles a pattern of Java's; the error is a clause.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    compile_within(pattern, MAX_CONSTANT)
}

/// The same, if it takes so many bytes at most.
pub fn compile_within(pattern: &str, bytes: usize) -> Result<Regex, String> {
    let last_line = |problem: &str| problem.lines().last().unwrap_or_default().trim().to_string();
    let mut builder = RegexBuilder::new(&translated(pattern)?);
    builder.size_limit(bytes).dfa_size_limit(bytes).build().map_err(|problem| last_line(&problem.to_string()))
}

fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    // How many brackets are open: they nest, as in Java.
    let mut depth = 0_usize;
    let dot_is_all = pattern
        .find("(?")
        .is_some_and(|at| pattern[at + 2..].chars().take_while(char::is_ascii_alphabetic).any(|flag| flag == 's'));
    while let Some(ch) = rest.chars().next() {
        let after = &rest[ch.len_utf8()..];
        rest = match ch {
            '\\' => escape(after, depth > 0, &mut out)?,
            '[' => {
                out.push('[');
                let (after, negated) = match after.strip_prefix('^') {
                    Some(after) if depth == 0 || !after.is_empty() => (after, true),
                    _ => (after, false),
                };
                if negated {
                    out.push('^');
                }
                depth += 1;
                // A bracket that comes first stands for itself, and there is no [:class:] in Java.
                match after.chars().next() {
                    Some(first @ (']' | ':')) => {
                        out.push('\\');
                        out.push(first);
                        &after[1..]
                    }
                    _ => after,
                }
            }
            ']' if depth > 0 => {
                depth -= 1;
                out.push(']');
                after
            }
            '~' if depth > 0 => {
                out.push_str("\\~");
                after
            }
            '.' if depth == 0 && !dot_is_all => {
                out.push_str(DOT);
                after
            }
            _ => {
                out.push(ch);
                after
            }
        };
    }
    Ok(out)
}

/// A class with brackets of its own, unless it stands within others.
fn push_class(out: &mut String, sign: &str, class: &str, bare: bool) {
    if bare {
        out.push_str(class);
        return;
    }
    out.push('[');
    out.push_str(sign);
    out.push_str(class);
    out.push(']');
}

/// What follows a backslash; gives what follows that.
fn escape<'p>(rest: &'p str, in_class: bool, out: &mut String) -> Result<&'p str, String> {
    let Some(ch) = rest.chars().next() else { return Err("a backslash at the end escapes nothing".to_string()) };
    let after = &rest[ch.len_utf8()..];
    if let Some((_, class)) = LETTERS.iter().find(|(letter, _)| *letter == ch) {
        push_class(out, "", class, in_class);
        return Ok(after);
    }
    if let Some((_, class)) = LETTERS.iter().find(|(letter, _)| letter.to_ascii_uppercase() == ch) {
        push_class(out, "^", class, false);
        return Ok(after);
    }
    match ch {
        'Q' => {
            let (literal, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(literal));
            Ok(after)
        }
        'p' | 'P' => Ok(property(ch, after, in_class, out)),
        'u' => match after.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            Some(digits) => {
                out.push_str("\\u{");
                out.push_str(digits);
                out.push('}');
                Ok(&after[4..])
            }
            None => Err("four hexadecimal digits are expected after \\u".to_string()),
        },
        'R' => {
            out.push_str("(?:\\r\\n|[\\n\\x0B\\f\\r\\u{85}\\u{2028}\\u{2029}])");
            Ok(after)
        }
        'e' => {
            out.push_str("\\x1B");
            Ok(after)
        }
        '1'..='9' | 'k' => Err("references to a group are not supported".to_string()),
        'A' | 'B' | 'b' | 'z' | 'x' | 't' | 'n' | 'r' | 'f' | 'a' => {
            out.push('\\');
            out.push(ch);
            Ok(after)
        }
        _ if ch.is_ascii_alphanumeric() => Err(format!("\\{ch} is not supported")),
        _ => {
            if in_class && ch.is_ascii_punctuation() {
                out.push('\\');
                out.push(ch);
            } else {
                out.push_str(&regex::escape(&ch.to_string()));
            }
            Ok(after)
        }
    }
}

/// `\p{Name}` or `\pL`.
fn property<'p>(ch: char, rest: &'p str, in_class: bool, out: &mut String) -> &'p str {
    let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
        Some((name, after)) => (name, after),
        None => rest.split_at(rest.chars().next().map_or(0, char::len_utf8)),
    };
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, class)) if ch == 'P' => push_class(out, "^", class, false),
        Some((_, class)) => push_class(out, "", class, in_class),
        None => {
            out.push('\\');
            out.push(ch);
            out.push('{');
            out.push_str(name.strip_prefix("Is").unwrap_or(name));
            out.push('}');
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_mean_what_they_mean_in_java() {
        for (pattern, text, found) in [
            ("\\w+", "äb", Some("b")),
            ("[\\w-]+", "ä-b", Some("-b")),
            ("\\W", "bä", Some("ä")),
            ("\\d", "१1", Some("1")),
            (".", "\r\u{2028}x", Some("x")),
            ("(?s).", "\r", Some("\r")),
            ("[[:alpha:]]+", "x:a", Some(":a")),
            ("[^a]", "ab", Some("b")),
            ("[]a]+", "]a", Some("]a")),
            ("\\Qa.b\\E", "axb a.b", Some("a.b")),
            ("\\u00e4", "ä", Some("ä")),
            ("\\p{Alpha}+", "äab", Some("ab")),
            ("\\p{L}+", "äab", Some("äab")),
            ("\\p{IsAlphabetic}", "ä", Some("ä")),
            ("a\\.b", "a.b", Some("a.b")),
            ("[a\\]]+", "]a", Some("]a")),
            ("\\/", "/", Some("/")),
        ] {
            let regex = compile(pattern).unwrap_or_else(|problem| panic!("{pattern}: {problem}"));
            assert_eq!(regex.find(text).map(|found| found.as_str()), found, "{pattern}");
        }
    }

    #[test]
    fn what_has_no_meaning_here_is_refused() {
        for pattern in ["(a)\\1", "a(?=b)", "(?<!a)b", "\\", "(", "\\G", "\\uzz"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
