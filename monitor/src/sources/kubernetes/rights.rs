//! Whether the cluster tells what is to be asked of it, for whoever looks by hand: reached or not, as
//! whom, what is refused, whether it knows this node. Asks as `kubectl auth can-i` does, once.

use std::time::Duration;

use kube::Client;
use kube::api::{ListParams, PostParams};
use kube::core::Request;
use monitor_core::ids::is_unprintable;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::sources::kubernetes::connection::Cluster;
use crate::sources::kubernetes::follow::innermost;
use crate::sources::kubernetes::resource::{NODES, READ};

/// For all that is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a cluster that answers says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reached {
    /// Its address.
    pub server: String,
    pub version: Option<String>,
    /// Whom it takes the agent for, as it says that.
    pub who: Option<String>,
    /// What of all that is read it refuses: `watch nodes`.
    pub refused: Vec<String>,
    /// Why that cannot be said.
    pub unsure: Option<String>,
    /// Whether a node has this one's name; None where it does not say.
    pub knows_node: Option<bool>,
}

/// Asks once.
pub(in crate::sources) async fn reach(cluster: &Cluster, node: &str) -> Result<Reached, String> {
    let (config, _) = cluster.config().await?;
    let mut reached = Reached { server: config.cluster_url.to_string(), ..Reached::default() };
    let client = Client::try_from(config).map_err(|error| innermost(&error))?;
    match timeout(PATIENCE, ask(&client, node, &mut reached)).await {
        Ok(Ok(())) => Ok(reached),
        Ok(Err(why)) => Err(format!("{}: {why}", reached.server)),
        Err(_elapsed) => {
            Err(format!("{} does not answer within {} s", reached.server, PATIENCE.as_secs()))
        }
    }
}

async fn ask(client: &Client, node: &str, reached: &mut Reached) -> Result<(), String> {
    let version = Request::new("/version").list(&ListParams::default());
    let version = answered(client, version).await.map_err(|error| said(&error))?;
    reached.version = version["gitVersion"].as_str().map(safe);
    // Servers before 1.28 have no such review: there the reason for a right says it.
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let review = reviewed(client, "authentication.k8s.io/v1/selfsubjectreviews", &review).await;
    reached.who =
        review.ok().and_then(|it| it["status"]["userInfo"]["username"].as_str().map(safe));
    for resource in READ {
        for verb in resource.verbs {
            let (group, plural) = (resource.group, resource.plural);
            let attributes = json!({"group": group, "resource": plural, "verb": verb});
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            });
            let path = "authorization.k8s.io/v1/selfsubjectaccessreviews";
            let status = match reviewed(client, path, &review).await {
                Ok(review) => review["status"].clone(),
                Err(error) if is_code(&error, 401) => return Err(said(&error)),
                Err(error) => {
                    reached.unsure = Some(said(&error));
                    break;
                }
            };
            if status["allowed"].as_bool() != Some(true) {
                let refused = format!("{verb} {plural}");
                if !reached.refused.contains(&refused) {
                    reached.refused.push(refused);
                }
            } else if reached.who.is_none() {
                reached.who = status["reason"].as_str().and_then(subject);
            }
        }
    }
    let named = ListParams::default().fields(&format!("metadata.name={node}")).limit(1);
    let nodes = answered(client, Request::new(NODES.path(None)).list_metadata(&named)).await;
    reached.knows_node =
        nodes.ok().and_then(|it| it["items"].as_array().map(|items| !items.is_empty()));
    Ok(())
}

/// Whom a role was granted to, as the reason for a right tells it:
/// `… to ServiceAccount "edgewatch/edgewatch"`.
fn subject(reason: &str) -> Option<String> {
    let (_, who) = reason.rsplit_once(" to ")?;
    Some(safe(who)).filter(|it| !it.is_empty())
}

async fn reviewed(client: &Client, path: &str, review: &Value) -> Result<Value, kube::Error> {
    let request = Request::new(format!("/apis/{path}"));
    let body = review.to_string().into_bytes();
    answered(client, request.create(&PostParams::default(), body)).await
}

async fn answered(
    client: &Client,
    request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<Value, kube::Error> {
    client.request(request.map_err(kube::Error::BuildRequest)?).await
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            "it does not know who asks: the token or certificate is not (or no longer) valid".into()
        }
        kube::Error::Api(status) => format!("it answers {}", status.code),
        error => innermost(error),
    }
}

fn safe(text: &str) -> String {
    text.chars().filter(|it| !is_unprintable(*it)).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_read_from_the_reason_for_a_right() {
        let reason = "RBAC: allowed by ClusterRoleBinding \"a to b\" of ClusterRole \"c\" to \
                      ServiceAccount \"edgewatch/edgewatch\"";
        assert_eq!(subject(reason).as_deref(), Some("ServiceAccount \"edgewatch/edgewatch\""));
        assert_eq!(subject(""), None);
        assert_eq!(subject("x to \u{1b}"), None);
    }
}
