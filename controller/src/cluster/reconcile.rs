//! One look at a job: its facts are read, what is to be done is decided, and that is carried out. A job that has not changed costs no
//! call to the API server.

mod carry;
mod decide;
mod end;
mod error;
mod facts;
mod start;

use std::{sync::Arc, time::Duration};

use kube::{ResourceExt, runtime::controller::Action};
use weir_runtime::clock;

pub use self::error::ReconcileError;
use self::{decide::LOOK_AT_DELETION, error::PATIENCE};
use super::{
    context::{Context, Guarded},
    identity::Identity,
};
use crate::effects::chain;

/// From a failure to the next try; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_mins(1);

/// The whole look, from what is known to what is done.
async fn look(guarded: &Guarded, context: &Arc<Context>) -> Result<Action, ReconcileError> {
    let Some(identity) = Identity::of(guarded) else { return Ok(Action::await_change()) };
    if context.gone_first(&identity) {
        // One of the same name is still being let go of.
        return Ok(Action::requeue(LOOK_AT_DELETION));
    }
    let Some(facts) = facts::gather(context, &identity, guarded).await? else { return Ok(Action::await_change()) };
    let decision = decide::decide(&facts);
    let again = carry::carry_out(context, &facts, decision).await?;
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

/// Looks at one job, if this process leads, in bounded time.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if !context.leads() {
        return Ok(Action::await_change());
    }
    let begun = clock::now();
    // A connection that takes requests and never answers must not hold up the other jobs.
    let result =
        tokio::time::timeout(PATIENCE, look(&guarded, &context)).await.unwrap_or(Err(ReconcileError::NoAnswer));
    context.metrics.reconciled(result.is_ok(), clock::since(begun));
    if result.is_ok()
        && let Some(identity) = Identity::of(guarded.as_ref())
    {
        context.jobs.with(&identity, |entry| entry.failures = 0);
    }
    result
}

/// What follows a failure.
#[allow(clippy::needless_pass_by_value, reason = "the controller hands them over so")]
pub fn error_policy(guarded: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any());
    tracing::warn!(job = name, error = chain(error), "a look at a job failed, and is repeated");
    let failures = Identity::of(guarded.as_ref()).and_then(|identity| {
        context.jobs.with(&identity, |entry| {
            entry.failures += 1;
            entry.failures
        })
    });
    Action::requeue(back_off(failures.unwrap_or(1)))
}

/// Doubles with each failure in a row, up to a bound.
fn back_off(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(MAX_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_ever_more_rarely() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 7, 50].map(|failures| back_off(failures).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 8, 60, 60]);
    }
}
