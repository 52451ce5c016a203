//! The report as a page.

use std::time::Duration;

use diagnosis::{
    Diagnosis, Evidence,
    timeline::{STATES, StateSpan},
    words,
};
use maud::{Markup, html};
use states::StateName;

use super::{Report, journal, outcome};
use crate::{
    page::{self, state_class, tone_class},
    screen::cause_tone,
};

pub(super) fn page(report: &Report, links: &Markup) -> Markup {
    let body = html! {
        (links)
        dl { @for (name, value) in report.facts() { dt { (name) } dd { (page::prose(&value)) } } }
        @for found in &report.diagnoses { (diagnosis(found)) }
        h2 { "Where " (words::span(report.timeline.length())) " went" }
        (Chart::of(report).draw())
        (states(report))
        (runs(report))
        h2 { "Journal" }
        (entries(report))
    };
    page::page(&report.title(), report.now, &body)
}

fn diagnosis(found: &Diagnosis) -> Markup {
    html! {
        section.card.(tone_class(cause_tone(found.cause))) {
            h2 { (found.heading()) }
            p { (page::prose(&found.summary)) }
            @if !found.evidence.is_empty() {
                h3 { "Seen" }
                ul { @for seen in &found.evidence { li { (evidence(seen)) } } }
            }
            @if !found.remedy.is_empty() {
                h3 { "To do" }
                ul { @for step in &found.remedy { li { (page::prose(step)) } } }
            }
        }
    }
}

fn evidence(seen: &Evidence) -> Markup {
    html! {
        @if let Some(at) = seen.at { (words::clock(at)) " " }
        (page::prose(&seen.text))
        @if let Some(last) = seen.last.filter(|_| seen.times > 1) {
            " (" (seen.times) " times until " (words::clock(last)) ")"
        }
    }
}

/// The timeline: a row for each state, time from left to right. Widths are percentages, heights CSS
/// pixels.
struct Chart<'a> {
    report: &'a Report,
    length: Duration,
}

pub(crate) const ROWS: page::Rows = page::Rows { class: "timeline", top: TOP, height: ROW };
const ROW: u32 = 30;
const BAR: u32 = 18;
const TOP: u32 = 18;
/// The least width of a bar, in percent, so that the shortest stay is visible.
const MIN_WIDTH: f64 = 0.25;
/// The greatest width of a letter in a bar, in percent of a wide window's chart.
const LETTER_WIDTH: f64 = 1.0;
/// Ticks, at most.
const MAX_TICKS: u128 = 8;
/// In narrow windows, one of so many ticks has a label.
const NARROW_LABEL_INTERVAL: usize = 3;

impl<'a> Chart<'a> {
    fn of(report: &'a Report) -> Self {
        Self { report, length: report.timeline.length().max(Duration::from_millis(1)) }
    }

    fn x(&self, after: Duration) -> f64 {
        100.0 * (after.as_secs_f64() / self.length.as_secs_f64()).min(1.0)
    }

    /// Returns the top of a state's bars.
    fn y(state: StateName) -> u32 {
        (0u32..)
            .zip(STATES)
            .find(|(_, other)| *other == state)
            .map_or(0, |(row, _)| TOP + ROW * row + (ROW - BAR) / 2)
    }

    fn draw(&self) -> Markup {
        let bottom = TOP + ROW * 6;
        let rows = STATES.into_iter().zip(self.report.timeline.totals()).map(|(state, total)| {
            (state.to_string(), if total.is_zero() { "–".to_owned() } else { words::span(total) })
        });
        let drawing = html! {
            @for (number, tick) in ticks(self.length).into_iter().enumerate() {
                @let x = page::percent(self.x(tick));
                line.grid x1=(x) x2=(x) y1=(TOP) y2=(bottom) {}
                text.faint.(if number % NARROW_LABEL_INTERVAL == 0 { "" } else { "roomy" }) x=(x) y="12" text-anchor="middle" {
                    @if tick.is_zero() { (words::clock(self.report.timeline.begin())) } @else { "+" (words::span(tick)) }
                }
            }
            @for span in &self.report.timeline.spans { (self.bar(span)) }
        };
        let has_baseline =
            self.report.timeline.spans.iter().any(|span| self.p95(span.state).is_some());
        html! {
            (page::chart("The job's states over time", ROWS, rows, &drawing))
            @if has_baseline { p.legend { "The line under a bar: 95 % of such stays last that long at most." } }
        }
    }

    /// Draws a stay, and under it the length that 95 % of such stays do not exceed, if it is known.
    fn bar(&self, span: &StateSpan) -> Markup {
        let begin = self.report.timeline.begin();
        let from = self.x(span.from.since(begin)).min(100.0 - MIN_WIDTH);
        let width = (self.x(span.to.since(begin)) - from).max(MIN_WIDTH);
        let y = Self::y(span.state);
        let stage = span.stage.as_deref().unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "a short name's letters")]
        let fits = (stage.chars().count() + 1) as f64 * LETTER_WIDTH <= width;
        html! {
            g.(state_class(span.state)) {
                rect.bar x=(page::percent(from)) y=(y) width=(page::percent(width)) height=(BAR) rx="2" {
                    title {
                        (span.state) @if !stage.is_empty() { " (" (stage) ")" }
                        ": " (words::span(span.length())) " from " (words::clock(span.from))
                        @if let Some(outcome) = &span.outcome { ", " (words::outcome(outcome)) }
                    }
                }
                @if !stage.is_empty() && fits {
                    text.inside.roomy x=(page::percent(from)) dx="5" y=(y + BAR - 5) { (stage) }
                }
                @if let Some(p95) = self.p95(span.state) {
                    @let until = (self.x(span.from.since(begin) + p95) - from).max(MIN_WIDTH);
                    rect.baseline x=(page::percent(from)) y=(y + BAR + 2) width=(page::percent(until)) height="3" {
                        title { "95 % of the stays in " (span.state) " last " (words::span(p95)) " at most" }
                    }
                }
            }
        }
    }

    fn p95(&self, state: StateName) -> Option<Duration> {
        self.report.percentile(state, 95)
    }
}

