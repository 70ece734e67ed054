//! What the leading controller has used and done so far: by its process on the node, and by its own counters.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use crate::{cluster::Cluster, install::NAMESPACE, wait::until};

/// The lease by which the controllers agree who leads.
const LEASE: &str = "weir-controller";
/// Where a controller serves its metrics.
const METRICS: u16 = 8080;
/// A second of a process's time in `/proc`, on every Linux.
const TICKS: f64 = 100.0;

/// The leading controller.
pub struct Leader {
    cluster: Cluster,
    pod: String,
    url: String,
    client: reqwest::Client,
}

/// What has been counted up to a moment.
pub struct Sample {
    pub at: Instant,
    /// Processor seconds of all processes on the node, by program.
    pub processor: BTreeMap<String, f64>,
    /// Of the leader: processor seconds, bytes of memory now and at most.
    pub leader: f64,
    pub memory: u64,
    pub peak: u64,
    pub metrics: Metrics,
}

/// A controller's counters, as it serves them.
pub struct Metrics(Vec<(String, f64)>);

impl Leader {
    /// Finds it.
    pub async fn find(cluster: &Cluster) -> Self {
        let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), NAMESPACE);
        let (pod, address) = until("a controller leads", || async {
            let holder = leases.get(LEASE).await.ok()?.spec?.holder_identity?;
            // The pod's name, and what tells this process from the one before.
            let pod = holder.split(':').next()?.to_string();
            let address = cluster.pods(NAMESPACE).get(&pod).await.ok()?.status?.pod_ip?;
            Some((pod, address))
        })
        .await;
        let url = format!("http://{address}:{METRICS}/metrics");
        Self { cluster: cluster.clone(), pod, url, client: reqwest::Client::new() }
    }

    pub async fn metrics(&self) -> Option<Metrics> {
        let text = self.client.get(&self.url).send().await.ok()?.text().await.ok()?;
        Some(Metrics::read(&text))
    }

    pub async fn sample(&self) -> Sample {
        let metrics = until("the controller says what it has counted", || self.metrics()).await;
        let at = Instant::now();
        let all = self.cluster.on_node("cat /proc/[0-9]*/stat 2>/dev/null; true").await.expect("processes are listed");
        let mut processor = BTreeMap::new();
        for (program, seconds) in all.lines().filter_map(processor_of) {
            *processor.entry(program).or_default() += seconds;
        }
        let own = self.cluster.of_process("weir", &self.pod, "cat /proc/$pid/stat /proc/$pid/status").await;
        let own = own.unwrap_or_else(|error| panic!("the controller's process is looked at: {error}"));
        let kibibytes = |name: &str| {
            let line = own.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or_default() << 10
        };
        Sample {
            at,
            processor,
            leader: own.lines().find_map(processor_of).map(|(_, seconds)| seconds).unwrap_or_default(),
            memory: kibibytes("VmRSS:"),
            peak: kibibytes("VmHWM:"),
            metrics,
        }
    }
}

/// A line of `/proc/<pid>/stat`: the program, and the seconds that it has run.
pub fn processor_of(line: &str) -> Option<(String, f64)> {
    let (before, after) = line.rsplit_once(')')?;
    let (_, program) = before.split_once('(')?;
    // The third field follows the name; the fourteenth and fifteenth are the ticks in user and in system mode.
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
    Some((program.to_string(), (ticks(14)? + ticks(15)?) / TICKS))
}

impl Metrics {
    fn read(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series = series.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_string(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum of all series of this name whose labels hold this text.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.series(name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    /// Labels and values of the series of this name.
    pub fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(move |(series, value)| {
            let labels = series.strip_prefix("weir_controller_")?.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_brackets_in_its_name() {
        let line = "12 (a (b) c) S 1 12 12 0 -1 4194304 5 0 0 0 250 50 0 0 20 0 3 0 100 0 0";
        assert_eq!(processor_of(line), Some(("a (b) c".to_string(), 3.0)));
        assert_eq!(processor_of("Name:\tweir"), None);
    }

    #[test]
    fn series_are_summed_by_name_and_label() {
        let text = "# TYPE weir_controller_api_calls counter\n\
            weir_controller_api_calls_total{method=\"GET\",resource=\"pods\"} 2\n\
            weir_controller_api_calls_total{method=\"PATCH\",resource=\"streamjobs\"} 40\n\
            weir_controller_leader 1\n";
        let metrics = Metrics::read(text);
        assert!((metrics.sum("api_calls_total", "") - 42.0).abs() < f64::EPSILON);
        assert!((metrics.sum("api_calls_total", "streamjobs") - 40.0).abs() < f64::EPSILON);
        assert!((metrics.sum("leader", "") - 1.0).abs() < f64::EPSILON);
        assert_eq!(metrics.series("api").count(), 0);
    }
}
