//! A writer whose first failure is told to the supervisor.
//!
//! Promises: passes everything on. Does not know: what is written.

use crossbeam_channel::Sender;
use std::io::{self, Write};

pub struct Reporting<W> {
    out: W,
    broken: Sender<io::Error>,
}

impl<W> Reporting<W> {
    /// `broken` has room for one.
    pub fn new(out: W, broken: Sender<io::Error>) -> Self {
        Reporting { out, broken }
    }

    fn report<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
        {
            let same = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            let _ = self.broken.try_send(same);
        }
        result
    }
}

impl<W: Write> Write for Reporting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.report(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.report(flushed)
    }
}
