//! What is in a topic, read by kcat: a client that shares no code with the daemon.
//!
//! Promises: keys and values byte for byte (framed by their lengths), checksums verified by the reader, NULL told from empty.
//! Does not know: what should be there.

use super::process::run;
use std::process::Command;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: u32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// The headers as kcat prints them: `name=value,...`, cut at the first NUL of a value.
    pub headers: Vec<u8>,
}

/// All records from the beginning to the present end, by partition and offset.
#[track_caller]
pub fn read(bootstrap: &str, topic: &str) -> Vec<Record> {
    let mut command = Command::new("kcat");
    command.args(["-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-q"]);
    command.args(["-X", "check.crcs=true", "-X", "fetch.message.max.bytes=10000000"]);
    command.args(["-f", "%p %o %T %K %S %h\\x1e\\n%k%s\\n"]);
    let mut records = parse(&run(command));
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

pub fn parse(mut text: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while !text.is_empty() {
        let end = text.windows(2).position(|two| two == b"\x1e\n").expect("a record's first line");
        let (line, mut rest) = (&text[..end], &text[end + 2..]);
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut number = || -> i64 { std::str::from_utf8(fields.next().unwrap()).unwrap().parse().unwrap() };
        let (partition, offset, timestamp, key, value) = (number(), number(), number(), number(), number());
        let headers = fields.next().unwrap().to_vec();
        let mut take = |length: i64| -> Option<Vec<u8>> {
            let (bytes, after) = rest.split_at(usize::try_from(length).ok()?);
            rest = after;
            Some(bytes.to_vec())
        };
        let (key, value) = (take(key), take(value));
        text = rest.strip_prefix(b"\n").expect("the end of a record");
        records.push(Record { partition: partition as u32, offset, timestamp, key, value, headers });
    }
    records
}

impl Record {
    /// The headers `id`, `eventType`, `aggregateId`, which the daemon writes in this order, and what the config adds.
    #[track_caller]
    pub fn header(&self, name: &str) -> Vec<u8> {
        const ORDER: [&[u8]; 3] = [b"id=", b",eventType=", b",aggregateId="];
        let mut starts = [0; 3];
        for (index, mark) in ORDER.iter().enumerate() {
            let from = if index == 0 { 0 } else { starts[index - 1] };
            let Some(at) = find(&self.headers[from..], mark) else {
                let headers = String::from_utf8_lossy(&self.headers);
                panic!("no {:?} in the headers {headers:?}", String::from_utf8_lossy(mark));
            };
            starts[index] = from + at + mark.len();
        }
        let all = &self.headers;
        match name {
            "id" => all[starts[0]..starts[1] - ORDER[1].len()].to_vec(),
            "eventType" => all[starts[1]..starts[2] - ORDER[2].len()].to_vec(),
            "aggregateId" => all[starts[2]..].to_vec(),
            other => panic!("no header {other} is looked for here"),
        }
    }
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}
