//! What most tests begin with: a web service that dials an API, an agent that has seen it, a
//! receiver that is told, and a lookout whose every dial is an alert.

use std::net::SocketAddr;

use serde_json::Value;
use tests::agent::{Agent, SOON, Setup};
use tests::eventually;
use tests::lab::{Lab, Service, Wire};
use tests::receiver::{Receiver, edge_of, findings};
use tests::traffic::{Dialler, Protocol, Server};

use crate::lab;

/// The shop. Its lab is dropped last: all else stands in it.
pub(crate) struct Shop {
    pub(crate) agent: Agent,
    pub(crate) receiver: Receiver,
    pub(crate) web: Dialler,
    /// Serves 8080/tcp, which `web` and `lookout` dialled once.
    pub(crate) api: Server,
    lookout: Dialler,
    /// Where the lookout has not been yet.
    next_port: u16,
    pub(crate) wire: Wire,
    pub(crate) lab: Lab,
}

impl Shop {
    /// A shop where all is learned and nothing is guarded.
    #[track_caller]
    pub(crate) fn open() -> Self {
        Self::with(lab(), &Setup::mode("learn"))
    }

    /// A shop whose web service is guarded.
    #[track_caller]
    pub(crate) fn guarded() -> Self {
        let shop = Self::open();
        shop.agent.guards(&[&shop.web.service]);
        shop
    }

    /// A shop with an agent of its own kind; the lookout is guarded.
    #[track_caller]
    pub(crate) fn with(lab: Lab, setup: &Setup) -> Self {
        Self::receiving(lab, setup, "")
    }

    /// A shop whose web service is guarded and whose receiver hears of this lab's services alone: not
    /// of what the agent could not tell of other tests' traffic. For who counts messages.
    #[track_caller]
    pub(crate) fn undistracted(setup: &Setup, lines: &str) -> Self {
        let lab = lab();
        let lines = format!("services = [{:?}]\n{lines}", lab.pattern());
        let shop = Self::receiving(lab, setup, &lines);
        shop.agent.guards(&[&shop.web.service]);
        shop
    }

    /// A shop whose receiver is configured with further lines.
    #[track_caller]
    fn receiving(lab: Lab, setup: &Setup, lines: &str) -> Self {
        let receiver = Receiver::start();
        let wire = lab.wire();
        let setup = setup.clone().told_to(&lab, &receiver).tables(lines);
        let agent = lab.agent("agent", &setup);
        let at = SocketAddr::new(wire.server.v4, 8080);
        let api = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
        let mut web = lab.dialler(&lab.service("web"), &wire.client);
        let mut lookout = lab.dialler(&lab.service("lookout"), &wire.client);
        web.reaches(&api);
        lookout.reaches(&api);
        agent.sees(&api.edge_from(&web.service));
        agent.guards(&[&lookout.service]);
        Self { agent, receiver, web, api, lookout, next_port: 20_000, wire, lab }
    }

    /// An address of the server's end.
    pub(crate) const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.wire.server.v4, port)
    }

    /// The baselines of the shop's first services as a file. Other tests are on the same machine, so
    /// no more than these is asked for.
    #[track_caller]
    pub(crate) fn exported(&self) -> String {
        let [web, api, lookout] =
            [&self.web.service, &self.api.service, &self.lookout.service].map(|it| &*it.name);
        self.agent.text(&["baseline", "export", web, api, lookout])
    }

    /// Another server beside the API.
    #[track_caller]
    pub(crate) fn server(&self, name: &str, port: u16) -> Server {
        let service = self.lab.service(name);
        self.lab.serve(&service, &self.wire.server, Protocol::Tcp, self.at(port))
    }

    /// Another client beside the web service.
    #[track_caller]
    pub(crate) fn client(&self, name: &str) -> Dialler {
        self.lab.dialler(&self.lab.service(name), &self.wire.client)
    }

    /// Waits until an alert about `edge` was accepted.
    #[track_caller]
    pub(crate) fn alert_about(&self, edge: &str) -> Value {
        self.receiver.alert(SOON, edge, |alert| is_about(alert, edge))
    }

    /// Waits until an alert in `state` about `edge` was accepted.
    #[track_caller]
    pub(crate) fn alert_that(&self, state: &str, edge: &str) -> Value {
        let what = format!("{state}: {edge}");
        self.receiver.alert(SOON, &what, |alert| alert["state"] == state && is_about(alert, edge))
    }

    /// Waits until the agent lists an alert about `edge`, which it has stored then.
    #[track_caller]
    pub(crate) fn alert_listed(&self, edge: &str) -> Value {
        eventually(SOON, edge, || {
            let list = self.agent.json(&["alerts"]);
            let found = list.as_array().into_iter().flatten().find(|it| is_about(it, edge));
            found.cloned().ok_or_else(|| list.to_string())
        })
    }

    /// Waits until an alert with this title was accepted.
    #[track_caller]
    pub(crate) fn alert_titled(&self, title: &str) -> Value {
        self.receiver.alert(SOON, title, |alert| alert["title"] == title)
    }

    /// Everything that was accepted up to now, the lookout's own alerts left out, and what the agent
    /// lost or found odd of other tests' traffic. That nothing more is on its way is proved by an alert
    /// that was caused after it and, being about a datagram that may have a far end on this machine,
    /// waits as long as any for that.
    #[track_caller]
    pub(crate) fn told(&mut self) -> Vec<Value> {
        let to = self.at(self.next_port);
        self.next_port += 1;
        self.lookout.dials(&format!("datagram {to}"), "sent");
        self.receiver.alert(SOON, "the lookout's alert", |alert| {
            findings(alert).any(|it| it["edge"]["port"] == to.port())
        });
        let lost = |alert: &Value| {
            findings(alert).all(|it| {
                it["reasons"][0]["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("lost-") || name.starts_with("joined-"))
            })
        };
        let told = self.receiver.alerts().into_iter();
        let anothers =
            |alert: &Value| self.lab.is_anothers(alert["service"].as_str().unwrap_or_default());
        told.filter(|it| !is_of(it, &self.lookout.service) && !lost(it) && !anothers(it)).collect()
    }

    /// Checks that after `before` alerts none came.
    #[track_caller]
    pub(crate) fn was_silent(&mut self, before: usize) {
        let told = self.told();
        assert_eq!(told.len(), before, "{:#?}", told.iter().map(brief).collect::<Vec<_>>());
    }
}

/// Whether a finding of `alert` is about `edge`.
pub(crate) fn is_about(alert: &Value, edge: &str) -> bool {
    findings(alert).any(|it| edge_of(it) == edge)
}

/// Whether `alert` belongs to `service`.
pub(crate) fn is_of(alert: &Value, service: &Service) -> bool {
    alert["service"] == service.name.as_str()
}

/// The finding of `alert` about `edge`; the last where there are several.
#[track_caller]
pub(crate) fn finding<'a>(alert: &'a Value, edge: &str) -> &'a Value {
    match findings(alert).filter(|it| edge_of(it) == edge).last() {
        Some(finding) => finding,
        None => panic!("nothing about {edge}: {alert:#}"),
    }
}

/// The kinds of the findings about `edge`, in order.
pub(crate) fn kinds(alert: &Value, edge: &str) -> Vec<String> {
    let about = findings(alert).filter(|it| edge_of(it) == edge);
    about.map(|it| it["kind"].as_str().unwrap_or("?").to_owned()).collect()
}

/// An alert in a line.
pub(crate) fn brief(alert: &Value) -> String {
    format!("{}/{} {} {}", alert["id"], alert["revision"], alert["state"], alert["title"])
}
