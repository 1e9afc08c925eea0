//! What a config file is read as, and what is wrong with one.

mod security;

use super::*;
use outboxd_kafka::compression::Settings;
use outboxd_kafka::security::{Mechanism, SaslSettings, SecretSource, SecurityProtocol, TlsSettings};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("c.toml"), text, true)
}

/// A whole error as people read it.
fn error(text: &str) -> String {
    let error = parse(text).expect_err("this must not be accepted");
    format!("{error}\nHint: {}", error.hint)
}

const MINIMAL: &str = r#"[[outbox]]
database = "/nowhere/db.sqlite"
table = "users_outbox"
topic = "users"
[kafka]
bootstrap_servers = ["localhost:9092"]
"#;

fn with(line: &str) -> String {
    MINIMAL.replace("[kafka]", &format!("{line}\n[kafka]"))
}

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Removes the `#` of every line that shows a default.
fn uncommented() -> String {
    EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_example_is_the_defaults_with_and_without_its_comments() {
    let mut minimal = parse(MINIMAL).unwrap();
    minimal.outboxes[0].database = "/var/lib/app/db.sqlite".into();
    assert_eq!(parse(EXAMPLE).unwrap(), minimal);
    assert_eq!(parse(&uncommented()).unwrap(), minimal);
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    let table: toml::Table = uncommented().parse().unwrap();
    let keys = |value: &toml::Value| value.as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    for (section, known) in KEYS {
        let shown = match *section {
            "" => table.keys().cloned().collect(),
            "outbox" => keys(&table["outbox"][0]),
            "outbox.columns" => keys(&table["outbox"][0]["columns"]),
            other => keys(&table[other]),
        };
        let mut known: Vec<_> = known.iter().map(|key| (*key).to_owned()).collect();
        known.sort();
        assert_eq!(shown, known, "section [{section}]");
    }
}

fn minimal_flags() -> Flags {
    Flags {
        database: "/nowhere/db.sqlite".into(),
        table: "users_outbox".into(),
        topic: "users".into(),
        bootstrap_servers: vec!["localhost:9092".into()],
        ..Flags::default()
    }
}

#[test]
fn flags_and_file_build_the_same_config() {
    assert_eq!(Config::from_flags(&minimal_flags(), true).unwrap(), parse(MINIMAL).unwrap());
    let flags = Flags {
        security: SecurityFlags {
            security_protocol: Some("SASL_SSL".into()),
            ca: Some("/ca.pem".into()),
            sasl_mechanism: Some("SCRAM-SHA-256".into()),
            username: Some("u".into()),
            password_file: Some("/p".into()),
        },
        ..minimal_flags()
    };
    let file = format!("{MINIMAL}{}ssl_ca_location = \"/ca.pem\"\nsasl_password_file = \"/p\"", security::SCRAM);
    assert_eq!(Config::from_flags(&flags, true).unwrap(), parse(&file).unwrap());
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
[[outbox]]
database = "/nowhere/a"
table = "events"
topic = "t.{kind}.{tenant}"
topics_max = 7
name = "n"
durability = "commit"
bookkeeping = "table"
foreign_keys = true
secure_delete = true
max_attempts = 100
[outbox.columns]
id = "i"
aggregate_id = "a"
event_type = "e"
payload = "p"
key = "k"
event_id = "u"
[outbox.headers]
tenant = "tenant_id"
[kafka]
bootstrap_servers = ["a:1", "[::1]:2"]
client_id = "c"
max_request_size = 2048
compression_type = "zstd"
compression_zstd_level = -7
request_timeout_ms = 1
retry_backoff_ms = 2
retry_backoff_max_ms = 3
reconnect_backoff_ms = 4
reconnect_backoff_max_ms = 5
metadata_max_age_ms = 6
connections_max_idle_ms = 7
socket_connection_setup_timeout_ms = 8
senders_per_broker = 9
security_protocol = "SASL_SSL"
ssl_ca_location = "/ca"
ssl_certificate_location = "/c"
ssl_key_location = "/k"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "u"
sasl_password_file = "/p"
[state]
path = "/s"
[daemon]
drain_timeout_ms = 0
[http]
listen = "127.0.0.1:0"
"#,
    )
    .unwrap();
    let ms = Duration::from_millis;
    let expected = Config {
        outboxes: vec![Outbox {
            database: "/nowhere/a".into(),
            table: "events".into(),
            topic: TopicTemplate::parse("t.{kind}.{tenant}").unwrap(),
            topics_max: 7,
            name: "n".into(),
            durability: Durability::Commit,
            bookkeeping: Bookkeeping::Table,
            foreign_keys: true,
            secure_delete: true,
            max_attempts: 100,
            columns: Columns {
                id: "i".into(),
                aggregate_id: "a".into(),
                event_type: "e".into(),
                payload: "p".into(),
                key: "k".into(),
                event_id: Some("u".into()),
            },
            headers: vec![("tenant".into(), "tenant_id".into())],
        }],
        kafka: Kafka {
            bootstrap_servers: vec!["a:1".into(), "[::1]:2".into()],
            client_id: "c".into(),
            max_request_size: 2048,
            compression: Settings { compression: Compression::Zstd, zstd_level: -7, ..Settings::default() },
            request_timeout: ms(1),
            retry_backoff: ms(2),
            retry_backoff_max: ms(3),
            reconnect_backoff: ms(4),
            reconnect_backoff_max: ms(5),
            metadata_max_age: ms(6),
            connections_max_idle: ms(7),
            socket_connection_setup_timeout: ms(8),
            senders_per_broker: 9,
            security: SecuritySettings {
                protocol: SecurityProtocol::SaslSsl,
                tls: TlsSettings { ca: Some("/ca".into()), certificate: Some("/c".into()), key: Some("/k".into()) },
                sasl: Some(SaslSettings {
                    mechanism: Mechanism::ScramSha512,
                    username: "u".into(),
                    secret: SecretSource::File("/p".into()),
                    extensions: Vec::new(),
                }),
            },
        },
        state: State { path: Some("/s".into()) },
        daemon: Daemon { drain_timeout: ms(0) },
        http: Http { listen: Some("127.0.0.1:0".into()) },
    };
    assert_eq!(config, expected);
}

