//! What is wrong with the agent's own sight, in words: what it lost, what is detached, what it does
//! not know because nobody looked. An agent that sees less than it should is an alert itself.

use crate::detect::{Finding, Kind, Reason, Severity, Where};
use crate::directory::Source;
use crate::flow::{Half, Influence, Joined, Loss};
use crate::ids::WallTime;

const FILES: &str = "baseline-file";
const CANARY: &str = "canary";

/// One way in which the agent sees less than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A kernel program of ours is attached no longer.
    Detached { program: String },
    /// What was to outlive the agent does not any more: this pin is gone.
    Unpinned { path: String },
    /// Somebody attached a program of theirs beside ours.
    Joined(Joined),
    /// The watched cgroup is gone.
    Removed { cgroup: String },
    /// The agent's own connection was made and not told, or only the other half of it.
    Canary { half: Half },
    /// A baseline file cannot be read: what it said before still holds.
    Files { mistake: String },
    /// So many things were not told, for this reason, since it was last said.
    Lost { loss: Loss, count: u64 },
    /// A source of names that must be there is not.
    Source { source: Source, why: String, since: WallTime },
    /// Nothing was stored when the agent started.
    EmptyStore,
    /// Nobody looked for this long before the agent started.
    Gap { seconds: u64, since: WallTime, meanwhile: Meanwhile },
}

/// What became of what happened while nobody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    Unseen,
    /// The kernel programs were attached all the time: it is told now, later than it happened.
    Counted,
}

impl Trouble {
    /// What tells one cause from another, whatever its figures.
    fn name(&self) -> String {
        match self {
            Self::Detached { program } => format!("detached-{program}"),
            Self::Unpinned { .. } => "unpinned".to_owned(),
            Self::Joined(Joined { program, hook, .. }) => format!("joined-{hook}-{program}"),
            Self::Removed { .. } => "removed".to_owned(),
            Self::Canary { .. } => CANARY.to_owned(),
            Self::Files { .. } => FILES.to_owned(),
            Self::Lost { loss, .. } => format!("lost-{loss}"),
            Self::Source { source, .. } => source_name(*source),
            Self::EmptyStore => "empty-store".to_owned(),
            Self::Gap { .. } => "gap".to_owned(),
        }
    }

    /// Whether a finding says that a baseline file cannot be read.
    #[must_use]
    pub fn is_about_files(finding: &Finding) -> bool {
        is_about(finding, FILES)
    }

    /// Whether a finding says that the canary did not come back.
    #[must_use]
    pub fn is_about_canary(finding: &Finding) -> bool {
        is_about(finding, CANARY)
    }

    /// Whether a finding says that this source of names is away.
    #[must_use]
    pub fn is_about_source(finding: &Finding, source: Source) -> bool {
        is_about(finding, &source_name(source))
    }

    const fn severity(&self) -> Severity {
        match self {
            Self::Detached { .. } | Self::Removed { .. } | Self::Canary { .. } => Severity::High,
            Self::Files { .. } | Self::EmptyStore | Self::Unpinned { .. } | Self::Source { .. } => {
                Severity::Medium
            }
            Self::Joined(Joined { influence: Influence::MayHide, .. }) => Severity::Medium,
            Self::Joined(Joined { influence: Influence::None, .. }) | Self::Gap { .. } => {
                Severity::Low
            }
            Self::Lost { loss, .. } => match loss {
                // Late or counted less, and nothing hidden.
                Loss::RingFull
                | Loss::Untracked
                | Loss::Unwatched
                | Loss::Evicted
                | Loss::ServiceFull
                | Loss::Unheard
                | Loss::Unasked
                | Loss::OverBudget => Severity::Low,
                Loss::MapFull
                | Loss::Unattributed
                | Loss::Undecodable
                | Loss::TableFull
                | Loss::Untaken
                | Loss::HookMissing => Severity::Medium,
            },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Detached { program } => format!(
                "the kernel program {program} is attached no longer, and not by us: what it showed \
                 is not seen until the agent is restarted"
            ),
            Self::Unpinned { path } => format!(
                "{path} is gone, and not by us: what is attached ends with the agent, and what happens \
                 until the next one runs is not seen; restart the agent, on a mounted bpffs"
            ),
            Self::Joined(joined) => joined_text(joined),
            Self::Removed { cgroup } => format!(
                "the watched cgroup {cgroup} was removed, and with it all that was attached: nothing is \
                 seen until the agent is restarted on one that is there"
            ),
            Self::Canary { half } => {
                let what = match half {
                    Half::Dial => "as it was dialled",
                    Half::Accept => "as it was accepted",
                    Half::Both => "at either end",
                };
                format!(
                    "a connection that the agent made itself was not seen {what} within 5 s: others \
                     are not seen either; its kernel programs may be detached or flooded"
                )
            }
            Self::Files { mistake } => {
                format!("{mistake}; what the files said before still holds")
            }
            Self::Source { source, why, since } => format!(
                "{source}, which is required for names, is away since {since}: {why}; what it said \
                 before still holds, what is new goes by the names of cgroups and by addresses"
            ),
            Self::Lost { loss, count } => format!("{count} × {loss}: {}", meaning(*loss)),
            Self::EmptyStore => {
                "the store was empty when the agent started, so no baseline it had \
                learned is left; at a first start this is expected"
                    .to_owned()
            }
            Self::Gap { seconds, since, meanwhile } => format!(
                "nobody looked for {} before this start (since {since}): {}",
                crate::detect::words::span(*seconds),
                match meanwhile {
                    Meanwhile::Unseen => "what was dialled and ended then was not seen",
                    Meanwhile::Counted => {
                        "the kernel programs went on counting, and what was new then is told now"
                    }
                }
            ),
        }
    }
}

