//! Who is who, as runtimes and the cluster tell it: which service a container or a pod is, and whose
//! an address was at a given moment. It holds what was said last, also while a source is away, and
//! judges nothing. What the two ends of a connection say themselves goes before it.

mod fact;
mod links;
mod meaning;
mod subjects;
mod tenancy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::Protocol;
use crate::ids::{ServiceName, WallTime};

pub use self::fact::{
    ClusterService, Container, EndpointPort, Endpoints, Fact, Key, Kind, Node, Pod, ServicePort,
    Source, Subject,
};
pub use self::meaning::{Holder, Identity};
use self::subjects::{Known, Subjects};
use self::tenancy::Tenancies;

/// All that is known. Bounded by [`Directory::SUBJECTS`]; what is gone by number and age.
#[derive(Debug, Default)]
pub struct Directory {
    subjects: Subjects,
    /// Whoever may be named by more than one source, by its id alone.
    containers: BTreeMap<Arc<str>, BTreeSet<Source>>,
    pods: Tenancies<Arc<str>>,
    /// The uids of static pods by those that endpoints call them by.
    aliases: BTreeMap<Arc<str>, Arc<str>>,
    hosts: Tenancies<Arc<str>>,
    /// Whose addresses lead to them: Services, by address.
    services: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Services by the port that every node serves them at.
    node_ports: BTreeMap<(Protocol, u16), Arc<str>>,
    /// Slices by the addresses in them.
    behind: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Slices of each Service.
    slices: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    nodes: BTreeMap<IpAddr, Arc<str>>,
    /// Gone, and still answering for what is on its way.
    gone: VecDeque<(WallTime, Key)>,
    listing: BTreeSet<(Source, Kind)>,
    sources: BTreeMap<Source, State>,
    refused: u64,
}

/// How a source is, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub presence: Presence,
    pub since: WallTime,
    /// What it does not tell.
    pub without: Vec<String>,
}

impl State {
    const fn is_away(&self) -> bool {
        matches!(self.presence, Presence::Away(_))
    }
}

/// Whether a source answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    Present,
    /// And why.
    Away(String),
}

/// What followed from a [`Fact`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// Containers (by id) and pods (by uid) of which something else is known now.
    pub workloads: BTreeSet<Arc<str>>,
    /// Addresses that mean somebody else now.
    pub addresses: BTreeSet<IpAddr>,
    /// What is to be stored: None for what is gone.
    pub stored: Vec<(Key, Option<Subject>)>,
}

impl Directory {
    /// Beyond this nothing more is taken in.
    pub const SUBJECTS: usize = 200_000;
    /// What is gone answers for so long, seconds.
    const GONE_S: i64 = 60;
    /// No more of what is gone than this.
    const GONE: usize = 8_192;

    /// Takes up what was stored: it holds until its source says otherwise.
    pub fn restore(&mut self, at: WallTime, stored: Vec<(Source, Subject)>) {
        for (source, subject) in stored {
            let mut changed = Changed::default();
            self.is(at, source, subject, &mut changed);
        }
    }

    /// Takes a fact in.
    pub fn take(&mut self, at: WallTime, fact: Fact) -> Changed {
        let mut changed = Changed::default();
        match fact {
            Fact::Is(source, subject) => self.is(at, source, *subject, &mut changed),
            Fact::Gone(key) => self.leaves(at, &key, &mut changed),
            Fact::Listing(source, kind) => {
                self.listing.insert((source, kind));
                for known in self.subjects.of_kind_mut(source, kind) {
                    known.listed = false;
                }
            }
            Fact::Listed(source, kind) => {
                // A list that broke off says nothing of what it had not come to.
                if self.listing.remove(&(source, kind)) {
                    let known = self.subjects.of_kind(source, kind);
                    let unlisted = known.filter(|(_, it)| !it.listed);
                    let key = |id: &Arc<str>| Key { source, kind, id: Arc::clone(id) };
                    let unlisted: Vec<Key> = unlisted.map(|(id, _)| key(id)).collect();
                    for key in unlisted {
                        self.leaves(at, &key, &mut changed);
                    }
                }
            }
            Fact::Present(source) => self.is_so(at, source, Presence::Present),
            Fact::Away(source, why) => {
                let was_away = self.state(source).is_some_and(State::is_away);
                if !was_away {
                    self.listing.retain(|(it, _)| *it != source);
                }
                self.is_so(at, source, Presence::Away(why));
            }
            Fact::Without(source, what) => {
                if let Some(state) = self.sources.get_mut(&source) {
                    state.without = what;
                }
            }
        }
        self.forget(at);
        changed
    }

