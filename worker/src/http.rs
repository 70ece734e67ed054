//! Three pages for the platform: `/healthz` (is the process alive), `/readyz` (may a coordinator deploy here) and `/metrics`.
//!
//! Whoever reaches the port may read them. They hold names of operators and numbers, and no data.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use weir_engine::metrics::Metrics;

/// Connections served at once: a kubelet and a few scrapers.
const CONNECTIONS: usize = 32;
/// A request that has not been read by then is none.
const REQUEST: Duration = Duration::from_secs(5);
/// A connection is closed after this, so that none is held for ever.
const CONNECTION: Duration = Duration::from_mins(5);
/// After an accept that failed, as it does when there are no more files to be opened.
const PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
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
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.method(), request.uri().path(), &metrics);
                std::future::ready(Ok::<_, Infallible>(answer))
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

fn answer(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    let says = |is: bool| if is { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not now\n") };
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, OPEN_METRICS, metrics.text()),
        (&Method::GET | &Method::HEAD, "/healthz" | "/readyz") => {
            let (status, body) = says(if path == "/healthz" { metrics.is_alive() } else { metrics.is_ready() });
            (status, TEXT, body.to_string())
        }
        (_, "/metrics" | "/healthz" | "/readyz") => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET it\n".to_string()),
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n".to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use weir_engine::server::{WorkerOptions, WorkerServer};
    use weir_sql::Catalog;
    use weir_state::BackendRegistry;

    use super::*;
    use crate::plan::SqlPlanner;

    async fn get(address: std::net::SocketAddr, what: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_platform_is_told_health_readiness_and_numbers() {
        let folder = std::env::temp_dir().join("weir-http-test");
        let planner = Arc::new(SqlPlanner(Catalog::default()));
        let worker = WorkerServer::new(WorkerOptions::new(folder, 128 << 20, BackendRegistry::with_builtin(), planner));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, worker.metrics()));
        assert!(get(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(address, "GET /metrics").await;
        assert!(metrics.contains("application/openmetrics-text") && metrics.trim_end().ends_with("# EOF"), "{metrics}");
        assert!(get(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(get(address, "GET /secrets").await.starts_with("HTTP/1.1 404"));
    }
}
