//! How the API server is as a whole, while each kind is followed by itself: it is there once all are
//! followed, and away as soon as one cannot be. Keeps lists apart from that: the directory takes a list
//! that it heard "away" within for one that broke off.

use std::collections::{BTreeMap, BTreeSet};

use monitor_core::directory::{Fact, Kind};
use tokio::sync::{Mutex, watch};

use crate::sources::{Telling, Unheard};

#[derive(Debug)]
pub(super) struct Health {
    telling: Telling,
    state: Mutex<State>,
    /// A kind is followed again that was not.
    recovered: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    followed: BTreeSet<Kind>,
    /// And why.
    ill: BTreeMap<Kind, String>,
    told: Option<Told>,
    /// What was told last of why it is away.
    why: String,
    /// How often it was told away.
    breaks: u64,
    /// What is refused that names are better with.
    without: BTreeSet<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Present,
    Away,
}

/// Whether the server tells what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owned {
    Told,
    Refused,
}

/// A list that is under way.
#[derive(Debug)]
pub(super) struct Listing {
    breaks: u64,
}

impl Health {
    /// What is followed.
    const KINDS: usize = 4;

    pub(super) fn new(telling: Telling) -> Self {
        Self { telling, state: Mutex::default(), recovered: watch::Sender::default() }
    }

    pub(super) async fn tell(&self, fact: Fact) -> Result<(), Unheard> {
        self.telling.tell(fact).await
    }

    pub(super) async fn begin(&self, kind: Kind) -> Result<Listing, Unheard> {
        let state = self.state.lock().await;
        self.tell(Fact::Listing(self.telling.source, kind)).await?;
        Ok(Listing { breaks: state.breaks })
    }

    /// Whether the list holds; else it is to be made again.
    pub(super) async fn end(&self, kind: Kind, listing: Listing) -> Result<bool, Unheard> {
        let state = self.state.lock().await;
        let holds = state.breaks == listing.breaks;
        if holds {
            self.tell(Fact::Listed(self.telling.source, kind)).await?;
        }
        Ok(holds)
    }

    /// Whether the owners of pods are told that `what` says.
    pub(super) async fn owners(&self, what: &'static str, told: Owned) -> Result<(), Unheard> {
        let mut state = self.state.lock().await;
        let is_news = match told {
            Owned::Told => state.without.remove(what),
            Owned::Refused => state.without.insert(what),
        };
        if is_news {
            let refused = |it: &&str| format!("it does not let this agent {it}");
            let without = state.without.iter().map(refused).collect();
            self.tell(Fact::Without(self.telling.source, without)).await?;
        }
        Ok(())
    }

    /// Whether it was ill before.
    pub(super) async fn well(&self, kind: Kind) -> Result<bool, Unheard> {
        let mut state = self.state.lock().await;
        let was_ill = state.ill.remove(&kind).is_some();
        state.followed.insert(kind);
        if state.followed.len() == Self::KINDS && state.told != Some(Told::Present) {
            state.told = Some(Told::Present);
            self.tell(Fact::Present(self.telling.source)).await?;
        }
        if was_ill {
            self.recovered.send_replace(());
        }
        // What was told last may have been this one's: another may have its own reason still.
        let is_so = state.ill.values().any(|why| *why == state.why);
        if !is_so && let Some(why) = state.ill.values().next().cloned() {
            self.away(&mut state, why).await?;
        }
        Ok(was_ill)
    }

    /// Changes whenever a kind is followed again: the server is back, most likely for all.
    pub(super) fn recoveries(&self) -> watch::Receiver<()> {
        self.recovered.subscribe()
    }

    /// Told once for each reason of a kind until that is well again: a server that was gone and is back
    /// may refuse something.
    pub(super) async fn ill(&self, kind: Kind, why: String) -> Result<(), Unheard> {
        let mut state = self.state.lock().await;
        state.followed.remove(&kind);
        let before = state.ill.insert(kind, why.clone());
        let is_news = before.as_ref() != Some(&why) && state.why != why;
        if state.told != Some(Told::Away) || is_news {
            self.away(&mut state, why).await?;
        }
        Ok(())
    }

    /// Lists under way break off as it goes, and not where only another reason is told.
    async fn away(&self, state: &mut State, why: String) -> Result<(), Unheard> {
        if state.told != Some(Told::Away) {
            state.told = Some(Told::Away);
            state.breaks += 1;
        }
        state.why.clone_from(&why);
        self.tell(Fact::Away(self.telling.source, why)).await
    }
}

#[cfg(test)]
mod tests {
    use monitor_core::directory::Source;
    use tokio::sync::mpsc;

    use super::*;

    const FOLLOWED: [Kind; 4] = [Kind::Pod, Kind::Service, Kind::Endpoints, Kind::Node];

    #[tokio::test]
    async fn all_make_it_present_and_one_takes_it_away() {
        let (tell, mut told) = mpsc::channel(16);
        let health = Health::new(Telling { source: Source::Kubernetes, tell });
        for kind in FOLLOWED {
            assert!(told.try_recv().is_err());
            health.well(kind).await.unwrap();
        }
        assert_eq!(told.try_recv(), Ok(Fact::Present(Source::Kubernetes)));
        let listing = health.begin(Kind::Pod).await.unwrap();
        told.try_recv().unwrap();
        for kind in [Kind::Node, Kind::Service] {
            health.ill(kind, "it is gone".to_owned()).await.unwrap();
        }
        assert_eq!(told.try_recv(), Ok(Fact::Away(Source::Kubernetes, "it is gone".to_owned())));
        // Of another kind, also where that is new.
        health.ill(Kind::Pod, "it refuses pods".to_owned()).await.unwrap();
        let refuses = "it refuses pods".to_owned();
        assert_eq!(told.try_recv(), Ok(Fact::Away(Source::Kubernetes, refuses)));
        // Back, and another reason.
        health.ill(Kind::Node, "it is gone".to_owned()).await.unwrap();
        assert!(told.try_recv().is_err());
        health.ill(Kind::Node, "it refuses".to_owned()).await.unwrap();
        assert_eq!(told.try_recv(), Ok(Fact::Away(Source::Kubernetes, "it refuses".to_owned())));
        // The list that was under way counts for nothing now.
        assert!(!health.end(Kind::Pod, listing).await.unwrap());
        // The reason that was told last holds no longer, and another does.
        health.well(Kind::Node).await.unwrap();
        let refuses = "it refuses pods".to_owned();
        assert_eq!(told.try_recv(), Ok(Fact::Away(Source::Kubernetes, refuses)));
        // Nor does it break a list that another reason is told.
        let listing = health.begin(Kind::Pod).await.unwrap();
        told.try_recv().unwrap();
        health.well(Kind::Pod).await.unwrap();
        let gone = "it is gone".to_owned();
        assert_eq!(told.try_recv(), Ok(Fact::Away(Source::Kubernetes, gone)));
        assert!(health.end(Kind::Pod, listing).await.unwrap());
        told.try_recv().unwrap();
        let listing = health.begin(Kind::Pod).await.unwrap();
        health.well(Kind::Service).await.unwrap();
        assert!(health.end(Kind::Pod, listing).await.unwrap());
        let rest: Vec<Fact> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert_eq!(
            rest,
            [
                Fact::Listing(Source::Kubernetes, Kind::Pod),
                Fact::Present(Source::Kubernetes),
                Fact::Listed(Source::Kubernetes, Kind::Pod)
            ]
        );
    }
}
