//! FLOAT and DOUBLE as Java prints, reads and compares them.

use std::fmt::Write as _;

/// Java writes numbers from here …
const PLAIN_FROM: f64 = 1e-3;
/// … to here without an exponent.
const PLAIN_TO: f64 = 1e7;

/// Writes a DOUBLE: the shortest digits that give it back, as Java since 19.
pub fn write_double(value: f64, out: &mut String) {
    write(value, value.abs(), out);
}

/// Writes a FLOAT in the same way.
pub fn write_float(value: f32, out: &mut String) {
    write(value, f64::from(value.abs()), out);
}

fn write(value: impl std::fmt::Debug + std::fmt::LowerExp, magnitude: f64, out: &mut String) {
    // Writing into a string cannot fail.
    let _ = if magnitude.is_nan() {
        out.write_str("NaN")
    } else if magnitude.is_infinite() {
        let text = format!("{value:?}");
        out.write_str(if text.starts_with('-') { "-Infinity" } else { "Infinity" })
    } else if magnitude == 0.0 || (PLAIN_FROM..PLAIN_TO).contains(&magnitude) {
        write!(out, "{value:?}")
    } else {
        let shortest = format!("{value:e}");
        // Of two digits where one would do, those that are nearest.
        let text = if shortest.contains('.') { shortest } else { format!("{value:.1e}") };
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let point = if mantissa.contains('.') { "" } else { ".0" };
        write!(out, "{mantissa}{point}E{exponent}")
    };
}

/// Reads what Java's `Double.parseDouble` reads of decimal numbers: blanks around it, a sign, digits, a point, an exponent and one
/// of the letters `d` and `f` behind it; `NaN` and `Infinity`.
pub fn parse(text: &str) -> Option<&str> {
    let text = text.trim_matches(|ch: char| ch <= ' ');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, "NaN" | "Infinity") {
        return Some(text);
    }
    let number = unsigned.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(unsigned);
    let is_number = number.bytes().next().is_some_and(|first| first.is_ascii_digit() || first == b'.')
        && number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    is_number.then(|| &text[..text.len() - (unsigned.len() - number.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_java_writes_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (100.0, "100.0"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (12_345_678.9, "1.23456789E7"),
            (0.001, "0.001"),
            (9.99e-4, "9.99E-4"),
            (-1.5e-7, "-1.5E-7"),
            (5e-324, "4.9E-324"),
            (1e23, "1.0E23"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            let mut out = String::new();
            write_double(value, &mut out);
            assert_eq!(out, text);
        }
        let mut out = String::new();
        write_float(16_777_216.0, &mut out);
        write_float(0.1, &mut out);
        assert_eq!(out, "1.6777216E70.1");
    }

    #[test]
    fn what_java_does_not_read_is_no_number() {
        for text in ["1.5", " 1.5 ", "+1.5", "1e2", ".5", "5.", "1.5d", "NaN", "-Infinity"] {
            assert!(parse(text).is_some_and(|text| text.parse::<f64>().is_ok()), "{text}");
        }
        for text in ["", "inf", "nan", "infinity", "abc", "1,5", "1_0", "--1", ".", "e5"] {
            assert!(parse(text).is_none_or(|text| text.parse::<f64>().is_err()), "{text}");
        }
    }
}
