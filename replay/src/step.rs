//! `step`: replays a journal through today's machine, observation by observation.

use std::{
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use states::{
    Action, AnyJob, Difference, Observation, Replay, Replayed, Snapshot, Timestamp, Verdict,
};

use crate::{
    Failure, Locator, Screen,
    screen::{Tone, fit, wrap},
    what_if::{self, SHORT_FORMS},
};

/// `fargate-replay step`.
#[derive(Debug, Args)]
#[command(after_help = SHORT_FORMS)]
pub struct StepArgs {
    /// A file, a GitLab job id, or a snapshot's name in the directory
    #[arg(value_name = "JOB|FILE")]
    job: String,
    /// Only as far as this observation
    #[arg(long, value_name = "N")]
    until: Option<usize>,
    /// Forwards and backwards, by lines: Enter or n, p, a number, q
    #[arg(long, conflicts_with = "what_if")]
    interactive: bool,
    /// Go on with something else observed, after --until or at the end; may be repeated
    #[arg(long, value_name = "OBSERVATION", value_parser = what_if::parse)]
    what_if: Vec<Observation>,
    /// How much later each --what-if is observed [default: 1s; of `time`, when the action comes
    /// back]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    after: Option<Duration>,
}

impl StepArgs {
    /// Runs the command; the exit code is 1 when recorded states and today's differ.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, locator: &Locator<'_>, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let snapshot = locator.find(&self.job)?.snapshot;
        let verdict = snapshot.replay();
        if self.interactive {
            browse(&snapshot, &verdict, screen)?;
        } else {
            self.print_steps(&snapshot, screen)?;
        }
        print_verdict(&snapshot, &verdict, screen)?;
        screen.flush()?;
        Ok(if matches!(verdict, Verdict::Agree { .. }) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn print_steps(&self, snapshot: &Snapshot, screen: &mut Screen) -> Result<(), Failure> {
        let mut replay = Replay::new(snapshot);
        let until = self.until.unwrap_or(usize::MAX);
        let mut action = None;
        while replay.position() < until
            && let Some(step) = replay.advance()
        {
            print_step(&step, replay.length(), screen)?;
            action = Some(step.action);
        }
        let (mut job, mut now) = (replay.job().clone(), replay.now());
        for saw in &self.what_if {
            now = match (self.after, &action) {
                (Some(after), _) => now + after,
                (None, Some(Action::Watch(watch))) if *saw == Observation::TimePassed => {
                    watch.until.max(now)
                }
                _ => now + Duration::from_secs(1),
            };
            job = job.observe(saw, now);
            let next = job.plan(now);
            print_line("what if", now, saw, &job, &next, None, screen)?;
            action = Some(next);
        }
        Ok(())
    }
}

fn print_step(step: &Replayed<'_>, of: usize, screen: &mut Screen) -> io::Result<()> {
    print_line(
        &format!("{}/{of}", step.number),
        step.at,
        step.saw,
        &step.job,
        &step.action,
        step.agrees(),
        screen,
    )
}

fn print_line(
    number: &str,
    at: Timestamp,
    saw: &Observation,
    job: &AnyJob,
    action: &Action,
    agrees: Option<bool>,
    screen: &mut Screen,
) -> io::Result<()> {
    let width = screen.width;
    let head = screen.paint(Tone::Strong, &fit(&format!("{number}  {at}"), width));
    let state = screen.paint(Tone::State(job.name() as usize), &job.name().to_string());
    let mark = match agrees {
        Some(false) => format!("  {}", screen.paint(Tone::Bad, "≠ recorded")),
        _ => String::new(),
    };
    writeln!(screen, "{head}")?;
    writeln!(screen, "  saw   {}", fit(&format!("{saw:?}"), width.saturating_sub(8)))?;
    writeln!(screen, "  now   {state}{mark}")?;
    writeln!(screen, "  next  {}", fit(&describe(action), width.saturating_sub(8)))
}

/// Describes an action in one line. A launch's specification is in the snapshot's head.
fn describe(action: &Action) -> String {
    match action {
        Action::Launch { token, .. } => format!("Launch with token {token}"),
        Action::Watch(watch) => {
            let due = |what: &str, at: Option<Timestamp>| at.map(|at| format!("{what} at {at}, "));
            let parts = [
                due("describe", watch.describe.as_ref().map(|(_, at)| *at)),
                due("ask for the address", watch.address.as_ref().map(|(_, at)| *at)),
                due("connect", watch.probe.as_ref().map(|(_, at)| *at)),
            ];
            format!(
                "Watch: {}until {}",
                parts.into_iter().flatten().collect::<String>(),
                watch.until
            )
        }
        Action::Follow(follow) => format!("Follow {} from byte {}", follow.order.run, follow.from),
        other => format!("{other:?}"),
    }
}

/// Walks forwards and backwards as typed lines say. That works in any terminal, and from a pipe.
fn browse(snapshot: &Snapshot, verdict: &Verdict, screen: &mut Screen) -> Result<(), Failure> {
    let mut replay = Replay::new(snapshot);
    let mut lines = io::stdin().lock().lines();
    if let Some(step) = replay.go_to(1) {
        print_step(&step, replay.length(), screen)?;
    }
    loop {
        write!(screen, "{}", fit("[Enter] on  p back  d difference  N  q > ", screen.width))?;
        screen.flush()?;
        let Some(typed) = lines.next().transpose()? else { break };
        let (at, end) = (replay.position(), replay.length());
        let wanted = match (typed.trim(), verdict) {
            ("" | "n" | "j", _) => at + 1,
            ("p" | "b" | "k", _) => at.saturating_sub(1).max(1),
            ("g", _) => 1,
            ("G", _) => end,
            ("d", Verdict::Differ(difference)) => difference.number,
            ("d", Verdict::Agree { .. }) => {
                print_text(
                    Tone::Good,
                    "there is no difference: today's states are the recorded ones",
                    screen,
                )?;
                continue;
            }
            ("q", _) => break,
            (number, _) => match number.parse() {
                Ok(number) => number,
                Err(_) => {
                    let help = "Enter or n continues, p goes back, a number goes there, g to the first, G to the last, d to the difference, q ends";
                    print_text(Tone::Faint, help, screen)?;
                    continue;
                }
            },
        };
        if wanted > end {
            writeln!(screen, "that was the last of {end} observations")?;
            continue;
        }
        match replay.go_to(wanted) {
            Some(step) => print_step(&step, end, screen)?,
            None => writeln!(screen, "the beginning: nothing has been observed yet")?,
        }
    }
    writeln!(screen)?;
    Ok(())
}

fn print_verdict(snapshot: &Snapshot, verdict: &Verdict, screen: &mut Screen) -> io::Result<()> {
    match verdict {
        Verdict::Agree { observations, compared, omitted } => {
            let gap = if *omitted == 0 {
                String::new()
            } else {
                format!("; after a gap of {omitted} entries nothing can be compared")
            };
            let text = format!(
                "{observations} observations replayed: today's states are the recorded ones ({compared} compared{gap})."
            );
            print_text(Tone::Good, &text, screen)
        }
        Verdict::Differ(difference) => {
            print_text(
                Tone::Bad,
                &format!("Recorded states and today's differ: first {difference}."),
                screen,
            )?;
            if difference.recorded.is_none() {
                print_difference(snapshot, difference, screen)?;
            }
            Ok(())
        }
    }
}

fn print_text(tone: Tone, text: &str, screen: &mut Screen) -> io::Result<()> {
    for line in wrap(text, screen.width) {
        let line = screen.paint(tone, &line);
        writeln!(screen, "{line}")?;
    }
    Ok(())
}

/// Prints the lines of the saved state that today's does not have, and the other way round.
fn print_difference(
    snapshot: &Snapshot,
    difference: &Difference,
    screen: &mut Screen,
) -> io::Result<()> {
    let text = |job: &AnyJob| {
        ron::ser::to_string_pretty(job, ron::ser::PrettyConfig::new()).unwrap_or_default()
    };
    let (recorded, today) = (text(&snapshot.job), text(&difference.today));
    for (sign, these, those) in [("-", &recorded, &today), ("+", &today, &recorded)] {
        for line in these.lines().filter(|line| !those.lines().any(|other| other == *line)).take(20)
        {
            let line = fit(&format!("  {sign} {}", line.trim()), screen.width);
            writeln!(screen, "{line}")?;
        }
    }
    Ok(())
}
