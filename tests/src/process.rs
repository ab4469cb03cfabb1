//! Child processes: their lines as they come, their end, and no survivors.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::agent::SOON;
use crate::waiting::{eventually, stretched};

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// None where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
#[track_caller]
pub fn finish(command: &mut Command) -> Finished {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("start {command:?}: {error}"),
    };
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Copies a program. Another process writes the copy: a file that we had open ourselves could be
/// inherited half-way by a child of another test, and what is open for writing cannot be executed.
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    finish(Command::new("cp").arg(from).arg(to)).done();
}

impl Finished {
    /// Its standard output, if it ended well.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// Checks that it ended with `code` and said each of `words`.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not said: {self:#?}");
        }
    }
}

/// A child that runs beside the test; killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// Starts it with its standard input and output in our hands.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = match command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => panic!("start {name}: {error}"),
        };
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Self { name, child, stdin, lines, seen: Vec::new() }
    }

    /// Starts it with its output in a file and nothing to read.
    #[track_caller]
    pub fn logged(command: &mut Command, log: File) -> Self {
        let name = format!("{command:?}");
        let out = log.try_clone().expect("a file can be shared");
        let child = match command.stdin(Stdio::null()).stdout(out).stderr(log).spawn() {
            Ok(child) => child,
            Err(error) => panic!("start {name}: {error}"),
        };
        Self { name, child, stdin: None, lines: channel().1, seen: Vec::new() }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("kept until the end");
        if let Err(error) = writeln!(stdin, "{line}").and_then(|()| stdin.flush()) {
            panic!("{} does not listen any more: {error}", self.name);
        }
    }

    /// The next line it prints.
    #[track_caller]
    pub fn line(&mut self, patience: Duration) -> String {
        let patience = stretched(patience);
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} said nothing for {patience:?} after {:?}", self.name, self.seen)
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{} ended after saying {:?}", self.name, self.seen)
            }
        }
    }

    /// The next line, if one comes in time.
    pub fn line_within(&mut self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// Every line until it ends by itself, and how it ended.
    #[track_caller]
    pub fn rest(&mut self, patience: Duration) -> (ExitStatus, Vec<String>) {
        let status = self.ended(patience);
        // The reader ends with the pipe.
        (status, self.lines.iter().collect())
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // Fails where it has ended by itself.
            let _sent = kill_process(pid, signal);
        }
    }

    /// Stops it where it is, until it is sent [`Signal::CONT`].
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid()));
        // The signal is taken in by each of its threads in its own time.
        eventually(SOON, "that it stands still", || {
            let stats = fs::read_dir(&tasks).expect("it runs").flatten();
            let stats = stats.filter_map(|it| fs::read_to_string(it.path().join("stat")).ok());
            // NUMBER (NAME) STATE …: a name may hold anything.
            let state = |it: &String| it.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T'));
            let running: Vec<String> = stats.filter(|it| state(it) != Some(true)).collect();
            if running.is_empty() { Ok(()) } else { Err(running.concat()) }
        });
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn ended(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(patience, &what, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    #[must_use]
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
