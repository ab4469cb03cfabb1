//! What is done to the cluster, and what the agent on its first node must say of it: the same edges as
//! before, under the same names, and no others; no alert, until somebody dials what was never dialled.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::house::Agent;
use crate::interrupt::{Interrupt, PAUSE};
use crate::lab::kubernetes::apps::{
    API, App, DB, EDGES, ETCD, EXPORTER, NODE_PORT, OLD, OTHERS, SCRAPER, SSHD, TICK, WEB,
};
use crate::lab::kubernetes::cluster::{Cluster, Owner, Seat};
use crate::lab::kubernetes::ground::NODES;
use crate::lab::kubernetes::scale;
use crate::lab::kubernetes::server::{BACK, FRONT, Start};
use crate::stage::Stages;

/// How long until everything is seen that happens once a second, and named: the agent promises 10 s for
/// a name.
const SEEN: Duration = Duration::from_secs(60);
/// The agent asks a server that is away once a minute at least.
const BACK_AGAIN: Duration = Duration::from_secs(120);

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/edgewatch";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/shop/replicasets";

/// One thing that is done.
type Trial = fn(&mut Lab<'_>) -> anyhow::Result<()>;

const TRIALS: &[(&str, Trial)] = &[
    ("a container is restarted in its pod", restart),
    ("another ReplicaSet takes over", roll_out),
    ("a pod more, then one less", rescale),
    ("a pod is made anew, with another uid and another address", recreate),
    ("a Deployment leaves its ReplicaSet behind", orphan),
    ("cut off, and what happened meanwhile is forgotten by the server", forgotten),
    ("a Deployment takes its ReplicaSet up again", adopt),
    ("the API server is away", away),
    ("nothing happens: nothing is asked", quiet),
    ("a server without EndpointSlices", without_slices),
    ("a role that lacks a verb", less),
];

/// What was made.
struct Made {
    web: Owner,
    web_set: Owner,
    api: Owner,
    api_set: Owner,
    db: Owner,
    cron: Owner,
}

pub(crate) struct Lab<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) agent: Agent,
    pub(crate) interrupt: &'a Interrupt,
    away: Duration,
    made: Made,
    /// Numbers what is made.
    last: u32,
}

/// Learns, guards, tries everything, and is hijacked in the end.
pub(crate) fn all(
    cluster: &mut Cluster,
    (program, kubeconfig): (&Path, &Path),
    stages: &Stages,
    interrupt: &Interrupt,
    away: Duration,
) -> anyhow::Result<()> {
    let config = format!(
        "mode = \"learn\"\nnode = {:?}\n[capture]\npin = false\ncgroup = {:?}\n\
         [identity]\nkubernetes = {kubeconfig:?}\ndocker = \"off\"\npodman = \"off\"\ncri = \"off\"\n",
        NODES[0].name,
        cluster.ground.cgroup(&NODES[0]),
    );
    let program = cluster.ground.on_node(program)?;
    let agent = Agent::beside(&program, cluster.ground.at.join("agent"), &config)?;
    stages.announce("lab", "the application, older than the agent, is learned");
    let made = lay_out(cluster)?;
    let mut lab = Lab { cluster, agent, interrupt, away, made, last: 0 };
    lab.agent.start(interrupt)?;
    lab.seen().context("learning")?;
    lab.seen().context("learning")?;
    lab.agent.text(&["baseline", "guard", "--all"])?;
    // A server that just started refuses everybody for a moment: later they are not looked at.
    let asked = lab.asked()?;
    let refused: Vec<&String> = asked.iter().filter(|it| it.ends_with(" 403")).collect();
    ensure!(refused.is_empty(), "the role lacks something: {refused:#?}");
    for (name, trial) in TRIALS {
        stages.announce("lab", name);
        trial(&mut lab).with_context(|| format!("trial: {name}"))?;
        lab.settle().with_context(|| format!("after: {name}"))?;
    }
    stages.announce("lab", "whatever waited for a name has been told by now");
    lab.wait(Duration::from_secs(12))?;
    lab.settle()?;
    stages.announce("lab", "other services take addresses up");
    let mut told = Vec::new();
    for (other, victim) in OTHERS.iter().zip(["db-0", "db-1"]) {
        lab.reuse(other, victim, &mut told)?;
    }
    stages.announce("lab", "hijacked");
    lab.hijack(&mut told)?;
    stages.announce("lab", "5,000 pods");
    scale::measure(&mut lab)?;
    lab.alerted(&told)?;
    lab.agent.end()
}

