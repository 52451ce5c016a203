//! A job's story as a page.

use std::time::Duration;

use maud::{Markup, html};
use states::StateName;

use super::{Tale, journal, outcome};
use crate::replay::{
    diagnosis::{Diagnosis, Evidence},
    page,
    screen::{Tone, cause_tone},
    timeline::{STATES, StateSpan, number},
    words,
};

pub(super) fn page(tale: &Tale) -> Markup {
    let body = html! {
        dl { @for (name, value) in tale.facts() { dt { (name) } dd { (page::prose(&value)) } } }
        @for found in &tale.found { (diagnosis(found)) }
        h2 { "Where " (words::span(tale.story.length())) " went" }
        (Picture::of(tale).draw())
        (states(tale))
        (runs(tale))
        h2 { "Journal" }
        (entries(tale))
    };
    page::page(&tale.title(), tale.now, &body)
}

fn tone(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Warn => "warn",
        Tone::Bad => "bad",
        Tone::Strong | Tone::Faint | Tone::State(_) => "",
    }
}

fn class(state: StateName) -> String {
    format!("s{}", number(state))
}

fn diagnosis(found: &Diagnosis) -> Markup {
    html! {
        section.card.(tone(cause_tone(found.cause))) {
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

/// The timeline: a lane for each state, time from left to right. Across it is measured in percent,
/// down it in CSS's pixels.
struct Picture<'a> {
    tale: &'a Tale,
    length: Duration,
}

pub(in crate::replay) const ROWS: page::Rows =
    page::Rows { class: "lanes", top: TOP, height: LANE };
const LANE: u32 = 30;
const BAR: u32 = 18;
const TOP: u32 = 18;
/// What is shorter is still seen, in percent.
const LEAST: f64 = 0.25;
/// What a letter in a bar takes of a wide window's picture, at most, in percent.
const LETTER: f64 = 1.0;
/// Ticks at most.
const TICKS: u128 = 8;
/// Of how many ticks one is labelled where there is little room.
const SPARSE: usize = 3;

impl<'a> Picture<'a> {
    fn of(tale: &'a Tale) -> Self {
        Self { tale, length: tale.story.length().max(Duration::from_millis(1)) }
    }

    fn x(&self, after: Duration) -> f64 {
        100.0 * (after.as_secs_f64() / self.length.as_secs_f64()).min(1.0)
    }

    /// The upper edge of a state's bars.
    fn y(state: StateName) -> u32 {
        (0u32..)
            .zip(STATES)
            .find(|(_, other)| *other == state)
            .map_or(0, |(lane, _)| TOP + LANE * lane + (LANE - BAR) / 2)
    }

    fn draw(&self) -> Markup {
        let bottom = TOP + LANE * 6;
        let rows = STATES.into_iter().zip(self.tale.story.totals()).map(|(state, total)| {
            (state.to_string(), if total.is_zero() { "–".to_owned() } else { words::span(total) })
        });
        let drawing = html! {
            @for (number, tick) in ticks(self.length).into_iter().enumerate() {
                @let x = page::percent(self.x(tick));
                line.grid x1=(x) x2=(x) y1=(TOP) y2=(bottom) {}
                text.faint.(if number % SPARSE == 0 { "" } else { "roomy" }) x=(x) y="12" text-anchor="middle" {
                    @if tick.is_zero() { (words::clock(self.tale.story.begin())) } @else { "+" (words::span(tick)) }
                }
            }
            @for visit in &self.tale.story.spans { (self.visit(visit)) }
        };
        let usual = self.tale.story.spans.iter().any(|visit| self.usual(visit.state).is_some());
        html! {
            (page::chart("The job's states over time", ROWS, rows, &drawing))
            @if usual { p.legend { "The line under a bar: 95 % of such stays last that long at most." } }
        }
    }

    /// A stay; under it, how long 95 % of such stays last, if that is known.
    fn visit(&self, visit: &StateSpan) -> Markup {
        let begin = self.tale.story.begin();
        let from = self.x(visit.from.since(begin)).min(100.0 - LEAST);
        let width = (self.x(visit.to.since(begin)) - from).max(LEAST);
        let y = Self::y(visit.state);
        let stage = visit.stage.as_deref().unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "a short name's letters")]
        let fits = (stage.chars().count() + 1) as f64 * LETTER <= width;
        html! {
            g.(class(visit.state)) {
                rect.visit x=(page::percent(from)) y=(y) width=(page::percent(width)) height=(BAR) rx="2" {
                    title {
                        (visit.state) @if !stage.is_empty() { " (" (stage) ")" }
                        ": " (words::span(visit.length())) " from " (words::clock(visit.from))
                        @if let Some(outcome) = &visit.outcome { ", " (words::outcome(outcome)) }
                    }
                }
                @if !stage.is_empty() && fits {
                    text.inside.roomy x=(page::percent(from)) dx="5" y=(y + BAR - 5) { (stage) }
                }
                @if let Some(usual) = self.usual(visit.state) {
                    @let until = (self.x(visit.from.since(begin) + usual) - from).max(LEAST);
                    rect.usual x=(page::percent(from)) y=(y + BAR + 2) width=(page::percent(until)) height="3" {
                        title { "95 % of the stays in " (visit.state) " last " (words::span(usual)) " at most" }
                    }
                }
            }
        }
    }

    fn usual(&self, state: StateName) -> Option<Duration> {
        self.tale
            .usual
            .lengths(&self.tale.snapshot.job.header().spec.task_definition, state)?
            .percentile(95)
    }
}

