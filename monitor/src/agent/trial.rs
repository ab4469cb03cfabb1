//! `notify test`: one marked message to each receiver, through the agent that runs or without one.
//! It goes beside the queue: it is sent once, at once, and nothing of it is kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use monitor_core::delivery::{Message, Test, Tested};
use monitor_core::ids::WallTime;
use tokio::task::JoinSet;

use crate::agent::now;
use crate::config::Config;
use crate::notify::{Delivery, Notifier, Outcome};

/// Whoever asked waits no longer, whatever a receiver's own patience is.
const PATIENCE: Duration = Duration::from_secs(25);

/// Tests the receivers that `config` names, or the one of that name, from this process.
///
/// # Errors
/// A receiver cannot work as it is configured, or there is none.
pub async fn test_receivers(config: &Config, name: Option<&str>) -> anyhow::Result<Vec<Tested>> {
    let notifier = Notifier::build(&config.notify, Box::new(std::io::stdout()))?;
    let known: Vec<String> = config.notify.iter().map(|sink| sink.name.clone()).collect();
    let chosen = match chosen(&known, name) {
        Ok(chosen) => chosen,
        Err(why) => bail!(why),
    };
    let message = message(&config.node_name(), now().wall);
    Ok(run(Arc::new(notifier), chosen, message).await)
}

/// The receivers that are meant.
pub(crate) fn chosen(known: &[String], name: Option<&str>) -> Result<Vec<String>, String> {
    match name {
        _ if known.is_empty() => {
            Err("no receiver is configured: add a [[notify]] table to the configuration".to_owned())
        }
        None => Ok(known.to_vec()),
        Some(name) if known.iter().any(|it| it == name) => Ok(vec![name.to_owned()]),
        Some(name) => {
            Err(format!("no receiver is called {name:?}: there are {}", known.join(", ")))
        }
    }
}

pub(crate) fn message(node: &str, at: WallTime) -> Test {
    Test::new(format!("test-{}", at.unix_millis()), node, at)
}

/// Sends `message` to all of `receivers` at once; what became of it, in their order.
pub(crate) async fn run(
    notifier: Arc<Notifier>,
    receivers: Vec<String>,
    message: Test,
) -> Vec<Tested> {
    let mut trials = JoinSet::new();
    for (index, receiver) in receivers.into_iter().enumerate() {
        let message = Message::Test(Box::new(message.clone()));
        let (notifier, sink) = (Arc::clone(&notifier), receiver.clone());
        trials.spawn(async move {
            let delivery = Delivery { sink, message };
            let sent = tokio::time::timeout(PATIENCE, notifier.deliver(&delivery)).await;
            let failure = match sent {
                Ok(Outcome::Accepted) => None,
                Ok(Outcome::Retry { why, .. }) => Some(why),
                Ok(Outcome::NoSuchSink) => Some("it is not configured".to_owned()),
                Err(_elapsed) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            (index, Tested { receiver, failure })
        });
    }
    let mut tested = trials.join_all().await;
    tested.sort_by_key(|(index, _)| *index);
    tested.into_iter().map(|(_, tested)| tested).collect()
}
