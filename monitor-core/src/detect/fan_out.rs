//! A service that shows more that is new than is told one by one, in words: how many, to about how many
//! others, since when, with what, and what can be done. The figures are the kernel's.

use std::sync::Arc;

use crate::attribute::Workload;
use crate::detect::words::{place_of, process_reasons};
use crate::detect::{Finding, Kind, Reason, Severity};
use crate::flow::{Direction, Process};
use crate::ids::{ServiceName, WallTime};

/// What is known of one service's floods of one direction.
#[derive(Debug, Clone)]
pub struct FanOut<'a> {
    pub service: &'a ServiceName,
    pub direction: Direction,
    pub severity: Severity,
    pub since: WallTime,
    pub at: WallTime,
    /// Flows not told one by one, and about how many different far ends they had: 0 where the kernel could
    /// not keep account of these.
    pub count: u64,
    pub peers: u64,
    /// A few far ends, as text.
    pub examples: Vec<String>,
    pub process: Option<Arc<Process>>,
    pub workload: Option<&'a Workload>,
}

/// Writes the finding about a flood out.
#[must_use]
pub fn fan_out_finding(node: &str, fan_out: FanOut<'_>) -> Finding {
    let mut reasons = vec![first_reason(&fan_out)];
    if !fan_out.examples.is_empty() {
        let text = format!("among them {}", fan_out.examples.join(", "));
        reasons.push(Reason { name: "examples".to_owned(), weight: 0.0, text });
    }
    reasons.extend(fan_out.process.iter().flat_map(|it| process_reasons(it)));
    let text = "where this is its business (a crawler, a proxy, a scanner of your own), raise \
                `detect.budget` or mute it"
        .to_owned();
    reasons.push(Reason { name: "expected".to_owned(), weight: 0.0, text });
    let score = reasons.iter().map(|reason| reason.weight).sum::<f64>().clamp(0.0, 10.0);
    Finding {
        kind: Kind::FanOut,
        severity: fan_out.severity,
        edge: None,
        dialled: None,
        outcome: None,
        at: fan_out.at,
        score: (score * 10.0).round() / 10.0,
        reasons,
        nearest: None,
        attack: match fan_out.direction {
            Direction::Outbound => vec!["T1046".to_owned()],
            Direction::Inbound => vec!["T1498".to_owned()],
            Direction::Listening => Vec::new(),
        },
        process: fan_out.process,
        place: place_of(node, fan_out.workload),
    }
}

/// Named after the direction: the two are never one finding.
fn first_reason(fan_out: &FanOut<'_>) -> Reason {
    let FanOut { service, direction, since, count, peers, .. } = fan_out;
    let since = since.to_second();
    let (name, what, of_them) = match direction {
        Direction::Outbound => (
            "fan-out",
            "dialled, or sent to, more that is new than its budget",
            format!("about {peers} different addresses and ports"),
        ),
        Direction::Inbound => (
            "flooded",
            "was dialled, or sent to, by more that is new than its budget",
            format!("by about {peers} different clients"),
        ),
        Direction::Listening => (
            "many-listeners",
            "opened more ports that are new than its budget",
            format!("about {peers} different ones"),
        ),
    };
    let mut text = format!("{service} {what}: {count} times since {since}");
    if *peers != 0 {
        text = format!("{text}, {of_them}");
    }
    Reason { name: name.to_owned(), weight: Kind::FanOut.weight(), text }
}
