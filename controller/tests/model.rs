//! The exhaustive checker: coordinators, takeovers and deletion as they run, against a store, workers and a sink whose
//! contents are modelled, in every order of events within bounds.
//!
//! `WEIR_MODEL_STATES` raises the limit of states of the large search (`make model`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "model/check.rs"]
mod check;
#[path = "model/explore.rs"]
mod explore;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/world.rs"]
mod world;

use std::time::Instant;

use explore::{Found, Order, explore};
use steps::World;
use world::{Bounds, Broken};

const BOUNDS: Bounds = Bounds {
    coordinators: 2,
    slots: 2,
    ids: 3,
    attempts: 2,
    terms: 2,
    doubts: 1,
    delays: 2,
    retain: 1,
    fine: false,
    broken: Broken::Nothing,
};

fn search(bounds: Bounds, order: Order, limit: u64) -> Found {
    let began = Instant::now();
    let found = explore(&World { bounds }, order, limit);
    println!(
        "{} distinct states, {} steps, depth {}, {:.1?}, complete: {}, {bounds:?}",
        found.states,
        found.steps,
        found.depth,
        began.elapsed(),
        found.complete
    );
    if let Some(counterexample) = &found.counterexample {
        counterexample.print();
    }
    found
}

#[test]
fn every_order_of_events_keeps_the_invariants() {
    let env = |name: &str, or: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let bounds = Bounds { delays: env("DELAYS", 2) as u8, doubts: env("DOUBTS", 1) as u8, terms: env("TERMS", 2), fine: env("FINE", 0) > 0, ..BOUNDS };
    let found = search(bounds, Order::DepthFirst, std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000));
    assert!(found.counterexample.is_none());
}
