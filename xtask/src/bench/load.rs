//! The load at work: a process of its own in a service of the house, which carries out one order
//! after the other and says what each took.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::house::{House, WEB};
use crate::machine;

/// What the house `web` takes for its own, for as many servers as are wanted: the load's `LOCAL`.
const ADDRESSES: &str = "10.128.0.0/9";

/// The load, ended when dropped.
pub(crate) struct Load {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What an order took, in microseconds each time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) count: f64,
    /// Of processor time, both ends.
    pub(crate) cpu: f64,
    /// Of the call that is measured: its median and its 99th percentile.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Load {
    /// Starts one as a service of the house.
    pub(crate) fn start(
        program: &Path,
        house: &House,
        service: &str,
        options: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = house.outside(WEB, program)?;
        command.arg(house.service_cgroup(service)?).args(options);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let orders = child.stdin.take().context("its orders")?;
        let answers = BufReader::new(child.stdout.take().context("its answers")?);
        let mut load = Self { child, orders, answers };
        load.answer()?;
        Ok(load)
    }

    /// Gives an order and waits for what it took.
    pub(crate) fn takes(&mut self, order: &str) -> anyhow::Result<Taken> {
        let answer = self.answers(order)?;
        Self::taken(&answer).with_context(|| format!("{order}: {answer}"))
    }

    pub(crate) fn taken(answer: &Value) -> Option<Taken> {
        let field = |name: &str| answer[name].as_f64();
        Some(Taken {
            count: field("count")?,
            cpu: field("cpu")?,
            p50: field("p50")?,
            p99: field("p99")?,
        })
    }

    /// Gives an order and waits for its answer.
    pub(crate) fn answers(&mut self, order: &str) -> anyhow::Result<Value> {
        self.begin(order)?;
        self.answer().with_context(|| order.to_owned())
    }

    /// Gives an order.
    pub(crate) fn begin(&mut self, order: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{order}").with_context(|| format!("order {order}"))
    }

    /// Waits for the answer to the order begun before.
    pub(crate) fn answer(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).context("hear from the load")? == 0 {
            bail!("the load ended");
        }
        serde_json::from_str(&line).with_context(|| format!("the load said {line:?}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Makes the house `web` take the load's addresses for its own.
pub(crate) fn lay_addresses(house: &House) -> anyhow::Result<()> {
    let ip = machine::program("ip").context("no ip")?;
    let mut command: Command = house.outside(WEB, &ip)?;
    command.args(["route", "replace", "local", ADDRESSES, "dev", "lo"]);
    let status = command.status().context("start ip")?;
    if !status.success() {
        bail!("ip route replace local {ADDRESSES}: {status}");
    }
    Ok(())
}
