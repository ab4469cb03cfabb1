//! The command line. These comments are the manual: `edgewatch help VERB` prints them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use monitor_core::baseline::Mode;
use monitor_core::edge::EdgeWith;
use monitor_core::engine::Selection;
use monitor_core::pattern::Pattern;

use crate::config::Period;
use crate::picture::Language;
use crate::policy::LabelKey;
use crate::rehearsal::Learn;

/// Where the agent listens when nobody names another socket.
pub(crate) const SOCKET: &str = "/run/edgewatch/edgewatch.sock";

const GLOBAL: &str = "Options of every verb";

/// Who talks to whom on this node, and who is new.
///
/// `watch` shows the edges of this machine at once and keeps nothing; `run` is the agent, which
/// learns what is normal and alerts on what is not. `record` and `replay` try a baseline on what
/// happened; `check` and `doctor` say whether the agent could run here. Most other verbs talk to a
/// running agent through its Unix socket.
///
/// Exit codes: 0 done; 1 failed; 2 it found something (`baseline diff` is not empty, `replay` has
/// alerts, `doctor` found a failure); 64 the command line, the configuration or a named file is
/// wrong.
#[derive(Debug, Parser)]
#[command(name = "edgewatch", version, max_term_width = 100)]
pub struct Cli {
    /// The agent's Unix socket [default: /run/edgewatch/edgewatch.sock]
    #[arg(long, global = true, env = "EDGEWATCH_SOCKET", hide_env_values = true, value_name = "PATH", help_heading = GLOBAL)]
    pub(crate) socket: Option<PathBuf>,
    /// For people or for programs: JSON is one document, or one line each where it follows.
    /// Only `map` is drawn (dot, mermaid, svg), and only `policy export` writes kubernetes
    #[arg(long, global = true, value_enum, default_value_t = Wanted::Table, help_heading = GLOBAL)]
    pub(crate) format: Wanted,
    /// Colours; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, help_heading = GLOBAL)]
    pub(crate) color: When,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

/// What `--format` may say: what is neither a table nor JSON is one verb's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wanted {
    Table,
    Json,
    /// A picture of the map, for Graphviz
    Dot,
    /// A picture of the map, as code hosts and wikis draw it
    Mermaid,
    /// A picture of the map, which needs nothing else
    Svg,
    /// `NetworkPolicy` objects
    Kubernetes,
    /// `CiliumNetworkPolicy` objects (not there yet)
    Cilium,
}

impl Wanted {
    /// What every verb that prints data can do.
    pub(crate) const fn data(self) -> Option<Format> {
        match self {
            Self::Table => Some(Format::Table),
            Self::Json => Some(Format::Json),
            Self::Dot | Self::Mermaid | Self::Svg | Self::Kubernetes | Self::Cilium => None,
        }
    }

