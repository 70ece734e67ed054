//! Storage for simulations: it keeps the three promises that the protocol stands on (read-after-write, list-after-write,
//! create-if-absent) and nothing more. Requests are refused before they are done, or done and then denied; they land long after
//! their answer; they land twice; one process is cut off while all others are served. Everything follows from a seed.
//!
//! Time is simulated as well. [`Sim::run`] polls the tasks of a pool until none can go on, then steps to whatever is due next, so
//! that hours pass in milliseconds and the same seed takes the same course. What runs under it must wait for storage, for
//! [`Sim::sleep`] and for channels only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    channel::oneshot,
    executor::LocalPool,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How often, of a thousand requests, something is wrong with one; and how long things take, in milliseconds.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Not done, and the answer says so.
    pub refused: u32,
    /// Done, but the answer is an error.
    pub denied: u32,
    /// The answer is an error, and it is done some time afterwards. Only what changes something.
    pub late: u32,
    /// Done and answered, and done a second time some time afterwards. Only what changes something.
    pub repeated: u32,
    /// From a request to its effect, and from there to the answer.
    pub latency: Range<u64>,
    /// From the answer to an effect that comes late, or for the second time.
    pub lag: Range<u64>,
}

impl Weather {
    /// All is done at once, and as it is answered.
    pub const CALM: Self = Self { refused: 0, denied: 0, late: 0, repeated: 0, latency: 1..5, lag: 1..2 };
    /// A bad day: one request in ten suffers.
    pub const ROUGH: Self = Self { refused: 40, denied: 30, late: 20, repeated: 10, latency: 1..60, lag: 1..4_000 };
}

/// What became of an object, told to the observer at the moment when it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It holds these bytes now.
    Put(String, bytes::Bytes),
    /// It is gone.
    Deleted(String),
}

type Due = Box<dyn FnOnce() + Send>;
type Observer = Box<dyn FnMut(u64, &Change) + Send>;

struct World {
    random: StdRng,
    weather: Weather,
    now: u64,
    count: u64,
    due: BTreeMap<(u64, u64), Due>,
    cut_off: BTreeSet<u32>,
    /// Puts that are answered well and never done.
    swallowed: Option<fn(&str) -> bool>,
}

struct Shared {
    objects: InMemory,
    world: Mutex<World>,
    observer: Mutex<Option<Observer>>,
}

/// One storage and its clock. Cheap to clone.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

/// What becomes of one request.
#[derive(Clone, Copy)]
enum Fate {
    Served,
    Refused,
    Denied,
    Late,
    Repeated,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    /// An empty storage at time 0.
    pub fn new(seed: u64, weather: Weather) -> Self {
        let world = World {
            random: StdRng::seed_from_u64(seed),
            weather,
            now: 0,
            count: 0,
            due: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            swallowed: None,
        };
        Self(Arc::new(Shared { objects: InMemory::new(), world: Mutex::new(world), observer: Mutex::new(None) }))
    }

    /// Is told of every change of an object, with the time in milliseconds.
    pub fn observe(&self, observer: impl FnMut(u64, &Change) + Send + 'static) {
        *lock(&self.0.observer) = Some(Box::new(observer));
    }

    /// The way of one process to this storage.
    pub fn client(&self, client: u32) -> SimClient {
        SimClient { sim: self.clone(), client }
    }

    /// From now on no request of this process is done or answered well. What is on its way lands all the same.
    pub fn cut_off(&self, client: u32) {
        lock(&self.0.world).cut_off.insert(client);
    }

    /// The end of that.
    pub fn let_in(&self, client: u32) {
        lock(&self.0.world).cut_off.remove(&client);
    }

    /// Puts of these paths are answered well and never done: as if whoever puts them had left them out. So a simulation is shown to
    /// find what they are for.
    pub fn swallow(&self, puts: fn(&str) -> bool) {
        lock(&self.0.world).swallowed = Some(puts);
    }

    /// Other weather from now on.
    pub fn turn(&self, weather: Weather) {
        lock(&self.0.world).weather = weather;
    }

