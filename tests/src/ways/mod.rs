//! Every way of talking that the peer program has beyond what the standard library does: each is one
//! word on its command line. What comes of a dial is worded by `peer`; nobody here knows Edgewatch.

mod datagram;
mod socket;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;

pub use crate::ways::datagram::{exchange as exchange_datagrams, serve as serve_datagrams};
pub use crate::ways::stream::{
    Listening, ORDER_BYTES, converse, dial as dial_stream, exchange, exchanged, listen,
};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a peer talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `sendto(MSG_FASTOPEN)`: no connect.
    FastOpenSend,
    /// `TCP_FASTOPEN_CONNECT`: connects with the first byte that is written.
    FastOpenConnect,
    Multipath,
    /// `IORING_OP_CONNECT`.
    Ring,
    /// The same, taken up by a thread of the kernel.
    PolledRing,
    /// Several datagrams in one `sendmmsg`.
    Many,
    /// An IPv6 socket that is given IPv4 addresses as they are.
    Mixed,
    /// From a port of one's own choice.
    FromPort(u16),
    /// From a socket connected to another place.
    Elsewhere(SocketAddr),
    /// Sent from this address, with these words in it.
    Saying(SocketAddr, SocketAddr),
}

impl Way {
    /// Of a word, and of what follows it in the same word after `=`.
    ///
    /// # Errors
    /// It is no way.
    pub fn parse(word: &str) -> anyhow::Result<Self> {
        let (name, detail) = word.split_once('=').unwrap_or((word, ""));
        Ok(match name {
            "fast-open-send" => Self::FastOpenSend,
            "fast-open-connect" => Self::FastOpenConnect,
            "multipath" => Self::Multipath,
            "ring" => Self::Ring,
            "polled-ring" => Self::PolledRing,
            "many" => Self::Many,
            "mixed" => Self::Mixed,
            "from-port" => Self::FromPort(detail.parse()?),
            "elsewhere" => Self::Elsewhere(detail.parse()?),
            "saying" => match detail.split_once(',') {
                Some((from, what)) => Self::Saying(from.parse()?, what.parse()?),
                None => bail!("saying=FROM,WHAT"),
            },
            other => bail!("{other:?} is no way to talk"),
        })
    }

    /// Whether it is one of connections.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(
            self,
            Self::FastOpenSend
                | Self::FastOpenConnect
                | Self::Multipath
                | Self::Ring
                | Self::PolledRing
        )
    }
}

/// What a server answers to so many bytes.
#[must_use]
pub fn answer(bytes: usize) -> String {
    format!("got {bytes}\n")
}
