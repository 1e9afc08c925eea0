//! The judgement: what arrived against what was committed.
//!
//! Promises: exactly once, byte for byte, in order for each key, in one partition for each key, with headers that fit; the
//! complaint counts what was lost, doubled, invented and out of order. Does not know: how either came about.

use super::app::Entry;
use super::reader::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

type Key = Option<Vec<u8>>;
type Event = (Option<Vec<u8>>, Vec<u8>);

/// Every committed event arrived exactly once, and nothing else.
#[track_caller]
pub fn exactly_once(records: &[Record], ledger: &[Entry]) {
    headers(records);
    let arrived = by_key(records);
    let mut committed: BTreeMap<Key, Vec<Event>> = BTreeMap::new();
    for entry in ledger {
        committed.entry(entry.aggregate.clone()).or_default().push(event(entry));
    }
    let mut complaints = Vec::new();
    for key in arrived.keys().chain(committed.keys()).collect::<BTreeSet<_>>() {
        let nothing = Vec::new();
        let mut got = arrived.get(key).unwrap_or(&nothing).clone();
        let mut want = committed.get(key).unwrap_or(&nothing).clone();
        if key.is_none() {
            // Records without a key go to any partition: only their number and content are promised.
            got.sort();
            want.sort();
        }
        if got != want {
            complaints.push(difference(key, &got, &want));
        }
    }
    assert!(
        complaints.is_empty(),
        "{} records arrived, {} events were committed; {} keys differ:\n{}",
        records.len(),
        ledger.len(),
        complaints.len(),
        complaints[..complaints.len().min(10)].join("\n")
    );
}

/// For events that were rewritten on their way: what arrived of each is some of its versions in order, each at most once, and
/// the last version is among them. Returns how many events arrived in more than one version.
#[track_caller]
pub fn each_last_version(records: &[Record], ledger: &[Entry]) -> usize {
    headers(records);
    let mut arrived = by_key(records);
    let mut versions: BTreeMap<Key, Vec<Event>> = BTreeMap::new();
    for entry in ledger {
        versions.entry(entry.aggregate.clone()).or_default().push(event(entry));
    }
    let mut several = 0;
    for (key, versions) in versions {
        let got = arrived.remove(&key).unwrap_or_default();
        let places: Vec<Option<usize>> =
            got.iter().map(|one| versions.iter().position(|version| version == one)).collect();
        let rising = places.windows(2).all(|two| two[0] < two[1]);
        assert!(
            places.iter().all(Option::is_some) && rising && places.last() == Some(&Some(versions.len() - 1)),
            "{}: of {} versions arrived, by their number: {places:?}",
            show(key.as_deref()),
            versions.len()
        );
        several += usize::from(got.len() > 1);
    }
    assert!(
        arrived.is_empty(),
        "nobody committed an event of {:?}",
        arrived.keys().map(|k| show(k.as_deref())).collect::<Vec<_>>()
    );
    several
}

/// The message id is there and unique, and the aggregate id is the key.
#[track_caller]
fn headers(records: &[Record]) {
    let mut ids = HashSet::new();
    for record in records {
        let id = record.header("id");
        assert!(!id.is_empty() && id != b"NULL", "no message id: {:?}", String::from_utf8_lossy(&record.headers));
        let aggregate = record.header("aggregateId");
        let expected = record.key.as_deref().unwrap_or(b"NULL");
        // kcat prints a header's value only up to its first NUL.
        let printed = expected.split(|byte| *byte == 0).next().unwrap_or_default();
        assert_eq!(show(Some(&aggregate)), show(Some(printed)), "header aggregateId and key differ");
        assert!(
            ids.insert(id.clone()),
            "message id {} is there twice; the second is {}-{}",
            String::from_utf8_lossy(&id),
            record.partition,
            record.offset
        );
    }
}

#[track_caller]
fn by_key(records: &[Record]) -> BTreeMap<Key, Vec<Event>> {
    let mut partitions: HashMap<&[u8], u32> = HashMap::new();
    let mut arrived: BTreeMap<Key, Vec<Event>> = BTreeMap::new();
    for record in records {
        if let Some(key) = &record.key {
            let first = *partitions.entry(key).or_insert(record.partition);
            assert_eq!(first, record.partition, "{} is in two partitions", show(Some(key)));
        }
        arrived.entry(record.key.clone()).or_default().push((record.value.clone(), record.header("eventType")));
    }
    arrived
}

fn event(entry: &Entry) -> Event {
    (entry.payload.clone(), entry.event_type.clone().unwrap_or_else(|| b"NULL".to_vec()))
}

fn difference(key: &Key, got: &[Event], want: &[Event]) -> String {
    let mut balance: HashMap<&Event, (i64, i64)> = HashMap::new();
    for event in got {
        balance.entry(event).or_default().0 += 1;
    }
    for event in want {
        balance.entry(event).or_default().1 += 1;
    }
    let lost: i64 = balance.values().map(|(g, w)| (w - g).max(0)).sum();
    let doubled: i64 = balance.values().filter(|(_, w)| *w > 0).map(|(g, w)| (g - w).max(0)).sum();
    let invented: i64 = balance.values().filter(|(_, w)| *w == 0).map(|(g, _)| g).sum();
    let first = got.iter().zip(want).position(|(g, w)| g != w).unwrap_or_else(|| got.len().min(want.len()));
    format!(
        "  {}: {} arrived, {} committed: {lost} lost, {doubled} doubled, {invented} invented{}; first difference at {first}: \
         {} instead of {}",
        show(key.as_deref()),
        got.len(),
        want.len(),
        if lost + doubled + invented == 0 { ", out of order" } else { "" },
        show_event(got.get(first)),
        show_event(want.get(first)),
    )
}

fn show_event(event: Option<&Event>) -> String {
    event.map_or_else(
        || "nothing".to_owned(),
        |(payload, kind)| format!("{} of {}", show(payload.as_deref()), kind.escape_ascii()),
    )
}

fn show(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "NULL".to_owned(),
        Some(bytes) => {
            let text = bytes.escape_ascii().to_string();
            if text.len() > 120 {
                format!("\"{}...\" ({} bytes)", &text[..120], bytes.len())
            } else {
                format!("\"{text}\"")
            }
        }
    }
}
