//! The canary: a connection of our own over loopback, made every so often, whose news must travel the
//! whole way from the hooks to us. It says whether we still see, and is told of by nothing else: it is
//! no flow, no traffic and no loss.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use monitor_core::flow::{Canary as News, Direction, FlowKey, Half, Observation, Protocol, Remote};
use monitor_core::ids::{BootTime, CgroupId};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen};
use rustix::net::{socket_with, sockopt};

use crate::capture::clock;
use crate::capture::decode::KeyBytes;

/// Where it flies: an address of every loopback interface that nobody else has a use for.
const PLACE: Ipv4Addr = Ipv4Addr::new(127, 101, 119, 1);

/// How long its news may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Canary {
    every: Duration,
    due: Instant,
    flight: Option<Flight>,
    /// Whose it is, by the kernel's word: what flew at [`PLACE`] from here is a canary of ours, or of
    /// another agent that runs the same file.
    cgroup: Option<CgroupId>,
    executable_id: u64,
    /// Its keys in the kernel's map.
    keys: Vec<KeyBytes>,
}

/// One that is on its way.
struct Flight {
    /// Closed first, and cut off: nothing is to linger.
    _dialler: OwnedFd,
    listener: OwnedFd,
    at: SocketAddr,
    dialled: BootTime,
    until: Instant,
    /// What did not come back yet; None where all did.
    missing: Option<Half>,
}

impl Canary {
    pub(super) fn new(every: Duration, cgroup: Option<CgroupId>) -> Self {
        let due = Instant::now();
        Self { every, due, flight: None, cgroup, executable_id: 0, keys: Vec::new() }
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Instant {
        self.flight.as_ref().map_or(self.due, |flight| flight.until)
    }

    /// Whether one is to fly; asked once for each.
    pub(super) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.flight.is_none() && now >= self.due;
        if due {
            self.due = now + self.every;
        }
        due
    }

    /// The keys that earlier ones left in the kernel's map.
    pub(super) fn take_keys(&mut self) -> Vec<KeyBytes> {
        std::mem::take(&mut self.keys)
    }

    /// Sends one off. `prepare` is told where it will land, before anybody listens there.
    pub(super) fn fly(
        &mut self,
        cgroup: Option<CgroupId>,
        prepare: impl FnOnce(SocketAddr) -> Result<(), String>,
    ) -> Result<(), String> {
        self.cgroup = cgroup.or(self.cgroup);
        let refused = |error: io::Error| format!("no connection to {PLACE} can be made: {error}");
        let (listener, at) = perch().map_err(refused)?;
        prepare(at)?;
        listen(&listener, 1).map_err(|error| refused(error.into()))?;
        let dialler = stream().map_err(refused)?;
        let dialled = BootTime(clock::boot_ns());
        match connect(&dialler, &at) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(refused(error.into())),
        }
        let until = Instant::now() + PATIENCE;
        self.flight = Some(Flight {
            _dialler: dialler,
            listener,
            at,
            dialled,
            until,
            missing: Some(Half::Both),
        });
        Ok(())
    }

    /// Whether a key is a canary's, by its address and by whose it is.
    pub(super) fn owns(&self, key: &FlowKey) -> bool {
        let place = Some(IpAddr::V4(PLACE));
        if key.protocol != Protocol::Tcp {
            return false;
        }
        let in_flight = self.flight.as_ref().is_some_and(|flight| flight.at.port() == key.port);
        let own_cgroup = in_flight || self.cgroup == Some(key.cgroup);
        let own = own_cgroup || self.executable_id != 0 && self.executable_id == key.executable_id;
        match (key.direction, key.remote) {
            (Direction::Outbound, Remote::Address(to)) => Some(to) == place && own,
            (Direction::Listening, _) => key.local == place && own,
            // One cgroup at both ends; only its own dial says what runs there.
            (Direction::Inbound, Remote::Cgroup(from)) => key.local == place && from == key.cgroup,
            (Direction::Inbound, Remote::Address(from)) => {
                key.local == place && from.is_loopback() && own_cgroup
            }
            (Direction::Inbound, Remote::World) => key.local == place && own_cgroup,
            (Direction::Outbound, Remote::Cgroup(_) | Remote::World | Remote::Socket(_))
            | (Direction::Inbound, Remote::Socket(_)) => false,
        }
    }

    /// Takes news of one in. What it makes known, if that is all that was waited for.
    pub(super) fn came(&mut self, bytes: KeyBytes, key: &FlowKey) -> Option<Observation> {
        let flight = self.flight.as_mut().filter(|flight| flight.at.port() == key.port)?;
        self.keys.push(bytes);
        match key.direction {
            Direction::Outbound => {
                flight.missing = match flight.missing {
                    Some(Half::Both | Half::Accept) => Some(Half::Accept),
                    Some(Half::Dial) | None => None,
                };
                self.cgroup = Some(key.cgroup);
                self.executable_id = key.executable_id;
            }
            Direction::Inbound => {
                flight.missing = match flight.missing {
                    Some(Half::Both | Half::Dial) => Some(Half::Dial),
                    Some(Half::Accept) | None => None,
                };
            }
            Direction::Listening => {}
        }
        if flight.missing.is_some() {
            return None;
        }
        let flight = self.flight.take()?;
        Some(Observation::Canary(News::Returned { dialled: flight.dialled }))
    }

    /// Gives up on one that did not come back in time. Call it after all that there was to read.
    pub(super) fn judge(&mut self) -> Option<Observation> {
        let flight = self.flight.take_if(|flight| Instant::now() >= flight.until)?;
        let half = flight.missing?;
        Some(Observation::Canary(if flight.was_accepted() {
            News::Missing { half }
        } else {
            let why = format!("a connection to {PLACE} is not answered: a firewall may drop it");
            News::Grounded { why }
        }))
    }
}

