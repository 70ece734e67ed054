//! One connection to a broker: requests are sent one behind the other without waiting for answers, which come in the same order.
//!
//! A connection on which anything goes wrong is closed for good, and whoever waits on it is told; the client makes another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
    SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weir_runtime::tasks;

use crate::api::{Call, Versions};
use crate::error::KafkaError;
use crate::sasl::{self, Mechanism, Sasl, Scram};
use crate::security::Settings;

/// The largest answer: what a fetch may ask for, and what metadata of very many partitions takes.
const MAX_ANSWER: usize = 128 << 20;
/// So many requests wait for their answers at once.
const MAX_IN_FLIGHT: usize = 64;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type Boxed = Box<dyn Stream>;

/// A request that waits for its answer.
struct Waiting {
    correlation: i32,
    answer: oneshot::Sender<Bytes>,
}

struct State {
    waiting: VecDeque<Waiting>,
    closed: Option<KafkaError>,
}

/// See the module.
pub(crate) struct Connection {
    address: String,
    versions: Versions,
    client_id: StrBytes,
    correlation: AtomicI32,
    requests: mpsc::Sender<Bytes>,
    in_flight: Semaphore,
    state: Arc<Mutex<State>>,
    /// Held while a request takes its place in both queues.
    order: tokio::sync::Mutex<()>,
    is_closed: Arc<AtomicBool>,
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Connection {
    /// Connects, shakes hands, and learns what the broker understands.
    pub(crate) async fn open(
        address: &str,
        settings: &Settings,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, KafkaError> {
        let opened = timeout(settings.connect_timeout, Self::connect(address, settings, tls)).await;
        opened.unwrap_or_else(|_| {
            let hint =
                if settings.tls.is_some() { "" } else { ", or whether it expects TLS (properties.security.protocol)" };
            Err(KafkaError::transient(format!(
                "broker {address} did not answer within {:?}; check the address, the network{hint}",
                settings.connect_timeout
            )))
        })
    }

    async fn connect(address: &str, settings: &Settings, tls: Option<&TlsConnector>) -> Result<Self, KafkaError> {
        let tcp = TcpStream::connect(address).await.map_err(|error| {
            KafkaError::transient(format!(
                "broker {address} cannot be reached: {error}; check the address, and that it is running"
            ))
        })?;
        // Requests are whole; holding them back for more would only delay them.
        drop(tcp.set_nodelay(true));
        let mut stream: Boxed = match tls {
            None => Box::new(tcp),
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
                let name = ServerName::try_from(host);
                let name = name.map_err(|_| {
                    KafkaError::refused(format!("broker {address} has no host name that a certificate could bear"))
                })?;
                Box::new(tls.connect(name, tcp).await.map_err(|error| tls_failed(address, &error))?)
            }
        };
        let client_id = StrBytes::from_string(settings.client_id.clone());
        let mut greeting = Greeting { address, stream: &mut stream, client_id: &client_id, correlation: 0 };
        let versions = greeting.versions().await?;
        if let Some(sasl) = &settings.sasl {
            greeting.authenticate(sasl, &versions).await?;
        }
        let correlation = greeting.correlation;
        Ok(Self::start(address, stream, versions, client_id, correlation))
    }

    fn start(address: &str, stream: Boxed, versions: Versions, client_id: StrBytes, correlation: i32) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (requests, outgoing) = mpsc::channel(MAX_IN_FLIGHT);
        let state = Arc::new(Mutex::new(State { waiting: VecDeque::new(), closed: None }));
        let is_closed = Arc::new(AtomicBool::new(false));
        let close = |state: &Arc<Mutex<State>>, is_closed: &Arc<AtomicBool>, address: &str| {
            let (state, is_closed, address) = (Arc::clone(state), Arc::clone(is_closed), address.to_string());
            move |why: &str| {
                is_closed.store(true, Ordering::SeqCst);
                let mut state = state.lock();
                state.closed.get_or_insert_with(|| {
                    KafkaError::transient(format!("the connection to broker {address} was lost: {why}"))
                });
                state.waiting.clear();
            }
        };
        let closing = close(&state, &is_closed, address);
        let reading = tasks::spawn(read_answers(reader, Arc::clone(&state), closing));
        let closing = close(&state, &is_closed, address);
        let writing = tasks::spawn(write_requests(writer, outgoing, closing));
        Self {
            address: address.to_string(),
            versions,
            client_id,
            correlation: AtomicI32::new(correlation),
            requests,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            state,
            order: tokio::sync::Mutex::new(()),
            is_closed,
            tasks: [reading.abort_handle(), writing.abort_handle()],
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) const fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Sends a request in this version, and waits for the answer.
    pub(crate) async fn call<C: Call>(
        &self,
        request: &C,
        version: i16,
        patience: Duration,
    ) -> Result<C::Response, KafkaError> {
        let answer = timeout(patience, self.exchange(request, version)).await;
        let Ok(answer) = answer else {
            let what = format!("no answer to {:?} within {patience:?}", C::KEY);
            self.close(&what);
            return Err(KafkaError::transient(format!("broker {}: {what}", self.address)));
        };
        decode::<C>(answer?, version).map_err(|error| self.garbled(C::KEY, &error))
    }

    async fn exchange<C: Call>(&self, request: &C, version: i16) -> Result<Bytes, KafkaError> {
        let _room = self.in_flight.acquire().await.map_err(|_| self.lost())?;
        let correlation = self.correlation.fetch_add(1, Ordering::Relaxed);
        let frame = encode(request, version, correlation, &self.client_id).map_err(|error| {
            KafkaError::refused(format!(
                "{:?} cannot be said in version {version} to broker {}: {error}",
                C::KEY,
                self.address
            ))
        })?;
        let (answer, waits) = oneshot::channel();
        {
            let _turn = self.order.lock().await;
            let place = self.requests.reserve().await.map_err(|_| self.lost())?;
            let mut state = self.state.lock();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            state.waiting.push_back(Waiting { correlation, answer });
            place.send(frame);
        }
        waits.await.map_err(|_| self.lost())
    }

    /// No more is sent, and whoever waits is told.
    fn close(&self, why: &str) {
        self.is_closed.store(true, Ordering::SeqCst);
        let mut state = self.state.lock();
        let lost = || KafkaError::transient(format!("the connection to broker {} was lost: {why}", self.address));
        state.closed.get_or_insert_with(lost);
        state.waiting.clear();
        drop(state);
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// Nobody listens any more: the broker has gone, or the runtime that this ran on.
    fn lost(&self) -> KafkaError {
        self.is_closed.store(true, Ordering::SeqCst);
        let lost = || KafkaError::transient(format!("the connection to broker {} was lost", self.address));
        self.state.lock().closed.clone().unwrap_or_else(lost)
    }

    fn garbled(&self, key: ApiKey, error: &dyn std::fmt::Display) -> KafkaError {
        self.close("an answer could not be read");
        KafkaError::corrupt(format!("broker {}: the answer to {key:?} cannot be read: {error}", self.address))
    }
}

fn tls_failed(address: &str, error: &std::io::Error) -> KafkaError {
    let text = format!("broker {address} does not shake hands: {error}");
    let certificate = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match certificate {
        Some(rustls::Error::InvalidCertificate(_)) => KafkaError::refused(format!(
            "{text}; name the authority that signed its certificate in 'properties.ssl.truststore.location', and reach it by the name that the \
             certificate bears"
        )),
        Some(rustls::Error::InvalidMessage(_)) => {
            KafkaError::refused(format!("{text}; check that this port of the broker speaks TLS"))
        }
        Some(rustls::Error::AlertReceived(_)) => {
            KafkaError::refused(format!("{text}; check the client's certificate in 'properties.ssl.keystore.location'"))
        }
        _ => KafkaError::transient(text),
    }
}

fn encode<R>(
    request: &R,
    version: i16,
    correlation: i32,
    client_id: &StrBytes,
) -> Result<Bytes, Box<dyn std::fmt::Display + Send + Sync>>
where
    R: Encodable + HeaderVersion + Keyed,
{
    let header = RequestHeader::default()
        .with_request_api_key(R::API as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(client_id.clone()));
    let size = request.compute_size(version).map_err(boxed)?;
    let mut frame = BytesMut::with_capacity(size + 64 + client_id.len());
    frame.extend_from_slice(&[0; 4]);
    header.encode(&mut frame, R::header_version(version)).map_err(boxed)?;
    request.encode(&mut frame, version).map_err(boxed)?;
    let length = i32::try_from(frame.len() - 4).map_err(boxed)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

fn boxed(error: impl std::fmt::Display + Send + Sync + 'static) -> Box<dyn std::fmt::Display + Send + Sync> {
    Box::new(error)
}

/// Which request it is; also for the greeting, whose versions are not yet known.
trait Keyed {
    const API: ApiKey;
}

impl<C: Call> Keyed for C {
    const API: ApiKey = C::KEY;
}

fn decode<C: Call>(mut answer: Bytes, version: i16) -> Result<C::Response, Box<dyn std::fmt::Display + Send + Sync>> {
    ResponseHeader::decode(&mut answer, C::Response::header_version(version)).map_err(boxed)?;
    C::Response::decode(&mut answer, version).map_err(boxed)
}

async fn write_requests(mut to: WriteHalf<Boxed>, mut requests: mpsc::Receiver<Bytes>, close: impl Fn(&str)) {
    while let Some(request) = requests.recv().await {
        if let Err(error) = send(&mut to, &request).await {
            close(&error.to_string());
            return;
        }
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), request: &[u8]) -> std::io::Result<()> {
    to.write_all(request).await?;
    to.flush().await
}

async fn read_answers(mut from: ReadHalf<Boxed>, state: Arc<Mutex<State>>, close: impl Fn(&str)) {
    loop {
        match read_frame(&mut from).await {
            Ok(frame) => {
                let correlation = frame.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
                let next = state.lock().waiting.pop_front();
                match next {
                    // Whoever asked may have gone.
                    Some(waiting) if Some(waiting.correlation) == correlation => drop(waiting.answer.send(frame)),
                    _ => return close("an answer came to a request that nobody made"),
                }
            }
            Err(error) => return close(&error.to_string()),
        }
    }
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let length = usize::try_from(from.read_i32().await?).unwrap_or(usize::MAX);
    if length > MAX_ANSWER {
        let what = format!(
            "an answer of {length} bytes was announced, and at most {MAX_ANSWER} are taken; check that this port speaks Kafka's protocol"
        );
        return Err(std::io::Error::other(what));
    }
    // Room is made as bytes come: an announcement alone costs nothing.
    let mut frame = BytesMut::with_capacity(length.min(1 << 20));
    let mut limited = from.take(length as u64);
    while frame.len() < length {
        frame.reserve((length - frame.len()).min(frame.len().max(1 << 20)));
        if limited.read_buf(&mut frame).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}

/// The first messages of a connection, each answered before the next.
struct Greeting<'a> {
    address: &'a str,
    stream: &'a mut Boxed,
    client_id: &'a StrBytes,
    correlation: i32,
}

impl Greeting<'_> {
    async fn round(&mut self, frame: Bytes) -> Result<Bytes, KafkaError> {
        let lost = |error: std::io::Error, address: &str| {
            KafkaError::transient(format!(
                "broker {address} closed the connection at its first messages: {error}; check 'properties.security.protocol' and that this port \
                 speaks it"
            ))
        };
        send(self.stream, &frame).await.map_err(|error| lost(error, self.address))?;
        read_frame(self.stream).await.map_err(|error| lost(error, self.address))
    }

    /// Version 3 says which features the cluster has agreed on; brokers that do not know it answer in version 0.
    async fn versions(&mut self) -> Result<Versions, KafkaError> {
        for version in [3, 0] {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("weir"))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
            let garbled = |error: &dyn std::fmt::Display| {
                let message = format!("broker {}: the answer to ApiVersions cannot be read: {error}", self.address);
                KafkaError::corrupt(message)
            };
            let header = RequestHeader::default()
                .with_request_api_key(ApiKey::ApiVersions as i16)
                .with_request_api_version(version)
                .with_correlation_id(self.correlation)
                .with_client_id(Some(self.client_id.clone()));
            let mut frame = BytesMut::from(&[0; 4][..]);
            header.encode(&mut frame, ApiVersionsRequest::header_version(version)).map_err(|error| garbled(&error))?;
            request.encode(&mut frame, version).map_err(|error| garbled(&error))?;
            let length = (frame.len() - 4) as u32;
            frame[..4].copy_from_slice(&length.to_be_bytes());
            self.correlation += 1;
            let mut answer = self.round(frame.freeze()).await?;
            let garbled = |error: &dyn std::fmt::Display| {
                let message = format!("broker {}: the answer to ApiVersions cannot be read: {error}", self.address);
                KafkaError::corrupt(message)
            };
            ResponseHeader::decode(&mut answer, 0).map_err(|error| garbled(&error))?;
            if version > 0 && answer.first_chunk::<2>() == Some(&ResponseError::UnsupportedVersion.code().to_be_bytes())
            {
                continue;
            }
            let response = ApiVersionsResponse::decode(&mut answer, version).map_err(|error| garbled(&error))?;
            KafkaError::check(response.error_code, || format!("broker {}", self.address))?;
            return Ok(Versions::of(&response));
        }
        Err(KafkaError::refused(format!("broker {} does not say what it understands", self.address)))
    }

    async fn call<C: Call>(&mut self, request: &C, versions: &Versions) -> Result<C::Response, KafkaError> {
        let version = versions.pick::<C>(self.address)?;
        let failed = |error: &dyn std::fmt::Display, address: &str| {
            KafkaError::corrupt(format!("broker {address}: {:?}: {error}", C::KEY))
        };
        let frame = encode(request, version, self.correlation, self.client_id);
        let frame = frame.map_err(|error| failed(&error, self.address))?;
        self.correlation += 1;
        let answer = self.round(frame).await?;
        decode::<C>(answer, version).map_err(|error| failed(&error, self.address))
    }

    async fn authenticate(&mut self, sasl: &Sasl, versions: &Versions) -> Result<(), KafkaError> {
        let mechanism = StrBytes::from_static_str(sasl.mechanism.name());
        let handshake = SaslHandshakeRequest::default().with_mechanism(mechanism);
        let offered = self.call(&handshake, versions).await?;
        let offers = offered.mechanisms.iter().map(StrBytes::as_str).collect::<Vec<_>>().join(", ");
        KafkaError::check(offered.error_code, || {
            format!("broker {}: {} (it offers {offers})", self.address, sasl.mechanism.name())
        })?;
        if sasl.mechanism == Mechanism::Plain {
            self.say(sasl::plain(sasl), sasl, versions).await?;
            return Ok(());
        }
        let refused = |reason: String, address: &str| KafkaError::refused(format!("broker {address}: {reason}"));
        let mut scram = Scram::new(sasl).map_err(|reason| refused(reason, self.address))?;
        let challenge = self.say(scram.first(), sasl, versions).await?;
        let proof = scram.proof(&challenge).map_err(|reason| refused(reason, self.address))?;
        let last = self.say(proof, sasl, versions).await?;
        if scram.is_proved(&last) {
            return Ok(());
        }
        let reason = "it could not prove that it knows the password; it may not be the broker that it claims to be";
        Err(refused(reason.to_string(), self.address))
    }

    async fn say(&mut self, bytes: Vec<u8>, sasl: &Sasl, versions: &Versions) -> Result<Bytes, KafkaError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(bytes.into());
        let answer = self.call(&request, versions).await?;
        KafkaError::check(answer.error_code, || format!("broker {}: user '{}'", self.address, sasl.user))?;
        Ok(answer.auth_bytes)
    }
}
