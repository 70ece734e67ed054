//! A real S3 server for tests: a `MinIO` process of its own, on a free port of this machine.
//!
//! The binary is the one that `WEIR_MINIO` names, else `~/.cache/weir/tools/bin/minio`, where `make tools` puts it.
//! Where there is none a test says so and passes; with `WEIR_REQUIRE_S3=1` it fails.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use object_store::aws::AmazonS3;
use weir_protocol::settings::StorageSettings;
use weir_runtime::clock;

use crate::S3Keys;

const REGION: &str = "us-east-1";
/// A machine with much to do starts a server slowly.
const PATIENCE: Duration = Duration::from_mins(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// The server. It ends when this is dropped, and its data with it.
pub struct Minio {
    process: Child,
    folder: PathBuf,
    address: SocketAddr,
    keys: S3Keys,
}

#[allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]
impl Minio {
    /// Starts a server with these buckets. `None` where there is no binary, and nobody insists on it; `test` is told then.
    pub fn start(test: &str, buckets: &[&str]) -> Option<Self> {
        let Some(binary) = binary() else {
            let missing = "no MinIO: name its binary in WEIR_MINIO, or put it into ~/.cache/weir/tools/bin";
            assert!(
                env::var("WEIR_REQUIRE_S3").as_deref() != Ok("1"),
                "{test} needs an S3 server, and there is {missing}"
            );
            // Not by a macro: those are captured where a test passes.
            let _ = writeln!(io::stderr(), "{test} is SKIPPED: there is {missing}");
            return None;
        };
        let folder = env::temp_dir().join(format!("weir-minio-{}-{:016x}", std::process::id(), rand::random::<u64>()));
        for bucket in buckets {
            fs::create_dir_all(folder.join("data").join(bucket)).expect("a folder in the folder for temporary files");
        }
        let keys = S3Keys {
            access_key_id: "weir-test".to_string(),
            secret_access_key: format!("secret-{:016x}", rand::random::<u64>()),
            session_token: None,
        };
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let log = fs::File::create(folder.join("log")).expect("a file in the folder for temporary files");
        let process = Command::new(binary)
            .args(["server", "--quiet", "--address", &address.to_string()])
            .arg(folder.join("data"))
            .env("HOME", &folder)
            .env("MINIO_ROOT_USER", &keys.access_key_id)
            .env("MINIO_ROOT_PASSWORD", &keys.secret_access_key)
            .env("MINIO_BROWSER", "off")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of a file"))
            .stderr(log)
            .spawn()
            .expect("MinIO starts");
        let mut server = Self { process, folder, address, keys };
        server.wait_until_ready();
        Some(server)
    }

    fn wait_until_ready(&mut self) {
        let deadline = clock::now() + PATIENCE;
        while !is_ready(self.address) {
            let ended = self.process.try_wait().ok().flatten();
            if ended.is_some() || clock::now() > deadline {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("MinIO is not ready ({ended:?}):\n{log}");
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Where it listens, as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys that it was started with.
    pub const fn keys(&self) -> &S3Keys {
        &self.keys
    }

    /// What processes that are to reach it by their environment are given.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", self.keys.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.keys.secret_access_key.clone()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", REGION.to_string()),
        ]
    }

    /// A bucket as a job's storage.
    pub fn settings(&self, bucket: &str) -> StorageSettings {
        StorageSettings {
            url: format!("s3://{bucket}/jobs"),
            endpoint: Some(self.endpoint()),
            region: Some(REGION.to_string()),
        }
    }

    /// A client of a bucket.
    pub fn client(&self, bucket: &str) -> Arc<AmazonS3> {
        let client = crate::bucket(bucket, Some(&self.endpoint()), Some(REGION), Some(&self.keys));
        Arc::new(client.expect("a client needs no more than this"))
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        // It may have ended by itself; what is left of its data is in the folder for temporary files.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("WEIR_MINIO") {
        return Some(named.into());
    }
    let built = PathBuf::from(env::var_os("HOME")?).join(".cache/weir/tools/bin/minio");
    built.is_file().then_some(built)
}

fn is_ready(address: SocketAddr) -> bool {
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /minio/health/cluster HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    });
    asked.is_ok_and(|answer| answer.ends_with(b"200"))
}
