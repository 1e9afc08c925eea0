//! Where a row goes and as what: topic, partition, key, headers; the record in Kafka's own bytes.
//!
//! Promises: pure; a row's bytes are copied once, from SQLite's column pointers into the lane's buffer. Does not know: lanes, SQL.

use crate::model::{OutboxIx, RowKey, RowMeta, RowView, Rows, RunId, Span, field};
use outboxd_kafka::partitioner;
use outboxd_kafka::record_batch::{self, RecordHeader};
use outboxd_kafka::topic_name;

/// One piece of a topic template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    Text(String),
    /// A position in [`RowView::fields`], and the column's name for error texts.
    Column {
        field: usize,
        name: String,
    },
}

/// The topic of an outbox: a literal or a template over columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicTemplate {
    Literal(String),
    Parts(Vec<TemplatePart>),
}

/// How one outbox's rows become records.
#[derive(Clone, Debug)]
pub struct Route {
    /// Label in logs and metrics.
    pub name: String,
    pub topic: TopicTemplate,
    /// Names of the configured headers; their values are the fields from `field::EXTRA` on.
    pub headers: Vec<String>,
    /// `columns.event_id` is configured: its value is the message id.
    pub event_id: bool,
    /// How many topics a template may open.
    pub topics_max: usize,
    /// How often the broker rejects a record for its own fault before its row is quarantined. At least 1.
    pub max_attempts: u32,
}

/// Why a row can't become a record. The row is set aside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    #[error("column {0} is NULL and the topic is made from it")]
    TopicFromNull(String),
    #[error("{0:?} is no topic name: Kafka allows 1 to 249 of a-z A-Z 0-9 . _ - and neither . nor ..")]
    TopicIllegal(String),
    #[error("the template would open more than topics_max = {0} topics")]
    TooManyTopics(usize),
    #[error("its record of {bytes} bytes is larger than {max}, the most that there may be (kafka.max_request_size)")]
    TooLarge { bytes: u64, max: usize },
    #[error("it can't be read: {0}")]
    Unreadable(String),
    #[error("the event id column is NULL")]
    EventIdNull,
}

impl Route {
    /// Writes the row's topic into `name` (cleared first).
    pub fn topic(&self, row: &RowView<'_>, name: &mut String) -> Result<(), Unroutable> {
        name.clear();
        match &self.topic {
            TopicTemplate::Literal(text) => name.push_str(text),
            TopicTemplate::Parts(parts) => {
                for part in parts {
                    match part {
                        TemplatePart::Text(text) => name.push_str(text),
                        TemplatePart::Column { field, name: column } => {
                            let value = row.fields[*field].ok_or_else(|| Unroutable::TopicFromNull(column.clone()))?;
                            name.push_str(&String::from_utf8_lossy(value));
                        }
                    }
                }
            }
        }
        topic_name::check(name).map_err(|_| Unroutable::TopicIllegal(name.clone()))
    }

    /// The literal topic, when there is one.
    pub fn literal(&self) -> Option<&str> {
        match &self.topic {
            TopicTemplate::Literal(text) => Some(text),
            TopicTemplate::Parts(_) => None,
        }
    }

    /// An upper bound of the record's size in bytes, without encoding it.
    pub fn record_bytes_bound(&self, row: &RowView<'_>) -> usize {
        // Every field travels at most once as key, value or header, the aggregate id perhaps twice (key and header).
        let values: usize = row.fields.iter().flatten().map(|value| value.len() + 5).sum();
        let names: usize = self.headers.iter().map(|name| name.len() + 5).sum();
        values + names + 160
    }
}

/// The record's partition: murmur2 of the key as Kafka's Java client computes it; `None` for a null key.
pub fn partition(row: &RowView<'_>, partition_count: i32) -> Option<i32> {
    row.fields[field::KEY].map(|key| partitioner::partition_for_key(key, partition_count))
}

/// Encodes rows as records; keeps what repeats (the run's half of the message id, the header list's allocation).
#[derive(Debug)]
pub struct Encoder {
    run: RunId,
    message_id: Vec<u8>,
    prefix_bytes: usize,
    next_message: u64,
}

