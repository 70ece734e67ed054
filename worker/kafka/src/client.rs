//! The client: connections by broker, who coordinates what, and calls that are tried again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::api::Call;
use crate::connection::Connection;
use crate::error::KafkaError;
use crate::security::Settings;

/// What a connection is for: a fetch that waits for records would hold up what is sent behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Control,
    Fetch,
    Produce,
}

/// Who is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Coordinator {
    Group = 0,
    Transaction = 1,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

struct Inner {
    settings: Settings,
    tls: Option<TlsConnector>,
    /// Where brokers are, by their ids; learnt from metadata.
    brokers: Mutex<HashMap<i32, String>>,
    connections: Mutex<HashMap<(String, Lane), Slot>>,
    coordinators: Mutex<HashMap<(Coordinator, String), String>>,
    /// Which broker is asked next for what any of them knows.
    turn: AtomicUsize,
}

/// A cluster, as one part of a job sees it. Clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.settings.bootstrap.join(","))
    }
}

impl Client {
    /// Reads the certificates; nothing is connected yet.
    pub fn new(settings: Settings) -> Result<Self, KafkaError> {
        if settings.bootstrap.is_empty() {
            return Err(KafkaError::refused("'properties.bootstrap.servers' names no broker"));
        }
        let tls = settings.tls.as_ref().map(crate::security::Certificates::connector).transpose()?;
        Ok(Self(Arc::new(Inner {
            settings,
            tls,
            brokers: Mutex::default(),
            connections: Mutex::default(),
            coordinators: Mutex::default(),
            turn: AtomicUsize::new(0),
        })))
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn learn(&self, brokers: HashMap<i32, String>) {
        *self.0.brokers.lock() = brokers;
    }

    pub(crate) fn address_of(&self, broker: i32) -> Option<String> {
        self.0.brokers.lock().get(&broker).cloned()
    }

    pub(crate) fn known_brokers(&self) -> Vec<i32> {
        let mut ids: Vec<_> = self.0.brokers.lock().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The connection to this address, made anew if it was lost.
    pub(crate) async fn connect(&self, address: &str, lane: Lane) -> Result<Arc<Connection>, KafkaError> {
        let slot = Arc::clone(self.0.connections.lock().entry((address.to_string(), lane)).or_default());
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(Connection::open(address, &self.0.settings, self.0.tls.as_ref()).await?);
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// A connection to any broker: each in turn, those that metadata named before those of the settings.
    pub(crate) async fn any(&self) -> Result<Arc<Connection>, KafkaError> {
        let mut addresses: Vec<String> = self.known_brokers().iter().filter_map(|id| self.address_of(*id)).collect();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn % addresses.len().max(1);
        addresses.rotate_left(first);
        addresses.extend(self.0.settings.bootstrap.iter().cloned());
        let mut last = KafkaError::refused("there is no broker to ask");
        for address in addresses {
            match self.connect(&address, Lane::Control).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends to a broker, in the highest version that both know.
    pub(crate) async fn ask<C: Call>(&self, connection: &Connection, request: &C) -> Result<C::Response, KafkaError> {
        let version = connection.versions().pick::<C>(connection.address())?;
        connection.call(request, version, self.0.settings.request_timeout).await
    }

    /// Tries until it works, fails for good, or the time for a call is up.
    pub(crate) async fn retrying<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T, KafkaError>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        self.retrying_for(self.0.settings.call_timeout, attempt).await
    }

    pub(crate) async fn retrying_for<T, F>(
        &self,
        patience: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, KafkaError>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        let deadline = Instant::now() + patience;
        let mut wait = self.0.settings.retry_wait;
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => {
                    if Instant::now() + wait > deadline {
                        return Err(error.while_doing(format!("given up after {patience:?}")));
                    }
                    tracing::debug!(%error, "tried again");
                    tokio::time::sleep(wait).await;
                    wait = (2 * wait).min(self.0.settings.retry_wait_max);
                }
                done => return done,
            }
        }
    }

    /// The broker that coordinates this group or transactional id.
    pub(crate) async fn coordinator(&self, kind: Coordinator, key: &str) -> Result<Arc<Connection>, KafkaError> {
        let known = self.0.coordinators.lock().get(&(kind, key.to_string())).cloned();
        let address = match known {
            Some(address) => address,
            None => {
                let connection = self.any().await?;
                let request = FindCoordinatorRequest::default()
                    .with_key(StrBytes::from_string(key.to_string()))
                    .with_key_type(kind as i8);
                let found = self.ask(&connection, &request).await?;
                KafkaError::check(found.error_code, || {
                    let what = if kind == Coordinator::Group { "group" } else { "transactional id" };
                    format!("broker {}, looking for the coordinator of the {what} {key}", connection.address())
                })?;
                let address = address(found.host.as_str(), found.port);
                self.0.coordinators.lock().insert((kind, key.to_string()), address.clone());
                address
            }
        };
        let connection = self.connect(&address, Lane::Control).await;
        if connection.is_err() {
            self.forget(kind, key);
        }
        connection
    }

    /// It is somebody else by now.
    pub(crate) fn forget(&self, kind: Coordinator, key: &str) {
        self.0.coordinators.lock().remove(&(kind, key.to_string()));
    }

    /// Asks a coordinator, and looks for it again where it has moved. `code` says what the answer says.
    pub(crate) async fn ask_coordinator<C: Call>(
        &self,
        kind: Coordinator,
        key: &str,
        request: &C,
        version: Option<i16>,
        code: impl Fn(&C::Response) -> i16,
    ) -> Result<C::Response, KafkaError> {
        self.retrying(|| async {
            let connection = self.coordinator(kind, key).await?;
            let most = version.unwrap_or(C::MAX);
            let version = match version {
                Some(version) => version,
                None => connection.versions().pick_up_to::<C>(most, connection.address())?,
            };
            let asked = connection.call(request, version, self.0.settings.request_timeout).await;
            let checked = asked.and_then(|answer| {
                KafkaError::check(code(&answer), || format!("broker {}, {:?} of {key}", connection.address(), C::KEY))?;
                Ok(answer)
            });
            if checked.as_ref().is_err_and(KafkaError::is_transient) {
                self.forget(kind, key);
            }
            checked
        })
        .await
    }
}

pub(crate) fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
