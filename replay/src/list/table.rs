//! The list as a table that fits the terminal.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use diagnosis::{timeline::number, words};
use states::{StateName, Timestamp, foreign_text};
use unicode_width::UnicodeWidthStr as _;

use super::{Printer, Row};
use crate::screen::{Screen, Tone, fit, pad, wrap};

/// A column of the table.
struct Column {
    heading: &'static str,
    /// The width that it is not cut below, in columns of the terminal.
    min_width: usize,
    /// If the columns do not fit, the one with the highest rank is dropped first. Rank 0 is never
    /// dropped.
    drop_rank: u8,
    text: fn(&Row, Timestamp) -> String,
    tone: fn(&Row) -> Option<Tone>,
}

const COLUMNS: [Column; 8] = [
    Column {
        heading: "JOB",
        min_width: 8,
        drop_rank: 0,
        text: |row, _| row.job.clone(),
        tone: |_| Some(Tone::Strong),
    },
    Column {
        heading: "STATE",
        min_width: 12,
        drop_rank: 0,
        text: state,
        tone: |row| row.state.map(|state| Tone::State(number(state))),
    },
    Column { heading: "FOR", min_width: 6, drop_rank: 0, text: lasted, tone: |_| None },
    Column {
        heading: "VERDICT",
        min_width: 12,
        drop_rank: 0,
        text: |row, _| row.outcome(),
        tone: |row| Some(row.tone()),
    },
    Column {
        heading: "PROJECT",
        min_width: 12,
        drop_rank: 2,
        text: |row, _| words::project(&row.project).to_owned(),
        tone: |_| None,
    },
    Column {
        heading: "NAME",
        min_width: 8,
        drop_rank: 3,
        text: |row, _| row.name.clone(),
        tone: |_| None,
    },
    Column {
        heading: "PIPELINE",
        min_width: 8,
        drop_rank: 4,
        text: |row, _| row.pipeline.clone(),
        tone: |_| None,
    },
    Column {
        heading: "LAST OBSERVATION",
        min_width: 24,
        drop_rank: 1,
        text: last,
        tone: |_| Some(Tone::Faint),
    },
];

/// A column that is never dropped is not cut below this width to make room for one that is. The
/// longest diagnosis fits into it.
const RESERVED_WIDTH: usize = 20;
/// Spaces between two columns.
const GAP: usize = 2;

/// Rows that the widths of the columns follow from, at most.
const SAMPLE: usize = 500;

/// Prints rows as a table. It holds the first rows back until the widths of its columns are known.
pub(super) struct Table {
    stuck_only: bool,
    now: Timestamp,
    held: Vec<Row>,
    columns: Option<Vec<(usize, usize)>>,
    stuck_count: usize,
}

impl Table {
    pub(super) fn new(stuck_only: bool, now: Timestamp) -> Self {
        Self { stuck_only, now, held: Vec::new(), columns: None, stuck_count: 0 }
    }

    /// Decides the layout, and prints the rows that were held back.
    fn begin(&mut self, screen: &mut Screen) -> io::Result<()> {
        let columns = layout(&self.held, self.now, screen.width);
        let heading: Vec<String> =
            columns.iter().map(|(index, width)| pad(COLUMNS[*index].heading, *width)).collect();
        let heading = screen.paint(Tone::Faint, heading.join("  ").trim_end());
        writeln!(screen, "{heading}")?;
        self.columns = Some(columns);
        for row in std::mem::take(&mut self.held) {
            self.print_row(&row, screen)?;
        }
        Ok(())
    }

    fn print_row(&self, row: &Row, screen: &mut Screen) -> io::Result<()> {
        let columns = self.columns.as_deref().unwrap_or_default();
        let mut line = String::new();
        for (position, (index, width)) in columns.iter().enumerate() {
            let column = &COLUMNS[*index];
            let text = pad(&(column.text)(row, self.now), *width);
            let text = if position + 1 == columns.len() { text.trim_end() } else { &text };
            line.push_str(
                &(column.tone)(row)
                    .map_or_else(|| text.to_owned(), |tone| screen.paint(tone, text)),
            );
            if position + 1 < columns.len() {
                line.push_str("  ");
            }
        }
        writeln!(screen, "{}", line.trim_end())?;
        if let Some(why) = row.stuck.as_ref().filter(|_| self.stuck_only) {
            let why = screen.paint(Tone::Warn, &fit(&format!("  {why}"), screen.width));
            writeln!(screen, "{why}")?;
        }
        Ok(())
    }
}

