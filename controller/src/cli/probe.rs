//! `weir probe URL`: asks a process of ours how it is. `helm test` runs it, since the images hold no other client.
//!
//! HTTP/1.0 with nothing but a status line expected: enough for our own endpoints, and no client for anything else.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use url::Url;

use super::{Exit, Failure};

/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// A server that says nothing for so long is asked again.
const PATIENCE: Duration = Duration::from_secs(5);
/// More of an answer is not read: a status line and some words.
const MOST: u64 = 16 * 1024;

/// Succeeds once the URL answers 200, and fails when it has not within this time, with its last answer.
pub(super) async fn probe(url: &Url, within: Duration) -> Result<(), Failure> {
    let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err(Failure::new(Exit::BadInput, format!("{url} is no address to ask; write http://host:port/path")));
    };
    let end = Instant::now() + within;
    loop {
        let last = match timeout_at(end.min(Instant::now() + PATIENCE), get(host, port, url.path())).await {
            Ok(Ok((200, _))) => {
                println!("{url} answers 200");
                return Ok(());
            }
            Ok(Ok((status, body))) => format!("answers {status}: {}", body.trim()),
            Ok(Err(error)) => format!("does not answer: {error}"),
            Err(_) => "does not answer in time".to_string(),
        };
        if Instant::now() + PAUSE >= end {
            return Err(Failure::new(Exit::Environment, format!("{url} {last}")));
        }
        sleep(PAUSE).await;
    }
}

async fn get(host: &str, port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(status) => Ok((status, body.to_string())),
        None => Err(std::io::Error::other("what answers does not speak HTTP")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::TcpListener;

    /// Answers each connection with the next of these, the last one for ever.
    async fn server(answers: &'static [&'static str]) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for i in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                stream.write_all(answers[i.min(answers.len() - 1)].as_bytes()).await.unwrap();
            }
        });
        Url::parse(&format!("http://127.0.0.1:{port}/readyz")).unwrap()
    }

    #[tokio::test]
    async fn it_waits_until_the_answer_is_200() {
        let url = server(&["HTTP/1.1 503 Service Unavailable\r\n\r\nnot yet", "HTTP/1.1 200 OK\r\n\r\nok"]).await;
        probe(&url, Duration::from_secs(20)).await.unwrap();
    }

    #[tokio::test]
    async fn it_tells_the_last_answer_when_time_is_up() {
        let url = server(&["HTTP/1.1 503 Service Unavailable\r\n\r\nno leader\n"]).await;
        let failure = probe(&url, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Environment);
        assert!(failure.message.ends_with("/readyz answers 503: no leader"), "{}", failure.message);
    }

    #[tokio::test]
    async fn only_plain_http_is_asked() {
        let failure = probe(&Url::parse("https://weir/readyz").unwrap(), Duration::ZERO).await.unwrap_err();
        assert_eq!(failure.exit, Exit::BadInput);
    }
}
