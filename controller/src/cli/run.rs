//! `weir run`.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
};
use weir_crds::StreamJobStatus;
use weir_protocol::{ids::random_digits, settings::FailureKind, stored::FORMAT};
use weir_storage::JobStore;

use super::{Exit, Failure, RunArgs};
use crate::{
    effects::{WishError, find_restore, read_facts, wish_has_acted},
    job::{Job, Overrides, RestoreWish},
    platform::local::{Local, check_version, worker_binary},
    state_dir::{LocalObserver, RESTORED_FILE, STATUS_FILE, StateDir},
    supervisor::{self, Control, Outcome, Parts},
    takeover::{Refusal, Restore},
    ui::{self, Ui, Weight},
    workers::planner,
};

/// What stands for a cluster's uid in the openings of `weir run`.
const CLUSTER: &str = "local";
/// Events of the platform under way to the supervisor.
const PLATFORM_QUEUE: usize = 1024;
/// From one look at what is asked of a run to the next.
const LISTEN: Duration = Duration::from_millis(100);
/// Signals under way to the supervisor.
const CONTROL_QUEUE: usize = 8;

/// What to do about output that is lost.
const OUTPUT_LOST: &str = "; find out who removes hidden files there. If they can be brought back, under the names they had, run it again; else \
    `weir run --accept-lost-output` goes on without them, and with --restore <record> of before they were written their rows are written again";

/// Runs a job until it ends or is stopped.
pub async fn run(args: RunArgs) -> Result<(), Failure> {
    let job = Job::local(&args.job.file, &Overrides { workers: args.workers, slots: args.slots })?;
    if job.suspend {
        let message =
            format!("{}: spec.suspend is true: the job is not to run; set it to false", args.job.file.display());
        return Err(Failure::new(Exit::BadInput, message));
    }
    let binary = worker_binary()?;
    check_version(&binary).await?;
    let plan = planner::plan(&binary, &job.plan).await?;

    // Only now is anything written.
    let state_dir = Arc::new(StateDir::open(&args.state_dir.unwrap_or_else(|| job.default_state_dir()))?);
    let store = JobStore::open(&job.settings.storage, &job.name)?;
    let (wish, from_yaml) = restore_wish(args.restore.as_deref(), &job, &state_dir)?;
    let restored = wish.as_ref().filter(|_| from_yaml).map(RestoreWish::as_text);
    let acted = match &restored {
        Some(wish) => wish_has_acted(&store, wish, state_dir.owner(), CLUSTER).await?,
        None => false,
    };
    let wish = wish.filter(|_| !acted);
    let restore = match wish.as_ref().and_then(|wish| wish.named.as_ref()) {
        Some(named) => find_restore(&store, named).await.map_err(|error| {
            let exit = if matches!(error, WishError::Unreachable { .. }) { Exit::Environment } else { Exit::BadInput };
            Failure::new(exit, error)
        })?,
        None => Restore::Latest,
    };

    let mut ui = ui::choose(args.plain);
    ui.event(
        Weight::Change,
        &format!("{}: checkpoints in {}, logs in {}", job.name, store.name(), state_dir.path().display()),
    );
    if let Some(record) = lost(&store, &state_dir).await {
        ui.event(
            Weight::Bad,
            &format!(
                "warning: the checkpoints of this job are gone: {record} was the newest, and nothing of them is in {}. It begins \
                 from nothing, and what it has written since its start is written again",
                store.name()
            ),
        );
    }
    for warning in job.warnings.iter().cloned().chain(planner::warnings(&plan.description)) {
        ui.event(Weight::Bad, &format!("warning: {warning}"));
    }
    let (sender, control) = signals(true)
        .map_err(|error| Failure::new(Exit::Environment, format!("signals cannot be received: {error}")))?;
    listen(Arc::downgrade(&state_dir), sender);
    let outcome = Box::pin(supervise(Start {
        binary,
        fingerprint: plan.fingerprint,
        restore,
        adopt: wish.as_ref().is_some_and(|wish| wish.named.is_none()),
        accept_lost_output: args.accept_lost_output || wish.is_some_and(|wish| wish.accept_lost_output),
        format: args.state_format,
        acts: restored.clone().filter(|_| !acted),
        wish: restored,
        store,
        state_dir,
        ui,
        control,
        job,
    }))
    .await;
    ended(outcome)
}

