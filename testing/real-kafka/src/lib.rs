//! Real Apache Kafka for tests: a broker that tests share, or one of their own that they may hurt.
//!
//! `OUTBOXD_TEST_KAFKA="4.3.0=127.0.0.1:9092,3.9.1=127.0.0.1:9192"` names running brokers; what it does not name is started by
//! `scripts/kafka`, once per test process, and ends with it. `OUTBOXD_SKIP_KAFKA=1` skips, and says so.
//!
//! Promises: a broker ends with whoever started it, however that ends. Does not know: who asks.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A cluster of one node or three.
pub struct Broker {
    /// The version of Apache Kafka.
    pub version: String,
    /// `host:port,...`, in the order of the nodes 1, 2, 3.
    pub bootstrap: String,
    /// Of a broker of our own; `None` for one that was named by the environment.
    dir: Option<PathBuf>,
}

/// The broker of this version that all tests of this process use. `None`: skipped.
#[track_caller]
pub fn shared(version: &str) -> Option<Arc<Broker>> {
    static BROKERS: Mutex<Option<HashMap<String, Arc<Broker>>>> = Mutex::new(None);
    if skipped(version) {
        return None;
    }
    // A test that failed while it started one must not fail the others with a poisoned lock.
    let mut brokers = BROKERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let brokers = brokers.get_or_insert_default();
    if let Some(broker) = brokers.get(version) {
        return Some(Arc::clone(broker));
    }
    let broker = match named(version) {
        Some(bootstrap) => Broker { version: version.to_owned(), bootstrap, dir: None },
        None => start(version, 1, &[], None, false),
    };
    let broker = Arc::new(broker);
    brokers.insert(version.to_owned(), Arc::clone(&broker));
    Some(broker)
}

/// A broker, or three, of the test's own. `None`: skipped.
#[track_caller]
pub fn own(version: &str, nodes: u32, set: &[&str]) -> Option<Arc<Broker>> {
    if skipped(version) { None } else { Some(Arc::new(start(version, nodes, set, None, false))) }
}

/// The broker of this version with listeners for TLS and SASL that all tests of this process use. `None`: skipped.
#[track_caller]
pub fn secure(version: &str) -> Option<Arc<Broker>> {
    static BROKERS: Mutex<Option<HashMap<String, Arc<Broker>>>> = Mutex::new(None);
    if skipped(version) {
        return None;
    }
    let mut brokers = BROKERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let brokers = brokers.get_or_insert_default();
    let broker = brokers
        .entry(version.to_owned())
        .or_insert_with(|| Arc::new(start(version, 1, &["connections.max.reauth.ms=3000"], None, true)));
    Some(Arc::clone(broker))
}

fn skipped(version: &str) -> bool {
    let skip = std::env::var("OUTBOXD_SKIP_KAFKA").is_ok_and(|value| value == "1");
    if skip {
        // Past the test harness's capture: a skipped test must be seen.
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs Kafka {version} (OUTBOXD_SKIP_KAFKA=1)");
    }
    skip
}

fn named(version: &str) -> Option<String> {
    let all = std::env::var("OUTBOXD_TEST_KAFKA").ok()?;
    all.split(',').find_map(|one| one.trim().strip_prefix(version)?.strip_prefix('=').map(str::to_owned))
}

