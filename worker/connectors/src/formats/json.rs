//! A line of JSON to the row of a table: an object whose members are found by name. Numbers are kept as they are written, so that no
//! digit is lost on the way to a decimal or a text.

use super::columns::{Column, Text};

/// Values within values, at most: what is deeper is no data, and would take the thread's stack.
const MOST_NESTED: usize = 500;

/// Appends the object that a line holds as a row. Where it fails the columns may have a part of it.
pub(super) fn push_row(line: &str, row: usize, columns: &mut [Column]) -> Result<(), String> {
    let mut parser = Parser { text: line, at: 0, nested: 0, room: String::new() };
    parser.space();
    parser.object(row, columns)?;
    parser.space();
    match parser.peek() {
        None => Ok(()),
        Some(_) => Err(parser.unexpected("the end of the line")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    nested: usize,
    /// For texts with escapes.
    room: String,
}

/// Where a string stands, without its quotes.
#[derive(Clone, Copy)]
struct Quoted<'a> {
    text: &'a str,
    escaped: bool,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.text[self.at..].chars().next() {
            None | Some('\n' | '\r') => format!("the line ends where {wanted} should be"),
            Some(found) => format!("'{found}' stands where {wanted} should be, at byte {}", self.at + 1),
        }
    }

    fn take(&mut self, byte: u8, wanted: &str) -> Result<(), String> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected(wanted))
    }

    /// From one value into those within.
    fn enter(&mut self) -> Result<(), String> {
        self.nested += 1;
        if self.nested > MOST_NESTED {
            return Err(format!("more than {MOST_NESTED} values stand within each other"));
        }
        Ok(())
    }

    /// Behind a value in an object or array: whether another follows.
    fn more(&mut self, close: u8) -> Result<bool, String> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                self.nested -= 1;
                Ok(false)
            }
            _ => Err(self.unexpected(if close == b'}' { "',' or '}'" } else { "',' or ']'" })),
        }
    }

    /// Behind the opening bracket: whether there is anything.
    fn any(&mut self, close: u8) -> bool {
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            self.nested -= 1;
            return false;
        }
        true
    }

    /// An object whose members are the columns' values. A column that comes twice has the last, one that is missing has none.
    fn object(&mut self, row: usize, columns: &mut [Column]) -> Result<(), String> {
        self.take(b'{', "an object")?;
        self.enter()?;
        let mut more = self.any(b'}');
        let mut next = 0;
        while more {
            let name = self.quoted("a name in double quotes")?;
            let column = self.column_of(name, columns, next)?;
            self.space();
            self.take(b':', "':'")?;
            self.space();
            match column {
                None => self.skip()?,
                Some(found) => {
                    let column = &mut columns[found];
                    column.truncate(row);
                    self.value(row, column)?;
                    next = found + 1;
                }
            }
            more = self.more(b'}')?;
        }
        columns.iter_mut().filter(|column| column.len() == row).try_for_each(Column::push_null)
    }

    /// The column of this name; mostly that behind the one before.
    fn column_of(&mut self, name: Quoted<'a>, columns: &[Column], next: usize) -> Result<Option<usize>, String> {
        let name = self.unescaped(name)?;
        let is = |column: &Column| column.field.name() == name;
        if columns.get(next).is_some_and(is) {
            return Ok(Some(next));
        }
        Ok(columns.iter().position(is))
    }

    fn value(&mut self, row: usize, column: &mut Column) -> Result<(), String> {
        match self.peek() {
            Some(b'n') => {
                self.word("null")?;
                column.push_null()
            }
            Some(b'{') if column.is_row() => {
                self.object(row, column.fields())?;
                column.push_row();
                Ok(())
            }
            Some(b'[') if column.elements().is_some() => self.array(column),
            Some(b'{') if column.entries().is_some() => self.map(column),
            Some(b'{' | b'[') => {
                let start = self.at;
                let mut room = std::mem::take(&mut self.room);
                room.clear();
                let mut compact = String::new();
                self.copy(&mut compact, &mut room)?;
                self.room = room;
                if column.is_text() {
                    column.push(Text::Quoted(&compact))
                } else {
                    Err(column.unreadable(&self.text[start..self.at]))
                }
            }
            Some(b'"') => {
                let text = self.quoted("a text")?;
                column.push(Text::Quoted(self.unescaped(text)?))
            }
            Some(b't') => column.push(Text::Word(self.word("true")?)),
            Some(b'f') => column.push(Text::Word(self.word("false")?)),
            _ => column.push(Text::Number(self.number()?)),
        }
    }

    /// An array's elements, and the array.
    fn array(&mut self, column: &mut Column) -> Result<(), String> {
        self.take(b'[', "an array")?;
        self.enter()?;
        let mut more = self.any(b']');
        while more {
            if let Some(elements) = column.elements() {
                self.value(elements.len(), elements)?;
            }
            more = self.more(b']')?;
        }
        column.push_all()
    }

    /// A map's entries, which are an object's members, and the map.
    fn map(&mut self, column: &mut Column) -> Result<(), String> {
        self.take(b'{', "an object")?;
        self.enter()?;
        let mut more = self.any(b'}');
        while more {
            let name = self.quoted("a name in double quotes")?;
            if let Some((keys, _)) = column.entries() {
                keys.push(Text::Quoted(self.unescaped(name)?))?;
            }
            self.space();
            self.take(b':', "':'")?;
            self.space();
            if let Some((_, values)) = column.entries() {
                self.value(values.len(), values)?;
            }
            more = self.more(b'}')?;
        }
        column.push_all()
    }

    fn word(&mut self, word: &'static str) -> Result<&'static str, String> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(word);
        }
        Err(self.unexpected("a value"))
    }

    fn digits(&mut self) -> Result<(), String> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<&'a str, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.unexpected("a value")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        match self.peek() {
            Some(byte) if byte.is_ascii_alphanumeric() || byte == b'.' => Err(self.unexpected("the end of a number")),
            _ => Ok(&self.text[start..self.at]),
        }
    }

    fn quoted(&mut self, wanted: &str) -> Result<Quoted<'a>, String> {
        self.take(b'"', wanted)?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
                None => return Err("the line ends within a text".to_string()),
            }
        }
        let text = self.text.get(start..self.at).ok_or("an escape is not one of JSON's")?;
        self.at += 1;
        Ok(Quoted { text, escaped })
    }

    fn unescaped<'s>(&'s mut self, quoted: Quoted<'a>) -> Result<&'s str, String>
    where
        'a: 's,
    {
        if !quoted.escaped {
            return Ok(quoted.text);
        }
        self.room.clear();
        unescape(quoted.text, &mut self.room)?;
        Ok(&self.room)
    }

    /// Passes over a value that nobody wants; it must be one all the same.
    fn skip(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(open @ (b'{' | b'[')) => self.within(open, |parser, _| parser.skip(), &mut |_| ()),
            Some(b'"') => {
                let text = self.quoted("a text")?;
                self.unescaped(text).map(drop)
            }
            _ => self.scalar().map(drop),
        }
    }

    fn scalar(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.number(),
        }
    }

    /// An object or array: each value by `value`, and what stands between them by `between`.
    fn within(
        &mut self,
        open: u8,
        mut value: impl FnMut(&mut Self, &mut dyn FnMut(&str)) -> Result<(), String>,
        between: &mut dyn FnMut(&str),
    ) -> Result<(), String> {
        let (close, ends) = if open == b'{' { (b'}', ["{", "}"]) } else { (b']', ["[", "]"]) };
        self.at += 1;
        self.enter()?;
        between(ends[0]);
        let mut more = self.any(close);
        while more {
            if open == b'{' {
                let name = self.quoted("a name in double quotes")?;
                let mut text = String::new();
                quote(self.unescaped(name)?, &mut text);
                between(&text);
                between(":");
                self.space();
                self.take(b':', "':'")?;
                self.space();
            }
            value(self, between)?;
            more = self.more(close)?;
            if more {
                between(",");
            }
        }
        between(ends[1]);
        Ok(())
    }

    /// Copies a value without the spaces between what it is made of.
    fn copy(&mut self, to: &mut String, room: &mut String) -> Result<(), String> {
        self.copy_by(&mut |text| to.push_str(text), room)
    }

    fn copy_by(&mut self, write: &mut dyn FnMut(&str), room: &mut String) -> Result<(), String> {
        match self.peek() {
            Some(open @ (b'{' | b'[')) => self.within(open, |parser, write| parser.copy_by(write, room), write),
            Some(b'"') => {
                let text = self.quoted("a text")?;
                room.clear();
                quote(self.unescaped(text)?, room);
                write(room);
                Ok(())
            }
            _ => {
                write(self.scalar()?);
                Ok(())
            }
        }
    }
}

