//! A record of CSV to its fields. A field is quoted if it starts with a quote; then it ends at the next one that is not doubled, and
//! only spaces may stand between that and the delimiter. Elsewhere a quote is a character like others.

use memchr::{memchr, memmem};

use super::records::QUOTE;

/// Where a field of a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    start: usize,
    end: usize,
    /// It stands in quotes.
    pub(super) quoted: bool,
    /// Quotes in it are doubled.
    doubled: bool,
}

impl Field {
    /// There is nothing of it, not even quotes.
    pub(super) const fn is_nothing(&self) -> bool {
        self.start == self.end && !self.quoted
    }

    /// Its text; `room` is for one that has to be made.
    pub(super) fn text<'a>(self, record: &'a str, room: &'a mut String) -> &'a str {
        let text = record.get(self.start..self.end).unwrap_or_default();
        if !self.doubled {
            return text;
        }
        room.clear();
        let mut rest = text;
        while let Some(at) = memmem::find(rest.as_bytes(), b"\"\"") {
            room.push_str(&rest[..=at]);
            rest = &rest[at + 2..];
        }
        room.push_str(rest);
        room
    }
}

/// Cuts a record, line end included, into its fields.
pub(super) fn split(record: &str, delimiter: u8, fields: &mut Vec<Field>) -> Result<(), String> {
    fields.clear();
    let bytes = record.strip_suffix('\n').unwrap_or(record).as_bytes();
    let line = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let mut at = 0;
    loop {
        let (field, next) = match line.get(at) {
            Some(&QUOTE) => quoted(line, at + 1, delimiter)?,
            _ => {
                let end = memchr(delimiter, &line[at..]).map_or(line.len(), |end| at + end);
                (Field { start: at, end, quoted: false, doubled: false }, end)
            }
        };
        fields.push(field);
        if next >= line.len() {
            return Ok(());
        }
        at = next + 1;
    }
}

/// From behind the opening quote; says where the delimiter behind the closing one stands.
fn quoted(line: &[u8], start: usize, delimiter: u8) -> Result<(Field, usize), String> {
    let mut at = start;
    let mut doubled = false;
    loop {
        let end = at + memchr(QUOTE, &line[at..]).ok_or("a quote is not closed")?;
        if line.get(end + 1) == Some(&QUOTE) {
            doubled = true;
            at = end + 2;
            continue;
        }
        let behind = end + 1;
        let next = line[behind..].iter().position(|&byte| byte == delimiter || byte > b' ');
        let next = next.map_or(line.len(), |next| behind + next);
        if next < line.len() && line[next] != delimiter {
            return Err("there is text behind the closing quote of a field".to_string());
        }
        return Ok((Field { start, end, quoted: true, doubled }, next));
    }
}

/// The fields of a record, for headers.
pub(super) fn names(record: &str, delimiter: u8) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    split(record, delimiter, &mut fields)?;
    let mut room = String::new();
    Ok(fields.into_iter().map(|field| field.text(record, &mut room).to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(record: &str, delimiter: u8) -> Vec<String> {
        names(record, delimiter).unwrap()
    }

    #[test]
    fn a_record_is_cut_at_its_delimiters_and_not_within_quotes() {
        assert_eq!(fields("a,\"b,c\",\"d \"\"e\"\"\"\r\n", b','), ["a", "b,c", "d \"e\""]);
        assert_eq!(fields("a||b\n", b'|'), ["a", "", "b"]);
        assert_eq!(fields("\t\t\n", b'\t'), ["", "", ""]);
        assert_eq!(fields("5\" pipe,\"x\" ,\"two\nlines\"", b','), ["5\" pipe", "x", "two\nlines"]);
        assert_eq!(fields("\n", b','), [""]);
        assert_eq!(fields("\"\"\"\",\"\"\n", b','), ["\"", ""]);
        assert!(names("\"a,b\n", b',').unwrap_err().contains("not closed"));
        assert!(names("\"a\"b,c\n", b',').unwrap_err().contains("behind the closing quote"));
    }
}
