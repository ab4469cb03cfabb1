//! Docker's API, which Podman speaks too: who its containers are. Listed once for each connection and
//! then followed by its events; one question for a container whose life changed, none for anything that
//! is sent or received.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use monitor_core::directory::{Container, Fact, Key, Kind, Source, Subject};
use monitor_core::ids::{ServiceName, WallTime};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::client::{Client, ClientError};
use crate::sources::text::{address, is_id, part, short_text};
use crate::sources::{ANSWER, Patience, Runtime, Telling, Unheard};

/// Who answers by Docker's API.
pub(super) struct Containers;

impl Runtime for Containers {
    async fn follow(
        &mut self,
        telling: &Telling,
        socket: &Path,
        patience: &mut Patience,
    ) -> Result<String, Unheard> {
        let client = Client::new(socket.to_owned()).taking_at_most(LARGEST);
        follow(telling, &client, patience).await
    }
}

async fn follow(
    telling: &Telling,
    client: &Client,
    patience: &mut Patience,
) -> Result<String, Unheard> {
    // From before the list: what happens while it is made is in both.
    let mut events = match in_time(client.follow(EVENTS)).await {
        Ok(events) => events,
        Err(why) => return Ok(why),
    };
    let listed = match in_time(client.get(LIST)).await {
        Ok(listed) => listed,
        Err(why) => return Ok(why),
    };
    let Ok(listed) = client.read::<Vec<Listed>>(listed) else {
        return Ok("its list of containers cannot be read".to_owned());
    };
    let source = telling.source;
    telling.tell(Fact::Listing(source, Kind::Container)).await?;
    for container in listed {
        if let Some(container) = container.told(source) {
            telling.tell(Fact::Is(source, Box::new(container))).await?;
        }
    }
    telling.tell(Fact::Listed(source, Kind::Container)).await?;
    telling.tell(Fact::Present(source)).await?;
    patience.reset();
    loop {
        match events.next().await {
            Ok(Some(event)) => {
                let Some(change) = Change::of(&event) else { continue };
                match change.facts(client, source).await {
                    Ok(facts) => {
                        for fact in facts {
                            telling.tell(fact).await?;
                        }
                    }
                    Err(why) => return Ok(why),
                }
            }
            Ok(None) => return Ok("it ended the list of its events".to_owned()),
            Err(error) => return Ok(said(&error)),
        }
    }
}

/// A larger answer is no machine's.
const LARGEST: usize = 64 << 20;

/// Those that have ended too: started again, each is known before it says its first word.
const LIST: &str = "/containers/json?all=1";
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

async fn in_time<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    match timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| said(&error)),
        Err(_elapsed) => Err(format!("does not answer within {} s", ANSWER.as_secs())),
    }
}

/// The client speaks of the agent: here it is a runtime that is asked.
fn said(error: &ClientError) -> String {
    match error {
        ClientError::Nobody(_) => "nobody answers there".to_owned(),
        ClientError::Forbidden(_) => "this user may not ask there".to_owned(),
        ClientError::Slow { .. } => "does not answer".to_owned(),
        ClientError::Connect { source, .. } => source.to_string(),
        ClientError::Broken { source, .. } => format!("what it answers cannot be read: {source}"),
        ClientError::Refused { .. } => "it refuses to answer".to_owned(),
    }
}

/// That something about a container is otherwise now.
struct Change {
    container: String,
    gone: bool,
    /// What the event itself says of it: its labels, and beside them its name.
    said: BTreeMap<String, String>,
}

impl Change {
    fn of(event: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let actor = event.get("Actor")?;
        let action = event.get("Action")?.as_str()?;
        let kind = event.get("Type")?.as_str()?;
        let (container, gone) = match kind {
            "container" => {
                // `exec_start: COMMAND` and the like say nothing of who it is.
                let matters =
                    ["create", "start", "rename", "restart", "update", "destroy", "die", "remove"];
                let action = matters.into_iter().find(|it| *it == action)?;
                (text(actor.get("ID")?)?, matches!(action, "destroy" | "remove"))
            }
            "network" => (text(actor.get("Attributes")?.get("container")?)?, false),
            _ => return None,
        };
        let attributes = actor.get("Attributes").cloned().unwrap_or_default();
        let said = if kind == "container" { attributes } else { Value::Null };
        let said = serde_json::from_value(said).unwrap_or_default();
        is_id(&container).then_some(Self { container, gone, said })
    }

