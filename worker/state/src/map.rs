//! Ordered maps, one a key: sub-key → value, in the order of the sub-keys' bytes. With [`SortKeys`](crate::SortKeys) as
//! sub-keys that is the order of an ORDER BY, and with a number behind them they are multimaps.
//!
//! A small map stands in its key's row, so that it costs one look-up. A large one is a tree of nodes, each a row under the key
//! and the node's number, in the same key group; the key's row then holds the root. All are rows of [`Table`]s, so they are
//! frozen, written, given up and restored as these are. FORMAT.md has the bytes.
//!
//! It is read and written a batch at a time: [`MapTable::open`] looks the keys of a batch up at once, reads look up all nodes of
//! one level at once, and [`MapTable::apply`] writes each node that changes once.

mod apply;
mod block;

use std::{
    collections::VecDeque,
    ops::{Bound, ControlFlow},
};

use crate::{
    describe::{TableKind, TableShape},
    error::StateError,
    frozen::Frozen,
    keys::{Keys, read_varint},
    table::{RowLayout, Slot, Table},
};
pub use apply::Changes;
use block::{Entries, child_number, malformed};
pub(crate) use block::{push_varint, take_bytes};

/// A map of so many entries and bytes at most stands in its key's row.
const INLINE_ENTRIES: usize = 64;
const INLINE_BYTES: usize = 2 << 10;
/// A node or root of more bytes is split: the more, the more is written for one changed entry; the less, the more look-ups.
const NODE_BYTES: usize = 4 << 10;
/// An inner node has so many children at least, however long their separators are, so that a tree always narrows upwards.
const LEAST_CHILDREN: usize = 8;
/// A tree of so few entries becomes a row again.
const COLLAPSE_ENTRIES: u64 = 16;
/// Nodes that are read at once for one range, and for all.
const NODES_A_RANGE: usize = 64;
const NODES_A_ROUND: usize = 4096;

const HEAD_CODEC: &str = "map-head/1";
const NODE_CODEC: &str = "map-node/1";

/// All maps of one state of an operator in one subtask.
pub struct MapTable {
    heads: Table,
    nodes: Table,
    /// Of the maps that are open.
    keys: Keys,
    slots: Vec<Option<Slot>>,
    /// The slots are those that the rows have now.
    fresh: bool,
    node_keys: Keys,
    node_slots: Vec<Option<Slot>>,
}

/// The name of the table of nodes.
pub(crate) fn nodes_name(name: &str) -> String {
    format!("{name}.nodes")
}

/// Entries of one open map, in order.
#[derive(Clone, Copy, Debug)]
pub struct MapRange<'a> {
    /// Which of the open maps.
    pub map: usize,
    /// From here.
    pub from: Bound<&'a [u8]>,
    /// To there.
    pub to: Bound<&'a [u8]>,
    /// From the greatest down.
    pub backwards: bool,
    /// So many at most.
    pub limit: usize,
}

impl MapRange<'_> {
    /// The whole map.
    pub const fn all(map: usize) -> Self {
        Self { map, from: Bound::Unbounded, to: Bound::Unbounded, backwards: false, limit: usize::MAX }
    }

    /// The least entries.
    pub const fn first(map: usize, limit: usize) -> Self {
        Self { limit, ..Self::all(map) }
    }

    /// The greatest entries, the greatest of them first.
    pub const fn last(map: usize, limit: usize) -> Self {
        Self { backwards: true, limit, ..Self::all(map) }
    }

    fn is_after(&self, sub: &[u8]) -> bool {
        match self.to {
            Bound::Included(to) => sub > to,
            Bound::Excluded(to) => sub >= to,
            Bound::Unbounded => false,
        }
    }

    fn is_before(&self, sub: &[u8]) -> bool {
        match self.from {
            Bound::Included(from) => sub < from,
            Bound::Excluded(from) => sub <= from,
            Bound::Unbounded => false,
        }
    }

    /// A child that begins at `separator` and ends before `next` may have entries of this range.
    fn meets(&self, separator: &[u8], is_first: bool, next: Option<&[u8]>) -> bool {
        let begins_before_end = is_first || !self.is_after(separator);
        let ends_after_start = match (self.from, next) {
            (Bound::Included(from) | Bound::Excluded(from), Some(next)) => next > from,
            _ => true,
        };
        begins_before_end && ends_after_start
    }
}