    /// What only the map can do.
    pub(crate) const fn picture(self) -> Option<Language> {
        match self {
            Self::Dot => Some(Language::Dot),
            Self::Mermaid => Some(Language::Mermaid),
            Self::Svg => Some(Language::Svg),
            Self::Table | Self::Json | Self::Kubernetes | Self::Cilium => None,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Dot => "dot",
            Self::Mermaid => "mermaid",
            Self::Svg => "svg",
            Self::Kubernetes => "kubernetes",
            Self::Cilium => "cilium",
        })
    }
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the agent: learn, judge, alert
    ///
    /// It is ready when it logs `ready` and `GET /readyz` answers 200. SIGTERM and Ctrl-C end it.
    /// EDGEWATCH_LOG sets what is logged, like `info` or `monitor=debug`.
    Run(Run),
    /// Show the edges of this machine as they appear; keeps no state and leaves nothing behind
    Watch(Watch),
    /// Write every flow of this machine to a file, as JSON lines; needs no agent, keeps no state
    ///
    /// First sightings come with their outcome and process as they happen; what known flows did
    /// after that follows every ten seconds, with how many exchanges and bytes it was. Ctrl-C ends
    /// it; a summary on stderr says how many flows there were and what was lost.
    Record(Record),
    /// What would have been alerted, had these flows been seen; exits 2 if anything
    ///
    /// Runs a recording through the agent's own engine, in the recording's own time: nothing is
    /// stored or sent, and the same files give the same answer. Give it the baseline to guard, or
    /// have it learn the beginning of the recording, or both: then what the files name is guarded
    /// from the start, and what is learned besides is guarded after it.
    Replay(Replay),
    /// Every edge seen, with its evidence; or a picture: --format svg, mermaid or dot
    ///
    /// A picture stays readable: beyond some forty nodes, groups of services (a Compose project, a
    /// Kubernetes namespace) are drawn as one node each, and peers outside are counted. What is
    /// pending or forbidden is always drawn.
    Map(Map),
    /// Every service seen
    Services,
    /// What was alerted
    Alerts(Alerts),
    /// The receivers of alerts
    Notify {
        #[command(subcommand)]
        verb: Notify,
    },
    /// The agent at a glance
    Status,
    /// Check the configuration, its secrets and its baseline files without starting anything
    Check(Check),
    /// What works on this machine, what does not, and what to do
    ///
    /// Looks at the kernel, privileges, cgroups, the configuration, the state, a running agent and
    /// container runtimes. Each kernel program is loaded and attached for a moment to an empty cgroup;
    /// nothing of it stays. An ordinary user is told what cannot be seen. Exits 2 where something
    /// keeps the agent from working, 64 where that is in the configuration.
    Doctor(Doctor),
    /// Who changed what: approvals, prohibitions, phases, imports, mutes
    Audit(Audit),
    /// The baseline as policies for those who enforce
    Policy {
        #[command(subcommand)]
        verb: Policy,
    },
    /// What is normal: how far learning is, and the decisions about it
    Baseline {
        #[command(subcommand)]
        verb: Baseline,
    },
    /// Print what makes a shell complete verbs and options
    ///
    /// Bash: `edgewatch completions bash > /etc/bash_completion.d/edgewatch`. Zsh: into a directory of
    /// `$fpath`, as `_edgewatch`. Fish: `~/.config/fish/completions/edgewatch.fish`.
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual: read it with `edgewatch man | man -l -`
    Man {
        /// Write edgewatch.1, and a page for each verb, into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration; without it /etc/edgewatch/edgewatch.toml, which need not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to do with services that are not guarded, whatever the configuration says
    #[arg(long, value_parser = mode, value_name = "learn|auto|guard")]
    pub(crate) mode: Option<Mode>,
    /// Where the state is kept, whatever the configuration says
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// This machine's name in alerts, whatever the configuration says
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Print edges and alerts as they appear; nothing stays attached when it ends, however it ends
    #[arg(long)]
    pub(crate) show: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// End after this time, like 30s or 5m
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) duration: Option<Period>,
    /// Take sizes and networks from this configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Record {
    /// Where to write, `-` for standard output; a file that exists is refused
    pub(crate) file: PathBuf,
    /// Add to the file, if it exists
    #[arg(long)]
    pub(crate) append: bool,
    /// End after this time, like 30s or 5m
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) duration: Option<Period>,
    /// Take sizes, networks and this machine's name from this configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A recording, as `record` writes it; `-` for standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) guarded: Guarded,
    /// Take `mode`, `[learn]` and `[detect]` from this configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print each alert in full, as a chat would show it
    #[arg(long)]
    pub(crate) full: bool,
}

/// What `replay` guards: one of them, or both.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Guarded {
    /// A baseline file: its services are guarded as written; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Vec<PathBuf>,
    /// Learn the beginning, then guard every service: a duration like 24h, a part like 0.5 or 50%,
    /// or the time at which it ends, like 2026-11-21T10:00:00Z
    #[arg(long, value_name = "DURATION|PART|TIME")]
    pub(crate) learn: Option<Learn>,
}

