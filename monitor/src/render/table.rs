//! Columns that fit: widths are what the cells need, and where that is more than the screen has, the
//! columns that may give give.

use crate::render::{Screen, Tone};
use crate::wording::shortened;

/// A column's title and manners.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
}

/// How a column is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Left, never shortened.
    Left,
    /// Right, never shortened: figures.
    Right,
    /// Left, shortened in the middle where there is no room.
    Gives,
    /// Left, left out before what gives is cut to where names look alike.
    SpareLeft,
    /// Right, left out likewise.
    SpareRight,
}

impl Kind {
    const fn is_spare(self) -> bool {
        matches!(self, Self::SpareLeft | Self::SpareRight)
    }

    const fn is_right(self) -> bool {
        matches!(self, Self::Right | Self::SpareRight)
    }
}

pub(crate) type Cell = (String, Tone);

/// A column that gives keeps this much.
const LEAST: usize = 10;
/// And this much as long as there are columns to spare.
const ENOUGH: usize = 18;
const GAP: usize = 2;

/// The table with its head; the last column is not padded.
pub(crate) fn table<const N: usize>(
    screen: Screen,
    columns: &[Column; N],
    rows: &[[Cell; N]],
) -> String {
    let widths = widths(screen, columns, rows);
    let head = std::array::from_fn(|at| (columns[at].title.to_owned(), Tone::Faint));
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        text.push_str(&line(screen, columns, &widths, row));
        text.push('\n');
    }
    text
}

/// Columns that the table needs when nothing is cut.
pub(crate) fn natural_width<const N: usize>(columns: &[Column; N], rows: &[[Cell; N]]) -> usize {
    widths(Screen::PLAIN, columns, rows).iter().sum::<usize>() + GAP * (N - 1)
}

fn widths<const N: usize>(screen: Screen, columns: &[Column; N], rows: &[[Cell; N]]) -> [usize; N] {
    let length = |text: &str| text.chars().count();
    let mut widths: [usize; N] = std::array::from_fn(|at| {
        let cells = rows.iter().map(|row| length(&row[at].0));
        cells.max().unwrap_or(0).max(length(columns[at].title))
    });
    let Some(room) = screen.width else {
        return widths;
    };
    let needed = |widths: &[usize; N]| {
        let shown = (0..N).filter(|&at| is_shown(&columns[at], widths[at]));
        shown.map(|at| widths[at] + GAP).sum::<usize>().saturating_sub(GAP)
    };
    let least = |widths: &[usize; N]| {
        let cut = |at: usize| match columns[at].kind {
            Kind::Gives => widths[at].min(ENOUGH),
            _ => widths[at],
        };
        needed(&std::array::from_fn(cut))
    };
    for at in (0..N).rev().filter(|&at| columns[at].kind.is_spare()) {
        if least(&widths) > room {
            widths[at] = 0;
        }
    }
    // The widest gives first.
    while needed(&widths) > room {
        let giving = (0..N).filter(|&at| columns[at].kind == Kind::Gives && widths[at] > LEAST);
        match giving.max_by_key(|&at| widths[at]) {
            Some(widest) => widths[widest] -= 1,
            None => break,
        }
    }
    widths
}

/// A spare column without any width was left out.
fn is_shown(column: &Column, width: usize) -> bool {
    width > 0 || !column.kind.is_spare()
}

pub(crate) fn line<const N: usize>(
    screen: Screen,
    columns: &[Column; N],
    widths: &[usize; N],
    row: &[Cell; N],
) -> String {
    let mut line = String::new();
    let shown = |&(at, _): &(usize, &Cell)| is_shown(&columns[at], widths[at]);
    for (at, (text, tone)) in row.iter().enumerate().filter(shown) {
        let (kind, width) = (columns[at].kind, widths[at]);
        let shown = if kind == Kind::Gives && screen.width.is_some() {
            shortened(text, width)
        } else {
            text.clone()
        };
        let blank = " ".repeat(width.saturating_sub(shown.chars().count()));
        let painted = screen.colour.paint(*tone, &shown);
        if at > 0 {
            line.push_str(&" ".repeat(GAP));
        }
        if kind.is_right() {
            line.push_str(&blank);
        }
        line.push_str(&painted);
        if !kind.is_right() && at + 1 < N {
            line.push_str(&blank);
        }
    }
    line.truncate(line.trim_end().len());
    line
}
