//! The sources of names as they are: shown to whoever asks, and told where one is away that must not be.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::detect::Trouble;
use crate::directory::{Kind, Presence, Source, State};
use crate::engine::{Effect, Engine};
use crate::ids::{Now, WallTime};

/// A source of names as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    pub source: Source,
    /// Whether it is told when it is away.
    pub required: bool,
    /// Why it does not answer, where it does not: what it said last still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// What it does not tell, though it is to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// It is so since then.
    pub since: WallTime,
    pub containers: usize,
    pub pods: usize,
    pub services: usize,
    pub nodes: usize,
}

/// In how many cgroups names are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lookups {
    pub heard: usize,
    /// Where they are asked for as well, and there was no room for more.
    pub unheard: usize,
}

impl Lookups {
    pub(crate) const fn is_nowhere(&self) -> bool {
        self.heard == 0 && self.unheard == 0
    }
}

impl From<(usize, usize)> for Lookups {
    fn from((heard, unheard): (usize, usize)) -> Self {
        Self { heard, unheard }
    }
}

impl Engine {
    /// A source that is required may be away for so long, seconds: a restart of its runtime is no news.
    pub const AWAY_S: i64 = 60;

    pub(crate) fn source_views(&self) -> Vec<SourceView> {
        let directory = self.attribution.directory();
        let view = |(source, state): (Source, &State)| {
            let count = |kind| directory.count(source, kind);
            SourceView {
                source,
                required: self.settings.required.contains(&source),
                away: match &state.presence {
                    Presence::Present => None,
                    Presence::Away(why) => Some(why.clone()),
                },
                without: state.without.clone(),
                since: state.since,
                containers: count(Kind::Container),
                pods: count(Kind::Pod),
                services: count(Kind::Service),
                nodes: count(Kind::Node),
            }
        };
        directory.sources().map(view).collect()
    }

    /// It answers: whatever said otherwise, also before a restart, is over.
    pub(crate) fn source_came(&mut self, now: Now, source: Source, effects: &mut Vec<Effect>) {
        self.absent.remove(&source);
        self.mended(now, |finding| Trouble::is_about_source(finding, source), effects);
    }

    /// Tells once of each required source that has been away for long, or never came.
    pub(crate) fn tell_absent(&mut self, now: Now) {
        let started = self.started.unwrap_or(now.wall);
        let awaited: BTreeSet<Source> =
            self.settings.required.difference(&self.absent).copied().collect();
        for source in awaited {
            let state = self.attribution.directory().state(source);
            let (why, since) = match state {
                Some(State { presence: Presence::Present, .. }) => continue,
                Some(State { presence: Presence::Away(why), since, .. }) => (why.clone(), *since),
                None => ("it was not heard of".to_owned(), started),
            };
            if since.plus_seconds(Self::AWAY_S) <= now.wall {
                self.absent.insert(source);
                self.trouble(now, &Trouble::Source { source, why, since });
            }
        }
    }
}