fn start(version: &str, nodes: u32, set: &[&str], port: Option<u16>, secure: bool) -> Broker {
    let dir = tempfile::Builder::new().prefix("outboxd-kafka-").tempdir().unwrap().keep();
    let mut command = script();
    command.args(["start", "--version", version, "--nodes", &nodes.to_string()]);
    command.arg("--dir").arg(&dir);
    // Statics are never dropped: the script's watcher ends and removes the broker with this process, however it ends.
    command.args(["--until-exit-of", &std::process::id().to_string()]);
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    for pair in set {
        command.args(["--set", pair]);
    }
    if secure {
        command.arg("--secure");
    }
    let output = command.output().unwrap_or_else(|error| panic!("scripts/kafka: {error}"));
    assert!(
        output.status.success(),
        "this test needs Apache Kafka {version}, and it could not be started (OUTBOXD_SKIP_KAFKA=1 skips such tests):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bootstrap = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    Broker { version: version.to_owned(), bootstrap, dir: Some(dir) }
}

/// Runs to the end and returns stdout; anything but success is a panic with both outputs.
#[track_caller]
fn run(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.trim().to_owned()
}

/// What a Java program of one class prints that has the jars of this version at hand. `None`: such tests are skipped.
pub fn java(version: &str, class: &str, source: &str) -> Option<String> {
    if skipped(version) {
        return None;
    }
    let mut libs = script();
    libs.args(["libs", "--version", version]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{class}.java"));
    std::fs::write(&path, source).unwrap();
    let mut java = Command::new("java");
    java.arg("-cp").arg(Path::new(&run(libs)).join("*")).arg(path);
    Some(run(java))
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka"))
}

impl Broker {
    /// Partitions led in turn by the nodes, each with all nodes as replicas.
    pub fn create_topic(&self, name: &str, partitions: u32, configs: &[&str]) {
        let mut command = script();
        command.args(["topic", "--bootstrap", &self.bootstrap, "--name", name]);
        let nodes = self.nodes();
        if nodes > 1 {
            let replicas = |first: u32| (0..nodes).map(|i| ((first + i) % nodes + 1).to_string()).collect::<Vec<_>>();
            let lists: Vec<String> = (0..partitions).map(|partition| replicas(partition).join(",")).collect();
            command.args(["--replicas", &lists.join(":")]);
        } else {
            command.args(["--partitions", &partitions.to_string()]);
        }
        for config in configs {
            command.args(["--config", config]);
        }
        run(command);
    }

    /// Where the listener of this name is (SSL, MTLS, SASLP, SASLS) of a broker that was started with them.
    pub fn listener(&self, name: &str) -> String {
        let all = self.control("listeners", &[]);
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no listener {name}: {all}")).to_owned()
    }

    /// A file of its certificates: ca.pem, client.pem, client.key.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir().join("tls").join(name)
    }

    /// The values of a topic's first records, in the order of its partitions, by Kafka's own console consumer.
    pub fn consume(&self, topic: &str, count: usize) -> Vec<String> {
        let mut command = script();
        command.args(["consume", "--version", &self.version, "--bootstrap", &self.bootstrap, "--name", topic]);
        command.args(["--count", &count.to_string()]);
        run(command).lines().map(str::to_owned).collect()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> u32 {
        self.bootstrap.split(',').count() as u32
    }

    /// The port of a node's listener.
    pub fn port(&self, node: u32) -> u16 {
        let server = self.bootstrap.split(',').nth(node as usize - 1).unwrap();
        server.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn dir(&self) -> &Path {
        self.dir.as_deref().expect("only a broker of one's own may be hurt")
    }

    fn control(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = script();
        command.arg(verb).arg("--dir").arg(self.dir()).args(arguments);
        run(command)
    }

    /// Another cluster of one node on the port of this one, which is gone.
    #[must_use]
    pub fn succeeded(&self) -> Broker {
        self.control("stop", &["--remove"]);
        start(&self.version, 1, &[], Some(self.port(1)), false)
    }

    /// Ends a node by kill -9, and waits until it is gone.
    pub fn kill(&self, node: u32) {
        self.control("kill", &["--node", &node.to_string()]);
    }

    /// Ends a node by SIGTERM: it hands its partitions over and leaves.
    pub fn shut_down(&self, node: u32) {
        self.control("kill", &["--gently", "--node", &node.to_string()]);
    }

    /// Starts a node that was killed or has left.
    pub fn restart(&self, node: u32) {
        self.control("restart", &["--node", &node.to_string()]);
    }

    /// The node stands still, and its connections stay.
    pub fn freeze(&self, node: u32) {
        self.control("freeze", &["--node", &node.to_string()]);
    }

    /// The node goes on.
    pub fn thaw(&self, node: u32) {
        self.control("thaw", &["--node", &node.to_string()]);
    }

    /// The leader of a partition and its in-sync replicas, as a living node tells it.
    pub fn leader(&self, topic: &str, partition: u32) -> (i32, Vec<i32>) {
        let text = self.control("leader", &["--name", topic, "--partition", &partition.to_string()]);
        let (leader, replicas) = text.split_once(' ').unwrap();
        (leader.parse().unwrap(), replicas.split(',').map(|one| one.parse().unwrap()).collect())
    }

    /// Bytes that lie unread in the sockets which clients have opened to a node: what a frozen broker was sent.
    pub fn unread_bytes(&self, node: u32) -> u64 {
        let port = format!(":{:04X}", self.port(node));
        let mut total = 0;
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                // Local address ends in our port, state 01 is ESTABLISHED; field 4 is tx_queue:rx_queue in hex.
                if fields.len() > 4 && fields[1].ends_with(&port) && fields[3] == "01" {
                    let (_, unread) = fields[4].split_once(':').unwrap();
                    total += u64::from_str_radix(unread, 16).unwrap();
                }
            }
        }
        total
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.dir.is_some() {
            let mut command = script();
            let _ = command.args(["stop", "--remove", "--dir"]).arg(self.dir()).output();
        }
    }
}
