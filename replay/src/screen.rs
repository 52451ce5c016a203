//! Standard output: colour, width, and pipes.

use std::{
    env,
    io::{self, BufWriter, IsTerminal as _, Stdout, Write},
};

use anstyle::{AnsiColor, Style};
use diagnosis::Cause;
use states::foreign_text::tame;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The width of output that does not go to a terminal, in columns.
const PIPE_WIDTH: usize = 100;
/// The least width that output is laid out for, in columns.
const MIN_WIDTH: usize = 40;

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColourArg {
    /// At a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    /// Always, also into a pipe.
    Always,
    /// Never.
    Never,
}

/// The meaning of a piece of text. [`Screen::paint`] gives it a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// A heading.
    Strong,
    /// Less important.
    Faint,
    /// As it should be.
    Good,
    /// Needs attention.
    Warn,
    /// Wrong.
    Bad,
    /// One of the six states, by its number.
    State(usize),
}

/// Returns the tone of a cause.
#[must_use]
pub fn cause_tone(cause: Cause) -> Tone {
    match cause {
        Cause::Nothing => Tone::Good,
        Cause::ScriptSilent | Cause::ScriptFailed | Cause::Cancelled | Cause::Unknown => Tone::Warn,
        _ => Tone::Bad,
    }
}

/// The output, with what it can show.
pub struct Screen {
    out: Box<dyn Write>,
    /// The width, in columns.
    pub width: usize,
    /// Whether output has colours.
    pub colour: bool,
    /// Whether the output is a terminal.
    pub terminal: bool,
}

impl Screen {
    /// Creates the screen for standard output.
    #[must_use]
    pub fn stdout(colour: ColourArg) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let colour = match colour {
            ColourArg::Always => true,
            ColourArg::Never => false,
            ColourArg::Auto => {
                anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never
            }
        };
        let width = if terminal { terminal_width(&stdout) } else { None }
            .or_else(|| env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()))
            .unwrap_or(PIPE_WIDTH)
            .max(MIN_WIDTH);
        Self { out: Box::new(BufWriter::new(stdout)), width, colour, terminal }
    }

    /// Creates a screen without colour that writes to `out`, in lines of `width` columns.
    pub fn plain(out: impl Write + 'static, width: usize) -> Self {
        Self { out: Box::new(out), width: width.max(MIN_WIDTH), colour: false, terminal: false }
    }

    /// Returns the text in its tone's colour, if the screen shows colours.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Tone {
    fn style(self) -> Style {
        let of = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Strong => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Good => of(AnsiColor::Green),
            Self::Warn => of(AnsiColor::Yellow),
            Self::Bad => of(AnsiColor::Red).bold(),
            Self::State(number) => {
                const COLOURS: [AnsiColor; 6] = [
                    AnsiColor::Yellow,
                    AnsiColor::Magenta,
                    AnsiColor::Cyan,
                    AnsiColor::Green,
                    AnsiColor::Blue,
                    AnsiColor::Red,
                ];
                of(COLOURS[number % COLOURS.len()])
            }
        }
    }
}

fn terminal_width(stdout: &Stdout) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Escapes what JSON admits and a terminal would obey: C1 and bidirectional controls. The JSON
/// means the same.
#[must_use]
pub fn printable_json(json: &str) -> String {
    use std::fmt::Write as _;
    json.chars().fold(String::with_capacity(json.len()), |mut escaped, c| {
        // JSON itself escapes the controls of ASCII.
        if c.is_ascii() || tame(&c.to_string()) == c.to_string() {
            escaped.push(c);
        } else {
            // Writing to a String cannot fail; none of these has more than four digits.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        }
        escaped
    })
}

/// Cuts the text to `width` columns, with `…` in place of its end. Control characters are made
/// visible.
#[must_use]
pub fn fit(text: &str, width: usize) -> String {
    let text = tame(text);
    if text.width() <= width {
        return text;
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if used + columns + 1 > width {
            break;
        }
        used += columns;
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Cuts the text as [`fit`] does, or pads it with spaces, to exactly `width` columns.
#[must_use]
pub fn pad(text: &str, width: usize) -> String {
    let mut fitted = fit(text, width);
    let used = fitted.width();
    fitted.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    fitted
}

/// Breaks the text into lines of at most `width` columns: at spaces, and inside words that are
/// longer, such as ARNs.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let text = tame(text);
    for word in text.split_whitespace().flat_map(|word| pieces(word, width.max(1))) {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Splits a word into pieces of at most `width` columns.
fn pieces(word: &str, width: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut begin, mut used) = (0, 0);
    for (at, c) in word.char_indices() {
        let columns = c.width().unwrap_or(0);
        if used + columns > width {
            pieces.push(&word[begin..at]);
            (begin, used) = (at, 0);
        }
        used += columns;
    }
    pieces.push(&word[begin..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_wide_or_control_characters_fits_its_columns() {
        assert_eq!(fit("build", 5), "build");
        assert_eq!(fit("builds", 5), "buil…");
        assert_eq!(fit("構築構築", 5), "構築…");
        assert_eq!(pad("構築", 6), "構築  ");
        assert_eq!(fit("\u{1b}[31mred", 20), "\u{fffd}[31mred");
    }

    #[test]
    fn printable_json_keeps_its_meaning_and_has_no_terminal_controls() {
        let value = serde_json::json!({ "name": "a\u{9b}31m\u{202e}\u{1b}[2J\r\né" });
        let json = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            json.lines().all(|line| tame(line) == line) && json.contains("\\u009b31m\\u202e"),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }

    #[test]
    fn long_text_is_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("averylongword x", 5), ["avery", "longw", "ord x"]);
    }
}
