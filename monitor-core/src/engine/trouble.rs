//! What the engine says of the agent itself: what it lost, what is detached, when nobody looked. Told
//! like any other finding, in an incident of the node's own.

use std::collections::BTreeMap;

use crate::detect::{Finding, Trouble, sensor_finding};
use crate::engine::{Effect, Engine};
use crate::flow::Loss;
use crate::ids::{BootTime, Now, ServiceName, WallTime};
use crate::incident::{About, Incident};

/// Things not told, by reason, and how much of it was said.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) counted: BTreeMap<Loss, u64>,
    said: BTreeMap<Loss, Said>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Said {
    count: u64,
    next: BootTime,
}

impl Losses {
    /// A reason is said again after this time, with what came since, milliseconds.
    const EVERY_MS: u64 = 3_600_000;

    pub(crate) fn add(&mut self, loss: Loss, count: u64) {
        *self.counted.entry(loss).or_default() += count;
    }

    /// What is to be said now.
    fn due(&mut self, now: Now) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        for (&loss, &total) in &self.counted {
            let said = self.said.entry(loss).or_default();
            if is_said_elsewhere(loss) || said.count == total || now.boot < said.next {
                continue;
            }
            troubles.push(Trouble::Lost { loss, count: total - said.count });
            *said = Said { count: total, next: now.boot.plus_millis(Self::EVERY_MS) };
        }
        troubles
    }
}

/// Missing counts hide no edge; a flood and an unusual socket are told by themselves, a missing hook by
/// its name: `status` shows how many.
const fn is_said_elsewhere(loss: Loss) -> bool {
    matches!(
        loss,
        Loss::Untracked
            | Loss::Evicted
            | Loss::Unwatched
            | Loss::Unheard
            | Loss::Unasked
            | Loss::OverBudget
            | Loss::ServiceFull
            | Loss::HookMissing
    )
}

/// Nobody looked before this start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    pub(crate) since: WallTime,
    /// What is found until then may be older than it looks.
    pub(crate) matters_until: BootTime,
}

impl Engine {
    /// A gap this long is told by itself, seconds; a shorter one, a restart, only with what is found.
    const GAP_TOLD_S: u64 = 600;
    /// Sockets older than the agent are told within this time of its start, milliseconds.
    const GAP_MATTERS_MS: u64 = 5_000;

    /// Something is wrong with the agent's sight.
    pub(crate) fn trouble(&mut self, now: Now, trouble: &Trouble) {
        if let Trouble::Gap { seconds, since, .. } = *trouble {
            let matters_until = now.boot.plus_millis(Self::GAP_MATTERS_MS);
            self.gap = Some(Gap { since, matters_until });
            if seconds < Self::GAP_TOLD_S {
                return;
            }
        }
        let finding = sensor_finding(trouble, &self.settings.node, now.wall);
        let service = ServiceName::new("host", &self.settings.node);
        self.report(now, &service, About::Agent, vec![finding]);
    }

    /// Something is right again: incidents that said otherwise, and nothing else, are over.
    pub(crate) fn mended(
        &mut self,
        now: Now,
        says_otherwise: impl Fn(&Finding) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        let about_it = |it: &Incident| {
            it.about == About::Agent && it.findings.iter().all(|it| says_otherwise(it))
        };
        let open = self.incidents.open.values();
        let over: Vec<String> = open.filter(|it| about_it(it)).map(|it| it.id.clone()).collect();
        for id in over {
            self.resolve(now, &id, effects);
        }
    }

    pub(crate) fn tell_losses(&mut self, now: Now) {
        for trouble in self.losses.due(now) {
            self.trouble(now, &trouble);
        }
    }
}
