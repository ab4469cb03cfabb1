//! From a dial to its alert at a receiver: a service of its own for each dial, so that no message
//! waits for another of the same incident.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::bench::figure::{Figure, quantile};
use crate::bench::report::Report;
use crate::house::{Agent, House, STRANGER};
use crate::interrupt::{Interrupt, PAUSE};

const SERVICES: usize = 40;
const WAIT: Duration = Duration::from_secs(20);

/// What is dialled, and what the agent has to wait for before it tells.
const KINDS: [(&str, &str); 2] = [
    ("10.77.0.254/9", "refused: the outcome is known at once"),
    ("203.0.113.66/4444", "established: 300 ms for the other end to show itself"),
];

pub(crate) fn measure(
    program: &Path,
    house: &House,
    interrupt: &Interrupt,
    report: &mut Report,
) -> anyhow::Result<()> {
    let receiver = TcpListener::bind("127.0.0.1:0").context("listen for alerts")?;
    let port = receiver.local_addr().context("listen for alerts")?.port();
    let (heard, alerts) = mpsc::channel();
    std::thread::spawn(move || receive(&receiver, &heard));
    let mut world = house.command("world", Path::new("/usr/bin/perl"))?;
    world.args(["-e", include_str!("../demo/world.pl"), &format!("{STRANGER}:4444")]);
    house.start(world, "world.log")?;

    // Each dial's own way is measured, not how fast one receiver may be spoken to.
    let lines = format!(
        "mode = \"learn\"\n[[notify]]\nname = \"bench\"\nkind = \"webhook\"\n\
         rate = \"1000/s\"\nurl = \"http://127.0.0.1:{port}/\"\n"
    );
    let mut agent = Agent::new(program, house, "latency", &lines)?;
    agent.start(interrupt)?;
    for index in 0..SERVICES {
        dial(house, index, "10.77.0.254/7")?;
    }
    interrupt.until("the services", WAIT, PAUSE, || {
        let text = agent.text(&["services", "--format", "json"])?;
        Ok(text.matches("bench-").count() >= SERVICES)
    })?;
    agent.text(&["baseline", "guard", "systemd:bench-*"])?;
    let mut figures = Vec::new();
    for (target, what) in KINDS {
        let mut millis = Vec::new();
        for index in 0..SERVICES {
            interrupt.check()?;
            let dialled = dial(house, index, target)?;
            let service = format!("bench-{index:03}.service");
            loop {
                let (at, body): (f64, String) =
                    alerts.recv_timeout(WAIT).with_context(|| format!("no alert of {service}"))?;
                if body.contains(&service) {
                    millis.push((at - dialled) * 1000.0);
                    break;
                }
            }
        }
        millis.sort_by(f64::total_cmp);
        let p99 = quantile(&millis, 0.99);
        figures.push(Figure::of(&format!("to the alert, {what}"), "ms", millis));
        figures.push(Figure::once("the same, 99th percentile", "ms", p99));
    }
    report.figures(
        "Alerts",
        "From a dial to its alert at a webhook on the same machine.",
        &figures,
    );
    // What is measured next is measured with nothing attached.
    agent.end()
}

/// Dials once as service `index`; tells when, in seconds since the epoch.
fn dial(house: &House, index: usize, target: &str) -> anyhow::Result<f64> {
    let service = format!("bench-{index:03}.service");
    let mut shell = house.service("web", &service, Path::new("/usr/bin/bash"))?;
    let script = format!("echo $EPOCHREALTIME; exec 3<>/dev/tcp/{target}");
    let output = shell.args(["-c", &script]).stderr(Stdio::null()).output().context("dial")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().replace(',', ".");
    text.parse().with_context(|| format!("the shell's clock: {text:?}"))
}

/// Takes alerts in: when each came, and its body.
fn receive(receiver: &TcpListener, heard: &mpsc::Sender<(f64, String)>) {
    for stream in receiver.incoming().flatten() {
        let mut reader = BufReader::new(&stream);
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            continue;
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        drop((&stream).write_all(answer.as_bytes()));
        if heard.send((at, String::from_utf8_lossy(&body).into_owned())).is_err() {
            return;
        }
    }
}