/// Round moments, few enough to be read.
fn ticks(length: Duration) -> Vec<Duration> {
    const STEPS: [u64; 24] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000,
        120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000,
    ];
    let millis = length.as_millis();
    let longest = u64::try_from(millis / TICKS).unwrap_or(u64::MAX).max(1);
    let step =
        STEPS.into_iter().find(|step| u128::from(*step) * TICKS >= millis).unwrap_or(longest);
    (0..)
        .map(|tick| Duration::from_millis(tick * step))
        .take_while(|tick| *tick <= length)
        .collect()
}

/// The states' sums against what is usual.
fn states(tale: &Tale) -> Markup {
    let definition = &tale.snapshot.job.header().spec.task_definition;
    if !tale.usual.knows(definition) {
        return html! {};
    }
    html! {
        div.wide { table {
            thead { tr {
                th { "State" } th.number { "this job" } th.number { "longest stay" } th.number { "usual (half)" } th.number { "usual (95 %)" }
            } }
            tbody {
                @for ((state, total), longest) in STATES.into_iter().zip(tale.story.totals()).zip(tale.story.longest()) {
                    @let lengths = tale.usual.lengths(definition, state);
                    tr {
                        td.state.(class(state)) { (state) }
                        td.number { (words::span(total)) }
                        td.number.(if tale.is_slow(state) { "bad" } else { "" }) { (words::span(longest)) }
                        @for percent in [50, 95] {
                            td.number { (lengths.and_then(|l| l.percentile(percent)).map_or_else(|| "–".to_owned(), words::span)) }
                        }
                    }
                }
            }
        } }
    }
}

fn runs(tale: &Tale) -> Markup {
    let runs: Vec<_> =
        tale.story.spans.iter().filter_map(|visit| Some((visit, visit.stage.as_ref()?))).collect();
    if runs.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Stages" }
        table {
            thead { tr { th { "Began" } th { "Stage" } th.number { "took" } th { "Outcome" } } }
            tbody {
                @for (visit, stage) in runs {
                    @let (text, of) = outcome(visit, tale.story.over);
                    tr {
                        td.time { (words::clock(visit.from)) }
                        td { (stage) }
                        td.number { (words::span(visit.length())) }
                        td.(tone(of)) { (text) }
                    }
                }
            }
        }
    }
}

fn entries(tale: &Tale) -> Markup {
    html! {
        table {
            tbody {
                @for line in journal::lines(tale) {
                    @match line {
                        journal::Line::Gap(count) => tr.gap { td {} td {} td { (count) " more" } },
                        journal::Line::Entry { evidence, state, .. } => tr {
                            td.time { @if let Some(at) = evidence.at { (words::clock(at)) } }
                            td.state.(class(state)) { (state) }
                            td { (page::prose(&evidence.text)) @if evidence.times > 1 { " ×" (evidence.times) } }
                        },
                    }
                }
            }
        }
        @if tale.snapshot.journal.omitted > 0 {
            p { (tale.snapshot.journal.omitted) " entries were left out of the middle of the journal." }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{holder, usual::Usual};

    fn tale(name: &str) -> Tale {
        let path = format!("{}/fixtures/snapshots/v1/{name}.ron", env!("CARGO_MANIFEST_DIR"));
        let mut snapshot =
            states::Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        if let states::AnyJob::Executing(job) = &mut snapshot.job {
            job.header.about.job_name = "<script>alert(1)</script>".to_owned();
        }
        let around = holder::unknown(&snapshot);
        let now = super::super::last_seen(&snapshot);
        Tale::new(snapshot, around, Usual::default(), now)
    }

    #[test]
    fn there_are_a_few_round_ticks_whatever_the_length() {
        for millis in [1, 7, 999, 61_000, 3_600_000, 90_000_000_000] {
            let ticks = ticks(Duration::from_millis(millis));
            assert!((1..=10).contains(&ticks.len()), "{millis}: {ticks:?}");
        }
        assert_eq!(ticks(Duration::from_secs(61))[1], Duration::from_secs(10));
    }

    #[test]
    fn every_visit_is_drawn_within_the_picture_and_names_are_escaped() {
        let tale = tale("executing");
        let text = page(&tale).into_string();
        assert!(!text.contains("<script>alert"), "{text}");
        assert!(text.contains("&lt;script&gt;alert"));
        let document = roxmltree::Document::parse(
            &text[text.find("<svg").unwrap()..text.find("</svg>").unwrap() + 6],
        )
        .unwrap();
        let number = |node: &roxmltree::Node<'_, '_>, name| {
            node.attribute(name).unwrap().strip_suffix('%').unwrap().parse::<f64>().unwrap()
        };
        let visits: Vec<_> = document
            .descendants()
            .filter(|node| node.attribute("class") == Some("visit"))
            .collect();
        assert_eq!(visits.len(), tale.story.spans.len());
        for visit in visits {
            let (x, width) = (number(&visit, "x"), number(&visit, "width"));
            assert!(x >= 0.0 && width >= LEAST && x + width <= 100.001, "{visit:?}");
        }
    }
}
