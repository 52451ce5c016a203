//! Foreign text: from SSH servers, exec agents, AWS, CI variables.
//!
//! It is sanitized once, where it enters, before it is kept or shown. It can then neither control a
//! terminal, nor forge a line of a log, nor fill a disk.

/// The longest foreign text that is kept, in characters.
pub const MAX_CHARS: usize = 500;

/// The text on one line of at most [`MAX_CHARS`] characters, for errors and journals. White space
/// and line breaks become single spaces. Other control characters become U+FFFD. A longer text ends
/// in `…`.
///
/// Its cost is bounded by `MAX_CHARS`, not by the text's length, unless the text is white space.
#[must_use]
pub fn clipped(text: &str) -> String {
    let mut line = String::new();
    let mut chars = 0;
    let mut is_gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            is_gap = !line.is_empty();
            continue;
        }
        let needed = 1 + usize::from(is_gap);
        // One character is left for the ellipsis.
        if chars + needed >= MAX_CHARS {
            line.push('…');
            break;
        }
        if std::mem::take(&mut is_gap) {
            line.push(' ');
        }
        line.push(harmless(c));
        chars += needed;
    }
    line
}

/// The text with control characters, line breaks included, and bidirectional controls replaced by
/// U+FFFD.
#[must_use]
pub fn tame(text: &str) -> String {
    text.chars().map(harmless).collect()
}

fn harmless(c: char) -> char {
    if c.is_control() || is_layout(c) { char::REPLACEMENT_CHARACTER } else { c }
}

/// Whether the character reorders the text around it, or ends a line, without being a control
/// character: Unicode's `Bidi_Control` (UAX #9), and the line and paragraph separators.
fn is_layout(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_is_one_line_of_bounded_length() {
        assert_eq!(
            clipped("  denied:\r\n\tno\x1b[2J  key\u{202e} \n"),
            "denied: no\u{fffd}[2J key\u{fffd}"
        );
        assert_eq!(clipped(""), "");
        for text in ["x".repeat(180_000), "é ".repeat(600), format!("{}\n", "x".repeat(499))] {
            let clipped = clipped(&text);
            assert!(clipped.chars().count() <= MAX_CHARS, "{}", clipped.chars().count());
            assert_eq!(
                clipped.ends_with('…'),
                text.trim_end().chars().count() > MAX_CHARS - 1,
                "{clipped}"
            );
        }
    }

    #[test]
    fn a_tamed_text_keeps_its_length_and_letters() {
        assert_eq!(tame("a\u{9b}31mb\nc\u{2066}d é"), "a\u{fffd}31mb\u{fffd}c\u{fffd}d é");
    }
}
