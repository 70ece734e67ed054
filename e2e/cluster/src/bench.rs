//! `make bench-cluster`: what only a cluster can show. How large the images are; how long a job takes to recover from a deleted pod, and
//! what that is made of; how long many small jobs take to be ready; what the controller costs. It judges nothing: no test depends on a
//! time.

mod images;
mod many;
mod recovery;
mod stubs;
mod usage;

use std::{path::PathBuf, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    cluster::Cluster,
    install::{self, Controllers},
};

/// What is measured, and how often.
#[derive(clap::Args)]
pub struct Options {
    /// What to measure; everything when nothing is named.
    #[arg(long, value_enum)]
    only: Vec<What>,
    /// So often a pod is deleted, without a standby and with one.
    #[arg(long, default_value_t = 30)]
    deletions: usize,
    /// So many jobs with stub workers, one size after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 2_000])]
    stubs: Vec<usize>,
    /// The state backend of those jobs: with `jobmanager` parts stand in the record, with any other they are objects of their own.
    #[arg(long, default_value = "rocksdb")]
    backend: String,
    /// Where the figures are kept as JSON; beside this program if absent.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The sizes of the images.
    Images,
    /// From a pod's deletion to the first output of its successor, with 100 MiB of state.
    Recovery,
    /// Fifty jobs with real pods at once.
    Many,
    /// The controller's cost, against stub workers.
    Stubs,
}

/// Runs the benchmarks, prints tables and keeps the figures.
pub async fn run(options: &Options) {
    let wants = |what| options.only.is_empty() || options.only.contains(&what);
    let cluster = Cluster::open().await;
    install::install(&cluster).await;
    let controllers = Arc::new(Controllers::default());
    controllers.settle(&cluster).await;
    let mut figures = Map::new();
    let mut keep = |name: &str, measured: Value| {
        figures.insert(name.to_string(), measured);
        options.keep(&figures);
    };
    if wants(What::Images)
        && let Some(sizes) = images::run(&beside("images"))
    {
        keep("images", sizes);
    }
    if wants(What::Recovery) {
        keep("recovery", recovery::run(&cluster, &controllers, options.deletions).await);
    }
    if wants(What::Many) {
        keep("many", many::run(&cluster, &controllers).await);
    }
    if wants(What::Stubs) {
        keep("stubs", stubs::run(&cluster, &controllers, &options.stubs, &options.backend).await);
    }
    println!("\nkept in {}", options.path().display());
}

impl Options {
    fn path(&self) -> PathBuf {
        self.json.clone().unwrap_or_else(|| beside("weir-bench-cluster.json"))
    }

    /// After each part, so that one that fails takes no other with it.
    fn keep(&self, figures: &Map<String, Value>) {
        let path = self.path();
        let text = serde_json::to_string_pretty(figures).expect("figures are JSON");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
    }
}

/// A file beside this program.
fn beside(name: &str) -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(name)
}

/// The median and the maximum; none of nothing.
fn middle_and_most(values: impl IntoIterator<Item = u64>) -> Option<(u64, u64)> {
    let mut values: Vec<u64> = values.into_iter().collect();
    values.sort_unstable();
    Some((*values.get(values.len() / 2)?, *values.last()?))
}
