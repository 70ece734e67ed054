//! The regular join: each row is joined with all rows of the other side that have come so far, and stays until it is taken back.
//!
//! A batch comes of one side, and its rows meet each other only in what they match: so it is joined a run of rows at a time, with
//! the other side's entries of all their keys read at once. A row with more partners than are held at once is a run of its own,
//! and meets them a part at a time. What comes of a run is a list of pairs of indices, in the order in which Flink would put them
//! out a row at a time: before a row loses its nulls they are taken back, and `-D` stands before `+I`. An update is a `-D` and a `+I`.
//!
//! | join | a row of the left | a row of the right |
//! |---|---|---|
//! | inner | beside each partner | the same |
//! | left, right, full | of a preserved side: beside nulls while it has no partner | the same |
//! | semi | if it has a partner | the first brings its partners, the last takes them back |
//! | anti | if it has none | the first takes its partners back, the last brings them |
//!
//! A null in a key matches nothing: such a row is put out at once if that is what becomes of a row without a partner, and is
//! never kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::utils::collect_columns;
use weir_engine::{
    Batch, Operator, OperatorContext, OperatorError, OperatorFactory, OperatorSnapshot, Output, PIECE_ROWS, Progress,
    RowKind,
};
use weir_state::TableShape;

use crate::aggregate::ingest::RowGroups;
use crate::join::emission::{Emission, Sources};
use crate::join::side::{Entries, Incoming, MAX_ENTRIES, Place, Side, SideState, columns};
use crate::rows::column::{selection, take_columns};
use crate::spec::{JoinInput, JoinKind, RegularJoinSpec, SpecError, schema_of};
use crate::stateless::project::{evaluate, renumber};

/// Pairs of a run, about: enough that what is done once a run costs little.
const RUN_PAIRS: u64 = 1 << 14;

const LEFT: usize = 0;

/// `a JOIN b ON …`, over rows that may change.
///
/// State: all rows of both sides, by their key.
#[derive(Debug, Clone)]
pub struct RegularJoin {
    sides: [Side; 2],
    kind: JoinKind,
    /// Nulls of this key column match each other.
    nulls_match: Vec<bool>,
    residual: Option<Residual>,
    output: SchemaRef,
}

/// What must hold of a pair beside its keys.
#[derive(Debug, Clone)]
pub struct Residual {
    expression: Arc<dyn PhysicalExpr>,
    /// The columns that it reads, by side, in its order: those of the left, then those of the right.
    pub needed: [Vec<usize>; 2],
    schema: SchemaRef,
}

impl RegularJoin {
    /// Checks the spec. The output has the left side's columns and then the right side's; of semi and anti joins only the left's.
    pub fn new(spec: RegularJoinSpec) -> Result<Self, SpecError> {
        let RegularJoinSpec { left, right, kind, nulls_match, residual } = spec;
        if left.keys.len() != right.keys.len() || nulls_match.len() != left.keys.len() {
            return Err(SpecError::Unsupported(
                "a join whose sides have keys of different numbers of columns".to_owned(),
            ));
        }
        for (&l, &r) in left.keys.iter().zip(&right.keys) {
            let (of_left, of_right) = (crate::spec::field(&left.schema, l)?, crate::spec::field(&right.schema, r)?);
            if of_left.data_type() != of_right.data_type() {
                return Err(SpecError::Unsupported(format!(
                    "a join of `{}`, {}, with `{}`, {}: both must be cast to one type",
                    of_left.name(),
                    of_left.data_type(),
                    of_right.name(),
                    of_right.data_type()
                )));
            }
        }
        let residual = residual.map(|expression| Residual::new(&expression, &left.schema, &right.schema));
        let output = output_schema(&left, &right, kind);
        let [keeps_left, keeps_right] = kind.counts_matches();
        let sides = [Side::new("left", left, keeps_left)?, Side::new("right", right, keeps_right)?];
        Ok(Self { sides, kind, nulls_match, residual, output })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }
}

/// The columns of both sides, or of the left; those of a side that may be missing can be null.
pub fn output_schema(left: &JoinInput, right: &JoinInput, kind: JoinKind) -> SchemaRef {
    let of = |side: &JoinInput, nullable: bool| {
        let fields = side.schema.fields().iter().take(side.outputs).map(|field| field.as_ref().clone());
        fields.map(|field| if nullable { field.with_nullable(true) } else { field }).collect::<Vec<Field>>()
    };
    let [pads_left, pads_right] = kind.preserves();
    if kind.puts_out_left_only() {
        return schema_of(of(left, false));
    }
    // The left side is missing beside a preserved row of the right.
    schema_of([of(left, pads_right), of(right, pads_left)].concat())
}

