//! The start: check everything, then spawn everything.
//!
//! Promises: nothing is relayed before every database has been checked. Does not know: how it ends.

use super::output::Reporting;
use super::supervise::Relays;
use super::{DaemonError, Output, wiring};
use crate::config::{self, Config};
use crate::model::{FileId, Left, Origin, OutboxIx, PlanId, SinkEvent, Wake};
use crate::ports::{Journal, Sink, Source, SystemClock};
use crate::relay::{self, Channels, Relay, RelaySpec, Summary};
use crate::sink::kafka::Producer;
use crate::sink::stdout::StdoutSink;
use crate::source::{Database, WatchError, Watches};
use crate::state::{MemoryJournal, StateError, StateFile, Visitor};
use crate::telemetry::figures::Figures;
use crate::telemetry::health::Health;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Answers of the sink that a relay has not taken yet; it bounds the relay's batches under way as well.
const SINK_EVENTS_MAX: usize = 1_024;
/// Open plans that are named one by one.
const PLANS_NAMED_MAX: usize = 20;

/// The started house.
pub struct Running {
    pub relays: Relays,
    pub sink: SinkThreads,
}

/// The sink's threads, shared by all relays.
pub enum SinkThreads {
    Kafka(Producer),
    Lines(StdoutSink),
}

/// Locks every database that is there, and looks whether its tables can be outboxes.
pub fn check(config: &Config, databases: &[config::Database]) -> Result<Vec<Database>, DaemonError> {
    let before = worked_on_before(&state_path(config));
    let check = |database: &config::Database| {
        let mut source = Database::new(wiring::database_options(database), wiring::outbox_specs(database));
        source.beware_of(before.clone());
        source.check()?;
        Ok(source)
    };
    databases.iter().map(check).collect()
}

fn state_path(config: &Config) -> PathBuf {
    config.state_path(std::env::var_os("STATE_DIRECTORY").as_deref())
}

/// What an earlier run worked on. A state file that can't be read is met, and named, when it is opened.
fn worked_on_before(state: &Path) -> Vec<Origin> {
    let origins = Visitor::reading(state).and_then(|visitor| visitor.origins());
    origins.unwrap_or_else(|error| {
        log::debug!("{error}");
        Vec::new()
    })
}

/// Spawns the sink's threads, and a relay with its watch for each database.
pub fn start(
    config: &Config,
    databases: &[config::Database],
    checked: Vec<Database>,
    health: &Health,
    output: Output,
) -> Result<Running, DaemonError> {
    let state_path = state_path(config);
    let (tell_end, ended) = bounded(databases.len());
    let (break_output, output_broken) = bounded(1);
    let mut drains = Vec::with_capacity(databases.len());
    let paths: Vec<PathBuf> = databases.iter().map(|database| config::resolve(&database.path)).collect();
    let files: Vec<Option<FileId>> = checked.iter().map(|source| source.origin().map(|origin| origin.file)).collect();
    let starts = databases.iter().zip(checked).zip(health.relays());
    let watches = watches(databases.len())?;
    let sink = match output {
        Output::Lines(out) => {
            refuse_open_plans(&state_path)?;
            let out = Reporting::new(out, break_output);
            let sink = StdoutSink::to(out).map_err(|error| DaemonError::Thread { what: "the stdout sink", error })?;
            for ((database, mut source), figures) in starts {
                source.read_at_most(config.kafka.record_bytes_max());
                let (events, received) = bounded(SINK_EVENTS_MAX);
                let spec = spec(config, database, PlanId(1), Left::default(), SystemTime::UNIX_EPOCH)?;
                let parts = Parts {
                    source,
                    journal: MemoryJournal::default(),
                    sink: sink.handle(events),
                    spec,
                    figures: Arc::clone(figures),
                };
                drains.push(parts.spawn(database, received, watches.as_ref(), tell_end.clone())?);
            }
            SinkThreads::Lines(sink)
        }
        Output::Kafka => {
            let run = wiring::run_id().map_err(DaemonError::Random)?;
            let state = StateFile::open(&state_path, run)?;
            log::info!("state file: {}", state.path().display());
            health.state_file_is(state.size_gauge());
            let now: Vec<_> = paths.iter().map(PathBuf::as_path).zip(files.iter().copied()).collect();
            state.follow(&now)?;
            name_forgotten_databases(&state, &paths)?;
            let sink = Producer::start(wiring::kafka_options(&config.kafka))?;
            for (((database, mut source), figures), (path, file)) in starts.zip(now) {
                let tables: Vec<&str> = database.outboxes.iter().map(|outbox| outbox.table.as_str()).collect();
                let left = state.left(path, &tables, file)?;
                source.keep_books(state.id());
                source.read_at_most(config.kafka.record_bytes_max());
                for (at, table) in left.tables.iter().enumerate() {
                    if let Some(table) = table {
                        source.recognise_by(OutboxIx(at as u16), table.clone());
                    }
                }
                let journal = state.journal(path, &tables)?;
                let (events, received) = bounded(SINK_EVENTS_MAX);
                let spec = spec(config, database, journal.first_plan(), left, wiring::made())?;
                let parts = Parts { source, journal, sink: sink.handle(events), spec, figures: Arc::clone(figures) };
                drains.push(parts.spawn(database, received, watches.as_ref(), tell_end.clone())?);
            }
            SinkThreads::Kafka(sink)
        }
    };
    Ok(Running { relays: Relays { drains, ended, output_broken }, sink })
}