/// A planned job, and how it begins.
pub(super) struct Start {
    /// What runs.
    pub job: Job,
    /// The worker binary.
    pub binary: PathBuf,
    /// Of the plan.
    pub fingerprint: String,
    /// What it begins from.
    pub restore: Restore,
    /// Also what another owner has left.
    pub adopt: bool,
    /// See `weir run --accept-lost-output`.
    pub accept_lost_output: bool,
    /// The version in which checkpoints are written.
    pub format: u32,
    /// The YAML's wish to restore.
    pub wish: Option<String>,
    /// The same, where it acts this time.
    pub acts: Option<String>,
    /// Where its checkpoints are.
    pub store: JobStore,
    /// Where it works.
    pub state_dir: Arc<StateDir>,
    /// What is seen of it.
    pub ui: Box<dyn Ui>,
    /// What it is told meanwhile.
    pub control: mpsc::Receiver<Control>,
}

impl Start {
    /// With nothing to go on from.
    pub fn anew(
        job: Job,
        binary: PathBuf,
        fingerprint: String,
        state_dir: Arc<StateDir>,
        store: JobStore,
        ui: Box<dyn Ui>,
        control: mpsc::Receiver<Control>,
    ) -> Self {
        Self {
            restore: Restore::Latest,
            adopt: false,
            accept_lost_output: false,
            format: FORMAT,
            wish: None,
            acts: None,
            job,
            binary,
            fingerprint,
            state_dir,
            store,
            ui,
            control,
        }
    }
}

/// Runs a job on processes of this machine until it ends or is told to.
pub(super) async fn supervise(start: Start) -> Outcome {
    let (platform_events, events) = mpsc::channel(PLATFORM_QUEUE);
    let memory = start.job.settings.memory_budget;
    let platform = Local::new(start.binary, memory, start.state_dir.clone(), platform_events);
    supervisor::run(Parts {
        coordinator: coordinator_name(),
        cluster: CLUSTER.to_string(),
        owner: start.state_dir.owner().to_string(),
        fingerprint: Some(start.fingerprint),
        restore: start.restore,
        adopt: start.adopt,
        accept_lost_output: start.accept_lost_output,
        format: start.format,
        wish: start.acts,
        resume: false,
        failed: 0,
        store: start.store,
        platform: Box::new(platform),
        platform_events: events,
        control: start.control,
        observer: Box::new(LocalObserver::new(start.state_dir, start.ui, start.wish)),
        tls: None,
        job: start.job,
    })
    .await
}

/// The first Ctrl-C or SIGTERM asks for an end, after a last checkpoint if one is wanted, every further one for an end at once.
/// What else is to be told goes to the sender.
pub(super) fn signals(last_checkpoint: bool) -> std::io::Result<(mpsc::Sender<Control>, mpsc::Receiver<Control>)> {
    let (mut interrupt, mut terminate) =
        (unix::signal(SignalKind::interrupt())?, unix::signal(SignalKind::terminate())?);
    let (control, told) = mpsc::channel(CONTROL_QUEUE);
    let sender = control.clone();
    weir_runtime::tasks::spawn(async move {
        let mut first = true;
        loop {
            let why = tokio::select! {
                Some(()) = interrupt.recv() => "Ctrl-C",
                Some(()) = terminate.recv() => "a signal to end",
                else => return,
            };
            let what = if first { Control::Stop { last_checkpoint, why: why.to_string() } } else { Control::Kill };
            first = false;
            if control.send(what).await.is_err() {
                return;
            }
        }
    });
    Ok((sender, told))
}

/// Passes on what other processes ask of this run. The folder is let go of with the run.
fn listen(state_dir: Weak<StateDir>, control: mpsc::Sender<Control>) {
    weir_runtime::tasks::spawn(async move {
        let mut look = tokio::time::interval(LISTEN);
        loop {
            look.tick().await;
            let Some(asked) = state_dir.upgrade().map(|state_dir| state_dir.asked_checkpoints()) else { return };
            for value in asked {
                if control.send(Control::Checkpoint(value)).await.is_err() {
                    return;
                }
            }
        }
    });
}

/// What is to be restored, and whether the YAML says so: there a value acts once.
fn restore_wish(
    argument: Option<&str>,
    job: &Job,
    state_dir: &StateDir,
) -> Result<(Option<RestoreWish>, bool), Failure> {
    if let Some(text) = argument {
        let wish = RestoreWish::argument(text, &here()?).map_err(|error| Failure::new(Exit::BadInput, error))?;
        return Ok((Some(wish), false));
    }
    let done = state_dir.read(RESTORED_FILE);
    let wish = job.restore_from.clone().filter(|wish| done.as_deref() != Some(&*wish.as_text()));
    Ok((wish, true))
}

