//! The statistics as a page.

use std::time::Duration;

use diagnosis::{
    timeline::{STATES, number},
    words,
};
use maud::{Markup, html};
use states::Timestamp;

use super::{BARS, Tally, bar_label, percentiles_of, share};
use crate::page;

/// The height of a bar and the room around it, in CSS's pixels.
const ROW: u32 = 24;
pub(crate) const ROWS: page::Rows = page::Rows { class: "rows", top: 0, height: ROW };

pub(super) fn page(tally: &Tally, now: Timestamp) -> Markup {
    let body = html! {
        @if tally.jobs == 0 { p { "The archive is empty." } }
        @else {
            h2 { "Verdicts" }
            (counted(tally.verdicts.iter().map(|(verdict, count)| (verdict.words().to_owned(), *count)), tally.jobs))
            @if !tally.causes.is_empty() {
                h2 { "What was wrong" }
                (counted(tally.causes.iter().map(|(cause, count)| (format!("{}: {}", cause.name(), cause.words()), *count)), tally.jobs))
            }
            h2 { "How long jobs took" }
            (histogram(tally))
            h2 { "Time in each state, by task definition" }
            (definitions(tally))
            @if !tally.costs.is_empty() { (tally.costs.table()) }
        }
        @if !tally.pools.is_empty() {
            h2 { "Pools of warm tasks" }
            (pools(tally))
        }
    };
    page::page(&format!("{} finished jobs", tally.jobs), now, &body)
}

/// Draws a table of counts, in descending order.
fn counted(counts: impl Iterator<Item = (String, usize)>, all: usize) -> Markup {
    let mut counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    html! {
        table.counts { tbody { @for (what, count) in counts {
            tr { td { (what) } td.number { (count) } td.number { (format!("{:.1} %", share(count, all))) } }
        } } }
    }
}

#[allow(clippy::cast_precision_loss, reason = "lengths of bars")]
fn histogram(tally: &Tally) -> Markup {
    let counts = super::count_by_bar(&tally.lengths);
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0).min(BARS - 1);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bars: Vec<_> = counts.into_iter().enumerate().take(last + 1).skip(first).collect();
    let drawing = html! {
        g.s3 { @for (row, (_, count)) in (0u32..).zip(&bars).filter(|(_, (_, count))| *count > 0) {
            rect.bar x="0" y=(row * ROW + 4) width=(page::percent(100.0 * *count as f64 / most as f64)) height=(ROW - 8) rx="2" {}
        } }
    };
    page::chart(
        "Jobs by how long they took",
        ROWS,
        bars.iter().map(|(bar, count)| (bar_label(*bar), count.to_string())),
        &drawing,
    )
}

fn pools(tally: &Tally) -> Markup {
    html! {
        div.wide { table {
            thead { tr {
                th { "Pool" } th.number { "hits" } th.number { "misses" } th.number { "unclaimed" } th.number { "idle" }
            } }
            tbody { @for (name, counts) in &tally.pools {
                tr {
                    td { (name) }
                    td.number { (counts.hits) } td.number { (counts.misses) } td.number { (counts.unclaimed) }
                    td.number { (words::span(counts.idle())) }
                }
            } }
        } }
    }
}

fn definitions(tally: &Tally) -> Markup {
    html! {
        div.wide { table {
            thead { tr {
                th { "Task definition" } th.number { "jobs" } th.number { "time" } th { "State" }
                th.number { "p50" } th.number { "p95" } th.number { "p99" }
            } }
            tbody { @for (name, definition) in tally.by_time() {
                @for (row, (state, of)) in STATES.into_iter().filter_map(|state| Some((state, percentiles_of(&definition.states[number(state)])?))).enumerate() {
                    tr {
                        @if row == 0 {
                            td { (name) } td.number { (definition.jobs) } td.number { (words::span(Duration::from_millis(definition.millis))) }
                        } @else { td {} td {} td {} }
                        td.state.(format!("s{}", number(state))) { (state) }
                        @for millis in [of.p50_ms, of.p95_ms, of.p99_ms] { td.number { (words::span(Duration::from_millis(millis))) } }
                    }
                }
            } }
        } }
    }
}