    /// Another reason to be away is no other absence.
    fn is_so(&mut self, at: WallTime, source: Source, presence: Presence) {
        let before = self.sources.remove(&source);
        let without = before.as_ref().map(|it| it.without.clone()).unwrap_or_default();
        let mut state = State { presence, since: at, without };
        if let Some(before) = before.filter(|before| before.is_away() == state.is_away()) {
            state.since = before.since;
        }
        self.sources.insert(source, state);
    }

    /// How a source is; None where nothing was heard of it.
    #[must_use]
    pub fn state(&self, source: Source) -> Option<&State> {
        self.sources.get(&source)
    }

    /// The sources that were heard of, and how they are.
    pub fn sources(&self) -> impl Iterator<Item = (Source, &State)> {
        self.sources.iter().map(|(source, state)| (*source, state))
    }

    /// How much a source told of.
    #[must_use]
    pub fn count(&self, source: Source, kind: Kind) -> usize {
        self.subjects.of_kind(source, kind).filter(|(_, it)| it.gone.is_none()).count()
    }

    /// What was not taken in for want of room.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether a source may still tell the lasting name of what has a provisional one.
    #[must_use]
    pub fn may_name(&self, provisional: &ServiceName) -> bool {
        let asks = |source| self.sources.contains_key(&source);
        match provisional.scheme() {
            "docker" => asks(Source::Docker),
            "podman" => asks(Source::Podman),
            "k8s" => asks(Source::Kubernetes) || asks(Source::Cri),
            _ => false,
        }
    }

    /// Who may still tell whose an address of the inside is: the cluster of every pod, a runtime of the
    /// containers that it starts here.
    #[must_use]
    pub fn telling_addresses(&self) -> Option<Source> {
        let telling = [Source::Kubernetes, Source::Cri, Source::Docker, Source::Podman];
        telling.into_iter().find(|it| self.sources.contains_key(it))
    }

    fn is(&mut self, at: WallTime, source: Source, subject: Subject, changed: &mut Changed) {
        let key = subject.key(source);
        let mut before = None;
        if let Some(known) = self.subjects.known_mut(&key) {
            known.listed = true;
            if known.subject == subject && known.gone.is_none() {
                return;
            }
            before = self.subjects.remove(&key);
            if let Some(before) = &before {
                self.unlink(at, &before.subject, Some(&subject), changed);
            }
        } else if self.subjects.len() >= Self::SUBJECTS {
            self.refused += 1;
            return;
        }
        // What was gone held nothing any more.
        let before = before.filter(|it| it.gone.is_none());
        let before = before.as_ref().map(|it| &it.subject);
        self.link(at, &key, (&subject, before), changed);
        let stored = subject.clone();
        self.subjects.insert(&key, Known { subject, listed: true, gone: None });
        changed.stored.push((key, Some(stored)));
    }

    fn leaves(&mut self, at: WallTime, key: &Key, changed: &mut Changed) {
        let Some(known) = self.subjects.known_mut(key) else { return };
        if known.gone.is_some() {
            return;
        }
        known.gone = Some(at);
        let subject = known.subject.clone();
        self.unlink(at, &subject, None, changed);
        self.gone.push_back((at, key.clone()));
        changed.stored.push((key.clone(), None));
    }

    /// Forgets what has been gone for long.
    fn forget(&mut self, now: WallTime) {
        let old = now.plus_seconds(-Self::GONE_S);
        while let Some((at, key)) = self.gone.front()
            && (*at < old || self.gone.len() > Self::GONE)
        {
            // Told again since, or gone once more since: that is another end.
            if self.subjects.known(key).is_some_and(|known| known.gone == Some(*at)) {
                self.subjects.remove(key);
                if key.kind == Kind::Container
                    && let Some(sources) = self.containers.get_mut(&key.id)
                {
                    sources.remove(&key.source);
                    if sources.is_empty() {
                        self.containers.remove(&key.id);
                    }
                }
            }
            self.gone.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
