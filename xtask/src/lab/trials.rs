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
use crate::lab::runtime::{Containers, Runtime};
use crate::stage::Stages;

/// How long until everything is seen that happens once a second, and named: the agent promises 10 s for
/// a name.
const SEEN: Duration = Duration::from_secs(50);
const ALERTED: Duration = Duration::from_secs(50);

/// The application's edges.
const SHOP: &[&str] = &[
    "compose:shop/api -> compose:shop/db 5432/tcp",
    "compose:shop/api -> systemd:docker.service 53/udp",
    "compose:shop/web -> compose:shop/api 8080/tcp",
    "compose:shop/web -> systemd:docker.service 53/udp",
];

/// What Docker does itself: its resolver asks for a name that it does not know, and `iptables` has glibc
/// compare addresses of loopback, which dials them.
const DOCKER: &str = "systemd:docker.service -> ";
const DOCKER_TO: &[&str] = &["ip:192.0.2.53 53/udp", "ip:127.0.0.1 ", "systemd:docker.service "];

/// What is told in the end.
const REUSED: &str = "compose:shop/web -> docker:other 8080/tcp";
const OUTSIDE: &str = "compose:shop/web -> dns:outside.test 443/tcp";
const HIJACKED: &str = "compose:shop/web -> compose:shop/api 9999/tcp";

/// One thing that is done.
type Trial = fn(&mut Lab<'_>) -> anyhow::Result<()>;

const TRIALS: &[(&str, Trial)] = &[
    ("every container is restarted", restart),
    ("one container more, then one less", rescale),
    ("all made anew, with other addresses", recreate),
    ("another image", roll_out),
    ("containers that live for one call", brief),
    ("all taken down, and up again", down_and_up),
    ("the runtime is restarted", restart_runtime),
    ("the runtime is away", away),
];

struct Lab<'a> {
    runtime: &'a mut Runtime,
    agent: Agent,
    interrupt: &'a Interrupt,
    away: Duration,
}

/// Learns, guards, tries everything, and is hijacked in the end.
pub(crate) fn all(
    runtime: &mut Runtime,
    [program, peer]: [&Path; 2],
    stages: &Stages,
    interrupt: &Interrupt,
    away: Duration,
) -> anyhow::Result<()> {
    let config = format!(
        "mode = \"learn\"\nnode = \"lab\"\n[capture]\npin = false\ncgroup = {:?}\n\
         [identity]\ndocker = \"unix://{}\"\npodman = \"off\"\n",
        runtime.cgroup(),
        runtime.socket().display()
    );
    let agent = Agent::beside(program, runtime.at.join("agent"), &config)?;
    let mut lab = Lab { runtime, agent, interrupt, away };
    stages.announce("lab", "the application, older than the agent, is learned");
    lab.runtime.compose(&["up", "-d"])?;
    lab.agent.start(interrupt)?;
    lab.runtime.may_fail(&["exec", "shop_web_1", "timeout", "2", "nslookup", "nobody."])?;
    lab.settle().context("learning")?;
    // What Docker does when a container starts is learned as well.
    lab.runtime.compose(&["restart", "-t", "0"])?;
    lab.settle().context("learning")?;
    let guarded =
        ["compose:shop/web", "compose:shop/api", "compose:shop/db", "systemd:docker.service"];
    lab.agent.text(&[&["baseline", "guard"][..], &guarded].concat())?;
    for (name, trial) in TRIALS {
        stages.announce("lab", name);
        trial(&mut lab).with_context(|| format!("trial: {name}"))?;
        lab.settle().with_context(|| format!("after: {name}"))?;
    }
    stages.announce("lab", "whatever waited for a name has been told by now");
    lab.wait(Duration::from_secs(12))?;
    lab.settle()?;
    stages.announce("lab", "another service takes an address");
    lab.reuse()?;
    stages.announce("lab", "a name outside is dialled");
    lab.outside(peer)?;
    stages.announce("lab", "hijacked");
    lab.hijack()?;
    lab.agent.end()
}

fn restart(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.runtime.compose(&["restart", "-t", "0"]).map(drop)
}

fn rescale(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.runtime.compose(&["up", "-d", "--scale", "api=2"])?;
    lab.settle()?;
    lab.runtime.compose(&["up", "-d", "--scale", "api=1"]).map(drop)
}

fn recreate(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let before = lab.runtime.address("shop_api_1", "shop_front")?;
    lab.runtime.compose(&["rm", "--stop", "--force"])?;
    let holders = [("holder1", "shop_front"), ("holder2", "shop_back")];
    for (name, network) in holders {
        let sleep = ["lab:1", "sleep", "2147483647"];
        let run = ["run", "-d", "--name", name, "--stop-signal", "KILL", "--network", network];
        lab.runtime.docker(&[&run[..], &sleep].concat())?;
    }
    lab.runtime.compose(&["up", "-d"])?;
    let after = lab.runtime.address("shop_api_1", "shop_front")?;
    ensure!(before != after, "the address is still {after}");
    lab.runtime.docker(&["rm", "-f", "holder1", "holder2"]).map(drop)
}

fn roll_out(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.runtime.roll_out("lab:2");
    lab.runtime.compose(&["up", "-d"])?;
    let image = lab.runtime.field("shop_web_1", "{{.Config.Image}}")?;
    ensure!(image == "lab:2", "the image is still {image}");
    Ok(())
}

fn brief(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    for _ in 0..3 {
        let call = ["busybox", "wget", "-q", "-O", "/dev/null", "http://api:8080/"];
        let run = ["run", "--rm", "--no-deps", "-T", "web"];
        lab.runtime.compose(&[&run[..], &call].concat())?;
    }
    Ok(())
}