fn lay_out(cluster: &mut Cluster) -> anyhow::Result<Made> {
    cluster.ground.lay_script()?;
    let [first, second] = &NODES;
    for app in
        [&DB, &WEB, &API, &SCRAPER, &EXPORTER, &ETCD, &TICK, &SSHD, &OLD, &OTHERS[0], &OTHERS[1]]
    {
        cluster.calls(app, &[])?;
    }
    let web = cluster.deployment(&WEB)?;
    let web_set = cluster.replica_set(&WEB, &web, "5d4f")?;
    let api = cluster.deployment(&API)?;
    let api_set = cluster.replica_set(&API, &api, "77c9")?;
    let kind = ("apps/v1", "StatefulSet", "statefulsets");
    let db = cluster.controller(&DB, kind, "db", None, None)?;
    let kind = ("apps/v1", "DaemonSet", "daemonsets");
    let exporter = cluster.controller(&EXPORTER, kind, "exporter", None, None)?;
    let kind = ("batch/v1beta1", "CronJob", "cronjobs");
    let cron = cluster.controller(&TICK, kind, "tick", None, None)?;
    cluster.start(&DB, "db-0", Some(&db), Seat::on(first))?;
    cluster.start(&DB, "db-1", Some(&db), Seat::on(second))?;
    cluster.start(&API, "api-77c9-aaaaa", Some(&api_set), Seat::on(first))?;
    cluster.start(&API, "api-77c9-bbbbb", Some(&api_set), Seat::on(second))?;
    cluster.start(&WEB, "web-5d4f-aaaaa", Some(&web_set), Seat::on(first))?;
    cluster.start(&EXPORTER, "exporter-aaaaa", Some(&exporter), Seat::on(first))?;
    cluster.start(&EXPORTER, "exporter-bbbbb", Some(&exporter), Seat::on(second))?;
    cluster.start(&ETCD, "etcd-node-2", None, Seat::on(second))?;
    cluster.start(&SCRAPER, "scraper", None, Seat::on(first))?;
    for app in [&SSHD, &OLD] {
        let cgroup = format!("system.slice/{}.service", app.name);
        cluster.serve(app, second.name, &cgroup, second)?;
    }
    let there = |node: usize, port: u16| format!("{}:{port}", NODES[node].address);
    cluster.calls(&WEB, &["10.96.0.20:80".to_owned()])?;
    cluster.calls(&TICK, &["10.96.0.10:80".to_owned()])?;
    cluster.calls(&EXPORTER, &["10.96.0.1:443".to_owned()])?;
    let mut scraped = vec![there(1, SSHD.port), there(1, ETCD.port)];
    for node in 0..NODES.len() {
        scraped.extend([there(node, EXPORTER.port), there(node, NODE_PORT)]);
    }
    cluster.calls(&SCRAPER, &scraped)?;
    aim(cluster)?;
    Ok(Made { web, web_set, api, api_set, db, cron })
}

/// Tells everybody who is where.
fn aim(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.publish()?;
    let dbs = cluster.pods.iter().filter(|(name, _)| name.starts_with("db-"));
    let mut called: Vec<String> =
        dbs.map(|(_, it)| format!("{}:{}", it.address, DB.port)).collect();
    called.push("10.96.0.30:80".to_owned());
    cluster.calls(&API, &called)
}

fn restart(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let pod = lab.pod_of("api", 0)?;
    lab.cluster.stop(&pod)?;
    lab.cluster.run(&pod)
}

fn roll_out(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.last += 1;
    let hash = format!("6b{:02}", lab.last);
    let set = lab.cluster.replica_set(&WEB, &lab.made.web, &hash)?;
    let (before, next) = (lab.pod_of("web", 0)?, format!("{}-ccccc", set.name));
    lab.cluster.start(&WEB, &next, Some(&set), Seat::on(&NODES[0]))?;
    aim(lab.cluster)?;
    lab.cluster.end(&before)?;
    lab.cluster.delete(&format!("{SETS}/{}", lab.made.web_set.name))?;
    lab.made.web_set = set;
    aim(lab.cluster)
}

