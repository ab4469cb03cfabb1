//! Follows one kind of thing for ever: lists it whole in pages, watches it from there, takes the watch
//! up again where it ended, and lists anew only where the server no longer knows that place.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use monitor_core::directory::{Fact, Key, Kind, Source, Subject};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::sources::kubernetes::connection::Connection;
use crate::sources::kubernetes::health::Health;
use crate::sources::kubernetes::resource::Resource;
use crate::sources::{Patience, Unheard, random};

/// A server that takes longer for a page, or to begin a watch, hangs.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a watch may last; the server ends it then.
const WATCH_S: u32 = 290;
/// A watch that says nothing for longer is dead: even one without changes is ended by then.
const SILENCE: Duration = Duration::from_secs(WATCH_S as u64 + 10);
/// A watch that lasts longer is one that works.
const WORKS: Duration = Duration::from_secs(10);
/// After another kind is followed again.
const SOON: Duration = Duration::from_millis(500);
/// Things in an answer.
const PAGE: u32 = 250;

/// What is followed of one kind.
pub(super) trait Reader: Send {
    type Object: DeserializeOwned + Clone + Send + 'static;
    const KIND: Kind;
    /// Where it is found; the first that the server has.
    const RESOURCES: &'static [Resource];
    const FIELDS: Option<&'static str> = None;

    fn version(object: &Self::Object) -> &str;
    /// What tells it from the others: [`Key::id`].
    fn id(object: &Self::Object) -> Arc<str>;
    /// None for what is of no use.
    fn subject(
        &mut self,
        object: Self::Object,
    ) -> impl Future<Output = Result<Option<Subject>, Unheard>> + Send;
    /// A whole list begins.
    fn list_begins(&mut self) -> impl Future<Output = Result<(), Unheard>> + Send {
        std::future::ready(Ok(()))
    }
    fn list_ends(&mut self) {}
}

/// Up to where it is known what the server has.
struct Place {
    resource: &'static Resource,
    version: String,
}

/// Why a round ended.
#[derive(Debug)]
enum End {
    Unheard,
    /// The server no longer knows what changed since: all is to be listed.
    Expired,
    /// It serves no such resource.
    Unserved,
    /// Anything else, as people are told it.
    Why(String),
}

impl From<Unheard> for End {
    fn from(Unheard: Unheard) -> Self {
        Self::Unheard
    }
}

/// Follows until nobody listens.
pub(super) async fn follow<R: Reader>(
    connection: &Connection,
    health: &Health,
    reader: R,
) -> Unheard {
    let mut following = Following {
        connection,
        health,
        reader,
        place: None,
        listed: false,
        patience: Patience::new(),
    };
    let mut recoveries = health.recoveries();
    loop {
        let begun = Instant::now();
        recoveries.mark_unchanged();
        let trouble = match following.list_and_watch().await {
            Ok(()) => None,
            Err(End::Unheard) => return Unheard,
            Err(End::Expired) => {
                following.place = None;
                // A place from before is forgotten by any server some time; one that was just told is not.
                if !following.listed {
                    continue;
                }
                None
            }
            Err(End::Unserved) => {
                following.place = None;
                Some(format!("it serves no {}", R::RESOURCES[0].plural))
            }
            Err(End::Why(why)) => Some(why),
        };
        let lasted = begun.elapsed() >= WORKS;
        if lasted {
            following.patience.reset();
        }
        if lasted && trouble.is_none() {
            continue;
        }
        if let Some(why) = trouble
            && health.ill(R::KIND, why).await.is_err()
        {
            return Unheard;
        }
        let pause = following.patience.take(random());
        // What is told of one kind is about another: none lags behind the others for long.
        let soon = async {
            // The sender lives as long as its health does.
            drop(recoveries.changed().await);
            tokio::time::sleep(SOON).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = soon => {}
        }
    }
}

struct Following<'a, R> {
    connection: &'a Connection,
    health: &'a Health,
    reader: R,
    place: Option<Place>,
    /// The place is of this round.
    listed: bool,
    patience: Patience,
}