#[test]
fn a_template_has_parts_and_columns() {
    let template = TopicTemplate::parse("users.{eventType}-{ä b}").unwrap();
    assert_eq!(
        template.parts(),
        [
            Part::Literal("users.".into()),
            Part::Column("eventType".into()),
            Part::Literal("-".into()),
            Part::Column("ä b".into())
        ]
    );
    assert_eq!(template.columns().collect::<Vec<_>>(), ["eventType", "ä b"]);
    assert_eq!(template.literal(), None);
    assert_eq!(TopicTemplate::parse("users").unwrap().literal(), Some("users"));
    assert!(TopicTemplate::parse(&"x".repeat(249)).is_ok());
    for wrong in ["", ".", "..", "a b", "{", "a{b", "a}", "{}", "ü", "{{x}}", "{a}/", &"x".repeat(250)] {
        assert!(TopicTemplate::parse(wrong).is_err(), "{wrong:?} was accepted");
    }
}

#[test]
fn the_key_follows_the_aggregate_id_column() {
    let config = parse(&with("[outbox.columns]\naggregate_id = \"user_id\"")).unwrap();
    assert_eq!(config.outboxes[0].columns.key, "user_id");
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_eq!(error(&with("tabel = 1")), "c.toml:5: outbox.tabel: unknown key\nHint: did you mean `table`?");
    assert_eq!(
        error(&format!("{MINIMAL}bootstrap.servers = 1")),
        "c.toml:7: kafka.bootstrap: unknown key\nHint: did you mean `bootstrap_servers`?"
    );
    assert_eq!(error(&format!("{MINIMAL}[deamon]\n")), "c.toml:7: deamon: unknown key\nHint: did you mean `daemon`?");
    assert_eq!(
        error(&format!("{MINIMAL}[http]\nport = 1")),
        "c.toml:8: http.port: unknown key\nHint: known here: listen"
    );
    assert_eq!(
        error(&with("book_keeping = \"table\"")),
        "c.toml:5: outbox.book_keeping: unknown key\nHint: did you mean `bookkeeping`?"
    );
}

