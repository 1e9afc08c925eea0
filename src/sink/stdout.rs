//! The stdout sink: each record one JSON line, written and flushed before it counts as stored.
//!
//! Promises: a line is whole or the batch is not reported as stored; lines of one lane come in order. Does not know: Kafka's brokers.
//!
//! A line: `{"topic":"users","partition":0,"key":"7","value":"{...}","headers":[["id","..."],["eventType",null]]}`. Headers are a list of
//! pairs, because a name may come twice. Key, value and header values are strings where they are UTF-8, `{"base64":"..."}` where they are
//! not, and `null` where they are null. There is no timestamp: a record is stamped when Kafka gets it.

use crate::model::{Evidence, Outcome, PartitionStart, Plan, SinkEvent, Sought, Topic, Why};
use crate::ports::{Full, Manner, Sink};
use base64::Engine;
use crossbeam_channel::{Sender, TrySendError, unbounded};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::record_batch::{BatchFields, BatchReader, Piece, Record, encode_header};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Instant;

/// Batches of one relay that wait for the writing thread.
const WAITING_MAX: usize = 64;

/// The thread that writes, shared by the relays of all databases: two of them must not mix their lines.
pub struct StdoutSink {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

enum Job {
    Write { plan: Arc<Plan>, relay: Arc<Relay> },
    Stop,
}

/// Where one relay's outcomes go. Each counts its own batches: if they shared one bound, a relay could be told `Full` on account of
/// another's batches and wait for an event of its own that never comes.
struct Relay {
    events: Sender<SinkEvent>,
    waiting: AtomicUsize,
    draining: AtomicBool,
}

impl StdoutSink {
    /// Writes to the process's stdout.
    pub fn start() -> io::Result<StdoutSink> {
        StdoutSink::to(io::stdout())
    }

    /// Writes to anything.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<StdoutSink> {
        // Bounded by what each relay may have waiting.
        let (jobs, received) = unbounded::<Job>();
        let thread = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            let mut printer = Printer { out, line: Vec::new(), next_offsets: BTreeMap::new(), failed: false };
            while let Ok(Job::Write { plan, relay }) = received.recv() {
                let outcome = if relay.draining.load(SeqCst) {
                    Outcome::NotAppended(Why::new("stdout: not written any more, draining"))
                } else {
                    printer.print(&plan)
                };
                // Before the event, or the relay could see it, be told `Full` and wait for another one.
                relay.waiting.fetch_sub(1, SeqCst);
                // A relay that is gone needs no answer.
                let _ = relay.events.send(SinkEvent::Outcome { batch: plan.id, outcome, at: Instant::now() });
            }
        })?;
        Ok(StdoutSink { jobs, thread })
    }

    /// One relay's end. The relay must go on receiving from `events` until the sink has stopped.
    pub fn handle(&self, events: Sender<SinkEvent>) -> StdoutHandle {
        let relay = Relay { events, waiting: AtomicUsize::new(0), draining: AtomicBool::new(false) };
        StdoutHandle { jobs: self.jobs.clone(), relay: Arc::new(relay) }
    }

    /// Ends the thread after what it was given. False when it was still busy at the deadline: a reader that does not read keeps a write
    /// waiting for ever.
    pub fn stop(self, deadline: Instant) -> bool {
        // Fails when the thread has ended already.
        let _ = self.jobs.send(Job::Stop);
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        self.thread.is_finished()
    }
}

/// One relay's end of a [`StdoutSink`].
pub struct StdoutHandle {
    jobs: Sender<Job>,
    relay: Arc<Relay>,
}

impl StdoutHandle {
    /// From the relay's own thread, which empties this channel: waiting for room would be for ever.
    fn tell(&self, event: SinkEvent) {
        if let Err(TrySendError::Full(event)) = self.relay.events.try_send(event) {
            let events = self.relay.events.clone();
            let told = std::thread::Builder::new().name("stdout-event".to_owned()).spawn(move || {
                let _ = events.send(event);
            });
            if let Err(error) = told {
                log::error!("stdout: an event is lost: no thread to deliver it: {error}");
            }
        }
    }
}

impl Sink for StdoutHandle {
    /// Nothing here deduplicates; any id will do.
    fn producer(&mut self) {
        self.tell(SinkEvent::Producer { id: 0, cluster: None });
    }