    /// Milliseconds since the simulation began.
    pub fn now(&self) -> u64 {
        lock(&self.0.world).now
    }

    /// A number from this range, from the simulation's seed.
    pub fn random(&self, range: Range<u64>) -> u64 {
        lock(&self.0.world).random.random_range(range)
    }

    /// Waits so many simulated milliseconds.
    pub async fn sleep(&self, milliseconds: u64) {
        let (wake, woken) = oneshot::channel();
        self.after(milliseconds, Box::new(move || _ = wake.send(())));
        // The sender goes only where the simulation ends.
        _ = woken.await;
    }

    /// What stands in storage now, whatever requests would say.
    pub fn objects(&self) -> BTreeMap<String, bytes::Bytes> {
        let all = async {
            let listed: Vec<ObjectMeta> = self.0.objects.list(None).try_collect().await?;
            let mut objects = BTreeMap::new();
            for object in listed {
                let bytes = self.0.objects.get(&object.location).await?.bytes().await?;
                objects.insert(object.location.to_string(), bytes);
            }
            Ok::<_, Error>(objects)
        };
        all.now_or_never().and_then(Result::ok).unwrap_or_default()
    }

    /// Runs the pool's tasks in simulated time, until nothing is due any more or the time is `until`.
    pub fn run(&self, pool: &mut LocalPool, until: u64) {
        loop {
            pool.run_until_stalled();
            let next = {
                let mut world = lock(&self.0.world);
                match world.due.first_entry() {
                    Some(entry) if entry.key().0 <= until => {
                        let ((at, _), due) = entry.remove_entry();
                        world.now = at;
                        Some(due)
                    }
                    _ => None,
                }
            };
            match next {
                Some(due) => due(),
                None => return,
            }
        }
    }

    fn after(&self, milliseconds: u64, due: Due) {
        let mut world = lock(&self.0.world);
        world.count += 1;
        let at = (world.now + milliseconds, world.count);
        world.due.insert(at, due);
    }

    fn fate(&self, client: u32, changes: bool) -> Fate {
        let mut world = lock(&self.0.world);
        if world.cut_off.contains(&client) {
            return Fate::Refused;
        }
        let (weather, roll) = (world.weather.clone(), world.random.random_range(0..1000));
        let late = if changes { weather.late } else { 0 };
        let repeated = if changes { weather.repeated } else { 0 };
        let bounds = [
            (weather.refused, Fate::Refused),
            (weather.denied, Fate::Denied),
            (late, Fate::Late),
            (repeated, Fate::Repeated),
        ];
        let mut upto = 0;
        for (share, fate) in bounds {
            upto += share;
            if roll < upto {
                return fate;
            }
        }
        Fate::Served
    }

    fn span(&self, of: impl Fn(&Weather) -> Range<u64>) -> u64 {
        let mut world = lock(&self.0.world);
        let range = of(&world.weather);
        world.random.random_range(range)
    }

