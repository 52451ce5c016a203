//! Pages in HTML: one file that loads nothing else, for light and dark windows.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use diagnosis::{timeline::number, words};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use states::{StateName, Timestamp};

use crate::{Failure, Screen, screen::Tone};

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
    let body = html! {
        (body)
        footer { "As of " (words::date(now)) "; times of day are UTC. fargate-replay " (env!("CARGO_PKG_VERSION")) }
    };
    document(title, &policy(None), &html! {}, &body)
}

/// Makes a whole page that follows what happens: `script` runs at its end, and may connect to where
/// the page comes from. Without scripts, the browser loads it again every `reload` seconds. Its
/// policy admits this one script, and is otherwise that of [`page`].
#[must_use]
pub fn live_page(title: &str, reload: u32, script: &'static str, body: &Markup) -> Markup {
    let head = html! { noscript { meta http-equiv="refresh" content=(reload); } };
    let body = html! { (body) script { (PreEscaped(script)) } };
    document(title, &policy(Some(script)), &head, &body)
}

fn document(title: &str, policy: &str, head: &Markup, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                (head)
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (body)
                }
            }
        }
    }
}

/// Returns the policy (CSP level 3): browsers may apply this one style sheet, run this one script
/// if there is one, and load nothing. A script may connect to the page's own server.
#[must_use]
pub fn policy(script: Option<&str>) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let script = script.map_or_else(String::new, |script| {
        format!(" script-src 'sha256-{}'; connect-src 'self';", hash(script))
    });
    let style = hash(STYLE);
    format!(
        "default-src 'none'; style-src 'sha256-{style}';{script} base-uri 'none'; form-action 'none'"
    )
}

/// Returns the style sheet's class for a tone.
#[must_use]
pub fn tone_class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Warn => "warn",
        Tone::Bad => "bad",
        Tone::Strong | Tone::Faint | Tone::State(_) => "",
    }
}

/// Returns the style sheet's class for a state.
#[must_use]
pub fn state_class(state: StateName) -> String {
    format!("s{}", number(state))
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
    fn a_live_page_admits_its_own_script_and_no_other() {
        let script = "const a = 1 < 2;";
        let page = live_page("jobs", 10, script, &html! { p { "x" } }).into_string();
        let hash = STANDARD.encode(Sha256::digest(script));
        assert!(
            page.contains(&format!("script-src 'sha256-{hash}'; connect-src 'self';")),
            "{page}"
        );
        assert!(page.contains(&format!("<script>{script}</script>")), "{page}");
        assert!(!policy(None).contains("script-src"));
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