    /// Every topic is there, with one partition.
    fn open(&mut self, topic: &Topic) {
        let partitions = vec![PartitionStart { partition: 0, end_offset: Some(0), leader_epoch: -1 }];
        self.tell(SinkEvent::Opened { topic: Arc::clone(topic), partitions });
    }

    fn send(&mut self, plan: &Arc<Plan>, _manner: Manner) -> Result<(), Full> {
        if self.relay.waiting.load(SeqCst) >= WAITING_MAX {
            return Err(Full);
        }
        self.relay.waiting.fetch_add(1, SeqCst);
        let job = Job::Write { plan: Arc::clone(plan), relay: Arc::clone(&self.relay) };
        if self.jobs.send(job).is_err() {
            self.relay.waiting.fetch_sub(1, SeqCst);
            let outcome = Outcome::NotAppended(Why::new("stdout: the sink has been stopped"));
            self.tell(SinkEvent::Outcome { batch: plan.id, outcome, at: Instant::now() });
        }
        Ok(())
    }

    /// A pipe can't be read back.
    fn look_up(&mut self, plan: &Arc<Plan>, _sought: Sought) {
        let evidence = Evidence::Forbidden(Why::new("what was written can't be read back"));
        self.tell(SinkEvent::Evidence { batch: plan.id, evidence });
    }

    /// What the thread has not begun is not written any more. A write that a slow reader holds up can't be called back.
    fn drain(&mut self) {
        self.relay.draining.store(true, SeqCst);
    }
}

struct Printer<W> {
    out: W,
    line: Vec<u8>,
    /// Offsets as a broker would count them, for this run.
    next_offsets: BTreeMap<Topic, i64>,
    failed: bool,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, plan: &Plan) -> Outcome {
        if let Err(text) = self.encode(plan) {
            return Outcome::Refused(Why::new(format!("{}: a record can't be read: {text}", plan.target)));
        }
        if self.failed {
            // Ends a line that was cut off, so that the next one can be read.
            self.line.insert(0, b'\n');
        }
        match self.out.write_all(&self.line).and_then(|()| self.out.flush()) {
            Ok(()) => {
                self.failed = false;
                let next = self.next_offsets.entry(Arc::clone(&plan.target.topic)).or_insert(0);
                let offset = *next;
                *next += plan.rows.len() as i64;
                Outcome::Stored { offset }
            }
            Err(error) => {
                self.failed = true;
                let hint = if error.kind() == io::ErrorKind::BrokenPipe {
                    "whoever read our output has gone: start outboxd with a reader again, the rows are still in the table"
                } else {
                    "make room where the output goes; the rows are still in the table"
                };
                Outcome::Refused(Why::new(format!("stdout: {error}")).hint(hint))
            }
        }
    }

    fn encode(&mut self, plan: &Plan) -> Result<(), String> {
        self.line.clear();
        // The reader of batches is the one reader of records there is, so they get the header of a batch. This sink is not the fast one.
        let fields = BatchFields {
            producer_id: plan.triple.producer_id,
            producer_epoch: plan.triple.epoch,
            base_sequence: plan.triple.first_sequence,
            timestamp_ms: 0,
            record_count: plan.rows.len() as i32,
            compression: Compression::None,
        };
        let mut batch = encode_header(&fields, &plan.rows.bytes).to_vec();
        batch.extend_from_slice(&plan.rows.bytes);
        let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&batch).next() else {
            return Err("not a record batch".to_owned());
        };
        for record in batch.records().ok_or_else(|| "it is compressed".to_owned())? {
            let record = record.map_err(|error| error.to_string())?;
            let line = Line { plan, record: &record };
            serde_json::to_writer(&mut self.line, &line).map_err(|error| error.to_string())?;
            self.line.push(b'\n');
        }
        Ok(())
    }
}

struct Line<'a> {
    plan: &'a Plan,
    record: &'a Record<'a>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("topic", &*self.plan.target.topic)?;
        map.serialize_entry("partition", &self.plan.target.partition)?;
        map.serialize_entry("key", &self.record.key.map(Bytes))?;
        map.serialize_entry("value", &self.record.value.map(Bytes))?;
        map.serialize_entry("headers", &Headers(self.record))?;
        map.end()
    }
}

struct Headers<'a>(&'a Record<'a>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.headers.len()))?;
        for header in &self.0.headers {
            list.serialize_element(&(Bytes(header.key), header.value.map(Bytes)))?;
        }
        list.end()
    }
}

