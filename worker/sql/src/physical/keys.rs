//! Upsert keys: the columns by which a later row of a changelog replaces an earlier one. A sink that writes by primary key needs no
//! row before an update where that is one of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::CastExpr;
use weir_engine::Exchange;
use weir_operators::{TopNSpec, WindowTopNSpec};

use crate::logical::nodes::WINDOW_COLUMNS;
use crate::physical::ops::{Calc, Join, Op, passed};
use crate::physical::traits::Traits;

/// Columns that together are a key.
pub type Key = BTreeSet<usize>;

/// A projection can give a column many names; so many keys are kept.
const MOST_KEYS: usize = 16;

/// All that are known, the best first. A key without columns says that there is one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpsertKeys(Vec<Key>);

impl UpsertKeys {
    fn one(columns: impl IntoIterator<Item = usize>) -> Self {
        Self(vec![columns.into_iter().collect()])
    }

    /// No key is known.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The first.
    pub fn first(&self) -> Option<&Key> {
        self.0.first()
    }

    /// These columns, and no others, are a key.
    pub fn is_key(&self, columns: &Key) -> bool {
        self.0.contains(columns)
    }

    /// A key is among these columns.
    pub fn is_within(&self, columns: &Key) -> bool {
        self.0.iter().any(|key| key.is_subset(columns))
    }

    /// All of these columns are in one key: an update changes none of them.
    pub fn covers(&self, columns: &Key) -> bool {
        self.0.iter().any(|key| columns.is_subset(key))
    }
}

#[cfg(test)]
impl From<&[&[usize]]> for UpsertKeys {
    fn from(keys: &[&[usize]]) -> Self {
        Self(keys.iter().map(|key| key.iter().copied().collect()).collect())
    }
}

/// Of a node that does this.
pub fn upsert_keys(op: &Op, below: &[&Traits], schema: &SchemaRef) -> UpsertKeys {
    let first = || below.first().map_or_else(UpsertKeys::none, |input| input.keys.clone());
    let column = |name: &str| schema.fields().iter().rposition(|field| field.name() == name);
    match op {
        Op::Scan(scan) => scan.primary_key.clone().map_or_else(UpsertKeys::none, UpsertKeys::one),
        Op::Calc(calc) => through(&first(), calc, below.first().map(|input| &input.schema)),
        Op::SessionAssign(_) | Op::Over(_) | Op::Sink(_) => first(),
        Op::Expand(spec) => {
            let number = schema.fields().len().saturating_sub(1);
            let own = first().0.into_iter().filter(|key| key.iter().all(|&column| column < spec.keep));
            UpsertKeys(own.map(|key| key.into_iter().chain([number]).collect()).collect())
        }
        Op::WindowAssign(spec) if spec.window.size == spec.window.slide => first(),
        // Each row is there once for each of its windows.
        Op::WindowAssign(_) => match column(WINDOW_COLUMNS[1]) {
            Some(end) => UpsertKeys(first().0.into_iter().map(|key| key.into_iter().chain([end]).collect()).collect()),
            None => UpsertKeys::none(),
        },
        Op::Aggregate(aggregate) => UpsertKeys::one(0..aggregate.aggregation.group.len()),
        Op::WindowAggregate(spec) => {
            let groups = 0..spec.aggregation.group.len();
            column(WINDOW_COLUMNS[1]).map_or_else(UpsertKeys::none, |end| UpsertKeys::one(groups.chain([end])))
        }
        Op::Deduplicate(dedup) => UpsertKeys::one(dedup.spec.keys.iter().copied()),
        Op::UpsertMaterialize(spec) => UpsertKeys::one(spec.key.iter().copied()),
        Op::Conflict(spec) => UpsertKeys::one(spec.key.iter().copied()),
        Op::TopN(top) => {
            let TopNSpec { partition, from, to, .. } = &top.spec;
            let partition = partition.iter().copied();
            let mut all = first().0;
            if top.updates() {
                let number = (from != to).then(|| schema.fields().len() - 1);
                // The number says which row replaces which.
                all.insert(0, partition.chain(number).collect());
            }
            UpsertKeys(all)
        }
        Op::WindowTopN(top) => {
            let WindowTopNSpec { partition, from, to, .. } = &top.spec;
            let number = (from != to).then(|| top.spec.rank.as_ref().map(|_| schema.fields().len() - 1));
            let mut all = first().0;
            match number {
                None => all.insert(0, partition.iter().copied().collect()),
                Some(Some(number)) => all.insert(0, partition.iter().copied().chain([number]).collect()),
                Some(None) => {}
            }
            UpsertKeys(all)
        }
        Op::Join(join) => match below {
            [left, right] => joined(join, &left.keys, &right.keys),
            _ => UpsertKeys::none(),
        },
        Op::Exchange(Exchange::Hash { keys }) if below.len() == 1 => along(&first(), keys, below),
        Op::Exchange(_) | Op::Union if below.len() == 1 => first(),
        // Rows of two inputs may have the same key and replace nothing.
        Op::Exchange(_) | Op::Union | Op::LocalAggregate(_) | Op::Lookup(_) => UpsertKeys::none(),
    }
}

