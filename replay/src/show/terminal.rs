//! The report on a terminal.

use std::{io, io::Write as _, time::Duration};

use diagnosis::{
    Diagnosis, Evidence,
    timeline::{STATES, number},
    words,
};
use states::foreign_text;

use super::{Report, journal, outcome};
use crate::screen::{Screen, Tone, cause_tone, fit, pad, wrap};

pub(super) fn print(report: &Report, screen: &mut Screen) -> io::Result<()> {
    print_head(report, screen)?;
    for found in &report.diagnoses {
        print_diagnosis(found, screen)?;
    }
    print_timeline(report, screen)?;
    print_journal(report, screen)?;
    screen.flush()
}

fn print_head(report: &Report, screen: &mut Screen) -> io::Result<()> {
    print_paragraph(screen, Tone::Strong, &report.title())?;
    report.facts().iter().try_for_each(|(name, value)| print_fact(screen, name, value))
}

fn print_fact(screen: &mut Screen, name: &str, value: &str) -> io::Result<()> {
    let name = screen.paint(Tone::Faint, &pad(name, 11));
    let lines = wrap(value, screen.width.saturating_sub(13));
    for (index, line) in lines.iter().enumerate() {
        let name = if index == 0 { name.clone() } else { " ".repeat(11) };
        writeln!(screen, "  {name}{line}")?;
    }
    Ok(())
}

fn print_diagnosis(found: &Diagnosis, screen: &mut Screen) -> io::Result<()> {
    writeln!(screen)?;
    let heading = screen.paint(cause_tone(found.cause), &fit(&found.heading(), screen.width));
    writeln!(screen, "{heading}")?;
    for line in wrap(&found.summary, screen.width - 2) {
        writeln!(screen, "  {line}")?;
    }
    if !found.evidence.is_empty() {
        let title = screen.paint(Tone::Faint, "seen");
        writeln!(screen, "  {title}")?;
        for evidence in &found.evidence {
            print_evidence(screen, "    ", evidence)?;
        }
    }
    if !found.remedy.is_empty() {
        let title = screen.paint(Tone::Faint, "to do");
        writeln!(screen, "  {title}")?;
    }
    for step in &found.remedy {
        for (index, line) in wrap(step, screen.width - 6).iter().enumerate() {
            writeln!(screen, "    {} {line}", if index == 0 { "-" } else { " " })?;
        }
    }
    Ok(())
}

/// Prints a piece of evidence: its time, its text, and how often it was seen.
fn print_evidence(screen: &mut Screen, indent: &str, evidence: &Evidence) -> io::Result<()> {
    let at = evidence.at.map_or_else(|| "now     ".to_owned(), words::clock);
    let repeated = match evidence.last {
        Some(last) if evidence.times > 1 => {
            format!(" ({} times until {})", evidence.times, words::clock(last))
        }
        _ => String::new(),
    };
    let text = format!("{}{repeated}", evidence.text);
    let used = indent.len() + 10;
    for (index, line) in wrap(&text, screen.width - used).iter().enumerate() {
        let at = if index == 0 { screen.paint(Tone::Faint, &at) } else { " ".repeat(8) };
        writeln!(screen, "{indent}{at}  {line}")?;
    }
    Ok(())
}

/// Columns of a state's name.
const NAME: usize = 13;
/// Columns of a state's length.
const LENGTH: usize = 8;
/// Columns of the baseline, on a screen that is wide enough.
const BASELINE: usize = 21;

