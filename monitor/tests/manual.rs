//! The manual and the completions, as the program prints them: nothing left out, and a shell takes
//! them.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use monitor::cli::Cli;

#[track_caller]
fn printed(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_edgewatch")).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `script`, which follows the completions.
#[track_caller]
fn bash(script: &str) -> String {
    let mut bash = Command::new("bash")
        .args(["--norc", "--noprofile"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = printed(&["completions", "bash"]) + script;
    bash.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `baseline approve` and its like: every verb that takes no further verb.
fn verbs(command: &clap::Command, above: &str) -> Vec<String> {
    let below = command.get_subcommands().flat_map(|verb| {
        let name = format!("{above} {}", verb.get_name());
        if verb.has_subcommands() { verbs(verb, &name) } else { vec![name] }
    });
    below.collect()
}

#[test]
fn every_verb_and_option_is_in_the_manual() {
    let page = printed(&["man"]);
    let verbs = verbs(&Cli::command(), "edgewatch");
    assert!(verbs.len() > 15, "{verbs:?}");
    for verb in &verbs {
        assert!(page.contains(&format!("\n.SS \"{verb}\"\n")), "{verb} is not in the manual");
    }
    for section in
        ["NAME", "OPTIONS", "VERBS", "\"EXIT STATUS\"", "FILES", "ENVIRONMENT", "EXAMPLES"]
    {
        assert!(page.contains(&format!("\n.SH {section}\n")), "{section}");
    }
    for option in ["with\\-evidence", "state\\-dir", "approver", "receivers", "socket"] {
        assert!(page.contains(&format!("\\fB\\-\\-{option}\\fR")), "{option}");
    }
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("man1");
    assert_eq!(printed(&["man", "--dir", into.to_str().unwrap()]), "");
    assert_eq!(std::fs::read_to_string(into.join("edgewatch.1")).unwrap(), page);
    for verb in &verbs {
        let path = into.join(format!("{}.1", verb.replace(' ', "-")));
        let page = std::fs::read_to_string(&path).unwrap();
        let title = format!(".TH {} 1 ", verb.replace(' ', "-").to_uppercase());
        assert!(page.starts_with(&title), "{page}");
    }
}

#[test]
fn the_examples_of_the_manual_are_command_lines() {
    use clap::Parser as _;
    let page = printed(&["man"]);
    let mut examples = 0;
    for line in page.lines().filter(|line| line.starts_with("\\fBsudo edgewatch ")) {
        let line = line.replace("\\fB", "").replace("\\fR", "").replace("\\*(Aq", "'");
        let line = line.replace("\\-", "-");
        let first = line.split(" | ").next().unwrap();
        // A shell takes the quotes away.
        let words = bash(&format!("\nprintf '%s\\n' {first}\n"));
        let words = words.lines().skip(1);
        assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        examples += 1;
    }
    assert!(examples > 5, "{page}");
}

#[test]
fn a_shell_completes_verbs_options_and_values() {
    let complete = |words: &str| {
        let script = format!(
            "\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _edgewatch edgewatch \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[@]}}\"\n"
        );
        bash(&script).trim().to_owned()
    };
    assert_eq!(complete("edgewatch ba"), "baseline");
    assert_eq!(complete("edgewatch doc"), "doctor");
    assert_eq!(complete("edgewatch baseline gu"), "guard");
    assert_eq!(complete("edgewatch baseline guard --al"), "--all");
    assert_eq!(complete("edgewatch map --format js"), "json");
}

#[test]
fn every_shell_has_completions_of_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for verb in Cli::command().get_subcommands() {
            assert!(script.contains(verb.get_name()), "{shell}: {}", verb.get_name());
        }
    }
}