impl Flight {
    /// Whether there was something to see.
    fn was_accepted(&self) -> bool {
        rustix::net::accept(&self.listener).is_ok()
    }
}

/// A socket that has a port, and does not listen yet.
fn perch() -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = stream()?;
    bind(&socket, &SocketAddr::new(PLACE.into(), 0))?;
    let at = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, at))
}

fn stream() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // Its end is to leave nothing behind that waits for its time.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use monitor_core::flow::Outcome;

    use super::*;
    use crate::capture::decode;

    fn key(direction: Direction, remote: Remote) -> FlowKey {
        FlowKey {
            cgroup: CgroupId(7),
            direction,
            protocol: Protocol::Tcp,
            remote,
            local: (direction != Direction::Outbound).then_some(IpAddr::V4(PLACE)),
            port: 4000,
            outcome: Outcome::Established,
            executable_id: 0,
        }
    }

    #[test]
    fn only_what_flies_at_its_place_from_its_own_cgroup_is_a_canary() {
        let canary = Canary::new(Duration::from_secs(1), Some(CgroupId(7)));
        let place = Remote::Address(PLACE.into());
        let ours = [
            key(Direction::Outbound, place),
            key(Direction::Inbound, Remote::Cgroup(CgroupId(7))),
            key(Direction::Inbound, place),
            key(Direction::Listening, Remote::World),
        ];
        for key in ours {
            assert!(canary.owns(&key), "{key:?}");
            let elsewhere = Some(Ipv4Addr::LOCALHOST.into());
            let other = FlowKey { local: elsewhere, ..key };
            assert!(key.direction == Direction::Outbound || !canary.owns(&other), "{other:?}");
            let stranger = FlowKey { cgroup: CgroupId(8), ..key };
            assert!(!canary.owns(&stranger), "{stranger:?}");
            assert!(!canary.owns(&FlowKey { protocol: Protocol::Udp, ..key }));
        }
        let dialled = Remote::Address(Ipv4Addr::LOCALHOST.into());
        assert!(!canary.owns(&key(Direction::Outbound, dialled)));
    }

    #[test]
    fn it_comes_back_when_both_of_its_ends_were_seen() {
        let mut canary = Canary::new(Duration::from_secs(1), None);
        assert!(canary.is_due() && !canary.is_due(), "once");
        let mut prepared = None;
        canary
            .fly(Some(CgroupId(7)), |at| {
                prepared = Some(at);
                Ok(())
            })
            .unwrap();
        let port = prepared.unwrap().port();
        let dial = FlowKey { port, ..key(Direction::Outbound, Remote::Address(PLACE.into())) };
        let accept = FlowKey { port, ..key(Direction::Inbound, Remote::Cgroup(CgroupId(7))) };
        let bytes = |key| decode::key_bytes(&key);
        assert!(canary.owns(&dial) && canary.judge().is_none());
        assert_eq!(canary.came(bytes(dial), &dial), None);
        let returned = canary.came(bytes(accept), &accept);
        assert!(matches!(returned, Some(Observation::Canary(News::Returned { .. }))));
        assert_eq!(canary.take_keys(), [bytes(dial), bytes(accept)]);
        assert_eq!(canary.came(bytes(accept), &accept), None, "it is home");
    }

    #[test]
    fn one_of_which_nothing_is_heard_is_missing() {
        let mut canary = Canary::new(Duration::from_secs(1), None);
        canary.fly(None, |_| Ok(())).unwrap();
        canary.flight.as_mut().unwrap().until = Instant::now();
        let missing = Observation::Canary(News::Missing { half: Half::Both });
        assert_eq!(canary.judge(), Some(missing));
        assert_eq!(canary.judge(), None, "said once");
        assert_eq!(canary.fly(None, |_| Err("no room".to_owned())), Err("no room".to_owned()));
    }
}
