//! The Nexmark auction: persons, auctions and bids, for measuring and checking engines against each other.
//!
//! Event number `n` is a pure function of `n` and the event-time rate, the same bits on every machine, so the stream can be
//! cut into any splits and read again from anywhere. It differs from the public generator on purpose: that one draws afresh
//! in each run, and gives each source its own range of ids and a time line of its own.
//!
//! A batch is made column by column: first the draws of all its events of one kind, which costs a few multiplications each
//! and touches little memory; then each column that is wanted, text copied in pieces of a fixed size from shared buffers
//! into the buffer that the array keeps.

mod columns;
mod events;
mod generator;
mod layout;
pub(crate) mod random;
mod shared;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use weir_engine::api::sink::SinkFactory;
use weir_engine::api::source::SourceFactory;

use self::events::{Kind, Rate};
use self::layout::Layout;
pub use self::layout::event_schema;
use self::source::NexmarkSourceFactory;
use crate::error::ConnectorError;
use crate::options::Options;
use crate::spec::{ConnectorFactory, OptionDoc, TableSpec};

/// Events per second of event time where no option says otherwise, as in the public connector.
const DEFAULT_RATE: u64 = 10_000;

/// `'connector' = 'nexmark'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nexmark;

/// What the public connector lets one choose, and this one does not: the events are the same for everyone. Taken at the values that they
/// have there where nothing is said, so that published scripts run as they are.
const FIXED: &[(&str, &str)] = &[
    ("person.proportion", "1"),
    ("auction.proportion", "3"),
    ("bid.proportion", "46"),
    ("person.avg-size", "200b"),
    ("auction.avg-size", "500b"),
    ("bid.avg-size", "100b"),
    ("auction.hot-ratio.sellers", "4"),
    ("bid.hot-ratio.auctions", "2"),
    ("bid.hot-ratio.bidders", "4"),
];

const fn fixed(index: usize, about: &'static str) -> OptionDoc {
    let (name, value) = FIXED[index];
    OptionDoc { name, expects: value, default: Some(value), about }
}

const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "events.num",
        expects: "a whole number of at least 1",
        default: Some("no end"),
        about: "How many events of all kinds there are; then the table ends.",
    },
    OptionDoc {
        name: "first-event.rate",
        expects: "a whole number of at least 1",
        default: Some("10000"),
        about: "Events per second of event time.",
    },
    OptionDoc {
        name: "next-event.rate",
        expects: "a whole number of at least 1",
        default: Some("first-event.rate"),
        about: "The same; the rate of event time does not change.",
    },
    OptionDoc {
        name: "scan.rate-limit",
        expects: "a whole number of events per second, at least 1",
        default: Some("no limit"),
        about: "Events per second of the clock, of all kinds, for the whole job.",
    },
    OptionDoc {
        name: "splits",
        expects: "a whole number of at least 1",
        default: Some("the job's parallelism"),
        about: "Into how many interleaved splits the events are dealt at the start.",
    },
    OptionDoc {
        name: "type",
        expects: "'person', 'auction' or 'bid'",
        default: Some("all kinds"),
        about: "Rows are the events of this kind only, and the columns are its fields; all kinds are counted by events.num.",
    },
    OptionDoc {
        name: "generate.all-columns",
        expects: "'true' or 'false'",
        default: Some("false"),
        about: "Make every column of every event, also what the query does not read; for measurements.",
    },
    fixed(0, "Persons among 50 events."),
    fixed(1, "Auctions among 50 events."),
    fixed(2, "Bids among 50 events."),
    fixed(3, "About how large a person is."),
    fixed(4, "About how large an auction is."),
    fixed(5, "About how large a bid is."),
    fixed(6, "All but one auction in so many are of a hot seller."),
    fixed(7, "All but one bid in so many are for a hot auction."),
    fixed(8, "All but one bid in so many are of a hot bidder."),
];

impl ConnectorFactory for Nexmark {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        let options = Options::of(table);
        let first = options.count("first-event.rate")?;
        let next = options.count("next-event.rate")?;
        if let (Some(first), Some(next)) = (first, next)
            && first != next
        {
            return Err(options.unsupported(
                Some("next-event.rate"),
                &format!("'first-event.rate' = '{first}' and 'next-event.rate' = '{next}' differ"),
                "give both the same value: the rate of event time does not change",
            ));
        }
        for (name, value) in FIXED {
            if let Some(other) = options.text(name).filter(|text| !text.trim().eq_ignore_ascii_case(value)) {
                return Err(options.unsupported(
                    Some(name),
                    &format!("'{name}' = '{other}' is another mix of events"),
                    &format!("write '{value}', or leave it out: the events are the same for everyone"),
                ));
            }
        }
        let only = options
            .text("type")
            .map(|text| Kind::named(text).ok_or_else(|| options.invalid("type", "'person', 'auction' or 'bid'")))
            .transpose()?;
        let everything = options.flag("generate.all-columns", false)?;
        Ok(Arc::new(NexmarkSourceFactory {
            layout: Layout::of(table, only, everything)?,
            rate: Rate(first.or(next).unwrap_or(DEFAULT_RATE)),
            events: options.count("events.num")?,
            splits: options.parsed("splits", "a whole number of at least 1", |&n: &u32| n >= 1)?,
            rate_limit: options.count("scan.rate-limit")?,
        }))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        Err(Options::of(table).unsupported(
            Some("connector"),
            "'nexmark' is a source and cannot be written to",
            "write to 'filesystem', 'print' or 'blackhole'",
        ))
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }
}
