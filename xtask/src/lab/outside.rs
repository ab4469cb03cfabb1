//! The world outside the lab: a resolver that knows one name, and the address that it has. What the lab's
//! services make of it is not its business.

use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::Context as _;

use crate::lab::command::done;
use crate::lab::ground::Ground;

/// The one name, and where the containers' resolver asks for it.
pub(crate) const NAME: &str = "outside.test";
pub(crate) const RESOLVER: &str = "192.0.2.53";
const ADDRESS: &str = "203.0.113.7";

/// It answers as long as this lives.
pub(crate) struct Outside(Child);

impl Outside {
    /// Outside of all that is watched, so that it is an address to everybody.
    pub(crate) fn begin(ground: &Ground, peer: &Path) -> anyhow::Result<Self> {
        for address in [RESOLVER, ADDRESS] {
            let words = ["addr", "replace", &format!("{address}/32"), "dev", "lo"];
            done(ground.inside("ip")?.args(words))?;
        }
        let mut command = ground.inside(&peer.to_string_lossy())?;
        let (at, zone) = (format!("{RESOLVER}:53"), format!("{NAME}={ADDRESS}"));
        command.args(["serve", "names", &at, &zone]);
        // It ends with its input, also where this is killed.
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self(command.spawn().context("start a resolver")?))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