impl Residual {
    pub fn new(expression: &Arc<dyn PhysicalExpr>, left: &Schema, right: &Schema) -> Self {
        let mut all: Vec<usize> = collect_columns(expression).iter().map(Column::index).collect();
        all.sort_unstable();
        all.dedup();
        let width = left.fields().len();
        let expression = renumber(expression, &|index| all.iter().position(|n| *n == index).unwrap_or(index));
        let (of_left, of_right): (Vec<usize>, Vec<usize>) = all.into_iter().partition(|index| *index < width);
        let of_right: Vec<usize> = of_right.into_iter().map(|index| index - width).collect();
        let fields = of_left.iter().map(|&i| left.field(i)).chain(of_right.iter().map(|&i| right.field(i)));
        let schema = schema_of(fields.map(|field| field.clone().with_nullable(true)).collect());
        Self { expression, needed: [of_left, of_right], schema }
    }

    /// Which of these pairs it lets through.
    pub fn judge(
        &self,
        left: Vec<ArrayRef>,
        right: Vec<ArrayRef>,
        pairs: usize,
    ) -> Result<BooleanArray, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(pairs));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), [left, right].concat(), &options)?;
        let judged = evaluate(&self.expression, &rows)?;
        if judged.data_type() != &DataType::Boolean {
            let (condition, found) = (&self.expression, judged.data_type());
            return Err(OperatorError::operator(format!("the join's condition `{condition}` is {found}, not BOOLEAN")));
        }
        Ok(BooleanArray::new(selection(&judged), None))
    }
}

impl OperatorFactory for RegularJoin {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let [left, right] = &self.sides;
        let states = [left.open(&ctx.state, &ctx.identity)?, right.open(&ctx.state, &ctx.identity)?];
        Ok(Box::new(Task {
            spec: self.clone(),
            states,
            groups: RowGroups::default(),
            entries: Entries::default(),
            incoming: Incoming::default(),
            emission: Emission::default(),
            others: Vec::new(),
            current: None,
        }))
    }

    fn tables(&self) -> Vec<TableShape> {
        self.sides.iter().flat_map(Side::shapes).collect()
    }
}

struct Task {
    spec: RegularJoin,
    states: [SideState; 2],
    groups: RowGroups,
    /// The other side's entries of the run.
    entries: Entries,
    incoming: Incoming,
    emission: Emission,
    /// The columns of the other side's rows that are put out.
    others: Vec<ArrayRef>,
    current: Option<Current>,
}

/// A batch that is being joined.
struct Current {
    input: usize,
    batch: Batch,
    /// The key of each row, of those that are open; none where it has a null.
    groups: Vec<Option<u32>>,
    /// The first row that is not joined yet.
    next: usize,
    /// A row that is being joined with a part of its partners at a time.
    large: Option<Large>,
}

/// How far a row with many partners has got.
struct Large {
    place: Place,
    matches: u64,
}

/// The pairs of a run that match: a row of the batch and an entry, in the order of the rows.
type Pairs = Vec<(u32, u32)>;

impl Operator for Task {
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let side = &self.spec.sides[input];
        if side.is_only_added_to() && (0..batch.len()).any(|row| !batch.kind(row).is_addition()) {
            return Err(OperatorError::operator(
                "rows that take others back came into a join that was planned for a side without such",
            ));
        }
        let keys = columns(&batch.rows, &side.keys);
        self.groups.group(&keys, batch.len())?;
        self.incoming.begin(side, &batch.rows)?;
        let groups = self.key_of_each_row(&keys, batch.len());
        for state in &mut self.states {
            state.find_keys(&self.groups.keys, self.groups.first())?;
        }
        self.current = Some(Current { input, batch, groups, next: 0, large: None });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while let Some(mut current) = self.current.take() {
            if let Some(piece) = self.next_piece(&current)? {
                self.current = Some(current);
                out.emit(piece)?;
                if out.is_full() {
                    return Ok(Progress::More);
                }
            } else if current.next < current.batch.len() {
                self.join_run(&mut current)?;
                self.current = Some(current);
            }
        }
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        self.states.iter_mut().for_each(|state| state.freeze(snapshot));
        Ok(())
    }
}

impl Task {
    fn key_of_each_row(&self, keys: &[ArrayRef], rows: usize) -> Vec<Option<u32>> {
        let strict = keys.iter().zip(&self.spec.nulls_match).filter(|(_, nulls_match)| !**nulls_match);
        let nulls: Vec<_> = strict.filter_map(|(key, _)| key.logical_nulls()).filter(|n| n.null_count() > 0).collect();
        let group = |row: usize| nulls.iter().all(|nulls| nulls.is_valid(row)).then(|| self.groups.of_row[row]);
        (0..rows).map(group).collect()
    }

