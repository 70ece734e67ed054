//! Cutting a file's bytes into records, so that a position always stands between two of them and every record knows its
//! line. What is in a record is the format's business.

use memchr::{memchr, memchr_iter, memchr2};

/// How the end of a record is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A record is a line; an empty one is none.
    Lines,
    /// A record is a line, also an empty one.
    AllLines,
    /// A record is a line, but a quoted field may have line ends within.
    Csv {
        /// Between two fields.
        delimiter: u8,
    },
}

/// The character that quotes a CSV field.
pub(crate) const QUOTE: u8 = b'"';

/// One record: where it stands, line end included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The line in the file on which it starts, from 1.
    pub(crate) line: u64,
    /// Line ends in it.
    pub(crate) lines: u32,
}

impl Framing {
    /// The end of the record that starts at `start`, behind its line end, and how many line ends it has; none if the bytes
    /// end before it does.
    pub(crate) fn end_of_record(self, bytes: &[u8], start: usize) -> Option<(usize, u32)> {
        let end = start + memchr(b'\n', &bytes[start..])? + 1;
        match self {
            Self::Csv { delimiter } if memchr(QUOTE, &bytes[start..end]).is_some() => {
                end_of_quoted(bytes, start, delimiter)
            }
            _ => Some((end, 1)),
        }
    }
}

/// A quote opens a quoted field only where the field starts; elsewhere it is a character like others. Looks from quote to quote and from
/// line end to line end: a field may be long, and is looked at again with each piece that is read of it.
fn end_of_quoted(bytes: &[u8], start: usize, delimiter: u8) -> Option<(usize, u32)> {
    let (mut at, mut lines) = (start, 0);
    let mut opens = true;
    loop {
        // Outside of quotes.
        let next = at + memchr2(QUOTE, b'\n', &bytes[at..])?;
        if bytes[next] == b'\n' {
            return Some((next + 1, lines + 1));
        }
        let is_first = if next == at { opens } else { bytes[next - 1] == delimiter };
        at = next + 1;
        opens = false;
        if is_first {
            let end = at + memchr(QUOTE, &bytes[at..])?;
            lines += memchr_iter(b'\n', &bytes[at..end]).count() as u32;
            // A doubled quote closes the field and opens it again.
            (at, opens) = (end + 1, true);
        }
    }
}

impl Framing {
    /// These bytes, line end included, are no record.
    pub(crate) fn is_blank(self, bytes: &[u8]) -> bool {
        bytes.is_empty() || (self != Self::AllLines && without_line_end(bytes).is_empty())
    }
}

/// A line without what ends it.
pub(crate) fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: Framing = Framing::Csv { delimiter: b',' };

    #[test]
    fn a_line_end_within_quotes_does_not_end_a_record() {
        let bytes = b"1,\"a\nb\",2\n3,c,4\n";
        assert_eq!(CSV.end_of_record(bytes, 0), Some((10, 2)));
        assert_eq!(CSV.end_of_record(bytes, 10), Some((16, 1)));
        assert_eq!(Framing::Lines.end_of_record(bytes, 0), Some((5, 1)));
        assert_eq!(CSV.end_of_record(b"1,\"a\nb", 0), None);
    }

    /// A character at a time, as it is said.
    fn plainly(bytes: &[u8], delimiter: u8) -> Option<(usize, u32)> {
        let (mut lines, mut quoted, mut opens) = (0, false, true);
        for (i, &byte) in bytes.iter().enumerate() {
            lines += u32::from(byte == b'\n');
            match byte {
                QUOTE if quoted => (quoted, opens) = (false, true),
                _ if quoted => {}
                QUOTE if opens => quoted = true,
                b'\n' => return Some((i + 1, lines)),
                _ => opens = byte == delimiter,
            }
        }
        None
    }

    proptest::proptest! {
        #[test]
        fn records_end_where_a_reading_of_each_character_ends_them(text in "[\",ab\n]{0,24}") {
            proptest::prop_assert_eq!(end_of_quoted(text.as_bytes(), 0, b','), plainly(text.as_bytes(), b','));
        }
    }

    #[test]
    fn a_doubled_quote_and_a_quote_within_a_field_are_characters() {
        let doubled = b"\"say \"\"hi\"\"\nthere\",1\n";
        assert_eq!(CSV.end_of_record(doubled, 0), Some((doubled.len(), 2)));
        let inches = b"5\" pipe,1\n6\" pipe,2\n";
        assert_eq!(CSV.end_of_record(inches, 0), Some((10, 1)));
        assert_eq!(CSV.end_of_record(b"5\"\" pipe,1\n6,2\n", 0), Some((11, 1)));
    }
}
