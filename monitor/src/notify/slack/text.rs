//! Text for Slack: what others wrote may not mention, link, format or outgrow its place. Lengths are
//! counted in bytes of what is sent, the strictest way of counting characters.

use monitor_core::ids::is_unprintable;

/// Text as itself, without markup: Slack's three control characters escaped, at most `most` long.
pub(crate) fn escaped(text: &str, most: usize) -> String {
    fit(text.trim(), most, |character| character)
}

/// Text in a code span, where Slack formats and links nothing; at most `most` long.
pub(crate) fn code(text: &str, most: usize) -> String {
    let inner = fit(text.trim(), most - 2, without_backtick);
    // Two backticks with nothing between them are two backticks.
    if inner.is_empty() { "–".to_owned() } else { format!("`{inner}`") }
}

/// A sentence: as itself where nothing in it could be markup, else in a code span.
pub(crate) fn sentence(text: &str, most: usize) -> String {
    if is_harmless(text) { escaped(text, most) } else { code(text, most) }
}

/// A command in a block of its own, whole or not at all: half a command is worse than none. None
/// where it is longer than `most` or holds what a block could not give back.
pub(crate) fn command(text: &str, most: usize) -> Option<String> {
    let whole = !text.is_empty() && !text.chars().any(|it| it == '`' || is_unprintable(it));
    let block = format!("```{}```", fit(text, usize::MAX, |it| it));
    (whole && block.len() <= most).then_some(block)
}

/// Escapes each character, and cuts out the middle where the whole is longer than `most`.
fn fit(text: &str, most: usize, also: impl Fn(char) -> char) -> String {
    const GAP: &str = "…";
    let pieces = || text.chars().map(|it| Piece::of(also(it)));
    let mut length = 0;
    if pieces().all(|piece| {
        length += piece.len();
        length <= most
    }) {
        return pieces().map(Piece::text).collect();
    }
    let room = most.saturating_sub(GAP.len());
    let taken = |pieces: &mut dyn Iterator<Item = Piece>, room: usize| {
        let mut length = 0;
        let fitting = pieces.take_while(|piece| {
            length += piece.len();
            length <= room
        });
        fitting.collect::<Vec<_>>()
    };
    let head = taken(&mut pieces(), room / 2);
    let mut tail = taken(&mut pieces().rev(), room - room / 2);
    tail.reverse();
    let text = |pieces: Vec<Piece>| pieces.into_iter().map(Piece::text).collect::<String>();
    format!("{}{GAP}{}", text(head), text(tail))
}

/// A character as it is sent: never cut in two.
#[derive(Clone, Copy)]
enum Piece {
    Plain(char),
    Entity(&'static str),
}

impl Piece {
    fn of(character: char) -> Self {
        match character {
            '&' => Self::Entity("&amp;"),
            '<' => Self::Entity("&lt;"),
            '>' => Self::Entity("&gt;"),
            '\n' | '\r' | '\t' => Self::Plain(' '),
            other if is_unprintable(other) => Self::Plain(char::REPLACEMENT_CHARACTER),
            other => Self::Plain(other),
        }
    }

    const fn len(self) -> usize {
        match self {
            Self::Plain(character) => character.len_utf8(),
            Self::Entity(entity) => entity.len(),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Plain(character) => character.to_string(),
            Self::Entity(entity) => entity.to_owned(),
        }
    }
}

const fn without_backtick(character: char) -> char {
    if character == '`' { '\'' } else { character }
}

/// Whether Slack would show it letter by letter, whatever it stands beside. What is not known to be
/// harmless is not.
fn is_harmless(text: &str) -> bool {
    let plain = |it: char| it.is_ascii_alphanumeric() || " .,;:()%+=/→·…–'-".contains(it);
    // `:100:` is a picture.
    let mut between = text.split(':');
    let (_first, _last) = (between.next(), between.next_back());
    let picture = |it: &str| {
        !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric() || b"_+-'".contains(&it))
    };
    text.chars().all(plain) && !between.any(picture) && !text.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that somebody could choose, to be heard by everybody or to look like us.
    pub(crate) const HOSTILE: [&str; 14] = [
        "<!channel> <!here> <@U024BE7LH> <#C123|general>",
        "*bold* _italic_ ~struck~",
        "`code` and ```block```",
        "&lt;!channel&gt; &amp;",
        "@channel @here #general",
        "http://evil.example/ www.evil.example",
        "<http://evil.example|edgewatch.example>",
        "a\nb\r\n> quote\n• forged line",
        ":rotating_light: :100:",
        "\u{202e}gpj.exe\u{200b}\u{feff}\u{0}\u{1b}[31m",
        "`",
        "",
        "   ",
        "\\` \\* <mailto:x@y.z>",
    ];