    /// Asks what the container is now.
    async fn facts(&self, client: &Client, source: Source) -> Result<Vec<Fact>, String> {
        let id = self.container.as_str().into();
        let gone = Fact::Gone(Key { source, kind: Kind::Container, id });
        if self.gone {
            return Ok(vec![gone]);
        }
        let path = format!("/containers/{}/json", self.container);
        match timeout(ANSWER, client.get(&path)).await {
            Err(_elapsed) => Err(format!("does not answer within {} s", ANSWER.as_secs())),
            // It lived too short to be asked about: what is known of it is what was said.
            Ok(Err(ClientError::Refused { .. })) => {
                let was = self.was(source).map(|it| Fact::Is(source, Box::new(it)));
                Ok(was.into_iter().chain([gone]).collect())
            }
            Ok(Err(error)) => Err(said(&error)),
            Ok(Ok(value)) => {
                let inspected = client.read::<Inspected>(value).ok();
                let told = inspected.and_then(|it| it.told(source));
                Ok(vec![told.map_or(gone, |subject| Fact::Is(source, Box::new(subject)))])
            }
        }
    }

    /// Who it was, by the event alone; the image is not told by its digest there.
    fn was(&self, source: Source) -> Option<Subject> {
        let name = self.said.get("name")?;
        subject(source, &self.container, (name, ""), &self.said, (None, None))
    }
}

/// A container as it is listed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default, rename = "ImageID")]
    image_id: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    network_settings: Option<Networks>,
}

