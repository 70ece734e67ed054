//! The TCP proxy between a job and its storage: cut, slow, or answering 503.

use serde_json::json;

/// Its API's node port.
pub const PORT: u16 = 30474;
/// Where its proxies listen, each case's on a port of its own.
pub const FIRST_LISTENER: u16 = 20_000;

/// One case's own proxy to MinIO.
pub struct Proxy {
    api: String,
    name: String,
    client: reqwest::Client,
}

/// Closes the proxies that cases of an earlier run have left: this run's listen on the same ports.
pub async fn close_all(node: &str) -> Result<(), reqwest::Error> {
    let (client, api) = (reqwest::Client::new(), format!("http://{node}:{PORT}/proxies"));
    let left: serde_json::Map<String, serde_json::Value> =
        client.get(&api).send().await?.error_for_status()?.json().await?;
    for name in left.keys() {
        client.delete(format!("{api}/{name}")).send().await?.error_for_status()?;
    }
    Ok(())
}

impl Proxy {
    /// Opens a listener that leads to MinIO.
    pub async fn open(node: &str, name: &str, listener: u16) -> Self {
        let proxy = Self {
            api: format!("http://{node}:{PORT}/proxies"),
            name: name.to_string(),
            client: reqwest::Client::new(),
        };
        let body = json!({"name": name, "listen": format!("0.0.0.0:{listener}"), "upstream": "minio.weir-e2e.svc.cluster.local:9000", "enabled": true});
        proxy.call("", Some(body)).await;
        proxy
    }

    async fn call(&self, path: &str, body: Option<serde_json::Value>) {
        let url = format!("{}{path}", self.api);
        let request = match body {
            Some(body) => self.client.post(&url).json(&body),
            None => self.client.delete(&url),
        };
        let answer = request.send().await.expect("toxiproxy answers");
        let status = answer.status();
        assert!(status.is_success(), "{url}: {status} {}", answer.text().await.unwrap_or_default());
    }

    /// Connections are closed and refused.
    pub async fn cut(&self) {
        self.call(&format!("/{}", self.name), Some(json!({"enabled": false}))).await;
    }

    /// Connections are accepted again.
    pub async fn mend(&self) {
        self.call(&format!("/{}", self.name), Some(json!({"enabled": true}))).await;
    }

    /// Every answer takes so much longer.
    pub async fn slow(&self, milliseconds: u64) {
        self.toxic("latency", json!({"latency": milliseconds})).await;
    }

    /// Every request is carried out and answered 503.
    pub async fn unavailable(&self) {
        self.toxic("unavailable", json!({})).await;
    }

    async fn toxic(&self, kind: &str, attributes: serde_json::Value) {
        let body = json!({"name": kind, "type": kind, "stream": "downstream", "attributes": attributes});
        self.call(&format!("/{}/toxics", self.name), Some(body)).await;
    }

    /// Takes a toxic away again.
    pub async fn cure(&self, kind: &str) {
        self.call(&format!("/{}/toxics/{kind}", self.name), None).await;
    }
}
