//! A TOML document walked by hand: typed values with their line and key path, unknown keys found by comparing tables.
//!
//! Promises: no error text of a library is ever looked into. Does not know: which keys there are.

use super::{ConfigError, Place};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A parsed file.
pub struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

/// One table of it, whose keys are known to be known.
pub struct Section<'a> {
    document: &'a Document<'a>,
    table: Option<&'a DeTable<'a>>,
    /// Dotted, without a trailing dot; empty for the root.
    name: String,
    /// Of the table itself, for what is missing in it.
    span: Range<usize>,
    known: &'static [&'static str],
}

/// A value that was found, and where.
pub struct Found<T> {
    pub value: T,
    pub place: Place,
}

impl<'a> Document<'a> {
    pub fn parse(path: &'a Path, text: &'a str) -> Result<Self, ConfigError> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Document { path, text, root }),
            Err(error) => {
                let line = error.span().map(|span| line_of(text, span.start));
                Err(ConfigError::new(
                    Place::File { path: path.to_owned(), line, key: None },
                    format!("this is not TOML: {}", error.message()),
                    "see https://toml.io for how it is written; text values need quotes",
                ))
            }
        }
    }

    pub fn root(&'a self, known: &'static [&'static str]) -> Result<Section<'a>, ConfigError> {
        Section::new(self, self.root.get_ref(), String::new(), self.root.span(), known)
    }

    fn place(&self, span: &Range<usize>, key: String) -> Place {
        Place::File { path: self.path.to_owned(), line: Some(line_of(self.text, span.start)), key: Some(key) }
    }
}

impl<'a> Section<'a> {
    fn new(
        document: &'a Document<'a>,
        table: &'a DeTable<'a>,
        name: String,
        span: Range<usize>,
        known: &'static [&'static str],
    ) -> Result<Self, ConfigError> {
        let section = Section { document, table: Some(table), name, span, known };
        // The map is sorted by key; people read from the top.
        let unknown =
            table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).min_by_key(|key| key.span().start);
        match unknown {
            None => Ok(section),
            Some(key) => {
                let wrong = key.get_ref().as_ref();
                let hint = match nearest(wrong, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                let place = section.document.place(&key.span(), section.path_of(wrong));
                Err(ConfigError::new(place, "unknown key", hint))
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        assert!(self.known.contains(&key), "{key} is read but not in the list of known keys");
        self.table?.get(key)
    }

    fn found<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, inner: T) -> Found<T> {
        Found { value: inner, place: self.document.place(&value.span(), self.path_of(key)) }
    }

    fn wrong_type<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        want: &str,
        example: &str,
    ) -> Result<T, ConfigError> {
        let place = self.document.place(&value.span(), self.path_of(key));
        let is = with_article(value.get_ref().type_str());
        Err(ConfigError::new(place, format!("{want} is wanted here, not {is}"), format!("write: {key} = {example}")))
    }

    /// The place of a key that is not there.
    pub fn missing(&self, key: &str, example: &str) -> ConfigError {
        let place = if self.table.is_some() && !self.name.is_empty() {
            self.document.place(&self.span, self.path_of(key))
        } else {
            Place::File { path: self.document.path.to_owned(), line: None, key: Some(self.path_of(key)) }
        };
        let section = if self.name.is_empty() || self.table.is_some() {
            String::new()
        } else {
            format!(" under a line [{}]", self.name)
        };
        ConfigError::new(place, "this key is missing", format!("add{section}: {key} = {example}"))
    }

    pub fn string(&self, key: &'static str) -> Result<Option<Found<String>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::String(text) => Ok(Some(self.found(key, value, text.to_string()))),
                DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
                    // A password without its quotes is one all the same.
                    let raw = if key.ends_with("password") { "..." } else { &self.document.text[value.span()] };
                    self.wrong_type(key, value, "text", &format!("\"{raw}\""))
                }
                _ => self.wrong_type(key, value, "text", "\"...\""),
            },
        }
    }

    pub fn bool(&self, key: &'static str) -> Result<Option<Found<bool>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(truth) => Ok(Some(self.found(key, value, *truth))),
                _ => self.wrong_type(key, value, "true or false", "true"),
            },
        }
    }

    /// A whole number within `range`; `unit` is for the message, for example ` ms`.
    pub fn integer(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> Result<Option<Found<u64>>, ConfigError> {
        let range = i128::from(*range.start())..=i128::from(*range.end());
        let found = self.number(key, range, default.into())?;
        Ok(found.map(|Found { value, place }| Found { value: value as u64, place }))
    }

    /// A whole number within `range` that may be below 0.
    pub fn signed(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<i32>,
        default: i32,
    ) -> Result<Option<Found<i32>>, ConfigError> {
        let range = i128::from(*range.start())..=i128::from(*range.end());
        let found = self.number(key, range, default.into())?;
        Ok(found.map(|Found { value, place }| Found { value: value as i32, place }))
    }

    fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<i128>,
        default: i128,
    ) -> Result<Option<Found<i128>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let DeValue::Integer(number) = value.get_ref() else {
            return self.wrong_type(key, value, "a whole number", &default.to_string());
        };
        match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(n) if range.contains(&n) => Ok(Some(self.found(key, value, n))),
            _ => {
                let raw = &self.document.text[value.span()];
                Err(ConfigError::new(
                    self.document.place(&value.span(), self.path_of(key)),
                    format!("{raw} is out of range: {} to {} is possible", range.start(), range.end()),
                    format!("the default is: {key} = {default}"),
                ))
            }
        }
    }

    pub fn strings(&self, key: &'static str, example: &str) -> Result<Option<Vec<Found<String>>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let DeValue::Array(list) = value.get_ref() else {
            return self.wrong_type(key, value, "a list of texts", example);
        };
        let mut strings = Vec::with_capacity(list.len());
        for item in list {
            match item.get_ref() {
                DeValue::String(text) => strings.push(self.found(key, item, text.to_string())),
                _ => return self.wrong_type(key, item, "a text", example),
            }
        }
        Ok(Some(strings))
    }

    /// A table below this one; one without keys when it is not there.
    pub fn section(&self, key: &'static str, known: &'static [&'static str]) -> Result<Section<'a>, ConfigError> {
        let name = self.path_of(key);
        match self.get(key) {
            None => Ok(Section { document: self.document, table: None, name, span: 0..0, known }),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => Section::new(self.document, table, name, value.span(), known),
                other => Err(self.not_a_table(key, value, other, &format!("a line [{name}] and its keys below it"))),
            },
        }
    }

    /// An array of tables below this one.
    pub fn sections(&self, key: &'static str, known: &'static [&'static str]) -> Result<Vec<Section<'a>>, ConfigError> {
        let name = self.path_of(key);
        let how = format!("a line [[{name}]] and its keys below it");
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(list) = value.get_ref() else {
            if value.get_ref().is_table() {
                let place = self.document.place(&value.span(), name.clone());
                let text = "there can be several of these, so its brackets are double";
                return Err(ConfigError::new(place, text, format!("write [[{name}]] instead of [{name}]")));
            }
            return Err(self.not_a_table(key, value, value.get_ref(), &how));
        };
        let one = list.len() == 1;
        let mut sections = Vec::with_capacity(list.len());
        for (index, item) in list.iter().enumerate() {
            let DeValue::Table(table) = item.get_ref() else {
                return Err(self.not_a_table(key, item, item.get_ref(), &how));
            };
            let name = if one { name.clone() } else { format!("{name}[{}]", index + 1) };
            sections.push(Section::new(self.document, table, name, item.span(), known)?);
        }
        Ok(sections)
    }

    fn not_a_table(&self, key: &str, value: &Spanned<DeValue<'_>>, is: &DeValue<'_>, how: &str) -> ConfigError {
        ConfigError::new(
            self.document.place(&value.span(), self.path_of(key)),
            format!("a section is wanted here, not {}", with_article(is.type_str())),
            format!("write {how}"),
        )
    }

    /// Any keys, all of them texts: for a section whose keys are the user's own. Sorted by key.
    pub fn free(&self, key: &'static str) -> Result<Vec<(String, Found<String>)>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let name = self.path_of(key);
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.not_a_table(
                key,
                value,
                value.get_ref(),
                &format!("a line [{name}] and its keys below it"),
            ));
        };
        let mut pairs = Vec::with_capacity(table.len());
        for (inner, item) in table {
            let inner = inner.get_ref().as_ref();
            let place = self.document.place(&item.span(), format!("{name}.{inner}"));
            match item.get_ref() {
                DeValue::String(text) => {
                    pairs.push((inner.to_owned(), Found { value: text.to_string(), place }));
                }
                other => {
                    return Err(ConfigError::new(
                        place,
                        format!("text is wanted here, not {}", with_article(other.type_str())),
                        format!("write: {inner} = \"the column's name\""),
                    ));
                }
            }
        }
        Ok(pairs)
    }

    /// Where a section's own line is.
    pub fn place(&self) -> Place {
        self.document.place(&self.span, self.name.clone())
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end].split(|byte| *byte == b'\n').skip(1).count()
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The known word that a person most likely meant.
pub fn nearest<'k>(wrong: &str, known: &[&'k str]) -> Option<&'k str> {
    // Kafka's own spelling has dots, and many write dashes.
    let wrong = wrong.to_ascii_lowercase().replace(['.', '-'], "_");
    known
        .iter()
        .map(|key| (strsim::jaro_winkler(&wrong, key), *key))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}
