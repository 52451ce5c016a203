//! Pages in HTML: one file that needs nothing else, and looks right in light and dark.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
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

/// A whole page. Browsers get no script and ask no other host for anything, and the page's policy
/// forbids both: whatever a snapshot holds, and however it got into the page, nothing of it runs.
/// Only the style sheet that is its own applies; elements have no styles of their own.
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

/// What browsers may load and do (CSP level 3): apply this one style sheet.
fn policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'")
}

/// The rows of a [`chart`], in CSS's pixels. The style sheet knows the same measures by
/// [`Rows::class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The rows' kind in the style sheet.
    pub class: &'static str,
    /// Where the first row begins.
    pub top: u32,
    /// How high a row is.
    pub height: u32,
}

/// A picture with a line of text on each side of every row: its name, and its sum. It is as wide as
/// there is room, so the drawing measures in percent across, and in CSS's pixels down.
#[must_use]
pub fn chart(
    label: &str,
    kind: Rows,
    rows: impl Iterator<Item = (String, String)>,
    drawing: &Markup,
) -> Markup {
    let (names, sums): (Vec<_>, Vec<_>) = rows.unzip();
    let column = |texts: &[String]| html! { div { @for text in texts { div { (text) } } } };
    html! {
        div.chart.(kind.class) {
            (column(&names))
            svg role="img" aria-label=(label) height=(u64::from(kind.top) + u64::from(kind.height) * names.len() as u64 + 4) {
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
        fs::write(file, page.into_string())
            .map_err(|source| PageError { path: file.to_owned(), source })?;
        writeln!(screen, "wrote {}", file.display())?;
    }
    Ok(screen.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{show, stats};

    #[test]
    fn a_page_s_policy_admits_its_style_sheet_and_nothing_else() {
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
            "before all that it is about"
        );
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn the_style_sheet_knows_the_charts_measures() {
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
