//! Pages in HTML: one file that loads nothing else, for light and dark windows.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use diagnosis::words;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use states::Timestamp;

use crate::{Failure, Screen};

const STYLE: &str = include_str!("page.css");

/// A page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the page {}: {source}", .path.display())]
pub struct PageError {
    path: PathBuf,
    source: io::Error,
}

/// Makes a whole page. It has no script and loads nothing, and its Content-Security-Policy forbids
/// both: nothing from a snapshot runs, even if it gets into the page as markup. The policy admits
/// only the page's own style sheet; elements have no styles of their own.
#[must_use]
pub fn page(title: &str, now: Timestamp, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
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

/// Returns the policy (CSP level 3): browsers may apply this one style sheet, and load nothing.
fn policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'")
}

/// The measures of a [`chart`]'s rows, in CSS pixels. The style sheet has the same ones under
/// [`Rows::class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Their class in the style sheet.
    pub class: &'static str,
    /// The top of the first row.
    pub top: u32,
    /// The height of a row.
    pub height: u32,
}

/// Makes a chart: a drawing with each row's name on its left, and its total on its right. It is as
/// wide as the window, so the drawing's widths are percentages, and its heights CSS pixels.
#[must_use]
pub fn chart(
    label: &str,
    kind: Rows,
    rows: impl Iterator<Item = (String, String)>,
    drawing: &Markup,
) -> Markup {
    let (names, totals): (Vec<_>, Vec<_>) = rows.unzip();
    let column = |texts: &[String]| html! { div { @for text in texts { div { (text) } } } };
    html! {
        div.chart.(kind.class) {
            (column(&names))
            svg role="img" aria-label=(label) height=(u64::from(kind.top) + u64::from(kind.height) * names.len() as u64 + 4) {
                (drawing)
            }
            (column(&totals))
        }
    }
}

/// Formats a width in a [`chart`].
#[must_use]
pub fn percent(of: f64) -> String {
    format!("{of:.3}%")
}

/// Makes markup of a sentence; text in backticks becomes code.
#[must_use]
pub fn prose(text: &str) -> Markup {
    let pieces: Vec<_> = text.split('`').collect();
    // An odd backtick is text.
    if pieces.len() % 2 == 0 {
        return html! { (text) };
    }
    html! {
        @for (number, piece) in pieces.into_iter().enumerate() {
            @if number % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

/// Writes a page to a file and reports that on the screen. If the file is `-`, writes the page to
/// the screen itself.
///
/// # Errors
/// When the file or the screen cannot be written to.
pub fn write(page: Markup, file: &Path, screen: &mut Screen) -> Result<(), Failure> {
    if file == Path::new("-") {
        screen.write_all(page.into_string().as_bytes())?;
    } else {
        fs::write(file, page.into_string())
            .map_err(|source| PageError { path: file.to_owned(), source })?;
        writeln!(screen, "wrote {}", file.display())?;
    }
    Ok(screen.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{show, stats};

    #[test]
    fn the_policy_admits_the_style_sheet_and_nothing_else() {
        let page =
            page("<script>alert(1)</script>", Timestamp::from_millis(0), &html! { p { "x" } })
                .into_string();
        let style = page.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
        let hash = STANDARD.encode(Sha256::digest(style));
        let policy = page
            .split_once("http-equiv=\"Content-Security-Policy\" content=\"")
            .unwrap()
            .1
            .split_once('"')
            .unwrap()
            .0;
        assert_eq!(
            policy,
            format!(
                "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
            )
        );
        assert!(
            page.find("Content-Security-Policy").unwrap() < page.find("<title>").unwrap(),
            "the policy precedes what it applies to"
        );
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn the_style_sheet_has_the_measures_of_the_charts() {
        for kind in [show::ROWS, stats::ROWS] {
            let rule =
                format!(".{} {{ --top: {}px; --row: {}px; }}", kind.class, kind.top, kind.height);
            assert!(STYLE.contains(&rule), "{rule}");
        }
    }

    #[test]
    fn backticks_in_pairs_are_code() {
        assert_eq!(prose("run `a <b>` now").into_string(), "run <code>a &lt;b&gt;</code> now");
        assert_eq!(prose("a ` alone").into_string(), "a ` alone");
    }
}
