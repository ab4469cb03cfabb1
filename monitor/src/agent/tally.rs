//! Keeps the store and the kernel's counters in step: whenever evidence is stored, so is how much of
//! which kernel key it holds, in the same transaction. So an agent that takes up the kernel's tables
//! after `kill -9` counts nothing twice, and takes nothing for told that was not stored.

use monitor_core::baseline::Written;
use monitor_core::engine::{Change, Effect, Engine, Snapshot, Tallied};
use sha2::{Digest as _, Sha256};

use crate::capture::{Before, Capture};
use crate::config::Config;

/// What the store knows of the kernel's tables.
pub(crate) struct Tables {
    stored: Option<String>,
    judges: String,
    before: Before,
    /// What is to be judged anew although the tables are the same.
    again: Vec<Change>,
}

impl Tables {
    /// Takes its part of what was stored. Where the agent judged otherwise than it does now, by its
    /// version or its configuration, all keys are to be judged anew.
    pub(crate) fn of(config: &Config, files: &Written, snapshot: &mut Snapshot) -> Self {
        let judges = judges(config, files);
        let stored = snapshot.tables.take();
        let mut again = Vec::new();
        let mut before = Before { tables: None, tallied: std::mem::take(&mut snapshot.tallied) };
        if let Some((tables, judged)) = stored.as_deref().and_then(|it| it.split_once(' ')) {
            before.tables = Some(tables.to_owned());
            if judged != judges {
                for (key, tallied) in &mut before.tallied {
                    tallied.again = true;
                    again.push(change((key.clone(), Some(tallied.clone()))));
                }
            }
        }
        Self { stored, judges, before, again }
    }

    pub(crate) fn before(&mut self) -> Before {
        std::mem::take(&mut self.before)
    }

    /// What the store is to know now, where that is not what it knows.
    pub(crate) fn changed(self, tables: Option<&str>) -> Vec<Change> {
        let judges = &self.judges;
        let now = tables.map_or_else(String::new, |tables| format!("{tables} {judges}"));
        let stored = self.stored.unwrap_or_default();
        if stored == now {
            return Vec::new();
        }
        let same = tables.is_some_and(|tables| stored.starts_with(tables));
        let kept = self.again.into_iter().filter(|_| same);
        std::iter::once(Change::Tables(now)).chain(kept).collect()
    }
}

/// What may change a judgement although nobody decided anything.
fn judges(config: &Config, files: &Written) -> String {
    let Config { mode, learn, detect, .. } = config;
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{version} {mode:?} {learn:?} {detect:?} {files:?}");
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Adds what belongs into the same transaction.
pub(crate) fn tally(effects: &mut Vec<Effect>, engine: &mut Engine, capture: &mut Capture) {
    if capture.tables().is_none() {
        return;
    }
    let mut more = Vec::new();
    for effect in &*effects {
        if let Effect::Rearm(keys) = effect {
            let rows = capture.tallied_again(keys, |key| engine.edge_of(key));
            more.extend(rows.map(change));
        }
    }
    let stores_evidence = |effect: &Effect| {
        let is_evidence = |change: &Change| {
            matches!(change, Change::Edge(..) | Change::Service(..) | Change::Incident(..))
        };
        matches!(effect, Effect::Store(changes) if changes.iter().any(is_evidence))
    };
    if effects.iter().any(stores_evidence) {
        effects.push(Effect::Store(engine.unsaved()));
        let rows: Vec<_> = capture.tallied(|key| engine.edge_of(key)).map(change).collect();
        // Before those that are to be told again.
        effects.push(Effect::Store(rows));
    }
    if !more.is_empty() {
        effects.push(Effect::Store(more));
    }
}

fn change((key, tallied): (Vec<u8>, Option<Tallied>)) -> Change {
    Change::Tallied(key, tallied.map(Box::new))
}
