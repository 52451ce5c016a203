//! Chromium, and what it measures on pages.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

const MEASURE: &str = include_str!("measure.js");

/// What the browser found.
#[derive(Debug, Deserialize)]
pub struct Measured {
    pub dark: bool,
    pub pages: Vec<Page>,
}

/// One page in one window.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub name: String,
    pub width: u32,
    pub wrong: Vec<String>,
    pub texts: usize,
    pub bars: usize,
}

/// Shows the pages in a browser, each at each width, and returns what it found and its complaints.
pub fn measure(
    place: &Path,
    pages: &[(String, String)],
    widths: &[u32],
    dark: bool,
) -> (Measured, Vec<String>) {
    // The frames inherit the policy: whatever asks for anything is complained of on the console.
    let mut document = "<!DOCTYPE html><meta charset=utf-8><meta http-equiv=Content-Security-Policy content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\"><style>:root { color-scheme: light dark }</style><p id=measured></p>"
        .to_owned();
    for (name, page) in pages {
        let page = page.replace('&', "&amp;").replace('"', "&quot;");
        for width in widths {
            document.push_str(&format!("<iframe name='{name}' width={width} height=800 frameborder=0 srcdoc=\"{page}\"></iframe>\n"));
        }
    }
    document.push_str(&format!("<script>{MEASURE}</script>"));
    let file = place.join("pages.html");
    fs::write(&file, document).unwrap();
    let output = dump(&format!("file://{}", file.display()), dark, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text
        .split_once("id=\"measured\">")
        .and_then(|(_, rest)| rest.split_once("</p>"))
        .map(|(said, _)| said);
    let complaints = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .map(str::to_owned)
        .collect();
    let said = said
        .filter(|said| !said.is_empty())
        .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (serde_json::from_slice(&STANDARD.decode(said).unwrap()).unwrap(), complaints)
}

/// Loads an address, and returns the document that it becomes, and the browser's log.
pub fn dump(address: &str, dark: bool, more: &[&str]) -> Output {
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1400,900",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()));
    if dark {
        browser.args(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]);
    }
    browser.args(more).arg("--dump-dom").arg(address).output().unwrap()
}
