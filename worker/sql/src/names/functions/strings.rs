//! Functions of texts with Flink's meaning at the edges: positions count characters from 1, a negative one counts from the end.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, StringArray, StringBuilder};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::{Result, ScalarValue};

use super::kernel::{Call, Kernel, Texts};

/// All kernels of this module.
pub static KERNELS: [Kernel; 23] = [
    text(
        "ascii",
        "a text",
        INT,
        |types| all_texts(types, 1, 1),
        |call| {
            let texts = call.texts(0)?;
            let first = |text: &str| text.as_bytes().first().map_or(0, |byte| i32::from(*byte as i8));
            Ok(Arc::new((0..call.rows).map(|row| texts.get(row).map(first)).collect::<Int32Array>()))
        },
    ),
    Kernel {
        name: "char_length",
        aliases: &["character_length"],
        usage: "a text",
        takes: |types| all_texts(types, 1, 1),
        gives: |_, _| DataType::Int32,
        run: |call| {
            let texts = call.texts(0)?;
            let length = |text: &str| text.chars().count() as i32;
            match texts.array() {
                Some(array) if texts.are_ascii() => {
                    let lengths: Vec<i32> = array.offsets().lengths().map(|length| length as i32).collect();
                    Ok(Arc::new(Int32Array::new(lengths.into(), array.nulls().cloned())))
                }
                _ => Ok(Arc::new((0..call.rows).map(|row| texts.get(row).map(length)).collect::<Int32Array>())),
            }
        },
    },
    text(
        "upper",
        "a text",
        TEXT,
        |types| all_texts(types, 1, 1),
        |call| cased(call, <[u8]>::make_ascii_uppercase, str::to_uppercase),
    ),
    text(
        "lower",
        "a text",
        TEXT,
        |types| all_texts(types, 1, 1),
        |call| cased(call, <[u8]>::make_ascii_lowercase, str::to_lowercase),
    ),
    text("initcap", "a text", TEXT, |types| all_texts(types, 1, 1), |call| each(call, capitalised)),
    text(
        "reverse",
        "a text",
        TEXT,
        |types| all_texts(types, 1, 1),
        |call| each(call, |text| text.chars().rev().collect()),
    ),
    text(
        "chr",
        "a whole number",
        TEXT,
        |types| whole(types).then(|| vec![DataType::Int64]),
        |call| {
            let numbers = call.numbers::<Int64Type>(0)?;
            // Latin-1, of which only the last eight bits count.
            let letter = |number: i64| {
                if number < 0 { String::new() } else { char::from((number & 0xff) as u8).to_string() }
            };
            Ok(Arc::new((0..call.rows).map(|row| numbers.get(row).map(letter)).collect::<StringArray>()))
        },
    ),
    Kernel {
        name: "substring",
        aliases: &["substr"],
        usage: "a text, a position and perhaps a length",
        takes: |types| match types {
            [text, rest @ ..] if is_text(text) && matches!(rest.len(), 1 | 2) && rest.iter().all(is_int) => {
                let mut types = vec![DataType::Int64; types.len()];
                types[0] = DataType::Utf8;
                Some(types)
            }
            _ => None,
        },
        gives: |_, _| DataType::Utf8,
        run: substring,
    },
    text("left", "a text and a whole number", TEXT, text_and_int, |call| {
        sliced(call, |text, length| &text[..end_of(text, length, false)])
    }),
    text("right", "a text and a whole number", TEXT, text_and_int, |call| {
        sliced(call, |text, length| {
            if length == 0 { "" } else { text.char_indices().nth_back(length - 1).map_or(text, |(at, _)| &text[at..]) }
        })
    }),
    text("lpad", "a text, a length and a text to fill with", TEXT, padding, |call| padded(call, true)),
    text("rpad", "a text, a length and a text to fill with", TEXT, padding, |call| padded(call, false)),
    text("locate", "a text to find, a text and perhaps a position", INT, found_in, |call| located(call, 0, 1)),
    Kernel {
        name: "position",
        aliases: &[],
        usage: "a text to find and a text",
        takes: found_in,
        gives: |_, _| DataType::Int32,
        run: |call| located(call, 0, 1),
    },
    text("instr", "a text and a text to find", INT, |types| all_texts(types, 2, 2), |call| located(call, 1, 0)),
    text(
        "startswith",
        "two texts",
        BOOLEAN,
        |types| all_texts(types, 2, 2),
        |call| holds(call, |text, part| text.starts_with(part)),
    ),
    text(
        "endswith",
        "two texts",
        BOOLEAN,
        |types| all_texts(types, 2, 2),
        |call| holds(call, |text, part| text.ends_with(part)),
    ),
    text(
        "replace",
        "three texts",
        TEXT,
        |types| all_texts(types, 3, 3),
        |call| {
            let (texts, from, to) = (call.texts(0)?, call.texts(1)?, call.texts(2)?);
            let mut out = StringBuilder::with_capacity(call.rows, texts.bytes().len());
            for row in 0..call.rows {
                match (texts.get(row), from.get(row), to.get(row)) {
                    (Some(text), Some(""), Some(to)) => out.append_value(text.replace("", to)),
                    (Some(text), Some(from), Some(to)) => {
                        let mut copied = 0;
                        for (at, _) in text.match_indices(from) {
                            // Writing into a builder cannot fail.
                            let _ = out.write_str(&text[copied..at]).and_then(|()| out.write_str(to));
                            copied = at + from.len();
                        }
                        out.append_value(&text[copied..]);
                    }
                    _ => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        },
    ),
    text("translate", "three texts", TEXT, |types| all_texts(types, 3, 3), translate),
    text(
        "btrim",
        "one or two texts",
        TEXT,
        |types| all_texts(types, 1, 2),
        |call| trimmed(call, |text, set| text.trim_matches(set)),
    ),
    text(
        "trim",
        "one or two texts",
        TEXT,
        |types| all_texts(types, 1, 2),
        |call| trimmed(call, |text, set| text.trim_matches(set)),
    ),
    text(
        "ltrim",
        "one or two texts",
        TEXT,
        |types| all_texts(types, 1, 2),
        |call| trimmed(call, |text, set| text.trim_start_matches(set)),
    ),
    text(
        "rtrim",
        "one or two texts",
        TEXT,
        |types| all_texts(types, 1, 2),
        |call| trimmed(call, |text, set| text.trim_end_matches(set)),
    ),
];

type Takes = fn(&[DataType]) -> Option<Vec<DataType>>;
type Run = fn(&Call<'_>) -> Result<ArrayRef>;

type Gives = fn(&[DataType], &[Option<&ScalarValue>]) -> DataType;

const TEXT: Gives = |_, _| DataType::Utf8;
const INT: Gives = |_, _| DataType::Int32;
const BOOLEAN: Gives = |_, _| DataType::Boolean;

const fn text(name: &'static str, usage: &'static str, gives: Gives, takes: Takes, run: Run) -> Kernel {
    Kernel { name, aliases: &[], usage, takes, gives, run }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Null)
}

fn is_int(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Null)
}

fn whole(types: &[DataType]) -> bool {
    types.len() == 1 && is_int(&types[0])
}

fn all_texts(types: &[DataType], least: usize, most: usize) -> Option<Vec<DataType>> {
    let fits = (least..=most).contains(&types.len()) && types.iter().all(is_text);
    fits.then(|| vec![DataType::Utf8; types.len()])
}

fn text_and_int(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [text, number] if is_text(text) && is_int(number) => Some(vec![DataType::Utf8, DataType::Int64]),
        _ => None,
    }
}

