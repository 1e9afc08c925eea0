//! The demo's end of the line without Kafka: each record that arrives is printed and counted.
//!
//! Promises: whole lines only. Does not know: what is in them.

use crossbeam_channel::Sender;
use std::io::{self, Write};

/// A writer for the stdout sink.
pub struct PacketPrinter {
    line: Vec<u8>,
    arrived: Sender<()>,
}

impl PacketPrinter {
    pub fn new(arrived: Sender<()>) -> Self {
        PacketPrinter { line: Vec::new(), arrived }
    }
}

impl Write for PacketPrinter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                let mut out = io::stdout().lock();
                out.write_all(b"Received packet: ")?;
                out.write_all(&self.line)?;
                self.line.clear();
                let _ = self.arrived.send(());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
