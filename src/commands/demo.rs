//! `outboxd demo`: the whole way on a throw-away database, with an application in another process.
//!
//! Promises: relays with the daemon's own code; leaves nothing behind but records in Kafka, also after Ctrl-C. Does not know:
//! anything a real application could not do.

mod application;
mod packets;
mod read_back;

pub use application::application;

use super::CommandError;
use crate::cli::DemoArgs;
use crate::config::{Config, Flags};
use crate::daemon::{self, Output, signals};
use crate::exit::FAILED;
use crossbeam_channel::{Receiver, Sender, after, bounded, select, unbounded};
use packets::PacketPrinter;
use read_back::ReadBack;
use rusqlite::Connection;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Users who sign up.
const USERS: u32 = 10;
const TABLE: &str = "users_outbox";
/// How long the last records may take once the application has ended, when nothing arrives any more.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(arguments: &DemoArgs) -> Result<(), CommandError> {
    let fail = |error: std::io::Error| CommandError::new(FAILED, error, "");
    let interrupted = signals::install().map_err(fail)?;
    let folder = tempfile::Builder::new().prefix("outboxd-demo-").tempdir().map_err(fail)?;
    let path = folder.path().join("db.sqlite");
    application::create(&path)?;
    let (arrived, arrivals) = unbounded();
    let config = config(arguments, &path)?;
    let read_back = if arguments.bootstrap_servers.is_empty() {
        println!("Without --bootstrap-servers there is no Kafka: the records go to stdout.");
        None
    } else {
        let read_back = ReadBack::prepare(&config.kafka, &arguments.topic)?;
        println!("Kafka: {}, topic {}", config.kafka.bootstrap_servers.join(","), arguments.topic);
        Some(read_back)
    };
    println!("The throw-away database: {}", path.display());
    let outcome = play(&config, read_back, &path, &interrupted, arrived, &arrivals);
    let left = rows_left(&path);
    let packets = outcome?;
    println!("{USERS} users signed up, {packets} packets received, {left} rows left in {TABLE}.");
    folder.close().map_err(fail)
}

fn config(arguments: &DemoArgs, database: &Path) -> Result<Config, CommandError> {
    let flags = Flags {
        database: database.to_owned(),
        table: TABLE.into(),
        topic: arguments.topic.clone(),
        bootstrap_servers: arguments.bootstrap_servers.clone(),
        state: None,
        security: (&arguments.security).into(),
    };
    Ok(Config::from_flags(&flags, !flags.bootstrap_servers.is_empty())?)
}

/// The application writes, the daemon relays, what arrives is printed. Answers how many packets arrived.
fn play(
    config: &Config,
    read_back: Option<ReadBack>,
    database: &Path,
    interrupted: &Receiver<()>,
    arrived: Sender<()>,
    arrivals: &Receiver<()>,
) -> Result<u32, CommandError> {
    let (stop, stopped) = bounded(1);
    let output = match &read_back {
        Some(_) => Output::Kafka,
        None => Output::Lines(Box::new(PacketPrinter::new(arrived.clone()))),
    };
    let (ended, relay_ended) = bounded(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = ended.send(daemon::run(config, output, &stopped));
        });
        let reader = read_back.map(|read_back| read_back.spawn(arrived));
        let mut application = Playing::start(database)?;
        let mut packets = 0;
        let mut failure = None;
        let mut patience = crossbeam_channel::never();
        while packets < USERS {
            select! {
                recv(arrivals) -> arrival => match arrival {
                    Ok(()) => packets += 1,
                    // The reader has ended, and said why.
                    Err(_) => break,
                },
                recv(interrupted) -> _ => break,
                recv(relay_ended) -> result => {
                    failure = result.ok().and_then(Result::err);
                    break;
                }
                recv(patience) -> _ => break,
                recv(application.ended) -> _ => {
                    application.ended = crossbeam_channel::never();
                    patience = after(PATIENCE);
                }
            }
        }
        application.stop();
        let _ = stop.try_send(());
        drop(stop);
        if failure.is_none() {
            failure = relay_ended.recv().ok().and_then(Result::err);
        }
        if let Some(reader) = reader {
            reader.stop();
        }
        failure.map_or(Ok(packets), |error| Err(error.into()))
    })
}

/// The application's process.
struct Playing {
    child: Child,
    /// Closed when the child has ended, and with it its stdout.
    ended: Receiver<()>,
    lines: Option<std::thread::JoinHandle<()>>,
}

impl Playing {
    fn start(database: &Path) -> Result<Playing, CommandError> {
        let fail =
            |error| CommandError::new(FAILED, error, "the demo starts this program once more, as the application");
        let program = std::env::current_exe().map_err(fail)?;
        let mut child = Command::new(program)
            .arg("demo-application")
            .arg("--database")
            .arg(database)
            .args(["--users", &USERS.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        let (open, ended) = bounded(0);
        let lines = child.stdout.take().map(|stdout| {
            std::thread::spawn(move || {
                use std::io::{BufRead, BufReader};
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    println!("Application:     {line}");
                }
                drop::<Sender<()>>(open);
            })
        });
        Ok(Playing { child, ended, lines })
    }

    fn stop(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(lines) = self.lines.take() {
            let _ = lines.join();
        }
    }
}

fn rows_left(database: &Path) -> i64 {
    Connection::open(database)
        .and_then(|connection| connection.query_row(&format!("SELECT count(*) FROM {TABLE}"), [], |row| row.get(0)))
        .unwrap_or(-1)
}
