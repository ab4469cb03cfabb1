//! Whose a socket is that somebody else uses: one that was handed over, or whose process changed its
//! cgroup. The hooks know the caller; the socket keeps the cgroup it was opened in, which `sock_diag`
//! tells of one socket for a few microseconds, while it is there. Asked for news alone, TCP alone, and not
//! where the kernel programs said so themselves, as they do in full detail.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use monitor_core::flow::{Direction, FlowKey, Outcome, Protocol, Remote};
use monitor_core::ids::{CgroupId, NetnsCookie};

use crate::capture::decode::Origin;
use crate::capture::namespaces;
use crate::capture::netlink::{SocketAt, Sockets};

pub(super) struct Openers {
    /// A socket of ours in each namespace: it stays in there, whoever asks it. Or when the namespace
    /// could not be entered, and by which process.
    namespaces: HashMap<NetnsCookie, Result<Sockets, (Instant, u32)>>,
    window: Instant,
    asked: u32,
}

impl Openers {
    /// Namespaces remembered; past this all are entered anew.
    const MAX: usize = 256;
    /// Questions in a [`Openers::WINDOW`]: beyond it news is more urgent than who opened what.
    const MOST: u32 = 50;
    const WINDOW: Duration = Duration::from_millis(100);

    pub(super) fn new() -> Self {
        Self { namespaces: HashMap::new(), window: Instant::now(), asked: 0 }
    }

    /// The cgroup that the socket of a flow was opened in, where that is another than the caller's.
    pub(super) fn of(&mut self, key: &FlowKey, origin: &Origin) -> Option<CgroupId> {
        let at = socket_of(key, origin)?;
        if !self.may_ask() {
            return None;
        }
        let pid = origin.process.as_ref()?.pid;
        if self.namespaces.len() >= Self::MAX {
            self.namespaces.clear();
        }
        // Entered by a process that is in it, and may be gone: then by another one.
        let is_to_be_entered = match self.namespaces.get(&origin.netns) {
            None => true,
            Some(Ok(_)) => false,
            Some(Err((tried, by))) => *by != pid || tried.elapsed() >= Self::WINDOW,
        };
        if is_to_be_entered {
            let entered = namespaces::sockets_of(pid, origin.netns);
            let entered = entered.map_err(|_gone| (Instant::now(), pid));
            self.namespaces.insert(origin.netns, entered);
        }
        let sockets = self.namespaces.get(&origin.netns)?.as_ref().ok()?;
        sockets.opener(&at).filter(|opener| *opener != key.cgroup)
    }

    fn may_ask(&mut self) -> bool {
        if self.window.elapsed() >= Self::WINDOW {
            (self.window, self.asked) = (Instant::now(), 0);
        }
        self.asked += 1;
        self.asked <= Self::MOST
    }
}

/// Where the socket is found; None where a flow does not say that.
fn socket_of(key: &FlowKey, origin: &Origin) -> Option<SocketAt> {
    if key.protocol != Protocol::Tcp {
        return None;
    }
    match (key.direction, key.remote, key.outcome) {
        (Direction::Outbound, Remote::Address(server), Outcome::Established) => {
            Some(SocketAt::Connected { local: origin.client?, remote: (server, key.port).into() })
        }
        (Direction::Listening, ..) => {
            Some(SocketAt::Listening { address: key.local, port: key.port })
        }
        // An accepted socket keeps the cgroup of its listener, which is its key's.
        _ => None,
    }
}
