//! Keeps the store and the kernel's counters in step: whenever evidence is stored, so is how much of
//! which kernel key it holds, in the same transaction. So an agent that takes up the kernel's tables
//! after `kill -9` counts nothing twice, and takes nothing for told that was not stored.

use monitor_core::baseline::Written;
use monitor_core::engine::{Change, Effect, Engine, Snapshot, Tallies};
use sha2::{Digest as _, Sha256};

use crate::capture::{Before, Capture};
use crate::config::Config;

/// What the store knows of the kernel's tables.
pub(crate) struct Tables {
    stored: Option<String>,
    judges: String,
    before: Before,
    /// How many rows it has of them.
    rows: usize,
    /// What is to be judged anew although the tables are the same.
    again: Tallies,
}

/// What was stored of the kernel's tables since that was last begun anew: it only grows until then.
pub(crate) struct Book {
    /// As the store names the tables.
    name: String,
    rows: usize,
}

impl Tables {
    /// Takes its part of what was stored. Where the agent judged otherwise than it does now, by its
    /// version or its configuration, all keys are to be judged anew.
    pub(crate) fn of(config: &Config, files: &Written, snapshot: &mut Snapshot) -> Self {
        let judges = judges(config, files);
        let stored = snapshot.tables.take();
        let mut again = Tallies::default();
        let mut before = Before { tables: None, tallied: std::mem::take(&mut snapshot.tallied) };
        if let Some((tables, judged)) = stored.as_deref().and_then(|it| it.split_once(' ')) {
            before.tables = Some(tables.to_owned());
            if judged != judges {
                let rows = before.tallied.rows().map(|(key, mut held)| {
                    held.iter_mut().for_each(|it| it.again = true);
                    (key, held)
                });
                again.extend(rows);
                before.tallied = again.clone();
            }
        }
        let rows = before.tallied.len();
        Self { stored, judges, before, rows, again }
    }

    pub(crate) fn before(&mut self) -> Before {
        std::mem::take(&mut self.before)
    }

    /// What the store knows from now on, and what it is to know for that.
    pub(crate) fn changed(self, tables: Option<&str>) -> (Book, Vec<Change>) {
        let judges = &self.judges;
        let name = tables.map_or_else(String::new, |tables| format!("{tables} {judges}"));
        let stored = self.stored.unwrap_or_default();
        if stored == name {
            return (Book { name, rows: self.rows }, Vec::new());
        }
        let same = tables.is_some_and(|tables| stored.starts_with(tables));
        let again = if same { self.again } else { Tallies::default() };
        let book = Book { name: name.clone(), rows: again.len() };
        let again = (!again.is_empty()).then_some(Change::Tallied(again));
        (book, std::iter::once(Change::Tables(name)).chain(again).collect())
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

impl Book {
    /// Rows beyond twice as many as there are keys, before it is begun anew: so that small tables are not
    /// written again and again.
    const ROWS: usize = 16_384;

    /// Adds what belongs into the same transaction.
    pub(crate) fn tally(
        &mut self,
        effects: &mut Vec<Effect>,
        engine: &mut Engine,
        capture: &mut Capture,
    ) {
        if self.name.is_empty() {
            return;
        }
        let mut again = Tallies::default();
        for effect in &*effects {
            if let Effect::Rearm(keys) = effect {
                again.append(capture.tallied_again(keys, |key| engine.edge_of(key)));
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
            // Before those that are to be told again.
            effects.push(Effect::Store(self.held(engine, capture)));
        }
        self.rows += again.len();
        if !again.is_empty() {
            effects.push(Effect::Store(vec![Change::Tallied(again)]));
        }
    }

    /// What is held of the keys now: what changed of it, or all of it where too much has.
    fn held(&mut self, engine: &Engine, capture: &mut Capture) -> Vec<Change> {
        let mut changes = Vec::new();
        let tallies = if self.rows > 2 * capture.told_keys() + Self::ROWS {
            changes.push(Change::Tables(self.name.clone()));
            self.rows = 0;
            capture.tallied_anew(|key| engine.edge_of(key))
        } else {
            capture.tallied(|key| engine.edge_of(key))
        };
        self.rows += tallies.len();
        if !tallies.is_empty() {
            changes.push(Change::Tallied(tallies));
        }
        changes
    }
}
