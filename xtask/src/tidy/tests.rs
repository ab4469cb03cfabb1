//! Each rule on a made-up tree that breaks it once: a check that cannot fail is a defect.

use super::*;

const LINTS: &str = "[package]\n[lints]\nworkspace = true\n";

#[test]
fn a_sound_tree_has_no_problems() {
    check(&[], &[]);
}

#[test]
fn a_crate_that_moved_away_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    for name in CRATES.iter().filter(|name| **name != "monitor-core") {
        write(dir.path(), &format!("{name}/Cargo.toml"), LINTS);
    }
    expect(dir.path(), &["Cargo.toml:1: there is no crate `monitor-core`"]);
}

#[test]
fn adapters_know_nothing_of_one_another() {
    check(
        &[("monitor/src/serve.rs", "//! x\nuse crate::store::Store;\n")],
        &["monitor/src/serve.rs:2: `serve` must not use `store`"],
    );
    check(
        &[("monitor/src/capture/attach.rs", "//! x\nfn f() { crate::agent::run() }\n")],
        &["monitor/src/capture/attach.rs:2: `capture` must not use `agent`"],
    );
}

#[test]
fn what_the_table_allows_passes() {
    check(
        &[
            ("monitor/src/agent.rs", "//! x\nuse crate::capture::Capture;\n"),
            (
                "monitor/src/capture/mod.rs",
                "//! x, unlike [`crate::agent`]\nuse crate::capture::decode::D;\nuse aya::Ebpf;\nconst A: &str = \"crate::agent\";\n",
            ),
            ("monitor/src/main.rs", "//! x\nfn main() { monitor::cli::main(); println!(); }\n"),
            (
                "monitor-core/src/engine.rs",
                "//! x\nuse crate::graph::Graph;\nuse std::{net::IpAddr, time::Duration};\n",
            ),
        ],
        &[],
    );
}

#[test]
fn the_program_reaches_the_library_through_cli() {
    check(
        &[("monitor/src/main.rs", "//! x\nuse monitor::agent::Agent;\n")],
        &["monitor/src/main.rs:2: `main` must not use `agent`"],
    );
}

#[test]
fn a_module_in_no_layer_is_refused() {
    let what = "is in no layer; say in xtask/src/tidy/imports.rs which modules it may use";
    check(
        &[("monitor/src/extra.rs", "//! x\n"), ("monitor-core/src/extra.rs", "//! x\n")],
        &[
            &format!("monitor/src/extra.rs:1: `extra` {what}"),
            &format!("monitor-core/src/extra.rs:1: `extra` {what}"),
        ],
    );
}

#[test]
fn layers_bind_tests_too() {
    check(
        &[(
            "monitor/src/store.rs",
            "//! x\n#[cfg(test)]\nmod tests {\n    use crate::serve::Api;\n}\n",
        )],
        &["monitor/src/store.rs:4: `store` must not use `serve`"],
    );
}

#[test]
fn the_core_is_read_from_top_to_bottom() {
    check(
        &[(
            "monitor-core/src/graph/eviction.rs",
            "//! x\nuse crate::engine::Engine;\nuse crate::ids::Id;\n",
        )],
        &["monitor-core/src/graph/eviction.rs:2: `graph` must not use `engine`"],
    );
    check(
        &[("monitor-core/src/lib.rs", "//! x\nuse crate::ids::Id;\n")],
        &["monitor-core/src/lib.rs:2: `lib` must not use `ids`"],
    );
}

#[test]
fn the_core_knows_no_world() {
    for (line, named) in [
        ("use tokio::sync::mpsc;", "tokio::sync::mpsc"),
        ("use redb;", "redb"),
        ("use aya::Ebpf;", "aya::Ebpf"),
        ("use reqwest::Client;", "reqwest::Client"),
        ("use std::{fs};", "std::fs"),
        ("use std::net::{IpAddr, TcpStream};", "std::net::TcpStream"),
        ("use std::time::{Duration, Instant};", "std::time::Instant"),
        ("fn f() { let _ = std::time::SystemTime::now(); }", "std::time::SystemTime::now"),
        ("use std::time;", "std::time"),
        ("use core::net;", "std::net"),
        ("fn f() { std::thread::yield_now() }", "std::thread::yield_now"),
        ("use std::process::Command;", "std::process::Command"),
        ("use std::env;", "std::env"),
    ] {
        check(
            &[("monitor-core/src/flow.rs", &format!("//! x\n{line}\n"))],
            &[&format!("monitor-core/src/flow.rs:2: the core must not name `{named}`")],
        );
    }
}

