//! The program: arguments in, exit code out. Nothing else ends the process, but a second signal (`daemon::signals`).

use std::process::ExitCode;

fn main() -> ExitCode {
    outboxd::cli::main(std::env::args_os())
}