/// Returns the times of the ticks: multiples of a round step, few enough to read.
fn ticks(length: Duration) -> Vec<Duration> {
    const STEPS: [u64; 24] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000,
        120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000,
    ];
    let millis = length.as_millis();
    let longest = u64::try_from(millis / MAX_TICKS).unwrap_or(u64::MAX).max(1);
    let step =
        STEPS.into_iter().find(|step| u128::from(*step) * MAX_TICKS >= millis).unwrap_or(longest);
    (0..)
        .map(|tick| Duration::from_millis(tick * step))
        .take_while(|tick| *tick <= length)
        .collect()
}

/// Draws the table of the states' lengths beside the baseline's.
fn states(report: &Report) -> Markup {
    if !report.baseline.has(report.task_definition()) {
        return html! {};
    }
    html! {
        div.wide { table {
            thead { tr {
                th { "State" } th.number { "this job" } th.number { "longest stay" } th.number { "usual (half)" } th.number { "usual (95 %)" }
            } }
            tbody {
                @for ((state, total), longest) in STATES.into_iter().zip(report.timeline.totals()).zip(report.timeline.longest()) {
                    tr {
                        td.state.(state_class(state)) { (state) }
                        td.number { (words::span(total)) }
                        td.number.(if report.is_slow(state) { "bad" } else { "" }) { (words::span(longest)) }
                        @for percent in [50, 95] {
                            td.number { (report.percentile(state, percent).map_or_else(|| "–".to_owned(), words::span)) }
                        }
                    }
                }
            }
        } }
    }
}

fn runs(report: &Report) -> Markup {
    let runs: Vec<_> = report
        .timeline
        .spans
        .iter()
        .filter_map(|span| Some((span, span.stage.as_ref()?)))
        .collect();
    if runs.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Stages" }
        table {
            thead { tr { th { "Began" } th { "Stage" } th.number { "took" } th { "Outcome" } } }
            tbody {
                @for (span, stage) in runs {
                    @let (text, tone) = outcome(span, report.timeline.over);
                    tr {
                        td.time { (words::clock(span.from)) }
                        td { (stage) }
                        td.number { (words::span(span.length())) }
                        td.(tone_class(tone)) { (text) }
                    }
                }
            }
        }
    }
}

fn entries(report: &Report) -> Markup {
    html! {
        table {
            tbody {
                @for line in journal::lines(report) {
                    @match line {
                        journal::Line::Gap(count) => tr.gap { td {} td {} td { (count) " more" } },
                        journal::Line::Entry { evidence, state, .. } => tr {
                            td.time { @if let Some(at) = evidence.at { (words::clock(at)) } }
                            td.state.(state_class(state)) { (state) }
                            td { (page::prose(&evidence.text)) @if evidence.times > 1 { " ×" (evidence.times) } }
                        },
                    }
                }
            }
        }
        @if report.snapshot.journal.omitted > 0 {
            p { (report.snapshot.journal.omitted) " entries were left out of the middle of the journal." }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{baseline::Baseline, holder};

    fn report_of(name: &str) -> Report {
        let path = format!("{}/../fixtures/snapshots/v1/{name}.ron", env!("CARGO_MANIFEST_DIR"));
        let mut snapshot =
            states::Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        if let states::AnyJob::Executing(job) = &mut snapshot.job {
            Arc::make_mut(&mut job.header).about.job_name = "<script>alert(1)</script>".to_owned();
        }
        let surroundings = holder::elsewhere(&snapshot);
        let now = crate::show::last_seen(&snapshot);
        Report::new(snapshot, surroundings, Baseline::default(), now)
    }

    #[test]
    fn timelines_of_any_length_have_a_few_round_ticks() {
        for millis in [1, 7, 999, 61_000, 3_600_000, 90_000_000_000] {
            let ticks = ticks(Duration::from_millis(millis));
            assert!((1..=10).contains(&ticks.len()), "{millis}: {ticks:?}");
        }
        assert_eq!(ticks(Duration::from_secs(61))[1], Duration::from_secs(10));
    }

    #[test]
    fn every_stay_is_drawn_within_the_chart_and_names_are_escaped() {
        let report = report_of("executing");
        let text = page(&report, &html! {}).into_string();
        assert!(!text.contains("<script>alert"), "{text}");
        assert!(text.contains("&lt;script&gt;alert"));
        let document = roxmltree::Document::parse(
            &text[text.find("<svg").unwrap()..text.find("</svg>").unwrap() + 6],
        )
        .unwrap();
        let number = |node: &roxmltree::Node<'_, '_>, name| {
            node.attribute(name).unwrap().strip_suffix('%').unwrap().parse::<f64>().unwrap()
        };
        let bars: Vec<_> =
            document.descendants().filter(|node| node.attribute("class") == Some("bar")).collect();
        assert_eq!(bars.len(), report.timeline.spans.len());
        for bar in bars {
            let (x, width) = (number(&bar, "x"), number(&bar, "width"));
            assert!(x >= 0.0 && width >= MIN_WIDTH && x + width <= 100.001, "{bar:?}");
        }
    }
}
