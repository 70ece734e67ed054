//! What the tables of aggregations are, for the parts of checkpoints.

use weir_state::{MapTable, RowLayout, TableKind, TableShape, type_name};

use crate::aggregate::ingest::map_layout;
use crate::aggregate::plan::{Accumulator, DistinctMap, Feed, Keeps, Plan, Reduce};
use crate::aggregate::staterow::Layout;

/// The bytes of a row of accumulators, see `staterow.rs`.
const ACCUMULATORS: &str = "accumulators/1";
/// The bytes of a DISTINCT map's row: a bit a filter.
const MASK: &str = "mask/1";
/// The same, with the length of the group's part of the key behind it.
const MASK_AND_PREFIX: &str = "mask-prefix/1";

/// How often each filter has seen a value, 8 bytes each, little-endian.
const COUNTS: &str = "counts/1";

/// A table of accumulators by group.
pub fn groups(name: &str, kind: TableKind, plan: &Plan) -> TableShape {
    TableShape {
        name: name.to_owned(),
        kind,
        key: group_types(plan),
        row: accumulators(plan),
        layout: Layout::new(&plan.accumulators).rows(),
        codec: ACCUMULATORS,
    }
}

/// What accumulators are, one behind the other.
pub fn accumulators(plan: &Plan) -> Vec<String> {
    plan.accumulators.iter().map(|a| accumulator(plan, a)).collect()
}

/// The tables of the values that DISTINCT has seen; `prefix` says whether a row tells its group.
pub fn maps(kind: TableKind, plan: &Plan, prefix: bool) -> impl Iterator<Item = TableShape> {
    plan.maps.iter().enumerate().map(move |(i, map)| TableShape {
        name: map_name(i),
        kind,
        key: map_key(plan, map),
        row: vec![format!("SEEN BY {}", map.variants.len())],
        layout: map_layout(map.mask_bytes(), prefix),
        codec: if prefix { MASK_AND_PREFIX } else { MASK },
    })
}

/// The tables of the values of rows that may be taken back.
pub fn counted(plan: &Plan) -> impl Iterator<Item = TableShape> {
    plan.maps.iter().enumerate().flat_map(move |(i, map)| {
        let value = type_name(plan.input.field(map.column).data_type());
        let shapes = |sub: &[&str], row: &[&str], beside: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<String>>();
            MapTable::shapes(&ordered_name(i), &group_types(plan), &owned(sub), &owned(row), &owned(beside)).to_vec()
        };
        match map.keeps {
            Keeps::Seen => {}
            Keeps::Sorted => return shapes(&[&value], &["COUNT"], &[]),
            Keeps::Arrivals => return shapes(&["ARRIVAL", "VALUE AND ARRIVAL"], &[&value], &["ARRIVALS"]),
        }
        vec![TableShape {
            name: map_name(i),
            kind: TableKind::Table,
            key: map_key(plan, map),
            row: vec![format!("COUNTED BY {}", map.variants.len())],
            layout: RowLayout::Fixed(map.count_bytes()),
            codec: COUNTS,
        }]
    })
}

/// The name of ordered map `i`.
pub fn ordered_name(i: usize) -> String {
    format!("ordered-{i}")
}

/// The name of the table of DISTINCT map `i`.
pub fn map_name(i: usize) -> String {
    format!("distinct-{i}")
}

/// The types of the group's columns.
pub fn group_types(plan: &Plan) -> Vec<String> {
    plan.group.iter().map(|&column| type_name(plan.input.field(column).data_type())).collect()
}

fn map_key(plan: &Plan, map: &DistinctMap) -> Vec<String> {
    let mut key = group_types(plan);
    key.push(type_name(plan.input.field(map.column).data_type()));
    key
}

/// `SUM INT`: a count has no type, whatever it counts.
fn accumulator(plan: &Plan, a: &Accumulator) -> String {
    let reduce = match a.reduce {
        Reduce::Count => "COUNT",
        Reduce::Sum => "SUM",
        Reduce::Min => "MIN",
        Reduce::Max => "MAX",
        Reduce::First => "FIRST",
        Reduce::Last => "LAST",
        Reduce::List => "LIST",
    };
    let distinct = if matches!(a.feed, Feed::Distinct { .. }) { " DISTINCT" } else { "" };
    match a.column {
        Some(_) if a.reduce == Reduce::List => format!("{reduce}{distinct} SEPARATED BY '{}'", a.separator),
        Some(column) if a.reduce != Reduce::Count => {
            format!("{reduce}{distinct} {}", type_name(plan.input.field(column).data_type()))
        }
        _ => format!("{reduce}{distinct}"),
    }
}
