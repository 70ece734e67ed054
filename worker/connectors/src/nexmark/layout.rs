//! Which columns a table has: the three ROWs of the public connector, or the fields of one kind of event by themselves.

use std::sync::Arc;

use arrow::datatypes::{DataType, Fields, SchemaRef, TimeUnit};

use super::columns::{AuctionField, BidField, PersonField};
use super::events::Kind;
use crate::error::ConnectorError;
use crate::spec::TableSpec;

/// One field of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Person(PersonField),
    Auction(AuctionField),
    Bid(BidField),
}

/// The SQL types that occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SqlType {
    BigInt,
    String,
    Timestamp,
}

impl SqlType {
    const fn name(self) -> &'static str {
        match self {
            Self::BigInt => "BIGINT",
            Self::String => "STRING",
            Self::Timestamp => "TIMESTAMP(3)",
        }
    }

    const fn fits(self, data_type: &DataType) -> bool {
        match self {
            Self::BigInt => matches!(data_type, DataType::Int64),
            Self::String => matches!(data_type, DataType::Utf8),
            Self::Timestamp => matches!(data_type, DataType::Timestamp(TimeUnit::Millisecond, _)),
        }
    }

    const fn arrow(self) -> DataType {
        match self {
            Self::BigInt => DataType::Int64,
            Self::String => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
        }
    }
}

type Definition = (&'static str, Field, SqlType);

const PERSON: &[Definition] = &[
    ("id", Field::Person(PersonField::Id), SqlType::BigInt),
    ("name", Field::Person(PersonField::Name), SqlType::String),
    ("emailAddress", Field::Person(PersonField::EmailAddress), SqlType::String),
    ("creditCard", Field::Person(PersonField::CreditCard), SqlType::String),
    ("city", Field::Person(PersonField::City), SqlType::String),
    ("state", Field::Person(PersonField::State), SqlType::String),
    ("dateTime", Field::Person(PersonField::DateTime), SqlType::Timestamp),
    ("extra", Field::Person(PersonField::Extra), SqlType::String),
];

const AUCTION: &[Definition] = &[
    ("id", Field::Auction(AuctionField::Id), SqlType::BigInt),
    ("itemName", Field::Auction(AuctionField::ItemName), SqlType::String),
    ("description", Field::Auction(AuctionField::Description), SqlType::String),
    ("initialBid", Field::Auction(AuctionField::InitialBid), SqlType::BigInt),
    ("reserve", Field::Auction(AuctionField::Reserve), SqlType::BigInt),
    ("dateTime", Field::Auction(AuctionField::DateTime), SqlType::Timestamp),
    ("expires", Field::Auction(AuctionField::Expires), SqlType::Timestamp),
    ("seller", Field::Auction(AuctionField::Seller), SqlType::BigInt),
    ("category", Field::Auction(AuctionField::Category), SqlType::BigInt),
    ("extra", Field::Auction(AuctionField::Extra), SqlType::String),
];

const BID: &[Definition] = &[
    ("auction", Field::Bid(BidField::Auction), SqlType::BigInt),
    ("bidder", Field::Bid(BidField::Bidder), SqlType::BigInt),
    ("price", Field::Bid(BidField::Price), SqlType::BigInt),
    ("channel", Field::Bid(BidField::Channel), SqlType::String),
    ("url", Field::Bid(BidField::Url), SqlType::String),
    ("dateTime", Field::Bid(BidField::DateTime), SqlType::Timestamp),
    ("extra", Field::Bid(BidField::Extra), SqlType::String),
];

const KINDS: [Kind; 3] = [Kind::Person, Kind::Auction, Kind::Bid];

impl Kind {
    /// The name of its ROW column, and the value of the option `type`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    const fn fields(self) -> &'static [Definition] {
        match self {
            Self::Person => PERSON,
            Self::Auction => AUCTION,
            Self::Bid => BID,
        }
    }

    /// The fields as they stand in a declaration.
    fn declaration(self) -> String {
        let fields: Vec<_> =
            self.fields().iter().map(|(name, _, sql_type)| format!("`{name}` {}", sql_type.name())).collect();
        fields.join(", ")
    }
}

/// One column of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Column {
    /// 0 person, 1 auction, 2 bid.
    EventType,
    /// All fields of one kind; null where the event is of another.
    Row { kind: Kind, fields: Vec<(Field, DataType)>, arrow: Fields },
    /// One field, in a table that has the events of one kind only.
    Flat { field: Field, data_type: DataType },
}

/// The columns of a table's batches.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The rows are the events of this kind; none if every event is a row.
    pub(super) only: Option<Kind>,
    /// The columns that the table was asked for.
    pub(super) columns: Vec<Column>,
    /// Columns that are made and thrown away.
    pub(super) discarded: Vec<Column>,
    /// The schema of `columns`.
    pub(super) schema: SchemaRef,
}

