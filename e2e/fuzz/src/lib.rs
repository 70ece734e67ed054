//! What tests share that try made-up input: a seed for each case, so that one alone can be repeated, and bytes that are changed a
//! little. A case asserts what must hold whatever the bytes are; a panic is a fault like any other.
//!
//! `WEIR_FUZZ_SECONDS=600` lets each such test go on for ten minutes, and `WEIR_SEED` begins where another run did.

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bytes that changes may let grow.
const MOST: usize = 1 << 20;

/// Tries so many cases, or for as long as `WEIR_FUZZ_SECONDS` says.
pub fn cases(short: u64, mut case: impl FnMut(&mut Random)) {
    let seed = number("WEIR_SEED").unwrap_or_else(now);
    println!("WEIR_SEED={seed} repeats this run");
    let until = number("WEIR_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut tried = 0;
    while until.map_or(tried < short, |until| Instant::now() < until) {
        let told = Told(seed.wrapping_add(tried));
        case(&mut Random(StdRng::seed_from_u64(told.0)));
        std::mem::forget(told);
        tried += 1;
    }
    println!("{tried} cases");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.trim().parse().ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Says which case it was, where one fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        println!("this case is the first with WEIR_SEED={}", self.0);
    }
}

/// Chances, from a case's seed.
#[derive(Debug)]
pub struct Random(StdRng);

impl Random {
    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    /// Once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }

    /// One of these, of which there must be one.
    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// The bytes with one to four changes: pieces left out, doubled, exchanged, put in from elsewhere, bits turned, numbers that are
    /// as large or as small as can be. `words` are put in as they are.
    pub fn changed(&mut self, bytes: &[u8], words: &[&str]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, words);
            bytes.truncate(MOST);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, words: &[&str]) {
        let Range { start, end } = self.piece(bytes.len());
        match self.below(9) {
            0 => drop(bytes.drain(start..end)),
            1 => bytes.truncate(start),
            2 if start < bytes.len() => bytes[start] ^= 1 << self.below(8),
            3 if start < bytes.len() => bytes[start] = self.number() as u8,
            4 => {
                let times = [1, 2, 40, 1_000][self.below(4)];
                let piece = bytes[start..end].repeat(times);
                drop(bytes.splice(start..start, piece));
            }
            5 => {
                let from = self.piece(bytes.len());
                let other = bytes[from].to_vec();
                drop(bytes.splice(start..end, other));
            }
            6 if !words.is_empty() => {
                let word = self.pick(words);
                drop(bytes.splice(start..end, word.bytes()));
            }
            7 => {
                let number = [0_u64, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX][self.below(8)];
                let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - start);
                bytes[start..start + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            _ => bytes.insert(start, self.number() as u8),
        }
    }

    /// A piece of so many bytes, mostly a short one.
    fn piece(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length + 1);
        let most = if self.one_in(4) { length } else { 16 };
        start..(start + self.below(most + 1)).min(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_changes_and_another_gives_others() {
        let change = |seed| Random(StdRng::seed_from_u64(seed)).changed(b"what is changed", &["word"]);
        let all: Vec<_> = (0..100).map(change).collect();
        assert_eq!(all, (0..100).map(change).collect::<Vec<_>>());
        let changed = all.iter().filter(|bytes| *bytes != b"what is changed").count();
        assert!(changed > 80, "{changed} of 100 are changed");
        assert!((0..1_000).all(|seed| Random(StdRng::seed_from_u64(seed)).changed(b"", &[]).len() <= MOST));
    }
}
