//! What everybody who shows an alert needs of it: which finding leads, which come beside it, what each
//! is about, how an edge reads. How that looks is each medium's own.

use crate::detect::Severity;
use crate::edge::Peer;
use crate::flow::{Outcome, Process};
use crate::incident::{Alert, AlertEdge, AlertFinding};

/// What stands before the title of what is over.
pub(crate) const RESOLVED: &str = "resolved: ";

/// The findings beside the leading one.
#[derive(Debug)]
pub struct Others<'a> {
    pub shown: Vec<&'a AlertFinding>,
    /// Those that are not.
    pub left: u64,
}

impl Others<'_> {
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.shown.len() as u64 + self.left
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject<'a> {
    /// An edge, as people read it: safe text.
    Edge(String),
    /// The agent itself: why, in a sentence that may hold anything.
    Trouble(&'a str),
}

/// The most severe leads, the highest score among equals, the first among those.
pub(crate) fn weightiest<T>(items: &[T], rank: impl Fn(&T) -> (Severity, f64)) -> Option<&T> {
    items.iter().reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

impl Alert {
    /// What happened, for those who tell beside it where it stands.
    #[must_use]
    pub fn what(&self) -> &str {
        self.title.strip_prefix(RESOLVED).unwrap_or(&self.title)
    }

    /// The weightiest finding: the one the title is about.
    #[must_use]
    pub fn lead(&self) -> Option<&AlertFinding> {
        weightiest(&self.findings, |it| (it.severity, it.score)).map(|it| &**it)
    }

    /// The findings beside the leading one, the first `most` of them. Both ends of one edge may have
    /// found it odd: once is enough.
    #[must_use]
    pub fn others(&self, most: usize) -> Others<'_> {
        let mut others: Vec<&AlertFinding> = Vec::new();
        let findings = self.findings.iter().map(|it| &**it);
        if let Some(lead) = self.lead() {
            for finding in findings.filter(|it| it.edge != lead.edge || it.kind == lead.kind) {
                let told =
                    |it: &&AlertFinding| it.edge == finding.edge && it.process == finding.process;
                if !std::ptr::eq(finding, lead) && !others.iter().any(told) {
                    others.push(finding);
                }
            }
        }
        let left = others.len().saturating_sub(most) as u64 + self.more;
        others.truncate(most);
        Others { shown: others, left }
    }

    /// Whether more than the leading finding's edge is part of it.
    #[must_use]
    pub fn is_about_several(&self) -> bool {
        let lead = self.lead().map(|it| &it.edge);
        self.more > 0 || self.findings.iter().any(|it| Some(&it.edge) != lead)
    }
}

impl AlertFinding {
    /// Whether it is about a port that was opened.
    #[must_use]
    pub fn is_listener(&self) -> bool {
        self.edge.as_ref().is_some_and(|edge| edge.client.is_nobody())
    }

    #[must_use]
    pub fn executable(&self) -> Option<&str> {
        self.process.as_ref()?.executable.as_deref()
    }

    /// How the exchange went; a port that was opened is none, nor is a socket that was made.
    #[must_use]
    pub fn went(&self) -> Option<Outcome> {
        let opens = self.edge.as_ref().is_some_and(|edge| matches!(edge.server, Peer::Socket(_)));
        self.outcome.filter(|_| !self.is_listener() && !opens)
    }

    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        match (&self.edge, self.reasons.first()) {
            (Some(edge), _) => Subject::Edge(edge.sentence()),
            (None, reason) => Subject::Trouble(reason.map_or("", |it| it.text.as_str())),
        }
    }
}

impl Process {
    /// Its executable, or what it calls itself; it may hold anything.
    #[must_use]
    pub fn name(&self) -> &str {
        self.executable.as_deref().unwrap_or(&self.command)
    }

    /// `pid 412`, `uid 33`: those that are known.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let ids = [("pid", self.pid), ("uid", self.uid)].into_iter();
        let known = ids.filter(|(_, id)| *id != Self::UNKNOWN);
        known.map(|(what, id)| format!("{what} {id}")).collect()
    }
}

impl AlertEdge {
    /// As people read it; what commands take is written as [`crate::edge::Edge`] writes it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let port = self.port();
        if self.client.is_nobody() {
            return format!("{} listens at {port}", self.server);
        }
        if let Peer::Socket(socket) = self.server {
            return format!("{} opens {socket}", self.client);
        }
        format!("{} → {} {port}", self.client, self.server)
    }
}

impl Severity {
    /// As the first word of a headline.
    #[must_use]
    pub const fn capitalised(self) -> &'static str {
        match self {
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}
