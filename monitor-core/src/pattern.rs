//! Patterns over names: one matches a whole name; `*` stops at `/`, `**` does not. Nothing else is
//! special, so a name is a pattern that matches itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::ServiceName;

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern is empty: write one like compose:shop/*, or ** for everything")]
    Empty,
    #[error("pattern {0:?} is longer than {max} bytes, the longest name", max = ServiceName::MAX_BYTES)]
    TooLong(String),
    #[error(
        "pattern {pattern:?} holds {character:?}, which no name does: names are letters, digits and ._:/@+-%, wildcards * and **"
    )]
    Unsafe { pattern: String, character: char },
    #[error("pattern {0:?} holds ***: write * (stops at /) or ** (does not)")]
    ThreeStars(String),
    #[error(
        "pattern {0:?} matches no name: names begin with a scheme, like systemd:nginx.service or compose:shop/*"
    )]
    NoScheme(String),
}

/// A pattern over whole names, such as `compose:shop/*` or `k8s:prod/**`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Token {
    Byte(u8),
    /// `*`: any run of bytes without `/`.
    Within,
    /// `**`: any run of bytes.
    Across,
}

impl Pattern {
    /// Whether the whole of `name` is matched. Takes at most the product of both lengths in steps,
    /// whatever the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if !self.text.contains('*') {
            return self.text == name;
        }
        // reached[i]: the first i tokens match all that was read so far.
        let mut reached = vec![false; self.tokens.len() + 1];
        reached[0] = true;
        self.pass_wildcards(&mut reached);
        for &byte in name.as_bytes() {
            // Backwards, so that reached[i] still is what held before this byte.
            for (i, token) in self.tokens.iter().enumerate().rev() {
                reached[i + 1] = match token {
                    Token::Byte(wanted) => reached[i] && *wanted == byte,
                    Token::Within => reached[i + 1] && byte != b'/',
                    Token::Across => reached[i + 1],
                };
            }
            reached[0] = false;
            self.pass_wildcards(&mut reached);
        }
        reached[self.tokens.len()]
    }

    /// A wildcard also matches nothing.
    fn pass_wildcards(&self, reached: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if reached[i] && !matches!(token, Token::Byte(_)) {
                reached[i + 1] = true;
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > ServiceName::MAX_BYTES {
            return Err(PatternError::TooLong(text.to_owned()));
        }
        let named =
            |character: char| character.is_ascii_alphanumeric() || "._:/@+-%*".contains(character);
        if let Some(character) = text.chars().find(|&character| !named(character)) {
            return Err(PatternError::Unsafe { pattern: text.to_owned(), character });
        }
        if text.contains("***") {
            return Err(PatternError::ThreeStars(text.to_owned()));
        }
        if !can_match_a_name(text) {
            return Err(PatternError::NoScheme(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), tokens: tokens(text) })
    }
}

/// A misspelt scheme would match nothing, silently and for ever.
fn can_match_a_name(text: &str) -> bool {
    match text.find([':', '*']) {
        Some(at) if text.as_bytes()[at] == b':' => {
            ServiceName::SCHEMES.contains(&&text[..at]) || PEER_SCHEMES.contains(&&text[..at])
        }
        Some(_) => true,
        None => text == "world",
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match (byte, tokens.last()) {
            (b'*', Some(Token::Within)) => {
                tokens.pop();
                tokens.push(Token::Across);
            }
            (b'*', _) => tokens.push(Token::Within),
            _ => tokens.push(Token::Byte(byte)),
        }
    }
    tokens
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

/// What a peer's name can begin with besides a service's schemes.
const PEER_SCHEMES: [&str; 3] = ["dns", "net", "ip"];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let parsed: Pattern = pattern.parse().unwrap();
        assert_eq!(parsed.to_string(), pattern);
        for name in yes {
            assert!(parsed.matches(name), "{pattern} should match {name}");
        }
        for name in no {
            assert!(!parsed.matches(name), "{pattern} should not match {name}");
        }
    }

    #[test]
    fn a_star_stops_at_a_slash_and_two_do_not() {
        check(
            "compose:shop/*",
            &["compose:shop/web", "compose:shop/"],
            &["compose:shop", "compose:shop/web/1", "compose:shopping/web"],
        );
        check(
            "k8s:prod/**",
            &["k8s:prod/deployment/web", "k8s:prod/"],
            &["k8s:prod", "k8s:production/deployment/web"],
        );
        check(
            "k8s:*/deployment/web",
            &["k8s:prod/deployment/web"],
            &["k8s:prod/x/deployment/web", "k8s:prod/deployment/web2"],
        );
        check(
            "k8s:**/web",
            &["k8s:prod/deployment/web", "k8s:a/web"],
            &["k8s:prod/deployment/web/x"],
        );
        check("**", &["systemd:nginx.service", "world", ""], &[]);
        check("*", &["systemd:nginx.service"], &["compose:shop/web"]);
        check(
            "*nginx*",
            &["systemd:nginx.service"],
            &["compose:nginx/web", "systemd:apache.service"],
        );
        check(
            "compose:*/web*",
            &["compose:shop/web", "compose:shop/web-2"],
            &["compose:shop/a/web", "compose:shop/api"],
        );
    }

    #[test]
    fn without_a_star_it_is_the_name_itself() {
        check(
            "systemd:nginx.service",
            &["systemd:nginx.service"],
            &["systemd:nginx-service", "systemd:nginx.service2", ""],
        );
        check("world", &["world"], &["worlds"]);
        check("dns:api.stripe.com", &["dns:api.stripe.com"], &[]);
    }

    #[test]
    fn matching_agrees_with_the_definition() {
        // By recursion, as one would explain it.
        fn defined(pattern: &[u8], name: &[u8]) -> bool {
            match pattern {
                [] => name.is_empty(),
                [b'*', b'*', rest @ ..] => (0..=name.len()).any(|n| defined(rest, &name[n..])),
                [b'*', rest @ ..] => (0..=name.len())
                    .take_while(|&n| !name[..n].contains(&b'/'))
                    .any(|n| defined(rest, &name[n..])),
                [byte, rest @ ..] => name.first() == Some(byte) && defined(rest, &name[1..]),
            }
        }
        let mut seed = 7_u64;
        let mut text = |alphabet: &[u8], longest: u64| {
            let mut below = |end: u64| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                usize::try_from((seed >> 33) % end).unwrap()
            };
            (0..below(longest + 1))
                .map(|_| char::from(alphabet[below(alphabet.len() as u64)]))
                .collect::<String>()
        };
        let mut matched = 0;
        for _ in 0..20_000 {
            let pattern = format!("dns:{}", text(b"a/**", 6));
            let name = format!("dns:{}", text(b"a/", 6));
            let Ok(parsed) = pattern.parse::<Pattern>() else {
                continue;
            };
            let expected = defined(pattern.as_bytes(), name.as_bytes());
            assert_eq!(parsed.matches(&name), expected, "{pattern} on {name}");
            matched += u32::from(expected);
        }
        assert!(matched > 1000, "{matched}");
    }

    #[test]
    fn many_stars_cost_no_more_than_few() {
        // Backtracking would not end within the lifetime of the machine.
        let pattern = format!("dns:{}b", "a*".repeat(120));
        let parsed: Pattern = pattern.parse().unwrap();
        assert!(!parsed.matches(&format!("dns:{}", "a".repeat(240))));
    }

    #[test]
    fn what_can_match_nothing_is_refused() {
        for (text, said) in [
            ("", "empty"),
            ("nginx", "scheme"),
            ("compse:shop/*", "scheme"),
            ("compose:a b", "' '"),
            ("compose:\u{1b}[2J", "no name does"),
            ("compose:***", "***"),
            (&"*a".repeat(200), "longer"),
        ] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    #[test]
    fn it_is_text_in_files() {
        let patterns: Vec<Pattern> = serde_json::from_str(r#"["compose:shop/*"]"#).unwrap();
        assert_eq!(serde_json::to_string(&patterns).unwrap(), r#"["compose:shop/*"]"#);
        assert!(serde_json::from_str::<Pattern>(r#""nginx""#).is_err());
    }
}
