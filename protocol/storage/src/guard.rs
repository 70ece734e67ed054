//! What an endpoint may send. A bucket's endpoint is named by whoever has a job, and the process that reads it may serve many
//! jobs: an answer that never ends, or one with a text for people to see in it, must not reach beyond the job.
//!
//! An object that is read is bounded by who reads it ([`crate::JobStore::get_at_most`]). Everything else, such as a page of a list
//! or the answer to an upload, is bounded here; of an error only what storage says in its own form comes through.

use async_trait::async_trait;
use futures::StreamExt;
use http_body_util::{BodyExt, Limited};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
        ReqwestConnector,
    },
};
use thiserror::Error;

/// A page of a list has up to 1,000 names of up to 1,024 bytes each, which XML can make six times as long, and some more.
const PAGE: usize = 8 << 20;
/// Storage says in less than this what is wrong.
const COMPLAINT: usize = 16 << 10;
/// So much of it is shown, in characters.
const EXCERPT: usize = 300;

/// Makes clients that bound what they are sent.
#[derive(Debug, Default)]
pub struct Guarded;

impl HttpConnector for Guarded {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Guard { inner }))
    }
}

/// The answer is longer than any that storage gives.
#[derive(Debug, Error)]
#[error("the endpoint's answer is longer than the {} MiB that storage ever takes for it", PAGE >> 20)]
struct TooLong;

fn too_long() -> HttpError {
    HttpError::new(HttpErrorKind::Decode, TooLong)
}

#[derive(Debug)]
struct Guard {
    inner: HttpClient,
}

#[async_trait]
impl HttpService for Guard {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let lists = request.uri().query().is_some_and(|query| query.contains("list-type"));
        let of_object = !lists && ["GET", "HEAD"].contains(&request.method().as_str());
        let response = self.inner.execute(request).await?;
        let status = response.status();
        let (parts, body) = response.into_parts();
        if !status.is_success() {
            let said = excerpt(&beginning(body).await);
            return Ok(HttpResponse::from_parts(parts, said.into()));
        }
        if of_object {
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let bounded = Limited::new(body, PAGE).map_err(|error| match error.downcast::<HttpError>() {
            Ok(error) => *error,
            Err(_) => too_long(),
        });
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(bounded)))
    }
}

/// The first bytes of a complaint; what comes after them is not read.
async fn beginning(body: HttpResponseBody) -> Vec<u8> {
    let mut read = Vec::new();
    let mut stream = body.bytes_stream();
    while read.len() < COMPLAINT
        && let Some(Ok(piece)) = stream.next().await
    {
        let room = COMPLAINT - read.len();
        read.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    read
}

/// What storage says is wrong: the code and the message of an error in its own form. Of anything else, which may be the page of
/// whatever listens at that address, nothing is shown.
fn excerpt(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let said = |element: &str| {
        let (_, rest) = text.split_once(&format!("<{element}>"))?;
        let (said, _) = rest.split_once(&format!("</{element}>"))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        Some(words.join(" ").chars().filter(|c| !c.is_control()).take(EXCERPT).collect::<String>())
    };
    match (text.contains("<Error").then(|| said("Code")).flatten(), said("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        (None, _) if complaint.is_empty() => String::new(),
        (None, _) => "an answer that is not in the form of storage, and is not shown".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_complaint_only_what_storage_says_is_shown() {
        let s3 = "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code><Message>Access\n Denied.</Message><Key>k</Key></Error>";
        assert_eq!(excerpt(s3.as_bytes()), "AccessDenied: Access Denied.");
        assert_eq!(excerpt(b"<Error><Code>SlowDown</Code></Error>"), "SlowDown");
        assert_eq!(excerpt(b""), "");
        for foreign in ["{\"token\": \"secret\"}", "<html><Message>secret</Message></html>", "ami-id\nsecret"] {
            assert!(!excerpt(foreign.as_bytes()).contains("secret"), "{foreign}");
        }
        let long = format!("<Error><Code>A</Code><Message>{}\u{1b}[2J</Message></Error>", "x".repeat(10_000));
        let shown = excerpt(long.as_bytes());
        assert!(shown.chars().count() <= EXCERPT + 10 && !shown.contains('\u{1b}'), "{shown}");
    }
}
