//! Rows as such: columns for loops, groups of equal keys, rows as bytes, and the first or last row of a key.

pub(crate) mod column;
pub(crate) mod conflict;
pub(crate) mod dedup;
pub(crate) mod due;
pub(crate) mod index;
pub(crate) mod materialize;
pub(crate) mod nested;
pub(crate) mod over;
pub(crate) mod rowcodec;
pub(crate) mod topn;
pub(crate) mod windowtopn;
