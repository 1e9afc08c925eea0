//! A broker's listener and its connections: frames in, frames out, one request at a time per connection.
//!
//! It promises what a Kafka broker's socket server does: requests of a connection are answered in order, the next one is not read before;
//! oversized frames, unknown APIs and idleness close the connection; a frozen broker accepts and reads nothing. It does not know what a
//! request means.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::builder::Listener;
use crate::faults::{Fault, Strikes};
use crate::requests;
use crate::state::{Connection, Shared, State};

/// How long a restarted broker tries to get its port back.
const REBIND_LIMIT: Duration = Duration::from_secs(10);
/// Fatal handshake_failure as a TLS record.
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What is to be done after a request was looked at.
pub(crate) enum Reaction {
    /// The body of the answer (header included, no length), and what the script makes of it.
    Answer {
        correlation_id: i32,
        body: Bytes,
        strikes: Strikes,
    },
    /// Produce with acks=0.
    NoAnswer,
    Close,
    /// Keep the connection, never answer, never read.
    Hang,
}

/// Binds a port: 0 takes a free one, another is a restart on the same port.
pub(crate) fn bind(port: u16) -> TcpListener {
    let deadline = Instant::now() + REBIND_LIMIT;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => thread::yield_now(),
            Err(error) => panic!("can't listen on 127.0.0.1:{port}: {error}"),
        }
    }
}

/// Starts the thread that accepts. It ends, and the port is free, when the broker stops and someone connects once more.
pub(crate) fn listen(shared: &Arc<Shared>, broker: i32, listener: TcpListener) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    spawn(format!("fake-kafka-{broker}"), move || {
        for stream in listener.incoming() {
            if !shared.look().runs(broker) {
                return;
            }
            // A peer that is gone already.
            let Ok(stream) = stream else { continue };
            let Ok(twin) = stream.try_clone() else { continue };
            let opened = shared.change(|state| {
                state.runs(broker).then(|| {
                    state.connections_opened += 1;
                    let id = state.connections_opened;
                    state.connections.insert(id, Connection { broker, stream: twin });
                    id
                })
            });
            let Some(id) = opened else { return };
            let theirs = Arc::clone(&shared);
            let serve = move || {
                let mut client = Client { shared: &theirs, broker, id, stream };
                client.serve();
                theirs.change(|state| state.close_connection(id));
            };
            shared.keep(spawn(format!("fake-kafka-{broker}-{id}"), serve));
        }
    })
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name).spawn(work).expect("a thread can be started")
}

/// The connection ends; why does not matter to anyone.
struct Over;

struct Client<'a> {
    shared: &'a Shared,
    broker: i32,
    id: u64,
    stream: TcpStream,
}