impl Printer for Table {
    fn row(&mut self, row: Row, screen: &mut Screen) -> io::Result<()> {
        self.stuck_count += usize::from(row.stuck.is_some());
        if self.columns.is_some() {
            return self.print_row(&row, screen);
        }
        self.held.push(row);
        if self.held.len() == SAMPLE { self.begin(screen) } else { Ok(()) }
    }

    fn end(&mut self, left_out: usize, screen: &mut Screen) -> io::Result<()> {
        if self.columns.is_none() && self.held.is_empty() {
            let nothing = if self.stuck_only {
                "No job needs help."
            } else {
                "No jobs here. `--archived` lists finished ones."
            };
            return print_sentence(screen, nothing, |_, line| line.to_owned());
        }
        if self.columns.is_none() {
            self.begin(screen)?;
        }
        if left_out > 0 {
            let more = format!("{left_out} older ones are not shown: --limit 0 shows all.");
            print_sentence(screen, &more, faint)?;
        }
        if self.stuck_count > 0 && screen.terminal {
            print_sentence(
                screen,
                "`fargate-replay show JOB` says what is wrong and what helps.",
                faint,
            )?;
        }
        Ok(())
    }
}

fn faint(screen: &Screen, line: &str) -> String {
    screen.paint(Tone::Faint, line)
}

/// Prints a sentence below the table.
fn print_sentence(
    screen: &mut Screen,
    text: &str,
    painted: impl Fn(&Screen, &str) -> String,
) -> io::Result<()> {
    for line in wrap(text, screen.width) {
        let line = painted(screen, &line);
        writeln!(screen, "{line}")?;
    }
    Ok(())
}

/// Returns the indices and the widths of the columns that fit. The widest column shrinks first.
fn layout(rows: &[Row], now: Timestamp, width: usize) -> Vec<(usize, usize)> {
    let natural = |index: usize| {
        let widest = rows
            .iter()
            .map(|row| foreign_text::tame(&(COLUMNS[index].text)(row, now)).width())
            .max()
            .unwrap_or(0);
        widest.max(COLUMNS[index].heading.width())
    };
    let mut columns: Vec<(usize, usize)> =
        (0..COLUMNS.len()).map(|index| (index, natural(index))).collect();
    let least = |columns: &[(usize, usize)]| {
        let least = |(index, width): &(usize, usize)| {
            (*width).min(if COLUMNS[*index].drop_rank == 0 {
                RESERVED_WIDTH
            } else {
                COLUMNS[*index].min_width
            })
        };
        let narrow: usize = columns.iter().map(least).sum();
        narrow + GAP * columns.len().saturating_sub(1)
    };
    while least(&columns) > width {
        let Some(position) = (0..columns.len())
            .filter(|p| COLUMNS[columns[*p].0].drop_rank > 0)
            .max_by_key(|p| COLUMNS[columns[*p].0].drop_rank)
        else {
            break;
        };
        columns.remove(position);
    }
    let total = |columns: &[(usize, usize)]| {
        columns.iter().map(|(_, width)| width).sum::<usize>()
            + GAP * columns.len().saturating_sub(1)
    };
    while total(&columns) > width {
        let can_spare = |(index, width): &(usize, usize)| {
            COLUMNS[*index].drop_rank > 0 || *width > RESERVED_WIDTH
        };
        let shrinkable =
            columns.iter_mut().filter(|(index, width)| *width > COLUMNS[*index].min_width);
        let Some((_, widest)) = shrinkable.max_by_key(|column| (can_spare(column), column.1))
        else {
            break;
        };
        *widest -= 1;
    }
    columns
}

fn state(row: &Row, _: Timestamp) -> String {
    match row.state {
        Some(StateName::Stopping) if row.archived => "archived".to_owned(),
        Some(state) => state.to_string(),
        None => "unreadable".to_owned(),
    }
}

fn lasted(row: &Row, _: Timestamp) -> String {
    row.state
        .map_or_else(|| "-".to_owned(), |_| words::span(Duration::from_millis(row.in_state_ms)))
}

fn last(row: &Row, now: Timestamp) -> String {
    if row.state.is_none() {
        return row.last.clone();
    }
    format!("{} ago: {}", words::span(now.since(row.last_at)), row.last)
}
