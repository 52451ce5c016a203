//! Pages in HTML: one file that needs nothing else, and looks right in light and dark.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use states::Timestamp;

use super::{Screen, words};

const STYLE: &str = include_str!("page.css");

/// Why a page was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the page {}: {source}", .path.display())]
pub struct PageError {
    path: PathBuf,
    source: io::Error,
}

/// A whole page. Browsers get no script and ask no other host for anything.
#[must_use]
pub fn page(title: &str, now: Timestamp, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (body)
                    footer { "As of " (words::date(now)) "; times of day are UTC. fargate-replay " (env!("CARGO_PKG_VERSION")) }
                }
            }
        }
    }
}

/// A picture with a line of text on each side of every row: its name, and its sum. It is as wide as there is room, so
/// the drawing measures in percent across, and in CSS's pixels down; `rows_at` is where the first row begins and how high a
/// row is.
#[must_use]
pub fn chart(label: &str, rows_at: (u32, u32), rows: impl Iterator<Item = (String, String)>, drawing: &Markup) -> Markup {
    let (top, row) = rows_at;
    let (names, sums): (Vec<_>, Vec<_>) = rows.unzip();
    let column = |texts: &[String]| html! { div { @for text in texts { div { (text) } } } };
    html! {
        div.chart style=(format!("--top: {top}px; --row: {row}px")) {
            (column(&names))
            svg role="img" aria-label=(label) style=(format!("height: {}px", u64::from(top) + u64::from(row) * names.len() as u64 + 4)) {
                (drawing)
            }
            (column(&sums))
        }
    }
}

/// A length across a [`chart`].
#[must_use]
pub fn percent(of: f64) -> String {
    format!("{of:.3}%")
}

/// A sentence, with what stands in backticks as code.
#[must_use]
pub fn prose(text: &str) -> Markup {
    let pieces: Vec<_> = text.split('`').collect();
    // A backtick without another one is nobody's markup.
    if pieces.len() % 2 == 0 {
        return html! { (text) };
    }
    html! {
        @for (number, piece) in pieces.into_iter().enumerate() {
            @if number % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

/// Writes a page to a file and says so on the screen; to the screen itself where the file is `-`.
///
/// # Errors
/// When it cannot be written.
pub fn write(page: Markup, file: &Path, screen: &mut Screen) -> Result<(), super::Failure> {
    if file == Path::new("-") {
        screen.write_all(page.into_string().as_bytes())?;
    } else {
        fs::write(file, page.into_string()).map_err(|source| PageError { path: file.to_owned(), source })?;
        writeln!(screen, "wrote {}", file.display())?;
    }
    Ok(screen.flush()?)
}

#[cfg(test)]
mod tests {
    use super::prose;

    #[test]
    fn backticks_in_pairs_are_code() {
        assert_eq!(prose("run `a <b>` now").into_string(), "run <code>a &lt;b&gt;</code> now");
        assert_eq!(prose("a ` alone").into_string(), "a ` alone");
    }
}