/// The thread that watches them all. Without inotify, none: PRAGMA `data_version`, once a second, is the net below, and slow is better
/// than not at all.
fn watches(databases: usize) -> Result<Option<Watches>, DaemonError> {
    match Watches::start() {
        Ok(watches) => Ok(Some(watches)),
        Err(WatchError::Thread(error)) => Err(DaemonError::Thread { what: "the watch", error }),
        Err(WatchError::Inotify(why)) => {
            log::error!("no inotify, so commits are noticed once a second only, in all {databases} databases: {why}");
            Ok(None)
        }
    }
}

/// Each relay counts its messages by itself, so each has a run id of its own: a message id is never given twice.
fn spec(
    config: &Config,
    database: &config::Database,
    first_plan: PlanId,
    left: Left,
    clock_floor: SystemTime,
) -> Result<RelaySpec, DaemonError> {
    Ok(RelaySpec {
        run: wiring::run_id().map_err(DaemonError::Random)?,
        first_plan,
        routes: wiring::routes(database),
        limits: wiring::limits(&config.kafka, database),
        clock_floor,
        left,
        seed: fastrand::u64(..),
    })
}

/// `--stdout` keeps no plans, so what an earlier run has in flight would be forgotten by it.
fn refuse_open_plans(path: &Path) -> Result<(), DaemonError> {
    if !path.exists() {
        return Ok(());
    }
    // As a visitor: a run that is refused must not count as one since the last boot.
    let visitor = Visitor::working(path)?;
    if !visitor.is_alone() {
        return Err(StateError::Locked { path: path.to_owned(), pid: visitor.daemon() }.into());
    }
    let plans = visitor.open_plans()?;
    if plans.is_empty() {
        return Ok(());
    }
    let rows = plans.iter().map(|plan| plan.row_count).sum();
    Err(DaemonError::OpenPlans { path: path.to_owned(), plans: plans.len(), rows })
}

/// What an earlier run left of a database that is no longer configured is kept, and named at every start.
fn name_forgotten_databases(state: &StateFile, ours: &[PathBuf]) -> Result<(), DaemonError> {
    let plans = state.open_plans()?;
    let kept: Vec<_> = plans.iter().filter(|plan| !ours.contains(&plan.database)).collect();
    for plan in kept.iter().take(PLANS_NAMED_MAX) {
        log::warn!(
            "{}: an earlier run left {} rows for {} in flight, and this database is no longer configured; the plan is kept",
            plan.database.display(),
            plan.row_count,
            plan.target
        );
    }
    if kept.len() > PLANS_NAMED_MAX {
        log::warn!("and {} batches more of such databases", kept.len() - PLANS_NAMED_MAX);
    }
    Ok(())
}

/// What a relay is made of.
struct Parts<J, K> {
    source: Database,
    journal: J,
    sink: K,
    spec: RelaySpec,
    figures: Arc<Figures>,
}

impl<J: Journal + Send + 'static, K: Sink + Send + 'static> Parts<J, K> {
    fn spawn(
        self,
        database: &config::Database,
        sink: Receiver<SinkEvent>,
        watches: Option<&Watches>,
        ended: Sender<Result<Summary, DaemonError>>,
    ) -> Result<Sender<Instant>, DaemonError> {
        let (wake, wakes) = bounded::<Wake>(1);
        let (watch, wakes) = match watches {
            Some(watches) => (Some(watches.watch(&database.path, wake, self.source.own_commits())), wakes),
            None => (None, never()),
        };
        let (drain, drained) = bounded(1);
        let name = self.figures.database.clone();
        let channels = Channels { wakes, sink, drain: drained };
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || {
            let Parts { source, journal, sink, spec, figures } = self;
            let result = catch_unwind(AssertUnwindSafe(|| {
                relay::run(&mut Relay::new(source, journal, sink, SystemClock, spec, figures), channels)
            }));
            drop(watch);
            let failed = |text| DaemonError::Relay { database: name, text };
            let result = match result {
                Ok(Ok(summary)) => Ok(summary),
                Ok(Err(fatal)) => Err(failed(fatal.to_string())),
                Err(panic) => Err(failed(panic_text(panic.as_ref()))),
            };
            // The supervisor that no longer listens has given up waiting.
            let _ = ended.send(result);
        });
        thread.map_err(|error| DaemonError::Thread { what: "a relay", error })?;
        Ok(drain)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}
