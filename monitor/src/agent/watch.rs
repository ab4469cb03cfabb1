//! `watch`: an engine without a store, for whoever looks on for a while. Keeps nothing, asks for
//! nothing, and leaves nothing behind.

use std::collections::BTreeSet;
use std::time::Duration;

use monitor_core::baseline::Mode;
use monitor_core::detect::Kind;
use monitor_core::engine::{Effect, Engine, Input, Settings, Snapshot, Watched};
use monitor_core::incident::Alert;
use tokio::time::Instant;

use crate::agent::audience::Audience;
use crate::agent::perform::LAST_LINES;
use crate::agent::{
    SWEEP_EVERY, Signals, Tell, Told, every, input_of, is_unnamed, now, settings, shown,
    sleep_until, until,
};
use crate::capture::{self, Before, Capture};
use crate::config::Config;
use crate::identity::Namer;
use crate::sources::Sources;

/// What `watch` is to do.
pub struct WatchOptions {
    /// Ends by itself after this time.
    pub duration: Option<Duration>,
    pub tell: Tell,
}

/// Tells the edges of this machine as they appear; keeps no state and leaves nothing behind.
///
/// # Errors
/// The kernel refused.
pub async fn watch(config: Config, options: WatchOptions) -> anyhow::Result<()> {
    let mut audience = Audience::new(Some(options.tell));
    let ground = capture::preflight()?;
    let capture = config.capture.for_a_look();
    let (internal, budget) = (&config.detect.internal, config.detect.budget);
    let mut capture = Capture::start(ground, &capture, internal, budget, Before::default())?;
    let settings = settings(&config, Watched::Yes)?;
    let settings = Settings { mode: Mode::Learn, sinks: Vec::new(), ..settings };
    let mut engine = Engine::restore(settings, Snapshot::default());
    let namer = Namer::new(&config.node_name());
    let mut sources = Sources::start(&config.identity, &config.node_name());
    audience.tell(Told::Ready(format!(
        "{} · watching, nothing is kept · Ctrl-C stops and detaches",
        shown(capture.summary())
    )));
    for missing in &capture.summary().missing {
        audience.tell(Told::Warning(format!("not seen here: {missing}")));
    }
    let end = options.duration.map(|duration| Instant::now() + duration);
    let mut troubled = BTreeSet::new();
    let mut signals = Signals::new()?;
    let mut sweep = every(SWEEP_EVERY);
    for fact in sources.told() {
        // Nothing is known yet that it could change.
        drop(engine.step(now(), Input::Fact(fact)));
    }
    loop {
        let tick = until(engine.next_tick());
        let mut facts = Vec::new();
        let observations = tokio::select! {
            _ = signals.any() => break,
            () = audience.gone() => break,
            told = sources.next() => {
                facts = told;
                Vec::new()
            }
            () = sleep_until(end) => break,
            () = sleep_until(tick) => Vec::new(),
            heard = capture.next() => heard?,
            // What a full ring kept from us.
            _ = sweep.tick() => capture.sweep(|key| engine.edge_of(key).is_some())?,
        };
        let inputs = observations.into_iter().filter_map(|it| input_of(&namer, it));
        let facts = facts.into_iter().map(Input::Fact);
        for input in facts.chain(inputs).chain([Input::Tick]) {
            if is_unnamed(&input) {
                sources.ask_again();
            }
            for effect in engine.step(now(), input) {
                match effect {
                    Effect::Appeared(edge) => audience.tell(Told::Edge(edge)),
                    Effect::Alerted(alert) => {
                        let new = troubles(&alert).filter(|it| troubled.insert((*it).to_owned()));
                        new.for_each(|it| audience.tell(Told::Warning(it.to_owned())));
                    }
                    Effect::Hear(cgroup, path) => capture.asks(cgroup, &path),
                    // Nothing is kept, sent or asked for.
                    Effect::Store(_)
                    | Effect::Rearm(_)
                    | Effect::Unknow(_)
                    | Effect::Leave(_)
                    | Effect::Deliver(_)
                    | Effect::Reply(_) => {}
                }
            }
        }
    }
    drop(capture);
    audience.finish(LAST_LINES);
    Ok(())
}

/// What an alert says of our own sight, and of what is not told one by one: who watches is to know why
/// it goes quiet.
fn troubles(alert: &Alert) -> impl Iterator<Item = &str> {
    let ours = |kind| matches!(kind, Kind::Sensor | Kind::FanOut);
    let ours = alert.findings.iter().filter(move |finding| ours(finding.kind));
    ours.flat_map(|finding| &finding.reasons).map(|reason| reason.text.as_str())
}