#[test]
fn a_foreign_crate_has_one_door() {
    for (foreign, door) in [
        ("axum", "serve"),
        ("aya", "capture"),
        ("monitor_common", "capture"),
        ("redb", "store"),
        ("reqwest", "notify"),
    ] {
        let file = format!(
            "//! x\nfn f() {{ {foreign}::x() }}\n#[cfg(test)]\nmod tests {{ use {foreign}::y; }}\n"
        );
        check(
            &[("monitor/src/identity/mod.rs", &file), (&format!("monitor/src/{door}.rs"), &file)],
            &[&format!(
                "monitor/src/identity/mod.rs:2: `identity` must not name `{foreign}`; only `{door}` does"
            )],
        );
    }
}

#[test]
fn the_wire_is_for_kernel_and_capture() {
    check(
        &[
            ("monitor-ebpf/src/main.rs", "//! x\nuse monitor_common::Flow;\n"),
            ("tests/src/lib.rs", "//! x\nuse monitor_common::Flow;\n"),
        ],
        &["tests/src/lib.rs:2: `tests` must not name the wire, `monitor_common`"],
    );
}

#[test]
fn only_the_command_line_speaks_and_exits() {
    let speech = "//! x\nfn f() {\n    println!(\"\");\n    std::process::exit(1)\n}\n#[cfg(test)]\nmod tests { fn f() { dbg!(1); } }\n";
    check(
        &[("monitor/src/render.rs", speech), ("monitor/src/cli/map.rs", speech)],
        &[
            "monitor/src/render.rs:3: `println!` prints; only `cli` and `main` may",
            "monitor/src/render.rs:4: ends the process; only `cli` and `main` may",
        ],
    );
}

#[test]
fn modules_are_named_from_the_root_one_a_line() {
    check(
        &[(
            "monitor-common/src/lib.rs",
            "//! x\nuse super::a;\nuse crate::{b, c};\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n",
        )],
        &[
            "monitor-common/src/lib.rs:2: `super::` outside tests; write `crate::`",
            "monitor-common/src/lib.rs:3: `use crate::{..}`; write one line for each module",
        ],
    );
}

#[test]
fn a_file_of_tests_is_one_only_where_its_parent_says_so() {
    let tests = ("monitor-core/src/graph/tests.rs", "//! x\nuse super::*;\n");
    check(&[("monitor-core/src/graph.rs", "//! x\n#[cfg(test)]\nmod tests;\n"), tests], &[]);
    check(
        &[("monitor-core/src/graph.rs", "//! x\nmod tests;\n"), tests],
        &["monitor-core/src/graph/tests.rs:2: `super::` outside tests; write `crate::`"],
    );
}

#[test]
fn a_file_opens_with_what_it_is_for() {
    check(
        &[("monitor/build.rs", "fn main() {}\n")],
        &["monitor/build.rs:1: starts without a `//!` line that says what the file is for"],
    );
}

