//! Windows and the slices that they share. Windows start at `offset + k × slide` and are `size` long; a slice is as long as
//! the greatest common divisor of the two, so that every window is a whole number of slices. A slice is named by its end.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use weir_engine::{MAX_WATERMARK, MIN_WATERMARK, OperatorError, Timestamp};

use crate::rows::column::as_i64;
use crate::spec::WindowShape;

/// Timestamps further from the epoch than this (some 36 million years) are refused, so that nothing overflows.
const MAX_TIME: i64 = 1 << 60;

/// How time is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    size: i64,
    slide: i64,
    offset: i64,
    step: i64,
}

impl Slices {
    /// Of a shape that was checked.
    pub fn new(shape: WindowShape) -> Self {
        let (mut a, mut b) = (shape.size, shape.slide);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self { size: shape.size, slide: shape.slide, offset: shape.offset.rem_euclid(shape.slide), step: a }
    }

    /// A window is one slice, and a slice in one window.
    pub fn is_tumbling(&self) -> bool {
        self.step == self.size
    }

    pub fn size(&self) -> i64 {
        self.size
    }

    /// The end of the slice that holds this time.
    pub fn slice_end(&self, time: Timestamp) -> Timestamp {
        (time - self.offset).div_euclid(self.step) * self.step + self.step + self.offset
    }

    /// The end of each time's slice. Neighbours mostly share theirs.
    pub fn ends(&self, times: &[Timestamp]) -> Vec<Timestamp> {
        let (mut start, mut end) = (i64::MAX, i64::MIN);
        let find = |&t: &Timestamp| {
            if t < start || t >= end {
                end = self.slice_end(t);
                start = self.slice_start(end);
            }
            end
        };
        times.iter().map(find).collect()
    }

    /// The start of a slice.
    pub fn slice_start(&self, end: Timestamp) -> Timestamp {
        end - self.step
    }

    /// The end of the first window that holds the slice.
    pub fn first_window(&self, slice_end: Timestamp) -> Timestamp {
        let base = self.offset + self.size;
        base - (base - slice_end).div_euclid(self.slide) * self.slide
    }

    /// The end of the last window that holds the slice.
    pub fn last_window(&self, slice_end: Timestamp) -> Timestamp {
        let start = slice_end - self.step;
        (start - self.offset).div_euclid(self.slide) * self.slide + self.offset + self.size
    }

    /// The end of the first window that holds the slice and ends after `fired`.
    pub fn next_window(&self, slice_end: Timestamp, fired: Timestamp) -> Option<Timestamp> {
        if fired >= MAX_TIME {
            return None;
        }
        let first = self.first_window(slice_end);
        let next = if fired < first { first } else { self.first_window(fired + 1) };
        (next <= self.last_window(slice_end)).then_some(next)
    }

    /// The end of the last window that a watermark closes: one that ends at e is closed at e − 1.
    pub fn closed_by(&self, watermark: Timestamp) -> Timestamp {
        if watermark == MIN_WATERMARK || watermark >= MAX_TIME || watermark <= -MAX_TIME {
            return if watermark > 0 { MAX_WATERMARK } else { MIN_WATERMARK };
        }
        let base = self.offset + self.size;
        base + (watermark + 1 - base).div_euclid(self.slide) * self.slide
    }

    /// Whether the slice belongs to the window.
    pub fn holds(&self, window_end: Timestamp, slice_end: Timestamp) -> bool {
        slice_end <= window_end && slice_end > window_end - self.size
    }

    /// The ends of all windows that hold this time, earliest first.
    pub fn windows(&self, time: Timestamp) -> impl Iterator<Item = Timestamp> + use<> {
        let slice = self.slice_end(time);
        let (first, last, slide) = (self.first_window(slice), self.last_window(slice), self.slide);
        (0..=(last - first) / slide).map(move |i| first + i * slide)
    }
}

/// A time column in milliseconds. A row without a time cannot be placed and is an error.
pub fn times(column: &ArrayRef, name: &str) -> Result<ScalarBuffer<i64>, OperatorError> {
    if column.null_count() > 0 {
        return Err(OperatorError::bad_input(format!(
            "the time column `{name}` is null in a row: filter such rows out, or give them a time"
        )));
    }
    let values = as_i64(column)?;
    let values: ScalarBuffer<i64> = match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => values.iter().map(|v| v.saturating_mul(1000)).collect(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => values.iter().map(|v| v.div_euclid(1000)).collect(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => values.iter().map(|v| v.div_euclid(1_000_000)).collect(),
        _ => values,
    };
    if values.iter().any(|v| !(-MAX_TIME..MAX_TIME).contains(v)) {
        return Err(OperatorError::bad_input(format!("the time column `{name}` holds a time out of range")));
    }
    Ok(values)
}

/// The slice ends that stand in a column of partial results.
pub fn slice_ends(column: &ArrayRef) -> ScalarBuffer<i64> {
    column.as_primitive::<Int64Type>().values().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive_windows(shape: WindowShape, t: i64) -> Vec<i64> {
        let mut ends: Vec<i64> = (-200..200)
            .map(|k| shape.offset + k * shape.slide)
            .filter(|start| (*start..*start + shape.size).contains(&t))
            .map(|start| start + shape.size)
            .collect();
        ends.sort_unstable();
        ends
    }

    #[test]
    fn slices_and_windows_agree_with_the_definition() {
        let shapes = [
            WindowShape::tumble(10),
            WindowShape::tumble(10).with_offset(3),
            WindowShape::tumble(10).with_offset(-3),
            WindowShape::hop(2, 10),
            WindowShape::hop(4, 10),
            WindowShape::hop(3, 7).with_offset(1),
            WindowShape::hop(6, 9).with_offset(-5),
        ];
        for shape in shapes {
            let s = Slices::new(shape);
            for t in -60..60 {
                let windows = naive_windows(shape, t);
                assert_eq!(s.windows(t).collect::<Vec<_>>(), windows, "{shape:?} at {t}");
                let slice = s.slice_end(t);
                assert!(s.slice_start(slice) <= t && t < slice);
                assert_eq!(s.first_window(slice), windows[0]);
                assert_eq!(s.last_window(slice), *windows.last().unwrap());
                assert!(windows.iter().all(|w| s.holds(*w, slice)));
                for fired in -80..80 {
                    assert_eq!(s.next_window(slice, fired), windows.iter().copied().find(|w| *w > fired));
                }
                let closed = s.closed_by(t);
                assert!(closed - 1 <= t && closed + shape.slide - 1 > t, "{shape:?} {closed} at {t}");
                assert!(naive_windows(shape, closed - 1).contains(&closed));
            }
            assert_eq!(s.next_window(s.slice_end(5), MIN_WATERMARK), naive_windows(shape, 5).first().copied());
            assert_eq!(s.closed_by(MIN_WATERMARK), MIN_WATERMARK);
            assert_eq!(s.closed_by(MAX_WATERMARK), MAX_WATERMARK);
        }
    }
}