impl Encoder {
    pub fn new(run: RunId) -> Self {
        let prefix = prefix(run);
        Encoder { run, prefix_bytes: prefix.len(), message_id: prefix, next_message: 1 }
    }

    /// Appends the row's record to `rows`, under a message id that was never given before.
    pub fn append(&mut self, outbox: OutboxIx, route: &Route, row: &RowView<'_>, rows: &mut Rows) {
        let message = self.next_message;
        self.next_message += 1;
        self.encode(outbox, route, row, message, rows);
    }

    /// The row's record as it would be, to be looked at.
    pub fn record(&mut self, outbox: OutboxIx, route: &Route, row: &RowView<'_>) -> Vec<u8> {
        let mut rows = Rows::default();
        self.encode(outbox, route, row, self.next_message, &mut rows);
        rows.bytes
    }

    /// The same for a row that goes again, under the message id it had.
    pub fn append_again(
        &mut self,
        outbox: OutboxIx,
        route: &Route,
        row: &RowView<'_>,
        (run, message): (RunId, u64),
        rows: &mut Rows,
    ) {
        let ours = (run != self.run).then(|| std::mem::replace(&mut self.message_id, prefix(run)));
        self.encode(outbox, route, row, message, rows);
        if let Some(ours) = ours {
            self.message_id = ours;
        }
    }

    fn encode(&mut self, outbox: OutboxIx, route: &Route, row: &RowView<'_>, message: u64, rows: &mut Rows) {
        self.message_id.truncate(self.prefix_bytes);
        self.message_id.extend_from_slice(itoa::Buffer::new().format(message).as_bytes());
        let id = match row.fields[field::EVENT_ID] {
            Some(event_id) if route.event_id => event_id,
            _ => &self.message_id,
        };
        let fixed = [
            RecordHeader { key: b"id", value: Some(id) },
            RecordHeader { key: b"eventType", value: row.fields[field::EVENT_TYPE] },
            RecordHeader { key: b"aggregateId", value: row.fields[field::AGGREGATE_ID] },
        ];
        let delta = rows.meta.len() as u32;
        let (key, value) = (row.fields[field::KEY], row.fields[field::PAYLOAD]);
        let layout = if route.headers.is_empty() {
            record_batch::append_record(&mut rows.bytes, delta, key, value, &fixed)
        } else {
            let mut headers = fixed.to_vec();
            for (at, name) in route.headers.iter().enumerate() {
                headers.push(RecordHeader { key: name.as_bytes(), value: row.fields[field::EXTRA + at] });
            }
            record_batch::append_record(&mut rows.bytes, delta, key, value, &headers)
        };
        let event_id = if route.event_id { layout.header_value(&fixed, 0) } else { None };
        rows.meta.push(RowMeta {
            key: RowKey { outbox, rowid: row.rowid },
            print: row.print,
            record: span(&layout.range()),
            message,
            event_id: event_id.as_ref().map(span).unwrap_or_default(),
        });
    }
}

fn prefix(run: RunId) -> Vec<u8> {
    format!("{run}-").into_bytes()
}

fn span(range: &std::ops::Range<usize>) -> Span {
    Span { start: range.start as u32, len: (range.end - range.start) as u32 }
}

/// Copies some of a batch's rows into a batch of their own, under new offset deltas. Only after a rejection: a batch once planned
/// is never cut differently otherwise (invariant I1 in docs/kafka.md).
pub fn recut(rows: &Rows, wanted: impl IntoIterator<Item = usize>) -> Rows {
    let mut out = Rows::default();
    for at in wanted {
        let meta = rows.meta[at];
        let start = out.bytes.len();
        let record = meta.record.of(&rows.bytes);
        record_batch::renumber_record(&mut out.bytes, record, out.meta.len() as u32);
        let len = out.bytes.len() - start;
        // The offset delta's varint may have another length; what follows it keeps its distance from the record's end.
        let from_end = (meta.record.start + meta.record.len) - meta.event_id.start;
        let event_id = if meta.event_id.len == 0 {
            Span::default()
        } else {
            Span { start: (start + len) as u32 - from_end, len: meta.event_id.len }
        };
        out.meta.push(RowMeta { record: Span { start: start as u32, len: len as u32 }, event_id, ..meta });
    }
    out
}
