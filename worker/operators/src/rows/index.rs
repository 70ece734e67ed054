//! Numbers the distinct keys of rows densely, in the order in which they first come.

use hashbrown::HashTable;
use weir_state::Keys;

/// Keys seen, each with its number.
#[derive(Debug, Default)]
pub struct GroupIndex {
    table: HashTable<u32>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    hashes: Vec<u64>,
    /// The owner of each key: keys of different owners differ, whatever their bytes.
    owners: Vec<u32>,
    /// For each key the row, within the batch that brought it, in which it came first.
    first: Vec<u32>,
}

impl GroupIndex {
    pub fn clear(&mut self) {
        self.table.clear();
        self.bytes.clear();
        self.ends.clear();
        self.hashes.clear();
        self.owners.clear();
        self.first.clear();
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of keys kept.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The key of group `g`.
    pub fn key(&self, g: usize) -> &[u8] {
        &self.bytes[if g == 0 { 0 } else { self.ends[g - 1] }..self.ends[g]]
    }

    /// All keys in the order of their groups.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|g| self.key(g))
    }

    pub fn owner(&self, g: usize) -> u32 {
        self.owners[g]
    }

    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// The rows in which keys came first; of one batch only if the index was cleared before it.
    pub fn first(&self) -> &[u32] {
        &self.first
    }

    /// The group of every row, new ones for keys not seen yet.
    pub fn assign(&mut self, keys: &Keys, of_row: &mut Vec<u32>) {
        of_row.clear();
        of_row.reserve(keys.len());
        for row in 0..keys.len() {
            let group = self.group(keys.hash(row), 0, keys.key(row), row);
            of_row.push(group);
        }
    }

    /// The group of one key of an owner.
    pub fn group(&mut self, hash: u64, owner: u32, key: &[u8], row: usize) -> u32 {
        // The highest bits are the key group, of which a subtask has few, and the table takes its tags from there: the halves
        // are swapped. Owners are dense small numbers: they are spread.
        let hash = hash.rotate_left(32) ^ u64::from(owner).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let Self { table, bytes, ends, hashes, owners, first } = self;
        let same = |&g: &u32| {
            let g = g as usize;
            hashes[g] == hash && owners[g] == owner && {
                let start = if g == 0 { 0 } else { ends[g - 1] };
                &bytes[start..ends[g]] == key
            }
        };
        if let Some(&found) = table.find(hash, same) {
            return found;
        }
        let new = ends.len() as u32;
        bytes.extend_from_slice(key);
        ends.push(bytes.len());
        hashes.push(hash);
        owners.push(owner);
        first.push(row as u32);
        table.insert_unique(hash, new, |&g| hashes[g as usize]);
        new
    }
}