/// The keys whose rows stay together behind an exchange by these columns. Where an update changes such a column, the row before it and
/// the row after it take two ways, and the later one may come first: of a key that does not have them all nothing more is known.
fn along(keys: &UpsertKeys, by: &[usize], below: &[&Traits]) -> UpsertKeys {
    if below.iter().all(|input| !input.kinds.changes()) {
        return keys.clone();
    }
    UpsertKeys(keys.iter().filter(|key| by.iter().all(|column| key.contains(column))).cloned().collect())
}

/// Where a row finds at most one on the other side, its own key is the key of both; else the two keys together are.
fn joined(join: &Join, left: &UpsertKeys, right: &UpsertKeys) -> UpsertKeys {
    let own = |keys: &UpsertKeys, width: usize| -> Vec<Key> {
        keys.iter().filter(|key| key.iter().all(|&column| column < width)).cloned().collect()
    };
    let (lefts, rights) = (own(left, join.widths.0), own(right, join.widths.1));
    match Join::sides_of(join.kind) {
        (true, false) => return UpsertKeys(lefts),
        (false, _) => return UpsertKeys(rights),
        (true, true) => {}
    }
    let moved = |key: &Key| -> Key { key.iter().map(|column| column + join.widths.0).collect() };
    let (by_left, by_right): (Key, Key) = join.keys.iter().copied().unzip();
    let (alone_left, alone_right) = join.stand_alone();
    let mut all: Vec<Key> = Vec::new();
    // The columns of a side are null where the other's row stands alone: they are no key then.
    if right.is_within(&by_right) && !alone_right {
        all.extend(lefts.iter().cloned());
    }
    if left.is_within(&by_left) && !alone_left {
        all.extend(rights.iter().map(moved));
    }
    all.extend(
        lefts.iter().flat_map(|one| rights.iter().map(move |other| one.union(&moved(other)).copied().collect())),
    );
    all.truncate(MOST_KEYS);
    UpsertKeys(all)
}

/// The keys whose columns a projection passes on, under each of their new names.
fn through(keys: &UpsertKeys, calc: &Calc, input: Option<&SchemaRef>) -> UpsertKeys {
    let mut all: Vec<Key> = Vec::new();
    for key in keys.iter() {
        let mut made = vec![Key::new()];
        for column in key {
            let named = calc.columns.iter().enumerate().filter(|(_, expr)| kept(expr, input) == Some(*column));
            let places: Vec<usize> = named.map(|(place, _)| place).take(MOST_KEYS).collect();
            let with = |key: &Key, place: usize| key.iter().copied().chain([place]).collect::<Key>();
            made =
                made.iter().flat_map(|key| places.iter().map(move |place| with(key, *place))).take(MOST_KEYS).collect();
        }
        all.extend(made);
    }
    all.truncate(MOST_KEYS);
    UpsertKeys(all)
}

/// The column that an expression keeps apart as it was: unchanged, or in a wider type.
fn kept(expr: &Arc<dyn PhysicalExpr>, input: Option<&SchemaRef>) -> Option<usize> {
    if let Some(column) = passed(expr) {
        return Some(column);
    }
    let cast = expr.downcast_ref::<CastExpr>()?;
    let column = passed(cast.expr())?;
    let from = input?.fields().get(column)?.data_type();
    widens(from, cast.cast_type()).then_some(column)
}