fn unescape(text: &str, to: &mut String) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        to.push_str(&rest[..at]);
        let mut chars = rest[at + 1..].chars();
        let plain = match chars.next() {
            Some(same @ ('"' | '\\' | '/')) => same,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let (found, behind) = escaped_char(chars.as_str())?;
                to.push(found);
                rest = behind;
                continue;
            }
            _ => return Err("an escape is not one of JSON's".to_string()),
        };
        to.push(plain);
        rest = chars.as_str();
    }
    to.push_str(rest);
    Ok(())
}

/// What stands behind `\u`: one code unit, or two for a character beyond the first 65,536.
fn escaped_char(text: &str) -> Result<(char, &str), String> {
    let unit = |text: &str| {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()).ok_or("an escape is not one of JSON's")
    };
    let first = unit(text)?;
    let rest = &text[4..];
    if let Some(found) = char::from_u32(u32::from(first)) {
        return Ok((found, rest));
    }
    if let Some(low) = rest.strip_prefix("\\u") {
        let both = char::decode_utf16([first, unit(low)?]).next();
        if let Some(Ok(found)) = both {
            return Ok((found, &low[4..]));
        }
    }
    // Half a character is none; Java writes a question mark in its place.
    Ok(('?', rest))
}

/// Appends a text in quotes, with the escapes that JSON asks for and no others.
pub(super) fn quote(text: &str, to: &mut String) {
    use std::fmt::Write as _;
    to.push('"');
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0C => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        to.push_str(&text[start..at]);
        if escape.is_empty() {
            let _ = write!(to, "\\u{byte:04X}");
        } else {
            to.push_str(escape);
        }
        start = at + 1;
    }
    to.push_str(&text[start..]);
    to.push('"');
}
