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