#[test]
fn wrong_types_say_what_to_write() {
    assert_eq!(
        error(&with("name = 7")),
        "c.toml:5: outbox.name: text is wanted here, not an integer\nHint: write: name = \"7\""
    );
    assert_eq!(
        error(&with("foreign_keys = \"no\"")),
        "c.toml:5: outbox.foreign_keys: true or false is wanted here, not a string\nHint: write: foreign_keys = true"
    );
    assert_eq!(
        error(&format!("{MINIMAL}senders_per_broker = \"2\"")),
        "c.toml:7: kafka.senders_per_broker: a whole number is wanted here, not a string\nHint: write: senders_per_broker = 2"
    );
    assert_eq!(
        error(&format!("{MINIMAL}senders_per_broker = 0")),
        "c.toml:7: kafka.senders_per_broker: 0 is out of range: 1 to 64 is possible\nHint: the default is: senders_per_broker = 2"
    );
    assert_eq!(
        error(&format!("{MINIMAL}request_timeout_ms = -0x1")).lines().count(),
        2,
        "a number TOML itself refuses is an error too"
    );
    assert_eq!(
        error(&MINIMAL.replace("[\"localhost:9092\"]", "\"localhost:9092\"")),
        "c.toml:6: kafka.bootstrap_servers: a list of texts is wanted here, not a string\nHint: write: bootstrap_servers = [\"localhost:9092\"]"
    );
    assert_eq!(
        error(&MINIMAL.replace("[[outbox]]", "[outbox]")),
        "c.toml:1: outbox: there can be several of these, so its brackets are double\nHint: write [[outbox]] instead of [outbox]"
    );
    assert_eq!(
        error("outbox = 3"),
        "c.toml:1: outbox: a section is wanted here, not an integer\nHint: write a line [[outbox]] and its keys below it"
    );
    assert_eq!(
        error(&with("durability = \"fast\"")),
        "c.toml:5: outbox.durability: `fast` is no kind of durability\nHint: write \"power-loss\" (an event is published once its commit is on disk) or \"commit\" (once it is visible)"
    );
    assert_eq!(
        error(&with("bookkeeping = \"yes\"")),
        "c.toml:5: outbox.bookkeeping: `yes` is no kind of bookkeeping\nHint: write \"none\" or \"table\" (each delete is booked in a table _outboxd of the same database)"
    );
    assert_eq!(
        error(&with("bookkeeping = true")),
        "c.toml:5: outbox.bookkeeping: text is wanted here, not a boolean\nHint: write: bookkeeping = \"true\""
    );
    for wrong in ["0", "101", "-1"] {
        assert_eq!(
            error(&with(&format!("max_attempts = {wrong}"))),
            format!(
                "c.toml:5: outbox.max_attempts: {wrong} is out of range: 1 to 100 is possible\nHint: the default is: max_attempts = 1"
            )
        );
    }
}

#[test]
fn codecs_and_their_levels_fit_together() {
    let of = |lines: &str| error(&format!("{MINIMAL}{lines}"));
    for (wrong, hint) in [
        ("ZSTD", "did you mean: compression_type = \"zstd\"?"),
        ("zst", "did you mean: compression_type = \"zstd\"?"),
        ("gz", "did you mean: compression_type = \"gzip\"?"),
        ("lz5", "did you mean: compression_type = \"lz4\"?"),
        ("brotli", "write one of \"none\", \"gzip\", \"snappy\", \"lz4\", \"zstd\""),
        ("", "write one of \"none\", \"gzip\", \"snappy\", \"lz4\", \"zstd\""),
    ] {
        assert_eq!(
            of(&format!("compression_type = \"{wrong}\"")),
            format!("c.toml:7: kafka.compression_type: `{wrong}` is no compression type of Kafka's\nHint: {hint}")
        );
    }
    for (codec, level, range, default) in [
        ("zstd", "99", "-7 to 22", 3),
        ("zstd", "-8", "-7 to 22", 3),
        ("gzip", "0", "1 to 9", 6),
        ("gzip", "10", "1 to 9", 6),
    ] {
        let key = format!("compression_{codec}_level");
        assert_eq!(
            of(&format!("compression_type = \"{codec}\"\n{key} = {level}")),
            format!(
                "c.toml:8: kafka.{key}: {level} is out of range: {range} is possible\nHint: the default is: {key} = {default}"
            )
        );
    }
    for (compression, codec, level) in
        [("lz4", "zstd", 3), ("gzip", "zstd", 1), ("snappy", "gzip", 6), ("none", "gzip", 9)]
    {
        assert_eq!(
            of(&format!("compression_type = \"{compression}\"\ncompression_{codec}_level = {level}")),
            format!(
                "c.toml:8: kafka.compression_{codec}_level: this is a level of {codec}, and compression_type is \"{compression}\"\n\
                 Hint: remove the line, or write: compression_type = \"{codec}\""
            )
        );
    }
    let zstd = parse(&format!("{MINIMAL}compression_type = \"zstd\"\ncompression_zstd_level = 22")).unwrap().kafka;
    assert_eq!(zstd.compression, Settings { compression: Compression::Zstd, zstd_level: 22, ..Settings::default() });
}

