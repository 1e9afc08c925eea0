//! The demo's consumer: makes the topic if it is not there, and prints what arrives in it.
//!
//! Promises: starts at the end of the topic as it was before the demo. Does not know: who writes.

use super::CommandError;
use crate::config::Kafka;
use crate::exit::{CONFIGURATION, FAILED};
use crossbeam_channel::Sender;
use outboxd_kafka::connection::{Address, Connection, ConnectionOptions};
use outboxd_kafka::error::{CallError, ConnectError, ErrorCode};
use outboxd_kafka::protocol::{
    CreateTopicsRequest, FetchPartition, FetchRequest, ListOffsetsPartition, ListOffsetsRequest, MetadataRequest,
    MetadataResponse, Reach,
};
use outboxd_kafka::record_batch::{BatchReader, Piece, Record};
use outboxd_kafka::security::Security;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until a new topic has leaders.
const TOPIC_PATIENCE: Duration = Duration::from_secs(30);
const TOPIC_PAUSE: Duration = Duration::from_millis(100);
/// How long a Fetch may wait at the broker.
const FETCH_WAIT_MS: i32 = 200;
const FETCH_BYTES_MAX: i32 = 1 << 20;
/// Of a batch that is compressed: what it may take opened.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// After a failed Fetch.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Partitions of a topic the demo makes.
const PARTITIONS: i32 = 3;

/// A topic and where its partitions end before the demo.
pub struct ReadBack {
    topic: String,
    servers: Vec<Address>,
    options: ConnectionOptions,
    partitions: Vec<Partition>,
}

struct Partition {
    number: i32,
    leader: Address,
    next_offset: i64,
}

/// The running consumer.
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Reader {
    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.join();
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("the broker did not answer the demo's consumer")]
    Call(#[from] CallError),
    #[error("topic {topic}: the broker answers {error}{message}")]
    Refused { topic: String, error: ErrorCode, message: String },
    #[error("topic {0} has partitions without a leader")]
    NoLeader(String),
}

impl ReadBack {
    pub fn prepare(kafka: &Kafka, topic: &str) -> Result<ReadBack, CommandError> {
        let servers: Vec<Address> =
            kafka.bootstrap_servers.iter().map(|server| server.parse()).collect::<Result<_, _>>().map_err(
                |error: outboxd_kafka::connection::AddressError| {
                    CommandError::new(CONFIGURATION, error, "write for example: --bootstrap-servers localhost:9092")
                },
            )?;
        let security = Security::new(&kafka.security).map_err(|error| {
            let hint = error.hint().to_owned();
            CommandError::new(CONFIGURATION, error, hint)
        })?;
        let options = ConnectionOptions {
            client_id: "outboxd-demo".to_owned(),
            setup_timeout: PATIENCE,
            security,
            ..ConnectionOptions::default()
        };
        let mut read_back = ReadBack { topic: topic.to_owned(), servers, options, partitions: Vec::new() };
        read_back.locate().map_err(|failure| {
            let hint = match &failure {
                Failure::Connect(error) => error.hint().unwrap_or_default().to_owned(),
                Failure::Refused { .. } => "make the topic yourself, and name it with --topic".to_owned(),
                Failure::Call(_) | Failure::NoLeader(_) => "is the cluster well?".to_owned(),
            };
            CommandError::new(FAILED, failure, hint)
        })?;
        Ok(read_back)
    }

    /// Finds the partitions, their leaders and their ends; makes the topic when there is none.
    fn locate(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + TOPIC_PATIENCE;
        let mut connection = connect_any(&self.servers, &self.options)?;
        let mut made = false;
        loop {
            let metadata = ask_metadata(&mut connection, &self.topic)?;
            let Some(found) = metadata.topics.first() else {
                return Err(Failure::NoLeader(self.topic.clone()));
            };
            match found.error {
                ErrorCode::NONE => {
                    let led: Option<Vec<(i32, Address)>> = found
                        .partitions
                        .iter()
                        .map(|partition| Some((partition.partition, address_of(&metadata, partition.leader)?)))
                        .collect();
                    if let Some(led) = led
                        && !led.is_empty()
                    {
                        self.partitions = ends(&self.topic, led, &self.options)?;
                        return Ok(());
                    }
                }
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION if !made => {
                    create(&metadata, &mut connection, &self.topic, &self.options)?;
                    made = true;
                    println!("Made topic {} with {PARTITIONS} partitions.", self.topic);
                }
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::LEADER_NOT_AVAILABLE => {}
                error => {
                    return Err(Failure::Refused { topic: self.topic.clone(), error, message: String::new() });
                }
            }
            if Instant::now() >= until {
                return Err(Failure::NoLeader(self.topic.clone()));
            }
            std::thread::sleep(TOPIC_PAUSE);
        }
    }