fn padding(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [text, length, fill] if is_text(text) && is_int(length) && is_text(fill) => {
            Some(vec![DataType::Utf8, DataType::Int64, DataType::Utf8])
        }
        _ => None,
    }
}

fn found_in(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [part, text] if is_text(part) && is_text(text) => Some(vec![DataType::Utf8; 2]),
        [part, text, from] if is_text(part) && is_text(text) && is_int(from) => {
            Some(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
        }
        _ => None,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a kernel gives a result")]
fn build<T: AsRef<str>>(call: &Call<'_>, of: impl Fn(usize) -> Option<T>) -> Result<ArrayRef> {
    let mut out = StringBuilder::with_capacity(call.rows, call.rows * 16);
    for row in 0..call.rows {
        out.append_option(of(row));
    }
    Ok(Arc::new(out.finish()))
}

fn each(call: &Call<'_>, of: impl Fn(&str) -> String) -> Result<ArrayRef> {
    let texts = call.texts(0)?;
    build(call, |row| texts.get(row).map(&of))
}

/// Texts in other letters: those of ASCII all at once.
fn cased(call: &Call<'_>, of_ascii: fn(&mut [u8]), of: fn(&str) -> String) -> Result<ArrayRef> {
    let texts = call.texts(0)?;
    match texts.array() {
        Some(array) if texts.are_ascii() => {
            let mut bytes = texts.bytes().to_vec();
            of_ascii(&mut bytes);
            let offsets = OffsetBuffer::from_lengths(array.offsets().lengths());
            Ok(Arc::new(StringArray::try_new(offsets, bytes.into(), array.nulls().cloned())?))
        }
        _ => each(call, of),
    }
}

fn holds(call: &Call<'_>, of: impl Fn(&str, &str) -> bool) -> Result<ArrayRef> {
    let (texts, parts) = (call.texts(0)?, call.texts(1)?);
    let values: BooleanArray =
        (0..call.rows).map(|row| texts.get(row).zip(parts.get(row)).map(|(text, part)| of(text, part))).collect();
    Ok(Arc::new(values))
}

/// A letter of ASCII begins a word behind everything that is neither a letter nor a digit of ASCII; others stay as they are.
fn capitalised(text: &str) -> String {
    let mut begins = true;
    text.chars()
        .map(|ch| {
            let written = if begins { ch.to_ascii_uppercase() } else { ch.to_ascii_lowercase() };
            begins = !ch.is_ascii_alphanumeric();
            written
        })
        .collect()
}

/// Where so many characters end.
fn end_of(text: &str, length: usize, ascii: bool) -> usize {
    if length >= text.len() {
        return text.len();
    }
    if ascii {
        return length;
    }
    text.char_indices().nth(length).map_or(text.len(), |(at, _)| at)
}

fn sliced(call: &Call<'_>, of: impl for<'t> Fn(&'t str, usize) -> &'t str) -> Result<ArrayRef> {
    let (texts, lengths) = (call.texts(0)?, call.numbers::<Int64Type>(1)?);
    build(call, |row| {
        let (text, length) = texts.get(row).zip(lengths.get(row))?;
        Some(of(text, usize::try_from(length).unwrap_or(0)))
    })
}

fn substring(call: &Call<'_>) -> Result<ArrayRef> {
    let (texts, starts) = (call.texts(0)?, call.numbers::<Int64Type>(1)?);
    let lengths = if call.arguments() == 3 { Some(call.numbers::<Int64Type>(2)?) } else { None };
    let ascii = texts.are_ascii();
    build(call, |row| {
        let (text, start) = texts.get(row).zip(starts.get(row))?;
        let length = match &lengths {
            None => usize::MAX,
            // A negative length gives NULL.
            Some(lengths) => usize::try_from(lengths.get(row)?).ok()?,
        };
        let from = match start {
            1.. => Some(end_of(text, usize::try_from(start - 1).unwrap_or(usize::MAX), ascii)),
            0 => Some(0),
            // Before the start of the text is nothing.
            _ => text
                .char_indices()
                .nth_back(usize::try_from(start.unsigned_abs() - 1).unwrap_or(usize::MAX))
                .map(|(at, _)| at),
        };
        let Some(rest) = from.map(|from| &text[from..]) else { return Some("") };
        Some(&rest[..end_of(rest, length, ascii)])
    })
}

/// Lengths are those of Java's texts, in which a character beyond the first 65,536 counts twice; half of one is a question mark.
fn padded(call: &Call<'_>, left: bool) -> Result<ArrayRef> {
    let (texts, lengths, fills) = (call.texts(0)?, call.numbers::<Int64Type>(1)?, call.texts(2)?);
    build(call, |row| {
        let (text, fill) = texts.get(row).zip(fills.get(row))?;
        let length = usize::try_from(lengths.get(row)?).ok().filter(|_| !fill.is_empty())?;
        let taken: usize = text.chars().map(char::len_utf16).sum();
        let mut out = String::new();
        if taken >= length {
            take_units(text.chars(), length, &mut out);
        } else if left {
            take_units(fill.chars().cycle(), length - taken, &mut out);
            out.push_str(text);
        } else {
            out.push_str(text);
            take_units(fill.chars().cycle(), length - taken, &mut out);
        }
        Some(out)
    })
}

fn take_units(chars: impl Iterator<Item = char>, mut units: usize, out: &mut String) {
    for ch in chars {
        match units.checked_sub(ch.len_utf16()) {
            _ if units == 0 => return,
            Some(left) => {
                out.push(ch);
                units = left;
            }
            None => {
                out.push('?');
                return;
            }
        }
    }
}

fn located(call: &Call<'_>, part: usize, text: usize) -> Result<ArrayRef> {
    let (parts, texts) = (call.texts(part)?, call.texts(text)?);
    let starts = if call.arguments() == 3 { Some(call.numbers::<Int64Type>(2)?) } else { None };
    let values: Int32Array = (0..call.rows)
        .map(|row| {
            let (part, text) = parts.get(row).zip(texts.get(row))?;
            let start = match &starts {
                None => 0,
                Some(starts) => usize::try_from(starts.get(row)?.saturating_sub(1)).unwrap_or(0),
            };
            if part.is_empty() {
                return Some(1);
            }
            let from = end_of(text, start, false);
            let found = text[from..].find(part).map(|at| text[..from + at].chars().count() as i32 + 1);
            Some(found.unwrap_or(0))
        })
        .collect();
    Ok(Arc::new(values))
}

/// Character by character; what has no partner is dropped. A NULL among the characters changes nothing, one among their partners
/// drops them.
fn translate(call: &Call<'_>) -> Result<ArrayRef> {
    let (texts, from, to) = (call.texts(0)?, call.texts(1)?, call.texts(2)?);
    let table = |from: Option<&str>, to: Option<&str>| {
        let mut partners = to.unwrap_or_default().chars();
        let mut table: HashMap<char, Option<char>> = HashMap::new();
        for ch in from.unwrap_or_default().chars() {
            let partner = partners.next();
            table.entry(ch).or_insert(partner);
        }
        table
    };
    let constant = from.constant().zip(to.constant()).map(|(from, to)| table(Some(from), Some(to)));
    build(call, |row| {
        let text = texts.get(row)?;
        let made;
        let table = match &constant {
            Some(table) => table,
            None => {
                made = table(from.get(row), to.get(row));
                &made
            }
        };
        Some(text.chars().filter_map(|ch| table.get(&ch).copied().unwrap_or(Some(ch))).collect::<String>())
    })
}

/// Of blanks, or of the characters of a set.
fn trimmed(call: &Call<'_>, of: impl for<'t> Fn(&'t str, &[char]) -> &'t str) -> Result<ArrayRef> {
    let texts = call.texts(0)?;
    let sets: Option<Texts<'_>> = if call.arguments() == 2 { Some(call.texts(1)?) } else { None };
    build(call, |row| {
        let text = texts.get(row)?;
        match sets {
            None => Some(of(text, &[' '])),
            Some(sets) => Some(of(text, &sets.get(row)?.chars().collect::<Vec<char>>())),
        }
    })
}
