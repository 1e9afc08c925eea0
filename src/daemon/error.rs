//! Why the daemon could not start or go on.
//!
//! Promises: an exit code and what to type next for each. Does not know: how it is printed.

use crate::exit::{CONFIGURATION, FAILED, HELD};
use crate::sink::kafka::StartError;
use crate::source::OpenError;
use crate::state::StateError;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{}: {plans} batches with {rows} rows are open in it, and --stdout keeps no plans", path.display())]
    OpenPlans { path: PathBuf, plans: usize, rows: usize },
    #[error("{}", without_hint(.0))]
    Source(OpenError),
    #[error("Kafka's producer can't be started")]
    Kafka(#[from] StartError),
    #[error("the address {address} of [http] listen can't be listened on")]
    Listen {
        address: String,
        #[source]
        error: io::Error,
    },
    #[error("{what} can't be started")]
    Thread {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("the records can't be written any more")]
    Output(#[source] io::Error),
    #[error("no random numbers for the run's id: {0}")]
    Random(getrandom::Error),
    #[error("the relay of {database} failed: {text}")]
    Relay { database: String, text: String },
}

/// The hint is told apart.
fn without_hint(error: &OpenError) -> String {
    match error {
        OpenError::NotAnOutbox { why, .. } | OpenError::Forbidden(why) | OpenError::Failed(why) => why.text.clone(),
        OpenError::LockedBy { .. } | OpenError::SameTable { .. } => error.to_string(),
    }
}

/// The name, the address or a permission is wrong, and stays so until somebody changes it. Everything else (a full disk, one that
/// was remounted for reading only, no descriptors, an address that is not up yet) may be over at the next try.
fn is_settled_by_people(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::AddrInUse
            | Kind::InvalidInput
            | Kind::InvalidFilename
            | Kind::IsADirectory
            | Kind::NotADirectory
            | Kind::NotFound
            | Kind::Other
            | Kind::PermissionDenied
    )
}

impl From<OpenError> for DaemonError {
    fn from(error: OpenError) -> Self {
        DaemonError::Source(error)
    }
}

impl DaemonError {
    /// What it says of the state file, if it is about that.
    pub fn state(&self) -> Option<&StateError> {
        match self {
            DaemonError::State(error) => Some(error),
            _ => None,
        }
    }

    /// The exit code: held by someone else, not usable as the config names it, or failed.
    pub fn code(&self) -> u8 {
        match self {
            DaemonError::Source(OpenError::LockedBy { .. }) | DaemonError::State(StateError::Locked { .. }) => HELD,
            // What may be over at the next try must not end in a code after which systemd makes none.
            DaemonError::State(StateError::Io { error, .. }) | DaemonError::Listen { error, .. } => {
                if is_settled_by_people(error) {
                    CONFIGURATION
                } else {
                    FAILED
                }
            }
            DaemonError::Source(OpenError::Failed(_))
            | DaemonError::State(StateError::Sqlite { .. } | StateError::Older { .. })
            | DaemonError::Kafka(StartError::Thread(_))
            | DaemonError::Thread { .. }
            | DaemonError::Output(_)
            | DaemonError::Random(_)
            | DaemonError::Relay { .. } => FAILED,
            DaemonError::OpenPlans { .. } | DaemonError::Source(_) | DaemonError::Kafka(_) | DaemonError::State(_) => {
                CONFIGURATION
            }
        }
    }

    pub fn hint(&self) -> String {
        match self {
            DaemonError::State(error) => error.hint(),
            DaemonError::OpenPlans { .. } => "run once with Kafka, so that what was in flight is settled: leave out --stdout and \
                                              name the --bootstrap-servers"
                .into(),
            DaemonError::Source(OpenError::LockedBy { pid: Some(pid), .. }) => {
                format!("let it do the work, or stop it first: kill {pid} (it drains)")
            }
            DaemonError::Source(OpenError::LockedBy { path, pid: None }) => format!("see who holds it: fuser {path}"),
            DaemonError::Source(
                OpenError::NotAnOutbox { why, .. } | OpenError::Forbidden(why) | OpenError::Failed(why),
            ) => why.hint.clone(),
            DaemonError::Source(OpenError::SameTable { .. }) => "remove one of the two: a row goes to one topic".into(),
            DaemonError::Kafka(StartError::Security(error)) => error.hint().to_owned(),
            DaemonError::Kafka(_) => "correct it under [kafka] in the config, or in --bootstrap-servers".into(),
            DaemonError::Listen { address, .. } => {
                let port = address.rsplit_once(':').map_or(address.as_str(), |(_, port)| port);
                format!(
                    "see who has it: ss -ltnp 'sport = :{port}'; or choose another under [http]: listen = \"127.0.0.1:9465\""
                )
            }
            DaemonError::Thread { .. } => "see the limit on processes and threads: ulimit -u".into(),
            DaemonError::Relay { .. } => {
                "nothing was lost: the rows are in their tables; this is a bug in outboxd, please report the lines above".into()
            }
            DaemonError::Output(_) => "the rest stays in the table; start it again with a reader that stays".into(),
            DaemonError::Random(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Why;
    use rustix::io::Errno;

    /// systemd doesn't start it again after 2.
    #[test]
    fn weather_at_the_start_is_tried_again() {
        let code = |errno: Errno| {
            let state = |error| StateError::Io { path: "/state.db".into(), doing: "opened", error };
            let listen = |error| DaemonError::Listen { address: "10.0.0.1:9464".into(), error };
            let codes = [DaemonError::State(state(errno.into())).code(), listen(errno.into()).code()];
            assert_eq!(codes[0], codes[1], "{errno}");
            codes[0]
        };
        for weather in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::FBIG,
            Errno::ROFS,
            Errno::IO,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            assert_eq!(code(weather), FAILED, "{weather}");
        }
        for mistake in [Errno::ACCESS, Errno::PERM, Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::ADDRINUSE] {
            assert_eq!(code(mistake), CONFIGURATION, "{mistake}");
        }
        assert_eq!(DaemonError::Source(OpenError::Failed(Why::new("disk I/O error"))).code(), FAILED);
        assert_eq!(DaemonError::Source(OpenError::Forbidden(Why::new("no right"))).code(), CONFIGURATION);
    }
}