    /// One request: its effect comes after a while, and its answer after another.
    async fn request<R: Send + 'static>(
        &self,
        client: u32,
        changes: Option<Changes>,
        effect: impl Fn(&InMemory) -> Result<R> + Send + Sync + 'static,
    ) -> Result<R> {
        let fate = self.fate(client, changes.is_some());
        let (answer, answered) = oneshot::channel();
        let effect = Arc::new(effect);
        let there = self.span(|weather| weather.latency.clone());
        let back = self.span(|weather| weather.latency.clone());
        match fate {
            Fate::Refused => self.after(there + back, Box::new(move || _ = answer.send(Err(wrong("refused"))))),
            Fate::Late => {
                let lag = self.span(|weather| weather.lag.clone());
                self.after(there + back, Box::new(move || _ = answer.send(Err(wrong("no answer in time")))));
                self.lands(there + back + lag, changes, effect);
            }
            Fate::Served | Fate::Denied | Fate::Repeated => {
                if matches!(fate, Fate::Repeated) {
                    let lag = self.span(|weather| weather.lag.clone());
                    self.lands(there + lag, changes.clone(), Arc::clone(&effect));
                }
                let (sim, denied) = (self.clone(), matches!(fate, Fate::Denied));
                let done = move || {
                    let result = sim.carry_out(changes.as_ref(), effect.as_ref());
                    let result = if denied { Err(wrong("the answer is lost")) } else { result };
                    sim.after(back, Box::new(move || _ = answer.send(result)));
                };
                self.after(there, Box::new(done));
            }
        }
        answered.await.unwrap_or_else(|_| Err(wrong("the simulation has ended")))
    }

    fn lands<R: Send + 'static>(
        &self,
        after: u64,
        changes: Option<Changes>,
        effect: Arc<impl Fn(&InMemory) -> Result<R> + Send + Sync + 'static>,
    ) {
        let sim = self.clone();
        self.after(after, Box::new(move || _ = sim.carry_out(changes.as_ref(), effect.as_ref())));
    }

    fn carry_out<R>(&self, changes: Option<&Changes>, effect: &impl Fn(&InMemory) -> Result<R>) -> Result<R> {
        let result = effect(&self.0.objects);
        if let (Ok(_), Some(changes), Some(observer)) = (&result, changes, lock(&self.0.observer).as_mut()) {
            observer(self.now(), &changes());
        }
        result
    }
}

/// What a request changes, for the observer.
type Changes = Arc<dyn Fn() -> Change + Send + Sync>;

fn wrong(what: &'static str) -> Error {
    Error::Generic { store: "sim", source: what.into() }
}

/// What an in-memory store does needs no waiting.
fn at_once<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    future.now_or_never().unwrap_or_else(|| Err(wrong("memory does not answer at once")))
}

/// One process's way to a [`Sim`].
#[derive(Clone)]
pub struct SimClient {
    sim: Sim,
    client: u32,
}

impl fmt::Debug for SimClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimClient").field("client", &self.client).finish_non_exhaustive()
    }
}

impl fmt::Display for SimClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated storage, client {}", self.client)
    }
}

#[async_trait]
impl ObjectStore for SimClient {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if lock(&self.sim.0.world).swallowed.is_some_and(|swallowed| swallowed(location.as_ref())) {
            return Ok(PutResult { e_tag: None, version: None });
        }
        let (path, at) = (location.clone(), location.to_string());
        let bytes: bytes::Bytes = payload.clone().into();
        let changes: Changes = Arc::new(move || Change::Put(at.clone(), bytes.clone()));
        let effect = move |objects: &InMemory| at_once(objects.put_opts(&path, payload.clone(), options.clone()));
        self.sim.request(self.client, Some(changes), effect).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart uploads".to_string(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = location.clone();
        let effect = move |objects: &InMemory| at_once(objects.get_opts(&path, options.clone()));
        self.sim.request(self.client, None, effect).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .and_then(move |path| {
                let this = this.clone();
                async move {
                    let (at, gone) = (path.to_string(), path.clone());
                    let changes: Changes = Arc::new(move || Change::Deleted(at.clone()));
                    let effect = move |objects: &InMemory| at_once(objects.delete(&gone));
                    this.sim.request(this.client, Some(changes), effect).await.map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let effect =
                move |objects: &InMemory| at_once(objects.list(prefix.as_ref()).try_collect::<Vec<ObjectMeta>>());
            this.sim.request(this.client, None, effect).await
        };
        stream::once(listed)
            .flat_map(|listed| match listed {
                Ok(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        let effect = move |objects: &InMemory| at_once(objects.list_with_delimiter(prefix.as_ref()));
        self.sim.request(self.client, None, effect).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        let (sim, at) = (self.sim.clone(), to.to_string());
        let changes: Changes = Arc::new(move || {
            let bytes = sim.objects().remove(&at).unwrap_or_default();
            Change::Put(at.clone(), bytes)
        });
        let effect = move |objects: &InMemory| at_once(objects.copy_opts(&from, &to, options.clone()));
        self.sim.request(self.client, Some(changes), effect).await
    }
}
