//! From the bytes of one line to a flow. Any bytes are read or refused; what is refused is told with
//! what would be right.

use std::net::IpAddr;

use monitor_core::edge::Peer;
use monitor_core::ids::ServiceName;
use serde::Deserialize;
use serde_json::error::Category;

use crate::recording::{
    DIRECTIONS, Direction, FarEnd, OUTCOMES, PROTOCOLS, RecordedFlow, Source, WORLD,
};
use crate::spelling::{hint, misspelt};

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("is longer than {} KiB: it is no flow", crate::recording::file::LONGEST >> 10)]
    TooLong,
    #[error("is no JSON object: {0}")]
    Json(String),
    #[error("unknown key {key:?}; {hint}")]
    UnknownKey { key: String, hint: String },
    #[error("column {column}: {what}")]
    Type { column: usize, what: String },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is empty: leave it out where it is not known")]
    Empty(&'static str),
    #[error("{key} {value:?} is not one of {known}")]
    Choice { key: &'static str, value: String, known: String },
    #[error("{key}: {what}")]
    Value { key: &'static str, what: String },
    #[error(
        "peer: one of service, name, network, or an address alone says who it is; {0} are there"
    )]
    Peers(usize),
    #[error("peer: world cannot be dialled; write the address or the name that was")]
    World,
}

/// A line as JSON; what is required is found missing after it is read, so that it can be named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at: Option<String>,
    node: Option<String>,
    source: Option<LineSource>,
    peer: Option<LinePeer>,
    direction: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
    outcome: Option<String>,
    connections: Option<u64>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    executable: Option<String>,
    pid: Option<u32>,
    uid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineSource {
    service: Option<String>,
    container: Option<String>,
    pod: Option<String>,
    image: Option<String>,
    cgroup: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinePeer {
    service: Option<String>,
    name: Option<String>,
    network: Option<String>,
    address: Option<String>,
}

/// Reads one line, with or without its newline.
///
/// # Errors
/// The first thing in it that cannot be meant.
pub fn read_line(bytes: &[u8]) -> Result<RecordedFlow, LineError> {
    // An array would do for serde: its fields in the order above.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(LineError::Json("it does not begin with {".to_owned()));
    }
    let line: Line = serde_json::from_slice(bytes).map_err(|error| unfit(&error))?;
    let at = required("at", line.at)?;
    let at = at.parse().map_err(|error| value("at", &error))?;
    let direction = choice("direction", line.direction, &DIRECTIONS)?;
    let source = line.source.ok_or(LineError::Missing("source"))?;
    let peer = line.peer.ok_or(LineError::Missing("peer"))?;
    Ok(RecordedFlow {
        at,
        node: safe("node", required("node", line.node)?)?,
        source: source.read()?,
        peer: peer.read(direction)?,
        direction,
        protocol: choice("protocol", line.protocol, &PROTOCOLS)?,
        port: line.port.ok_or(LineError::Missing("port"))?,
        outcome: choice("outcome", line.outcome, &OUTCOMES)?,
        connections: line.connections.unwrap_or(1),
        bytes_sent: line.bytes_sent.unwrap_or(0),
        bytes_received: line.bytes_received.unwrap_or(0),
        executable: known("executable", line.executable)?,
        pid: line.pid,
        uid: line.uid,
    })
}

impl LineSource {
    fn read(self) -> Result<Source, LineError> {
        let service = required("source.service", self.service)?;
        Ok(Source {
            service: service.parse().map_err(|error| value("source.service", &error))?,
            container: known("source.container", self.container)?,
            pod: known("source.pod", self.pod)?,
            image: known("source.image", self.image)?,
            cgroup: known("source.cgroup", self.cgroup)?,
        })
    }
}

impl LinePeer {
    fn read(self, direction: Direction) -> Result<FarEnd, LineError> {
        let named = [&self.service, &self.name, &self.network];
        let names = named.into_iter().filter(|it| it.is_some()).count();
        let address = match &self.address {
            Some(text) => Some(read_address(text)?),
            None => None,
        };
        let peer = match (names, self.service, self.name, self.network, address) {
            (1, Some(service), ..) => {
                let name = service.parse::<ServiceName>();
                Peer::Service(name.map_err(|error| value("peer.service", &error))?)
            }
            (1, _, Some(name), ..) => Peer::Name(name_of("peer.name", "dns:", &name)?.into()),
            (1, _, _, Some(network), _) => match name_of("peer.network", "net:", &network)? {
                world if world == WORLD => Peer::World,
                network => Peer::Network(network.into()),
            },
            (0, .., Some(address)) => {
                return Ok(FarEnd { peer: Peer::Address(address), address: None });
            }
            _ => return Err(LineError::Peers(names)),
        };
        if peer == Peer::World && direction == Direction::Outbound {
            return Err(LineError::World);
        }
        Ok(FarEnd { peer, address })
    }
}

/// A name with or without the scheme that edges write before it. It enters an edge's key, so it is
/// not mended: what is no safe text is refused.
fn name_of(key: &'static str, scheme: &str, text: &str) -> Result<String, LineError> {
    let name = text.strip_prefix(scheme).unwrap_or(text);
    if name.is_empty() {
        return Err(LineError::Empty(key));
    }
    if format!("{scheme}{name}").parse::<Peer>().is_err() {
        let what = format!("{:?} is no name: write it in A-Z a-z 0-9 . _ : / @ + -", brief(name));
        return Err(LineError::Value { key, what });
    }
    Ok(name.to_owned())
}

/// IPv4-mapped addresses are IPv4's, as everywhere.
fn read_address(text: &str) -> Result<IpAddr, LineError> {
    let address = text.parse::<IpAddr>().map(|address| address.to_canonical());
    address.map_err(|_error| LineError::Value {
        key: "peer.address",
        what: format!("{:?} is not an address: write one like 203.0.113.9", brief(text)),
    })
}

fn required(key: &'static str, text: Option<String>) -> Result<String, LineError> {
    text.ok_or(LineError::Missing(key))
}

fn known(key: &'static str, text: Option<String>) -> Result<Option<String>, LineError> {
    text.map(|text| safe(key, text)).transpose()
}

/// As safe text; what is encoded already stays as it is.
fn safe(key: &'static str, text: String) -> Result<String, LineError> {
    if text.is_empty() {
        return Err(LineError::Empty(key));
    }
    Ok(monitor_core::edge::executable_name(&text))
}

fn choice<T: Copy>(
    key: &'static str,
    text: Option<String>,
    choices: &[(&str, T)],
) -> Result<T, LineError> {
    let text = required(key, text)?;
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let known: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(LineError::Choice { key, value: brief(&text), known: known.join(", ") })
}

fn value(key: &'static str, error: &monitor_core::ids::NameError) -> LineError {
    LineError::Value { key, what: brief(&error.to_string()) }
}

/// What serde says, in our words.
fn unfit(error: &serde_json::Error) -> LineError {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    match error.classify() {
        Category::Io | Category::Syntax => LineError::Json(brief(what)),
        Category::Eof => LineError::Json("it ends too early".to_owned()),
        Category::Data => match misspelt(what, "unknown field `") {
            Some((key, known)) => {
                let key = brief(key);
                LineError::UnknownKey { hint: hint(&key, &known), key }
            }
            None => LineError::Type { column: error.column(), what: brief(what) },
        },
    }
}

/// At most this many characters of what a stranger wrote are repeated.
const REPEATED: usize = 200;

fn brief(text: &str) -> String {
    match text.char_indices().nth(REPEATED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
