//! One boot of one kernel in QEMU: its console line by line, a deadline for a guest that hangs, and
//! what the tests in it said of themselves.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::kernels::packages::QEMU;

/// What a line of the guest's own begins with.
pub(crate) const MARK: &str = "@edgewatch ";
/// A whole boot on a machine that is busy with other things. One that hangs ends here.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
/// Lines from before the guest's own first one, for a kernel that did not come so far.
const TAIL: usize = 60;

/// What one run of the tests came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// Each test, and whether it passed.
    pub(crate) tests: BTreeMap<String, bool>,
    /// The test program's exit code; none where it did not come to its end.
    pub(crate) code: Option<i32>,
}

/// What a guest said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// `registered`, or `refused` and why.
    pub(crate) kprobes: String,
    /// In the order in which they were begun.
    pub(crate) runs: Vec<Run>,
}

/// A kernel that did not come so far as to start anything of ours; its last words.
#[derive(Debug)]
struct NotUp(String);

impl fmt::Display for NotUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest did not come up:{}", self.0)
    }
}

impl std::error::Error for NotUp {}

/// How often a kernel is booted that does not come up: emulated, one breaks now and then in what it does
/// with its processors, before there is anything of ours.
const BOOTS: u32 = 3;

/// Boots `kernel` with `initrd` and listens until it powers off.
pub(crate) fn boot(kernel: &Path, initrd: &Path, command_line: &str) -> anyhow::Result<Heard> {
    let mut left = BOOTS;
    loop {
        left -= 1;
        match boot_once(kernel, initrd, command_line) {
            Err(error) if left > 0 && error.is::<NotUp>() => println!("{error}\n  once more"),
            done => return done,
        }
    }
}

fn boot_once(kernel: &Path, initrd: &Path, command_line: &str) -> anyhow::Result<Heard> {
    let mut child = Command::new(QEMU)
        // Emulated: a nested guest may have no virtualisation of its own, and some hang on it.
        .args(["-accel", "tcg", "-m", "2048", "-no-reboot", "-nodefaults", "-display", "none"])
        .args(["-serial", "stdio", "-smp", &processors().to_string()])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &format!("console=ttyS0 loglevel=1 panic=-1 {command_line}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {QEMU}"))?;
    let lines = forward(child.stdout.take().context("the console is ours")?);
    let heard = listen(&lines, Instant::now() + DEADLINE, |line| println!("{line}"));
    end(&mut child);
    heard
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(4)
}

fn end(child: &mut Child) {
    // Powered off, or past its deadline: either way it is over, and fails only where it is.
    drop(child.kill());
    drop(child.wait());
}

fn forward(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(text.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

/// Takes in the console until it is closed, handing on what comes after the guest's first own line.
fn listen(
    lines: &Receiver<String>,
    deadline: Instant,
    mut show: impl FnMut(&str),
) -> anyhow::Result<Heard> {
    let mut heard = Heard::default();
    let mut booting = Some(VecDeque::with_capacity(TAIL));
    loop {
        let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest hangs: it did not power off within {DEADLINE:?}")
            }
        };
        if let Some(own) = line.strip_prefix(MARK) {
            booting = None;
            heard.note(own);
        } else if let Some(tail) = &mut booting {
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        } else {
            show(&line);
            heard.test(&line);
        }
    }
    if let Some(tail) = booting {
        let said = tail.iter().map(|line| format!("\n    {line}")).collect::<String>();
        return Err(NotUp(said).into());
    }
    Ok(heard)
}

impl Heard {
    /// A line of the guest's own.
    fn note(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("kprobes", what)) => what.clone_into(&mut self.kprobes),
            Some(("ended", code)) => {
                if let Some(run) = self.runs.last_mut() {
                    run.code = code.parse().ok();
                }
            }
            _ if line == "begins" => self.runs.push(Run::default()),
            _ => {}
        }
    }

    /// `test NAME ... VERDICT`, as the test program says it.
    fn test(&mut self, line: &str) {
        let told = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        if let (Some(run), Some((name, verdict))) = (self.runs.last_mut(), told) {
            run.tests.insert(name.to_owned(), verdict == "ok");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(console: &str) -> (anyhow::Result<Heard>, Vec<String>) {
        let mut shown = Vec::new();
        let lines = forward(std::io::Cursor::new(console.to_owned()));
        let deadline = Instant::now() + Duration::from_secs(60);
        let heard = listen(&lines, deadline, |line| shown.push(line.to_owned()));
        (heard, shown)
    }

    #[test]
    fn a_guest_says_what_became_of_each_test() {
        let (heard, shown) = heard(
            "SeaBIOS\r\n@edgewatch kprobes refused: no\r\n@edgewatch begins\r\nrunning 2 tests\r\n\
             test a::b ... ok\r\ntest a::c ... FAILED\r\n@edgewatch ended 101\r\n\
             @edgewatch begins\r\ntest a::b ... ok\r\n",
        );
        let heard = heard.unwrap();
        assert_eq!(heard.kprobes, "refused: no");
        let tests = [("a::b".to_owned(), true), ("a::c".to_owned(), false)];
        assert_eq!(heard.runs[0], Run { tests: tests.into(), code: Some(101) });
        assert_eq!(heard.runs[1].code, None, "cut off");
        assert_eq!(shown[0], "running 2 tests", "the firmware is not relayed: {shown:?}");
    }

    #[test]
    fn a_kernel_that_does_not_come_up_shows_its_last_words() {
        let (heard, shown) = heard("SeaBIOS\r\nKernel panic - not syncing\r\n");
        let error = heard.expect_err("no line of the guest's own");
        assert!(error.is::<NotUp>(), "it is booted once more");
        let error = error.to_string();
        assert!(error.contains("Kernel panic") && shown.is_empty(), "{error}");
    }

    #[test]
    fn a_guest_that_hangs_is_given_up() {
        let (sender, lines) = channel();
        sender.send(format!("{MARK}begins")).unwrap();
        let error = listen(&lines, Instant::now(), |_| {}).expect_err("it says no more");
        assert!(error.to_string().contains("hangs"), "{error}");
    }
}
