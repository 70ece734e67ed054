//! Windows and the slices that they share. Windows start at `offset + k × slide` and are `size` long; a slice is as long as
//! the greatest common divisor of the two, so that every window is a whole number of slices. A slice is named by its end.
//! Those of CUMULATE are as long as its step, and belong to all windows of the same start from theirs on. Windows that rows have
//! already are a slice each.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use weir_engine::{MAX_WATERMARK, MIN_WATERMARK, OperatorError, Timestamp};

use crate::rows::column::as_i64;
use crate::spec::{WindowKind, WindowShape};

/// Timestamps further from the epoch than this (some 36 million years) are refused, so that nothing overflows.
const MAX_TIME: i64 = 1 << 60;

/// How time is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    kind: WindowKind,
    attached: bool,
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
        let WindowShape { kind, size, slide, offset, attached } = shape;
        let period = if kind == WindowKind::Cumulate { size } else { slide };
        Self { kind, attached: attached.is_some(), size, slide, offset: offset.rem_euclid(period), step: a }
    }

    /// A window is one slice, and a slice in one window.
    pub fn is_tumbling(&self) -> bool {
        self.attached || self.step == self.size
    }

    /// Windows hold what those before them held: what these have moves on into the next.
    pub fn moves(&self) -> bool {
        self.kind == WindowKind::Cumulate && !self.is_tumbling()
    }

    /// The start of a window; of a session it is not known here.
    pub fn window_start(&self, end: Timestamp) -> Timestamp {
        match self.kind {
            WindowKind::Hop | WindowKind::Session => end - self.size,
            WindowKind::Cumulate => self.base(end - 1),
        }
    }

    /// The start of the windows of CUMULATE that hold this time.
    fn base(&self, time: Timestamp) -> Timestamp {
        (time - self.offset).div_euclid(self.size) * self.size + self.offset
    }

    /// The end of the slice that holds this time.
    pub fn slice_end(&self, time: Timestamp) -> Timestamp {
        (time - self.offset).div_euclid(self.step) * self.step + self.step + self.offset
    }

    /// The end of each row's slice, by its time, or by the end of its window where it has one. Neighbours mostly share theirs.
    pub fn ends(&self, times: &[Timestamp]) -> Vec<Timestamp> {
        if self.attached {
            return times.to_vec();
        }
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
        if self.attached || self.kind == WindowKind::Cumulate {
            return slice_end;
        }
        let base = self.offset + self.size;
        base - (base - slice_end).div_euclid(self.slide) * self.slide
    }

    /// The end of the last window that holds the slice.
    pub fn last_window(&self, slice_end: Timestamp) -> Timestamp {
        if self.attached {
            return slice_end;
        }
        if self.kind == WindowKind::Cumulate {
            return self.base(slice_end - 1) + self.size;
        }
        let start = slice_end - self.step;
        (start - self.offset).div_euclid(self.slide) * self.slide + self.offset + self.size
    }

    /// The end of the first window that holds the slice and ends after `fired`.
    pub fn next_window(&self, slice_end: Timestamp, fired: Timestamp) -> Option<Timestamp> {
        if fired >= MAX_TIME {
            return None;
        }
        let first = self.first_window(slice_end);
        let next = match self.kind {
            _ if fired < first => first,
            _ if self.attached => return None,
            WindowKind::Cumulate => first + ((fired - first) / self.step + 1) * self.step,
            WindowKind::Hop | WindowKind::Session => self.first_window(fired + 1),
        };
        (next <= self.last_window(slice_end)).then_some(next)
    }

    /// The end of the last window that a watermark closes: one that ends at e is closed at e − 1.
    pub fn closed_by(&self, watermark: Timestamp) -> Timestamp {
        if watermark == MIN_WATERMARK || watermark >= MAX_TIME || watermark <= -MAX_TIME {
            return if watermark > 0 { MAX_WATERMARK } else { MIN_WATERMARK };
        }
        if self.attached {
            return watermark + 1;
        }
        let base = self.offset + self.size;
        base + (watermark + 1 - base).div_euclid(self.slide) * self.slide
    }

    /// Whether the slice belongs to the window.
    pub fn holds(&self, window_end: Timestamp, slice_end: Timestamp) -> bool {
        if self.attached {
            return slice_end == window_end;
        }
        slice_end <= window_end && slice_end > self.window_start(window_end)
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
        let cumulates = shape.kind == WindowKind::Cumulate;
        let period = if cumulates { shape.size } else { shape.slide };
        let lengths = |start: i64| {
            let steps = if cumulates { shape.size / shape.slide } else { 1 };
            (1..=steps).map(move |n| (start, if cumulates { start + n * shape.slide } else { start + shape.size }))
        };
        let mut ends: Vec<i64> = (-200..200)
            .map(|k| shape.offset + k * period)
            .flat_map(lengths)
            .filter(|(start, end)| (*start..*end).contains(&t))
            .map(|(_, end)| end)
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
            WindowShape::cumulate(2, 10),
            WindowShape::cumulate(10, 10).with_offset(4),
            WindowShape::cumulate(3, 12).with_offset(-5),
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
                assert!(windows.iter().all(|w| s.holds(*w, slice) && s.window_start(*w) <= t));
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

    #[test]
    fn a_window_that_rows_have_already_is_a_slice_and_closes_at_its_end() {
        for (shape, start) in [(WindowShape::hop(3, 7), 10), (WindowShape::cumulate(2, 10), 10)] {
            let s = Slices::new(shape.attached(0));
            assert!(s.is_tumbling());
            assert_eq!((s.ends(&[17, 3]), s.first_window(17), s.last_window(17)), (vec![17, 3], 17, 17));
            assert_eq!((s.next_window(17, 16), s.next_window(17, 17)), (Some(17), None));
            assert!(s.holds(17, 17) && !s.holds(17, 16));
            assert_eq!((s.closed_by(15), s.closed_by(16)), (16, 17));
            assert_eq!(s.window_start(17), start);
        }
    }
}
