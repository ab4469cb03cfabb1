//! What every runtime of the lab can be asked to do to the application, and what is to be seen of it.
//! How it does that is each runtime's own.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::lab::ground::Ground;
use crate::lab::trials::Trial;

/// What is to be seen, as people write it.
pub(crate) struct Names {
    /// The application's edges.
    pub(crate) edges: &'static [&'static str],
    /// What the runtime itself may do beside it: beginnings of edges.
    pub(crate) own: &'static [&'static str],
    pub(crate) guarded: &'static [&'static str],
    /// What is told when another service takes the address of `api`.
    pub(crate) reused: &'static str,
    /// What is told when `web` dials a name that only the outside knows; none where it cannot ask for one.
    pub(crate) outside: Option<&'static str>,
    /// What is told when `web` dials what it never dialled.
    pub(crate) hijacked: &'static str,
}

/// A runtime, and the application under it: `web` calls `api`, `api` calls `db`.
pub(crate) trait Runtime {
    fn ground(&mut self) -> &mut Ground;

    fn names(&self) -> &'static Names;

    /// What of all trials it has a notion of, in this order.
    fn trials(&self) -> &'static [Trial];

    /// The key of `[identity]` that asks it, and where; none where nobody needs to be asked.
    fn source(&self) -> Option<(&'static str, String)>;

    /// Starts whatever of the application does not run.
    fn up(&mut self) -> anyhow::Result<()>;

    fn down(&mut self) -> anyhow::Result<()>;

    fn restart(&mut self) -> anyhow::Result<()>;

    /// Runs a command where `web` runs; it may fail.
    fn at_web(&mut self, words: &[&str]) -> anyhow::Result<()>;

    /// Lets another service take the address of `api`, which ends, at once; where it is dialled.
    fn usurp(&mut self) -> anyhow::Result<String>;

    /// Everything is as it was before that.
    fn restore(&mut self) -> anyhow::Result<()>;

    /// Where `web` dials what it never dialled.
    fn astray(&self) -> String;

    /// What an alert says of where `web` runs.
    fn place_of_web(&mut self) -> anyhow::Result<Vec<(&'static str, String)>>;

    /// By its lasting name, what each service is called while nobody is asked; none where nobody need be.
    fn provisional(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        Ok(Vec::new())
    }

    /// Does what is done seldom, to be learned.
    fn rehearse(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether an edge is seen again while the application is as it is now.
    fn is_in_use(&self, _edge: &str) -> bool {
        true
    }

    /// Whether it names itself rightly.
    fn judge(&self, _edges: &[Value]) -> anyhow::Result<()> {
        Ok(())
    }

    /// Another number of `api`.
    fn rescale(&mut self) -> anyhow::Result<()> {
        bail!("it has no notion of that")
    }

    /// The usual number of them.
    fn rescale_back(&mut self) -> anyhow::Result<()> {
        bail!("it has no notion of that")
    }

    /// Makes all anew, with other addresses.
    fn recreate(&mut self) -> anyhow::Result<()> {
        bail!("it has no notion of that")
    }

    /// Makes all of another image.
    fn roll_out(&mut self) -> anyhow::Result<()> {
        bail!("it has no notion of that")
    }

    /// One more of `web` that lives for one call.
    fn brief(&mut self) -> anyhow::Result<()> {
        bail!("it has no notion of that")
    }

    /// Ends the runtime; the application goes on.
    fn leave(&mut self) -> anyhow::Result<()> {
        bail!("it has no notion of that")
    }

    /// Happens while it is away.
    fn meanwhile(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Starts the runtime again.
    fn come_back(&mut self) -> anyhow::Result<()>;
}

/// What a container is called of which no more is known than its id.
pub(crate) fn by_id(scheme: &str, id: &str) -> anyhow::Result<String> {
    Ok(format!("{scheme}:id/{}", id.get(..12).with_context(|| format!("an odd id: {id:?}"))?))
}
