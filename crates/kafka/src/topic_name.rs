//! Kafka's rule for the names of topics (`org.apache.kafka.common.internals.Topic`).
//!
//! Promises: pure; a name that passes is not answered with INVALID_TOPIC_EXCEPTION. Does not know: whether there is such a topic.

/// The longest name, in bytes, which are its characters.
pub const BYTES_MAX: usize = 249;

/// Why no topic can have this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The name is "".
    #[error("a topic's name can't be empty")]
    Empty,
    /// The name has so many bytes.
    #[error("a topic's name of {0} bytes is too long; Kafka allows {BYTES_MAX}")]
    TooLong(usize),
    /// The name is "." or "..".
    #[error("a topic can't be named `{0}`")]
    Dots(String),
    /// The first character that no name may have.
    #[error("a topic's name is made of a-z, A-Z, 0-9, '.', '_' and '-'; {0:?} is not among them")]
    Character(char),
}

/// Whether a topic can have this name.
pub fn check(name: &str) -> Result<(), TopicNameError> {
    match name {
        "" => return Err(TopicNameError::Empty),
        "." | ".." => return Err(TopicNameError::Dots(name.to_owned())),
        _ => {}
    }
    check_characters(name)?;
    if name.len() > BYTES_MAX { Err(TopicNameError::TooLong(name.len())) } else { Ok(()) }
}

/// Whether this can be a part of a topic's name, as long as the whole is not too long.
pub fn check_characters(part: &str) -> Result<(), TopicNameError> {
    // By bytes first: names are checked row by row.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if part.bytes().all(legal) {
        return Ok(());
    }
    let strange = part.chars().find(|character| !u8::try_from(*character).is_ok_and(legal));
    Err(TopicNameError::Character(strange.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["users", "a", "users.Created_v1-x", "...", &"x".repeat(249)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check(""), Err(TopicNameError::Empty));
        assert_eq!(check(".."), Err(TopicNameError::Dots("..".into())));
        assert_eq!(check("ünit"), Err(TopicNameError::Character('ü')));
        assert_eq!(check("uni\u{100}"), Err(TopicNameError::Character('\u{100}')));
        assert_eq!(check("a b"), Err(TopicNameError::Character(' ')));
        assert_eq!(check(&"x".repeat(250)), Err(TopicNameError::TooLong(250)));
    }
}