/// From where folders on the command line are meant.
pub(super) fn here() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|error| Failure::new(Exit::Environment, format!("the working directory cannot be told: {error}")))
}

/// The newest record that the last run here has made, where nothing can be restored from its storage any more. A run with
/// another storage is another matter.
async fn lost(store: &JobStore, state_dir: &StateDir) -> Option<String> {
    let status: StreamJobStatus = serde_json::from_str(&state_dir.read(STATUS_FILE)?).ok()?;
    let record = status.checkpoint?.latest?.record;
    record.strip_prefix(store.name())?;
    let facts = read_facts(store).await.ok()?;
    facts.records().next().is_none().then_some(record)
}

/// Host, process id and a random end: two processes never share it, and people can find the process.
pub(super) fn coordinator_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    format!("{host}:{}:{}", std::process::id(), random_digits(8))
}

/// What an outcome is for whoever asked.
pub(super) fn ended(outcome: Outcome) -> Result<(), Failure> {
    let (exit, message) = match outcome {
        Outcome::Succeeded | Outcome::Stopped | Outcome::Left => return Ok(()),
        Outcome::StoppedWithoutCheckpoint(reason) => (
            Exit::Environment,
            format!("stopped, but without a last checkpoint: {reason}; running again goes on from the one before"),
        ),
        Outcome::Killed => {
            (Exit::Killed, "stopped at once; running again goes on from the newest checkpoint".to_string())
        }
        Outcome::Failed(failure) => {
            let (exit, remedy) = match failure.kind {
                FailureKind::Plan => (Exit::BadInput, ""),
                FailureKind::StateMismatch => (
                    Exit::BadInput,
                    "; go back to the SQL that the checkpoint was taken with, or use another storage url",
                ),
                FailureKind::Corrupt => (
                    Exit::Environment,
                    "; nothing was restored. `weir checkpoints` lists the retained ones, and `weir run --restore <record>` goes back to an older one",
                ),
                FailureKind::OutputLost => (Exit::Environment, OUTPUT_LOST),
                _ => (Exit::JobFailed, ""),
            };
            (exit, format!("the job failed: {}{remedy}", failure.in_words()))
        }
        Outcome::GivenUp(reason) => (Exit::JobFailed, format!("the job failed: {reason}")),
        Outcome::Refused(refusal, reason) => {
            let (exit, remedy) = match refusal {
                Some(Refusal::OwnedByAnother { .. }) => (
                    Exit::Environment,
                    "; take it over with --restore previous (which stops the other), or use another spec.checkpoint.storage.url",
                ),
                Some(Refusal::MaxParallelismChanged { .. }) => (
                    Exit::BadInput,
                    "; set spec.maxParallelism back, or begin anew with another spec.checkpoint.storage.url",
                ),
                Some(Refusal::NotRetained { .. }) => {
                    (Exit::BadInput, "; `weir checkpoints` lists what can be restored")
                }
                Some(Refusal::SavepointUnusable { .. }) => (
                    Exit::Environment,
                    "; put it back from a copy, or go back to a checkpoint: `weir checkpoints` lists them, and `weir run --restore <record>` restores one",
                ),
                Some(Refusal::Gone { .. }) => (
                    Exit::Environment,
                    "; what it wrote up to then stands. Put the checkpoints back, or begin anew: running again starts from nothing",
                ),
                Some(Refusal::Unusable { .. }) => (
                    Exit::Environment,
                    "; `weir checkpoints` lists the retained ones, and `weir run --restore <record>` goes back to an older one",
                ),
                Some(Refusal::OutputUnknown { .. }) => (
                    Exit::Environment,
                    "; add --accept-lost-output to go on without what it promised and has not published yet",
                ),
                None => (Exit::Environment, ""),
            };
            (exit, format!("{reason}{remedy}"))
        }
        Outcome::Superseded(by) => {
            let by = by.unwrap_or_else(|| "another coordinator".to_string());
            (Exit::Superseded, format!("the job was taken over by {by}; this one has stopped"))
        }
        Outcome::NoWorkers(reason) => (Exit::Environment, reason),
        Outcome::Panicked(cause) => (
            Exit::Environment,
            format!(
                "weir itself failed: {cause}; running again goes on from the newest checkpoint; please report this"
            ),
        ),
    };
    Err(Failure::new(exit, message))
}