fn rescale(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let set = lab.made.api_set.clone();
    lab.cluster.start(&API, "api-77c9-ddddd", Some(&set), Seat::on(&NODES[0]))?;
    aim(lab.cluster)?;
    lab.settle()?;
    lab.cluster.end("api-77c9-ddddd")?;
    aim(lab.cluster)
}

fn recreate(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.recreate("db-0")?;
    lab.recreate("db-1")?;
    aim(lab.cluster)
}

fn orphan(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.cluster.delete(&format!("{DEPLOYMENTS}/{}", lab.made.api.name))?;
    let none = json!({"metadata": {"ownerReferences": null}});
    lab.cluster.patch(&format!("{SETS}/{}", lab.made.api_set.name), &none)?;
    let before = lab.pod_of("api", 0)?;
    let set = lab.made.api_set.clone();
    lab.cluster.end(&before)?;
    lab.cluster.start(&API, "api-77c9-eeeee", Some(&set), Seat::on(&NODES[0]))?;
    aim(lab.cluster)
}

fn forgotten(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let listed = lab.lists()?;
    lab.serve(BACK, Start::Plain)?;
    lab.waits_without_it()?;
    // Elsewhere; who is cut off does not hear of it either.
    lab.recreate("db-1")?;
    lab.cluster.server.compact(&lab.cluster.ground)?;
    lab.serve(FRONT, Start::WithoutCache)?;
    lab.is_back()?;
    let anew = || Ok(lab.lists()? > listed);
    lab.interrupt.until("pods are listed anew", SEEN, PAUSE * 10, anew)?;
    aim(lab.cluster)
}

fn adopt(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let api = lab.cluster.deployment(&API)?;
    let set = format!("{SETS}/{}", lab.made.api_set.name);
    lab.cluster.patch(&set, &json!({"metadata": {"ownerReferences": api.as_controller()}}))?;
    lab.made.api = api;
    lab.serve(BACK, Start::Plain)?;
    lab.waits_without_it()?;
    lab.cluster.server.compact(&lab.cluster.ground)?;
    lab.serve(FRONT, Start::Plain)?;
    lab.is_back()
}

fn away(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.cluster.server.end(&mut lab.cluster.ground)?;
    lab.wait(lab.away / 2)?;
    // The node goes on without it.
    let pod = lab.pod_of("api", 0)?;
    lab.cluster.stop(&pod)?;
    lab.cluster.run(&pod)?;
    lab.wait(lab.away / 2)?;
    lab.serve(FRONT, Start::Plain)?;
    lab.is_back()
}

fn quiet(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let before = lab.asked()?;
    lab.wait(Duration::from_secs(20))?;
    let after = lab.asked()?;
    let polls: Vec<&String> =
        after[before.len()..].iter().filter(|it| !it.starts_with("watch ")).collect();
    ensure!(polls.is_empty(), "it polls: {polls:#?}");
    Ok(())
}

fn without_slices(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    lab.serve(FRONT, Start::WithoutSlices)?;
    lab.is_back()?;
    let asked = lab.asked()?;
    ensure!(
        asked.iter().any(|it| it == "list endpoints 200"),
        "no Endpoints are listed: {asked:#?}"
    );
    lab.settle()?;
    lab.serve(FRONT, Start::Plain)?;
    lab.is_back()
}

fn less(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let role = lab.cluster.server.ask(&lab.cluster.ground, "GET", ROLE, None)?;
    for (resource, verb) in [("nodes", "watch"), ("replicasets", "get")] {
        lab.cluster.patch(ROLE, &json!({"rules": lacking(&role["rules"], resource, verb)}))?;
        lab.serve(FRONT, Start::Plain)?;
        roll_out(lab)?;
        let refused = format!("{verb} {resource}");
        let says = |lab: &Lab<'_>| {
            let status = lab.agent.text(&["status"])?;
            Ok(status.contains(&format!("it does not let this agent {refused}")))
        };
        lab.interrupt
            .until(&format!("status says {refused:?}"), BACK_AGAIN, PAUSE * 10, || says(lab))
            .with_context(|| format!("it says {:#?}", lab.source()))?;
        let doctor = lab.doctor()?;
        ensure!(doctor.contains(&format!("who may not {refused}")), "doctor says: {doctor}");
        lab.cluster.patch(ROLE, &json!({"rules": role["rules"]}))?;
        lab.serve(FRONT, Start::Plain)?;
        lab.is_back()?;
    }
    let doctor = lab.doctor()?;
    let reached =
        "reached as ServiceAccount \"edgewatch/edgewatch\", who may read all that is read";
    ensure!(doctor.contains(reached), "doctor says: {doctor}");
    Ok(())
}

