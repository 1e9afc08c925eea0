//! The daemon on a listener with TLS and SASL: everything arrives once, and a mistake is mended without a restart.

use super::support::wait::{self, SECOND};
use super::support::{Config, Scene, broker, scene};
use std::sync::Arc;

/// The password is wrong at first, and put right in its file while the daemon runs. The broker's sessions end after 3 s.
pub fn sasl_ssl_with_a_password_that_changes(version: &str) {
    let kafka = some_or_skip!(broker::secure(version));
    let scene = Scene::new("secure", Some(Arc::clone(&kafka)));
    let topic = scene.topic(3);
    let database = scene.database("");
    let password = scene.path("password");
    std::fs::write(&password, "not-the-password\n").unwrap();
    let config = Config::new(&kafka.listener("SASLS"))
        .outbox(&database, "users_outbox", &topic)
        .kafka("security_protocol = \"SASL_SSL\"")
        .kafka(&format!("ssl_ca_location = {:?}", kafka.certificate("ca.pem").to_str().unwrap()))
        .kafka("sasl_mechanism = \"SCRAM-SHA-512\"")
        .kafka("sasl_username = \"alice\"")
        .kafka(&format!("sasl_password_file = {:?}", password.to_str().unwrap()));
    let daemon = scene.daemon(&config);
    let stderr = daemon.process.stderr.clone();
    let log = || std::fs::read_to_string(&stderr).unwrap();
    wait::until(30 * SECOND, "the daemon says that the password is wrong", || {
        log().contains("refuses user alice (SCRAM-SHA-512): ")
    });
    let mut writers: Vec<_> = (0..2)
        .map(|writer| scene.writer(&database, &format!("write --transactions 1500 --events 2 --writer {writer}")))
        .collect();
    for writer in &mut writers {
        writer.done(120 * SECOND);
    }
    std::fs::write(&password, "alice-secret\n").unwrap();
    scene::wait_until_empty(&database, 60 * SECOND);
    // Over several sessions of the broker's.
    for writer in 2..5 {
        let options = format!("write --transactions 50 --events 2 --writer {writer}");
        let mut writer = scene.writer(&database, &options);
        writer.done(60 * SECOND);
        scene::wait_until_empty(&database, 60 * SECOND);
        std::thread::sleep(2 * SECOND);
        writers.push(writer);
    }
    daemon.drain();
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
    let log = log();
    assert_eq!(log.matches("refuses user alice").count(), 1, "said once:\n{log}");
    for secret in ["not-the-password", "alice-secret"] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(!log.contains("unsure"), "{log}");
}
