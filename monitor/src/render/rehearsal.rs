//! What a rehearsal came to: a few lines, and how many messages of which kind about whom.

use crate::rehearsal::{Rate, Summary};
use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::{date, span};
use crate::render::{Screen, Tone};
use crate::wording::{counted, grouped};

/// The summary below the alerts.
#[must_use]
pub fn rehearsal(screen: Screen, summary: &Summary) -> String {
    let Some(whole) = summary.span else {
        return "no flow was read\n".to_owned();
    };
    let mut text = format!(
        "{} of {}, {} to {} UTC ({})\n",
        counted(summary.flows, "flow"),
        counted(summary.nodes.len(), "node"),
        date(whole.first_seen),
        date(whole.last_seen),
        span(whole.seconds()),
    );
    if let Some(learned) = &summary.learned {
        text.push_str(&format!(
            "learned until {}: {}, {}, {}; judged {} ({})\n",
            date(learned.until),
            counted(learned.flows, "flow"),
            counted(learned.services, "service"),
            counted(learned.edges, "edge"),
            counted(summary.judged, "flow"),
            span(summary.judged_s()),
        ));
    }
    if summary.total.messages == 0 {
        text.push_str("no message would have been sent\n");
        return text;
    }
    text.push_str(&format!(
        "{} would have been sent ({} a day) about {}\n",
        counted(summary.total.messages, "message"),
        daily(summary.total),
        counted(summary.incidents, "incident"),
    ));
    let kinds = summary.by_kind.iter().map(|(kind, rate)| (kind.to_string(), *rate));
    let services = summary.by_service.iter().map(|(name, rate)| (name.to_string(), *rate));
    text.push('\n');
    text.push_str(&rates(screen, "kind", kinds.collect()));
    text.push('\n');
    text.push_str(&rates(screen, "service", services.collect()));
    text
}

/// The most frequent first.
fn rates(screen: Screen, title: &'static str, mut rates: Vec<(String, Rate)>) -> String {
    rates.sort_by_key(|(_, rate)| std::cmp::Reverse(rate.messages));
    let columns = [
        Column { title, kind: Kind::Gives },
        Column { title: "messages", kind: Kind::Right },
        Column { title: "a day", kind: Kind::Right },
    ];
    let row = |(name, rate): (String, Rate)| -> [Cell; 3] {
        [(name, Tone::Plain), (grouped(rate.messages), Tone::Plain), (daily(rate), Tone::Plain)]
    };
    let rows: Vec<[Cell; 3]> = rates.into_iter().map(row).collect();
    table::table(screen, &columns, &rows)
}

fn daily(rate: Rate) -> String {
    let text = format!("{:.2}", rate.messages_per_day);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
