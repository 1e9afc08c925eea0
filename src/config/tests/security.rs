//! `security_protocol` and what belongs to it: near misses, keys without effect, and where secrets may stand.

use super::super::document::Found;
use super::super::security::Written;
use super::*;
use outboxd_kafka::security::Secret;

/// Of `[kafka]` with these lines.
fn kafka_error(lines: &str) -> String {
    error(&format!("{MINIMAL}{lines}"))
}

#[test]
fn security_protocols_are_kafkas_names_and_near_misses_are_named() {
    for (wrong, near) in [
        ("TLS", "SSL"),
        ("ssl", "SSL"),
        ("plaintext", "PLAINTEXT"),
        ("SASL_TLS", "SASL_SSL"),
        ("sasl-plaintext", "SASL_PLAINTEXT"),
        ("SASL_SSLL", "SASL_SSL"),
    ] {
        let said = kafka_error(&format!("security_protocol = \"{wrong}\""));
        let start = format!(
            "c.toml:7: kafka.security_protocol: `{wrong}` is no security protocol\nHint: write \"{near}\"; there are"
        );
        assert!(said.starts_with(&start), "{said}");
    }
    let said = kafka_error("security_protocol = \"\"");
    assert!(said.contains("Hint: there are PLAINTEXT, SSL"), "{said}");
}

#[test]
fn keys_of_a_protocol_that_is_not_used_are_refused_with_both_lines() {
    for key in ["ssl_ca_location", "ssl_certificate_location", "ssl_key_location"] {
        let said = kafka_error(&format!("{key} = \"/f\""));
        let start =
            format!("c.toml:7: kafka.{key}: this belongs to TLS, and security_protocol is PLAINTEXT, the default\n");
        assert!(said.starts_with(&start), "{said}");
        let said = kafka_error(&format!("security_protocol = \"PLAINTEXT\"\n{key} = \"/f\""));
        let start =
            format!("c.toml:8: kafka.{key}: this belongs to TLS, and security_protocol is PLAINTEXT (line 7)\n");
        assert!(said.starts_with(&start), "{said}");
    }
    for line in [
        "sasl_mechanism = \"PLAIN\"",
        "sasl_username = \"u\"",
        "sasl_password = \"p\"",
        "sasl_password_file = \"/f\"",
        "sasl_password_env = \"V\"",
        "sasl_oauthbearer_token_file = \"/f\"",
        "sasl_oauthbearer_extensions = \"a=b\"",
    ] {
        let said = kafka_error(&format!("security_protocol = \"SSL\"\n{line}"));
        assert!(said.contains(": this belongs to SASL, and security_protocol is SSL (line 7)\nHint: write"), "{said}");
    }
    let security = SecurityFlags { ca: Some("/ca".into()), ..SecurityFlags::default() };
    let flags = Flags { security, ..minimal_flags() };
    let said = Config::from_flags(&flags, true).unwrap_err();
    assert_eq!(said.to_string(), "--ca: this belongs to TLS, and security_protocol is PLAINTEXT, the default");
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let said = kafka_error("security_protocol = \"SSL\"\nssl_certificate_location = \"/c\"");
    assert!(
        said.starts_with("c.toml:8: kafka.ssl_certificate_location: a certificate is of no use without its key\n"),
        "{said}"
    );
    assert!(said.contains("ssl_key_location = ") && said.contains("openssl req"), "{said}");
    let said = kafka_error("security_protocol = \"SSL\"\nssl_key_location = \"/k\"");
    assert!(
        said.starts_with("c.toml:8: kafka.ssl_key_location: a key is of no use without its certificate\n"),
        "{said}"
    );
    assert!(said.contains("ssl_certificate_location = ") && said.contains("openssl req -new -key /k"), "{said}");
}

const SASL: &str = "security_protocol = \"SASL_SSL\"\n";
pub const SCRAM: &str = "security_protocol = \"SASL_SSL\"\nsasl_mechanism = \"SCRAM-SHA-256\"\nsasl_username = \"u\"\n";

