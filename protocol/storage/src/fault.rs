//! A store that fails on purpose: at the n-th call, in one of the ways that real storage fails.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use weir_runtime::tasks;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and neither is any later call.
    Stop,
    /// It is not done; later calls work.
    Refuse,
    /// It is done, but the answer is an error.
    LoseAnswer,
    /// The answer is an error, and it is done some time afterwards.
    AnswerLate(Duration),
    /// Bytes read or written have one bit flipped.
    Corrupt,
}

/// Passes calls on to another store, but for the `at`-th (counted from 1), which suffers `fault`.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    at: u64,
    calls: Arc<AtomicU64>,
}

enum Turn {
    Pass,
    Fail,
    Suffer,
}

impl FaultStore {
    /// See the type.
    pub fn new(inner: Arc<dyn ObjectStore>, fault: Fault, at: u64) -> Self {
        Self { inner, fault, at, calls: Arc::new(AtomicU64::new(0)) }
    }

    /// Calls seen so far; a test that reaches no fault knows by this that it has tried them all.
    pub fn calls(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.calls)
    }

    fn turn(&self) -> Turn {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        match self.fault {
            Fault::Stop if call >= self.at => Turn::Fail,
            Fault::Refuse if call == self.at => Turn::Fail,
            Fault::LoseAnswer | Fault::AnswerLate(_) | Fault::Corrupt if call == self.at => Turn::Suffer,
            _ => Turn::Pass,
        }
    }

    fn error(&self) -> Error {
        Error::Generic { store: "fault", source: format!("{:?} at call {}", self.fault, self.at).into() }
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?} at call {}", self.inner, self.fault, self.at)
    }
}

fn flip(payload: &PutPayload) -> PutPayload {
    let mut bytes: Vec<u8> = payload.iter().flat_map(|piece| piece.iter().copied()).collect();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match (self.turn(), self.fault) {
            (Turn::Pass, _) => self.inner.put_opts(location, payload, options).await,
            (Turn::Suffer, Fault::Corrupt) => self.inner.put_opts(location, flip(&payload), options).await,
            (Turn::Suffer, Fault::LoseAnswer) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(self.error())
            }
            (Turn::Suffer, Fault::AnswerLate(after)) => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                tasks::spawn(async move {
                    tokio::time::sleep(after).await;
                    inner.put_opts(&location, payload, options).await
                });
                Err(self.error())
            }
            _ => Err(self.error()),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        match self.turn() {
            Turn::Pass => self.inner.put_multipart_opts(location, options).await,
            _ => Err(self.error()),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match (self.turn(), self.fault) {
            (Turn::Pass, _) => self.inner.get_opts(location, options).await,
            (Turn::Suffer, Fault::Corrupt) => {
                let result = self.inner.get_opts(location, options).await?;
                let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
                let flipped = flip(&PutPayload::from_bytes(result.bytes().await?));
                let pieces: Vec<_> = flipped.iter().cloned().map(Ok).collect();
                let payload = GetResultPayload::Stream(futures::stream::iter(pieces).boxed());
                Ok(GetResult { payload, meta, range, attributes })
            }
            _ => Err(self.error()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match (self.turn(), self.fault) {
            (Turn::Pass, _) => self.inner.delete_stream(locations),
            (Turn::Suffer, Fault::LoseAnswer) => {
                let error = self.error();
                let inner = Arc::clone(&self.inner);
                futures::stream::once(async move {
                    inner.delete_stream(locations).collect::<Vec<_>>().await;
                    Err(error)
                })
                .boxed()
            }
            _ => futures::stream::iter([Err(self.error())]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.turn() {
            Turn::Pass => self.inner.list(prefix),
            _ => futures::stream::iter([Err(self.error())]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
