//! A service manager as sockets know it: it listens, hands the listener to whom it starts in another
//! cgroup, and leaves accepting to that one. Knows nothing of names and units.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use anyhow::{Context as _, bail};

/// What it listens with and whom it started.
#[derive(Debug, Default)]
pub struct Activation {
    listener: Option<TcpListener>,
    server: Option<Child>,
}

impl Activation {
    /// Carries out one order: `listen ADDRESS:PORT`, `start CGROUP`, `end`.
    ///
    /// # Errors
    /// The order is none, or cannot be carried out.
    pub fn obey(&mut self, words: &[&str]) -> anyhow::Result<&'static str> {
        match words {
            ["listen", address] => {
                fs::write("/proc/self/comm", "systemd").context("take its name")?;
                self.listener = Some(TcpListener::bind(address).context("listen")?);
                Ok("listens")
            }
            ["start", cgroup] => {
                let socket = self.listener.as_ref().context("nothing listens")?.try_clone()?;
                let program = std::env::current_exe().context("this program")?;
                let mut command = Command::new(&program);
                command.args(["enter", "--cgroup", cgroup, "--"]).arg(&program);
                let server = command.arg("accept").stdin(OwnedFd::from(socket)).spawn();
                self.server = Some(server.context("start a server")?);
                Ok("started")
            }
            ["end"] => {
                let mut server = self.server.take().context("nobody was started")?;
                server.kill().and_then(|()| server.wait()).context("end a server")?;
                Ok("ended")
            }
            _ => bail!("a manager knows no {words:?}"),
        }
    }
}
