//! Pages of keys and of rows, and how they are shared with the persist thread: a frozen page is handed over as it is, and
//! copied only when its rows change again while somebody still reads it.

use std::sync::Arc;

use crate::keys::hash;

/// Slots a page. Small enough that a copy is short, large enough that sharing all pages of a gigabyte takes a millisecond.
pub(crate) const PAGE: usize = 1 << PAGE_SHIFT;
const PAGE_SHIFT: u32 = 10;
/// A page whose rows of variable width take so many bytes gets no more of them: what is written to a page that is being read is
/// copied with all its rows, and long rows would make that copy megabytes.
const PAGE_BYTES: usize = 128 << 10;

/// The page of a slot, and the place in it.
#[inline]
pub(crate) fn place(slot: u32) -> (usize, usize) {
    ((slot >> PAGE_SHIFT) as usize, slot as usize & (PAGE - 1))
}

/// Back from [`place`]; `i` may be one past the last.
pub(crate) fn slot(page: u32, i: usize) -> u32 {
    (page << PAGE_SHIFT) + i as u32
}

/// Owned, or shared with a frozen generation.
pub(crate) enum Shareable<T> {
    Owned(T),
    Shared(Arc<T>),
}

impl<T: Clone + Default> Shareable<T> {
    #[inline]
    pub(crate) fn get(&self) -> &T {
        match self {
            Self::Owned(value) => value,
            Self::Shared(value) => value,
        }
    }

    /// To be changed; `copied` is called with what had to be copied because it is still being read.
    #[inline]
    pub(crate) fn owned(&mut self, copied: impl FnOnce(&T)) -> &mut T {
        if let Self::Shared(_) = self {
            self.take_back(copied);
        }
        match self {
            Self::Owned(value) => value,
            Self::Shared(_) => unreachable!("it was taken back above"),
        }
    }

    #[cold]
    fn take_back(&mut self, copied: impl FnOnce(&T)) {
        if let Self::Shared(value) = std::mem::replace(self, Self::Owned(T::default())) {
            *self = Self::Owned(Arc::try_unwrap(value).unwrap_or_else(|shared| {
                copied(&shared);
                T::clone(&shared)
            }));
        }
    }

    pub(crate) fn share(&mut self) -> Arc<T> {
        if let Self::Owned(value) = self {
            *self = Self::Shared(Arc::new(std::mem::take(value)));
        }
        match self {
            Self::Shared(value) => value.clone(),
            Self::Owned(_) => unreachable!("it was shared above"),
        }
    }
}

/// Keys up to this long stand in the entry itself, beside their hash.
const INLINE: usize = 19;
/// The length byte of a key that stands in the page's heap.
const IN_HEAP: u8 = u8::MAX;

/// A key: half of its hash, and its bytes or where they are.
#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    length: u8,
    inline: [u8; INLINE],
}

/// The keys of a page's slots. They are only ever added.
#[derive(Clone, Default)]
pub(crate) struct KeyPage {
    entries: Vec<Entry>,
    groups: Vec<u16>,
    heap: Vec<u8>,
}

impl KeyPage {
    pub(crate) fn heap_bytes(&self) -> usize {
        self.heap.len()
    }

    #[inline]
    pub(crate) fn hash(&self, i: usize) -> u64 {
        hash(self.key(i))
    }

    pub(crate) fn group(&self, i: usize) -> u16 {
        self.groups[i]
    }

    #[inline]
    pub(crate) fn key(&self, i: usize) -> &[u8] {
        let entry = &self.entries[i];
        if entry.length == IN_HEAP {
            let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| entry.inline[at + byte])) as usize;
            let start = word(0);
            return &self.heap[start..start + word(4)];
        }
        &entry.inline[..usize::from(entry.length)]
    }

    #[inline]
    pub(crate) fn is(&self, i: usize, hash: u64, key: &[u8]) -> bool {
        self.entries[i].hash == hash as u32 && self.key(i) == key
    }

    /// Adds a key. Returns the bytes that it takes beyond its entry.
    #[inline]
    pub(crate) fn push(&mut self, hash: u64, group: u16, key: &[u8]) -> usize {
        let mut entry = Entry { hash: hash as u32, length: key.len() as u8, inline: [0; INLINE] };
        let mut extra = 0;
        if key.len() <= INLINE {
            entry.inline[..key.len()].copy_from_slice(key);
        } else {
            entry.length = IN_HEAP;
            entry.inline[..4].copy_from_slice(&(self.heap.len() as u32).to_le_bytes());
            entry.inline[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
            self.heap.extend_from_slice(key);
            extra = key.len();
        }
        self.entries.push(entry);
        self.groups.push(group);
        extra
    }
}

/// The epoch in which a row was last written, and whether that removed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u32);

impl Stamp {
    /// Stands in the backend as it is here.
    pub(crate) const CLEAN: Self = Self(0);
    const REMOVED: u32 = 1 << 31;

    #[inline]
    pub(crate) fn written(epoch: u32) -> Self {
        Self(epoch)
    }

    pub(crate) fn removed(epoch: u32) -> Self {
        Self(epoch | Self::REMOVED)
    }

    pub(crate) fn epoch(self) -> u32 {
        self.0 & !Self::REMOVED
    }

    #[inline]
    pub(crate) fn is_removed(self) -> bool {
        self.0 & Self::REMOVED != 0
    }
}

#[derive(Clone, Copy, Default)]
struct Span {
    at: u32,
    length: u32,
    capacity: u32,
}

/// Rows are moved together when more than this, and more than half of a page's bytes, are no row's any more.
const GARBAGE: usize = 4096;

