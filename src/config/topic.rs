//! A topic as the config writes it: a name, or a template over a row's columns.
//!
//! Promises: what can be known wrong before a row is seen is refused here; `relay::route` judges the rest, row by row.
//! Does not know: rows.

use outboxd_kafka::topic_name::{self, TopicNameError};
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
            return topic_name::check(name).map_err(|error| sentence(name, &error));
        }
        let mut literal_bytes = 0;
        for part in &self.parts {
            if let Part::Literal(text) = part {
                topic_name::check_characters(text).map_err(|error| sentence(text, &error))?;
                literal_bytes += text.len();
            }
        }
        if literal_bytes > topic_name::BYTES_MAX {
            let max = topic_name::BYTES_MAX;
            return Err(format!("its literal parts alone are {literal_bytes} bytes; Kafka allows {max}"));
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

/// Without the place.
fn sentence(text: &str, error: &TopicNameError) -> String {
    match error {
        TopicNameError::Character(c) => {
            format!("`{text}` has {c:?} in it, which Kafka does not allow in a topic's name")
        }
        other => other.to_string(),
    }
}