    #[test]
    fn nothing_of_a_hostile_text_is_markup() {
        for text in HOSTILE {
            for shown in [escaped(text, 500), code(text, 500), sentence(text, 500)] {
                assert!(!shown.contains(['<', '>', '\n', '\r', '\u{202e}', '\u{0}']), "{shown:?}");
                let entities = ["&amp;", "&lt;", "&gt;"];
                let bare = entities.iter().fold(shown.clone(), |it, entity| it.replace(entity, ""));
                assert!(!bare.contains('&'), "{shown:?}");
            }
            let spanned = code(text, 500);
            let backticks = spanned.bytes().filter(|it| *it == b'`').count();
            assert!(matches!(backticks, 0 | 2), "{spanned:?}");
            assert!(backticks == 0 || (spanned.starts_with('`') && spanned.ends_with('`')));
            assert!(!spanned.starts_with("` ") && !spanned.ends_with(" `"), "{spanned:?}");
        }
        assert_eq!(escaped("&lt;!channel&gt;", 500), "&amp;lt;!channel&amp;gt;");
        assert_eq!(code("", 500), "–");
    }

    #[test]
    fn only_what_cannot_be_markup_stands_bare() {
        for text in [
            "no edge to ip:169.254.169.254; systemd:shop-web.service has 2 known edges, watched for 6 d",
            "/usr/bin/bash never dialled from it; known: /usr/sbin/nginx",
            "the cloud's metadata service: it hands out the node's credentials",
        ] {
            assert_eq!(sentence(text, 500), text);
        }
        for text in HOSTILE.iter().filter(|it| !it.trim().is_empty()) {
            assert!(sentence(text, 500).starts_with('`'), "{text:?}");
        }
        assert_eq!(sentence("ip:2001:db8:100:1::", 500), "`ip:2001:db8:100:1::`");
    }

    #[test]
    fn no_text_is_longer_than_its_place_and_no_entity_is_cut() {
        for text in ["&".repeat(10_000), "é<".repeat(5_000), "x".repeat(10_000)] {
            for most in 8..60 {
                for shown in [escaped(&text, most), code(&text, most), sentence(&text, most)] {
                    assert!(shown.len() <= most, "{} of {most}: {shown}", shown.len());
                    assert!(shown.contains('…'), "{shown}");
                    let rest = shown.replace("&amp;", "").replace("&lt;", "");
                    assert!(!rest.contains(['&', ';']), "{shown}");
                }
            }
        }
        assert_eq!(escaped("abcdefgh", 8), "abcdefgh");
        assert_eq!(escaped("abcdefghi", 8), "ab…ghi");
    }

    #[test]
    fn a_command_is_whole_or_missing() {
        let allow = "edgewatch baseline approve 'a -> b 80/tcp' --ttl 7d";
        let block = "```edgewatch baseline approve 'a -&gt; b 80/tcp' --ttl 7d```";
        assert_eq!(command(allow, block.len()).as_deref(), Some(block));
        assert_eq!(command(allow, block.len() - 1), None);
        for text in ["", "echo `id`", "a\nb"] {
            assert_eq!(command(text, 500), None);
        }
    }
}