#[test]
fn max_request_size_counts_what_is_sent() {
    let of = |lines: &str| parse(&format!("{MINIMAL}{lines}")).unwrap().kafka.record_bytes_max();
    assert_eq!(of("max_request_size = 2048"), 2_048);
    assert_eq!(of("max_request_size = 2048\ncompression_type = \"lz4\""), 64 << 20);
    assert_eq!(of("max_request_size = 100000000\ncompression_type = \"lz4\""), 100_000_000);
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        error(&MINIMAL.replace("table = \"users_outbox\"\n", "")),
        "c.toml:1: outbox.table: this key is missing\nHint: add: table = \"users_outbox\""
    );
    assert_eq!(
        error(MINIMAL.split("[kafka]").next().unwrap()),
        "c.toml: kafka.bootstrap_servers: this key is missing\nHint: add under a line [kafka]: bootstrap_servers = [\"localhost:9092\"]"
    );
    assert_eq!(
        error(""),
        "c.toml: outbox: there is no outbox to relay\nHint: add a line [[outbox]], and below it: database = \"/path/to/db.sqlite\", table = \"users_outbox\", topic = \"users\""
    );
    assert!(error("[[outbox]").starts_with("c.toml:1: this is not TOML: "));
}

#[test]
fn topics_are_judged_by_kafkas_rule() {
    let hint = "\nHint: a topic is 1 to 249 of the characters a-z A-Z 0-9 . _ - and may contain columns, for example: topic = \"users.{eventType}\"";
    let of = |topic: &str| error(&MINIMAL.replace("\"users\"", &format!("\"{topic}\"")));
    assert_eq!(of(""), format!("c.toml:4: outbox.topic: a topic's name can't be empty{hint}"));
    assert_eq!(
        of("my users"),
        format!("c.toml:4: outbox.topic: `my users` has ' ' in it, which Kafka does not allow in a topic's name{hint}")
    );
    assert_eq!(
        of("users.{kind"),
        format!("c.toml:4: outbox.topic: `users.{{kind` opens a brace and never closes it{hint}")
    );
}

#[test]
fn addresses_need_a_port() {
    let of = |server: &str| error(&MINIMAL.replace("localhost:9092", server));
    assert_eq!(
        of("kafka1"),
        "c.toml:6: kafka.bootstrap_servers: `kafka1` has no port\nHint: write host and port, for example \"kafka1:9092\""
    );
    assert_eq!(
        of("kafka1:http"),
        "c.toml:6: kafka.bootstrap_servers: `http` is not a port: 1 to 65535 is possible\nHint: write host and port, for example \"kafka1:9092\""
    );
    assert_eq!(
        of("kafka://k:9092"),
        "c.toml:6: kafka.bootstrap_servers: `kafka://k:9092` is a URL, not an address\nHint: leave out `kafka://`: \"k:9092\""
    );
    assert_eq!(
        of("a:9092,b:9093, c:9094"),
        "c.toml:6: kafka.bootstrap_servers: `a:9092,b:9093, c:9094` are several addresses in one text\nHint: write each for itself: \"a:9092\", \"b:9093\", \"c:9094\""
    );
    for wrong in ["", ":9092", "k:0", "k:65536", "::1:9092", "a,b:9092"] {
        assert!(of(wrong).contains("bootstrap_servers"), "{wrong}");
    }
}

#[test]
fn other_spellings_of_a_database_are_named() {
    for (written, plain) in [
        ("sqlite:///app.db", "app.db"),
        ("sqlite:////srv/app.db", "/srv/app.db"),
        ("sqlite:app.db", "app.db"),
        ("sqlite3:db/app.db", "db/app.db"),
        ("jdbc:sqlite:/srv/app.db", "/srv/app.db"),
        ("file:app.db?mode=rw", "app.db"),
        ("file:///srv/app.db", "/srv/app.db"),
        ("file:", "/var/lib/app/db.sqlite"),
    ] {
        let place = Place::Flag("--database");
        let error = file::database(Path::new(written), &place).expect_err(written);
        assert_eq!(error.hint, format!("write the file's path alone: \"{plain}\""));
        assert!(error.text.contains(written), "{}", error.text);
    }
    for path in ["app.db", "/srv/files:1/app.db", "sqlite/app.db"] {
        assert!(file::database(Path::new(path), &Place::Flag("--database")).is_ok(), "{path}");
    }
}

