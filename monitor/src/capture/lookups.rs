//! What is asked of resolvers and answered, out of the kernel's records: whole messages, each with whom
//! it was sent to or came from as its asker means it, whatever address translation made of that. An answer
//! that came from elsewhere keeps the address that it came from; who is to be believed is the core's.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use monitor_common as wire;
use monitor_core::dns::{Message, Near, Said};
use monitor_core::flow::{Direction, Loss, Protocol};
use monitor_core::ids::CgroupId;

use crate::capture::decode::{self, Undecodable};
use crate::capture::dns;
use crate::capture::streams::{StreamId, Streams};

/// A record of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) at_ns: u64,
    cgroup: CgroupId,
    cookie: u64,
    /// Out of the socket, or into it.
    direction: Direction,
    protocol: Protocol,
    own: SocketAddr,
    far: SocketAddr,
    dialled: SocketAddr,
    sequence: u32,
    near: Near,
    payload: Vec<u8>,
}

/// A whole message, and between whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) at_ns: u64,
    pub(super) cgroup: CgroupId,
    pub(super) client: SocketAddr,
    pub(super) resolver: SocketAddr,
    pub(super) near: Near,
    pub(super) message: Message,
}

/// What was heard and is not told yet, and what it takes to tell it.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    waiting: VecDeque<Heard>,
    streams: Streams,
    /// Whom sockets asked of late, the oldest first.
    asked: BTreeMap<CgroupId, VecDeque<Asked>>,
}

/// A question as the kernel showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    cookie: u64,
    dialled: SocketAddr,
    /// Where it really went.
    far: SocketAddr,
}

/// What a record comes to.
pub(super) type Came = Result<Told, Loss>;

impl Lookups {
    /// Questions of one cgroup that are remembered.
    const OF_ONE: usize = 64;
    const CGROUPS: usize = 4096;

    /// Takes in a record of the ring.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        self.waiting.push_back(heard(bytes)?);
        Ok(())
    }

    /// What was heard before that moment.
    pub(super) fn until(&mut self, at_ns: u64) -> Vec<Came> {
        let mut came = Vec::new();
        while let Some(heard) = self.waiting.pop_front_if(|it| it.at_ns <= at_ns) {
            self.take(&heard, &mut came);
        }
        came
    }

    /// The cgroup is gone.
    pub(super) fn vanished(&mut self, cgroup: CgroupId) {
        self.asked.remove(&cgroup);
        self.streams.vanished(cgroup);
    }

    fn take(&mut self, heard: &Heard, came: &mut Vec<Came>) {
        if heard.protocol != Protocol::Tcp {
            came.extend(self.message(heard, &heard.payload));
            return;
        }
        let id = StreamId { cookie: heard.cookie, direction: heard.direction };
        let segment = (heard.sequence, &*heard.payload);
        let (messages, went) = self.streams.take(heard.cgroup, id, segment);
        came.extend(messages.iter().filter_map(|message| self.message(heard, message)));
        came.extend(went.is_err().then_some(Err(Loss::Unheard)));
    }

    /// What is not a question and no answer to one is nobody's business.
    fn message(&mut self, heard: &Heard, bytes: &[u8]) -> Option<Came> {
        let message = dns::message(bytes);
        let resolver = if heard.direction == Direction::Outbound {
            message.as_ref().filter(|it| it.said == Said::Asked)?;
            self.asks(heard);
            heard.dialled
        } else {
            if message.as_ref().is_some_and(|it| it.said == Said::Asked) {
                return None;
            }
            match (self.resolver_of(heard), &message) {
                (Some(resolver), Some(_)) => resolver,
                // Nothing that can be read answers what was asked.
                (Some(_), None) => return Some(Err(Loss::Unasked)),
                // It was asked before anybody looked.
                (None, Some(_)) => return Some(Err(Loss::Unheard)),
                (None, None) => return None,
            }
        };
        let Heard { at_ns, cgroup, own: client, near, .. } = *heard;
        Some(Ok(Told { at_ns, cgroup, client, resolver, near, message: message? }))
    }

    fn asks(&mut self, heard: &Heard) {
        let Heard { cgroup, cookie, dialled, far, .. } = *heard;
        if self.asked.len() >= Self::CGROUPS && !self.asked.contains_key(&cgroup) {
            self.asked.pop_first();
        }
        let asked = self.asked.entry(cgroup).or_default();
        let question = Asked { cookie, dialled, far };
        asked.retain(|it| *it != question);
        if asked.len() >= Self::OF_ONE {
            asked.pop_front();
        }
        asked.push_back(question);
    }

    /// Whom the socket asked that got this: whoever the packet came from, as it was dialled. None where it
    /// was not heard to ask.
    fn resolver_of(&self, heard: &Heard) -> Option<SocketAddr> {
        let asked = self.asked.get(&heard.cgroup)?;
        let of_socket = || asked.iter().rev().filter(|it| it.cookie == heard.cookie);
        of_socket().next()?;
        let from = of_socket().find(|it| heard.far == it.dialled || heard.far == it.far);
        Some(from.map_or(heard.far, |it| it.dialled))
    }
}

