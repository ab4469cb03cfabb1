//! A Rust file as the rules see it: its place in the module tree, its code without comments and
//! literals, the paths that code names, and where its tests begin. Not a parser: it knows tokens
//! and `use` trees, which is all the rules ask about.

use std::path::{Component, Path};

use crate::tidy::Tree;

/// One Rust file.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
    /// The crate's directory.
    pub(crate) home: &'a str,
    /// The top-level module below `src`; `None` for files outside `src`.
    pub(crate) module: Option<String>,
    pub(crate) tokens: Vec<Token>,
    /// Lines before the file's own test module.
    pub(crate) own_lines: usize,
    /// The first line that belongs to tests; past the end where there are none.
    tests_from: usize,
}

/// A word or a sign of the code, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Word(String),
    /// `::`
    Separator,
    Sign(char),
}

/// A path as the code names it, a `use` tree being one path for each of its leaves.
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl Named {
    /// Whether the path is `prefix` or leads through it.
    pub(crate) fn is_within(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix.split("::").all(|part| segments.next().is_some_and(|segment| segment == part))
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a Path, text: &'a str, tree: &Tree) -> Self {
        let words: Vec<&str> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        let module = match words.as_slice() {
            [_, "src", first, ..] => Some(first.trim_end_matches(".rs").to_owned()),
            _ => None,
        };
        let home = words.first().copied().unwrap_or_default();
        let code = blank(text);
        // A crate's own `tests` directory is cargo's word for tests; the crate `tests` has a `src`.
        let is_test_file = words.get(1) == Some(&"tests") || is_test_file(path, tree);
        let inline = if is_test_file { 1 } else { tests_from(&code) };
        let own_lines = text.lines().count().min(inline - 1);
        let is_test_crate = module.is_none() || home == "tests";
        let tests_from = if is_test_crate { 1 } else { inline };
        Self { path, text, home, module, tokens: tokens(&code), own_lines, tests_from }
    }

    /// Whether `line` is shipped, as opposed to a test's.
    pub(crate) fn ships(&self, line: usize) -> bool {
        line < self.tests_from
    }

    /// Every path the code names, tests included.
    pub(crate) fn paths(&self) -> Vec<Named> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if !self.starts_path(at) {
                at += 1;
                continue;
            }
            at = self.expand(at, &[], &mut paths);
        }
        paths
    }

    /// Whether a path of at least two segments, or a lone imported name, starts here.
    fn starts_path(&self, at: usize) -> bool {
        let Kind::Word(_) = self.tokens[at].kind else {
            return false;
        };
        let kind = |index: Option<usize>| {
            index.and_then(|index| self.tokens.get(index)).map(|token| &token.kind)
        };
        if kind(at.checked_sub(1)) == Some(&Kind::Separator) {
            // `::aya::x` starts here, the `x` of `aya::x` does not.
            let before = kind(at.checked_sub(2));
            if matches!(before, Some(Kind::Word(word)) if word != "use" && word != "impl")
                || before == Some(&Kind::Sign('>'))
            {
                return false;
            }
        }
        let imported = matches!(kind(at.checked_sub(1)),
            Some(Kind::Word(word)) if word == "use" || word == "crate")
            && self.tokens[at].kind != Kind::Word("crate".into());
        imported || kind(at.checked_add(1)) == Some(&Kind::Separator)
    }

    /// Collects the paths of the tree that starts at `at`; returns where it ends.
    fn expand(&self, at: usize, before: &[String], paths: &mut Vec<Named>) -> usize {
        let line = self.tokens[at].line;
        let segment = match &self.tokens[at].kind {
            Kind::Word(word) => word.clone(),
            Kind::Sign(sign) => sign.to_string(),
            Kind::Separator => "::".to_owned(),
        };
        let segments: Vec<String> = before.iter().cloned().chain([segment]).collect();
        let next = |index: usize| self.tokens.get(index).map(|token| &token.kind);
        if next(at + 1) != Some(&Kind::Separator) {
            paths.push(Named { line, segments });
            return at + 1;
        }
        match next(at + 2) {
            Some(Kind::Word(_) | Kind::Sign('*')) => self.expand(at + 2, &segments, paths),
            Some(Kind::Sign('{')) => {
                let mut at = at + 3;
                loop {
                    match next(at) {
                        Some(Kind::Word(_) | Kind::Sign('*')) => {
                            at = self.expand(at, &segments, paths);
                            // `a as b` names `a` alone.
                            if next(at) == Some(&Kind::Word("as".into())) {
                                at += 2;
                            }
                        }
                        Some(Kind::Sign(',')) => at += 1,
                        _ => return at + 1,
                    }
                }
            }
            // A turbofish ends what can be followed.
            _ => {
                paths.push(Named { line, segments });
                at + 2
            }
        }
    }
}