impl Layout {
    /// The layout of a table, `only` one kind or all. With `everything`, what the projection leaves out is made too.
    pub(super) fn of(table: &TableSpec, only: Option<Kind>, everything: bool) -> Result<Self, ConnectorError> {
        let all = table
            .schema
            .fields()
            .iter()
            .map(|field| match only {
                None => row_column(table, field),
                Some(kind) => {
                    definition(table, kind, field, "").map(|(field, data_type)| Column::Flat { field, data_type })
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let needed = table.needed();
        let columns: Vec<_> = needed.iter().map(|&column| all[column].clone()).collect();
        let discarded = if everything { left_out(&all, &columns, only) } else { Vec::new() };
        Ok(Self { only, columns, discarded, schema: table.projected_schema() })
    }

    /// Whether anything of this kind is made.
    pub(super) fn makes(&self, kind: Kind) -> bool {
        self.only == Some(kind)
            || self.columns.iter().chain(&self.discarded).any(|column| match column {
                Column::EventType => false,
                Column::Row { kind: row, .. } => *row == kind,
                Column::Flat { field, .. } => field.kind() == kind,
            })
    }
}

impl Field {
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Person(_) => Kind::Person,
            Self::Auction(_) => Kind::Auction,
            Self::Bid(_) => Kind::Bid,
        }
    }
}

/// What of every event `columns` does not have, in the shape that the table has.
fn left_out(all: &[Column], columns: &[Column], only: Option<Kind>) -> Vec<Column> {
    let declared = all.iter().filter(|column| !columns.contains(column)).cloned();
    if only.is_none() {
        return declared.collect();
    }
    let fields = KINDS.into_iter().flat_map(Kind::fields);
    let flat = fields.map(|(_, field, sql_type)| Column::Flat { field: *field, data_type: sql_type.arrow() });
    flat.filter(|column| !columns.contains(column)).collect()
}

fn row_column(table: &TableSpec, field: &arrow::datatypes::Field) -> Result<Column, ConnectorError> {
    if field.name().eq_ignore_ascii_case("event_type") {
        return match field.data_type() {
            DataType::Int32 => Ok(Column::EventType),
            _ => Err(wrong(table, field.name(), "has another type than the events'", "declare it as INT")),
        };
    }
    let Some(kind) = Kind::named(field.name()) else {
        return Err(wrong(
            table,
            field.name(),
            "is not in the events",
            "the columns are event_type INT, person ROW<…>, auction ROW<…>, bid ROW<…>; with 'type' = 'bid' they are the fields of a bid",
        ));
    };
    let declare = || format!("declare it as ROW<{}>", kind.declaration());
    let DataType::Struct(fields) = field.data_type() else {
        return Err(wrong(table, field.name(), "has another type than the events'", &declare()));
    };
    if fields.is_empty() {
        return Err(wrong(table, field.name(), "has no fields", &declare()));
    }
    if !field.is_nullable() {
        return Err(wrong(table, field.name(), "is null where the event is of another kind", "drop NOT NULL"));
    }
    let parsed = fields
        .iter()
        .map(|child| definition(table, kind, child, &format!("{}.", field.name())))
        .collect::<Result<_, _>>()?;
    Ok(Column::Row { kind, fields: parsed, arrow: fields.clone() })
}

fn definition(
    table: &TableSpec,
    kind: Kind,
    field: &arrow::datatypes::Field,
    prefix: &str,
) -> Result<(Field, DataType), ConnectorError> {
    let column = format!("{prefix}{}", field.name());
    let Some((name, definition, sql_type)) =
        kind.fields().iter().find(|(name, ..)| name.eq_ignore_ascii_case(field.name()))
    else {
        let what = format!("is no field of the kind '{}'", kind.name());
        return Err(wrong(table, &column, &what, &format!("the fields are {}", kind.declaration())));
    };
    if !sql_type.fits(field.data_type()) {
        let remedy = format!("declare it as `{name}` {}", sql_type.name());
        return Err(wrong(table, &column, "has another type than the events'", &remedy));
    }
    Ok((*definition, field.data_type().clone()))
}

fn wrong(table: &TableSpec, column: &str, what: &str, remedy: &str) -> ConnectorError {
    ConnectorError::Column {
        table: table.name.clone(),
        column: column.to_string(),
        what: what.to_string(),
        remedy: remedy.to_string(),
    }
}

/// The schema that a table of all events has: `event_type` and three ROWs.
pub fn event_schema() -> SchemaRef {
    use arrow::datatypes::Field as ArrowField;
    let mut fields = vec![ArrowField::new("event_type", DataType::Int32, true)];
    for kind in KINDS {
        fields.push(ArrowField::new(kind.name(), DataType::Struct(kind_fields(kind)), true));
    }
    Arc::new(arrow::datatypes::Schema::new(fields))
}

pub(super) fn kind_fields(kind: Kind) -> Fields {
    use arrow::datatypes::Field as ArrowField;
    kind.fields().iter().map(|(name, _, sql_type)| ArrowField::new(*name, sql_type.arrow(), true)).collect()
}