fn heard(bytes: &[u8]) -> Result<Heard, Undecodable> {
    let (head, payload) =
        bytes.split_at_checked(size_of::<wire::LookupHead>()).ok_or(Undecodable)?;
    let head: wire::LookupHead = decode::read(head)?;
    let end = |address, port| SocketAddr::new(decode::ip(address), port);
    Ok(Heard {
        at_ns: head.at_ns,
        cgroup: CgroupId(head.asker.cgroup_id),
        cookie: head.cookie,
        direction: decode::direction(head.direction),
        protocol: decode::protocol(head.protocol),
        own: end(head.own, head.own_port),
        far: end(head.far, head.far_port),
        dialled: end(head.asker.resolver, wire::DNS_PORT),
        sequence: head.sequence,
        near: if head.same == 0 { Near::Unknown } else { Near::SameAddress },
        payload: payload.get(..usize::from(head.bytes)).ok_or(Undecodable)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use Direction::{Inbound, Outbound};

    use super::*;

    const DIALLED: &str = "127.0.0.11:53";
    const REALLY: &str = "127.0.0.11:40001";

    /// A message about `a.example`; an answer of no records.
    fn message(id: u8, direction: Direction) -> Vec<u8> {
        let flags = if direction == Inbound { 0x81 } else { 1 };
        let mut bytes = vec![0, id, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(b"\x01a\x07example\0\0\x01\0\x01");
        bytes
    }

    fn at(far: &str, id: u8, direction: Direction) -> Heard {
        Heard {
            at_ns: 7,
            cgroup: CgroupId(1),
            cookie: 5,
            direction,
            protocol: Protocol::Udp,
            own: "10.0.0.1:5000".parse().unwrap(),
            far: far.parse().unwrap(),
            dialled: DIALLED.parse().unwrap(),
            sequence: 0,
            near: Near::Unknown,
            payload: message(id, direction),
        }
    }

    fn resolvers(lookups: &mut Lookups, heard: &[Heard]) -> Vec<Result<String, Loss>> {
        let mut came = Vec::new();
        heard.iter().for_each(|it| lookups.take(it, &mut came));
        came.into_iter().map(|it| it.map(|told| told.resolver.to_string())).collect()
    }

    #[test]
    fn an_answer_comes_from_whom_was_dialled_whatever_became_of_the_question() {
        let mut lookups = Lookups::default();
        let elsewhere = "203.0.113.9:53";
        let heard = [at(REALLY, 1, Outbound), at(DIALLED, 1, Inbound), at(REALLY, 1, Inbound)];
        assert_eq!(resolvers(&mut lookups, &heard), [DIALLED; 3].map(|it| Ok(it.to_owned())));
        let lie = at(elsewhere, 1, Inbound);
        assert_eq!(resolvers(&mut lookups, &[lie]), [Ok(elsewhere.to_owned())]);
        // Another's socket, and one that asked before anybody looked.
        let others = [Heard { cookie: 6, ..at(DIALLED, 1, Inbound) }];
        assert_eq!(resolvers(&mut lookups, &others), [Err(Loss::Unheard)]);
        lookups.vanished(CgroupId(1));
        assert_eq!(resolvers(&mut lookups, &[at(DIALLED, 1, Inbound)]), [Err(Loss::Unheard)]);
    }

    #[test]
    fn one_socket_may_ask_several() {
        let mut lookups = Lookups::default();
        let other = |heard: Heard| Heard { dialled: "192.0.2.1:53".parse().unwrap(), ..heard };
        let asked = [at(REALLY, 1, Outbound), other(at("192.0.2.1:53", 1, Outbound))];
        assert_eq!(resolvers(&mut lookups, &asked).len(), 2);
        let answers = [other(at(DIALLED, 1, Inbound)), other(at("192.0.2.1:53", 1, Inbound))];
        let expected = [DIALLED, "192.0.2.1:53"].map(|it| Ok(it.to_owned()));
        assert_eq!(resolvers(&mut lookups, &answers), expected);
    }

    #[test]
    fn what_cannot_be_read_answers_nothing() {
        let mut lookups = Lookups::default();
        let unreadable = |heard: Heard| Heard { payload: vec![0xff; 40], ..heard };
        assert_eq!(resolvers(&mut lookups, &[unreadable(at(DIALLED, 1, Inbound))]), []);
        assert_eq!(resolvers(&mut lookups, &[unreadable(at(DIALLED, 1, Outbound))]), []);
        resolvers(&mut lookups, &[at(DIALLED, 1, Outbound)]);
        let lie = unreadable(at(DIALLED, 1, Inbound));
        assert_eq!(resolvers(&mut lookups, &[lie]), [Err(Loss::Unasked)]);
    }

    #[test]
    fn over_tcp_a_message_comes_in_pieces() {
        let mut lookups = Lookups::default();
        let answer = message(1, Inbound);
        let framed = [&[0, u8::try_from(answer.len()).unwrap()][..], &answer].concat();
        let piece = |range: std::ops::Range<usize>| Heard {
            protocol: Protocol::Tcp,
            sequence: u32::try_from(range.start).unwrap(),
            payload: framed[range].to_vec(),
            ..at(DIALLED, 1, Inbound)
        };
        let mut question = message(1, Outbound);
        question.splice(..0, [0, u8::try_from(question.len()).unwrap()]);
        let asks = Heard { protocol: Protocol::Tcp, payload: question, ..at(DIALLED, 1, Outbound) };
        let heard = [asks, piece(0..2), piece(2..9), piece(9..framed.len())];
        assert_eq!(resolvers(&mut lookups, &heard).len(), 2);
    }
}
