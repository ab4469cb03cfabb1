//! Asks a runtime by the Container Runtime Interface, as a kubelet does. Debian has no client of it: the
//! one here is a few lines of Python over a package of the messages.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::setup::Log;
use crate::workspace::Workspace;

const PACKAGE: &str = "container-runtime-interface-api==2.0.1";

/// The client, at work.
pub(crate) struct Cri {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Cri {
    /// Starts it; what it leans on is fetched once and kept under `target/`.
    pub(crate) fn start(
        workspace: &Workspace,
        script: &Path,
        socket: &Path,
    ) -> anyhow::Result<Self> {
        let at = workspace.target().join("lab/python");
        let ready = at.join("ready");
        if !ready.exists() {
            let mut log = Log::create(&workspace.target())?;
            let mut venv = Command::new("python3");
            log.step("python3 -m venv", venv.args(["-m", "venv"]).arg(&at))
                .context("apt-get install python3-venv")?;
            let mut pip = Command::new(at.join("bin/pip"));
            log.step("pip install", pip.args(["install", "--quiet", PACKAGE]))?;
            std::fs::write(&ready, "").context("note that the packages are there")?;
        }
        let mut python = Command::new(at.join("bin/python"));
        python.arg(script).arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for us.
        std::os::unix::process::CommandExt::process_group(&mut python, 0);
        let mut child = python.spawn().context("start python")?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (to, from) = to.zip(from).context("talk to python")?;
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, call: &str, with: &Value) -> anyhow::Result<Value> {
        writeln!(self.to, "{}", json!({"call": call, "with": with})).context("ask the runtime")?;
        let mut line = String::new();
        self.from.read_line(&mut line).context("hear the runtime")?;
        let mut said: Value =
            serde_json::from_str(&line).with_context(|| format!("{call}: no answer"))?;
        if let Some(error) = said["error"].as_str() {
            bail!("{call}: {error}");
        }
        Ok(said["answer"].take())
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