#[test]
fn headers_cannot_hide_our_own() {
    assert_eq!(
        error(&with("[outbox.headers]\neventType = \"kind\"")),
        "c.toml:6: outbox.headers.eventType: every record has this header already\nHint: choose another name, for example: app_eventType = \"kind\""
    );
}

fn two(first: (&Path, &str), second: (&Path, &str), more: &str) -> String {
    format!(
        "[[outbox]]\ndatabase = {:?}\ntable = {:?}\ntopic = \"a\"\n[[outbox]]\ndatabase = {:?}\ntable = {:?}\ntopic = \"b\"\n{more}\n[kafka]\nbootstrap_servers = [\"k:1\"]",
        first.0, first.1, second.0, second.1
    )
}

#[test]
fn one_table_is_relayed_once_whatever_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("db"), folder.path().join("link"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let text = two((&real, "t"), (&link, "T"), "");
    let expected = format!(
        "c.toml: outbox[2].table: `T` of {link} is already relayed by outbox[1] ({link} and {real} are one file)\nHint: remove one of the two: a row goes to one topic",
        link = link.display(),
        real = real.display()
    );
    assert_eq!(error(&text), expected, "before the file exists");
    std::fs::write(&real, "").unwrap();
    assert_eq!(error(&text), expected, "when it exists");
    let hard = folder.path().join("hard");
    std::fs::hard_link(&real, &hard).unwrap();
    assert!(error(&two((&real, "t"), (&hard, "t"), "")).contains("already relayed"));

    let config = parse(&two((&real, "t"), (&link, "u"), "")).unwrap();
    let databases = config.databases();
    assert_eq!(databases.len(), 1);
    assert_eq!(databases[0].path, real);
    assert_eq!(databases[0].outboxes.len(), 2);
    let config = parse(&two((&real, "t"), (&folder.path().join("other"), "t"), "")).unwrap();
    assert_eq!(config.databases().len(), 2);
}

#[test]
fn settings_of_one_connection_agree() {
    let (a, b) = (Path::new("/nowhere/db"), Path::new("/nowhere/./db"));
    assert_eq!(
        error(&two((a, "t"), (b, "u"), "durability = \"commit\"")),
        "c.toml: outbox[2].durability: it is \"commit\" here and \"power-loss\" in outbox[1], but one connection serves all outboxes of /nowhere/db\nHint: write the same in both: durability = \"power-loss\""
    );
    assert!(parse(&two((a, "t"), (Path::new("/nowhere/db2"), "u"), "durability = \"commit\"")).is_ok());
    assert_eq!(
        error(&two((a, "t"), (b, "u"), "bookkeeping = \"table\"")),
        "c.toml: outbox[2].bookkeeping: it is \"table\" here and \"none\" in outbox[1], but one connection serves all outboxes of /nowhere/db\nHint: write the same in both: bookkeeping = \"none\""
    );
    let config = parse(&two((a, "t"), (b, "u"), "max_attempts = 7")).unwrap();
    let attempts: Vec<_> = config.databases()[0].outboxes.iter().map(|outbox| outbox.max_attempts).collect();
    assert_eq!(attempts, [1, 7], "each outbox has its own");
    let both = two((a, "t"), (b, "u"), "bookkeeping = \"table\"").replacen(
        "topic = \"a\"",
        "topic = \"a\"\nbookkeeping = \"table\"",
        1,
    );
    assert_eq!(parse(&both).unwrap().databases()[0].bookkeeping, Bookkeeping::Table);
    assert!(
        error(&two((a, "t"), (b, "u"), "name = \"t\"")).contains("outbox[1] of the same database is named `t` too")
    );
}

#[test]
fn backoffs_do_not_cross() {
    assert_eq!(
        error(&format!("{MINIMAL}retry_backoff_ms = 5000")),
        "c.toml:5: kafka: retry_backoff_ms (5000 ms) is longer than retry_backoff_max_ms (1000 ms)\nHint: raise the limit: retry_backoff_max_ms = 5000"
    );
}

#[test]
fn the_state_file_has_a_default_place() {
    let mut config = parse(MINIMAL).unwrap();
    let directory = std::ffi::OsStr::new("/var/lib/outboxd:/other");
    assert_eq!(config.state_path(None), Path::new("/nowhere/db.sqlite-outboxd"));
    assert_eq!(config.state_path(Some(directory)), Path::new("/var/lib/outboxd/state.db"));
    config.state.path = Some("/s.db".into());
    assert_eq!(config.state_path(Some(directory)), Path::new("/s.db"));
}
