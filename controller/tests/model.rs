//! The exhaustive checker: coordinators, takeovers and deletion as they run, against a store, workers and a sink whose
//! contents are modelled, in every order of events within bounds.
//!
//! `WEIR_MODEL_STATES` raises the limit of states of the large search (`make model`).

// Steps are methods of the world, whether they look at its bounds or not; states are cloned by the million, not boxed.
#![allow(clippy::unused_self, clippy::match_same_arms, clippy::large_enum_variant)]
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
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use steps::{Halt, Step, World};
use world::{Bounds, Broken};

const BOUNDS: Bounds = Bounds {
    coordinators: 2,
    slots: 2,
    ids: 3,
    attempts: 2,
    terms: 2,
    doubts: 1,
    hand_overs: 0,
    wishes: 0,
    twin: false,
    delays: 2,
    retain: 1,
    late_starts: false,
    deletions: 0,
    fine: false,
    healed: 128,
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

/// A number from the environment.
fn env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn holds(bounds: Bounds, limit: u64) -> Found {
    let found = search(bounds, Order::DepthFirst, limit);
    assert!(found.counterexample.is_none(), "an invariant is broken; its way stands above");
    found
}

#[test]
fn every_order_of_events_keeps_the_invariants() {
    let found = holds(BOUNDS, env("WEIR_MODEL_STATES", u64::MAX));
    assert!(found.states >= 1_000_000, "the bounds hold only {} states", found.states);
}

#[test]
fn two_requests_in_doubt_keep_the_invariants() {
    holds(Bounds { doubts: 2, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn three_terms_over_two_attempts_keep_the_invariants() {
    holds(Bounds { terms: 3, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn a_hand_over_that_is_begun_anywhere_keeps_the_invariants() {
    holds(Bounds { hand_overs: 1, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn a_start_that_is_written_down_late_keeps_the_invariants() {
    holds(Bounds { late_starts: true, terms: 3, ids: 2, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn a_record_of_a_job_that_was_deleted_harms_no_job_after_it() {
    holds(Bounds { deletions: 1, coordinators: 1, terms: 3, ids: 2, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn a_wish_for_nothing_or_for_an_older_record_keeps_the_invariants() {
    holds(Bounds { wishes: 1, retain: 2, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn two_wishes_over_three_attempts_keep_the_invariants() {
    let bounds = Bounds { wishes: 2, retain: 2, attempts: 3, terms: 3, doubts: 0, ids: 4, delays: 0, ..BOUNDS };
    holds(bounds, env("WEIR_MODEL_STATES", 2_000_000));
}

#[test]
fn another_run_with_the_same_output_keeps_the_invariants() {
    holds(Bounds { twin: true, delays: 0, ..BOUNDS }, u64::MAX);
}

#[test]
fn every_step_of_a_worker_and_a_takeover_on_its_own_keeps_the_invariants() {
    holds(Bounds { fine: true, ids: 2, delays: 1, ..BOUNDS }, u64::MAX);
}

/// `make model`: hours rather than minutes.
#[test]
#[ignore = "for make model: takes long and much memory"]
fn a_larger_world_keeps_the_invariants() {
    let limit = env("WEIR_MODEL_STATES", 100_000_000);
    holds(Bounds { terms: 3, delays: 2, ..BOUNDS }, limit);
    holds(Bounds { deletions: 1, terms: 3, ids: 2, delays: 0, ..BOUNDS }, limit);
    let wishes = Bounds { wishes: 2, twin: true, retain: 2, attempts: 3, terms: 3, ids: 4, delays: 1, ..BOUNDS };
    holds(wishes, limit);
    holds(Bounds { terms: 3, attempts: 3, ids: 4, delays: 1, doubts: 2, ..BOUNDS }, limit);
    holds(Bounds { fine: true, delays: world::FREELY, ..BOUNDS }, limit);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// Beyond the bounds that can be searched: one way at random, and everything put right at its end.
    #[test]
    fn random_orders_of_events_keep_the_invariants_in_a_world_too_large_to_search(
        retain in 1u32..4,
        choices in proptest::collection::vec(any::<u16>(), 1..800),
    ) {
        let world = World { bounds: Bounds {
            coordinators: 4, slots: 5, ids: 20, attempts: 8, terms: 16, doubts: 12, hand_overs: 3, wishes: 3, twin: true,
            delays: world::FREELY, retain, fine: true,
            ..BOUNDS
        } };
        let mut state = world.initial();
        let mut way = Vec::new();
        for choice in choices {
            let mut steps = Vec::new();
            world.steps(&state, &mut steps);
            // Takeovers and time-outs are rare, or nothing else would ever come to its end.
            if choice < 62_000 {
                steps.retain(|step| !matches!(step, Step::TakeOver { .. } | Step::Wish { .. }) && !world.times_out(&state, *step));
            }
            let Some(step) = steps.get(usize::from(choice) % steps.len().max(1)) else { continue };
            way.push(*step);
            match world.apply(&state, *step) {
                Ok(next) => state = next,
                Err(Halt::OutOfBounds) => continue,
                Err(Halt::Violation(violation)) => panic!("{violation:?} after {way:?}"),
            }
            check::check(&world.bounds, &state).unwrap_or_else(|violation| panic!("{violation:?} after {way:?}"));
        }
        explore::heal(&world, &state)
            .unwrap_or_else(|(violation, healing)| panic!("{violation:?} after {way:?} and {healing:?}"));
    }
}

/// With this rule broken the search finds a counterexample to one of these invariants.
fn is_caught(broken: Broken, invariants: &[&str]) {
    is_caught_in(Bounds { broken, ..BOUNDS }, invariants);
}

fn is_caught_in(bounds: Bounds, invariants: &[&str]) {
    let Bounds { broken, .. } = bounds;
    // What never happens is found by healing; all else by the invariants alone, with a way that shows all of it.
    let healed = u64::from(broken == Broken::NoCommitAfterRestore);
    let found = search(Bounds { healed, delays: 1, ..bounds }, Order::BreadthFirst, 2_000_000);
    let counterexample = found.counterexample.unwrap_or_else(|| panic!("{broken:?} is not caught"));
    let violated = counterexample.violation.invariant;
    assert!(invariants.contains(&violated), "{broken:?} shows as {violated}, not as one of {invariants:?}");
}

#[test]
fn i1_is_broken_when_a_worker_acks_before_its_file_is_stored() {
    is_caught(Broken::AckBeforeUpload, &["I1", "I5"]);
}

#[test]
fn i1_is_broken_when_a_record_is_created_without_all_acks() {
    is_caught(Broken::RecordWithoutAllAcks, &["I1", "I5"]);
}

#[test]
fn i1_is_broken_when_files_are_deleted_before_their_record() {
    is_caught(Broken::FilesBeforeRecord, &["I1"]);
}

#[test]
fn i2_is_broken_when_a_term_is_opened_without_sealing_the_last() {
    is_caught(Broken::NoSeal, &["I2"]);
}

#[test]
fn i3_is_broken_when_a_takeover_restores_an_older_record() {
    is_caught(Broken::RestoreOlder, &["I3"]);
}

#[test]
fn i4_is_broken_when_workers_commit_before_the_record_stands() {
    is_caught(Broken::CommitBeforeRecord, &["I4"]);
}

#[test]
fn i4_is_broken_when_nothing_is_committed_again_after_a_restore() {
    is_caught(Broken::NoCommitAfterRestore, &["I4"]);
}

#[test]
fn i4_is_broken_when_an_abort_drops_the_sink_transaction() {
    is_caught(Broken::AbortDropsTransaction, &["I4"]);
}

#[test]
fn i4_is_broken_when_a_restore_keeps_what_is_newer_than_the_record() {
    is_caught(Broken::RestoreKeepsNewer, &["I4"]);
}

#[test]
fn i5_is_broken_when_deleting_a_record_deletes_files_that_others_name() {
    is_caught(Broken::DeleteSharedFiles, &["I1", "I5"]);
}

#[test]
fn i5_is_broken_when_a_slot_whose_create_was_in_doubt_is_given_free() {
    is_caught(Broken::FreeDoubtfulSlot, &["I2", "I5"]);
}

#[test]
fn i5_is_broken_when_leftovers_of_the_current_attempt_are_swept() {
    is_caught(Broken::SweepCurrentAttempt, &["I1", "I5"]);
}

#[test]
fn i5_is_broken_when_a_worker_deletes_what_is_not_decided() {
    is_caught(Broken::DiscardUndecided, &["I1", "I5"]);
}

#[test]
fn i5_is_broken_when_a_worker_deletes_what_is_on_record() {
    is_caught(Broken::DiscardOnRecord, &["I1", "I5"]);
}

#[test]
fn a_takeover_fails_when_where_it_begins_to_read_names_no_records() {
    is_caught(Broken::StartNamesNothing, &["I1", "I4", "I5", "deletion"]);
}

#[test]
fn i6_is_broken_when_the_status_is_written_before_the_record_stands() {
    is_caught(Broken::StatusBeforeRecord, &["I6"]);
}

#[test]
fn i6_is_broken_when_a_status_write_is_not_conditional() {
    is_caught(Broken::StatusUnconditional, &["I6"]);
}

#[test]
fn i6_is_broken_when_a_lost_status_write_counts_as_written() {
    is_caught(Broken::StatusLost, &["I6"]);
}

#[test]
fn i7_is_broken_when_processes_of_one_slot_share_their_names() {
    is_caught(Broken::SharedNames, &["I1", "I5"]);
}

#[test]
fn i7_is_broken_when_a_worker_that_is_cut_off_publishes() {
    is_caught(Broken::CutOffPublishes, &["I4"]);
}

#[test]
fn i4_is_broken_when_a_wish_forgets_what_the_end_of_the_chain_has_promised() {
    is_caught_in(Bounds { broken: Broken::WishForgetsPromises, wishes: 1, retain: 2, ..BOUNDS }, &["I4"]);
}

#[test]
fn i7_is_broken_when_the_names_of_unfinished_output_do_not_say_whose_it_is() {
    is_caught_in(Bounds { broken: Broken::NamesWithoutOwner, twin: true, ..BOUNDS }, &["I4", "I7"]);
}
