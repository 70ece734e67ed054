//! How keys stand in a backend. FORMAT.md has the tables; none of it ever changes.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::keys::HASH_SEED;

/// The stable id of a state: the low half of a hash of the operator's identity, a zero byte, and the state's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub u32);

impl StateId {
    /// The id of state `name` of the operator with this identity.
    pub fn of(operator: &str, name: &str) -> Self {
        let text = [operator.as_bytes(), &[0], name.as_bytes()].concat();
        Self(xxh3_64_with_seed(&text, HASH_SEED) as u32)
    }
}

/// A slice's end as eight bytes whose order is that of time.
pub(crate) fn slice_end_bytes(end: i64) -> [u8; 8] {
    (end ^ i64::MIN).to_be_bytes()
}

/// Back from [`slice_end_bytes`].
pub(crate) fn slice_end_of(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

/// A state, or one slice of it: what all of its keys begin with, after the key group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) state: StateId,
    pub(crate) slice: Option<i64>,
}

impl Space {
    /// Appends `[key group][state]`, and the slice's end.
    pub(crate) fn prefix(self, group: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&group.to_be_bytes());
        out.extend_from_slice(&self.state.0.to_be_bytes());
        if let Some(end) = self.slice {
            out.extend_from_slice(&slice_end_bytes(end));
        }
    }

    /// From the first key of this space in a key group to one past the last.
    pub(crate) fn range(self, group: u16) -> (Vec<u8>, Vec<u8>) {
        let mut from = Vec::with_capacity(64);
        self.prefix(group, &mut from);
        let to = successor(&from);
        (from, to)
    }
}

/// From the first key of these key groups to one past the last.
pub(crate) fn groups_range(groups: &Range<u32>) -> (Vec<u8>, Vec<u8>) {
    let at = |group: u32| (group as u16).to_be_bytes().to_vec();
    (at(groups.start), at(groups.end))
}

/// The least bytes above all that begin with `prefix`. A key group is below 2^15, so there always are some.
pub(crate) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            break;
        }
    }
    next
}

/// Keys of one space, one after the other.
#[derive(Default)]
pub(crate) struct KeyBuffer {
    space: Option<Space>,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl KeyBuffer {
    pub(crate) fn new(space: Space) -> Self {
        Self { space: Some(space), bytes: Vec::new(), ends: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(crate) fn push(&mut self, group: u16, key: &[u8]) {
        if let Some(space) = self.space {
            space.prefix(group, &mut self.bytes);
        }
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u32);
    }

    pub(crate) fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.bytes[start..self.ends[i] as usize]
    }

    /// The indexes of all keys in the keys' order.
    pub(crate) fn sorted(&self) -> Vec<u32> {
        let mut order: Vec<_> = (0..self.ends.len()).map(|i| (first_bytes(self.get(i)), i as u32)).collect();
        order.sort_unstable_by(|&(prefix, a), &(other, b)| {
            prefix.cmp(&other).then_with(|| self.get(a as usize).cmp(self.get(b as usize)))
        });
        order.into_iter().map(|(_, i)| i).collect()
    }
}

/// The first sixteen bytes of a key as a number, ordered as the key is; shorter keys are equal to some longer ones.
pub(crate) fn first_bytes(key: &[u8]) -> u128 {
    if let Some(bytes) = key.first_chunk() {
        return u128::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 16];
    bytes[..key.len()].copy_from_slice(key);
    u128::from_be_bytes(bytes)
}

/// Bytes as FORMAT.md shows them.
#[cfg(test)]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_a_backend_are_those_of_the_format() {
        let format = include_str!("../FORMAT.md");
        let state = StateId::of("window-1", "counts");
        let line = |what: &str, bytes: &[u8]| {
            let line = format!("| {what} | `{}` |", hex(bytes));
            assert!(format.contains(&line), "FORMAT.md lacks the line\n{line}");
        };
        line("id of state `counts` of operator `window-1`", &state.0.to_be_bytes());
        let mut buffer = KeyBuffer::new(Space { state, slice: None });
        buffer.push(258, &[1, 0x80, 0, 0, 0, 0, 0, 0, 7]);
        line("BIGINT 7 in key group 258 of its table", buffer.get(0));
        let mut buffer = KeyBuffer::new(Space { state, slice: Some(1_700_000_000_000) });
        buffer.push(258, &[1, 0x80, 0, 0, 0, 0, 0, 0, 7]);
        line("the same in slice 1700000000000", buffer.get(0));
    }

    #[test]
    fn slice_ends_are_ordered_as_bytes_as_they_are_in_time() {
        let ends = [i64::MIN, -1_000, -1, 0, 1, 255, 256, 1_700_000_000_000, i64::MAX];
        for pair in ends.windows(2) {
            assert!(slice_end_bytes(pair[0]) < slice_end_bytes(pair[1]));
        }
        for end in ends {
            assert_eq!(slice_end_of(slice_end_bytes(end)), end);
        }
    }

    #[test]
    fn the_successor_is_above_all_that_begin_with_the_prefix() {
        assert_eq!(successor(&[0, 1, 255, 255]), [0, 2]);
        assert_eq!(successor(&[0, 1, 2]), [0, 1, 3]);
    }
}
