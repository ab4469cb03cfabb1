//! Many pods on other nodes: what they take of the agent's memory, and what it takes to list them anew.
//! Prints; fails where the agent's promise is broken several times over, since others run beside it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::bench::usage::{busy, resident};
use crate::interrupt::PAUSE;
use crate::lab::kubernetes::server::{BACK, FRONT, Start};
use crate::lab::kubernetes::trials::Lab;

const PODS: usize = 5_000;
const OF_ONE: usize = 10;
const WAIT: Duration = Duration::from_secs(300);

/// What is promised: MiB for 1,000 pods, and seconds of a processor for a whole list.
const MEMORY: f64 = 2.0;
const LIST: f64 = 1.0;
/// A promise of time is held to so many times its value.
const SLACK: f64 = 5.0;

pub(crate) fn measure(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let agent = lab.agent.id()?;
    let before = (resident(agent)?, lab.pods_told()?);
    fill(lab)?;
    let all = before.1 + PODS as u64;
    lab.interrupt.until("all pods are told", WAIT, PAUSE * 10, || Ok(lab.pods_told()? >= all))?;
    lab.wait(Duration::from_secs(3))?;
    let told = resident(agent)?;
    let by_thousand = |now: f64| (now - before.0) / (PODS as f64 / 1_000.0);
    println!("   memory of 1,000 pods: {:.2} MiB", by_thousand(told));
    lab.serve(BACK, Start::Plain)?;
    // Something of a pod that who is cut off does not hear, and that is forgotten then.
    let label = json!({"metadata": {"labels": {"changed": "true"}}});
    lab.cluster.patch("/api/v1/namespaces/load/pods/pod-0", &label)?;
    lab.cluster.server.compact(&lab.cluster.ground)?;
    // What it does beside that, for as long.
    let (begun, used) = (Instant::now(), busy(agent)?);
    lab.wait(Duration::from_secs(10))?;
    let idle = (busy(agent)? - used) / begun.elapsed().as_secs_f64();
    let asked = lab.asked()?.len();
    lab.serve(FRONT, Start::Plain)?;
    let (begun, used) = (Instant::now(), busy(agent)?);
    lab.is_back()?;
    let listed = busy(agent)? - used - idle * begun.elapsed().as_secs_f64();
    let asked = lab.asked()?.split_off(asked);
    let pages = asked.iter().filter(|it| it.as_str() == "list pods 200").count();
    ensure!(pages >= PODS / 250, "listed in {pages} pages: {asked:#?}");
    println!(
        "   a whole list: {listed:.2} s of a processor in {:.1} s, {pages} pages; then {:.2} MiB",
        begun.elapsed().as_secs_f64(),
        by_thousand(resident(agent)?)
    );
    ensure!(by_thousand(told) <= MEMORY, "more than {MEMORY} MiB for 1,000 pods");
    ensure!(listed <= LIST * SLACK, "far more than {LIST} s for a whole list");
    Ok(())
}

/// Makes the pods, as large as people's are.
fn fill(lab: &Lab<'_>) -> anyhow::Result<()> {
    let cluster = &lab.cluster;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "load"}}))?;
    let sets = (0..PODS / OF_ONE).map(|set| {
        let labels = json!({"app": format!("app-{set}"), "pod-template-hash": "5d4f8c7b9"});
        let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("app-{set}"),
            "uid": format!("6c1a4e08-9d1f-4a0e-8f67-{set:012}"), "controller": true}]);
        let template = json!({"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "app", "image": "lab:1"}]}});
        let body = json!({"metadata": {"name": format!("app-{set}-5d4f8c7b9"), "labels": labels,
            "ownerReferences": owner}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
        ("POST", "/apis/apps/v1/namespaces/load/replicasets".to_owned(), Some(body))
    });
    let sets: Vec<(&str, String, Option<Value>)> = sets.collect();
    cluster.server.ask_all(&cluster.ground, &sets)?;
    let path = "/apis/apps/v1/namespaces/load/replicasets";
    let sets = cluster.server.ask(&cluster.ground, "GET", path, None)?;
    let sets = sets["items"].as_array().context("no ReplicaSets are told")?;
    let pods: Vec<(&str, String, Option<Value>)> = (0..PODS)
        .map(|pod| {
            let body = body(&sets[pod / OF_ONE % sets.len()]["metadata"], pod);
            ("POST", "/api/v1/namespaces/load/pods".to_owned(), Some(body))
        })
        .collect();
    cluster.server.ask_all(&cluster.ground, &pods)?;
    let addresses: Vec<(&str, String, Option<Value>)> = (0..PODS)
        .map(|pod| {
            let address = format!("10.245.{}.{}", pod / 250, 1 + pod % 250);
            let status = json!({"status": {"phase": "Running", "podIP": address,
                "podIPs": [{"ip": address}], "startTime": "2026-01-01T00:00:00Z"}});
            let path = format!("/api/v1/namespaces/load/pods/pod-{pod}/status");
            ("PATCH", path, Some(status))
        })
        .collect();
    cluster.server.ask_all(&cluster.ground, &addresses)
}

fn body(set: &Value, pod: usize) -> Value {
    let variables: Vec<Value> = (0..30)
        .map(
            |it| json!({"name": format!("SETTING_NUMBER_{it}"), "value": "a value of some length"}),
        )
        .collect();
    json!({
        "metadata": {"name": format!("pod-{pod}"), "labels": set["labels"],
            "annotations": {"example.com/checksum": "0123456789abcdef".repeat(64)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set["name"],
                "uid": set["uid"], "controller": true}]},
        "spec": {"nodeName": format!("node-{}", 3 + pod % 100),
            "containers": [{"name": "app", "image": "registry.example.com/team/app:1.2.3",
                "env": variables, "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
    })
}
