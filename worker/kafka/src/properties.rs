//! Kafka's own names for settings (`bootstrap.servers`, `sasl.jaas.config`, …), each mapped to what it means here, or refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::compress::Compression;
use crate::fetch::{FetcherSettings, Isolation};
use crate::produce::ProducerSettings;
use crate::sasl::{Mechanism, Sasl};
use crate::security::{Certificates, Settings};

/// What is done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// Where to read on when an offset is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// At the first record that is still there.
    Earliest,
    /// Behind the last one.
    Latest,
    /// Nowhere: it is an error.
    None,
}

/// A property that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyDoc {
    /// Kafka's name for it.
    pub name: &'static str,
    /// The form of the value.
    pub expects: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
}

/// A property that is not known, or has a value of a wrong form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' {what}; {remedy}")]
pub struct PropertyError {
    /// The property.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// What the properties of a table say.
#[derive(Clone, Debug)]
pub struct Properties {
    /// How the cluster is reached.
    pub settings: Settings,
    /// The group whose offsets are read at the start, and in which progress is noted.
    pub group: Option<String>,
    /// Where to read on when an offset is not there.
    pub reset: Option<Reset>,
    /// Progress is noted in the group after each checkpoint.
    pub commits_offsets: bool,
    /// How often new partitions are looked for.
    pub discovery: Option<Duration>,
    /// Bounds of reading.
    pub fetcher: FetcherSettings,
    /// Bounds of writing.
    pub producer: ProducerSettings,
    /// How long a transaction may be open.
    pub transaction_timeout: Option<Duration>,
    /// What is sent again is written once.
    pub idempotent: bool,
}

const MILLIS: &str = "a number of milliseconds";
const BYTES: &str = "a number of bytes";
const FLAG: &str = "'true' or 'false'";

const COMMON: &[PropertyDoc] = &[
    doc(
        "bootstrap.servers",
        "'host:port', several with commas between them",
        "required",
        "Some of the brokers; the others are learnt from these.",
    ),
    doc("client.id", "a text", "weir", "What the brokers' logs and quotas call the job."),
    doc(
        "security.protocol",
        "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'",
        "PLAINTEXT",
        "Whether connections are encrypted, and whether the brokers ask who we are.",
    ),
    doc(
        "sasl.mechanism",
        "'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'",
        "required with SASL",
        "How a password is shown.",
    ),
    doc(
        "sasl.jaas.config",
        "'… PlainLoginModule required username=\"…\" password=\"…\";', or ScramLoginModule",
        "required with SASL",
        "User and password.",
    ),
    doc(
        "ssl.truststore.location",
        "the path of a file in PEM form",
        "the machine's own list",
        "The authorities that sign the brokers' certificates.",
    ),
    doc("ssl.truststore.type", "'PEM'", "PEM", "The form of that file."),
    doc(
        "ssl.keystore.location",
        "the path of a file in PEM form",
        "none",
        "Our certificate and its key, for brokers that ask for one.",
    ),
    doc("ssl.keystore.type", "'PEM'", "PEM", "The form of that file."),
    doc(
        "ssl.endpoint.identification.algorithm",
        "'https' or an empty text",
        "https",
        "Empty: the brokers' certificates need not bear their names.",
    ),
    doc("request.timeout.ms", MILLIS, "30000", "The longest wait for an answer."),
    doc("socket.connection.setup.timeout.ms", MILLIS, "10000", "The longest wait for a connection."),
    doc(
        "default.api.timeout.ms",
        MILLIS,
        "60000",
        "How long a broker that is away is waited for before the job fails.",
    ),
    doc("retry.backoff.ms", MILLIS, "100", "The first wait before something is tried again."),
    doc("retry.backoff.max.ms", MILLIS, "1000", "The longest such wait."),
];

const READ: &[PropertyDoc] = &[
    doc(
        "group.id",
        "a text",
        "none",
        "The group whose offsets scan.startup.mode = 'group-offsets' starts from, and in which progress is noted after each checkpoint. Nobody joins it.",
    ),
    doc(
        "auto.offset.reset",
        "'earliest', 'latest' or 'none'",
        "none",
        "Where to start when the group has noted nothing, and where to go on when an offset is gone; 'none' is an error.",
    ),
    doc(
        "isolation.level",
        "'read_committed' or 'read_uncommitted'",
        "read_committed",
        "Whether records of transactions that are open or aborted are read.",
    ),
    doc(
        "commit.offsets.on.checkpoint",
        FLAG,
        "true where there is a group.id",
        "Progress is noted in the group after each checkpoint, for others to look at.",
    ),
    doc(
        "partition.discovery.interval.ms",
        MILLIS,
        "300000",
        "How often new partitions are looked for; 0 or less: never. As scan.topic-partition-discovery.interval.",
    ),
    doc("fetch.min.bytes", BYTES, "1", "How many bytes a broker waits for before it answers."),
    doc("fetch.max.wait.ms", MILLIS, "500", "How long it waits for them."),
    doc("fetch.max.bytes", BYTES, "52428800", "The most in one answer."),
    doc("max.partition.fetch.bytes", BYTES, "1048576", "The most of one partition in one answer."),
];

const WRITE: &[PropertyDoc] = &[
    doc(
        "acks",
        "'all', '-1' or '1'",
        "all",
        "Whether a record counts as written when all copies in sync have it, or when the leader has.",
    ),
    doc("enable.idempotence", FLAG, "true", "What is sent again is written once. Needs acks = 'all'."),
    doc("compression.type", "'none', 'gzip', 'snappy', 'lz4' or 'zstd'", "none", "How batches are packed."),
    doc("batch.size", BYTES, "262144", "A batch is closed at this size, not packed."),
    doc("linger.ms", MILLIS, "5", "How long a batch that is not full waits for more."),
    doc("buffer.memory", BYTES, "33554432", "The most that a subtask holds before the brokers have it."),
    doc("max.request.size", BYTES, "8388608", "The most in one request."),
    doc("delivery.timeout.ms", MILLIS, "120000", "How long records are sent again before the job fails."),
    doc(
        "transaction.timeout.ms",
        MILLIS,
        "600000",
        "How long a transaction may be open, which bounds how late a restore may come. At most the broker's transaction.max.timeout.ms.",
    ),
];

/// What speaks of things that are not here, and may stand in a script that other programs run too.
const WITHOUT_EFFECT: &[&str] = &[
    "allow.auto.create.topics",
    "auto.commit.interval.ms",
    "check.crcs",
    "client.dns.lookup",
    "connections.max.idle.ms",
    "enable.auto.commit",
    "heartbeat.interval.ms",
    "max.block.ms",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "max.poll.records",
    "metadata.max.age.ms",
    "partition.assignment.strategy",
    "receive.buffer.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retries",
    "send.buffer.bytes",
    "session.timeout.ms",
    "zookeeper.connect",
];

const fn doc(name: &'static str, expects: &'static str, default: &'static str, about: &'static str) -> PropertyDoc {
    PropertyDoc { name, expects, default, about }
}

/// What may be said of a topic that is read, or written.
pub fn known_properties(purpose: Purpose) -> impl Iterator<Item = &'static PropertyDoc> {
    COMMON.iter().chain(if purpose == Purpose::Read { READ } else { WRITE })
}

