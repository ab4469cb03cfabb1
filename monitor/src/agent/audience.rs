//! Whoever watches the agent: told on a thread of its own, so that a terminal that is held or a pipe
//! that is full never holds up the engine. What a slow reader misses is counted and told; messages to
//! receivers go another way and are never dropped.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::agent::{Tell, Told};
use crate::wording::counted;

pub(crate) struct Audience {
    /// None where nobody watches (any more).
    lines: Option<SyncSender<Told>>,
    /// Lines that found no room since the last one that did.
    missed: u64,
    /// Cancelled once nobody listens any more.
    gone: CancellationToken,
    /// Closed once everything was told.
    told: Option<Receiver<()>>,
}

impl Audience {
    /// Lines that may wait for a slow reader; further ones are counted.
    const ROOM: usize = 4_096;

    pub(crate) fn new(tell: Option<Tell>) -> Self {
        let gone = CancellationToken::new();
        let Some(mut tell) = tell else {
            return Self { lines: None, missed: 0, gone, told: None };
        };
        let (lines, waiting) = sync_channel::<Told>(Self::ROOM);
        let (done, told) = sync_channel::<()>(0);
        let left = gone.clone();
        std::thread::spawn(move || {
            for line in waiting {
                if tell(line).is_break() {
                    left.cancel();
                    break;
                }
            }
            drop(done);
        });
        Self { lines: Some(lines), missed: 0, gone, told: Some(told) }
    }

    pub(crate) fn tell(&mut self, told: Told) {
        let Some(lines) = &self.lines else { return };
        if self.missed > 0 {
            let were = if self.missed == 1 { "was" } else { "were" };
            let missed = counted(self.missed, "line");
            let missed = format!("{missed} {were} not shown: the reader is slow");
            if lines.try_send(Told::Warning(missed)).is_ok() {
                self.missed = 0;
            }
        }
        match lines.try_send(told) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.missed += 1,
            Err(TrySendError::Disconnected(_)) => self.lines = None,
        }
    }

    /// Ends when somebody watched and no longer does.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Gives what waits `grace` to be told.
    pub(crate) fn finish(mut self, grace: Duration) {
        self.lines = None;
        if let Some(told) = self.told {
            // Either way it is over: told, or the reader is held.
            let _over = told.recv_timeout(grace);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_reader_that_is_held_holds_up_nobody_and_hears_what_it_missed() {
        let (release, held) = channel::<()>();
        let (heard, lines) = channel();
        let mut first = true;
        let mut audience = Audience::new(Some(Box::new(move |told| {
            if std::mem::take(&mut first) {
                held.recv().unwrap();
            }
            heard.send(told).unwrap();
            ControlFlow::Continue(())
        })));
        let line = |index: usize| Told::Ready(index.to_string());
        let (room, missed) = (Audience::ROOM, 5);
        // One is in the reader's hands once the first of the rest has its place.
        audience.tell(line(0));
        for index in 1..=room + missed + 1 {
            audience.tell(line(index));
        }
        release.send(()).unwrap();
        let mut told = 0;
        while told < room {
            lines.recv_timeout(Duration::from_secs(10)).unwrap();
            told += 1;
        }
        audience.tell(line(0));
        audience.finish(Duration::from_secs(10));
        let warned = lines.into_iter().any(|told| matches!(told, Told::Warning(_)));
        assert!(warned, "what was missed is told");
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_noticed() {
        let mut audience = Audience::new(Some(Box::new(|_| ControlFlow::Break(()))));
        audience.tell(Told::Ready(String::new()));
        tokio::time::timeout(Duration::from_secs(10), audience.gone()).await.unwrap();
    }
}