fn print_timeline(report: &Report, screen: &mut Screen) -> io::Result<()> {
    writeln!(screen)?;
    let timeline = &report.timeline;
    print_paragraph(
        screen,
        Tone::Strong,
        &format!("Where {} went", words::span(timeline.length())),
    )?;
    let compare = report.baseline.has(report.task_definition());
    let baseline_fits = compare && screen.width >= 72;
    let bar = screen.width - 2 - NAME - LENGTH - if baseline_fits { BASELINE } else { 0 };
    if baseline_fits {
        let title = screen
            .paint(Tone::Faint, &format!("{:>width$}", "usual: half, 95 %", width = BASELINE));
        writeln!(screen, "  {:1$}{title}", "", NAME + bar + LENGTH)?;
    }
    for (state, total) in STATES.iter().zip(timeline.totals()) {
        let spans: Vec<_> = timeline.spans.iter().filter(|span| span.state == *state).collect();
        let percentiles = report.percentile(*state, 50).zip(report.percentile(*state, 95));
        let slow = report.is_slow(*state);
        let mut cells = vec![' '; bar];
        for span in &spans {
            let column = |at: states::Timestamp| {
                column_of(at.since(timeline.begin()), timeline.length(), bar)
            };
            let (from, to) = (column(span.from).min(bar - 1), column(span.to));
            cells[from..to.max(from + 1)].fill('█');
        }
        let cells: String = cells.into_iter().collect();
        let painted =
            screen.paint(if slow { Tone::Bad } else { Tone::State(number(*state)) }, &cells);
        let length = if spans.is_empty() { "-".to_owned() } else { words::span(total) };
        let length = screen
            .paint(if slow { Tone::Bad } else { Tone::Strong }, &format!("{length:>LENGTH$}"));
        let baseline = match percentiles {
            Some((p50, p95)) if baseline_fits => {
                format!(
                    "{:>width$}",
                    format!("{}, {}", words::span(p50), words::span(p95)),
                    width = BASELINE
                )
            }
            _ => String::new(),
        };
        writeln!(
            screen,
            "  {}{painted}{length}{}",
            pad(&state.to_string(), NAME),
            screen.paint(Tone::Faint, &baseline)
        )?;
    }
    print_runs(report, screen)?;
    if compare && !baseline_fits {
        for (state, total) in STATES.iter().zip(timeline.totals()) {
            if let Some(lengths) = report.lengths(*state).filter(|_| !total.is_zero()) {
                let percent = |p| lengths.percentile(p).map(words::span).unwrap_or_default();
                writeln!(
                    screen,
                    "  {} usual {}, 95 % {}",
                    pad(&state.to_string(), NAME),
                    percent(50),
                    percent(95)
                )?;
            }
        }
    }
    if !timeline.exact {
        print_paragraph(
            screen,
            Tone::Faint,
            "The journal was shortened in its middle, so that lengths are estimates.",
        )?;
    }
    Ok(())
}

/// Prints the runs, a line each.
fn print_runs(report: &Report, screen: &mut Screen) -> io::Result<()> {
    for span in &report.timeline.spans {
        let Some(stage) = &span.stage else { continue };
        let (text, tone) = outcome(span, report.timeline.over);
        let outcome = screen.paint(tone, &text);
        let stage = pad(stage, screen.width.saturating_sub(30).min(28));
        writeln!(
            screen,
            "    {} {stage} {:>8}  {outcome}",
            words::clock(span.from),
            words::span(span.length())
        )?;
    }
    Ok(())
}

/// Returns the column of a time in the timeline, of `columns` for `all` of it.
fn column_of(after: Duration, all: Duration, columns: usize) -> usize {
    let all = all.as_millis().max(1);
    usize::try_from(after.as_millis() * columns as u128 / all).unwrap_or(columns).min(columns)
}

fn print_journal(report: &Report, screen: &mut Screen) -> io::Result<()> {
    writeln!(screen)?;
    let what =
        if report.all { "Journal" } else { "Journal, what matters of it (--all shows the rest)" };
    print_paragraph(screen, Tone::Strong, what)?;
    for line in journal::lines(report) {
        match line {
            journal::Line::Gap(count) => {
                let gap = screen.paint(Tone::Faint, &format!("  …         {count} more"));
                writeln!(screen, "{gap}")?;
            }
            journal::Line::Entry { evidence, state, changed } => {
                let mark = if changed { "●" } else { "│" };
                let mark = screen.paint(Tone::State(number(state)), mark);
                print_entry(screen, &mark, &evidence)?;
            }
        }
    }
    if report.snapshot.journal.omitted > 0 {
        print_paragraph(
            screen,
            Tone::Faint,
            &format!(
                "  {} entries were left out of the middle of the journal.",
                report.snapshot.journal.omitted
            ),
        )?;
    }
    Ok(())
}

fn print_entry(screen: &mut Screen, mark: &str, evidence: &Evidence) -> io::Result<()> {
    let at = evidence.at.map(words::clock).unwrap_or_default();
    let times = if evidence.times > 1 { format!(" ×{}", evidence.times) } else { String::new() };
    let text = format!("{}{times}", foreign_text::tame(&evidence.text));
    let room = screen.width - 16;
    let lines = wrap(&text, room);
    for (index, line) in lines.iter().take(3).enumerate() {
        let line = if index == 2 && lines.len() > 3 {
            fit(&format!("{line} …"), room)
        } else {
            line.clone()
        };
        if index == 0 {
            writeln!(screen, "  {}  {mark} {line}", screen.paint(Tone::Faint, &at))?;
        } else {
            writeln!(screen, "            {mark}   {line}")?;
        }
    }
    Ok(())
}

fn print_paragraph(screen: &mut Screen, tone: Tone, text: &str) -> io::Result<()> {
    for line in wrap(text, screen.width) {
        let line = screen.paint(tone, &line);
        writeln!(screen, "{line}")?;
    }
    Ok(())
}
