//! The command line: words in, one command called, an exit code out.
//!
//! Promises: whatever fails is told as Error, Caused by and Hint on stderr. Does not know: how anything works.

use crate::commands::{self, CommandError};
use crate::exit::CONFIGURATION;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Relays events from an application's SQLite outbox to Apache Kafka.
#[derive(Debug, Parser)]
#[command(name = "outboxd", version, about, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay events until SIGTERM or SIGINT, then drain
    Run(RunArgs),
    /// See and settle what is in quarantine: rows that can't be published, or not be deleted
    Dead(DeadArgs),
    /// Show the whole way on a throw-away database
    Demo(DemoArgs),
    /// The application of the demo, in a process of its own
    #[command(hide = true)]
    DemoApplication(ApplicationArgs),
}

/// Where the outbox is and where its events go: a config file, or one outbox in flags.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The config file [default: /etc/outboxd/config.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["database", "table", "topic", "bootstrap_servers", "state"])]
    pub config: Option<PathBuf>,

    /// The application's SQLite file
    #[arg(long, value_name = "FILE", requires_all = ["table", "topic"])]
    pub database: Option<PathBuf>,

    /// The outbox table
    #[arg(long, requires = "database")]
    pub table: Option<String>,

    /// The topic, or a template over columns, such as users.{eventType}
    #[arg(long, requires = "database")]
    pub topic: Option<String>,

    /// Kafka's brokers to start from, separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "database", conflicts_with = "stdout")]
    pub bootstrap_servers: Vec<String>,

    #[command(flatten)]
    pub security: SecurityArgs,

    /// outboxd's own file [default: the database's path with -outboxd added]
    #[arg(long, value_name = "FILE", requires = "database")]
    pub state: Option<PathBuf>,

    /// Print each record as one line of JSON instead of sending it, and delete its row
    #[arg(long)]
    pub stdout: bool,

    /// Only print what is waiting: send nothing, delete nothing, lock nothing
    #[arg(long, conflicts_with = "stdout")]
    pub dry_run: bool,
}

/// How Kafka is connected to, and as whom.
#[derive(Clone, Debug, Args)]
pub struct SecurityArgs {
    /// How to connect: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL [default: PLAINTEXT]
    #[arg(long, value_name = "PROTOCOL", requires = "bootstrap_servers")]
    pub security_protocol: Option<String>,

    /// The certificates of the brokers' authority, in PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE", requires = "bootstrap_servers")]
    pub ca: Option<String>,

    /// How to say who we are: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, value_name = "MECHANISM", requires = "bootstrap_servers")]
    pub sasl_mechanism: Option<String>,

    /// Who we are
    #[arg(long, value_name = "NAME", requires = "bootstrap_servers")]
    pub username: Option<String>,

    /// The file with the password, or the name of one of systemd's credentials
    #[arg(long, value_name = "FILE", requires = "bootstrap_servers")]
    pub password_file: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    pub command: DeadCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub enum DeadCommand {
    /// List the rows in quarantine
    List(DeadListArgs),
    /// Show one, and the row as it is now
    Show(DeadShowArgs),
    /// Send rows again; one that was published and could not be deleted is only deleted
    Retry(DeadChooseArgs),
    /// Delete rows unsent, if they are still what was quarantined
    Discard(DeadChooseArgs),
}

/// Where the state file is: by the config, by the flags of `run`, or by itself.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// The config file [default: /etc/outboxd/config.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["database", "table"])]
    pub config: Option<PathBuf>,

    /// The application's SQLite file, when outboxd runs without a config
    #[arg(long, value_name = "FILE", requires = "table")]
    pub database: Option<PathBuf>,

    /// The outbox table
    #[arg(long, requires = "database")]
    pub table: Option<String>,

    /// outboxd's own file; enough by itself to list, to show, and to ask a running outboxd
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct DeadListArgs {
    /// Of this outbox only: its name in the config, or its table
    #[arg(long, value_name = "NAME")]
    pub outbox: Option<String>,

    /// As JSON, one line for each row
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub place: StateArgs,
}

#[derive(Clone, Debug, Args)]
pub struct DeadShowArgs {
    #[arg(value_name = "ROWID", allow_negative_numbers = true)]
    pub rowid: i64,

    /// Of this outbox: its name in the config, or its table
    #[arg(long, value_name = "NAME")]
    pub outbox: Option<String>,

    #[command(flatten)]
    pub place: StateArgs,
}

#[derive(Clone, Debug, Args)]
pub struct DeadChooseArgs {
    #[arg(value_name = "ROWID", allow_negative_numbers = true, required_unless_present = "all")]
    pub rowids: Vec<i64>,

    /// Every row in quarantine, or every one of --outbox
    #[arg(long, conflicts_with = "rowids")]
    pub all: bool,

    /// Of this outbox: its name in the config, or its table
    #[arg(long, value_name = "NAME")]
    pub outbox: Option<String>,

    #[command(flatten)]
    pub place: StateArgs,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Relay through this Kafka and read the records back; without it they go to stdout
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub bootstrap_servers: Vec<String>,

    #[command(flatten)]
    pub security: SecurityArgs,

    /// The topic; made if it is not there
    #[arg(long, default_value = "outboxd-demo", requires = "bootstrap_servers")]
    pub topic: String,
}

#[derive(Clone, Debug, Args)]
pub struct ApplicationArgs {
    #[arg(long)]
    pub database: PathBuf,
    /// How many users sign up
    #[arg(long)]
    pub users: u32,
}

/// Runs what the arguments say.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" of clap's with exit code 0.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { CONFIGURATION } else { 0 });
        }
    };
    crate::telemetry::logging::start();
    let result = match cli.command {
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Dead(arguments) => commands::dead::run(&arguments),
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::DemoApplication(arguments) => commands::demo::application(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::telemetry::logging::report(&error.report());
            ExitCode::from(error.code)
        }
    }
}

impl CommandError {
    /// Error, what caused it, and what to type next.
    fn report(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("Error: {}\n", self.error);
        let mut source = self.error.source();
        while let Some(cause) = source {
            let _ = writeln!(text, "Caused by: {cause}");
            source = cause.source();
        }
        if !self.hint.is_empty() {
            let _ = writeln!(text, "Hint: {}", self.hint);
        }
        text
    }
}