fn down_and_up(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.runtime.compose(&["down", "-t", "0"])?;
    lab.runtime.compose(&["up", "-d"]).map(drop)
}

fn restart_runtime(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.runtime.end_docker()?;
    // From now on they outlive it, for the next trial.
    lab.runtime.start_docker(Containers::Live, lab.interrupt)
}

fn away(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.runtime.end_docker()?;
    ensure!(!lab.runtime.socket().exists(), "its socket is still there");
    lab.wait(lab.away)?;
    lab.runtime.start_docker(Containers::Live, lab.interrupt)
}

impl Lab<'_> {
    /// Waits until everything that is to be seen was seen again, under the names that it has, and holds
    /// that nothing else was and that nobody was alerted.
    fn settle(&self) -> anyhow::Result<()> {
        let before = self.map()?;
        let calls = |map: &BTreeMap<String, u64>, edge: &str| map.get(edge).copied().unwrap_or(0);
        let again = || {
            let now = self.map()?;
            Ok(SHOP.iter().all(|edge| calls(&now, edge) >= calls(&before, edge) + 2))
        };
        self.interrupt.until("all edges seen again", SEEN, PAUSE * 10, again).with_context(
            || format!("before: {before:#?}, now: {:#?}", self.map().unwrap_or_default()),
        )?;
        let seen = self.map()?;
        let docker = |to: &str| DOCKER_TO.iter().any(|known| to.starts_with(known));
        let known = |edge: &String| {
            SHOP.contains(&edge.as_str()) || edge.strip_prefix(DOCKER).is_some_and(docker)
        };
        let wrong: Vec<&String> = seen.keys().filter(|edge| !known(edge)).collect();
        ensure!(wrong.is_empty(), "edges that are not there: {wrong:#?}");
        self.answers_are_none()?;
        let alerts = self.alerts()?;
        ensure!(alerts.is_empty(), "alerts: {alerts:#?}");
        // It fails where anything differs.
        self.agent.text(&["baseline", "diff"]).map(drop)
    }

    /// Another service takes an address at once: what dials there dials that service.
    fn reuse(&self) -> anyhow::Result<()> {
        let address = self.runtime.address("shop_api_1", "shop_front")?;
        let create = ["create", "--name", "other", "--stop-signal", "KILL", "--network"];
        let place = ["shop_front", "--ip", &address, "lab:1", "serve", "8080"];
        self.runtime.docker(&[&create[..], &place].concat())?;
        let begun = Instant::now();
        self.runtime.docker(&["rm", "-f", "shop_api_1"])?;
        self.runtime.docker(&["start", "other"])?;
        let taken = begun.elapsed();
        println!("   taken after {} ms", taken.as_millis());
        let url = format!("http://{address}:8080/");
        self.runtime.may_fail(&[
            "exec",
            "shop_web_1",
            "timeout",
            "2",
            "busybox",
            "wget",
            "-q",
            "-O",
            "/dev/null",
            &url,
        ])?;
        self.alerted(REUSED)?;
        self.runtime.docker(&["rm", "-f", "other"])?;
        self.runtime.compose(&["up", "-d"]).map(drop)
    }

    /// Whatever Docker's own resolver makes of the question, the answer names whom the container dials.
    fn outside(&self, peer: &Path) -> anyhow::Result<()> {
        let _outside = Outside::begin(self.runtime, peer)?;
        let words =
            ["exec", "shop_web_1", "timeout", "5", "busybox", "wget", "-q", "-O", "/dev/null"];
        let url = format!("http://{}:443/", outside::NAME);
        self.runtime.may_fail(&[&words[..], &[&url]].concat())?;
        self.alerted(OUTSIDE).map(drop)
    }

    /// What was never dialled is told, with the container and the image that dialled it.
    fn hijack(&self) -> anyhow::Result<()> {
        let words =
            ["exec", "shop_web_1", "timeout", "2", "busybox", "wget", "-q", "-O", "/dev/null"];
        self.runtime.may_fail(&[&words[..], &["http://api:9999/"]].concat())?;
        let place = self.alerted(HIJACKED)?;
        for (key, field) in [("container", "{{.Id}}"), ("image", "{{.Image}}")] {
            let own = self.runtime.field("shop_web_1", field)?;
            ensure!(place[key] == *own, "the {key} is {own}, and was told as {place}");
        }
        Ok(())
    }

    /// Waits until a finding about this edge is told, and holds that none is about what is not to be
    /// told; where it was.
    fn alerted(&self, edge: &str) -> anyhow::Result<Value> {
        let mut found = None;
        let told = || {
            let alerts = self.alerts()?;
            let findings = alerts.iter().filter_map(|it| it["findings"].as_array()).flatten();
            for finding in findings {
                let about = written(&finding["edge"]);
                let expected = [REUSED, OUTSIDE, HIJACKED].contains(&about.as_str());
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

    /// Docker's own answers are no edges: what it dials over loopback is dialled by its `iptables`.
    fn answers_are_none(&self) -> anyhow::Result<()> {
        for edge in self.edges()? {
            let text = written(&edge["edge"]);
            let by = edge["evidence"]["executables"].to_string();
            let own = text.starts_with(DOCKER) && !text.contains(outside::RESOLVER);
            ensure!(
                !own || !by.contains("dockerd"),
                "an answer passes for an edge: {text} by {by}"
            );
        }
        Ok(())
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
fn written(edge: &Value) -> String {
    let text = |key: &str| edge[key].as_str().unwrap_or("nobody").to_owned();
    format!("{} -> {} {}/{}", text("client"), text("server"), edge["port"], text("protocol"))
}
