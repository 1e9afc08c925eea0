//! The figures as Prometheus text (exposition format 0.0.4).
//!
//! Promises: names, units and labels that stay; one pass, no lock held while writing. Does not know: who reads it.

use super::figures::{Figures, LATENCY_BOUNDS_SECONDS, OutboxFigures};
use super::health::Health;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a name means and the value of it for one outbox or one relay.
type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

const OUTBOX: &[Family<OutboxFigures>] = &[
    ("published_total", "counter", "Records acknowledged by the sink.", |o| o.published.load(Relaxed) as f64),
    ("deleted_total", "counter", "Rows deleted after their acknowledgement.", |o| o.deleted.load(Relaxed) as f64),
    ("set_aside_total", "counter", "Rows put into quarantine, those found there at the start included.", |o| {
        o.set_aside.load(Relaxed) as f64
    }),
    ("changed_total", "counter", "Rows the application rewrote while they were on their way.", |o| {
        o.changed.load(Relaxed) as f64
    }),
    ("backlog_rows", "gauge", "Rows waiting in the table; see backlog_exact.", |o| o.backlog_rows.load(Relaxed) as f64),
    ("backlog_exact", "gauge", "1 if backlog_rows is counted, 0 if it is estimated from the rowids.", |o| {
        flag(o.backlog_exact.load(Relaxed))
    }),
    ("oldest_row_seconds", "gauge", "Since the oldest row now waiting was first seen; 0 if none waits.", |o| {
        o.oldest_seen_ms.load(Relaxed).max(0) as f64 / 1e3
    }),
];

const RELAY: &[Family<Figures>] = &[
    ("busy_total", "counter", "Times the database was locked by someone else.", |r| r.busy.load(Relaxed) as f64),
    ("yielded_total", "counter", "Deletes rolled back because another process came.", |r| {
        r.yielded.load(Relaxed) as f64
    }),
    ("looks_total", "counter", "Short reads of an outbox.", |r| r.looks.load(Relaxed) as f64),
    ("wakes_total", "counter", "Wake-ups by commits.", |r| r.wakes.load(Relaxed) as f64),
    ("batches_total", "counter", "Batches planned.", |r| r.batches.load(Relaxed) as f64),
    ("unsure_rows_total", "counter", "Rows sent again that may have been published before.", |r| {
        r.unsure_rows.load(Relaxed) as f64
    }),
    ("held_rows", "gauge", "Rows in memory, between read and deleted.", |r| r.held_rows.load(Relaxed) as f64),
    ("held_bytes", "gauge", "Their records in bytes.", |r| r.held_bytes.load(Relaxed) as f64),
    ("lanes_stopped", "gauge", "Partitions that take no rows at the moment.", |r| r.lanes_stopped.load(Relaxed) as f64),
    ("longest_read_seconds", "gauge", "Our longest read transaction.", |r| {
        r.longest_read_us.load(Relaxed) as f64 / 1e6
    }),
    ("longest_write_seconds", "gauge", "Our longest write transaction.", |r| {
        r.longest_write_us.load(Relaxed) as f64 / 1e6
    }),
    ("source_ready", "gauge", "1 if the database could be read.", |r| flag(r.source_ready.load(Relaxed))),
    ("sink_ready", "gauge", "1 if the sink has answered.", |r| flag(r.sink_ready.load(Relaxed))),
];

