//! Writing: the changes of a batch go down the trees level by level, what they split or empty goes up again, and then each row
//! that has changed is written once.

use std::ops::Range;

use super::{
    COLLAPSE_ENTRIES, Head, INLINE_BYTES, INLINE_ENTRIES, LEAST_CHILDREN, MapRange, MapTable, NODE_BYTES,
    block::{Built, Entries, child_number, first_sub, malformed},
    push_node,
};
use crate::{error::StateError, table::Slot};

/// Changes to open maps. Of several of one sub-key the last one counts.
#[derive(Debug, Default)]
pub struct Changes {
    bytes: Vec<u8>,
    list: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    map: u32,
    what: What,
    sub: Range<usize>,
    value: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// What the operator keeps beside the entries.
    Beside,
    Put,
    Remove,
}

impl Changes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Sets the value of a sub-key.
    pub fn put(&mut self, map: usize, sub: &[u8], value: &[u8]) {
        self.push(map, What::Put, sub, value);
    }

    /// Removes a sub-key, if it is there.
    pub fn remove(&mut self, map: usize, sub: &[u8]) {
        self.push(map, What::Remove, sub, &[]);
    }

    /// Sets what is kept beside a map's entries. A map without entries and with nothing beside them takes no room.
    pub fn set_beside(&mut self, map: usize, bytes: &[u8]) {
        self.push(map, What::Beside, &[], bytes);
    }

    fn push(&mut self, map: usize, what: What, sub: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(sub);
        let split = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.list.push(Change { map: map as u32, what, sub: start..split, value: split..self.bytes.len() });
    }

    fn sub(&self, change: &Change) -> &[u8] {
        &self.bytes[change.sub.clone()]
    }

    /// By map, what stands beside first, then by sub-key; each once.
    fn sorted(&self) -> Vec<&Change> {
        let place = |change: &Change| (change.map, change.what != What::Beside);
        let mut sorted: Vec<&Change> = self.list.iter().collect();
        sorted.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| self.sub(a).cmp(self.sub(b))));
        // The sort is stable, and so of equal ones the last is the newest.
        let mut last: Vec<&Change> = Vec::with_capacity(sorted.len());
        for change in sorted {
            match last.last_mut() {
                Some(before) if place(before) == place(change) && self.sub(before) == self.sub(change) => {
                    *before = change;
                }
                _ => last.push(change),
            }
        }
        last
    }

    fn entries<'a>(&'a self, changes: &'a [&'a Change]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        changes
            .iter()
            .map(|change| (self.sub(change), (change.what == What::Put).then(|| &self.bytes[change.value.clone()])))
    }
}

/// A map with changes.
struct Touched {
    map: usize,
    height: u8,
    entries: u64,
    next: u32,
    user: Range<usize>,
    /// Its row is among [`Work::heads`].
    written: bool,
}

/// A node with changes below it.
struct Target {
    /// Of [`Work::touched`].
    touched: usize,
    /// Its place among the targets of the level above.
    parent: usize,
    node: u32,
    height: u8,
    /// What it begins at, in its parent.
    separator: Range<usize>,
    /// Of the sorted changes.
    changes: Range<usize>,
    /// The entries of an inner node.
    block: Range<usize>,
}

/// What becomes of a child in its parent.
struct Up {
    /// The parent's place among the targets of its level.
    parent: usize,
    separator: Range<usize>,
    child: Option<u32>,
}

/// A node to be written, or removed.
struct Write {
    touched: usize,
    node: u32,
    bytes: Option<Range<usize>>,
}

#[derive(Default)]
struct Work {
    /// Whatever the ranges point to.
    bytes: Vec<u8>,
    touched: Vec<Touched>,
    nodes: Vec<Write>,
    /// By map: the whole row, or none where the map is gone.
    heads: Vec<(usize, Option<Range<usize>>)>,
    built: Built,
}

