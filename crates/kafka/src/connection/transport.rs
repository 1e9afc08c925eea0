//! The bytes of a connection, in the clear or in TLS.
//!
//! Promises: a call ends by its deadline; a send that fails has not handed the last byte to the kernel; a look at an idle connection
//! does not wait. Does not know: requests, answers.

use super::deadline::{Deadline, is_retryable};
use super::tls_stream::TlsStream;
use crate::error::Loss;
use rustix::net::RecvFlags;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};

/// A connected socket, and TLS around it if the listener wants that.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Transport {
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(tls) => tls.socket(),
        }
    }

    /// Hands all of it to the kernel. Any error means that the peer can't have the whole: in the clear the last byte is missing, in TLS
    /// the last record is, which is of no use to anybody in parts.
    pub(super) fn send(&mut self, slices: &mut [IoSlice<'_>], deadline: Deadline) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => write_all(stream, slices, deadline),
            Transport::Tls(tls) => tls.send(slices, deadline),
        }
    }

    /// Waits for some bytes. 0: the peer has closed.
    pub(super) fn read_some(&mut self, into: &mut [u8], deadline: Deadline) -> Result<usize, Loss> {
        match self {
            Transport::Plain(stream) => read_some(stream, into, deadline),
            Transport::Tls(tls) => tls.read_some(into, deadline),
        }
    }

    /// What a look at an idle connection says against sending anything.
    pub(super) fn idle_fault(&mut self) -> Option<io::Error> {
        match self {
            Transport::Plain(stream) => idle_fault(stream),
            Transport::Tls(tls) => tls.idle_fault(),
        }
    }

    /// Tells the peer now, not when the connection is dropped.
    pub(super) fn close(&mut self) {
        if let Transport::Tls(tls) = self {
            tls.say_goodbye();
        }
        // Fails if it is closed already.
        let _ = self.socket().shutdown(Shutdown::Both);
    }
}

pub(super) fn closed_idle() -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, "the broker closed the idle connection")
}

pub(super) fn unasked() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "bytes are there that nobody asked for")
}

pub(super) fn write_timeout() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the broker does not take the request's bytes")
}

fn write_all(mut stream: &TcpStream, mut slices: &mut [IoSlice<'_>], deadline: Deadline) -> io::Result<()> {
    // Skips empty slices at the front: a write of nothing would look like a closed connection.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        stream.set_write_timeout(Some(deadline.left().ok_or_else(write_timeout)?))?;
        match stream.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if is_retryable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_some(mut stream: &TcpStream, into: &mut [u8], deadline: Deadline) -> Result<usize, Loss> {
    loop {
        stream.set_read_timeout(Some(deadline.left().ok_or(Loss::Timeout)?)).map_err(Loss::Io)?;
        match stream.read(into) {
            Ok(count) => return Ok(count),
            Err(error) if is_retryable(&error) => {}
            Err(error) => return Err(Loss::Io(error)),
        }
    }
}

fn idle_fault(stream: &TcpStream) -> Option<io::Error> {
    let mut byte = [0u8; 1];
    loop {
        return match rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Some(closed_idle()),
            Ok(_) => Some(unasked()),
            Err(rustix::io::Errno::AGAIN) => None,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => Some(error.into()),
        };
    }
}
