//! A real Kafka broker for tests: a process of its own, on free ports of this machine, from Kafka's own jars.
//!
//! `e2e/kafka/kafka.sh` gets the jars and runs a node. Where that cannot be done a test says so and passes; with
//! `WEIR_REQUIRE_KAFKA=1` it fails. A node ends with the process that started it, however that ends.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use weir_runtime::clock;

use crate::{Client, Settings};

/// A machine with much to do starts a broker slowly.
const PATIENCE: Duration = Duration::from_mins(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// The user that a broker with SASL knows, for each mechanism.
pub const USER: &str = "weir";
/// That user's password.
pub const PASSWORD: &str = "let me in";

/// What a broker is to have beside its plain listener.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// A listener with TLS that asks for certificates, and one with SASL over TLS: the file with the broker's key and certificate,
    /// and the one with the authority that signed it and its clients', in PEM form.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// More lines of `server.properties`.
    pub settings: Vec<(String, String)>,
    /// Brokers beside the first, which also is the controller.
    pub more_brokers: usize,
}

/// One process.
struct Node {
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

/// The broker, or brokers. They end when this is dropped, and their data with them.
pub struct Kafka {
    folder: PathBuf,
    nodes: Vec<Node>,
    tls_port: u16,
    sasl_port: u16,
}

#[allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]
impl Kafka {
    /// The broker that all tests of this process share. `None` where there can be none, and nobody insists on it; `test` is told then.
    pub fn shared(test: &str) -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(test, &Wishes::default())).as_ref();
        if shared.is_none() {
            skipped(test, "see above");
        }
        shared
    }

    /// A broker of the test's own.
    pub fn start(test: &str, wishes: &Wishes) -> Option<Self> {
        if let Err(why) = setup() {
            skipped(test, &why);
            return None;
        }
        let mut random = [0u8; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).expect("random numbers");
        // An id that begins with `-` would be taken for an argument.
        random[0] &= 0x7F;
        let cluster = BASE64_URL_SAFE_NO_PAD.encode(random);
        let folder = env::temp_dir().join(format!("weir-kafka-{}-{cluster}", std::process::id()));
        let [controller, tls_port, sasl_port] = [free_port(), free_port(), free_port()];
        let mut kafka = Self { folder: folder.clone(), nodes: Vec::new(), tls_port, sasl_port };
        for number in 1..=1 + wishes.more_brokers {
            let node = Node { folder: folder.join(number.to_string()), port: free_port(), process: None };
            fs::create_dir_all(&node.folder).expect("a folder in the folder for temporary files");
            let put = |name: &str, text: &str| fs::write(node.folder.join(name), text).expect("a file in that folder");
            put("cluster", &cluster);
            let users =
                ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|name| format!("{name}=[name={USER},password={PASSWORD}]\n"));
            put("users", &users.concat());
            put("server.properties", &kafka.properties(number, &node, controller, wishes));
            kafka.nodes.push(node);
            kafka.run(number - 1);
        }
        for number in 0..kafka.nodes.len() {
            kafka.wait_until_ready(number);
        }
        Some(kafka)
    }

    fn properties(&self, number: usize, node: &Node, controller: u16, wishes: &Wishes) -> String {
        let is_first = number == 1;
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{}", node.port);
        if is_first && wishes.tls.is_some() {
            let _ = write!(listeners, ",SSL://127.0.0.1:{},SASL_SSL://127.0.0.1:{}", self.tls_port, self.sasl_port);
        }
        let bound =
            if is_first { format!("{listeners},CONTROLLER://127.0.0.1:{controller}") } else { listeners.clone() };
        let mut text = format!(
            "node.id={number}\nprocess.roles={}\nlisteners={bound}\nadvertised.listeners={}\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL\n\
             log.dirs={}/data\n",
            if is_first { "broker,controller" } else { "broker" },
            if is_first { &bound } else { &listeners },
            node.folder.display(),
        );
        // One broker can hold one copy, and tests are small.
        for name in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
            let _ = writeln!(text, "{name}.replication.factor=1\n{name}.num.partitions=4");
        }
        text.push_str("transaction.state.log.min.isr=1\nshare.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n");
        text.push_str("auto.create.topics.enable=false\ndelete.topic.enable=true\n");
        if let Some((identity, authority)) = wishes.tls.as_ref().filter(|_| is_first) {
            let _ = write!(
                text,
                "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
                 listener.name.ssl.ssl.client.auth=required\n\
                 listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n",
                identity.display(),
                authority.display(),
            );
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
                let _ = writeln!(text, "listener.name.sasl_ssl.{mechanism}.sasl.jaas.config={module} required;");
            }
        }
        for (name, value) in &wishes.settings {
            let _ = writeln!(text, "{name}={value}");
        }
        text
    }

    fn run(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        drop(fs::remove_file(node.folder.join("pid")));
        let process = Command::new(script())
            .arg("serve")
            .arg(&node.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(node.folder.join("script.log")).expect("a file in that folder"))
            .spawn()
            .expect("the script starts");
        node.process = Some(process);
    }

    fn wait_until_ready(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let deadline = clock::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", node.port)).is_err() {
            let ended = node.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if ended.is_some() || clock::now() > deadline {
                let logs = ["script.log", "format.log", "out.log", "server.log"];
                let said = logs.map(|log| fs::read_to_string(node.folder.join(log)).unwrap_or_default());
                panic!("Kafka is not ready ({ended:?}):\n{}", said.concat());
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// The plain listeners, as `bootstrap.servers`.
    pub fn servers(&self) -> String {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect::<Vec<_>>().join(",")
    }

    /// The listener with TLS that asks for certificates.
    pub fn tls_server(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port)
    }

    /// The listener with SASL over TLS.
    pub fn sasl_server(&self) -> String {
        format!("127.0.0.1:{}", self.sasl_port)
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        let servers = self.servers().split(',').map(str::to_string).collect();
        Client::new(Settings::new(servers)).expect("a client needs no more than addresses")
    }

    /// Kills a node, the first being 0, by signal 9.
    pub fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(mut process) = node.process.take() {
            // The script kills the node when its input ends.
            drop(process.stdin.take());
            drop(process.wait());
        }
    }

    /// Starts a node again that was killed, with what it had written.
    pub fn revive(&mut self, number: usize) {
        self.run(number);
        self.wait_until_ready(number);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        for number in 0..self.nodes.len() {
            self.kill(number);
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/kafka/kafka.sh")
}

/// Gets the jars, if they are not there.
fn setup() -> Result<(), String> {
    let failed = |why: String| format!("Kafka could not be fetched (e2e/kafka/kafka.sh setup): {why}");
    let done = Command::new(script()).arg("setup").stdin(Stdio::null()).output();
    let done = done.map_err(|error| failed(error.to_string()))?;
    if done.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_string())) }
}

/// Says that a test is not run, or fails it.
fn skipped(test: &str, why: &str) {
    assert!(env::var("WEIR_REQUIRE_KAFKA").as_deref() != Ok("1"), "{test} needs a Kafka broker: {why}");
    // Not by a macro: those are captured where a test passes.
    let _ = writeln!(io::stderr(), "{test} is SKIPPED: {why}");
}

#[allow(clippy::expect_used)]
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}
