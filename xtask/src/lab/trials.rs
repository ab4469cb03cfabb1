//! What is done to the application, and what the agent must say of it: the same edges as before, under
//! the same names, and no others; no alert, until somebody dials what was never dialled.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::house::Agent;
use crate::interrupt::{Interrupt, PAUSE};
use crate::lab::outside::{self, Outside};
use crate::lab::runtime::Runtime;
use crate::stage::Stages;

/// How long until everything is seen that happens once a second, and named: the agent promises 10 s for
/// a name.
const SEEN: Duration = Duration::from_secs(50);
const ALERTED: Duration = Duration::from_secs(50);

/// One thing that is done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trial {
    Restart,
    Rescale,
    Recreate,
    RollOut,
    Brief,
    DownAndUp,
    RestartRuntime,
    Away,
}

impl Trial {
    pub(crate) const ALL: [Self; 8] = [
        Self::Restart,
        Self::Rescale,
        Self::Recreate,
        Self::RollOut,
        Self::Brief,
        Self::DownAndUp,
        Self::RestartRuntime,
        Self::Away,
    ];

    const fn what(self) -> &'static str {
        match self {
            Self::Restart => "all of it is restarted",
            Self::Rescale => "another number of one service, then as it was",
            Self::Recreate => "all made anew, with other addresses",
            Self::RollOut => "another image",
            Self::Brief => "what lives for one call",
            Self::DownAndUp => "all taken down, and up again",
            Self::RestartRuntime => "the runtime is restarted",
            Self::Away => "the runtime is away",
        }
    }

    fn of(self, lab: &mut Lab<'_>) -> anyhow::Result<()> {
        match self {
            Self::Restart => lab.runtime.restart(),
            Self::Rescale => {
                lab.runtime.rescale()?;
                lab.settle()?;
                lab.runtime.rescale_back()
            }
            Self::Recreate => lab.runtime.recreate(),
            Self::RollOut => lab.runtime.roll_out(),
            Self::Brief => (0..3).try_for_each(|_| lab.runtime.brief()),
            Self::DownAndUp => {
                lab.runtime.down()?;
                lab.runtime.up()
            }
            Self::RestartRuntime => {
                lab.runtime.leave()?;
                lab.runtime.come_back()
            }
            Self::Away => {
                lab.runtime.leave()?;
                lab.runtime.meanwhile()?;
                lab.wait(lab.away)?;
                lab.runtime.come_back()
            }
        }
    }
}

/// What waited for a name has been told after that.
const NAMED: Duration = Duration::from_secs(12);

const CALLS: u8 = 6;

struct Lab<'a> {
    runtime: &'a mut dyn Runtime,
    agent: Agent,
    interrupt: Interrupt,
    away: Duration,
}

/// Learns, guards, tries everything, and is hijacked in the end.
pub(crate) fn all(
    runtime: &mut dyn Runtime,
    [program, peer]: [&Path; 2],
    stages: &Stages,
    away: Duration,
) -> anyhow::Result<()> {
    let interrupt = runtime.ground().interrupt.clone();
    let at = runtime.ground().at.join("agent");
    let agent = Agent::beside(program, at, &configuration(runtime, Sources::None))?;
    let mut lab = Lab { runtime, agent, interrupt, away };
    lab.runtime.up()?;
    let provisional = lab.runtime.provisional()?;
    if !provisional.is_empty() {
        stages.announce("lab", "nobody is asked: names are provisional, and not exported");
        lab.provisional(&provisional)?;
        lab.agent.configure(&configuration(lab.runtime, Sources::Own))?;
    }
    stages.announce("lab", "the application, older than the agent, is learned");
    lab.agent.start(&lab.interrupt)?;
    lab.runtime.rehearse()?;
    lab.settle().context("learning")?;
    // What the runtime does when something starts is learned as well.
    lab.runtime.restart()?;
    lab.settle().context("learning")?;
    lab.agent.text(&[&["baseline", "guard"][..], lab.runtime.names().guarded].concat())?;
    for trial in lab.runtime.trials() {
        stages.announce("lab", trial.what());
        trial.of(&mut lab).with_context(|| format!("trial: {}", trial.what()))?;
        lab.settle().with_context(|| format!("after: {}", trial.what()))?;
    }
    stages.announce("lab", "whatever waited for a name has been told by now");
    lab.wait(NAMED)?;
    lab.settle()?;
    stages.announce("lab", "another service takes an address");
    lab.reuse()?;
    if let Some(edge) = lab.runtime.names().outside {
        stages.announce("lab", "a name outside is dialled");
        lab.outside(peer, edge)?;
    }
    stages.announce("lab", "hijacked");
    lab.hijack()?;
    lab.agent.end()
}

/// Who the agent asks.
#[derive(Clone, Copy)]
enum Sources {
    None,
    Own,
}

fn configuration(runtime: &mut dyn Runtime, sources: Sources) -> String {
    let own = runtime.source().filter(|_| matches!(sources, Sources::Own));
    let mut text = format!(
        "mode = \"learn\"\nnode = \"lab\"\n[capture]\npin = false\ncgroup = {:?}\n[identity]\n",
        runtime.ground().cgroup()
    );
    for key in ["docker", "podman", "cri", "kubernetes"] {
        let place = own.as_ref().filter(|(it, _)| *it == key).map_or("off", |(_, place)| place);
        text.push_str(&format!("{key} = {place:?}\n"));
    }
    text
}

