//! Who may name whom. The tables are the architecture; a module that is in none of them is refused,
//! so that a new one is placed before it is used. Layers bind tests as well; the tables of names
//! bind what is shipped.

use crate::tidy::Report;
use crate::tidy::source::{Kind, Named, Source};

/// Module of `monitor` → the sibling modules it may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("lock", &[]),
    ("spelling", &[]),
    ("wording", &[]),
    ("baseline_file", &["spelling"]),
    ("capture", &["lock"]),
    ("client", &[]),
    ("identity", &[]),
    ("notify", &["wording"]),
    ("recording", &["spelling"]),
    ("rehearsal", &["recording"]),
    ("render", &["doctor", "rehearsal", "wording"]),
    ("picture", &["wording"]),
    ("policy", &["wording"]),
    ("serve", &["lock"]),
    ("sources", &["client"]),
    ("store", &["lock"]),
    ("config", &["capture", "identity", "notify", "serve", "sources", "spelling", "store"]),
    (
        "agent",
        &[
            "baseline_file",
            "capture",
            "config",
            "identity",
            "notify",
            "recording",
            "serve",
            "sources",
            "store",
            "wording",
        ],
    ),
    (
        "cli",
        &[
            "agent",
            "baseline_file",
            "client",
            "config",
            "doctor",
            "picture",
            "policy",
            "recording",
            "rehearsal",
            "render",
            "wording",
        ],
    ),
    (
        "doctor",
        &[
            "baseline_file",
            "capture",
            "client",
            "config",
            "identity",
            "notify",
            "sources",
            "store",
            "wording",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Modules of `monitor-core` in reading order: each may name those before it.
const CORE: &[&str] = &[
    "ids",
    "pattern",
    "network",
    "socket",
    "dns",
    "flow",
    "rtt",
    "edge",
    "instances",
    "executables",
    "directory",
    "attribute",
    "graph",
    "baseline",
    "detect",
    "incident",
    "delivery",
    "mute",
    "engine",
];

/// What the core must not name: the world outside its arguments.
const WORLD: &[&str] = &[
    "aya",
    "axum",
    "hyper",
    "libc",
    "redb",
    "reqwest",
    "rustix",
    "tokio",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
];

/// What the core may name although it lies within `WORLD`: values, which do nothing.
const VALUES: &[&str] = &[
    "std::net::AddrParseError",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::net::SocketAddrV4",
    "std::net::SocketAddrV6",
    "std::time::Duration",
];

/// Foreign crate → the one module of `monitor` that may name it.
const DOORS: &[(&str, &str)] = &[
    ("axum", "serve"),
    ("aya", "capture"),
    ("aya_log", "capture"),
    ("aya_obj", "capture"),
    ("dugong", "picture"),
    ("k8s_openapi", "sources"),
    ("kube", "sources"),
    ("monitor_common", "capture"),
    ("redb", "store"),
    ("prost", "sources"),
    ("reqwest", "notify"),
    ("simple_dns", "capture"),
    ("tonic", "sources"),
    ("tonic_prost", "sources"),
    ("tower", "sources"),
];

/// The crates that share the wire between the kernel and the agent.
const WIRE: &[&str] = &["monitor", "monitor-common", "monitor-ebpf"];

/// The modules of `monitor` that speak to a terminal and end the process.
const SPEAKERS: &[&str] = &["cli", "main"];

const PRINTERS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println"];

/// Checks all that one file names.
pub(crate) fn check(source: &Source<'_>, report: &mut Report) {
    check_roots(source, report);
    let paths = source.paths();
    match (source.home, source.module.as_deref()) {
        ("monitor", Some(module)) => {
            match LAYERS.iter().find(|(name, _)| *name == module) {
                Some((_, below)) => check_siblings(source, module, below, &paths, report),
                None => unplaced(source, module, report),
            }
            check_doors(source, module, &paths, report);
            if !SPEAKERS.contains(&module) {
                check_speech(source, &paths, report);
            }
        }
        ("monitor-core", Some(module)) => {
            match CORE.iter().position(|name| *name == module) {
                Some(at) => check_siblings(source, module, &CORE[..at], &paths, report),
                None if module == "lib" => check_siblings(source, module, &[], &paths, report),
                None => unplaced(source, module, report),
            }
            check_world(source, &paths, report);
        }
        _ => {}
    }
    if !WIRE.contains(&source.home) {
        for path in paths.iter().filter(|path| path.is_within("monitor_common")) {
            let what = format!("`{}` must not name the wire, `monitor_common`", source.home);
            report.add(source.path, path.line, what);
        }
    }
}

/// The two ways of naming a module that the tables would not see.
fn check_roots(source: &Source<'_>, report: &mut Report) {
    for (index, token) in source.tokens.iter().enumerate() {
        let Kind::Word(word) = &token.kind else {
            continue;
        };
        let next = |ahead: usize| source.tokens.get(index + ahead).map(|token| &token.kind);
        if next(1) != Some(&Kind::Separator) {
            continue;
        }
        if word == "super" && source.ships(token.line) {
            report.add(source.path, token.line, "`super::` outside tests; write `crate::`");
        }
        if word == "crate" && matches!(next(2), Some(Kind::Sign('{' | '*'))) {
            report.add(
                source.path,
                token.line,
                "`use crate::{..}`; write one line for each module",
            );
        }
    }
}

fn check_siblings(
    source: &Source<'_>,
    module: &str,
    below: &[&str],
    paths: &[Named],
    report: &mut Report,
) {
    for path in paths {
        let [root, sibling, ..] = path.segments.as_slice() else {
            continue;
        };
        // A program names its own library by the crate's name.
        let own = root == "crate" || (module == "main" && root == "monitor");
        if own && sibling != module && sibling != "*" && !below.contains(&&**sibling) {
            let what = format!("`{module}` must not use `{sibling}`");
            report.add(source.path, path.line, what);
        }
    }
}

fn unplaced(source: &Source<'_>, module: &str, report: &mut Report) {
    let what = format!(
        "`{module}` is in no layer; say in xtask/src/tidy/imports.rs which modules it may use"
    );
    report.add(source.path, 1, what);
}

fn check_doors(source: &Source<'_>, module: &str, paths: &[Named], report: &mut Report) {
    for path in paths.iter().filter(|path| source.ships(path.line)) {
        for (foreign, door) in DOORS {
            if path.is_within(foreign) && module != *door {
                let what = format!("`{module}` must not name `{foreign}`; only `{door}` does");
                report.add(source.path, path.line, what);
            }
        }
    }
}

fn check_speech(source: &Source<'_>, paths: &[Named], report: &mut Report) {
    for path in paths.iter().filter(|path| source.ships(path.line)) {
        if path.is_within("std::process::exit") || path.is_within("process::exit") {
            let what = "ends the process; only `cli` and `main` may";
            report.add(source.path, path.line, what);
        }
    }
    for pair in source.tokens.windows(2) {
        if let [name, sign] = pair
            && let Kind::Word(word) = &name.kind
            && sign.kind == Kind::Sign('!')
            && PRINTERS.contains(&&**word)
            && source.ships(name.line)
        {
            let what = format!("`{word}!` prints; only `cli` and `main` may");
            report.add(source.path, name.line, what);
        }
    }
}

fn check_world(source: &Source<'_>, paths: &[Named], report: &mut Report) {
    for path in paths.iter().filter(|path| source.ships(path.line)) {
        // `core::net` and `core::time` are the same types under another name.
        let mut path = Named { line: path.line, segments: path.segments.clone() };
        if let Some(root) = path.segments.first_mut().filter(|root| *root == "core") {
            *root = "std".to_owned();
        }
        let outside = WORLD.iter().any(|name| path.is_within(name))
            && !VALUES.iter().any(|name| path.is_within(name));
        if outside {
            let what = format!("the core must not name `{}`", path.segments.join("::"));
            report.add(source.path, path.line, what);
        }
    }
}