#[derive(Debug, Args)]
pub(crate) struct Map {
    /// Only the edges of these services or peers, like compose:shop/web or 'k8s:prod/**'
    #[arg(long, value_name = "PATTERN")]
    pub(crate) focus: Vec<Pattern>,
    /// In a picture: draw these one by one, however many they are
    #[arg(long, value_name = "PATTERN")]
    pub(crate) expand: Vec<Pattern>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration; without it /etc/edgewatch/edgewatch.toml, which need not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Doctor {
    /// The configuration; without it /etc/edgewatch/edgewatch.toml, which need not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the state is kept, whatever the configuration says
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Also connect to every receiver; nothing is sent
    #[arg(long)]
    pub(crate) receivers: bool,
    /// Examine nothing: remove what an agent left attached and pinned when it ended
    #[arg(long, conflicts_with_all = ["receivers", "state_dir"])]
    pub(crate) clean: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// At most this many entries, the newest
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Alerts {
    #[command(subcommand)]
    pub(crate) verb: Option<AlertsVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsVerb {
    /// Every alert, open ones first (what plain `alerts` does)
    List,
    /// One alert in full: every finding, with the command that allows it
    Show {
        /// Its id, or the beginning of it
        #[arg(value_parser = alert_id)]
        id: String,
    },
    /// Print alerts as they come; Ctrl-C ends
    Follow,
    /// Send no alerts of some services for a while
    ///
    /// Nothing else changes: they are judged, listed and never learned. What is critical is muted
    /// too. A mute ends by itself, and what it kept back is then told once, in a digest.
    Mute {
        /// A service or a pattern like compose:shop/*
        services: Pattern,
        /// For how long, like 4h; at most 30d
        #[arg(long = "for", value_parser = lasting, value_name = "DURATION")]
        duration: Period,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who decides [default: you]
        #[arg(long, value_name = "NAME")]
        approver: Option<String>,
    },
    /// End a mute before its time
    Unmute {
        /// As it was muted
        services: Pattern,
    },
    /// The mutes that hold
    Mutes,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Notify {
    /// Send a marked test message to the receivers, and say what became of it
    ///
    /// Without --config the running agent sends it, as it sends alerts. Exits 1 if a receiver did not
    /// accept it.
    Test {
        /// One receiver; all of them without
        name: Option<String>,
        /// Send it from here, to the receivers of this configuration: no agent needs to run
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Baseline {
    /// How far each service's learning is, and what it still needs
    Status,
    /// Print the baseline, as it would be exported
    Show {
        /// Services or patterns like compose:shop/*; all without
        #[arg(value_name = "SERVICE")]
        services: Vec<Pattern>,
    },
    /// What waits for a decision, or how FILE differs from what the agent holds; exits 2 if anything
    Diff {
        /// A baseline file: `+` is what importing it would add, `-` what it would remove
        file: Option<PathBuf>,
    },
    /// Allow an edge
    ///
    /// Every alert ends with the command that allows its edge. Once all its edges are allowed, an
    /// incident is resolved.
    Approve(Decide),
    /// Forbid an edge, whatever was learned: it alerts as critical
    Forbid(Decide),
    /// Guard services: from now on only people and baseline files add to their baselines
    Guard(Which),
    /// Send services back to learning; with --for open guarded ones for a rollout
    Learn {
        #[command(flatten)]
        which: Which,
        /// Keep them guarded, but for this long let new edges wait for review without an alert
        #[arg(long = "for", value_parser = lasting, value_name = "DURATION")]
        duration: Option<Period>,
    },
    /// Write the baseline as a file to review and keep in git
    Export {
        /// Services or patterns like compose:shop/*; all without
        #[arg(value_name = "SERVICE")]
        services: Vec<Pattern>,
        /// Also when and how often each edge was seen: figures that change with every export
        #[arg(long)]
        with_evidence: bool,
        /// Write to this file, all at once, instead of printing
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Take over a baseline file: replaces the services it names, touches no other
    Import {
        /// A baseline file
        file: PathBuf,
        /// Guard them at once, instead of proposing those that are not guarded
        #[arg(long)]
        guard: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Print the baseline as Kubernetes NetworkPolicy objects: --format kubernetes
    ///
    /// One for each Kubernetes workload, both directions. What such a policy cannot say (names,
    /// executables, peers that are no pods) stands in comments: read them before you apply it.
    Export {
        /// Services or patterns like 'k8s:prod/**'; all without
        #[arg(value_name = "SERVICE")]
        services: Vec<Pattern>,
        /// Take this baseline file instead of what the agent holds
        #[arg(long, value_name = "FILE")]
        baseline: Option<PathBuf>,
        /// The pod label that holds a workload's name: a baseline does not know labels
        #[arg(long, value_name = "KEY", default_value = LabelKey::STANDARD)]
        selector_label: LabelKey,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// 'CLIENT -> SERVER PORT/PROTOCOL [with EXECUTABLE]', as alerts and `baseline diff` write it; for
    /// a port that is opened 'SERVICE listens PORT/PROTOCOL [with EXECUTABLE]', for an unusual socket
    /// 'SERVICE opens KIND [with EXECUTABLE]'
    pub(crate) edge: EdgeWith,
    /// Only for this long, like 7d
    #[arg(long, value_parser = lasting, value_name = "DURATION")]
    pub(crate) ttl: Option<Period>,
    /// Who decides [default: you]
    #[arg(long, value_name = "NAME")]
    pub(crate) approver: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Change this baseline file instead of the agent: it comes out sorted, and comments below its
    /// head are lost
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Services or patterns like compose:shop/*
    #[arg(value_name = "SERVICE", required_unless_present = "all", conflicts_with = "all")]
    services: Vec<Pattern>,
    /// All whose name is known for good
    #[arg(long)]
    all: bool,
}

impl Which {
    pub(crate) fn selection(self) -> Selection {
        if self.all { Selection::All } else { Selection::Matching(self.services) }
    }
}

/// Ids are long and in capitals: their beginning is enough, in any letters.
fn alert_id(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.to_ascii_uppercase());
    }
    Err("an id is letters and digits, as `edgewatch alerts` lists it".to_owned())
}

/// For a decision that holds for a while, which is told in whole seconds.
fn lasting(text: &str) -> Result<Period, String> {
    match text.parse::<Period>() {
        Ok(period) if period.get().as_secs() == 0 => {
            Err("it would end at once: write one like 4h or 7d".to_owned())
        }
        read => read.map_err(|error| error.to_string()),
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "learn" => Ok(Mode::Learn),
        "auto" => Ok(Mode::Auto),
        "guard" => Ok(Mode::Guard),
        _ => Err("a mode is one of learn, auto, guard".to_owned()),
    }
}