/// A container as it is told when asked for alone.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    config: Labelled,
    #[serde(default)]
    network_settings: Option<Networks>,
    #[serde(default)]
    state: Started,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Labelled {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Started {
    #[serde(default)]
    started_at: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Networks {
    #[serde(default)]
    networks: Option<BTreeMap<String, Network>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(default, rename = "IPAddress")]
    v4: String,
    #[serde(default, rename = "GlobalIPv6Address")]
    v6: String,
}

impl Listed {
    fn told(self, source: Source) -> Option<Subject> {
        let name = self.names.first().map(String::as_str).unwrap_or_default();
        let labels = self.labels.unwrap_or_default();
        subject(source, &self.id, (name, &self.image_id), &labels, (self.network_settings, None))
    }
}

impl Inspected {
    fn told(self, source: Source) -> Option<Subject> {
        let labels = self.config.labels.unwrap_or_default();
        let since = self.state.started_at.parse().ok().filter(|it| *it > WallTime(0));
        let place = (self.network_settings, since);
        subject(source, &self.id, (&self.name, &self.image), &labels, place)
    }
}

/// What an answer says, whichever of those that are asked for it is.
pub(super) fn subjects(source: Source, answer: &Value) -> Vec<Subject> {
    let listed = Vec::<Listed>::deserialize(answer).unwrap_or_default();
    let listed = listed.into_iter().filter_map(|it| it.told(source));
    let inspected = Inspected::deserialize(answer).ok().and_then(|it| it.told(source));
    let was = Change::of(answer).and_then(|it| it.was(source));
    listed.chain(inspected).chain(was).collect()
}

fn subject(
    source: Source,
    id: &str,
    (name, image): (&str, &str),
    labels: &BTreeMap<String, String>,
    (networks, since): (Option<Networks>, Option<WallTime>),
) -> Option<Subject> {
    if !is_id(id) {
        return None;
    }
    let name = name.trim_start_matches('/');
    let networks = networks.and_then(|it| it.networks).unwrap_or_default();
    let addresses = networks.into_values().flat_map(|it| [it.v4, it.v6]);
    let addresses: Vec<IpAddr> = addresses.filter_map(|it| address(&it)).take(ADDRESSES).collect();
    let label = |key: &str| labels.get(key).map(String::as_str).filter(|it| !it.is_empty());
    let pod = label("io.kubernetes.pod.uid");
    let compose = label("com.docker.compose.project").zip(label("com.docker.compose.service"));
    let service = match (pod, compose) {
        (Some(_), _) => None,
        (None, Some((project, service))) => {
            Some(ServiceName::new("compose", &[project, service].map(part).join("/")))
        }
        (None, None) => {
            let scheme = if source == Source::Podman { "podman" } else { "docker" };
            let stable = label("com.docker.swarm.service.name").unwrap_or(name);
            // `docker:id/…` is what has no lasting name yet; no name of Docker's has a slash.
            (!stable.is_empty()).then(|| ServiceName::new(scheme, &part(stable)))
        }
    };
    let within = label("io.kubernetes.container.name").unwrap_or(name);
    Some(Subject::Container(Container {
        id: id.into(),
        service,
        pod: pod.map(short_text),
        name: (!within.is_empty()).then(|| short_text(within)),
        image: (!image.is_empty()).then(|| short_text(image)),
        addresses,
        since,
    }))
}

/// More networks than one container is ever in.
const ADDRESSES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn listed(more: &str) -> Option<Container> {
        let text = format!("{{\"Id\":\"{ID}\"{more}}}");
        match serde_json::from_str::<Listed>(&text).unwrap().told(Source::Docker)? {
            Subject::Container(container) => Some(container),
            _ => None,
        }
    }

    #[test]
    fn a_container_is_its_compose_service_else_its_name() {
        let web = listed(
            r#","Names":["/shop_web_1"],"ImageID":"sha256:ab","Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"web"},"NetworkSettings":{"Networks":{"front":{"IPAddress":"10.90.0.2","GlobalIPv6Address":""},"back":{"IPAddress":"10.90.1.2","GlobalIPv6Address":"fd00::2"}}}"#,
        );
        let web = web.unwrap();
        assert_eq!(web.service.unwrap().as_str(), "compose:shop/web");
        assert_eq!(web.name.as_deref(), Some("shop_web_1"));
        assert_eq!(web.image.as_deref(), Some("sha256:ab"));
        assert_eq!(web.addresses.len(), 3);

        let plain = listed(r#","Names":["/cache"],"Labels":null"#).unwrap();
        assert_eq!(plain.service.unwrap().as_str(), "docker:cache");
        let pod = listed(
            r#","Names":["/k8s_x"],"Labels":{"io.kubernetes.pod.uid":"u-1","io.kubernetes.container.name":"app"}"#,
        );
        let pod = pod.unwrap();
        assert_eq!(
            (pod.service, pod.pod.as_deref(), pod.name.as_deref()),
            (None, Some("u-1"), Some("app"))
        );
    }

    #[test]
    fn hostile_labels_are_safe_and_short() {
        let long = "x".repeat(10_000);
        let more = format!(
            r#","Names":["/\u001b[2J<b>{long}"],"ImageID":"\n{long}","Labels":{{"com.docker.compose.project":"a\nb","com.docker.compose.service":"@everyone\u202e{long}"}}"#
        );
        let container = listed(&more).unwrap();
        let service = container.service.unwrap();
        assert!(service.as_str().starts_with("compose:a%0Ab/@everyone%E2%80%AE"));
        assert!(service.as_str().len() <= ServiceName::MAX_BYTES);
        for text in [container.name.unwrap(), container.image.unwrap()] {
            let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+%-".contains(&byte);
            assert!(text.len() <= 800 && text.bytes().all(safe), "{text}");
        }
        assert!(listed("").is_some_and(|it| it.service.is_none()));
        // Nobody passes for one whose name is not known yet.
        let label = r#","Labels":{"com.docker.swarm.service.name":"id/0123"}"#;
        assert!(!listed(label).unwrap().service.unwrap().is_provisional());
    }

    #[test]
    fn only_what_changes_who_a_container_is_is_asked_about() {
        let event = |kind: &str, action: &str, actor: &str| {
            let text = format!(r#"{{"Type":"{kind}","Action":"{action}","Actor":{actor}}}"#);
            Change::of(&serde_json::from_str(&text).unwrap()).map(|it| it.gone)
        };
        let own = format!(r#"{{"ID":"{ID}"}}"#);
        assert_eq!(event("container", "start", &own), Some(false));
        assert_eq!(event("container", "die", &own), Some(false));
        assert_eq!(event("container", "destroy", &own), Some(true));
        assert_eq!(event("container", "exec_start: sh", &own), None);
        assert_eq!(event("container", "start", r#"{"ID":"../../x"}"#), None);
        let joins = format!(r#"{{"ID":"n","Attributes":{{"container":"{ID}"}}}}"#);
        assert_eq!(event("network", "connect", &joins), Some(false));
        assert_eq!(event("image", "pull", &own), None);
    }

    #[test]
    fn who_is_gone_before_it_is_asked_about_is_known_by_its_event() {
        let was = |labels: &str| {
            let text = format!(
                r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{ID}","Attributes":{{"image":"lab:1","name":"one"{labels}}}}}}}"#
            );
            let change = Change::of(&serde_json::from_str(&text).unwrap()).unwrap();
            match change.was(Source::Docker) {
                Some(Subject::Container(container)) => container.service.unwrap().to_string(),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(was(""), "docker:one");
        let compose = r#","com.docker.compose.project":"shop","com.docker.compose.service":"job""#;
        assert_eq!(was(compose), "compose:shop/job");
    }
}
