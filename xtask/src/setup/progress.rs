//! A long step on one line: a live status with its seconds on a terminal, plain lines elsewhere.
//! All the child says goes to a log; its tail is shown where the step fails.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::stage::shown;

/// Lines of the child's output that a failure repeats.
const TAIL: usize = 20;
/// How often a step that writes to no terminal says that it goes on.
const REMINDER: Duration = Duration::from_secs(30);
/// The width of a status line, below that of any terminal worth caring for.
const WIDTH: usize = 78;

/// Where the steps of one set-up write.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join("setup.log");
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Runs one step to its end; a failure carries the tail of what it said.
    pub(crate) fn step(&mut self, title: &str, command: &mut Command) -> anyhow::Result<()> {
        let command_line = shown(command);
        writeln!(self.file, "$ {command_line}").context("write the log of the set-up")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command_line}"))?;
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);

        let mut status = Status::begin(title);
        let mut tail = VecDeque::with_capacity(TAIL);
        loop {
            match lines.recv_timeout(Duration::from_millis(500)) {
                Ok(line) => {
                    writeln!(self.file, "{line}").context("write the log of the set-up")?;
                    if tail.len() == TAIL {
                        tail.pop_front();
                    }
                    tail.push_back(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            status.show(tail.back().map_or("", String::as_str));
        }
        let verdict = child.wait().with_context(|| format!("wait for {command_line}"))?;
        if verdict.success() {
            status.end("done");
            return Ok(());
        }
        status.end("did not succeed");
        let said = tail.iter().map(|line| format!("\n    {line}")).collect::<String>();
        bail!("{command_line}: {verdict}; all of its output is in {}{said}", self.path.display())
    }
}

fn forward(stream: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            // A download redraws its line; what counts is the last drawing.
            let line = String::from_utf8_lossy(&line);
            let drawn = line.trim_end().rsplit('\r').next().unwrap_or_default();
            if sender.send(drawn.to_owned()).is_err() {
                return;
            }
        }
    });
}

/// The one line on which a step shows itself.
struct Status<'a> {
    title: &'a str,
    started: Instant,
    reminded: Instant,
    surface: Surface,
}

enum Surface {
    Terminal,
    Lines,
}

impl<'a> Status<'a> {
    fn begin(title: &'a str) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let surface = if terminal { Surface::Terminal } else { Surface::Lines };
        if matches!(surface, Surface::Lines) {
            println!("setup: {title} ...");
        }
        let now = Instant::now();
        Self { title, started: now, reminded: now, surface }
    }

    fn show(&mut self, said: &str) {
        let seconds = self.started.elapsed().as_secs();
        match self.surface {
            Surface::Terminal => self.draw(&status_line(self.title, seconds, said)),
            Surface::Lines if self.reminded.elapsed() >= REMINDER => {
                self.reminded = Instant::now();
                println!("{}", status_line(self.title, seconds, said));
            }
            Surface::Lines => {}
        }
    }

    fn end(&self, how: &str) {
        let line =
            format!("setup: {}: {how} in {} s", self.title, self.started.elapsed().as_secs());
        match self.surface {
            Surface::Terminal => {
                self.draw(&line);
                println!();
            }
            Surface::Lines => println!("{line}"),
        }
    }

    fn draw(&self, line: &str) {
        print!("\r\u{1b}[2K{line}");
        // A terminal that went away is no reason to stop an installation half-way.
        drop(std::io::stdout().flush());
    }
}

/// The status as one printable line of bounded width.
fn status_line(title: &str, seconds: u64, said: &str) -> String {
    let line = format!("setup: {title} ({seconds} s) {}", said.trim());
    line.chars().filter(|char| !char.is_control()).take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_keeps_all_output_and_repeats_the_tail_of_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path()).unwrap();
        let mut script = Command::new("sh");
        script.args(["-c", "seq 1 30; echo broken >&2; exit 3"]);
        let error = log.step("a trial", &mut script).expect_err("exits with 3").to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("\n    30"), "{error}");
        assert!(!error.contains("\n    5\n"), "only the tail: {error}");
        let kept = std::fs::read_to_string(dir.path().join("setup.log")).unwrap();
        assert!(kept.contains("\n5\n") && kept.contains("broken"), "{kept}");
    }

    #[test]
    fn a_status_line_is_short_and_holds_no_control_characters() {
        let line = status_line("x", 3, &format!("\u{1b}[31m{}", "long ".repeat(40)));
        assert_eq!(line.chars().count(), WIDTH);
        assert!(!line.contains('\u{1b}'));
    }
}
