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
            // In JSON as it is written here no line ends.
            Ok(body) => body + "\n",
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use monitor_core::delivery::Message;
    use monitor_core::ids::WallTime;

    use super::*;

    fn stdout(lines: impl Write + Send + 'static, timeout_ms: u64) -> Stdout {
        let lines: Lines = Box::new(lines);
        Stdout::new(Arc::new(Mutex::new(lines)), Duration::from_millis(timeout_ms))
    }

    fn delivery() -> Delivery {
        let test = monitor_core::delivery::Test::new("01J".to_owned(), "n1", WallTime(0));
        Delivery { sink: "out".to_owned(), message: Message::Test(Box::new(test)) }
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
        for _ in 0..2 {
            assert_eq!(stdout.deliver(&delivery()).await, Outcome::Accepted);
        }
        let lines: Vec<u8> = written.try_iter().flatten().collect();
        let expected = delivery().json().unwrap() + "\n";
        assert_eq!(String::from_utf8(lines).unwrap(), expected.repeat(2));
        drop(written);
        let why = why(stdout.deliver(&delivery()).await);
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
            let why = why(stdout.deliver(&delivery()).await);
            assert!(why.contains("blocked"), "{why}");
        }
        drop(unblock);
        let deadline = Instant::now() + Duration::from_secs(10);
        while stdout.deliver(&delivery()).await != Outcome::Accepted {
            assert!(Instant::now() < deadline, "never unblocked");
        }
    }
}
