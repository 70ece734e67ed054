//! Patterns that stand in a column: compiled value by value, and the last few kept, since neighbouring rows mostly have the same.

use std::collections::HashMap;

use regex::Regex;

use super::java_regex;
use super::pattern::Pattern;

/// Patterns kept of one batch.
const KEPT: usize = 64;

/// Bytes of a compiled regular expression that comes from a column. [`KEPT`] of them fit any worker.
pub const MAX_REGEX: usize = 1 << 20;

type Compile<T> = dyn Fn(&str) -> Option<T>;

/// Compiled patterns by their texts; none where one has no meaning.
pub struct Compiled<T> {
    compile: Box<Compile<T>>,
    kept: HashMap<String, Option<T>>,
}

impl Compiled<Regex> {
    /// Regular expressions.
    pub fn regexes() -> Self {
        Self::by(|text| java_regex::compile_within(text, MAX_REGEX).ok())
    }
}

impl Compiled<Pattern> {
    /// Patterns by which times are read and written.
    pub fn times() -> Self {
        Self::by(|text| Pattern::compile(text).ok())
    }

    /// Patterns by which times are only written.
    pub fn written_times() -> Self {
        Self::by(|text| Pattern::compile_to_write(text).ok())
    }
}

impl<T> Compiled<T> {
    /// Patterns that are compiled so.
    pub fn by(compile: impl Fn(&str) -> Option<T> + 'static) -> Self {
        Self { compile: Box::new(compile), kept: HashMap::new() }
    }

    /// The pattern of this text.
    pub fn get(&mut self, text: &str) -> Option<&T> {
        if !self.kept.contains_key(text) {
            if self.kept.len() == KEPT {
                self.kept.clear();
            }
            self.kept.insert(text.to_string(), (self.compile)(text));
        }
        self.kept.get(text).and_then(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_few_are_kept_and_what_has_no_meaning_is_none() {
        let mut regexes = Compiled::regexes();
        for n in 0..1_000 {
            assert!(regexes.get(&format!("a{n}")).unwrap().is_match(&format!("a{n}")));
        }
        assert!(regexes.kept.len() <= KEPT);
        assert!(regexes.get("(").is_none());
        assert!(regexes.get(r"(\p{L}{100}){100}").is_none(), "too large");
        assert!(Compiled::times().get("yyyy ''''").is_some());
    }
}