    fn next_piece(&mut self, current: &Current) -> Result<Option<Batch>, OperatorError> {
        let left_only = self.spec.kind.puts_out_left_only();
        let is_left = current.input == LEFT;
        let sources = Sources {
            own: (is_left || !left_only)
                .then(|| &current.batch.rows.columns()[..self.spec.sides[current.input].outputs.len()]),
            other: (!is_left || !left_only).then_some(&self.others[..]),
            other_first: !is_left,
            schema: &self.spec.output,
        };
        self.emission.next(&sources)
    }

    /// Joins the next rows.
    fn join_run(&mut self, current: &mut Current) -> Result<(), OperatorError> {
        self.emission.clear();
        let own = current.input;
        let rows = self.read_run(current)?;
        let first_part = current.large.is_none();
        let pairs = self.matching_pairs(current, rows.clone())?;
        if first_part {
            self.incoming.find(&mut self.states[own], &current.batch.rows, rows.clone(), &current.groups)?;
        }
        let before = current.large.take().map_or(0, |large| large.matches);
        let rest = self.entries.rest.take();
        let mut used = Used::new(self.entries.list.len());
        let mut at = 0;
        for row in rows.clone() {
            let end = at + pairs[at..].iter().take_while(|(of, _)| *of as usize == row).count();
            let found: u64 = pairs[at..end].iter().map(|(_, entry)| self.entries.list[*entry as usize].times).sum();
            let partners = Partners { pairs: &pairs[at..end], matches: before + found, all: rest.is_none() };
            self.join_row(current, row, &partners, &mut used);
            at = end;
        }
        let side = &self.spec.sides[1 - own];
        let partners: Vec<&[u8]> = used.entries.iter().map(|&entry| self.entries.row(entry as usize)).collect();
        self.others = side.codec.decode_columns(&side.outputs, &partners)?;
        self.states[1 - own].store_matches(&self.entries)?;
        match rest {
            Some(place) => {
                let found: u64 = pairs.iter().map(|(_, entry)| self.entries.list[*entry as usize].times).sum();
                current.large = Some(Large { place, matches: before + found });
            }
            None => {
                self.incoming.store(&mut self.states[own])?;
                current.next = rows.end;
            }
        }
        Ok(())
    }

    /// Reads what the next rows can match, as many of them as are joined at once, or a part for one.
    fn read_run(&mut self, current: &Current) -> Result<std::ops::Range<usize>, OperatorError> {
        let Self { states, entries, .. } = self;
        let other = &mut states[1 - current.input];
        let start = current.next;
        if let (Some(large), Some(group)) = (&current.large, current.groups[start]) {
            other.read_part(group, Some(&large.place), entries)?;
            return Ok(start..start + 1);
        }
        let mut end = run_end(other, current)?;
        loop {
            let mut keys: Vec<u32> = current.groups[start..end].iter().copied().flatten().collect();
            keys.sort_unstable();
            keys.dedup();
            if other.read_all(&keys, entries)? {
                return Ok(start..end);
            }
            if end == start + 1 {
                if let Some(group) = current.groups[start] {
                    other.read_part(group, None, entries)?;
                }
                return Ok(start..end);
            }
            end = start + (end - start).div_ceil(2);
        }
    }

    /// The pairs of these rows with the entries that are held, without those that the condition does not let through.
    fn matching_pairs(&self, current: &Current, rows: std::ops::Range<usize>) -> Result<Pairs, OperatorError> {
        let list = &self.entries.list;
        // Entries are in the order of their groups.
        let of_group = |group: u32| {
            let start = list.partition_point(|entry| entry.group < group);
            let length = list[start..].partition_point(|entry| entry.group == group);
            start as u32..(start + length) as u32
        };
        let groups = rows.filter_map(|row| Some((row as u32, current.groups[row]?)));
        let all: Pairs = groups.flat_map(|(row, group)| of_group(group).map(move |entry| (row, entry))).collect();
        let Some(residual) = self.spec.residual.as_ref().filter(|_| !all.is_empty()) else { return Ok(all) };
        let own = current.input;
        let own_columns = columns(&current.batch.rows, &residual.needed[own]);
        let rows: Vec<&[u8]> = (0..list.len()).map(|entry| self.entries.row(entry)).collect();
        let other_columns = self.spec.sides[1 - own].codec.decode_columns(&residual.needed[1 - own], &rows)?;
        let mut matching = Pairs::new();
        for pairs in all.chunks(PIECE_ROWS) {
            let own_rows: UInt32Array = pairs.iter().map(|pair| pair.0).collect::<Vec<_>>().into();
            let other_rows: UInt32Array = pairs.iter().map(|pair| pair.1).collect::<Vec<_>>().into();
            let (own_columns, other_columns) =
                (take_columns(&own_columns, &own_rows)?, take_columns(&other_columns, &other_rows)?);
            let [left, right] = if own == LEFT { [own_columns, other_columns] } else { [other_columns, own_columns] };
            let judged = residual.judge(left, right, pairs.len())?;
            matching.extend(judged.values().set_indices().map(|pair| pairs[pair]));
        }
        Ok(matching)
    }

