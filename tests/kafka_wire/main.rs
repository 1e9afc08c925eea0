//! The Kafka room seen from outside: against an independent codec, against peers that misbehave, on real brokers.

mod against_codec;
mod connection;
mod real;
mod samples;

/// The room could be published as a crate of its own.
#[test]
fn the_kafka_room_knows_nothing_of_the_house() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/kafka"))];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for outside in text.match_indices("crate::").map(|(at, _)| &text[at + "crate::".len()..]) {
                assert!(outside.starts_with("kafka"), "{}: crate::{:.20}", path.display(), outside);
            }
            assert!(!text.contains("rusqlite"), "{}", path.display());
        }
    }
    assert!(files > 15, "{files} files");
}
