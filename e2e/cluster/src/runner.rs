//! Runs cases, some at once and some alone, and says how each went.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};

use crate::{
    cases::{Case, Touches, all},
    cluster::Cluster,
    dump::dump,
    install::{self, Controllers},
    space::Space,
};

/// Which cases make which tier.
const TIERS: &str = include_str!("../cases.yaml");

/// So many are named at the end.
const SLOWEST: usize = 5;

/// `cases.yaml`.
#[derive(serde::Deserialize)]
struct Tiers {
    smoke: Vec<String>,
    /// What `make e2e` runs beside the smoke tier.
    more: Vec<String>,
}

fn tiers() -> Tiers {
    serde_saphyr::from_str(TIERS).expect("cases.yaml is read")
}

/// The cases of a tier, in the file's order.
pub fn of_tier(tier: &str) -> Vec<Case> {
    let Tiers { smoke, more } = tiers();
    let names = match tier {
        "smoke" => smoke,
        "all" => [smoke, more].concat(),
        other => panic!("there is no tier {other}: say smoke or all"),
    };
    let cases = all();
    names
        .iter()
        .map(|name| {
            *cases
                .iter()
                .find(|case| case.name == name)
                .unwrap_or_else(|| panic!("cases.yaml names {name}, which is no case"))
        })
        .collect()
}

/// The cases whose names hold one of the parts.
pub fn named(parts: &[String]) -> Vec<Case> {
    let chosen: Vec<Case> =
        all().into_iter().filter(|case| parts.iter().any(|part| case.name.contains(part.as_str()))).collect();
    assert!(!chosen.is_empty(), "no case has {} in its name", parts.join(" or "));
    chosen
}

/// How a case went.
struct Outcome {
    name: &'static str,
    took: Duration,
    /// What is wrong, if something is.
    failure: Option<String>,
}

/// Runs the cases; true if all passed.
pub async fn run(chosen: Vec<Case>, jobs: usize, keep: bool) -> bool {
    let begun = Instant::now();
    let cluster = Cluster::open().await;
    install::install(&cluster).await;
    let controllers = Arc::new(Controllers::default());
    controllers.settle(&cluster).await;
    println!("installed in {} s; {} cases", begun.elapsed().as_secs(), chosen.len());

    let (together, alone): (Vec<Case>, Vec<Case>) =
        chosen.into_iter().partition(|case| case.touches == Touches::Nothing);
    let one = |case: Case| run_one(&cluster, &controllers, case, keep);
    let mut outcomes: Vec<Outcome> = stream::iter(together).map(one).buffer_unordered(jobs).collect().await;
    let complaint = controllers.complaint(&cluster).await;
    let mut complaints: Vec<String> =
        complaint.map(|what| format!("of those that run together: {what}")).into_iter().collect();
    controllers.settle(&cluster).await;
    for case in alone {
        outcomes.push(run_one(&cluster, &controllers, case, keep).await);
        let complaint = match case.touches {
            Touches::Controllers => controllers.complaint_beyond_kills(&cluster).await,
            Touches::Nothing | Touches::Shared => controllers.complaint(&cluster).await,
        };
        complaints.extend(complaint.map(|what| format!("{}: {what}", case.name)));
        controllers.settle(&cluster).await;
    }

    outcomes.sort_by_key(|outcome| outcome.took);
    let slowest: Vec<String> = outcomes
        .iter()
        .rev()
        .take(SLOWEST)
        .map(|outcome| format!("{} {} s", outcome.name, outcome.took.as_secs()))
        .collect();
    let failed: BTreeSet<&str> =
        outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(|outcome| outcome.name).collect();
    println!(
        "\n{} of {} cases passed in {} s",
        outcomes.len() - failed.len(),
        outcomes.len(),
        begun.elapsed().as_secs()
    );
    println!("  the slowest: {}", slowest.join(", "));
    for name in &failed {
        println!("  failed: {name}");
    }
    for complaint in &complaints {
        println!("  failed: {complaint}");
    }
    failed.is_empty() && complaints.is_empty()
}

async fn run_one(cluster: &Cluster, controllers: &Arc<Controllers>, case: Case, keep: bool) -> Outcome {
    let begun = Instant::now();
    let space = Space::new(cluster, controllers, case.name).await;
    // A task of its own turns a panic into an answer.
    let failure = match tokio::spawn((case.run)(space.clone())).await {
        Ok(()) => None,
        Err(error) => Some(match error.try_into_panic() {
            Ok(panic) => panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_else(|| "panicked".to_string()),
            Err(error) => error.to_string(),
        }),
    };
    let took = begun.elapsed();
    match &failure {
        None => println!("ok    {:>4} s  {}", took.as_secs(), case.name),
        Some(why) => {
            let folder = dump(&space, why).await;
            println!(
                "FAIL  {:>4} s  {}: {why}\n              all that is known is in {}",
                took.as_secs(),
                case.name,
                folder.display()
            );
        }
    }
    if failure.is_none() || !keep {
        space.tidy().await;
    }
    Outcome { name: case.name, took, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smoke tier stays within 25 minutes only if it stays small, and shows something only if it does not get too small.
    const SMOKE: std::ops::RangeInclusive<usize> = 12..=24;

    #[test]
    fn every_case_stands_in_one_tier_and_every_name_is_a_case() {
        let Tiers { smoke, more } = tiers();
        let named: Vec<&String> = smoke.iter().chain(&more).collect();
        let file: BTreeSet<&str> = named.iter().map(|name| name.as_str()).collect();
        assert_eq!(file.len(), named.len(), "a case stands twice in cases.yaml");
        let cases = all();
        let code: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(code.len(), cases.len(), "two cases have the same name");
        assert_eq!(file, code, "cases.yaml and src/cases hold the same");
        assert!(SMOKE.contains(&smoke.len()), "the smoke tier has {} cases", smoke.len());
    }
}
