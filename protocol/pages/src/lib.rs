//! Three pages for the platform, over plain HTTP/1.1: `/healthz` (is the process well; `/livez` is the same), `/readyz` (may it be
//! given work) and `/metrics`. Beside the last a process may have pages of its own.
//!
//! Whoever reaches the port may read them: what answers puts names and numbers into them, and no data. A connection is answered once
//! and closed. They are bounded in number and time, and the newest is always let in: nobody keeps others out by opening many and
//! saying nothing. Still, a flood can close connections before they are answered, so probes, by which a process lives or dies, have a
//! listener of their own ([`Scope::Probes`]) that nobody but the kubelet need reach.
#![warn(clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

use std::{collections::VecDeque, convert::Infallible, future::ready, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    task::AbortHandle,
    time::{sleep, timeout},
};
use weir_runtime::tasks;

/// Connections served at once: a kubelet and a few scrapers. When another comes the oldest is closed.
const CONNECTIONS: usize = 32;
/// A request that has not been read by then is none.
const REQUEST: Duration = Duration::from_secs(5);
/// A connection is closed after this, whatever is left to be written to it: a scraper waits ten seconds by default.
const CONNECTION: Duration = Duration::from_secs(30);
/// After an accept that failed, as it does when there are no more files to be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// The text format of OpenMetrics.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What is answered. Asked at each request, so an answer waits for nothing.
pub trait Answers: Send + Sync + 'static {
    /// The metrics, as text.
    fn metrics(&self) -> String;
    /// A page of its own, as JSON; none where there is none of this path. Served beside the metrics.
    fn page(&self, _path: &str) -> Option<String> {
        None
    }
    /// Why this process is not ready; none if it is.
    fn not_ready(&self) -> Option<String>;
    /// Why it should be ended and begun anew; none if it is well.
    fn not_well(&self) -> Option<String>;
}

/// Which pages a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All three.
    All,
    /// Health and readiness.
    Probes,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, scope: Scope, answers: Arc<dyn Answers>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let answers = Arc::clone(&answers);
        let serving = tasks::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                ready(Ok::<_, Infallible>(answer(request.method(), request.uri().path(), scope, answers.as_ref())))
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
            let serving = http.serve_connection(TokioIo::new(connection), service);
            // Somebody who hangs up in the middle is nobody's concern.
            drop(timeout(CONNECTION, serving).await);
        });
        open.push_back(serving.abort_handle());
    }
}

fn answer(method: &Method, path: &str, scope: Scope, answers: &dyn Answers) -> Response<Full<Bytes>> {
    let probe = |problem: Option<String>| match problem {
        None => (StatusCode::OK, TEXT, "ok\n".to_string()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{problem}\n")),
    };
    let nothing = || (StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n".to_string());
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") if scope == Scope::All => {
            (StatusCode::OK, METRICS, answers.metrics())
        }
        (&Method::GET | &Method::HEAD, "/healthz" | "/livez") => probe(answers.not_well()),
        (&Method::GET | &Method::HEAD, "/readyz") => probe(answers.not_ready()),
        (_, "/metrics") if scope == Scope::Probes => {
            (StatusCode::NOT_FOUND, TEXT, "metrics are served on another port\n".to_string())
        }
        (_, "/metrics" | "/healthz" | "/livez" | "/readyz") => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET it\n".to_string())
        }
        (&Method::GET | &Method::HEAD, path) if scope == Scope::All => match answers.page(path) {
            Some(page) => (StatusCode::OK, JSON, page),
            None => nothing(),
        },
        _ => nothing(),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// A process that is well, and not ready.
    struct Busy;

    impl Answers for Busy {
        fn metrics(&self) -> String {
            "# EOF\n".to_string()
        }

        fn page(&self, path: &str) -> Option<String> {
            (path == "/jobs").then(|| "[]".to_string())
        }

        fn not_ready(&self) -> Option<String> {
            Some("it begins".to_string())
        }

        fn not_well(&self) -> Option<String> {
            None
        }
    }

    async fn get(address: SocketAddr, what: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn served(scope: Scope) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, scope, Arc::new(Busy)));
        address
    }

    #[tokio::test]
    async fn probes_have_no_metrics_beside_them() {
        let address = served(Scope::Probes).await;
        assert!(get(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(address, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 404") && metrics.contains("another port"), "{metrics}");
        assert!(get(address, "GET /jobs").await.starts_with("HTTP/1.1 404"));
        let address = served(Scope::All).await;
        let page = get(address, "GET /jobs").await;
        assert!(
            page.starts_with("HTTP/1.1 200") && page.contains("application/json") && page.ends_with("[]"),
            "{page}"
        );
        assert!(get(address, "GET /other").await.starts_with("HTTP/1.1 404"));
        assert!(get(address, "POST /jobs").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn whoever_opens_many_connections_and_says_nothing_keeps_nobody_out() {
        let address = served(Scope::All).await;
        let mut idle = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The beginning of a request, as of somebody who is slow.
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
            idle.push(stream);
        }
        let asked = tokio::time::timeout(REQUEST / 2, get(address, "GET /healthz")).await;
        assert!(asked.unwrap().starts_with("HTTP/1.1 200"), "before any of them is given up");
        // The oldest were closed for the others.
        assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_connection_is_answered_once() {
        let address = served(Scope::All).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }

    #[tokio::test]
    async fn the_platform_is_told_health_readiness_and_numbers() {
        let address = served(Scope::All).await;
        assert!(get(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
        let ready = get(address, "GET /readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("it begins\n"), "{ready}");
        let metrics = get(address, "GET /metrics").await;
        assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(get(address, "HEAD /metrics").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(get(address, "GET /secrets").await.starts_with("HTTP/1.1 404"));
    }
}