/// The rows of a page's slots.
#[derive(Clone, Default)]
pub(crate) struct RowPage {
    stamps: Vec<Stamp>,
    data: Vec<u8>,
    /// Of rows that vary in width; else empty.
    spans: Vec<Span>,
    garbage: usize,
}

impl RowPage {
    pub(crate) fn len(&self) -> usize {
        self.stamps.len()
    }

    pub(crate) fn data_bytes(&self) -> usize {
        self.data.len()
    }

    /// No row is to be added.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.stamps.len() == PAGE || (!self.spans.is_empty() && self.data.len() >= PAGE_BYTES)
    }

    #[inline]
    pub(crate) fn stamp(&self, i: usize) -> Stamp {
        self.stamps[i]
    }

    /// Returns what it was.
    #[inline]
    pub(crate) fn set_stamp(&mut self, i: usize, stamp: Stamp) -> Stamp {
        std::mem::replace(&mut self.stamps[i], stamp)
    }

    /// Adds a row: zeroes of this width, or an empty one.
    #[inline]
    pub(crate) fn push(&mut self, width: Option<usize>, stamp: Stamp) {
        self.stamps.push(stamp);
        match width {
            Some(width) => self.data.resize(self.data.len() + width, 0),
            None => self.spans.push(Span::default()),
        }
    }

    #[inline]
    pub(crate) fn row(&self, i: usize, width: Option<usize>) -> &[u8] {
        match width {
            Some(width) => &self.data[i * width..(i + 1) * width],
            None => {
                let span = self.spans[i];
                &self.data[span.at as usize..][..span.length as usize]
            }
        }
    }

    #[inline]
    pub(crate) fn row_mut(&mut self, i: usize, width: usize) -> &mut [u8] {
        &mut self.data[i * width..(i + 1) * width]
    }

    pub(crate) fn set(&mut self, i: usize, width: Option<usize>, row: &[u8]) {
        if let Some(width) = width {
            self.row_mut(i, width).copy_from_slice(row);
            return;
        }
        let span = &mut self.spans[i];
        if row.len() > span.capacity as usize {
            self.garbage += span.capacity as usize;
            // A row that grows gets half as much again, so that one that grows little by little is not moved each time.
            let room = if span.capacity > 0 { row.len() / 2 } else { 0 };
            let capacity = (row.len() + room).next_multiple_of(8);
            *span = Span { at: self.data.len() as u32, length: 0, capacity: capacity as u32 };
            self.data.resize(self.data.len() + capacity, 0);
        }
        span.length = row.len() as u32;
        let at = span.at as usize;
        self.data[at..at + row.len()].copy_from_slice(row);
        if self.garbage > GARBAGE && self.garbage > self.data.len() / 2 {
            self.compact();
        }
    }

    /// Makes a row zeroes, or empty.
    pub(crate) fn clear(&mut self, i: usize, width: Option<usize>) {
        match width {
            Some(width) => self.row_mut(i, width).fill(0),
            None => {
                self.garbage += self.spans[i].capacity as usize;
                self.spans[i] = Span::default();
            }
        }
    }

    fn compact(&mut self) {
        let mut data = Vec::with_capacity(self.data.len() - self.garbage);
        for span in &mut self.spans {
            let at = data.len() as u32;
            data.extend_from_slice(&self.data[span.at as usize..][..span.capacity as usize]);
            span.at = at;
        }
        self.data = data;
        self.garbage = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_length_are_found_as_they_were_added() {
        let mut page = KeyPage::default();
        let keys: Vec<Vec<u8>> = (0..60).map(|n| vec![n as u8; n]).collect();
        for (i, key) in keys.iter().enumerate() {
            page.push(i as u64, 7, key);
        }
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(page.key(i), key);
            assert!(page.is(i, i as u64, key));
            assert!(!page.is(i, 99, key));
        }
    }

    #[test]
    fn variable_rows_survive_growing_shrinking_and_being_moved_together() {
        let mut page = RowPage::default();
        for _ in 0..100 {
            page.push(None, Stamp::written(1));
        }
        let mut expected = vec![Vec::new(); 100];
        for round in 0..200usize {
            let i = round * 37 % 100;
            expected[i] = vec![round as u8; round * 13 % 300];
            page.set(i, None, &expected[i]);
        }
        for (i, row) in expected.iter().enumerate() {
            assert_eq!(page.row(i, None), row);
        }
        assert!(page.data.len() < 100 * 304 + 2 * GARBAGE);
    }

    #[test]
    fn a_row_that_grows_little_by_little_is_moved_a_few_times_only() {
        let mut page = RowPage::default();
        page.push(None, Stamp::written(1));
        let mut row = Vec::new();
        let mut moved = 0;
        for byte in 0..4096u32 {
            row.push(byte as u8);
            let before = page.spans[0].at;
            page.set(0, None, &row);
            moved += u32::from(page.spans[0].at != before);
        }
        assert_eq!(page.row(0, None), row);
        assert!(moved < 40, "{moved} moves");
    }

    #[test]
    fn a_page_of_long_rows_is_full_early() {
        let mut page = RowPage::default();
        while !page.is_full() {
            page.push(None, Stamp::written(1));
            page.set(page.len() - 1, None, &[7; 2048]);
        }
        assert_eq!(page.len(), PAGE_BYTES / 2048);
    }

    #[test]
    fn a_shared_page_is_copied_only_while_somebody_reads_it() {
        let mut page = Shareable::Owned(vec![1]);
        let frozen = page.share();
        let mut copies = 0;
        page.owned(|_| copies += 1).push(2);
        assert_eq!((&*frozen, page.get(), copies), (&vec![1], &vec![1, 2], 1));
        drop(page.share());
        page.owned(|_| copies += 1).push(3);
        assert_eq!(copies, 1);
    }
}
