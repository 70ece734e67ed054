//! Numbers for people.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::View;

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `850/s`, `12.3k/s`, `1.20M/s`.
pub fn rate(a_second: f64) -> String {
    match a_second {
        r if r >= 1e6 => format!("{:.2}M/s", r / 1e6),
        r if r >= 1e4 => format!("{:.1}k/s", r / 1e3),
        r => format!("{r:.0}/s"),
    }
}

/// `180 ms`, `2.4 s`, `3m05s`.
pub fn span(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        ms => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// Event time in UTC, to the second.
pub fn instant(millis: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(millis)
        .map_or_else(|| format!("{millis} ms"), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}

/// The event time reached, or what stands in its place.
pub fn watermark(view: &View) -> String {
    match (view.input_ended, view.watermark_ms) {
        (true, _) => "end of input".to_string(),
        (false, Some(ms)) => instant(ms),
        (false, None) => "none".to_string(),
    }
}

/// Rows that were not counted: the late ones, and the skipped ones where there are any.
pub fn left_out(view: &View, between: &str) -> String {
    let late = format!("late {}", count(view.late_rows));
    match view.skipped_rows {
        0 => late,
        skipped => format!("{late}{between}skipped {}", count(skipped)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!((count(7), count(1_234), count(1_234_567)), ("7".into(), "1,234".into(), "1,234,567".into()));
        assert_eq!((bytes(512), bytes(1_572_864)), ("512 B".into(), "1.5 MiB".into()));
        assert_eq!((rate(850.4), rate(12_345.0), rate(1.2e6)), ("850/s".into(), "12.3k/s".into(), "1.20M/s".into()));
        assert_eq!(
            (span(Duration::from_millis(412)), span(Duration::from_secs(185))),
            ("412 ms".into(), "3m05s".into())
        );
        assert_eq!(instant(1_357_000_000_000), "2013-01-01 00:26:40");
    }
}