    /// Prints on a thread of its own; one message on `arrived` for each record.
    pub fn spawn(mut self, arrived: Sender<()>) -> Reader {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut leaders: Vec<(Address, Option<Connection>)> = Vec::new();
            for partition in &self.partitions {
                if leaders.iter().all(|(leader, _)| *leader != partition.leader) {
                    leaders.push((partition.leader.clone(), None));
                }
            }
            while !stopped.load(Relaxed) {
                for (leader, connection) in &mut leaders {
                    if let Err(failure) = self.fetch(leader, connection, &arrived) {
                        log::warn!("the demo's consumer: {failure}");
                        *connection = None;
                        std::thread::sleep(RETRY_PAUSE);
                    }
                }
            }
        });
        Reader { stop, thread }
    }

    /// One Fetch for all partitions of a leader.
    fn fetch(
        &mut self,
        leader: &Address,
        connection: &mut Option<Connection>,
        arrived: &Sender<()>,
    ) -> Result<(), Failure> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(leader, &self.options)?),
        };
        let asked: Vec<FetchPartition<'_>> = self
            .partitions
            .iter()
            .filter(|partition| partition.leader == *leader)
            .map(|partition| FetchPartition {
                topic: &self.topic,
                partition: partition.number,
                current_leader_epoch: -1,
                fetch_offset: partition.next_offset,
                max_bytes: FETCH_BYTES_MAX,
            })
            .collect();
        let request =
            FetchRequest { max_wait_ms: FETCH_WAIT_MS, min_bytes: 1, max_bytes: FETCH_BYTES_MAX, partitions: &asked };
        let answer = connection.call(&request, PATIENCE)?;
        let refused = |error| Failure::Refused { topic: self.topic.clone(), error, message: String::new() };
        if !answer.error.is_ok() {
            return Err(refused(answer.error));
        }
        let mut buffer = Vec::new();
        for fetched in &answer.partitions {
            if !fetched.error.is_ok() {
                return Err(refused(fetched.error));
            }
            if let Some(partition) = self.partitions.iter_mut().find(|partition| partition.number == fetched.partition)
            {
                print_records(&self.topic, partition, &fetched.records, &mut buffer, arrived);
            }
        }
        Ok(())
    }
}

fn print_records(topic: &str, partition: &mut Partition, records: &[u8], buffer: &mut Vec<u8>, arrived: &Sender<()>) {
    for piece in BatchReader::new(records) {
        let batch = match piece {
            Ok(Piece::Batch(batch)) => batch,
            Ok(Piece::Older { offset, .. }) => {
                partition.next_offset = offset + 1;
                continue;
            }
            Ok(Piece::Cut { .. }) | Err(_) => break,
        };
        // Compressed by us, by the topic's compression.type, or by someone else.
        match batch.decompress(BATCH_BYTES_MAX, buffer) {
            Ok(records) => {
                for record in records.flatten().filter(|record| record.offset >= partition.next_offset) {
                    println!("Received packet: {}", describe(topic, partition.number, &record));
                    let _ = arrived.send(());
                }
            }
            Err(error) => log::warn!(
                "the demo's consumer: {topic}-{} offset {}: the batch can't be opened: {error}",
                partition.number,
                batch.header.base_offset
            ),
        }
        partition.next_offset = batch.header.next_offset();
    }
}

fn describe(topic: &str, partition: i32, record: &Record<'_>) -> String {
    let text = |bytes: Option<&[u8]>| bytes.map_or("null".into(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|header| format!("{}={}", String::from_utf8_lossy(header.key), text(header.value)))
        .collect();
    format!(
        "{topic}-{partition} offset {}, key {}, value {}, headers {}",
        record.offset,
        text(record.key),
        text(record.value),
        headers.join(" ")
    )
}

/// The first server that answers; the last one's error if none does.
fn connect_any(servers: &[Address], options: &ConnectionOptions) -> Result<Connection, Failure> {
    let mut last = None;
    for server in servers {
        match Connection::open(server, options) {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("the config has at least one server").into())
}

fn ask_metadata(connection: &mut Connection, topic: &str) -> Result<MetadataResponse, Failure> {
    let request = MetadataRequest { topics: Some(&[topic]), allow_auto_topic_creation: false };
    Ok(connection.call(&request, PATIENCE)?)
}

fn address_of(metadata: &MetadataResponse, node: i32) -> Option<Address> {
    let broker = metadata.brokers.iter().find(|broker| broker.node_id == node)?;
    Some(Address { host: broker.host.clone(), port: u16::try_from(broker.port).ok()? })
}

/// Before KRaft only the controller makes topics; with it any broker passes the wish on.
fn create(
    metadata: &MetadataResponse,
    connection: &mut Connection,
    topic: &str,
    options: &ConnectionOptions,
) -> Result<(), Failure> {
    let request = CreateTopicsRequest { topic, partitions: PARTITIONS, timeout_ms: PATIENCE.as_millis() as i32 };
    let answer = match address_of(metadata, metadata.controller_id) {
        Some(controller) => Connection::open(&controller, options)?.call(&request, PATIENCE)?,
        None => connection.call(&request, PATIENCE)?,
    };
    match answer.topics.into_iter().next() {
        Some(made) if !made.error.is_ok() && made.error != ErrorCode::TOPIC_ALREADY_EXISTS => Err(Failure::Refused {
            topic: made.topic,
            error: made.error,
            message: made.message.map_or_else(String::new, |message| format!(": {message}")),
        }),
        _ => Ok(()),
    }
}

fn ends(topic: &str, led: Vec<(i32, Address)>, options: &ConnectionOptions) -> Result<Vec<Partition>, Failure> {
    led.into_iter()
        .map(|(partition, leader)| {
            let asked = ListOffsetsPartition {
                topic,
                partition,
                current_leader_epoch: -1,
                timestamp: ListOffsetsPartition::END,
            };
            let answer = Connection::open(&leader, options)?
                .call(&ListOffsetsRequest { reach: Reach::HighWatermark, partitions: &[asked] }, PATIENCE)?;
            match answer.partitions.first() {
                Some(end) if end.error.is_ok() => Ok(Partition { number: partition, leader, next_offset: end.offset }),
                Some(end) => {
                    Err(Failure::Refused { topic: topic.to_owned(), error: end.error, message: String::new() })
                }
                None => Err(Failure::NoLeader(topic.to_owned())),
            }
        })
        .collect()
}
