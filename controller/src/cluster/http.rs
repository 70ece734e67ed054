//! `/metrics`, `/healthz` and `/readyz`, over plain HTTP/1.1.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What is answered.
pub trait Answers: Send + Sync + 'static {
    /// The metrics, as text.
    fn metrics(&self) -> String;
    /// Why this process is not ready; none if it is.
    fn not_ready(&self) -> Option<String>;
    /// Why it should be ended and begun anew; none if it is well.
    fn not_well(&self) -> Option<String>;
}

/// The text format of OpenMetrics.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Listens; the future serves until it is dropped.
pub async fn listen(
    address: SocketAddr,
    answers: Arc<dyn Answers>,
) -> std::io::Result<(SocketAddr, impl Future<Output = Infallible>)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((bound, serve(listener, answers)))
}

async fn serve(listener: TcpListener, answers: Arc<dyn Answers>) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, mostly: others may be given back soon.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, answers.as_ref());
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, answers: &dyn Answers) -> Response<Full<Bytes>> {
    let probe = |problem: Option<String>| match problem {
        None => (StatusCode::OK, TEXT, "ok\n".to_string()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{problem}\n")),
    };
    let (status, kind, body) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, METRICS, answers.metrics()),
        "/readyz" => probe(answers.not_ready()),
        "/healthz" | "/livez" => probe(answers.not_well()),
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n".to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
