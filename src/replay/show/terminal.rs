//! A job's story on a terminal.

use std::{io, io::Write as _, time::Duration};

use states::foreign_text;

use super::{Tale, journal, outcome};
use crate::replay::{
    diagnosis::{Diagnosis, Evidence},
    screen::{Screen, Tone, cause_tone, fit, pad, wrap},
    timeline::{STATES, number},
    words,
};

pub(super) fn tell(tale: &Tale, screen: &mut Screen) -> io::Result<()> {
    head(tale, screen)?;
    for found in &tale.found {
        diagnosis(found, screen)?;
    }
    timeline(tale, screen)?;
    journal(tale, screen)?;
    screen.flush()
}

fn head(tale: &Tale, screen: &mut Screen) -> io::Result<()> {
    paragraph(screen, Tone::Strong, &tale.title())?;
    tale.facts().iter().try_for_each(|(name, value)| fact(screen, name, value))
}

fn fact(screen: &mut Screen, name: &str, value: &str) -> io::Result<()> {
    let name = screen.paint(Tone::Faint, &pad(name, 11));
    let lines = wrap(value, screen.width.saturating_sub(13));
    for (index, line) in lines.iter().enumerate() {
        let name = if index == 0 { name.clone() } else { " ".repeat(11) };
        writeln!(screen, "  {name}{line}")?;
    }
    Ok(())
}

fn diagnosis(found: &Diagnosis, screen: &mut Screen) -> io::Result<()> {
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
            line_of(screen, "    ", evidence)?;
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

/// A line of evidence: the time, how often, what; broken under its text.
fn line_of(screen: &mut Screen, indent: &str, evidence: &Evidence) -> io::Result<()> {
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

/// Columns of a state's name and of its length.
const NAME: usize = 13;
const LENGTH: usize = 8;
/// Columns of what is usual, where there is room for it.
const USUAL: usize = 21;

fn timeline(tale: &Tale, screen: &mut Screen) -> io::Result<()> {
    writeln!(screen)?;
    let story = &tale.story;
    paragraph(screen, Tone::Strong, &format!("Where {} went", words::span(story.length())))?;
    let definition = &tale.snapshot.job.header().spec.task_definition;
    let compare = tale.usual.knows(definition);
    let usual_fits = compare && screen.width >= 72;
    let bar = screen.width - 2 - NAME - LENGTH - if usual_fits { USUAL } else { 0 };
    if usual_fits {
        let title =
            screen.paint(Tone::Faint, &format!("{:>width$}", "usual: half, 95 %", width = USUAL));
        writeln!(screen, "  {:1$}{title}", "", NAME + bar + LENGTH)?;
    }
    for (state, total) in STATES.iter().zip(story.totals()) {
        let visits: Vec<_> = story.spans.iter().filter(|visit| visit.state == *state).collect();
        let lengths = tale
            .usual
            .lengths(definition, *state)
            .and_then(|l| Some((l.percentile(50)?, l.percentile(95)?)));
        let slow = tale.is_slow(*state);
        let mut cells = vec![' '; bar];
        for visit in &visits {
            let place = |at: states::Timestamp| cell(at.since(story.begin()), story.length(), bar);
            let (from, to) = (place(visit.from).min(bar - 1), place(visit.to));
            cells[from..to.max(from + 1)].fill('█');
        }
        let cells: String = cells.into_iter().collect();
        let painted =
            screen.paint(if slow { Tone::Bad } else { Tone::State(number(*state)) }, &cells);
        let length = if visits.is_empty() { "-".to_owned() } else { words::span(total) };
        let length = screen
            .paint(if slow { Tone::Bad } else { Tone::Strong }, &format!("{length:>LENGTH$}"));
        let usual = match lengths {
            Some((half, most)) if usual_fits => {
                format!(
                    "{:>width$}",
                    format!("{}, {}", words::span(half), words::span(most)),
                    width = USUAL
                )
            }
            _ => String::new(),
        };
        writeln!(
            screen,
            "  {}{painted}{length}{}",
            pad(&state.to_string(), NAME),
            screen.paint(Tone::Faint, &usual)
        )?;
    }
    stages(tale, screen)?;
    if compare && !usual_fits {
        for (state, visited) in STATES.iter().zip(story.totals()) {
            if let Some(lengths) =
                tale.usual.lengths(definition, *state).filter(|_| !visited.is_zero())
            {
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
    if !story.exact {
        paragraph(
            screen,
            Tone::Faint,
            "The journal was shortened in its middle, so that lengths are estimates.",
        )?;
    }
    Ok(())
}

/// The runs, a line each.
fn stages(tale: &Tale, screen: &mut Screen) -> io::Result<()> {
    for visit in &tale.story.spans {
        let Some(stage) = &visit.stage else { continue };
        let (text, tone) = outcome(visit, tale.story.over);
        let outcome = screen.paint(tone, &text);
        let stage = pad(stage, screen.width.saturating_sub(30).min(28));
        writeln!(
            screen,
            "    {} {stage} {:>8}  {outcome}",
            words::clock(visit.from),
            words::span(visit.length())
        )?;
    }
    Ok(())
}

/// The column of a moment.
fn cell(after: Duration, all: Duration, columns: usize) -> usize {
    let all = all.as_millis().max(1);
    usize::try_from(after.as_millis() * columns as u128 / all).unwrap_or(columns).min(columns)
}

fn journal(tale: &Tale, screen: &mut Screen) -> io::Result<()> {
    writeln!(screen)?;
    let what =
        if tale.all { "Journal" } else { "Journal, what matters of it (--all shows the rest)" };
    paragraph(screen, Tone::Strong, what)?;
    for line in journal::lines(tale) {
        match line {
            journal::Line::Gap(count) => {
                let gap = screen.paint(Tone::Faint, &format!("  …         {count} more"));
                writeln!(screen, "{gap}")?;
            }
            journal::Line::Entry { evidence, state, changed } => {
                let mark = if changed { "●" } else { "│" };
                let mark = screen.paint(Tone::State(number(state)), mark);
                line_of_journal(screen, &mark, &evidence)?;
            }
        }
    }
    if tale.snapshot.journal.omitted > 0 {
        paragraph(
            screen,
            Tone::Faint,
            &format!(
                "  {} entries were left out of the middle of the journal.",
                tale.snapshot.journal.omitted
            ),
        )?;
    }
    Ok(())
}

fn line_of_journal(screen: &mut Screen, mark: &str, evidence: &Evidence) -> io::Result<()> {
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

fn paragraph(screen: &mut Screen, tone: Tone, text: &str) -> io::Result<()> {
    for line in wrap(text, screen.width) {
        let line = screen.paint(tone, &line);
        writeln!(screen, "{line}")?;
    }
    Ok(())
}
