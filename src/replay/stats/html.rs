//! The archive's summary as a page.

use std::time::Duration;

use maud::{Markup, html};
use states::Timestamp;

use super::{BARS, Tally, label, percent, percentiles};
use crate::replay::{
    page,
    story::{STATES, number},
    words,
};

/// Bars are this wide at most, in SVG's user units, as are the letters around them.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 880.0;
const ROW: f64 = 24.0;

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
            div.wide { (histogram(tally)) }
            h2 { "Time in each state, by task definition" }
            (definitions(tally))
        }
    };
    page::page(&format!("{} finished jobs", tally.jobs), now, &body)
}

/// The most frequent first.
fn counted(counts: impl Iterator<Item = (String, usize)>, all: usize) -> Markup {
    let mut counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    html! {
        table { tbody { @for (what, count) in counts {
            tr { td { (what) } td.number { (count) } td.number { (format!("{:.1} %", percent(count, all))) } }
        } } }
    }
}

#[allow(clippy::cast_precision_loss, reason = "lengths of bars")]
fn histogram(tally: &Tally) -> Markup {
    let counts = super::counts(&tally.lengths);
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0).min(BARS - 1);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let rows = (last - first + 1) as f64;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", rows * ROW)) role="img" aria-label="Jobs by how long they took" {
            @for (row, (bar, count)) in counts.iter().enumerate().take(last + 1).skip(first).enumerate() {
                @let y = row as f64 * ROW;
                @let width = (RIGHT - LEFT) * *count as f64 / most as f64;
                text x="0" y=(y + 15.0) { (label(bar)) }
                g.s3 { rect.visit x=(LEFT) y=(y + 2.0) width=(width) height=(ROW - 6.0) rx="2" {} }
                text x=(LEFT + width + 6.0) y=(y + 15.0) { (count) }
            }
        }
    }
}

fn definitions(tally: &Tally) -> Markup {
    html! {
        table {
            thead { tr {
                th { "Task definition" } th.number { "jobs" } th.number { "time" } th { "State" }
                th.number { "p50" } th.number { "p95" } th.number { "p99" }
            } }
            tbody { @for (name, definition) in tally.by_time() {
                @for (row, (state, of)) in STATES.into_iter().filter_map(|state| Some((state, percentiles(&definition.states[number(state)])?))).enumerate() {
                    tr {
                        @if row == 0 {
                            td { (name) } td.number { (definition.jobs) } td.number { (words::span(Duration::from_millis(definition.millis))) }
                        } @else { td {} td {} td {} }
                        td.state.(format!("s{}", number(state))) { (state) }
                        @for millis in [of.p50_ms, of.p95_ms, of.p99_ms] { td.number { (words::span(Duration::from_millis(millis))) } }
                    }
                }
            } }
        }
    }
}
