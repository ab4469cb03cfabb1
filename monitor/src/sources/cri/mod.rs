//! A node's own word on its pods: containerd and CRI-O by the Container Runtime Interface, for nodes on
//! which nobody may ask the cluster. Listed once, and again when something is seen that was not in the
//! list, or when the runtime says that something happened: nothing is asked in between. Of a pod's
//! addresses no list says anything: they are asked for once.

mod api;
mod owner;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use monitor_core::directory::{self, Fact, Kind, Pod, Subject};
use monitor_core::ids::WallTime;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status};

use crate::sources::cri::api::{
    Container, Containers, Event, Runtime, Sandbox, SandboxNetwork, Sandboxes,
};
use crate::sources::text::{is_id, short_text};
use crate::sources::{self, ANSWER, Patience, Telling, Unheard};

/// A container's cgroup may be there before its runtime lists it: when the list is made, and made again.
/// At first soon, for it may be gone in a moment.
const AFTER: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Who answers by the CRI; asked again whenever `unknown` says that there is something new.
pub(super) struct Pods {
    pub(super) unknown: Arc<Notify>,
}

impl sources::Runtime for Pods {
    async fn follow(
        &mut self,
        telling: &Telling,
        socket: &Path,
        patience: &mut Patience,
    ) -> Result<String, Unheard> {
        follow(telling, socket, &self.unknown, patience).await
    }
}

async fn follow(
    telling: &Telling,
    socket: &Path,
    unknown: &Notify,
    patience: &mut Patience,
) -> Result<String, Unheard> {
    let mut runtime = match Runtime::at(socket, ANSWER).await {
        Ok(runtime) => runtime,
        Err(_error) => return Ok("nobody answers there".to_owned()),
    };
    let mut events = match in_time(runtime.events()).await {
        Ok(events) => Some(events),
        // Then it is asked when something appears, and no sooner.
        Err(status) if status.code() == Code::Unimplemented => None,
        Err(status) => return Ok(said(&status)),
    };
    let mut networks = Networks::new();
    if let Some(why) = list(telling, &mut runtime, &mut networks).await? {
        return Ok(why);
    }
    telling.tell(Fact::Present(telling.source)).await?;
    patience.reset();
    let mut lists = Lists::default();
    loop {
        tokio::select! {
            () = unknown.notified() => lists.ask(&AFTER),
            happened = next(events.as_mut()) => match happened {
                Ok(Some(_)) => lists.ask(&AFTER[..1]),
                Ok(None) => return Ok("it ended the list of its events".to_owned()),
                Err(status) => return Ok(said(&status)),
            },
            () = lists.due() => {
                if let Some(why) = list(telling, &mut runtime, &mut networks).await? {
                    return Ok(why);
                }
            }
        }
    }
}

/// When lists are to be made.
#[derive(Debug, Default)]
struct Lists {
    next: Option<Instant>,
    /// The pauses before those that follow it.
    further: &'static [Duration],
}

impl Lists {
    /// Somebody asks for lists after these pauses. One that is about to be made is not put off: whoever
    /// asks without end is answered as well.
    fn ask(&mut self, pauses: &'static [Duration]) {
        let Some((first, further)) = pauses.split_first() else { return };
        let soon = Instant::now() + *first;
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        if further.len() > self.further.len() {
            self.further = further;
        }
    }

    /// Waits until one is to be made; for ever where none is.
    async fn due(&mut self) {
        match self.next {
            Some(next) => sleep_until(next).await,
            None => std::future::pending().await,
        }
        let further = self.further.split_first();
        self.next = further.map(|(pause, _)| Instant::now() + *pause);
        self.further = further.map_or(&[], |(_, further)| further);
    }
}

async fn next(events: Option<&mut tonic::Streaming<Event>>) -> Result<Option<Event>, Status> {
    match events {
        Some(events) => events.message().await,
        None => std::future::pending().await,
    }
}

/// The addresses of sandboxes that are ready, by their ids.
type Networks = BTreeMap<String, Vec<IpAddr>>;

/// Tells all there is; why not, where the runtime does not.
async fn list(
    telling: &Telling,
    runtime: &mut Runtime,
    networks: &mut Networks,
) -> Result<Option<String>, Unheard> {
    let listed = async {
        let sandboxes = in_time(runtime.sandboxes()).await?;
        let containers = in_time(runtime.containers()).await?;
        let ready = sandboxes.iter().filter(|it| it.state == READY).map(|it| it.id.clone());
        let mut old = std::mem::take(networks);
        for id in ready {
            let addresses = match old.remove(&id) {
                Some(known) => known,
                None => match in_time(runtime.network(&id)).await {
                    Ok(network) => network.map(addresses).unwrap_or_default(),
                    // Gone meanwhile.
                    Err(status) if status.code() == Code::NotFound => continue,
                    Err(status) => return Err(status),
                },
            };
            networks.insert(id, addresses);
        }
        Ok((sandboxes, containers))
    };
    let (sandboxes, containers) = match listed.await {
        Ok(listed) => listed,
        Err(status) => return Ok(Some(said(&status))),
    };
    let (pods, containers) = told(sandboxes, containers, networks);
    for (kind, subjects) in [(Kind::Pod, pods), (Kind::Container, containers)] {
        telling.tell(Fact::Listing(telling.source, kind)).await?;
        for subject in subjects {
            telling.tell(Fact::Is(telling.source, Box::new(subject))).await?;
        }
        telling.tell(Fact::Listed(telling.source, kind)).await?;
    }
    Ok(None)
}

const READY: i32 = 0;
/// More than one of each family is no pod's; nobody says how many a runtime tells.
const ADDRESSES: usize = 16;