impl Lab<'_> {
    /// Waits until everything that is to be seen was seen again, under the names that it has, and holds
    /// that nothing else was and that nobody was alerted.
    fn settle(&self) -> anyhow::Result<()> {
        let names = self.runtime.names();
        let awaited = names.edges.iter().filter(|it| self.runtime.is_in_use(it));
        self.seen_again(&awaited.map(|it| (*it).to_owned()).collect::<Vec<_>>())?;
        let seen = self.map()?;
        let known = |edge: &String| {
            names.edges.contains(&edge.as_str())
                || names.own.iter().any(|known| edge.starts_with(known))
        };
        let wrong: Vec<&String> = seen.keys().filter(|edge| !known(edge)).collect();
        ensure!(wrong.is_empty(), "edges that are not there: {wrong:#?}");
        self.runtime.judge(&self.edges()?)?;
        let alerts = self.alerts()?;
        ensure!(alerts.is_empty(), "alerts: {alerts:#?}");
        // It fails where anything differs.
        self.agent.text(&["baseline", "diff"]).map(drop)
    }

    /// Waits until each of those was seen twice from now on.
    fn seen_again(&self, edges: &[String]) -> anyhow::Result<()> {
        let before = self.map()?;
        let calls = |map: &BTreeMap<String, u64>, edge: &str| map.get(edge).copied().unwrap_or(0);
        let again = || {
            let now = self.map()?;
            Ok(edges.iter().all(|edge| calls(&now, edge) >= calls(&before, edge) + 2))
        };
        self.interrupt.until("all edges seen again", SEEN, PAUSE * 10, again).with_context(|| {
            format!(
                "awaited: {edges:#?}, before: {before:#?}, now: {:#?}",
                self.map().unwrap_or_default()
            )
        })
    }

    /// Where nobody is asked, names are ids: shown, and in no export.
    fn provisional(&mut self, names: &[(&str, String)]) -> anyhow::Result<()> {
        self.agent.start(&self.interrupt)?;
        let by_id = |edge: &&str| {
            names.iter().fold((*edge).to_owned(), |text, (name, id)| text.replace(name, id))
        };
        self.seen_again(&self.runtime.names().edges.iter().map(by_id).collect::<Vec<_>>())?;
        let exported = self.agent.text(&["baseline", "export"])?;
        let shown = names.iter().find(|(_, id)| exported.contains(id.as_str()));
        ensure!(shown.is_none(), "a provisional name is exported: {exported}");
        self.agent.end()
    }

    /// Another service takes an address at once: what dials there dials that service.
    fn reuse(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let url = self.runtime.usurp()?;
        println!("   taken after {} ms", begun.elapsed().as_millis());
        // The hardware address behind it is another as well, which takes some seconds to be found.
        (0..CALLS).try_for_each(|_| self.call(&url))?;
        self.alerted(self.runtime.names().reused)?;
        self.runtime.restore()
    }

    /// Whatever the runtime's own resolver makes of the question, the answer names whom `web` dials.
    fn outside(&mut self, peer: &Path, edge: &str) -> anyhow::Result<()> {
        let _outside = Outside::begin(self.runtime.ground(), peer)?;
        self.call(&format!("http://{}:443/", outside::NAME))?;
        self.alerted(edge).map(drop)
    }

    /// What was never dialled is told, with where it was dialled.
    fn hijack(&mut self) -> anyhow::Result<()> {
        self.call(&self.runtime.astray())?;
        let place = self.alerted(self.runtime.names().hijacked)?;
        for (key, own) in self.runtime.place_of_web()? {
            ensure!(place[key] == *own, "the {key} is {own}, and was told as {place}");
        }
        Ok(())
    }

    fn call(&mut self, url: &str) -> anyhow::Result<()> {
        self.runtime.at_web(&["timeout", "2", "busybox", "wget", "-q", "-O", "/dev/null", url])
    }

    /// Waits until a finding about this edge is told, and holds that none is about what is not to be
    /// told; where it was.
    fn alerted(&self, edge: &str) -> anyhow::Result<Value> {
        let names = self.runtime.names();
        let mut found = None;
        let told = || {
            let alerts = self.alerts()?;
            let findings = alerts.iter().filter_map(|it| it["findings"].as_array()).flatten();
            for finding in findings {
                let about = written(&finding["edge"]);
                let expected = [Some(names.reused), names.outside, Some(names.hijacked)]
                    .contains(&Some(&*about));
                ensure!(expected, "an alert about {about}");
                if about == edge {
                    found = Some(finding["where"].clone());
                }
            }
            Ok(found.is_some())
        };
        let waited = self.interrupt.until(edge, ALERTED, PAUSE * 10, told);
        waited.with_context(|| format!("alerts: {:#?}", self.alerts().unwrap_or_default()))?;
        found.context("the alert is gone")
    }

    /// All edges, by how they are written, with their connections.
    fn map(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let edges = self.edges()?;
        let count = |it: &Value| it["evidence"]["connections"].as_u64().unwrap_or(0);
        Ok(edges.iter().map(|it| (written(&it["edge"]), count(it))).collect())
    }

    fn edges(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.agent.text(&["map", "--format", "json"])?;
        serde_json::from_str(&text).context("read the map")
    }

    fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.agent.text(&["alerts", "--format", "json"])?;
        serde_json::from_str(&text).context("read the list of alerts")
    }

    fn wait(&self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.interrupt.check()?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// An edge as people write it.
pub(crate) fn written(edge: &Value) -> String {
    let text = |key: &str| edge[key].as_str().unwrap_or("nobody").to_owned();
    format!("{} -> {} {}/{}", text("client"), text("server"), edge["port"], text("protocol"))
}