/// Whether every value of one type is a value of its own in the other.
fn widens(from: &DataType, to: &DataType) -> bool {
    let width = |data_type: &DataType| match data_type {
        DataType::Int8 => Some(1),
        DataType::Int16 => Some(2),
        DataType::Int32 => Some(3),
        DataType::Int64 => Some(4),
        _ => None,
    };
    from == to || width(from).is_some_and(|from| width(to).is_some_and(|to| from <= to))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion_common::JoinType;
    use datafusion_physical_expr::expressions::{Column, cast};

    use super::*;

    type Pairs = &'static [(usize, usize)];
    type Keys = &'static [&'static [usize]];

    #[test]
    fn a_projection_keeps_the_keys_whose_columns_it_passes_on_or_widens() {
        let fields = [("a", DataType::Int32), ("b", DataType::Int64), ("c", DataType::Utf8)];
        let schema = Arc::new(Schema::new(fields.map(|(name, of)| Field::new(name, of, true)).to_vec()));
        let column = |at: usize| Arc::new(Column::new(schema.field(at).name(), at)) as Arc<dyn PhysicalExpr>;
        let wider = |at: usize| cast(column(at), &schema, DataType::Int64).unwrap();
        let narrower = |at: usize| cast(column(at), &schema, DataType::Int16).unwrap();
        let keys = |given: &[&[usize]], columns: Vec<Arc<dyn PhysicalExpr>>| {
            through(&given.into(), &Calc { predicate: None, columns }, Some(&schema))
        };
        assert_eq!(keys(&[&[0, 1]], vec![column(2), column(1), column(0)]), [&[1, 2][..]].as_slice().into());
        assert_eq!(keys(&[&[0, 1]], vec![column(0)]), UpsertKeys::none());
        assert_eq!(keys(&[&[0]], vec![column(1), wider(0)]), [&[1][..]].as_slice().into());
        assert_eq!(keys(&[&[0]], vec![narrower(0)]), UpsertKeys::none());
        assert_eq!(keys(&[&[0]], vec![column(0), column(0)]), [&[0][..], &[1]].as_slice().into());
        assert_eq!(keys(&[&[]], vec![column(2)]), [&[][..]].as_slice().into(), "one row stays one row");
        assert_eq!(keys(&[&[0], &[1]], vec![column(1)]), [&[0][..]].as_slice().into());
    }

    #[test]
    fn a_join_keeps_the_key_of_a_side_whose_rows_find_at_most_one_and_else_has_both_together() {
        use datafusion_common::JoinType::{Full, Inner, Left, LeftAnti, LeftSemi, Right};
        let join = |kind, keys: &[(usize, usize)]| Join {
            kind,
            keys: keys.to_vec(),
            widths: (2, 2),
            nulls_match: false,
            null_aware: false,
            residual: None,
            within: None,
        };
        let one: UpsertKeys = [&[0][..]].as_slice().into();
        let cases: [(JoinType, Pairs, Keys); 9] = [
            (Inner, &[(1, 0)], &[&[0], &[0, 2]]),
            (Inner, &[(0, 1)], &[&[2], &[0, 2]]),
            (Inner, &[(0, 0)], &[&[0], &[2], &[0, 2]]),
            (Inner, &[(1, 1)], &[&[0, 2]]),
            (Left, &[(0, 0)], &[&[0], &[0, 2]]),
            (Right, &[(0, 0)], &[&[2], &[0, 2]]),
            (Full, &[(0, 0)], &[&[0, 2]]),
            (LeftSemi, &[(1, 1)], &[&[0]]),
            (LeftAnti, &[(1, 1)], &[&[0]]),
        ];
        for (kind, keys, expected) in cases {
            assert_eq!(joined(&join(kind, keys), &one, &one), expected.into(), "{kind} on {keys:?}");
        }
        let none = UpsertKeys::none();
        assert_eq!(joined(&join(Inner, &[(0, 0)]), &none, &one), UpsertKeys::none());
        // A key that is computed for the join is no column of what comes out.
        let computed: UpsertKeys = [&[2][..]].as_slice().into();
        assert_eq!(joined(&join(LeftSemi, &[(2, 0)]), &computed, &one), UpsertKeys::none());
    }

    #[test]
    fn a_key_covers_what_is_in_it_and_stands_for_what_holds_it() {
        let keys: UpsertKeys = [&[0, 1][..], &[3]].as_slice().into();
        assert!(keys.is_key(&Key::from([0, 1])) && !keys.is_key(&Key::from([0])));
        assert!(keys.covers(&Key::from([1])) && !keys.covers(&Key::from([1, 3])));
        assert!(keys.is_within(&Key::from([2, 3])) && !keys.is_within(&Key::from([0, 2])));
    }
}
