//! Tests of Weir on a real cluster: pods that are really killed, a real S3 server, output checked per key for gaps and repeats.
//!
//! The cases are functions in [`cases`]; `cases.yaml` says which of them make the smoke tier. The runner takes the cluster from
//! `cluster.sh in` or `kind.sh in`, and none that those scripts did not make. Nothing here uses the code under test: jobs are YAML,
//! results are what the API server says and what stands in storage. Only the stub workers of the benchmark share its protocol.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod cases;
mod cluster;
mod dump;
mod install;
mod job;
mod node;
mod runner;
mod s3;
mod space;
mod stored;
mod stub;
mod toxiproxy;
mod verify;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the cases against the cluster of `cluster.sh in` or `kind.sh in`.
#[derive(Parser)]
#[command(name = "weir-e2e")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the cases of a tier.
    List {
        /// `smoke` or `all`.
        #[arg(default_value = "all")]
        tier: String,
    },
    /// Measures recoveries, many jobs at once, and what the controller costs.
    Bench(bench::Options),
    /// Plays a node and the workers of thousands of jobs, until it is ended. `bench` starts it by itself.
    Stub {
        /// Ends when its input does, and so with the process that started it.
        #[arg(long)]
        held: bool,
    },
    /// Installs Weir, MinIO and toxiproxy, and runs cases.
    Run {
        /// `smoke` or `all`; cases that are named instead are run whatever their tier.
        #[arg(long, default_value = "all")]
        tier: String,
        /// So many at once, but for those that must be alone.
        #[arg(long, default_value_t = 3)]
        jobs: usize,
        /// Leaves the namespaces of failed cases as they are.
        #[arg(long)]
        keep: bool,
        /// Names of cases, or parts of names.
        cases: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::List { tier } => {
            for case in runner::of_tier(&tier) {
                println!("{}", case.name);
            }
            ExitCode::SUCCESS
        }
        Command::Bench(options) => {
            bench::run(&options).await;
            ExitCode::SUCCESS
        }
        Command::Stub { held } => {
            stub::run(held).await;
            ExitCode::SUCCESS
        }
        Command::Run { tier, jobs, keep, cases } => {
            let chosen = if cases.is_empty() { runner::of_tier(&tier) } else { runner::named(&cases) };
            if runner::run(chosen, jobs, keep).await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}
