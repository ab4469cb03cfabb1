//! What the verbs ask, answered from the engine. A decision is a step of the engine; its author hears
//! of it once it is stored and the kernel knows.

use monitor_core::engine::{Command, CommandError, Input, Status};
use monitor_core::ids::WallTime;
use monitor_core::incident::Alert;

use crate::agent::{Agent, now, trial};
use crate::serve::{Query, Refusal, Request};

impl Agent {
    pub(crate) fn answer(&mut self, request: Request) -> anyhow::Result<()> {
        // Fresh counters for whoever looks at them.
        if matches!(request.query, Query::Map | Query::Services | Query::Baseline) {
            return self.answer_swept(request);
        }
        self.answer_now(request)
    }

    /// As things stand.
    pub(crate) fn answer_now(&mut self, request: Request) -> anyhow::Result<()> {
        let now = now();
        match request.query.clone() {
            Query::Ready => request.answer(Ok(true)),
            Query::Status => request.answer(Ok(Status {
                missing: self.capture.summary().missing.clone(),
                lookups: self.capture.askers().into(),
                ..self.engine.status(now.wall)
            })),
            Query::Map => request.answer(Ok(self.engine.map(now.wall))),
            Query::Services => request.answer(Ok(self.engine.services(now.wall))),
            Query::Alerts => request.answer(Ok(self.engine.alerts(now.wall))),
            Query::Alert(id) => request.answer(meant(self.engine.alerts(now.wall), &id)),
            Query::Mutes => request.answer(Ok(self.engine.mutes(now.wall))),
            Query::Test { receiver } => self.test(now.wall, receiver.as_deref(), request),
            Query::Baseline => request.answer(Ok(self.engine.baseline_rows(now))),
            Query::Undecided => request.answer(Ok(self.engine.undecided())),
            Query::Document { selection, figures } => {
                let document = self.engine.export(now.wall, &selection, figures);
                request.answer(document.map_err(refused));
            }
            Query::DifferenceTo(document) => {
                let difference = self.engine.difference_to(&document);
                request.answer(difference.map_err(|error| Refusal::Invalid(error.to_string())));
            }
            Query::Command(command) => return self.decide(command, request),
            Query::Audit { limit } => {
                let log = self.performer.audit_log(limit);
                request.answer(log.map_err(|error| Refusal::Failed(format!("{error:#}"))));
            }
        }
        Ok(())
    }

    fn test(&mut self, at: WallTime, receiver: Option<&str>, request: Request) {
        let status = self.engine.status(at);
        let known: Vec<String> = status.sinks.into_iter().map(|sink| sink.name).collect();
        match trial::chosen(&known, receiver) {
            Ok(chosen) => self.performer.test(chosen, trial::message(&status.node, at), request),
            Err(why) => request.answer(Err::<(), _>(Refusal::Missing(why))),
        }
    }

    /// The engine answers within the step.
    fn decide(&mut self, command: Command, request: Request) -> anyhow::Result<()> {
        let actor = request.actor.clone();
        match self.step(Input::Command { actor, command })? {
            Some(decided) => request.answer(decided.map_err(refused)),
            None => request.answer(Err::<(), _>(Refusal::Failed("no answer was given".to_owned()))),
        }
        Ok(())
    }
}

/// The one alert whose id begins with `id`.
fn meant(mut alerts: Vec<Alert>, id: &str) -> Result<Alert, Refusal> {
    alerts.retain(|it| it.id.starts_with(id));
    let count = alerts.len();
    match alerts.pop() {
        Some(alert) if count == 1 => Ok(alert),
        Some(_) => {
            Err(Refusal::Conflict(format!("{count} alerts begin with {id}: write more of it")))
        }
        None => {
            Err(Refusal::Missing(format!("there is no alert {id}: `edgewatch alerts` lists them")))
        }
    }
}

/// Who must act on a decision that was not carried out.
fn refused(error: CommandError) -> Refusal {
    let text = error.to_string();
    match error {
        CommandError::NoSuchService(_) => Refusal::Missing(text),
        CommandError::Document(_) => Refusal::Invalid(text),
        CommandError::NotMuted(_) => Refusal::Missing(text),
        CommandError::MuteTooLong => Refusal::Invalid(text),
        CommandError::Provisional(_)
        | CommandError::InFile(_)
        | CommandError::NotGuarded(_)
        | CommandError::TooManyMutes => Refusal::Conflict(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_beginning_of_an_id_is_enough_where_it_means_one() {
        let alert = |id: &str| -> Alert {
            serde_json::from_value(json!({
                "schema": "edgewatch-alert/1", "id": id, "revision": 1, "dedup_key": "sha256:0",
                "state": "firing", "severity": "high", "score": 7.0, "title": "a dialled b",
                "node": "n1", "service": "systemd:a.service", "count": 1, "findings": [],
                "first_seen": "2026-11-21T10:00:00Z", "last_seen": "2026-11-21T10:00:00Z",
            }))
            .unwrap()
        };
        let meant = |id: &str| meant(vec![alert("01JAAA"), alert("01JABB")], id);
        assert_eq!(meant("01JAB").unwrap().id, "01JABB");
        assert_eq!(meant("01JAAA").unwrap().id, "01JAAA");
        assert_eq!(
            meant("01J"),
            Err(Refusal::Conflict("2 alerts begin with 01J: write more of it".to_owned()))
        );
        assert_eq!(
            meant("02"),
            Err(Refusal::Missing("there is no alert 02: `edgewatch alerts` lists them".to_owned()))
        );
    }
}
