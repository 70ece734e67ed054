//! `weir-e2e stub`: one process that plays a node, its kubelet and the workers of thousands of jobs, so that the controller's own cost
//! can be measured where so many real workers would not fit.
//!
//! To the controller they are workers like others: pods that are scheduled, have an address of their own and become ready; mutual TLS
//! with the certificates of the job's Secret; and every message that a worker sends: welcome, deployed, stats four times a second,
//! pongs, acks of parts that stand in storage, commits. What is not there is the data: a plan of one stage without keyed state, no
//! rows, no streams between workers, no metrics, no restore.

mod node;
mod pods;
mod server;
mod worker;

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{cluster::Cluster, s3::Bucket};
use worker::Worker;

/// The node's name.
pub const NODE: &str = "stub-1";
/// The node's label, and the taint that keeps everything else off it.
pub const MARK: &str = "weir.dev/e2e-stub";
/// The pods' addresses. One route makes all of them addresses of the network that this process is in.
const NETWORK: &str = "10.99.0.0/16";

/// The workers by address, which is how a connection says whose it is.
#[derive(Clone, Default)]
struct Workers(Arc<RwLock<HashMap<Ipv4Addr, Arc<Worker>>>>);

impl Workers {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Ipv4Addr, Arc<Worker>>> {
        self.0.read().expect("no holder panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Ipv4Addr, Arc<Worker>>> {
        self.0.write().expect("no holder panics")
    }
}

/// Runs until it is ended from outside; where it is held, until its input ends.
pub async fn run(held: bool) {
    let cluster = Cluster::open().await;
    cluster
        .on_node(&format!("ip route replace local {NETWORK} dev lo"))
        .await
        .unwrap_or_else(|error| panic!("the pods' addresses are routed: {error}"));
    node::register(&cluster).await;
    let workers = Workers::default();
    let pods = pods::Kubelet::new(&cluster, workers.clone(), Bucket::at(&cluster.node));
    println!("{NODE} is registered; pods that tolerate {MARK} run here");
    let input = tokio::task::spawn_blocking(move || {
        // Nothing comes; it is only held open.
        if held { drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink())) } else { std::thread::park() }
    });
    tokio::select! {
        _ = input => {}
        _ = async { tokio::join!(node::renew(&cluster), pods.run(), server::serve(workers)) } => {}
    }
}
