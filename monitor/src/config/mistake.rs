//! How a mistake in the configuration is told: the line, the key, and what was probably meant. Turns
//! what serde says about types into what a person wrote.

use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::spelling::{hint, misspelt};

/// One mistake: `FILE:LINE: WHAT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: Option<String>,
    line: Option<usize>,
    what: String,
}

impl ConfigError {
    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let file = Some(path.to_string_lossy().into_owned());
        Self { file, line: None, what: format!("cannot be read: {error}") }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: {}", self.what),
            (Some(file), None) => write!(f, "{file}: {}", self.what),
            _ => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The text that is being read and what it is called.
pub(crate) struct Source<'a> {
    pub(crate) text: &'a str,
    pub(crate) file: &'a str,
}

impl Source<'_> {
    /// A mistake at a byte of the text.
    pub(crate) fn mistake(&self, at: usize, what: String) -> ConfigError {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        ConfigError { file: Some(self.file.to_owned()), line: Some(line), what }
    }

    /// What is no TOML at all.
    pub(crate) fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let what = error.message().trim_end().replace('\n', "; ");
        self.mistake(error.span().map_or(0, |span| span.start), what)
    }

    /// What is TOML but no configuration.
    pub(crate) fn unfit(&self, error: &toml::de::Error, table: &DeTable<'_>) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start);
        let place = Place::at(table, at);
        let section = place.as_ref().and_then(|it| it.section.clone());
        let within = section.as_ref().map(|it| format!(" in {it}")).unwrap_or_default();
        let key = place.as_ref().map_or("", |it| it.key.as_str());
        let message = error.message();
        let what = if let Some((unknown, known)) = misspelt(message, "unknown field `") {
            format!("unknown key {unknown:?}{within}; {}", hint(unknown, &known))
        } else if let Some((unknown, known)) = misspelt(message, "unknown variant `") {
            format!("{key}{within}: {unknown:?} is unknown; {}", hint(unknown, &known))
        } else if let Some(missing) = message.strip_prefix("missing field `") {
            let missing = missing.trim_end_matches('`');
            let section = section.or_else(|| (!key.is_empty()).then(|| format!("[{key}]")));
            format!("{} has no {missing}", section.unwrap_or_else(|| "the file".to_owned()))
        } else if message == "wanted string or table" {
            format!("{key}{within} wants text in quotes")
        } else if let Some((found, wanted)) = message
            .strip_prefix("invalid type: ")
            .or_else(|| message.strip_prefix("invalid value: "))
            .and_then(|rest| rest.split_once(", expected "))
        {
            format!("{key}{within} wants {}, not {}", plain(wanted), plain(found))
        } else {
            format!("{key}{within}: {message}")
        };
        self.mistake(at, what)
    }
}

/// Where in the file something stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The section as a person would call it: `[capture]`, `[[notify]] "ops"`.
    pub(crate) section: Option<String>,
    pub(crate) key: String,
    pub(crate) at: usize,
}

impl Place {
    /// The place of a key, given by its path.
    pub(crate) fn of(table: &DeTable<'_>, path: &[&str]) -> Option<Self> {
        let (first, rest) = path.split_first()?;
        let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
        match (rest, value.get_ref()) {
            ([], _) => {
                let at = key.span().start;
                Some(Self { section: None, key: (*first).to_owned(), at })
            }
            (rest, DeValue::Table(inner)) => Self::of(inner, rest),
            _ => None,
        }
    }

    /// Where `key` of the `index`th element of `[[list]]` stands, or the element where it has none.
    pub(crate) fn of_element(table: &DeTable<'_>, list: &str, index: usize, key: &str) -> usize {
        let elements = table.iter().find(|(name, _)| name.get_ref() == list);
        let Some(DeValue::Array(elements)) = elements.map(|(_, value)| value.get_ref()) else {
            return 0;
        };
        let Some(element) = elements.get(index) else {
            return 0;
        };
        let inner = element.get_ref().as_table();
        let place = inner.and_then(|inner| Self::of(inner, &[key]));
        place.map_or_else(|| element.span().start, |it| it.at)
    }

    /// The key or value that holds byte `at`.
    pub(crate) fn at(table: &DeTable<'_>, at: usize) -> Option<Self> {
        for (key, value) in table {
            let name = key.get_ref().to_string();
            let inner = match value.get_ref() {
                DeValue::Table(inner) => Self::at(inner, at).map(|it| Self {
                    section: it.section.or_else(|| Some(format!("[{name}]"))),
                    ..it
                }),
                DeValue::Array(elements) => elements.iter().enumerate().find_map(|(index, it)| {
                    let inner = it.get_ref().as_table()?;
                    let called = || Some(element_name(&name, index, inner));
                    let place = match Self::at(inner, at) {
                        Some(place) => place,
                        None if it.span().contains(&at) => {
                            Self { section: None, key: String::new(), at }
                        }
                        None => return None,
                    };
                    Some(Self { section: place.section.or_else(called), ..place })
                }),
                _ => None,
            };
            if inner.is_some() {
                return inner;
            }
            if key.span().contains(&at) || value.span().contains(&at) {
                return Some(Self { section: None, key: name, at });
            }
        }
        None
    }
}

/// `[[notify]] "ops"`, or its position where it has no name.
fn element_name(list: &str, index: usize, element: &DeTable<'_>) -> String {
    let name = element.iter().find(|(key, _)| key.get_ref() == "name");
    match name.and_then(|(_, value)| value.get_ref().as_str()) {
        Some(name) => format!("[[{list}]] {name:?}"),
        None => format!("[[{list}]] number {}", index + 1),
    }
}

/// Serde's word for a type as a person would say it.
fn plain(kind: &str) -> String {
    match kind {
        "a string" | "path string" => "text in quotes".to_owned(),
        "map" => "a table".to_owned(),
        "sequence" | "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u16" | "u32" | "u64" | "usize" | "i64" => "a number".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.replace('`', ""),
    }
}