/// The rules of a role without one verb on one resource.
fn lacking(rules: &Value, resource: &str, verb: &str) -> Value {
    let mut split = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        for of in rule["resources"].as_array().into_iter().flatten() {
            let verbs = rule["verbs"].as_array().into_iter().flatten();
            let verbs: Vec<&Value> = verbs.filter(|it| *of != resource || **it != verb).collect();
            split.push(json!({"apiGroups": rule["apiGroups"], "resources": [of], "verbs": verbs}));
        }
    }
    Value::Array(split)
}

impl Lab<'_> {
    /// The pods of an app, in the order of their names, on the first node.
    fn pod_of(&self, app: &str, index: usize) -> anyhow::Result<String> {
        let mut names =
            self.cluster.pods_on(&NODES[0]).filter(|it| it.starts_with(&format!("{app}-")));
        names.nth(index).map(ToOwned::to_owned).with_context(|| format!("no pod of {app} is here"))
    }

    /// Makes a pod of the database anew, under its name.
    fn recreate(&mut self, name: &str) -> anyhow::Result<()> {
        let before = self.cluster.address(name)?;
        let node = self.cluster.node(name)?;
        self.cluster.end(name)?;
        self.cluster.start(&DB, name, Some(&self.made.db), Seat::on(node))?;
        let after = self.cluster.address(name)?;
        ensure!(before != after, "the address is still {after}");
        Ok(())
    }

    /// Ends the server, and starts it otherwise.
    pub(crate) fn serve(&mut self, port: u16, start: Start) -> anyhow::Result<()> {
        let Cluster { ground, server, .. } = &mut *self.cluster;
        server.end(ground)?;
        server.serve(ground, port, start, self.interrupt)
    }

    fn source(&self) -> anyhow::Result<Value> {
        let status: Value =
            serde_json::from_str(&self.agent.text(&["status", "--format", "json"])?)?;
        let sources = status["sources"].as_array().into_iter().flatten();
        let cluster = sources.into_iter().find(|it| it["source"] == "kubernetes").cloned();
        cluster.context("status tells of no cluster")
    }

    fn waits_without_it(&self) -> anyhow::Result<()> {
        let is_away = || Ok(self.source()?.get("away").is_some());
        self.interrupt.until("the cluster is away", SEEN, PAUSE * 10, is_away)
    }

    pub(crate) fn is_back(&self) -> anyhow::Result<()> {
        let is_back = || {
            let source = self.source()?;
            Ok(source.get("away").is_none() && source.get("without").is_none())
        };
        // Twice: a server that just started refuses this and that for a moment more.
        self.interrupt.until("the cluster is back", BACK_AGAIN, PAUSE * 10, is_back)?;
        self.wait(Duration::from_secs(3))?;
        self.interrupt.until("the cluster is back", BACK_AGAIN, PAUSE * 10, is_back)
    }

    pub(crate) fn pods_told(&self) -> anyhow::Result<u64> {
        Ok(self.source()?["pods"].as_u64().unwrap_or_default())
    }

    pub(crate) fn asked(&self) -> anyhow::Result<Vec<String>> {
        self.cluster.server.asked(&self.cluster.ground)
    }

    /// How often pods were listed from the beginning.
    fn lists(&self) -> anyhow::Result<usize> {
        let asked = self.asked()?;
        Ok(asked.iter().filter(|it| it.as_str() == "list pods 200").count())
    }

    fn doctor(&self) -> anyhow::Result<String> {
        let [config, state] =
            ["edgewatch.toml", "state"].map(|it| self.agent.path(it).display().to_string());
        self.agent.text(&["doctor", "--config", &config, "--state-dir", &state])
    }

    /// Waits until all that there is was seen again, with another run of the CronJob.
    fn seen(&mut self) -> anyhow::Result<()> {
        self.last += 1;
        let job = format!("tick-{}", 28_871_040 + self.last);
        ensure!(self.cluster.server.is_running(), "no Job can be made");
        let kind = ("batch/v1", "Job", "jobs");
        let job = self.cluster.controller(&TICK, kind, &job, Some(&self.made.cron), None)?;
        let pod = format!("{}-aaaaa", job.name);
        self.cluster.start(&TICK, &pod, Some(&job), Seat::on(&NODES[0]))?;
        let before = self.map()?;
        let calls = |map: &BTreeMap<String, u64>, edge: &str| map.get(edge).copied().unwrap_or(0);
        let again = || {
            let now = self.map()?;
            Ok(EDGES.iter().all(|edge| calls(&now, edge) >= calls(&before, edge) + 2))
        };
        let seen = self.interrupt.until("all edges seen again", SEEN, PAUSE * 10, again);
        seen.with_context(|| {
            format!("before: {before:#?}, now: {:#?}", self.map().unwrap_or_default())
        })?;
        self.cluster.end(&pod)?;
        self.cluster.delete(&format!("/apis/batch/v1/namespaces/shop/jobs/{}", job.name))
    }

    /// Waits until everything that is to be seen was seen again, under the names that it has, and holds
    /// that nothing else was and that nobody was alerted.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.seen()?;
        let seen = self.map()?;
        let wrong: Vec<&String> = seen.keys().filter(|it| !EDGES.contains(&it.as_str())).collect();
        ensure!(wrong.is_empty(), "edges that are not there: {wrong:#?}");
        let alerts = self.alerts()?;
        ensure!(alerts.is_empty(), "alerts: {alerts:#?}");
        // It fails where anything differs.
        self.agent.text(&["baseline", "diff"]).map(drop)
    }

    /// Another service takes an address at once: what dials there dials that service.
    fn reuse(
        &mut self,
        other: &'static App,
        victim: &str,
        told: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let node = self.cluster.node(victim)?;
        let deployment = self.cluster.deployment(other)?;
        let set = self.cluster.replica_set(other, &deployment, "9f9f")?;
        let name = format!("{}-aaaaa", set.name);
        let seat = Seat { node, address: Some(self.cluster.address(victim)?) };
        let begun = Instant::now();
        self.cluster.end(victim)?;
        self.cluster.publish()?;
        self.cluster.start(other, &name, Some(&set), seat)?;
        println!("   taken after {} ms", begun.elapsed().as_millis());
        told.push(format!(
            "k8s:shop/Deployment/api -> k8s:shop/Deployment/{} 5432/tcp",
            other.name
        ));
        self.alerted(told)?;
        self.cluster.end(&name)?;
        self.cluster.start(&DB, victim, Some(&self.made.db), Seat::on(node))?;
        aim(self.cluster)
    }

    /// What was never dialled is told.
    fn hijack(&mut self, told: &mut Vec<String>) -> anyhow::Result<()> {
        let to = format!("{}:9999", self.cluster.address("db-1")?);
        self.cluster.calls(&WEB, &["10.96.0.20:80".to_owned(), to])?;
        told.push("k8s:shop/Deployment/web -> k8s:shop/StatefulSet/db 9999/tcp".to_owned());
        self.alerted(told)
    }

    /// Waits until there is a finding about each of these edges, and holds that there is no other.
    pub(crate) fn alerted(&self, edges: &[String]) -> anyhow::Result<()> {
        let told = || {
            let alerts = self.alerts()?;
            let findings = alerts.iter().filter_map(|it| it["findings"].as_array()).flatten();
            let about: Vec<String> = findings.map(|it| written(&it["edge"])).collect();
            let wrong: Vec<&String> = about.iter().filter(|it| !edges.contains(it)).collect();
            ensure!(wrong.is_empty(), "alerts about {wrong:#?}");
            Ok(edges.iter().all(|it| about.contains(it)))
        };
        let waited = self.interrupt.until(&format!("told of {edges:?}"), SEEN, PAUSE * 10, told);
        waited.with_context(|| format!("alerts: {:#?}", self.alerts().unwrap_or_default()))
    }

    /// All edges, by how they are written, with their connections.
    fn map(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let edges: Vec<Value> =
            serde_json::from_str(&self.agent.text(&["map", "--format", "json"])?)
                .context("read the map")?;
        let count = |it: &Value| it["evidence"]["connections"].as_u64().unwrap_or(0);
        Ok(edges.iter().map(|it| (written(&it["edge"]), count(it))).collect())
    }

    fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.agent.text(&["alerts", "--format", "json"])?;
        serde_json::from_str(&text).context("read the list of alerts")
    }

    pub(crate) fn wait(&self, time: Duration) -> anyhow::Result<()> {
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
