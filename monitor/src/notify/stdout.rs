//! Alerts on standard output, one line of JSON each.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::notify::{Delivery, Outcome};

/// Where lines go: standard output, or what a test holds in its place.
pub type Lines = Box<dyn Write + Send>;

pub(super) struct Stdout {
    lines: Arc<Mutex<Lines>>,
    timeout: Duration,
}

impl Stdout {
    pub(super) fn new(lines: Arc<Mutex<Lines>>, timeout: Duration) -> Self {
        Self { lines, timeout }
    }

    /// A pipe that nobody reads blocks its writer: the writing has a thread of its own, which holds
    /// up neither the agent's tasks nor its end, and whoever comes next waits no longer than
    /// `timeout`.
    pub(super) async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let line = match delivery.json() {
            Ok(body) => one_line(&body),
            Err(outcome) => return outcome,
        };
        let lines = Arc::clone(&self.lines);
        let writing = async move { write(lines.lock_owned().await, line).await };
        let why = match tokio::time::timeout(self.timeout, writing).await {
            Ok(Ok(())) => return Outcome::Accepted,
            Ok(Err(error)) => format!("write standard output: {error}"),
            Err(_elapsed) => "standard output is blocked: nobody reads it".to_owned(),
        };
        Outcome::Retry { after: None, why }
    }
}

async fn write(mut lines: OwnedMutexGuard<Lines>, line: String) -> io::Result<()> {
    let (told, done) = oneshot::channel();
    std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let written = lines.write_all(line.as_bytes()).and_then(|()| lines.flush());
        // Nobody listens any more after the timeout.
        drop(told.send(written));
    })?;
    done.await.map_err(io::Error::other)?
}

/// In JSON a line's end is only ever white space between tokens.
fn one_line(body: &str) -> String {
    let mut line = body.trim_end().replace(['\n', '\r'], " ");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const BODY: &str = r#"{"schema":"edgewatch-alert/1"}"#;

    fn stdout(lines: impl Write + Send + 'static, timeout_ms: u64) -> Stdout {
        let lines: Lines = Box::new(lines);
        Stdout::new(Arc::new(Mutex::new(lines)), Duration::from_millis(timeout_ms))
    }

    fn delivery(body: &str) -> Delivery {
        Delivery { sink: "out".to_owned(), key: "01J0ABC/2".to_owned(), body: body.to_owned() }
    }

    /// The reason for which the delivery is to be tried again.
    #[track_caller]
    fn why(outcome: Outcome) -> String {
        match outcome {
            Outcome::Retry { why, .. } => why,
            Outcome::Accepted | Outcome::NoSuchSink => panic!("{outcome:?}"),
        }
    }

    /// Standard output in a test: what is written comes out of the channel.
    struct Written(mpsc::Sender<Vec<u8>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(bytes.to_vec());
            sent.map(|()| bytes.len()).map_err(|_closed| io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn standard_output_gets_a_line_each() {
        let (sender, written) = mpsc::channel();
        let stdout = stdout(Written(sender), 10_000);
        for body in [BODY, "{\n  \"a\": 1\n}\n"] {
            assert_eq!(stdout.deliver(&delivery(body)).await, Outcome::Accepted);
        }
        let lines: Vec<u8> = written.try_iter().flatten().collect();
        let expected = format!("{BODY}\n{{   \"a\": 1 }}\n");
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
        drop(written);
        let why = why(stdout.deliver(&delivery(BODY)).await);
        assert_eq!(why, "write standard output: broken pipe");
    }

    /// A pipe that nobody reads until the channel says so.
    struct Blocked(mpsc::Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            while self.0.recv().is_ok() {}
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_blocked_output_holds_nobody_up() {
        let (unblock, blocked) = mpsc::channel();
        let stdout = stdout(Blocked(blocked), 50);
        for _ in 0..3 {
            let why = why(stdout.deliver(&delivery(BODY)).await);
            assert!(why.contains("blocked"), "{why}");
        }
        drop(unblock);
        let deadline = Instant::now() + Duration::from_secs(10);
        while stdout.deliver(&delivery(BODY)).await != Outcome::Accepted {
            assert!(Instant::now() < deadline, "never unblocked");
        }
    }
}
