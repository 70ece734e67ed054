//! Which keys were given up by memory: a Bloom filter, so that a key that never was here is not looked for in the backend.
//!
//! Its size is fixed when the first row goes. With more keys than it is made for it answers "perhaps" more often, which costs a
//! look-up, and is never wrong about a key that is gone.

/// Bits of one block: a cache line.
const BLOCK_BITS: u64 = 512;
/// Bits that are set for each key.
const BITS_A_KEY: u32 = 5;
/// The least size.
const LEAST_BYTES: usize = 16 << 10;

pub(super) struct Gone {
    blocks: Vec<[u64; 8]>,
}

impl Gone {
    /// With about so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { blocks: vec![[0; 8]; bytes.max(LEAST_BYTES) / 64] }
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * 64
    }

    /// The block of a key, and nine bits for each of its places there. All keys of a subtask share some bits of their hash, so
    /// it is mixed once more.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let block = (u128::from(mixed) * self.blocks.len() as u128) >> 64;
        (block as usize, mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 8)
    }

    #[inline]
    pub(super) fn add(&mut self, hash: u64) {
        let (block, mut bits) = self.place(hash);
        for _ in 0..BITS_A_KEY {
            let bit = bits % BLOCK_BITS;
            self.blocks[block][(bit / 64) as usize] |= 1 << (bit % 64);
            bits >>= 9;
        }
    }

    /// False only if the key was never added.
    #[inline]
    pub(super) fn perhaps(&self, hash: u64) -> bool {
        let (block, mut bits) = self.place(hash);
        let block = &self.blocks[block];
        (0..BITS_A_KEY).all(|_| {
            let bit = bits % BLOCK_BITS;
            bits >>= 9;
            block[(bit / 64) as usize] & (1 << (bit % 64)) != 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::hash;

    #[test]
    fn keys_that_are_gone_are_always_found_and_others_rarely() {
        let mut gone = Gone::new(100_000 * 10 / 8);
        // Of one key group only: the highest bits of all hashes are the same.
        let hashes: Vec<u64> = (0..200_000u64).map(|n| hash(&n.to_be_bytes()) >> 9).collect();
        hashes[..100_000].iter().for_each(|&hash| gone.add(hash));
        assert!(hashes[..100_000].iter().all(|&hash| gone.perhaps(hash)));
        let wrong = hashes[100_000..].iter().filter(|&&hash| gone.perhaps(hash)).count();
        assert!(wrong < 3000, "{wrong} of 100000");
    }
}