/// What is taken, and means nothing here.
pub fn properties_without_effect() -> &'static [&'static str] {
    WITHOUT_EFFECT
}

impl Properties {
    /// Reads them; the names are Kafka's, without a prefix.
    pub fn parse(purpose: Purpose, all: &BTreeMap<String, String>) -> Result<Self, PropertyError> {
        let given = Given { purpose, all };
        given.refuse_unknown()?;
        Ok(Self {
            settings: given.settings()?,
            group: given.text("group.id").map(str::to_string),
            reset: given.one_of(
                "auto.offset.reset",
                &[("earliest", Reset::Earliest), ("latest", Reset::Latest), ("none", Reset::None)],
            )?,
            commits_offsets: given.flag("commit.offsets.on.checkpoint")?.unwrap_or(true)
                && given.text("group.id").is_some(),
            discovery: given.discovery()?,
            fetcher: given.fetcher()?,
            producer: given.producer()?,
            transaction_timeout: given.millis("transaction.timeout.ms")?,
            idempotent: given.flag("enable.idempotence")?.unwrap_or_else(|| given.text("acks") != Some("1")),
        })
    }
}

struct Given<'a> {
    purpose: Purpose,
    all: &'a BTreeMap<String, String>,
}

impl<'a> Given<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.all.get(name).map(|text| text.trim())
    }

    fn wrong(&self, name: &str) -> PropertyError {
        let doc = known_properties(self.purpose).find(|doc| doc.name == name);
        PropertyError {
            name: name.to_string(),
            what: format!("is '{}'", self.text(name).unwrap_or_default()),
            remedy: format!("give {}", doc.map_or("another value", |doc| doc.expects)),
        }
    }

    fn refuse_unknown(&self) -> Result<(), PropertyError> {
        for name in self.all.keys() {
            if known_properties(self.purpose).any(|doc| doc.name == name) || WITHOUT_EFFECT.contains(&name.as_str()) {
                continue;
            }
            let other = if self.purpose == Purpose::Read { WRITE } else { READ };
            if other.iter().any(|doc| doc.name == name) {
                // One table may be read and written.
                continue;
            }
            let remedy = remedy_of(name).map_or_else(
                || {
                    let near = nearest(name, known_properties(self.purpose).map(|doc| doc.name));
                    near.map_or_else(|| "take it out".to_string(), |near| format!("did you mean '{near}'?"))
                },
                str::to_string,
            );
            return Err(PropertyError { name: name.clone(), what: "is not known".to_string(), remedy });
        }
        Ok(())
    }

    fn number<T: std::str::FromStr>(
        &self,
        name: &str,
        accept: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, PropertyError> {
        let parse = |text: &str| text.parse().ok().filter(|number| accept(number)).ok_or_else(|| self.wrong(name));
        self.text(name).map(parse).transpose()
    }

    fn bytes(&self, name: &str) -> Result<Option<i32>, PropertyError> {
        self.number(name, |bytes: &i32| *bytes > 0)
    }

    fn millis(&self, name: &str) -> Result<Option<Duration>, PropertyError> {
        let millis = self.number(name, |millis: &i32| *millis >= 0)?;
        Ok(millis.map(|millis| Duration::from_millis(millis.unsigned_abs().into())))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, PropertyError> {
        self.one_of(name, &[("true", true), ("false", false)])
    }

    fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, PropertyError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let choice = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        choice.map(|(_, choice)| Some(*choice)).ok_or_else(|| self.wrong(name))
    }

    fn missing(name: &str, why: &str, form: &str) -> PropertyError {
        PropertyError { name: name.to_string(), what: format!("is needed {why}"), remedy: format!("give {form}") }
    }

    fn settings(&self) -> Result<Settings, PropertyError> {
        let servers = self.text("bootstrap.servers").unwrap_or_default();
        let servers: Vec<_> = servers.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
        if servers.is_empty() {
            return Err(Self::missing(
                "bootstrap.servers",
                "to find the brokers",
                "'host:port', several with commas between them",
            ));
        }
        let has_port = |server: &&&str| {
            server.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if servers.iter().any(|server| !has_port(&server)) {
            return Err(self.wrong("bootstrap.servers"));
        }
        let mut settings = Settings::new(servers.into_iter().map(str::to_string).collect());
        if let Some(id) = self.text("client.id") {
            settings.client_id = id.to_string();
        }
        let protocol = self.one_of(
            "security.protocol",
            &[
                ("PLAINTEXT", (false, false)),
                ("SSL", (true, false)),
                ("SASL_PLAINTEXT", (false, true)),
                ("SASL_SSL", (true, true)),
            ],
        )?;
        let (tls, sasl) = protocol.unwrap_or_default();
        settings.tls = tls.then(|| self.certificates()).transpose()?;
        settings.sasl = sasl.then(|| self.sasl()).transpose()?;
        for (name, to) in [
            ("request.timeout.ms", &mut settings.request_timeout),
            ("socket.connection.setup.timeout.ms", &mut settings.connect_timeout),
            ("default.api.timeout.ms", &mut settings.call_timeout),
            ("retry.backoff.ms", &mut settings.retry_wait),
            ("retry.backoff.max.ms", &mut settings.retry_wait_max),
        ] {
            if let Some(millis) = self.millis(name)? {
                *to = millis.max(Duration::from_millis(1));
            }
        }
        Ok(settings)
    }

    fn certificates(&self) -> Result<Certificates, PropertyError> {
        for (kind, location) in
            [("ssl.truststore.type", "ssl.truststore.location"), ("ssl.keystore.type", "ssl.keystore.location")]
        {
            let other = self.text(kind).is_some_and(|kind| !kind.eq_ignore_ascii_case("PEM"));
            let name = self.text(location).unwrap_or_default();
            let extension = Path::new(name).extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
            if other || extension.is_some_and(|end| matches!(end.as_str(), "jks" | "p12" | "pfx")) {
                return Err(PropertyError {
                    name: if other { kind } else { location }.to_string(),
                    what: "names a Java store".to_string(),
                    remedy: "give a file in PEM form; keytool -exportcert -rfc and openssl pkcs12 -nodes convert one"
                        .to_string(),
                });
            }
        }
        let check_name = self.one_of("ssl.endpoint.identification.algorithm", &[("https", true), ("", false)])?;
        let identity = self.text("ssl.keystore.location").map(|path| (PathBuf::from(path), PathBuf::from(path)));
        Ok(Certificates {
            authorities: self.text("ssl.truststore.location").map(PathBuf::from),
            identity,
            check_name: check_name.unwrap_or(true),
        })
    }

    fn sasl(&self) -> Result<Sasl, PropertyError> {
        let choices = Mechanism::ALL.map(|mechanism| (mechanism.name(), mechanism));
        let form = "'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'";
        let mechanism = self.one_of("sasl.mechanism", &choices)?;
        let mechanism = mechanism.ok_or_else(|| Self::missing("sasl.mechanism", "with SASL", form))?;
        let module = if mechanism == Mechanism::Plain { "PlainLoginModule" } else { "ScramLoginModule" };
        let form = format!("'org.apache.kafka.common.security.….{module} required username=\"…\" password=\"…\";'");
        let jaas =
            self.text("sasl.jaas.config").ok_or_else(|| Self::missing("sasl.jaas.config", "with SASL", &form))?;
        // The value holds a password: it is never shown.
        let wrong = |what: &str| PropertyError {
            name: "sasl.jaas.config".to_string(),
            what: what.to_string(),
            remedy: format!("give {form}"),
        };
        let (class, rest) = jaas.split_once(char::is_whitespace).ok_or_else(|| wrong("has no options"))?;
        if !class.ends_with(module) {
            return Err(wrong("names a login module that does not fit 'sasl.mechanism'"));
        }
        let user = jaas_option(rest, "username").ok_or_else(|| wrong("has no username"))?;
        let password = jaas_option(rest, "password").ok_or_else(|| wrong("has no password"))?;
        Ok(Sasl { mechanism, user, password })
    }

    fn discovery(&self) -> Result<Option<Duration>, PropertyError> {
        let millis = self.number("partition.discovery.interval.ms", |_: &i64| true)?;
        Ok(millis.map(|millis| Duration::from_millis(millis.max(0).unsigned_abs())))
    }

    fn fetcher(&self) -> Result<FetcherSettings, PropertyError> {
        let mut fetcher = FetcherSettings::default();
        let levels = [("read_committed", Isolation::ReadCommitted), ("read_uncommitted", Isolation::ReadUncommitted)];
        fetcher.isolation = self.one_of("isolation.level", &levels)?.unwrap_or_default();
        fetcher.max_wait = self.millis("fetch.max.wait.ms")?.unwrap_or(fetcher.max_wait);
        fetcher.min_bytes = self.bytes("fetch.min.bytes")?.unwrap_or(fetcher.min_bytes);
        fetcher.max_bytes = self.bytes("fetch.max.bytes")?.unwrap_or(fetcher.max_bytes);
        fetcher.partition_bytes = self.bytes("max.partition.fetch.bytes")?.unwrap_or(fetcher.partition_bytes);
        Ok(fetcher)
    }

    fn producer(&self) -> Result<ProducerSettings, PropertyError> {
        let mut producer = ProducerSettings::default();
        let packings = Compression::ALL.map(|compression| (compression.name(), compression));
        producer.compression = self.one_of("compression.type", &packings)?.unwrap_or_default();
        producer.acks = self.one_of("acks", &[("all", -1), ("-1", -1), ("1", 1)])?.unwrap_or(-1);
        if producer.acks == 1 && self.flag("enable.idempotence")? == Some(true) {
            return Err(PropertyError {
                name: "acks".to_string(),
                what: "is '1' beside 'enable.idempotence' = 'true'".to_string(),
                remedy: "give 'all', or take one of them out".to_string(),
            });
        }
        let bytes = |name, default| Ok(self.bytes(name)?.map_or(default, |bytes| bytes.unsigned_abs() as usize));
        producer.batch_bytes = bytes("batch.size", producer.batch_bytes)?;
        producer.buffered_bytes = bytes("buffer.memory", producer.buffered_bytes)?;
        producer.request_bytes = bytes("max.request.size", producer.request_bytes)?;
        producer.linger = self.millis("linger.ms")?.unwrap_or(producer.linger);
        producer.delivery_timeout = self.millis("delivery.timeout.ms")?.unwrap_or(producer.delivery_timeout);
        Ok(producer)
    }
}

/// What is known of Kafka's other clients, and is not here.
fn remedy_of(name: &str) -> Option<&'static str> {
    let starts = |start: &str| name.starts_with(start);
    Some(match name {
        "key.deserializer" | "value.deserializer" | "key.serializer" | "value.serializer" => {
            "take it out: 'format', 'key.format' and 'value.format' say how records are read and written"
        }
        "transactional.id" => "take it out: 'sink.transactional-id-prefix' begins the names of the transactions",
        "partitioner.class" => "take it out: 'sink.partitioner' says which rows go where",
        "group.instance.id" => "take it out: nobody joins the group",
        _ if starts("ssl.truststore.") || starts("ssl.keystore.") || starts("ssl.key.") => {
            "put authorities, certificate and key into files in PEM form, without a password, and name them in 'ssl.truststore.location' and \
             'ssl.keystore.location'"
        }
        _ if starts("sasl.oauthbearer.")
            || starts("sasl.login.")
            || starts("sasl.kerberos.")
            || starts("sasl.client.") =>
        {
            "use 'sasl.mechanism' = 'PLAIN' or one of SCRAM"
        }
        _ => return None,
    })
}

