//! What everybody who shows an alert needs of it: which finding leads, which come beside it, how an
//! edge reads. How that looks is each medium's own.

use crate::detect::Severity;
use crate::edge::Port;
use crate::incident::{Alert, AlertEdge, AlertFinding};

/// The most severe leads, the highest score among equals, the first among those.
pub(crate) fn weightiest<T>(items: &[T], rank: impl Fn(&T) -> (Severity, f64)) -> Option<&T> {
    items.iter().reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

impl Alert {
    /// The weightiest finding: the one the title is about.
    #[must_use]
    pub fn lead(&self) -> Option<&AlertFinding> {
        weightiest(&self.findings, |it| (it.severity, it.score))
    }

    /// The findings beside the leading one. Both ends of one edge may have found it odd: once is
    /// enough.
    #[must_use]
    pub fn others(&self) -> Vec<&AlertFinding> {
        let Some(lead) = self.lead() else {
            return Vec::new();
        };
        let mut others: Vec<&AlertFinding> = Vec::new();
        for finding in
            self.findings.iter().filter(|it| it.edge != lead.edge || it.kind == lead.kind)
        {
            let told =
                |it: &&AlertFinding| it.edge == finding.edge && it.process == finding.process;
            if !std::ptr::eq(finding, lead) && !others.iter().any(told) {
                others.push(finding);
            }
        }
        others
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
}

impl AlertEdge {
    /// As people read it; what commands take is written as [`crate::edge::Edge`] writes it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let port = Port { number: self.port, protocol: self.protocol };
        if self.client.is_nobody() {
            return format!("{} listens at {port}", self.server);
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