/// A value of the label `outcome`, and its count.
type Failed = (&'static str, fn(&Figures) -> u64);

/// Attempts to send a batch that did not end with an acknowledgement.
const OUTCOMES: [Failed; 4] = [
    ("not_appended", |r| r.not_appended.load(Relaxed)),
    ("unsure", |r| r.unsure.load(Relaxed)),
    ("refused", |r| r.refused.load(Relaxed)),
    ("rejected", |r| r.rejected.load(Relaxed)),
];

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

/// The whole page.
pub fn render(health: &Health, started: SystemTime) -> String {
    let relays = health.relays();
    let mut page = Page(String::with_capacity(8 << 10));
    for (name, kind, help, value) in OUTBOX {
        page.head(&format!("outboxd_{name}"), kind, help);
        for relay in relays {
            for (outbox, figures) in relay.names.iter().zip(&relay.outboxes) {
                let labels = [("database", relay.database.as_str()), ("outbox", outbox.as_str())];
                page.sample(&format!("outboxd_{name}"), &labels, value(figures));
            }
        }
    }
    for (name, kind, help, value) in RELAY {
        page.head(&format!("outboxd_{name}"), kind, help);
        for relay in relays {
            page.sample(&format!("outboxd_{name}"), &[("database", &relay.database)], value(relay));
        }
    }
    page.head("outboxd_failed_attempts_total", "counter", "Attempts to send a batch that were not acknowledged.");
    for relay in relays {
        for (outcome, count) in OUTCOMES {
            let labels = [("database", relay.database.as_str()), ("outcome", outcome)];
            page.sample("outboxd_failed_attempts_total", &labels, count(relay));
        }
    }
    page.head(
        "outboxd_commit_to_ack_seconds",
        "histogram",
        "From noticing the commit to the acknowledgement, per record.",
    );
    for relay in relays {
        histogram(&mut page, relay);
    }
    if let Some(bytes) = health.state_file_bytes() {
        page.head("outboxd_state_file_bytes", "gauge", "The state file and its -wal.");
        page.sample("outboxd_state_file_bytes", &[], bytes);
    }
    page.head("outboxd_build_info", "gauge", "Always 1.");
    page.sample("outboxd_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    process(&mut page, started);
    page.0
}

fn histogram(page: &mut Page, relay: &Figures) {
    const NAME: &str = "outboxd_commit_to_ack_seconds";
    let mut count = 0;
    for (slot, bucket) in relay.commit_to_ack.buckets.iter().enumerate() {
        count += bucket.load(Relaxed);
        let bound = LATENCY_BOUNDS_SECONDS.get(slot).map_or("+Inf".to_owned(), f64::to_string);
        page.sample(&format!("{NAME}_bucket"), &[("database", &relay.database), ("le", &bound)], count);
    }
    let labels = [("database", relay.database.as_str())];
    page.sample(&format!("{NAME}_sum"), &labels, relay.commit_to_ack.sum_microseconds.load(Relaxed) as f64 / 1e6);
    page.sample(&format!("{NAME}_count"), &labels, count);
}

fn process(page: &mut Page, started: SystemTime) {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    page.head("process_cpu_seconds_total", "counter", "User and system CPU time.");
    page.sample("process_cpu_seconds_total", &[], cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, name, help) in [
        ("VmRSS:", "process_resident_memory_bytes", "Resident memory."),
        ("VmHWM:", "process_resident_memory_max_bytes", "The most resident memory there was."),
    ] {
        let kib =
            status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<u64>().ok());
        if let Some(kib) = kib {
            page.head(name, "gauge", help);
            page.sample(name, &[], kib * 1024);
        }
    }
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    page.head("process_start_time_seconds", "gauge", "When the process started, since the Unix epoch.");
    page.sample("process_start_time_seconds", &[], since.as_secs_f64());
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String can't fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (position, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if position == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn page() -> String {
        let figures = Figures::new("/a \"b\"\\".into(), vec!["users".into(), "orders".into()]);
        figures.outboxes[0].published.store(41, Relaxed);
        figures.outboxes[1].published.store(7, Relaxed);
        figures.outboxes[0].oldest_seen_ms.store(-1, Relaxed);
        figures.outboxes[1].oldest_seen_ms.store(1_500, Relaxed);
        figures.outboxes[1].backlog_exact.store(true, Relaxed);
        figures.commit_to_ack.observe(Duration::from_millis(1), 40);
        figures.commit_to_ack.observe(Duration::from_secs(1_000), 1);
        figures.unsure.store(3, Relaxed);
        figures.unsure_rows.store(5, Relaxed);
        let health = Health::new(vec![Arc::new(figures)]);
        health.state_file_is(Arc::new(4_096.into()));
        render(&health, SystemTime::UNIX_EPOCH + Duration::from_secs(99))
    }

    #[test]
    fn samples_have_their_labels_and_values() {
        let page = page();
        for line in [
            r#"outboxd_published_total{database="/a \"b\"\\",outbox="users"} 41"#,
            r#"outboxd_published_total{database="/a \"b\"\\",outbox="orders"} 7"#,
            r#"outboxd_oldest_row_seconds{database="/a \"b\"\\",outbox="users"} 0"#,
            r#"outboxd_oldest_row_seconds{database="/a \"b\"\\",outbox="orders"} 1.5"#,
            r#"outboxd_backlog_exact{database="/a \"b\"\\",outbox="orders"} 1"#,
            r#"outboxd_unsure_rows_total{database="/a \"b\"\\"} 5"#,
            r#"outboxd_failed_attempts_total{database="/a \"b\"\\",outcome="unsure"} 3"#,
            r#"outboxd_commit_to_ack_seconds_bucket{database="/a \"b\"\\",le="0.0005"} 0"#,
            r#"outboxd_commit_to_ack_seconds_bucket{database="/a \"b\"\\",le="0.001"} 40"#,
            r#"outboxd_commit_to_ack_seconds_bucket{database="/a \"b\"\\",le="300"} 40"#,
            r#"outboxd_commit_to_ack_seconds_bucket{database="/a \"b\"\\",le="+Inf"} 41"#,
            r#"outboxd_commit_to_ack_seconds_sum{database="/a \"b\"\\"} 1000.04"#,
            r#"outboxd_commit_to_ack_seconds_count{database="/a \"b\"\\"} 41"#,
            "outboxd_state_file_bytes 4096",
            "process_start_time_seconds 99",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\nis not in\n{page}");
        }
    }

    #[test]
    fn every_family_is_announced_once_and_has_samples() {
        let page = page();
        let mut families = Vec::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                families.push(rest.split(' ').next().unwrap().to_owned());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.split('{').next().unwrap();
                let family = families.last().unwrap();
                assert!(name.starts_with(family.as_str()), "{name} stands under {family}");
                value.parse::<f64>().unwrap();
            }
        }
        let announced = families.len();
        families.sort();
        families.dedup();
        assert_eq!(families.len(), announced);
        let own = ["process_cpu_seconds_total", "process_resident_memory_bytes"];
        assert!(own.iter().all(|name| families.iter().any(|family| family == name)), "{families:?}");
    }
}