fn source_name(source: Source) -> String {
    format!("source-{source}")
}

fn joined_text(joined: &Joined) -> String {
    let Joined { program, hook, cgroup, more, influence } = joined;
    let places = match more {
        0 => cgroup.clone(),
        more => format!("{cgroup} and {more} more"),
    };
    let effect = match influence {
        Influence::None => "ours still sees all that it saw",
        Influence::MayHide => {
            "it runs before ours on this kernel, so that an address which it changes is shown as what \
             it was changed to"
        }
    };
    format!("somebody attached the program {program} to {places}, beside our {hook}: {effect}")
}

fn is_about(finding: &Finding, name: &str) -> bool {
    finding.kind == Kind::Sensor && finding.reasons.iter().all(|it| it.name == name)
}

/// What a loss means to who reads of it, and what can be done.
const fn meaning(loss: Loss) -> &'static str {
    match loss {
        Loss::RingFull => {
            "news came faster than they were read; they are told at the next sweep, up to 10 s \
             late; a larger `capture.ring` helps"
        }
        Loss::MapFull => {
            "a kernel table was full, and what did not fit was not seen; a larger one of \
             `capture.seen`, `connections`, `listeners`, `bound`, `processes` helps"
        }
        Loss::Unattributed => {
            "connections were accepted by a listener that is not known: their server is not named"
        }
        Loss::Untracked => {
            "connections were no longer followed when they ended: their bytes are missing"
        }
        Loss::Unwatched => {
            "sockets that are neither TCP's nor UDP's were made where packets were not looked at: where \
             they sent may be missing"
        }
        Loss::Undecodable => {
            "the kernel programs and the agent do not agree on their format: one of them is of \
             another version; restart the agent"
        }
        Loss::TableFull => {
            "the map holds as many edges as it can: further ones are judged, and neither kept nor \
             learned; somebody scans, or a service dials without end"
        }
        Loss::ServiceFull => {
            "the map holds as many undecided edges of one service as it may: further ones are judged, \
             and neither kept nor learned"
        }
        Loss::Unheard => {
            "messages of DNS were not read (too many of one cgroup, too long, or the question was older \
             than the look): names may be missing"
        }
        Loss::Unasked => {
            "DNS answers came that were not asked for, or from a resolver that may not be asked: they \
             name no address"
        }
        Loss::Untaken => {
            "sources of names know more containers, pods and services than can be held: addresses of the \
             further ones are nobody's"
        }
        Loss::OverBudget => {
            "a cgroup showed more that is new than its budget: it is told as a whole (fan-out)"
        }
        Loss::Evicted => {
            "more keys were seen than the kernel holds: what the dropped ones counted since the last \
             sweep is missing; a larger `capture.seen` helps"
        }
        Loss::HookMissing => "kernel programs are not attached: what they show is not seen",
    }
}

/// Writes the finding about a trouble out.
#[must_use]
pub fn sensor_finding(trouble: &Trouble, node: &str, at: WallTime) -> Finding {
    let weight = Kind::Sensor.weight();
    Finding {
        kind: Kind::Sensor,
        severity: trouble.severity(),
        edge: None,
        outcome: None,
        at,
        score: weight,
        reasons: vec![Reason { name: trouble.name(), weight, text: trouble.text() }],
        nearest: None,
        attack: match trouble {
            Trouble::Detached { .. }
            | Trouble::Unpinned { .. }
            | Trouble::Joined(_)
            | Trouble::Removed { .. }
            | Trouble::Canary { .. }
            | Trouble::EmptyStore => {
                vec!["T1562.001".to_owned()]
            }
            Trouble::Files { .. }
            | Trouble::Source { .. }
            | Trouble::Lost { .. }
            | Trouble::Gap { .. } => Vec::new(),
        },
        process: None,
        place: Where { node: node.to_owned(), ..Where::default() },
    }
}