#[test]
fn a_file_has_a_ceiling_before_its_tests() {
    let long =
        format!("//! x\n{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(499), "\n".repeat(99));
    check(&[("xtask/src/main.rs", &long)], &[]);
    check(
        &[("xtask/src/main.rs", &long.replacen('\n', "\n\n", 1))],
        &["xtask/src/main.rs:501: 501 lines before its tests; 500 are the ceiling"],
    );
    let endless = format!("//! x{}", "\n".repeat(600));
    check(
        &[("monitor-core/tests/stories.rs", &endless), ("tests/src/lib.rs", &endless)],
        &["tests/src/lib.rs:501: 600 lines before its tests; 500 are the ceiling"],
    );
}

#[test]
fn a_name_says_something() {
    check(
        &[("xtask/src/path_utils.rs", "//! x\n"), ("xtask/src/main.rs", "//! x\nmod handler {}\n")],
        &[
            "xtask/src/main.rs:2: a module called `handler` says nothing of its work",
            "xtask/src/path_utils.rs:1: a module called `utils` says nothing of its work",
        ],
    );
}

#[test]
fn unsafe_stays_at_the_kernels_door() {
    let file = "//! x, not unsafe\nfn f() { unsafe { g() } }\n";
    check(
        &[
            ("monitor/src/capture/ring.rs", file),
            ("monitor-ebpf/src/main.rs", file),
            ("monitor-common/src/lib.rs", file),
        ],
        &[
            "monitor-common/src/lib.rs:2: `unsafe` belongs in monitor/src/capture, monitor-ebpf, tests alone",
        ],
    );
}

#[test]
fn a_crate_opts_in_to_the_lints() {
    check(
        &[("tests/Cargo.toml", "[package]\n[lints]\n[dependencies.x]\nworkspace = true\n")],
        &["tests/Cargo.toml:1: does not opt in to the lints: add `[lints]` `workspace = true`"],
    );
}

#[test]
fn no_file_names_a_developers_machine() {
    let path = concat!("/", "work/main");
    check(
        &[("notes.md", &format!("see {path}\nsee /var{path}\n"))],
        &[&format!("notes.md:1: names `{}`, a path of one machine", &path[..6])],
    );
}

#[test]
fn the_readme_and_ci_name_the_same_kernels() {
    let architecture = ("ARCHITECTURE.md", "# x\n");
    let readme = (
        "README.md",
        "<!-- kernels -->\n\n| kernel | state |\n|---|---|\n| `5.10` | ok |\n| 6.1 | ok |\n\n| x |\n",
    );
    let ci = |list: &str| format!("matrix:\n    kernel: [{list}]\n");
    check(&[architecture, readme, (".github/workflows/ci.yml", &ci("\"6.1\", '5.10'"))], &[]);
    let two_jobs = format!("{}  other:\n  {}", ci("6.1"), ci("5.10"));
    check(&[architecture, readme, (".github/workflows/ci.yml", &two_jobs)], &[]);
    check(
        &[architecture, readme, (".github/workflows/ci.yml", &ci("6.1, 6.12"))],
        &[
            ".github/workflows/ci.yml:2: does not run kernel 5.10, which the README promises",
            ".github/workflows/ci.yml:2: runs kernel 6.12, which the README does not name",
        ],
    );
    check(
        &[architecture, readme, (".github/workflows/ci.yml", "jobs:\n")],
        &[
            ".github/workflows/ci.yml:1: has no `kernel: [..]` matrix to hold the README's table against",
        ],
    );
    check(
        &[architecture, ("README.md", "# x\n")],
        &["README.md:1: has no `<!-- kernels -->` before its table of kernels"],
    );
    check(
        &[architecture, ("README.md", "# x\n<!-- kernels -->\nnone\n")],
        &["README.md:2: has no table with a first column of kernels after `<!-- kernels -->`"],
    );
}

#[test]
fn a_readme_comes_with_a_short_architecture() {
    let readme = ("README.md", "<!-- kernels -->\n| k |\n|--|\n| 6.1 |\n");
    let ci = (".github/workflows/ci.yml", "kernel: [6.1]\n");
    check(&[readme, ci], &["ARCHITECTURE.md:1: is missing"]);
    check(
        &[readme, ci, ("ARCHITECTURE.md", &"x\n".repeat(151))],
        &["ARCHITECTURE.md:151: 151 lines; 150 are the ceiling"],
    );
}

/// Lays `files` over a sound tree and expects exactly these problems.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    for name in CRATES {
        write(dir.path(), &format!("{name}/Cargo.toml"), LINTS);
    }
    write(dir.path(), "target/debug/out.rs", "no opening line, and none is asked for\n");
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    expect(dir.path(), expected);
}

#[track_caller]
fn expect(root: &Path, expected: &[&str]) {
    let mut found: Vec<String> = problems(root).unwrap().iter().map(Problem::to_string).collect();
    let mut expected = expected.to_vec();
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[track_caller]
fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
