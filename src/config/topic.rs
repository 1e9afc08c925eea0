//! A topic as the config writes it: a name, or a template over a row's columns.
//!
//! Promises: what can be known wrong before a row is seen is refused here; [`check_topic_name`] judges the rest, row by row.
//! Does not know: rows.

use std::fmt;

/// A literal topic, or one made of literal parts and columns: `users.{eventType}`. `{{` and `}}` stand for the braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    /// A column's name.
    Column(String),
}

/// Kafka's limit (`org.apache.kafka.common.internals.Topic`).
const NAME_MAX_BYTES: usize = 249;

impl TopicTemplate {
    /// Errors are a sentence about `source`, without its place.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = source.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' if chars.peek() == Some(&'{') => {
                    chars.next();
                    literal.push('{');
                }
                '}' if chars.peek() == Some(&'}') => {
                    chars.next();
                    literal.push('}');
                }
                '{' => {
                    let mut column = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => column.push(c),
                            None => return Err(format!("`{source}` opens a brace and never closes it")),
                        }
                    }
                    if column.is_empty() {
                        return Err(format!("`{source}` has no column's name between its braces"));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Column(column));
                }
                '}' => return Err(format!("`{source}` closes a brace that was never opened")),
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        let template = TopicTemplate { source: source.to_owned(), parts };
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(name) = self.literal() {
            return check_topic_name(name);
        }
        let mut literal_bytes = 0;
        for part in &self.parts {
            if let Part::Literal(text) = part {
                check_characters(text)?;
                literal_bytes += text.len();
            }
        }
        if literal_bytes > NAME_MAX_BYTES {
            return Err(format!("its literal parts alone are {literal_bytes} bytes; Kafka allows {NAME_MAX_BYTES}"));
        }
        Ok(())
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The topic's name when it does not depend on a row.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(name)] => Some(name),
            _ => None,
        }
    }

    /// The columns it reads, in the order of [`TopicTemplate::parts`], one for each column part.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Kafka's rule for the name of a topic. Errors are a sentence without the place.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    match name {
        "" => return Err("a topic's name can't be empty".into()),
        "." | ".." => return Err(format!("a topic can't be named `{name}`")),
        _ => {}
    }
    check_characters(name)?;
    if name.len() > NAME_MAX_BYTES {
        return Err(format!("a topic's name of {} bytes is too long; Kafka allows {NAME_MAX_BYTES}", name.len()));
    }
    Ok(())
}

fn check_characters(text: &str) -> Result<(), String> {
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(c) => Err(format!("`{text}` has {c:?} in it, which Kafka does not allow in a topic's name")),
        None => Ok(()),
    }
}