/// Whether the file holds only tests: `tests.rs`, or a file below `tests/`, that its parent
/// declares under `#[cfg(test)]`.
fn is_test_file(path: &Path, tree: &Tree) -> bool {
    let Some(module) = path.ancestors().find(|dir| dir.file_stem().is_some_and(|n| n == "tests"))
    else {
        return false;
    };
    let Some(dir) = module.parent() else {
        return false;
    };
    let parents = ["mod.rs", "lib.rs", "main.rs"]
        .map(|door| dir.join(door))
        .into_iter()
        .chain([dir.with_extension("rs")]);
    parents.filter_map(|parent| tree.text(&parent)).any(|text| {
        let words: String = blank(text).split_whitespace().collect();
        words.contains("#[cfg(test)]modtests;")
    })
}

/// The line of the `#[cfg(test)]` before the file's own test module.
fn tests_from(code: &str) -> usize {
    let mut marked = None;
    for (index, line) in code.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[cfg(test)]") {
            marked = Some(index + 1);
        }
        let item = line.trim_start_matches("#[cfg(test)]").trim();
        if item.starts_with("mod ") && item.contains('{') {
            if let Some(line) = marked {
                return line;
            }
        } else if !item.is_empty() && !item.starts_with("#[") {
            marked = None;
        }
    }
    usize::MAX
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let (kind, length) = if rest.starts_with("::") {
                (Some(Kind::Separator), 2)
            } else if is_word(first) {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (Some(Kind::Word(rest[..length].to_owned())), length)
            } else if first.is_whitespace() {
                (None, first.len_utf8())
            } else {
                (Some(Kind::Sign(first)), first.len_utf8())
            };
            tokens.extend(kind.map(|kind| Token { line: index + 1, kind }));
            rest = &rest[length..];
        }
    }
    tokens
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The text with comments and the insides of literals turned into spaces, line for line.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let hidden = hidden(rest, before);
        let length = if hidden == 0 { first.len_utf8() } else { hidden };
        let (piece, tail) = rest.split_at(length);
        if hidden == 0 {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
        }
        before = if hidden == 0 { first } else { ' ' };
        rest = tail;
    }
    out
}

/// How many bytes at the start of `rest`, which follows `before`, are a comment or a literal.
fn hidden(rest: &str, before: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    if is_word(before) {
        return 0;
    }
    for prefix in ["b", "c", ""] {
        let Some(after) = rest.strip_prefix(prefix) else {
            continue;
        };
        if let Some(raw) = after.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let body = &raw[hashes + 1..];
                let length = body.find(&end).map_or(body.len(), |at| at + end.len());
                return prefix.len() + 1 + hashes + 1 + length;
            }
        }
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if char == '\\' {
            escaped = true;
        } else if char == quote {
            return at + char.len_utf8();
        }
    }
    rest.len()
}

/// A character literal's length; nothing for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(char), Some('\'')) => 2 + char.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        check_blank("a // b\nc", "a     \nc");
        check_blank("a /* b /* c */ \n d */ e", "a              \n      e");
        check_blank(r#"f("x \" // y", 'z', '\'', b"q") "#, "f(           ,    ,     , b   ) ");
        check_blank("r#\"a\" b\"# c 'l: loop", "          c 'l: loop");
        check_blank("var\"s\"", "var   ");
    }

    #[test]
    fn paths_are_followed_through_groups() {
        check_paths(
            "use std::{fs, net::{IpAddr, TcpStream as T}};",
            "std::fs std::net::IpAddr std::net::TcpStream",
        );
        check_paths("let x = ::aya::Ebpf::load(a.b); y::<Z>();", "aya::Ebpf::load y");
        check_paths("use redb; use crate::a::*; Vec::<u8>::new()", "redb crate::a::* Vec");
        check_paths("pub(crate) fn f() { x.collect::<Vec<_>>() }", "collect");
        check_paths("extern crate aya;", "aya");
    }

    #[test]
    fn tests_begin_at_their_attribute() {
        assert_eq!(tests_from("fn a() {}\n#[cfg(test)]\nmod tests {\n"), 2);
        assert_eq!(tests_from("#[cfg(test)]\nuse x;\nmod a {\n"), usize::MAX);
        assert_eq!(tests_from("#[cfg(test)]\n#[path = \"x\"]\nmod tests {\n"), 1);
    }

    #[track_caller]
    fn check_blank(text: &str, expected: &str) {
        assert_eq!(blank(text), expected);
    }

    #[track_caller]
    fn check_paths(code: &str, expected: &str) {
        let tree = Tree { files: Vec::new() };
        let source = Source::new(Path::new("monitor/src/x.rs"), code, &tree);
        let paths: Vec<String> =
            source.paths().iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(paths.join(" "), expected);
    }
}