impl Client<'_> {
    fn serve(&mut self) {
        let (idle_close, frame_max) =
            self.shared.change(|state| (state.settings.idle_close, state.settings.request_max_bytes));
        // Answers go out at once; a failure only costs time.
        let _ = self.stream.set_nodelay(true);
        let _ = self.stream.set_read_timeout(Some(idle_close));
        loop {
            let Ok(frame) = self.read_frame(frame_max) else { return };
            let reaction = requests::handle(self.shared, self.broker, self.id, frame);
            if self.react(reaction).is_err() {
                return;
            }
        }
    }

    /// Parks while the broker is frozen. An error when the connection is to end.
    fn wait_while_frozen(&self) -> Result<(), Over> {
        let (broker, id) = (self.broker, self.id);
        let over = |state: &State| !state.runs(broker) || !state.is_open(id);
        self.shared.wait_until(
            |state| {
                if over(state) { Some(Err(Over)) } else { (!state.frozen(broker)).then_some(Ok(())) }
            },
        )
    }

    fn read_frame(&mut self, frame_max: usize) -> Result<Bytes, Over> {
        // Looking does not consume: what arrives while the broker is frozen stays in the socket, even if the client is gone by then, and is
        // a late copy after the thaw.
        loop {
            self.wait_while_frozen()?;
            match self.stream.peek(&mut [0]) {
                Ok(0) => return Err(Over),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A frozen broker does not watch its idle connections either.
                Err(_) if self.shared.look().frozen(self.broker) => {}
                Err(_) => return Err(Over),
            }
        }
        self.wait_while_frozen()?;
        let listener = self.shared.look().brokers[&self.broker].listener;
        match listener {
            Listener::Plaintext | Listener::Sasl => {}
            Listener::Tls { alert } => return self.turn_away(if alert { &TLS_ALERT } else { &[] }),
            Listener::Http => return self.turn_away(HTTP_ANSWER),
        }
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let length = i32::from_be_bytes(length);
        match usize::try_from(length) {
            Ok(length) if length <= frame_max => {
                let mut frame = vec![0; length];
                self.read_exact(&mut frame)?;
                Ok(Bytes::from(frame))
            }
            _ => Err(Over),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), Over> {
        self.stream.read_exact(bytes).map_err(|_| Over)
    }

    /// Says `last_words` and ends. What came is read first, or the close would be a reset that overtakes them.
    fn turn_away(&mut self, last_words: &[u8]) -> Result<Bytes, Over> {
        let mut ignored = [0; 4_096];
        let _ = self.stream.read(&mut ignored);
        let _ = self.stream.write_all(last_words);
        Err(Over)
    }

    fn react(&mut self, reaction: Reaction) -> Result<(), Over> {
        match reaction {
            Reaction::Close => Err(Over),
            Reaction::NoAnswer => Ok(()),
            Reaction::Hang => self.hang(),
            Reaction::Answer { correlation_id, body, strikes } => self.answer(correlation_id, &body, &strikes),
        }
    }

    fn hang(&self) -> Result<(), Over> {
        let (broker, id) = (self.broker, self.id);
        self.shared.wait_until(|state| (!state.runs(broker) || !state.is_open(id)).then_some(()));
        Err(Over)
    }

    fn answer(&mut self, correlation_id: i32, body: &[u8], strikes: &Strikes) -> Result<(), Over> {
        let mut frame = BytesMut::with_capacity(body.len() + 8);
        let mut claimed_more = 0;
        let mut then_close = false;
        let mut then_hang = false;
        frame.put_slice(body);
        for fault in strikes.all() {
            match fault {
                Fault::WrongCorrelation => frame[..4].copy_from_slice(&correlation_id.wrapping_add(1).to_be_bytes()),
                Fault::Garbage => {
                    frame.truncate(4);
                    frame.put_bytes(0x7f, 64);
                }
                Fault::Leftovers => frame.put_bytes(0, 3),
                Fault::HugeLength => {
                    frame.truncate(8);
                    claimed_more = i32::MAX - frame.len() as i32;
                    then_hang = true;
                }
                Fault::CutAnswer => {
                    let keep = frame.len() / 2;
                    claimed_more = (frame.len() - keep) as i32;
                    frame.truncate(keep);
                    then_close = true;
                }
                Fault::AppendThenClose => return Err(Over),
                Fault::AppendThenHang => return self.hang(),
                _ => {}
            }
        }
        self.wait_while_frozen()?;
        let length = frame.len() as i32 + claimed_more;
        let mut out = BytesMut::with_capacity(frame.len() + 4);
        out.put_i32(length);
        out.put_slice(&frame);
        self.stream.write_all(&out).map_err(|_| Over)?;
        if then_close {
            return Err(Over);
        }
        if then_hang {
            return self.hang();
        }
        if let Some(time) = strikes.throttle() {
            let (broker, id) = (self.broker, self.id);
            let over = |state: &mut State| (!state.runs(broker) || !state.is_open(id)).then_some(());
            if self.shared.wait_for(time, over).is_some() {
                return Err(Over);
            }
        }
        Ok(())
    }
}
