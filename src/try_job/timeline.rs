//! Shows the states of a job as they are entered, and how long each took.

use std::{fs, path::PathBuf, time::Duration};

use states::Timestamp;

use crate::{console::stderr_line, stages::state_log};

/// Widest bar, in characters.
const WIDTH: usize = 40;

/// Follows the state log of the stages.
pub(super) struct Timeline {
    file: PathBuf,
    began: Timestamp,
    seen: Vec<(Timestamp, String)>,
}

impl Timeline {
    pub(super) fn watch(file: PathBuf) -> Self {
        Self { file, began: Timestamp::now(), seen: Vec::new() }
    }

    /// Shows the states that are new.
    pub(super) fn look(&mut self) {
        let Ok(text) = fs::read_to_string(&self.file) else { return };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines().skip(self.seen.len()) {
            let Some((at, state)) = state_log::read(line) else { continue };
            self.seen.push((at, state.to_owned()));
            stderr_line(format_args!("{:>8.2} s  {state}", at.since(self.began).as_secs_f64()));
        }
    }

    /// Shows a bar for each span of a state, and returns the spans.
    pub(super) fn close(mut self) -> Vec<(String, Duration)> {
        self.look();
        for line in render(self.began, &self.seen) {
            stderr_line(line);
        }
        let span = |pair: &[(Timestamp, String)]| (pair[0].1.clone(), pair[1].0.since(pair[0].0));
        self.seen.windows(2).map(span).collect()
    }
}

fn render(began: Timestamp, seen: &[(Timestamp, String)]) -> Vec<String> {
    let Some((end, _)) = seen.last() else { return Vec::new() };
    let whole = end.since(began).as_secs_f64().max(0.001);
    let mut lines = vec![String::new(), format!("{:<13} {:>8} {:>9}", "state", "from", "took")];
    for pair in seen.windows(2) {
        let (from, state) = &pair[0];
        let (start, took) = (from.since(began).as_secs_f64(), pair[1].0.since(*from).as_secs_f64());
        let indent = scale(start / whole);
        let bar = scale(took / whole).max(1).min(WIDTH.saturating_sub(indent).max(1));
        lines.push(format!(
            "{state:<13} {start:>6.2} s {took:>7.2} s  {}{}",
            " ".repeat(indent),
            "█".repeat(bar)
        ));
    }
    lines.push(format!("{:<13} {whole:>6.2} s", seen.last().map_or("", |(_, state)| state)));
    lines
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of WIDTH, from 0 to 1"
)]
fn scale(share: f64) -> usize {
    (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_proportional_to_time() {
        let at = |ms: u64| Timestamp::from_millis(1_000_000 + ms);
        let seen = vec![
            (at(0), "Provisioning".to_owned()),
            (at(100), "Pending".to_owned()),
            (at(1000), state_log::ARCHIVED.to_owned()),
        ];
        let lines = render(at(0), &seen);
        assert_eq!(lines[2], format!("Provisioning    0.00 s    0.10 s  {}", "█".repeat(4)));
        assert_eq!(
            lines[3],
            format!("Pending         0.10 s    0.90 s  {}{}", " ".repeat(4), "█".repeat(36))
        );
        assert_eq!(lines[4], "archived        1.00 s");
    }
}
