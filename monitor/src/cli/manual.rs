//! The manual and the shells' completions, made from the command line's own description. What stands
//! here in words is what the options do not say: exit codes, files, variables, examples.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::cli::args::{Cli, SOCKET};
use crate::cli::{Ending, Failure, Out};
use crate::config::Config;

const NAME: &str = "edgewatch";
const SECTION: &str = "1";
const SOURCE: &str = concat!("edgewatch ", env!("CARGO_PKG_VERSION"));

const EXIT_STATUS: [(&str, &str); 4] = [
    ("0", "Done."),
    ("1", "Failed: what was asked for was not done, or not all of it."),
    (
        "2",
        "It found something: `baseline diff` is not empty, `replay` has alerts, `doctor` found what keeps the agent from working.",
    ),
    (
        "64",
        "The command line, the configuration or a file it names is wrong: nothing was started or changed.",
    ),
];

const ENVIRONMENT: [(&str, &str); 4] = [
    ("EDGEWATCH_SOCKET", "The agent's Unix socket, where --socket does not name one."),
    (
        "EDGEWATCH_LOG",
        "What `run`, `watch` and `record` log on standard error, like info or monitor=debug.",
    ),
    ("NO_COLOR", "Set to anything, it turns colours off unless --color asks for them."),
    ("SUDO_USER, USER", "Who decides, where --approver does not say it."),
];

const EXAMPLES: [(&str, &str); 7] = [
    ("sudo edgewatch doctor", "Can it work here? What is missing, and what to do."),
    ("sudo edgewatch watch --for 1m", "This machine's edges as they appear; nothing is kept."),
    ("sudo edgewatch run", "The agent, with its defaults."),
    ("sudo edgewatch baseline status", "How far each service's learning is."),
    ("sudo edgewatch baseline guard 'compose:shop/*'", "From now on, new edges of these alert."),
    (
        "sudo edgewatch baseline approve 'compose:shop/web -> dns:api.stripe.com 443/tcp with /usr/sbin/nginx' --ttl 7d",
        "Allow one edge for a week.",
    ),
    (
        "sudo edgewatch alerts --format json | jq -r '.[] | select(.state == \"firing\") | .title'",
        "What is firing, for a program.",
    ),
];

/// Prints one shell's completions.
pub(crate) fn completions(shell: Shell, out: &Out) -> Result<Ending, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), NAME, &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(Ending::Done)
}

/// Prints the whole manual as one page.
pub(crate) fn print(out: &Out) -> Result<Ending, Failure> {
    out.text(&page()?)?;
    Ok(Ending::Done)
}

/// Writes the whole manual, and a page for each verb, into `dir`.
pub(crate) fn write(dir: &Path) -> Result<Ending, Failure> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let write = |name: &str, page: &str| {
        let path = dir.join(format!("{name}.{SECTION}"));
        std::fs::write(&path, page).with_context(|| format!("write {}", path.display()))
    };
    write(NAME, &page()?)?;
    for verb in verbs(&command()) {
        write(display_name(&verb), &page_of(&verb)?)?;
    }
    Ok(Ending::Done)
}

fn command() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn display_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// Every verb that does something by itself, in the order of the help.
fn verbs(command: &Command) -> Vec<Command> {
    let mut verbs = Vec::new();
    for verb in command.get_subcommands() {
        // `baseline` alone does nothing; `alerts` alone does what `alerts list` does.
        if !verb.is_subcommand_required_set() {
            verbs.push(verb.clone());
        }
        verbs.extend(self::verbs(verb));
    }
    verbs
}

/// All verbs on one page.
fn page() -> io::Result<String> {
    let command = command();
    let man = Man::new(command.clone());
    let mut page = title(NAME);
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    heading("VERBS").to_writer(&mut page)?;
    for verb in verbs(&command) {
        describe(&verb, &mut page)?;
    }
    terms("EXIT STATUS", &EXIT_STATUS).to_writer(&mut page)?;
    let state = Config::default().state_dir.display().to_string();
    let files = [
        (Config::PATH, "The configuration; it need not exist."),
        (&state, "The state: what was learned and decided, and what waits to be delivered."),
        (SOCKET, "The running agent, for its owner alone."),
    ];
    terms("FILES", &files).to_writer(&mut page)?;
    terms("ENVIRONMENT", &ENVIRONMENT).to_writer(&mut page)?;
    terms("EXAMPLES", &EXAMPLES).to_writer(&mut page)?;
    Ok(clean(&page))
}

/// A verb's own page.
fn page_of(verb: &Command) -> io::Result<String> {
    let man = Man::new(verb.clone());
    let mut page = title(display_name(verb));
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = heading("SEE ALSO");
    rest.text([bold(NAME), roman("(1): exit status, files, environment, examples")]);
    rest.to_writer(&mut page)?;
    Ok(clean(&page))
}

/// No date: the same source gives the same page.
fn title(name: &str) -> Vec<u8> {
    let name = name.to_uppercase();
    format!(".TH {name} {SECTION} \"\" \"{SOURCE}\" \"Edgewatch\"\n").into_bytes()
}

/// One verb on the common page, without the options that all have.
fn describe(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let mut title = Roff::new();
    title.control("SS", [verb.get_bin_name().unwrap_or_else(|| verb.get_name())]);
    title.to_writer(page)?;
    let own = verb.clone().mut_args(|option| {
        let everywhere = option.is_global_set() || option.get_id() == "help";
        option.hide(everywhere)
    });
    let man = Man::new(own.disable_help_flag(true));
    body(page, |text| man.render_synopsis_section(text))?;
    let mut gap = Roff::new();
    gap.control("PP", []);
    gap.to_writer(page)?;
    body(page, |text| man.render_description_section(text))?;
    body(page, |text| man.render_options_section(text))
}

/// A section without its heading.
fn body(
    page: &mut Vec<u8>,
    render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut section = Vec::new();
    render(&mut section)?;
    for line in section.split_inclusive(|&byte| byte == b'\n') {
        if !line.starts_with(b".SH ") {
            page.extend_from_slice(line);
        }
    }
    Ok(())
}

/// As a formatter likes it: every piece brings the preamble along, which is needed once, and some
/// break a line that ends anyway.
fn clean(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page);
    let mut lines: Vec<&str> = Vec::new();
    for line in page.lines().map(str::trim_end) {
        let again = is_preamble(line) && lines.contains(&line);
        if !again && !line.is_empty() && line != ".br" {
            lines.push(line);
        } else if line.is_empty() && lines.last() != Some(&".PP") {
            lines.push(".sp");
        }
    }
    lines.join("\n") + "\n"
}

fn is_preamble(line: &str) -> bool {
    line.starts_with(".ie ") || line.starts_with(".el ")
}

fn heading(title: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    roff
}

fn terms(title: &str, terms: &[(&str, &str)]) -> Roff {
    let mut roff = heading(title);
    for (term, meaning) in terms {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
    roff
}