/// A map's row.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Levels of nodes below the root; none: the root holds the entries.
    height: u8,
    entries: u64,
    /// The number of the next new node.
    next: u32,
    user: &'a [u8],
    root: &'a [u8],
}

impl<'a> Head<'a> {
    const EMPTY: Head<'static> = Head { height: 0, entries: 0, next: 0, user: &[], root: &[] };

    fn read(row: &'a [u8]) -> Result<Self, StateError> {
        let read = || {
            let (&height, mut rest) = row.split_first()?;
            let entries = read_varint(&mut rest)? as u64;
            let next = u32::try_from(read_varint(&mut rest)?).ok()?;
            let user = take_bytes(&mut rest)?;
            Some(Self { height, entries, next, user, root: rest })
        };
        read().ok_or_else(malformed)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.height);
        push_varint(out, self.entries as usize);
        push_varint(out, self.next as usize);
        push_varint(out, self.user.len());
        out.extend_from_slice(self.user);
        out.extend_from_slice(self.root);
    }
}

/// A node that a range has still to go through.
#[derive(Clone, Copy)]
struct Pending {
    node: u32,
    height: u8,
}

/// How far a range has been read.
struct Walk {
    pending: VecDeque<Pending>,
    left: usize,
}

/// Called with the number of the range or probe, a sub-key and its value.
pub type VisitRange<'a> = dyn FnMut(usize, &[u8], &[u8]) -> ControlFlow<()> + 'a;

impl MapTable {
    pub(crate) fn new(heads: Table, nodes: Table) -> Self {
        Self {
            heads,
            nodes,
            keys: Keys::new(),
            slots: Vec::new(),
            fresh: false,
            node_keys: Keys::new(),
            node_slots: Vec::new(),
        }
    }

    /// Both tables of maps, for the parts of checkpoints: the types of the key, of what sub-keys are ordered by, of the values,
    /// and what the operator keeps beside.
    pub fn shapes(name: &str, key: &[String], sub: &[String], value: &[String], user: &[String]) -> [TableShape; 2] {
        let row = |beside: &[String]| {
            let ordered = sub.iter().map(|of| format!("BY {of}"));
            beside.iter().map(|of| format!("BESIDE {of}")).chain(ordered).chain(value.iter().cloned()).collect()
        };
        let mut node_key = key.to_vec();
        node_key.push("NODE".to_owned());
        let shape = |name: String, key: Vec<String>, row: Vec<String>, codec| TableShape {
            name,
            kind: TableKind::Table,
            key,
            row,
            layout: RowLayout::Variable,
            codec,
        };
        [
            shape(name.to_owned(), key.to_vec(), row(user), HEAD_CODEC),
            shape(nodes_name(name), node_key, row(&[]), NODE_CODEC),
        ]
    }

    /// Opens the maps of these rows' keys, until others are opened: map `i` is that of `rows[i]`. A key may be there once only.
    pub fn open(&mut self, keys: &Keys, rows: &[u32]) -> Result<(), StateError> {
        self.keys.clear();
        for &row in rows {
            self.keys.push_row(keys, row as usize);
        }
        self.fresh = false;
        self.refresh()
    }

    fn refresh(&mut self) -> Result<(), StateError> {
        if !self.fresh {
            self.heads.get(&self.keys, &mut self.slots)?;
            self.fresh = true;
        }
        Ok(())
    }

    /// How many maps are open.
    pub fn maps(&self) -> usize {
        self.keys.len()
    }