/// A string where it is UTF-8.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &base64::engine::general_purpose::STANDARD.encode(self.0))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PlanId, Rows, RunId, SentForm, Target, Triple};
    use crossbeam_channel::{Receiver, bounded};
    use outboxd_kafka::record_batch::{RecordHeader, append_record};
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    type Fields<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a [RecordHeader<'a>]);

    fn plan(id: u64, topic: &str, records: &[Fields<'_>]) -> Arc<Plan> {
        let mut rows = Rows::default();
        for (at, (key, value, headers)) in records.iter().enumerate() {
            append_record(&mut rows.bytes, at as u32, *key, *value, headers);
            rows.meta.push(crate::model::RowMeta {
                key: crate::model::RowKey { outbox: crate::model::OutboxIx(0), rowid: at as i64 },
                print: crate::model::Fingerprint(0),
                record: crate::model::Span::default(),
                message: 0,
                event_id: crate::model::Span::default(),
            });
        }
        Arc::new(Plan {
            id: PlanId(id),
            target: Target { topic: topic.into(), partition: 0 },
            triple: Triple { producer_id: 0, epoch: 0, first_sequence: 0 },
            run: RunId(0),
            noted_offset: 0,
            leader_epoch: -1,
            cluster: None,
            first_attempt: SystemTime::UNIX_EPOCH,
            rows: Arc::new(rows),
            sent_form: SentForm::default(),
        })
    }

    /// Notes what was written, and when it was flushed; fails after so many bytes.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Page>>);

    #[derive(Default)]
    struct Page {
        written: Vec<u8>,
        flushed_bytes: usize,
        room_bytes: Option<usize>,
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().written.clone()).unwrap()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut inner = self.0.lock().unwrap();
            let room =
                inner.room_bytes.map_or(bytes.len(), |max| max.saturating_sub(inner.written.len()).min(bytes.len()));
            if room == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            inner.written.extend_from_slice(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.flushed_bytes = inner.written.len();
            Ok(())
        }
    }

    fn next(events: &Receiver<SinkEvent>) -> SinkEvent {
        events.recv_timeout(Duration::from_secs(10)).expect("an event within 10 s")
    }

    fn stored(event: &SinkEvent) -> (u64, i64) {
        match event {
            SinkEvent::Outcome { batch, outcome: Outcome::Stored { offset }, .. } => (batch.0, *offset),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_json_and_flushed_before_they_count() {
        let paper = Paper::default();
        let sink = StdoutSink::to(paper.clone()).unwrap();
        let (sender, events) = bounded(16);
        let mut handle = sink.handle(sender);
        handle.producer();
        assert!(matches!(next(&events), SinkEvent::Producer { .. }));
        handle.open(&"users".into());
        match next(&events) {
            SinkEvent::Opened { topic, partitions } => {
                assert_eq!((&*topic, partitions.len(), partitions[0].partition), ("users", 1, 0));
            }
            other => panic!("{other:?}"),
        }
        let headers = [
            RecordHeader { key: b"id", value: Some(b"1-2") },
            RecordHeader { key: b"id", value: None },
            RecordHeader { key: b"raw", value: Some(&[0xff]) },
        ];
        let first = plan(
            1,
            "users",
            &[(Some(b"k\n\"1\""), Some("{\"a\":\"ü\\u0000\"}\0".as_bytes()), &headers), (None, None, &[])],
        );
        handle.send(&first, Manner::Merged).unwrap();
        assert_eq!(stored(&next(&events)), (1, 0));
        {
            let inner = paper.0.lock().unwrap();
            assert_eq!(inner.flushed_bytes, inner.written.len(), "flushed when the outcome came");
        }
        handle.send(&plan(2, "users", &[(Some(b""), Some(&[0x80, 1]), &[])]), Manner::Alone).unwrap();
        assert_eq!(stored(&next(&events)), (2, 2));
        let text = paper.text();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines[0],
            serde_json::json!({"topic": "users", "partition": 0, "key": "k\n\"1\"", "value": "{\"a\":\"ü\\u0000\"}\0",
                "headers": [["id", "1-2"], ["id", null], ["raw", {"base64": "/w=="}]]})
        );
        assert_eq!(
            lines[1],
            serde_json::json!({"topic": "users", "partition": 0, "key": null, "value": null, "headers": []})
        );
        assert_eq!(lines[2]["key"], "");
        assert_eq!(lines[2]["value"], serde_json::json!({"base64": "gAE="}));
        assert!(text.starts_with("{\"topic\":\"users\",\"partition\":0,\"key\":"), "{text}");
        assert!(sink.stop(Instant::now() + Duration::from_secs(10)));
        handle.send(&first, Manner::Merged).unwrap();
        assert!(matches!(next(&events), SinkEvent::Outcome { outcome: Outcome::NotAppended(_), .. }));
    }

    #[test]
    fn a_reader_that_went_away_is_refused_with_a_hint_and_the_next_line_is_whole() {
        let paper = Paper::default();
        paper.0.lock().unwrap().room_bytes = Some(20);
        let sink = StdoutSink::to(paper.clone()).unwrap();
        let (sender, events) = bounded(16);
        let mut handle = sink.handle(sender);
        let batch = plan(1, "users", &[(Some(b"k"), Some(b"v"), &[])]);
        handle.send(&batch, Manner::Merged).unwrap();
        match next(&events) {
            SinkEvent::Outcome { outcome: Outcome::Refused(why), .. } => {
                assert!(why.text.starts_with("stdout: "), "{why}");
                assert!(why.hint.contains("still in the table"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        paper.0.lock().unwrap().room_bytes = None;
        handle.send(&batch, Manner::Merged).unwrap();
        assert_eq!(stored(&next(&events)), (1, 0));
        let text = paper.text();
        let last = text.lines().last().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(last).unwrap()["value"], "v");
        assert!(sink.stop(Instant::now() + Duration::from_secs(10)));
    }

    /// Holds every write until it is told to go on.
    struct Slow(Receiver<()>, Sender<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.send(()).unwrap();
            self.0.recv().unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_drain_keeps_what_is_not_begun_and_is_one_relays_own() {
        let (go_on, told) = bounded(16);
        let (tell, writing) = bounded(16);
        let sink = StdoutSink::to(Slow(told, tell)).unwrap();
        let (sender, events) = bounded(16);
        let mut handle = sink.handle(sender);
        let (sender, other_events) = bounded(16);
        let mut other = sink.handle(sender);
        let batch = |id| plan(id, "users", &[(None, Some(b"v"), &[])]);
        handle.send(&batch(1), Manner::Merged).unwrap();
        writing.recv_timeout(Duration::from_secs(10)).unwrap();
        handle.send(&batch(2), Manner::Merged).unwrap();
        other.send(&batch(3), Manner::Merged).unwrap();
        handle.drain();
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(stored(&next(&events)), (1, 0));
        assert!(matches!(next(&events), SinkEvent::Outcome { batch: PlanId(2), outcome: Outcome::NotAppended(_), .. }));
        assert_eq!(stored(&next(&other_events)), (3, 1));
        assert!(sink.stop(Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn a_relay_is_full_by_its_own_batches_only() {
        let (go_on, told) = bounded(2 * WAITING_MAX);
        let (tell, writing) = bounded(2 * WAITING_MAX);
        let sink = StdoutSink::to(Slow(told, tell)).unwrap();
        let (sender, events) = bounded(2 * WAITING_MAX);
        let mut handle = sink.handle(sender);
        let (sender, other_events) = bounded(2 * WAITING_MAX);
        let mut other = sink.handle(sender);
        let batch = |id| plan(id, "users", &[(None, Some(b"v"), &[])]);
        for id in 0..WAITING_MAX as u64 {
            handle.send(&batch(id), Manner::Merged).unwrap();
        }
        assert_eq!(handle.send(&batch(1_000), Manner::Merged), Err(Full));
        other.send(&batch(2_000), Manner::Merged).unwrap();
        for _ in 0..=WAITING_MAX {
            go_on.send(()).unwrap();
        }
        assert_eq!(stored(&next(&events)), (0, 0));
        handle.send(&batch(1_000), Manner::Merged).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(stored(&next(&other_events)).0, 2_000);
        assert!(sink.stop(Instant::now() + Duration::from_secs(10)));
        drop(writing);
    }

    #[test]
    fn a_full_channel_does_not_block_the_relay() {
        let sink = StdoutSink::to(io::sink()).unwrap();
        let (sender, events) = bounded(1);
        let mut handle = sink.handle(sender);
        for topic in ["a", "b", "c"] {
            handle.open(&topic.into());
        }
        let mut opened: Vec<String> = (0..3)
            .map(|_| match next(&events) {
                SinkEvent::Opened { topic, .. } => topic.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        opened.sort();
        assert_eq!(opened, ["a", "b", "c"]);
        assert!(sink.stop(Instant::now() + Duration::from_secs(10)));
    }
}
