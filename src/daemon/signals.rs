//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process. Others: none of them ends it without a word.
//!
//! Promises: registered before any other thread starts, so that none is lost. Does not know: what a drain is.

use crate::exit::FAILED;
use crate::source;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The channel that the first signal is told on.
pub fn install() -> io::Result<Receiver<()>> {
    let once = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The order matters: while the flag is not set this does nothing, and the next line sets it. It ends the process inside
        // the handler, so that a second signal works however stuck our threads are.
        flag::register_conditional_shutdown(signal, i32::from(FAILED), Arc::clone(&once))?;
        flag::register(signal, Arc::clone(&once))?;
    }
    // A file that may not grow any more is an error of the write then (EFBIG), as on a full disk; by default it kills.
    flag::register(SIGXFSZ, Arc::default())?;
    source::name_cause_of_sigbus()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (tell, told) = bounded(1);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                // Many send it to make a daemon read its config again. One that drained would stay down: exit 0 is no failure.
                log::warn!("SIGHUP is ignored: the config is read at the start only; SIGTERM drains");
                continue;
            }
            log::info!("{}", if signal == SIGTERM { "SIGTERM" } else { "SIGINT" });
            let _ = tell.try_send(());
        }
    })?;
    Ok(told)
}
