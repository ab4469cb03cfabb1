//! What a rehearsal came to, in figures: how many messages a day it would have been, of which kind,
//! about which service.

use std::collections::{BTreeMap, BTreeSet};

use monitor_core::detect::Kind;
use monitor_core::ids::{ServiceName, WallTime};
use monitor_core::incident::Alert;
use serde::Serialize;

use crate::recording::RecordedFlow;

/// The figures.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Summary {
    /// Flows read, and lines skipped because they could not be.
    pub flows: u64,
    pub skipped: u64,
    /// None where there was no flow.
    #[serde(flatten)]
    pub span: Option<Span>,
    pub nodes: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<Learned>,
    /// Flows that were judged: those after learning, or all.
    pub judged: u64,
    pub incidents: u64,
    #[serde(flatten)]
    pub total: Rate,
    /// Each message under its weightiest finding.
    pub by_kind: BTreeMap<Kind, Rate>,
    pub by_service: BTreeMap<ServiceName, Rate>,
}

/// The time that a recording covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Span {
    pub first_seen: WallTime,
    pub last_seen: WallTime,
}

/// What was learned before everything was guarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Learned {
    pub until: WallTime,
    pub flows: u64,
    pub services: usize,
    pub edges: usize,
}

/// Messages, and how many that is a day; less than a day counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Rate {
    pub messages: u64,
    pub messages_per_day: f64,
}

impl Span {
    /// The span, with one more moment in it.
    #[must_use]
    pub fn with(span: Option<Self>, at: WallTime) -> Self {
        let Self { first_seen, last_seen } = span.unwrap_or(Self { first_seen: at, last_seen: at });
        Self { first_seen: first_seen.min(at), last_seen: last_seen.max(at) }
    }

    #[must_use]
    pub fn seconds(self) -> u64 {
        self.last_seen.seconds_since(self.first_seen)
    }
}

impl Summary {
    /// Seconds that were judged: those after learning, or all.
    #[must_use]
    pub fn judged_s(&self) -> u64 {
        let Some(span) = self.span else { return 0 };
        match &self.learned {
            Some(learned) => span.last_seen.seconds_since(learned.until.max(span.first_seen)),
            None => span.seconds(),
        }
    }

    pub(crate) fn flow(&mut self, flow: &RecordedFlow) {
        self.flows += 1;
        self.span = Some(Span::with(self.span, flow.at));
        if !self.nodes.contains(&flow.node) {
            self.nodes.insert(flow.node.clone());
        }
    }

    pub(crate) fn message(&mut self, alert: &Alert) {
        self.total.messages += 1;
        if let Some(lead) = alert.lead() {
            self.by_kind.entry(lead.kind).or_default().messages += 1;
        }
        self.by_service.entry(alert.service.clone()).or_default().messages += 1;
    }

    /// Works the daily figures out.
    pub(crate) fn close(&mut self) {
        const DAY_S: f64 = 24.0 * 60.0 * 60.0;
        let days = (self.judged_s() as f64 / DAY_S).max(1.0);
        let rates = self.by_kind.values_mut().chain(self.by_service.values_mut());
        for rate in rates.chain([&mut self.total]) {
            rate.messages_per_day = (rate.messages as f64 / days * 100.0).round() / 100.0;
        }
    }
}