#[test]
fn what_sasl_lacks_is_named() {
    assert_eq!(
        kafka_error(SASL),
        "c.toml:7: kafka.security_protocol: SASL_SSL needs sasl_mechanism, which is missing\n\
         Hint: add: sasl_mechanism = \"SCRAM-SHA-512\" (or PLAIN, SCRAM-SHA-256, OAUTHBEARER)"
    );
    for (wrong, near) in
        [("SCRAM", "SCRAM-SHA-"), ("plain", "PLAIN"), ("SCRAM_SHA_512", "SCRAM-SHA-512"), ("OAUTH", "OAUTHBEARER")]
    {
        let said = kafka_error(&format!("{SASL}sasl_mechanism = \"{wrong}\""));
        let start = format!("c.toml:8: kafka.sasl_mechanism: `{wrong}` is no SASL mechanism\nHint: write \"{near}");
        assert!(said.starts_with(&start), "{said}");
    }
    let said = kafka_error(&format!("{SASL}sasl_mechanism = \"PLAIN\""));
    assert!(
        said.starts_with("c.toml:8: kafka.sasl_mechanism: sasl_mechanism is PLAIN, and there is no user\n"),
        "{said}"
    );
    let said = kafka_error(SCRAM);
    assert!(
        said.contains("kafka.sasl_mechanism: sasl_mechanism is SCRAM-SHA-256, and there is no password\n"),
        "{said}"
    );
    assert!(said.contains("sasl_password_file = "), "{said}");
    let said = kafka_error(&format!("{SASL}sasl_mechanism = \"OAUTHBEARER\""));
    assert!(said.contains("and there is no token\nHint: add: sasl_oauthbearer_token_file"), "{said}");
}

#[test]
fn keys_of_another_mechanism_are_refused_with_both_lines() {
    let said = kafka_error(&format!("{SCRAM}sasl_oauthbearer_token_file = \"/t\""));
    assert!(
        said.starts_with("c.toml:10: kafka.sasl_oauthbearer_token_file: this belongs to OAUTHBEARER, and sasl_mechanism is SCRAM-SHA-256 (line 8)"),
        "{said}"
    );
    let said = kafka_error(&format!("{SASL}sasl_mechanism = \"OAUTHBEARER\"\nsasl_username = \"u\""));
    assert!(
        said.contains(
            "sasl_username: this belongs to mechanisms with a password, and sasl_mechanism is OAUTHBEARER (line 8)"
        ),
        "{said}"
    );
}

#[test]
fn a_password_has_one_source() {
    let said = kafka_error(&format!("{SCRAM}sasl_password = \"geheim\"\nsasl_password_file = \"/p\""));
    assert!(
        said.starts_with("c.toml:11: kafka.sasl_password_file: the password is given a second time; the first is c.toml:10: kafka.sasl_password\n"),
        "{said}"
    );
    assert!(!said.contains("geheim"), "{said}");
    let said = kafka_error(&format!("{SCRAM}sasl_password_env = \"OUTBOXD_NO_SUCH_VARIABLE\""));
    assert!(said.contains("the variable of this name is not set\nHint: set it"), "{said}");
    assert!(said.ends_with("OUTBOXD_NO_SUCH_VARIABLE=... outboxd run"), "{said}");
    let said = kafka_error(&format!("{SCRAM}sasl_password_file = \"password\""));
    assert!(said.contains("and $CREDENTIALS_DIRECTORY is not set\nHint: write \"./NAME\""), "{said}");
}

/// Whatever is wrong with how it is written.
#[test]
fn a_password_is_in_no_error() {
    for line in [
        "sasl_password = 4711",
        "sasl_password = [\"4711\"]",
        "sasl_password = \"4711\"\nsasl_password_env = \"X\"",
        "sasl_password_file = \"s4711\"",
        "sasl_password_env = \"s4711\"",
        "sasl_password = \"4711",
        "sasl_password = 4711x",
        "sasl_oauthbearer_token_file = \"s4711\"",
        "sasl_passwort = \"4711\"",
    ] {
        let said = kafka_error(&format!("{SCRAM}{line}"));
        assert!(!said.contains("4711"), "{said}");
    }
}