    /// What comes of one row.
    fn join_row(&mut self, current: &Current, row: usize, partners: &Partners<'_>, used: &mut Used) {
        let own = current.input;
        let group = current.groups[row];
        let adds = current.batch.kind(row).is_addition();
        // What was never there cannot be taken back. A row whose key has a null was put out and not kept.
        if !adds && group.is_some() && !self.incoming.is_there(row) {
            return;
        }
        if self.spec.kind.puts_out_left_only() {
            if own == LEFT {
                let wanted = (partners.matches > 0) == (self.spec.kind == JoinKind::Semi);
                if partners.all && wanted {
                    self.emission.push(plain(adds), Some(row as u32), None, 1);
                }
            } else {
                self.meet_left(adds, partners, used);
            }
        } else {
            self.meet(current, row, partners, used);
        }
        let Some(group) = group.filter(|_| partners.all) else { return };
        if adds {
            self.incoming.add(&self.spec.sides[own], row, group, partners.matches);
        } else {
            self.incoming.remove(row);
        }
    }

    /// A row of the right side of a semi or anti join.
    fn meet_left(&mut self, adds: bool, partners: &Partners<'_>, used: &mut Used) {
        let brings = if adds == (self.spec.kind == JoinKind::Semi) { RowKind::Insert } else { RowKind::Delete };
        for &(_, entry) in partners.pairs {
            let Self { entries, emission, .. } = &mut *self;
            let (times, matches) = (entries.list[entry as usize].times, entries.list[entry as usize].matches);
            let now = if adds { matches.saturating_add(1) } else { matches.saturating_sub(1) };
            if (matches == 0) != (now == 0) {
                emission.push(brings, None, Some(used.of(entry)), times);
            }
            entries.set_matches(entry as usize, now);
        }
    }

    /// A row of a join that puts out both sides.
    fn meet(&mut self, current: &Current, row: usize, partners: &Partners<'_>, used: &mut Used) {
        let preserves = self.spec.kind.preserves();
        let (own_is_preserved, other_is_preserved) = (preserves[current.input], preserves[1 - current.input]);
        let adds = current.batch.kind(row).is_addition();
        let row = Some(row as u32);
        let kind = plain(adds);
        let Self { entries, emission, .. } = self;
        for &(_, entry) in partners.pairs {
            let (times, matches) = (entries.list[entry as usize].times, entries.list[entry as usize].matches);
            let other = Some(used.of(entry));
            if other_is_preserved && adds && matches == 0 {
                emission.push(RowKind::Delete, None, other, times);
            }
            emission.push(kind, row, other, times);
            if other_is_preserved {
                let now = if adds { matches.saturating_add(1) } else { matches.saturating_sub(1) };
                if !adds && now == 0 {
                    emission.push(RowKind::Insert, None, other, times);
                }
                entries.set_matches(entry as usize, now);
            }
        }
        if own_is_preserved && partners.all && partners.matches == 0 {
            emission.push(kind, row, None, 1);
        }
    }
}

/// What comes of a row that is there now, or no more. An update is both: the row before it may have had partners that the row after
/// it has not, and nobody could tell that such a row is gone for good.
fn plain(adds: bool) -> RowKind {
    if adds { RowKind::Insert } else { RowKind::Delete }
}

/// The rows that one row is joined with.
struct Partners<'a> {
    pairs: &'a [(u32, u32)],
    /// How many they are, with those of the parts before.
    matches: u64,
    /// No more of them will come.
    all: bool,
}

/// The entries that are put out, and where they stand among these.
struct Used {
    place: Vec<u32>,
    entries: Vec<u32>,
}

impl Used {
    fn new(entries: usize) -> Self {
        Self { place: vec![u32::MAX; entries], entries: Vec::new() }
    }

    fn of(&mut self, entry: u32) -> u32 {
        let place = &mut self.place[entry as usize];
        if *place == u32::MAX {
            *place = self.entries.len() as u32;
            self.entries.push(entry);
        }
        *place
    }
}

/// Where the run ends that begins with the next row: before there is more than can be held. It has one row at least.
fn run_end(other: &mut SideState, current: &Current) -> Result<usize, OperatorError> {
    let start = current.next;
    let (mut entries, mut pairs) = (0_u64, 0_u64);
    let mut seen = hashbrown::HashSet::new();
    for (row, group) in current.groups.iter().enumerate().skip(start) {
        let Some(group) = *group else { continue };
        let partners = other.len(group)?;
        pairs += partners;
        if seen.insert(group) {
            entries += partners;
        }
        if row > start && (pairs > RUN_PAIRS || entries > MAX_ENTRIES as u64) {
            return Ok(row);
        }
    }
    Ok(current.batch.len())
}