impl MapTable {
    /// Applies changes to the open maps. Each row is written once, whatever number of changes it has.
    pub fn apply(&mut self, changes: &Changes) -> Result<(), StateError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.refresh()?;
        let sorted = changes.sorted();
        let mut work = Work::default();
        let roots = self.take_roots(changes, &sorted, &mut work)?;
        if !roots.is_empty() {
            self.take_trees(changes, &sorted, roots, &mut work)?;
        }
        self.write(&work)?;
        self.collapse(&work)
    }

    /// Changes maps that stand in their rows, and returns the roots of the others.
    fn take_roots(&self, changes: &Changes, sorted: &[&Change], work: &mut Work) -> Result<Vec<Target>, StateError> {
        let mut roots = Vec::new();
        let mut start = 0;
        for group in sorted.chunk_by(|a, b| a.map == b.map) {
            let end = start + group.len();
            let map = group[0].map as usize;
            let head = self.head(map)?;
            let beside = usize::from(group[0].what == What::Beside);
            let user = if beside == 1 { &changes.bytes[group[0].value.clone()] } else { head.user };
            let user = work.keep(user);
            let Head { height, entries, next, .. } = head;
            work.touched.push(Touched { map, height, entries, next, user, written: false });
            let touched = work.touched.len() - 1;
            let group = &group[beside..];
            if head.height == 0 {
                work.built.merge(head.root, changes.entries(group))?;
                work.touched[touched].entries = work.built.len() as u64;
                work.finish_root(touched, self.slots[map].is_some())?;
            } else if group.is_empty() {
                let root = work.keep(head.root);
                work.write_head(touched, root);
            } else {
                let block = work.keep(head.root);
                roots.push(Target {
                    touched,
                    parent: 0,
                    node: 0,
                    height: head.height,
                    separator: 0..0,
                    changes: start + beside..end,
                    block,
                });
            }
            start = end;
        }
        Ok(roots)
    }

    fn take_trees(
        &mut self,
        changes: &Changes,
        sorted: &[&Change],
        roots: Vec<Target>,
        work: &mut Work,
    ) -> Result<(), StateError> {
        let mut levels = vec![roots];
        let mut ups: Vec<Vec<Up>> = vec![Vec::new()];
        while let Some(above) = levels.last() {
            let mut targets = Vec::new();
            for (parent, target) in above.iter().enumerate().filter(|(_, target)| target.height > 0) {
                children(changes, sorted, parent, target, work, &mut targets)?;
            }
            if targets.is_empty() {
                break;
            }
            self.read_targets(changes, sorted, &mut targets, work, &mut ups[levels.len() - 1])?;
            levels.push(targets);
            ups.push(Vec::new());
        }
        for level in (0..levels.len()).rev() {
            let mut of_level = std::mem::take(&mut ups[level]);
            of_level.sort_by_key(|up| up.parent);
            for of_parent in of_level.chunk_by(|a, b| a.parent == b.parent) {
                let target = &levels[level][of_parent[0].parent];
                work.merge_children(target, of_parent)?;
                if level == 0 {
                    work.finish_root(target.touched, true)?;
                } else {
                    work.finish_node(target, LEAST_CHILDREN, &mut ups[level - 1])?;
                }
            }
        }
        // A root whose children are all where they were keeps its place, but the number of entries has changed.
        for target in &levels[0] {
            if !work.touched[target.touched].written {
                work.write_head(target.touched, target.block.clone());
            }
        }
        Ok(())
    }

    /// Reads the nodes of one level: inner ones are kept, leaves are changed.
    fn read_targets(
        &mut self,
        changes: &Changes,
        sorted: &[&Change],
        targets: &mut [Target],
        work: &mut Work,
        ups: &mut Vec<Up>,
    ) -> Result<(), StateError> {
        let Self { nodes, node_keys, node_slots, keys, .. } = self;
        node_keys.clear();
        for target in &*targets {
            push_node(node_keys, keys, work.touched[target.touched].map, target.node);
        }
        nodes.get(node_keys, node_slots)?;
        for (target, slot) in targets.iter_mut().zip(node_slots) {
            let block = nodes.row(slot.ok_or_else(malformed)?);
            if target.height > 0 {
                target.block = work.keep(block);
                continue;
            }
            let before = count(block)?;
            work.built.merge(block, changes.entries(&sorted[target.changes.clone()]))?;
            let touched = &mut work.touched[target.touched];
            touched.entries = (touched.entries + work.built.len() as u64).saturating_sub(before);
            if work.built.bytes() != block {
                work.finish_node(target, 1, ups)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, work: &Work) -> Result<(), StateError> {
        let Self { heads, nodes, node_keys, keys, .. } = self;
        let (mut slots, mut created): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        node_keys.clear();
        for write in &work.nodes {
            push_node(node_keys, keys, work.touched[write.touched].map, write.node);
        }
        if !work.nodes.is_empty() {
            nodes.upsert(node_keys, &mut slots, &mut created)?;
            for (write, &slot) in work.nodes.iter().zip(&slots) {
                match &write.bytes {
                    Some(bytes) => nodes.set(slot, &work.bytes[bytes.clone()]),
                    None => nodes.remove(slot),
                }
            }
        }
        let rows: Vec<u32> = work.heads.iter().map(|(map, _)| *map as u32).collect();
        heads.upsert_rows(keys, &rows, &mut slots, &mut created)?;
        for ((_, bytes), &slot) in work.heads.iter().zip(&slots) {
            match bytes {
                // What is the same is not written again.
                Some(bytes) if heads.row(slot) == &work.bytes[bytes.clone()] => {}
                Some(bytes) => heads.set(slot, &work.bytes[bytes.clone()]),
                None => heads.remove(slot),
            }
        }
        self.fresh = false;
        Ok(())
    }

    /// Trees that have become small are rows again.
    fn collapse(&mut self, work: &Work) -> Result<(), StateError> {
        let small: Vec<&Touched> = work
            .touched
            .iter()
            .filter(|of| of.height > 0 && of.entries > 0 && of.entries <= COLLAPSE_ENTRIES)
            .collect();
        if small.is_empty() {
            return Ok(());
        }
        let ranges: Vec<MapRange<'_>> = small.iter().map(|of| MapRange::all(of.map)).collect();
        let mut built: Vec<Built> = ranges.iter().map(|_| Built::default()).collect();
        let mut passed: Vec<(usize, u32)> = Vec::new();
        self.walk(
            &ranges,
            &mut |i, sub, value| {
                built[i].push(sub, value);
                std::ops::ControlFlow::Continue(())
            },
            &mut |i, node| passed.push((i, node)),
        )?;
        let fits = |i: usize| built[i].bytes().len() <= INLINE_BYTES;
        let mut rows = Work::default();
        for (i, of) in small.iter().enumerate().filter(|(i, _)| fits(*i)) {
            let user = rows.keep(&work.bytes[of.user.clone()]);
            let (map, entries) = (of.map, of.entries);
            rows.touched.push(Touched { map, height: 0, entries, next: 0, user, written: false });
            let touched = rows.touched.len() - 1;
            let root = rows.keep(built[i].bytes());
            rows.write_head(touched, root);
            let nodes = passed.iter().filter(|(of, _)| *of == i);
            rows.nodes.extend(nodes.map(|&(_, node)| Write { touched, node, bytes: None }));
        }
        if rows.heads.is_empty() { Ok(()) } else { self.write(&rows) }
    }
}

/// How many entries a block has.
fn count(block: &[u8]) -> Result<u64, StateError> {
    let (mut entries, mut count) = (Entries(block), 0);
    while entries.take()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Deals a node's changes out to its children.
fn children(
    changes: &Changes,
    sorted: &[&Change],
    parent: usize,
    target: &Target,
    work: &mut Work,
    targets: &mut Vec<Target>,
) -> Result<(), StateError> {
    let mut entries = Entries(&work.bytes[target.block.clone()]);
    let mut entry = entries.take()?;
    let mut start = target.changes.start;
    let mut found: Vec<(Vec<u8>, u32, Range<usize>)> = Vec::new();
    while let Some((separator, child)) = entry {
        entry = entries.take()?;
        let rest = &sorted[start..target.changes.end];
        let here = match entry {
            Some((next, _)) => rest.partition_point(|change| changes.sub(change) < next),
            None => rest.len(),
        };
        if here > 0 {
            found.push((separator.to_vec(), child_number(child)?, start..start + here));
        }
        start += here;
    }
    for (separator, node, changes) in found {
        let (touched, height, separator) = (target.touched, target.height - 1, work.keep(&separator));
        targets.push(Target { touched, parent, node, height, separator, changes, block: 0..0 });
    }
    Ok(())
}

impl Work {
    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Takes what became of children into their parent, whose entries are then in `built`.
    fn merge_children(&mut self, target: &Target, ups: &[Up]) -> Result<(), StateError> {
        let Self { bytes, built, .. } = self;
        let block = &bytes[target.block.clone()];
        let numbers: Vec<Option<Vec<u8>>> = ups
            .iter()
            .map(|up| {
                up.child.map(|child| {
                    let mut number = Vec::new();
                    super::push_varint(&mut number, child as usize);
                    number
                })
            })
            .collect();
        let changes = ups.iter().zip(&numbers).map(|(up, number)| (&bytes[up.separator.clone()], number.as_deref()));
        built.merge(block, changes)?;
        let first = first_sub(block)?;
        if built.len() > 0 && first_sub(built.bytes())? != first {
            // Where the first child is gone, the next one begins where it did.
            built.rename_first(first)?;
        }
        Ok(())
    }

    /// Writes the node whose entries are in `built`, or removes it where there are none.
    fn finish_node(&mut self, target: &Target, least_entries: usize, ups: &mut Vec<Up>) -> Result<(), StateError> {
        let (touched, parent) = (target.touched, target.parent);
        let built = std::mem::take(&mut self.built);
        let pieces = built.pieces(NODE_BYTES, least_entries);
        if pieces.is_empty() {
            self.nodes.push(Write { touched, node: target.node, bytes: None });
            ups.push(Up { parent, separator: target.separator.clone(), child: None });
        }
        for (i, piece) in pieces.into_iter().enumerate() {
            let piece = &built.bytes()[piece];
            let bytes = Some(self.keep(piece));
            if i == 0 {
                self.nodes.push(Write { touched, node: target.node, bytes });
                continue;
            }
            let node = self.new_node(touched);
            self.nodes.push(Write { touched, node, bytes });
            let separator = self.keep(first_sub(piece)?);
            ups.push(Up { parent, separator, child: Some(node) });
        }
        self.built = built;
        Ok(())
    }

    fn new_node(&mut self, touched: usize) -> u32 {
        let next = &mut self.touched[touched].next;
        *next += 1;
        *next - 1
    }

    /// Writes the row of a map whose root's entries are in `built`; a root that is too large becomes nodes.
    fn finish_root(&mut self, touched: usize, existed: bool) -> Result<(), StateError> {
        let mut built = std::mem::take(&mut self.built);
        if built.len() == 0 {
            self.touched[touched].height = 0;
        }
        loop {
            let height = self.touched[touched].height;
            let (fits, least_entries) = if height == 0 {
                (built.len() <= INLINE_ENTRIES && built.bytes().len() <= INLINE_BYTES, 1)
            } else {
                (built.len() <= LEAST_CHILDREN || built.bytes().len() <= NODE_BYTES, LEAST_CHILDREN)
            };
            if fits {
                break;
            }
            let mut above = Built::default();
            for (i, piece) in built.pieces(NODE_BYTES, least_entries).into_iter().enumerate() {
                let piece = &built.bytes()[piece];
                let node = self.new_node(touched);
                // The first child begins before everything.
                above.push_child(if i == 0 { &[] } else { first_sub(piece)? }, node);
                let bytes = Some(self.keep(piece));
                self.nodes.push(Write { touched, node, bytes });
            }
            built = above;
            self.touched[touched].height += 1;
        }
        let of = &self.touched[touched];
        if of.entries == 0 && of.user.is_empty() {
            if existed {
                self.heads.push((of.map, None));
            }
            self.touched[touched].written = true;
        } else {
            let root = self.keep(built.bytes());
            self.write_head(touched, root);
        }
        self.built = built;
        Ok(())
    }

    fn write_head(&mut self, touched: usize, root: Range<usize>) {
        self.touched[touched].written = true;
        let of = &self.touched[touched];
        let head = Head {
            height: of.height,
            entries: of.entries,
            next: of.next,
            user: &self.bytes[of.user.clone()],
            root: &self.bytes[root],
        };
        let mut row = Vec::new();
        head.write(&mut row);
        let map = of.map;
        let row = self.keep(&row);
        self.heads.push((map, Some(row)));
    }
}
