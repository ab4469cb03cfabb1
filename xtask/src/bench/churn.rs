//! What a connection on a known edge costs the program that makes it: the same churn with and without
//! the kernel programs attached, alternating, and the spread of like against like beside it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::bench::{quantile, sorted};
use crate::house::House;
use crate::interrupt::Interrupt;

const PAIRS: usize = 12;
const CONNECTIONS: &str = "20000";
const WAIT: Duration = Duration::from_secs(20);

pub(crate) fn measure(program: &Path, house: &House, interrupt: &Interrupt) -> anyhow::Result<()> {
    // Known before it is measured.
    let configuration = house.at.join("churn.toml");
    let text = format!("[capture]\ncgroup = {:?}\n", house.node());
    std::fs::write(&configuration, text)
        .with_context(|| format!("write {}", configuration.display()))?;
    let (mut alike, mut attached) = (Vec::new(), Vec::new());
    let mut plain = Vec::new();
    for _ in 0..PAIRS {
        interrupt.check()?;
        let (first, second) = (churn(house)?, churn(house)?);
        let watching = watch(program, house, &configuration, interrupt)?;
        churn(house)?;
        let with = churn(house);
        end(watching)?;
        alike.push(second / first);
        attached.push(with? / second);
        plain.push(second);
    }
    let (alike, attached, plain) = (sorted(alike), sorted(attached), sorted(plain));
    println!("\nprocessor time of connect, accept, close on loopback, both ends; {PAIRS} rounds\n");
    println!("{:>8} {:>8} {:>8}   ", "p25", "p50", "p75");
    for (values, what) in [
        (&plain, "µs a connection, nothing attached"),
        (&alike, "ratio, nothing against nothing: the noise"),
        (&attached, "ratio, attached against nothing"),
    ] {
        let at = |share| quantile(values, share);
        println!("{:8.3} {:8.3} {:8.3}   {what}", at(0.25), at(0.5), at(0.75));
    }
    Ok(())
}

/// Microseconds of processor time a connection.
fn churn(house: &House) -> anyhow::Result<f64> {
    let mut perl = house.service("web", "bench-churn.service", Path::new("/usr/bin/perl"))?;
    let output =
        perl.args(["-e", include_str!("churn.pl"), CONNECTIONS]).output().context("start perl")?;
    if !output.status.success() {
        bail!("churn: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().with_context(|| format!("churn said {text:?}"))
}

/// Starts `edgewatch watch` and waits until its programs are attached.
fn watch(
    program: &Path,
    house: &House,
    configuration: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<std::process::Child> {
    let log = house.at.join("watch.log");
    let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let child = Command::new(program)
        .args(["watch", "--config"])
        .arg(configuration)
        .stdout(file)
        .stdin(Stdio::null())
        .spawn()
        .context("start edgewatch watch")?;
    let attached = || Ok(std::fs::read_to_string(&log).is_ok_and(|it| it.contains("attached")));
    interrupt.until("the kernel programs", WAIT, attached)?;
    Ok(child)
}

fn end(mut watching: std::process::Child) -> anyhow::Result<()> {
    let id = watching.id().to_string();
    Command::new("kill").args(["-TERM", &id]).status().context("end edgewatch watch")?;
    watching.wait().context("wait for edgewatch watch").map(drop)
}
