//! Event time, and the ends of it.

/// Milliseconds since the epoch.
pub type Timestamp = i64;

/// No watermark has come yet.
pub const MIN_WATERMARK: Timestamp = i64::MIN;
/// The end of input: no row comes after it.
pub const MAX_WATERMARK: Timestamp = i64::MAX;
