//! What is printed, and how: tables for people, JSON for programs, complaints on stderr.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::cli::Failure;
use crate::cli::args::{Format, When};
use crate::render::{Colour, Screen};

/// Where output goes and what it may look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    pub(crate) format: Format,
    pub(crate) screen: Screen,
}

impl Out {
    pub(crate) fn stdout(format: Format, when: When) -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match when {
            When::Always => Colour::On,
            When::Auto if terminal && !dumb && !set("NO_COLOR") => Colour::On,
            When::Auto | When::Never => Colour::Off,
        };
        let columns = || terminal_size::terminal_size().map_or(100, |(width, _)| width.0);
        let width = terminal.then(|| usize::from(columns()));
        Self { format, screen: Screen { width, colour } }
    }

    /// Prints text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Prints one JSON document.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// Prints one line of JSON.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&format!("{}\n", serde_json::to_string(value)?))
    }
}

/// Says on stderr what went wrong, with its causes. What begins with a file's name is left as it is,
/// so that editors find the place.
pub(crate) fn complain(error: &anyhow::Error) {
    use crate::baseline_file::FileError;
    use crate::config::ConfigError;
    let placed = error.is::<ConfigError>()
        || matches!(error.downcast_ref(), Some(FileError::Content { .. }));
    say(&if placed { format!("{error:#}") } else { format!("edgewatch: {error:#}") });
}

/// Says something on stderr. When even that is gone, nobody is left to tell.
pub(crate) fn say(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}
