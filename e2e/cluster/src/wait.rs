//! Waiting for something to come true. There is no other waiting in this crate.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

/// A condition that does not come true in this time fails the case.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A server that is up answers in this time, if not at once.
const ANSWER: Duration = Duration::from_secs(5);

/// Looks until there is an answer. Fails with what was awaited, and with what `seen` last was.
pub async fn until<T, F>(what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    until_within(PATIENCE, what, look).await
}

/// The same with a patience of one's own.
pub async fn until_within<T, F>(patience: Duration, what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    until_every(LOOK, patience, what, look).await
}

/// The same, looking less often: where a look is work for what is looked at.
pub async fn until_every<T, F>(pace: Duration, patience: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < patience, "waited {} s in vain for: {what}", patience.as_secs());
        tokio::time::sleep(pace).await;
    }
}

/// Does something again and again until it succeeds. Fails with what was done, and with the last error.
pub async fn until_ok<T, E, F>(what: &str, act: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    until_ok_within(PATIENCE, what, act).await
}

/// What a server says that is up. It is asked again for a while, and then its error fails the case: no answer does not mean that
/// nothing is there.
pub async fn answered<T, E, F>(what: &str, ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    until_ok_within(ANSWER, what, ask).await
}

async fn until_ok_within<T, E, F>(patience: Duration, what: &str, mut act: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    let begun = Instant::now();
    loop {
        match act().await {
            Ok(done) => return done,
            Err(error) => {
                assert!(begun.elapsed() < patience, "tried {} s in vain: {what}: {error}", patience.as_secs());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets time pass while something is measured.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Looks for a while that nothing happens: the one thing that only time can show.
pub async fn never_within<F>(time: Duration, what: &str, mut look: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert!(!look().await, "happened within {} s: {what}", time.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}