/// The value of `name="…"` among the options of a login module.
fn jaas_option(options: &str, name: &str) -> Option<String> {
    let mut rest = options;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        let end = rest.find(|c: char| c.is_whitespace() || c == '=' || c == ';')?;
        let (word, behind) = rest.split_at(end);
        let Some(value) = behind.trim_start().strip_prefix('=') else {
            rest = behind;
            continue;
        };
        let value = value.trim_start();
        let (text, behind) = match value.strip_prefix('"') {
            Some(quoted) => quoted_text(quoted)?,
            None => {
                let end = value.find(|c: char| c.is_whitespace() || c == ';').unwrap_or(value.len());
                (value[..end].to_string(), &value[end..])
            }
        };
        if word == name {
            return Some(text);
        }
        rest = behind;
    }
}

/// A text up to its closing quote, and what stands behind that.
fn quoted_text(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(letters.next()?.1),
            other => text.push(other),
        }
    }
    None
}

/// The name that shares the most parts with this one, if it shares half of them.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let distance = |other: &str| {
        let (a, b): (Vec<char>, Vec<char>) = (name.chars().collect(), other.chars().collect());
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.iter().enumerate() {
            let mut corner = row[0];
            row[0] = i + 1;
            for (j, y) in b.iter().enumerate() {
                let replaced = corner + usize::from(x != y);
                corner = row[j + 1];
                row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
            }
        }
        row[b.len()]
    };
    known
        .map(|known| (distance(known), known))
        .min()
        .filter(|(edits, known)| *edits <= known.len() / 3)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(purpose: Purpose, given: &[(&str, &str)]) -> Result<Properties, PropertyError> {
        let mut all: BTreeMap<String, String> =
            [("bootstrap.servers".to_string(), "a:9092, b:9093".to_string())].into();
        all.extend(given.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())));
        Properties::parse(purpose, &all)
    }

    #[test]
    fn each_property_comes_to_where_it_belongs() {
        let read = parse(
            Purpose::Read,
            &[
                ("group.id", "g"),
                ("isolation.level", "read_uncommitted"),
                ("auto.offset.reset", "Earliest"),
                ("fetch.max.wait.ms", "7"),
                ("session.timeout.ms", "1"),
                ("transaction.timeout.ms", "900000"),
            ],
        )
        .unwrap();
        assert_eq!(read.settings.bootstrap, ["a:9092", "b:9093"]);
        assert_eq!((read.reset, read.commits_offsets), (Some(Reset::Earliest), true));
        assert_eq!(
            (read.fetcher.isolation, read.fetcher.max_wait),
            (Isolation::ReadUncommitted, Duration::from_millis(7))
        );
        let write =
            parse(Purpose::Write, &[("compression.type", "zstd"), ("batch.size", "1000"), ("acks", "1")]).unwrap();
        assert_eq!((write.producer.compression, write.producer.batch_bytes), (Compression::Zstd, 1000));
        assert!(!write.idempotent && !write.commits_offsets);
    }

    #[test]
    fn user_and_password_are_read_from_what_java_takes_and_are_never_shown() {
        let jaas =
            "org.apache.kafka.common.security.scram.ScramLoginModule required\n username=\"al\\\"ice\" password='x y';";
        let given =
            [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", jaas)];
        let sasl = parse(Purpose::Read, &given).unwrap().settings.sasl.unwrap();
        assert_eq!((sasl.user.as_str(), sasl.password.as_str()), ("al\"ice", "'x"));
        let jaas = "o.a.k.PlainLoginModule required username=\"u\" password=\"secret\"";
        let given =
            [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", jaas)];
        let error = parse(Purpose::Read, &given).unwrap_err().to_string();
        assert!(error.contains("does not fit") && !error.contains("secret"), "{error}");
        let error = parse(Purpose::Read, &given[..2]).unwrap_err().to_string();
        assert!(error.contains("'sasl.jaas.config' is needed with SASL"), "{error}");
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_to_do() {
        for (given, part) in [
            (("isolation.levle", "x"), "did you mean 'isolation.level'?"),
            (("ssl.truststore.password", "x"), "PEM"),
            (("value.deserializer", "x"), "'format'"),
            (("sasl.oauthbearer.token.endpoint.url", "x"), "SCRAM"),
            (("isolation.level", "sometimes"), "give 'read_committed' or 'read_uncommitted'"),
            (("bootstrap.servers", "nowhere"), "host:port"),
            (("fetch.max.bytes", "-1"), "a number of bytes"),
            (("quite.another.thing", "x"), "take it out"),
        ] {
            let error = parse(Purpose::Read, &[given]).unwrap_err().to_string();
            assert!(error.contains(part), "{given:?}: {error}");
        }
        let given = [("security.protocol", "SSL"), ("ssl.truststore.location", "/etc/trust.jks")];
        assert!(parse(Purpose::Read, &given).unwrap_err().to_string().contains("Java store"));
    }
}