impl<R: Reader> Following<'_, R> {
    /// Lists where that is needed, and watches once.
    async fn list_and_watch(&mut self) -> Result<(), End> {
        let client = self.connection.client().await.map_err(End::Why)?;
        self.listed = self.place.is_none();
        let mut place = match self.place.take() {
            Some(place) => place,
            None => self.list(&client).await?,
        };
        let ended = self.watch(&client, &mut place).await;
        self.place = Some(place);
        ended
    }

    async fn list(&mut self, client: &Client) -> Result<Place, End> {
        for resource in R::RESOURCES {
            match self.list_of(client, resource).await {
                Err(End::Unserved) => {}
                done => return done,
            }
        }
        Err(End::Unserved)
    }

    async fn list_of(
        &mut self,
        client: &Client,
        resource: &'static Resource,
    ) -> Result<Place, End> {
        loop {
            let mut page: Page<R::Object> = page_of::<R>(client, resource, None).await?;
            let listing = self.health.begin(R::KIND).await?;
            self.reader.list_begins().await?;
            let version = loop {
                for object in page.items.unwrap_or_default() {
                    if let Some(subject) = self.reader.subject(object).await? {
                        let fact = Fact::Is(Source::Kubernetes, Box::new(subject));
                        self.health.tell(fact).await?;
                    }
                }
                match page.metadata.r#continue.filter(|it| !it.is_empty()) {
                    Some(next) => page = page_of::<R>(client, resource, Some(next)).await?,
                    None => break page.metadata.resource_version,
                }
            };
            if self.health.end(R::KIND, listing).await? {
                self.reader.list_ends();
                return Ok(Place { resource, version });
            }
        }
    }

    /// Follows what changes until the server ends that.
    async fn watch(&mut self, client: &Client, place: &mut Place) -> Result<(), End> {
        let resource = place.resource;
        let parameters = WatchParams {
            field_selector: R::FIELDS.map(ToOwned::to_owned),
            timeout: Some(WATCH_S),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(resource.path(None)).watch(&parameters, &place.version);
        let request = request.map_err(|error| End::Why(innermost(&error)))?;
        let events = client.request_events::<R::Object>(request);
        let events = in_time((resource, "watch"), events).await?;
        let mut events = std::pin::pin!(events);
        // One that just started refuses this and that for a moment more.
        if self.health.well(R::KIND).await? {
            self.patience.reset();
        }
        loop {
            let next = timeout(SILENCE, events.next()).await.map_err(|_elapsed| {
                End::Why(format!("says nothing of {} any more", resource.plural))
            })?;
            let Some(event) = next else { return Ok(()) };
            let event = event.map_err(|error| end_of((resource, "watch"), &error))?;
            self.take(resource, event, &mut place.version).await?;
        }
    }

    async fn take(
        &mut self,
        resource: &'static Resource,
        event: WatchEvent<R::Object>,
        version: &mut String,
    ) -> Result<(), End> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                R::version(&object).clone_into(version);
                let id = R::id(&object);
                let fact = match self.reader.subject(object).await? {
                    Some(subject) => Fact::Is(Source::Kubernetes, Box::new(subject)),
                    None => gone(R::KIND, id),
                };
                self.health.tell(fact).await?;
            }
            WatchEvent::Deleted(object) => {
                R::version(&object).clone_into(version);
                self.health.tell(gone(R::KIND, R::id(&object))).await?;
            }
            WatchEvent::Bookmark(mark) => *version = mark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(refused((resource, "watch"), status.code)),
        }
        Ok(())
    }
}

const fn gone(kind: Kind, id: Arc<str>) -> Fact {
    Fact::Gone(Key { source: Source::Kubernetes, kind, id })
}

/// A part of a list.
#[derive(Deserialize)]
pub(super) struct Page<T> {
    pub(super) metadata: PageMeta,
    pub(super) items: Option<Vec<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    pub(super) r#continue: Option<String>,
}

async fn page_of<R: Reader>(
    client: &Client,
    resource: &'static Resource,
    next: Option<String>,
) -> Result<Page<R::Object>, End> {
    let parameters = ListParams {
        field_selector: R::FIELDS.map(ToOwned::to_owned),
        limit: Some(PAGE),
        continue_token: next,
        ..ListParams::default()
    };
    let request = Request::new(resource.path(None)).list(&parameters);
    let request = request.map_err(|error| End::Why(innermost(&error)))?;
    let text = in_time((resource, "list"), client.request_text(request)).await?;
    serde_json::from_str(&text).map_err(|error| {
        End::Why(format!("its list of {} cannot be read: {}", resource.plural, innermost(&error)))
    })
}

/// What is asked: a verb on a resource.
type Asked = (&'static Resource, &'static str);

async fn in_time<T>(asked: Asked, answer: impl Future<Output = kube::Result<T>>) -> Result<T, End> {
    match timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| end_of(asked, &error)),
        Err(_elapsed) => Err(End::Why(format!("does not answer within {} s", ANSWER.as_secs()))),
    }
}

fn end_of(asked: Asked, error: &kube::Error) -> End {
    match error {
        kube::Error::Api(status) => refused(asked, status.code),
        error => End::Why(innermost(error)),
    }
}

fn refused((resource, verb): Asked, code: u16) -> End {
    let what = resource.plural;
    match code {
        410 => End::Expired,
        404 => End::Unserved,
        401 => End::Why("it does not know who asks: the token is not (or no longer) valid".into()),
        403 => End::Why(format!(
            "it does not let this agent {verb} {what}: see the ClusterRole of the manifest"
        )),
        code => End::Why(format!("it answers {code} when asked to {verb} {what}")),
    }
}

/// What went wrong in the end, in safe text.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    text.chars().filter(|it| !monitor_core::ids::is_unprintable(*it)).take(200).collect()
}
