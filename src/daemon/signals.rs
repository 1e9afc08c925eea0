//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process.
//!
//! Promises: registered before any other thread starts, so that none is lost. Does not know: what a drain is.

use crate::exit::FAILED;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
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
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (tell, told) = bounded(1);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            log::info!("{}", if signal == SIGTERM { "SIGTERM" } else { "SIGINT" });
            let _ = tell.try_send(());
        }
    })?;
    Ok(told)
}
