//! What the core's views look like to a person at a terminal. Text in, text out: prints nothing,
//! asks the terminal nothing. Colour helps and is never needed; a line never wraps where the width
//! is known, and is never cut where it is not.

mod alert;
mod baseline;
mod edges;
mod overview;
mod rehearsal;
mod report;
mod table;
mod text;
mod whole;

pub use self::alert::{alert, alert_head, alert_line, alerts};
pub use self::baseline::{baseline_rows, reply, undecided};
pub use self::edges::{edge_head, edge_line, map};
pub use self::overview::{audit, mutes, services, status, tested};
pub use self::rehearsal::rehearsal;
pub use self::report::report;
pub use self::whole::whole_alert;

/// What is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Columns; None where nothing must be cut, as in a file or a pipe.
    pub width: Option<usize>,
    pub colour: Colour,
}

impl Screen {
    /// A file or a pipe.
    pub const PLAIN: Self = Self { width: None, colour: Colour::Off };
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    On,
    Off,
}

/// What a piece of text says by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    /// Beside the point.
    Faint,
    Strong,
    Good,
    Doubtful,
    Bad,
}

impl Colour {
    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Off, _) | (Self::On, Tone::Plain) => return text.to_owned(),
            (Self::On, Tone::Faint) => "2",
            (Self::On, Tone::Strong) => "1",
            (Self::On, Tone::Good) => "32",
            (Self::On, Tone::Doubtful) => "33",
            (Self::On, Tone::Bad) => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests;