fn addresses(network: SandboxNetwork) -> Vec<IpAddr> {
    let all = std::iter::once(network.ip).chain(network.additional.into_iter().map(|it| it.ip));
    all.filter_map(|it| it.parse().ok()).take(ADDRESSES).collect()
}

/// What two answers say, byte for byte: of the pods' sandboxes and of the containers.
pub(super) fn subjects(sandboxes: &[u8], containers: &[u8]) -> Option<Vec<Subject>> {
    let sandboxes = Sandboxes::decode(sandboxes).ok()?.items;
    let containers = Containers::decode(containers).ok()?.containers;
    let (mut pods, containers) = told(sandboxes, containers, &Networks::new());
    pods.extend(containers);
    Some(pods)
}

/// What the lists say. A pod that was restarted in place has several sandboxes: any names it, and the one
/// that is ready has its addresses.
fn told(
    sandboxes: Vec<Sandbox>,
    containers: Vec<Container>,
    networks: &Networks,
) -> (Vec<Subject>, Vec<Subject>) {
    let mut uids: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut pods: BTreeMap<Arc<str>, Subject> = BTreeMap::new();
    for Sandbox { id, metadata, state, created_at, labels } in sandboxes {
        let Some(metadata) = metadata else { continue };
        let uid = short_text(&metadata.uid);
        if uid.is_empty() || !is_id(&id) {
            continue;
        }
        let addresses = networks.get(&id).cloned().unwrap_or_default();
        uids.insert(id, Arc::clone(&uid));
        if state != READY && pods.contains_key(&uid) {
            continue;
        }
        let pod = Pod {
            uid: Arc::clone(&uid),
            alias: None,
            service: owner::of(&metadata.namespace, &metadata.name, &labels),
            node: "".into(),
            addresses,
            since: moment(created_at),
            containers: Vec::new(),
        };
        pods.insert(uid, Subject::Pod(pod));
    }
    let container = |it: Container| {
        let pod = uids.get(&it.sandbox)?;
        let name = it.metadata.map(|it| short_text(&it.name)).filter(|it| !it.is_empty());
        is_id(&it.id).then(|| {
            Subject::Container(directory::Container {
                id: it.id.into(),
                service: None,
                pod: Some(Arc::clone(pod)),
                name,
                image: Some(short_text(&it.image)).filter(|it| !it.is_empty()),
                addresses: Vec::new(),
                since: moment(it.created_at),
            })
        })
    };
    let containers = containers.into_iter().filter_map(container).collect();
    (pods.into_values().collect(), containers)
}

/// Of nanoseconds since 1970; none where nobody said.
fn moment(nanoseconds: i64) -> Option<WallTime> {
    (nanoseconds > 0).then_some(WallTime(nanoseconds / 1_000))
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timeout(ANSWER, answer).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Status::deadline_exceeded("")),
    }
}

fn said(status: &Status) -> String {
    match status.code() {
        Code::DeadlineExceeded => format!("does not answer within {} s", ANSWER.as_secs()),
        Code::Unavailable => "nobody answers there".to_owned(),
        Code::Unimplemented => "it speaks another version of the interface than v1".to_owned(),
        code => format!("it refuses to answer ({code:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::cri::api::{ContainerMetadata, SandboxMetadata};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[tokio::test(start_paused = true)]
    async fn what_appears_meanwhile_is_asked_about_as_soon_as_the_first() {
        let begun = Instant::now();
        let at = || begun.elapsed().as_millis();
        let mut lists = Lists::default();
        lists.ask(&AFTER);
        lists.due().await;
        assert_eq!(at(), 20);
        // Asked without end, it is made nevertheless.
        for _ in 0..10 {
            lists.ask(&AFTER);
            lists.ask(&AFTER[..1]);
        }
        lists.due().await;
        assert_eq!(at(), 40);
        let mut times = Vec::new();
        while lists.next.is_some() {
            lists.due().await;
            times.push(at());
        }
        assert_eq!(times, [240, 1240, 4240]);
    }

    #[test]
    fn a_container_is_its_sandboxs_pods() {
        let sandbox = Sandbox {
            id: ID.to_owned(),
            metadata: Some(SandboxMetadata {
                name: "db-0".to_owned(),
                uid: "u-1".to_owned(),
                namespace: "shop".to_owned(),
            }),
            state: READY,
            created_at: 1_790_000_000_000_000_000,
            labels: [("statefulset.kubernetes.io/pod-name".to_owned(), "db-0".to_owned())].into(),
        };
        let own = Container {
            id: ID.replace('0', "f"),
            sandbox: ID.to_owned(),
            metadata: Some(ContainerMetadata { name: "db\u{1b}[2J".to_owned() }),
            image: "sha256:1".to_owned(),
            created_at: 1_790_000_000_000_000_000,
        };
        let nobodys = Container { sandbox: "x".to_owned(), ..own.clone() };
        let ended = Sandbox { id: ID.replace('0', "e"), state: 1, ..sandbox.clone() };
        let network = SandboxNetwork { ip: "10.88.0.4".to_owned(), additional: Vec::new() };
        let networks = [(ID.to_owned(), addresses(network))].into();
        let (pods, containers) =
            told(vec![ended.clone(), sandbox, ended], vec![own, nobodys], &networks);
        let ([Subject::Pod(pod)], [Subject::Container(container)]) = (&*pods, &*containers) else {
            panic!("{pods:?} {containers:?}");
        };
        assert_eq!(pod.service.as_str(), "k8s:shop/StatefulSet/db");
        assert_eq!(pod.addresses, ["10.88.0.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(container.pod.as_deref(), Some("u-1"));
        assert_eq!(container.name.as_deref(), Some("db%1B%5B2J"));
        assert_eq!(container.since, Some(WallTime(1_790_000_000_000_000)));
    }
}