    fn head(&self, map: usize) -> Result<Head<'_>, StateError> {
        match self.slots[map] {
            Some(slot) => Head::read(self.heads.row(slot)),
            None => Ok(Head::EMPTY),
        }
    }

    /// How many entries a map has.
    pub fn len(&mut self, map: usize) -> Result<u64, StateError> {
        self.refresh()?;
        Ok(self.head(map)?.entries)
    }

    /// A map has no entries.
    pub fn is_empty(&mut self, map: usize) -> Result<bool, StateError> {
        Ok(self.len(map)? == 0)
    }

    /// What the operator keeps beside a map's entries; empty where it was never set.
    pub fn beside(&mut self, map: usize) -> Result<&[u8], StateError> {
        self.refresh()?;
        Ok(self.head(map)?.user)
    }

    /// Looks these sub-keys of open maps up: `found` is called once for each, in no order.
    pub fn find(
        &mut self,
        probes: &[(u32, &[u8])],
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StateError> {
        self.refresh()?;
        let mut pending: Vec<(usize, Pending)> = Vec::new();
        for (i, &(map, sub)) in probes.iter().enumerate() {
            let head = self.head(map as usize)?;
            if head.height == 0 {
                found(i, Entries(head.root).find(sub)?);
            } else {
                pending.push((i, Pending { node: Entries(head.root).route(sub)?, height: head.height - 1 }));
            }
        }
        while !pending.is_empty() {
            let Self { nodes, node_keys, node_slots, keys, .. } = self;
            node_keys.clear();
            for &(i, Pending { node, .. }) in &pending {
                push_node(node_keys, keys, probes[i].0 as usize, node);
            }
            nodes.get(node_keys, node_slots)?;
            let mut deeper = Vec::new();
            for (&(i, Pending { height, .. }), slot) in pending.iter().zip(node_slots) {
                let entries = Entries(nodes.row(slot.ok_or_else(malformed)?));
                if height == 0 {
                    found(i, entries.find(probes[i].1)?);
                } else {
                    deeper.push((i, Pending { node: entries.route(probes[i].1)?, height: height - 1 }));
                }
            }
            pending = deeper;
        }
        Ok(())
    }

    /// Visits the entries of these ranges. Those of one range come in its order, those of different ones in turns; `visit` says
    /// whether to go on with that range.
    pub fn range(&mut self, ranges: &[MapRange<'_>], visit: &mut VisitRange<'_>) -> Result<(), StateError> {
        self.walk(ranges, visit, &mut |_, _| {})
    }

    /// `passed` gets each node that was read, with its range.
    fn walk(
        &mut self,
        ranges: &[MapRange<'_>],
        visit: &mut VisitRange<'_>,
        passed: &mut dyn FnMut(usize, u32),
    ) -> Result<(), StateError> {
        self.refresh()?;
        let mut walks: Vec<(usize, Walk)> = Vec::new();
        for (i, range) in ranges.iter().enumerate() {
            let head = self.head(range.map)?;
            let mut walk = Walk { pending: VecDeque::new(), left: range.limit };
            walk.take(i, range, head.height, head.root, visit)?;
            if !walk.is_over() {
                walks.push((i, walk));
            }
        }
        let mut read: Vec<(usize, Pending)> = Vec::new();
        while !walks.is_empty() {
            read.clear();
            let Self { nodes, node_keys, node_slots, keys, .. } = self;
            node_keys.clear();
            for (at, (i, walk)) in walks.iter_mut().enumerate() {
                if read.len() >= NODES_A_ROUND {
                    break;
                }
                for _ in 0..walk.round() {
                    let Some(next) = walk.pending.pop_front() else { break };
                    push_node(node_keys, keys, ranges[*i].map, next.node);
                    read.push((at, next));
                }
            }
            nodes.get(node_keys, node_slots)?;
            for (&(at, Pending { node, height }), slot) in read.iter().zip(node_slots) {
                let (i, walk) = &mut walks[at];
                passed(*i, node);
                if walk.left > 0 {
                    walk.take(*i, &ranges[*i], height, nodes.row(slot.ok_or_else(malformed)?), visit)?;
                }
            }
            walks.retain(|(_, walk)| !walk.is_over());
        }
        Ok(())
    }

    /// Takes out what was written since the last freeze; see [`Table::freeze`].
    pub fn freeze(&mut self) -> impl Iterator<Item = Frozen> + use<> {
        [self.heads.freeze(), self.nodes.freeze()].into_iter().flatten()
    }

    /// Bytes that the maps take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.heads.memory_bytes() + self.nodes.memory_bytes()
    }
}

impl Walk {
    fn is_over(&self) -> bool {
        self.left == 0 || self.pending.is_empty()
    }

    /// How many nodes to read next: of one level, since what an inner node leads to comes before what is behind it.
    fn round(&self) -> usize {
        let Some(first) = self.pending.front() else { return 0 };
        // An entry takes some bytes at least, and so a limit of a few needs few leaves.
        let most = if first.height > 0 { 1 } else { self.left.div_ceil(INLINE_ENTRIES / 2).clamp(1, NODES_A_RANGE) };
        self.pending.iter().take(most).take_while(|next| next.height == first.height).count()
    }

    /// Goes through the entries of one node or root.
    fn take(
        &mut self,
        i: usize,
        range: &MapRange<'_>,
        height: u8,
        block: &[u8],
        visit: &mut VisitRange<'_>,
    ) -> Result<(), StateError> {
        if height > 0 {
            return self.take_children(range, height, block);
        }
        let mut entries = Entries(block);
        if range.backwards {
            let mut found = Vec::new();
            while let Some((sub, value)) = entries.take()? {
                if range.is_after(sub) {
                    break;
                }
                if !range.is_before(sub) {
                    found.push((sub, value));
                }
            }
            for (sub, value) in found.into_iter().rev() {
                self.visit(i, sub, value, visit);
            }
            return Ok(());
        }
        while let Some((sub, value)) = entries.take()? {
            if self.left == 0 || range.is_after(sub) {
                break;
            }
            if !range.is_before(sub) {
                self.visit(i, sub, value, visit);
            }
        }
        Ok(())
    }

    fn visit(&mut self, i: usize, sub: &[u8], value: &[u8], visit: &mut VisitRange<'_>) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        if visit(i, sub, value).is_break() {
            self.left = 0;
        }
    }

    fn take_children(&mut self, range: &MapRange<'_>, height: u8, block: &[u8]) -> Result<(), StateError> {
        let mut entries = Entries(block);
        let mut children = Vec::new();
        let mut entry = entries.take()?;
        let mut is_first = true;
        while let Some((separator, child)) = entry {
            entry = entries.take()?;
            if range.meets(separator, is_first, entry.map(|(next, _)| next)) {
                children.push(Pending { node: child_number(child)?, height: height - 1 });
            }
            is_first = false;
        }
        if range.backwards {
            children.reverse();
        }
        for child in children.into_iter().rev() {
            self.pending.push_front(child);
        }
        Ok(())
    }
}

