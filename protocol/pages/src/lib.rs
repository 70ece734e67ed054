//! Three pages for the platform, over plain HTTP/1.1: `/healthz` (is the process well; `/livez` is the same), `/readyz` (may it be
//! given work) and `/metrics`.
//!
//! Whoever reaches the port may read them: what answers puts names and numbers into them, and no data. Connections, and the time
//! of each, are bounded, so that nobody holds the kubelet off by opening many.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

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
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections served at once: a kubelet and a few scrapers.
const CONNECTIONS: usize = 32;
/// A request that has not been read by then is none.
const REQUEST: Duration = Duration::from_secs(5);
/// A connection is closed after this, so that none is held for ever.
const CONNECTION: Duration = Duration::from_mins(5);
/// After an accept that failed, as it does when there are no more files to be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// The text format of OpenMetrics.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// What is answered. Asked at each request, so an answer waits for nothing.
pub trait Answers: Send + Sync + 'static {
    /// The metrics, as text.
    fn metrics(&self) -> String;
    /// Why this process is not ready; none if it is.
    fn not_ready(&self) -> Option<String>;
    /// Why it should be ended and begun anew; none if it is well.
    fn not_well(&self) -> Option<String>;
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, answers: Arc<dyn Answers>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                ready(Ok::<_, Infallible>(answer(request.method(), request.uri().path(), answers.as_ref())))
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST);
            let serving = http.serve_connection(TokioIo::new(connection), service);
            // Somebody who hangs up in the middle is nobody's concern.
            drop(timeout(CONNECTION, serving).await);
            drop(place);
        });
    }
}

fn answer(method: &Method, path: &str, answers: &dyn Answers) -> Response<Full<Bytes>> {
    let probe = |problem: Option<String>| match problem {
        None => (StatusCode::OK, TEXT, "ok\n".to_string()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{problem}\n")),
    };
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, METRICS, answers.metrics()),
        (&Method::GET | &Method::HEAD, "/healthz" | "/livez") => probe(answers.not_well()),
        (&Method::GET | &Method::HEAD, "/readyz") => probe(answers.not_ready()),
        (_, "/metrics" | "/healthz" | "/livez" | "/readyz") => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET it\n".to_string())
        }
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n".to_string()),
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

    #[tokio::test]
    async fn the_platform_is_told_health_readiness_and_numbers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(Busy)));
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