/// By what the environment says, which a test can't change for itself.
fn secret(written: Written, variables: &[(&str, &str)]) -> Result<SecretSource, ConfigError> {
    let found = |value: &str| Some(Found { value: value.to_owned(), place: Place::Flag("--x") });
    let written =
        Written { protocol: found("SASL_PLAINTEXT"), mechanism: found("PLAIN"), username: found("u"), ..written };
    let environment =
        |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| std::ffi::OsString::from(value));
    Ok(written.settings(&environment)?.sasl.unwrap().secret)
}

#[test]
fn secrets_come_from_variables_and_from_systemds_credentials() {
    let found = |value: &str| Some(Found { value: value.to_owned(), place: Place::Flag("--x") });
    let by_env = || Written { password_env: found("V"), ..Written::default() };
    for (value, password) in [("p", "p"), ("p\n", "p"), ("p\r\n", "p"), ("p\n\n", "p\n"), (" p ", " p ")] {
        let source = secret(by_env(), &[("V", value)]).unwrap();
        assert_eq!(source, SecretSource::Given(Secret::new(password)), "{value:?}");
        assert!(!format!("{source:?}").contains(password), "{source:?}");
    }
    assert!(secret(by_env(), &[("V", "")]).unwrap_err().text.contains("is empty"));
    let by_file = |name| Written { password_file: found(name), ..Written::default() };
    let directory = [("CREDENTIALS_DIRECTORY", "/run/credentials/outboxd")];
    let source = secret(by_file("kafka"), &directory).unwrap();
    assert_eq!(source, SecretSource::File("/run/credentials/outboxd/kafka".into()));
    assert_eq!(secret(by_file("/p"), &directory).unwrap(), SecretSource::File("/p".into()));
}

#[test]
fn a_password_in_a_config_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, format!("{MINIMAL}{SCRAM}sasl_password = \"geheim\"")).unwrap();
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    for allowed in [0o600, 0o640, 0o440] {
        mode(allowed);
        let config = Config::load(&path, true).unwrap();
        assert!(!format!("{config:?}").contains("geheim"));
    }
    mode(0o644);
    let error = Config::load(&path, true).unwrap_err();
    assert!(error.text.contains("others can read the file (mode 0644)"), "{error}");
    assert_eq!(
        error.hint,
        format!(
            "chmod 600 {}; or keep it in a file of its own: sasl_password_file = \"/path/password\"",
            path.display()
        )
    );
    assert!(!format!("{error:?}").contains("geheim"));
    std::fs::write(&path, format!("{MINIMAL}{SCRAM}sasl_password_file = \"/p\"")).unwrap();
    assert!(Config::load(&path, true).is_ok(), "there is no secret in it");
}

#[test]
fn extensions_are_names_and_values() {
    let of = |text: &str| {
        let lines = format!("{SASL}sasl_mechanism = \"OAUTHBEARER\"\nsasl_oauthbearer_token_file = \"/t\"\n");
        parse(&format!("{MINIMAL}{lines}sasl_oauthbearer_extensions = \"{text}\""))
    };
    let sasl = of("logicalCluster=lkc-1, identityPoolId=a=b").unwrap().kafka.security.sasl.unwrap();
    let expected = [("logicalCluster", "lkc-1"), ("identityPoolId", "a=b")];
    assert_eq!(sasl.extensions, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for wrong in ["x", "=1", "a=", "auth=x", "a-b=1", "a=1,,b=2", "a=\\u0001"] {
        assert!(of(wrong).unwrap_err().text.starts_with("these are no extensions"), "{wrong}");
    }
}