/// The key of a node: that of its map, and the node's number.
fn push_node(node_keys: &mut Keys, keys: &Keys, map: usize, node: u32) {
    node_keys.push(keys.key(map), &node.to_be_bytes(), keys.key_group_hash(map));
}

#[cfg(test)]
mod tests {
    use super::{block::Built, *};
    use crate::layout::hex;

    /// The golden vectors of FORMAT.md. They never change.
    #[test]
    fn heads_and_nodes_are_those_of_the_format() {
        let mut leaf = Built::default();
        leaf.push(b"a", b"one");
        leaf.push(b"b", b"");
        let head = Head { height: 0, entries: 2, next: 0, user: b"", root: leaf.bytes() };
        let mut row = Vec::new();
        head.write(&mut row);
        let mut inner = Built::default();
        inner.push_child(b"", 0);
        inner.push_child(b"m", 300);
        let tall = Head { height: 1, entries: 200, next: 301, user: b"x", root: inner.bytes() };
        let mut tall_row = Vec::new();
        tall.write(&mut tall_row);
        let format = include_str!("../FORMAT.md");
        for (what, bytes) in [
            ("a map of `a` → `one`, `b` → nothing", &row[..]),
            ("the same entries in a leaf", leaf.bytes()),
            ("a tree of 200 entries with `x` beside them, leaf 0, and leaf 300 from `m` on", &tall_row),
        ] {
            let line = format!("| {what} | `{}` |", hex(bytes));
            assert!(format.contains(&line), "FORMAT.md lacks the line\n{line}");
        }
        let back = Head::read(&tall_row).unwrap();
        assert_eq!((back.height, back.entries, back.next, back.user, back.root), (1, 200, 301, &b"x"[..], tall.root));
    }

    #[test]
    fn damaged_maps_are_refused_and_not_misread() {
        for row in [&[][..], &[0], &[0, 1, 0, 5, b'a'], &[0, 0xff, 0xff]] {
            assert!(Head::read(row).is_err(), "{row:?}");
        }
        for block in [&[3][..], &[1, b'a'], &[1, b'a', 2, b'b']] {
            Entries(block).find(b"z").unwrap_err();
            Entries(block).route(b"z").unwrap_err();
        }
    }

    #[test]
    fn pieces_are_not_too_large_and_nothing_is_lost() {
        let mut built = Built::default();
        for n in 0..1000u32 {
            built.push(&n.to_be_bytes(), &vec![7; n as usize % 60]);
        }
        for (most, least) in [(4096, 1), (500, 1), (100, 8)] {
            let pieces = built.pieces(most, least);
            let mut end = 0;
            for piece in &pieces {
                assert_eq!(piece.start, end);
                end = piece.end;
                assert!(least > 1 || piece.len() <= most, "{piece:?}");
            }
            assert_eq!(end, built.bytes().len());
        }
        assert!(Built::default().pieces(100, 1).is_empty());
    }
}
