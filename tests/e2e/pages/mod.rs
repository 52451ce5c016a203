//! The pages of `show --html` and `stats --html` in a real browser: in light and in dark, in a wide
//! window and a narrow one.

mod browser;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use self::browser::measure;

/// Windows' widths, in CSS's pixels: a laptop's, half of one, a telephone's.
const WIDTHS: [u32; 3] = [1200, 700, 360];

fn replay(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_fargate-replay")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All that the command makes of `fixtures/stuck`: each job's page; one with what is usual beside
/// it; the archive's.
fn pages(place: &Path) -> Vec<(String, String)> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stuck");
    let files = fs::read_dir(fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ron"));
    let archive = place.join("archive");
    fs::create_dir(&archive).unwrap();
    let mut pages = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        pages.push((name.to_owned(), replay(&["show", file.to_str().unwrap(), "--html", "-"])));
        fs::copy(&file, archive.join(format!("{name}.1764000000000.ron"))).unwrap();
    }
    assert!(pages.len() >= 12, "{}", pages.len());
    let directory = ["--directory", place.to_str().unwrap()];
    let with_baseline =
        replay(&[&directory[..], &["show", "connection-lost", "--html", "-"]].concat());
    assert!(with_baseline.contains("class=\"baseline\""), "{with_baseline}");
    pages.push(("baseline".to_owned(), with_baseline));
    pages.push(("stats".to_owned(), replay(&[&directory[..], &["stats", "--html", "-"]].concat())));
    pages
}

#[test]
#[ignore = "needs Chromium: scripts/test installs it and runs this"]
fn pages_look_right_in_light_and_dark_wide_and_narrow() {
    let place = tempfile::tempdir().unwrap();
    let pages = pages(place.path());
    for dark in [false, true] {
        let (measured, complaints) = measure(place.path(), &pages, &WIDTHS, dark);
        assert_eq!(measured.dark, dark);
        assert_eq!(complaints, Vec::<String>::new(), "what the browser says on its console");
        assert_eq!(measured.pages.len(), pages.len() * WIDTHS.len());
        let mut shown = pages.iter().flat_map(|page| WIDTHS.map(|width| (page, width)));
        for seen in &measured.pages {
            let ((name, page), width) = shown.next().unwrap();
            assert_eq!((&seen.name, seen.width), (name, width));
            assert!(
                seen.wrong.is_empty(),
                "{name}, dark: {dark}, {width} pixels: {:#?}",
                seen.wrong
            );
            let bars = page.matches("class=\"bar\"").count();
            assert!(seen.bars == bars && bars > 0 && seen.texts > 20, "{name}: {seen:?}");
        }
    }
}

#[test]
#[ignore = "needs Chromium: scripts/test installs it and runs this"]
fn nothing_that_gets_into_a_page_runs_or_is_loaded() {
    let place = tempfile::tempdir().unwrap();
    let fixture =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stuck/script-failed.ron");
    let page = replay(&["show", fixture.to_str().unwrap(), "--html", "-"]);
    let hostile = "<script>console.error('it ran')</script><img src=x onerror=\"console.error('it ran')\">\
                   <p style='position: fixed'>over all</p><style>p { display: none }</style>";
    let page = page.replacen("<main>", &format!("<main>{hostile}"), 1);
    let (_, complaints) = measure(place.path(), &[("hostile".to_owned(), page)], &WIDTHS, false);
    assert!(
        !complaints
            .iter()
            .any(|line| line.contains("it ran") && !line.contains("Content Security Policy")),
        "{complaints:#?}"
    );
    for directive in ["script-src", "style-src", "default-src"] {
        assert!(
            complaints
                .iter()
                .any(|line| line.contains("Content Security Policy") && line.contains(directive)),
            "{complaints:#?}"
        );
    }
}

/// The test above has to notice what it is there for.
#[test]
#[ignore = "needs Chromium: scripts/test installs it and runs this"]
fn what_is_wrong_with_a_page_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let page = |name: &str, body: &str| {
        (
            name.to_owned(),
            format!("<!DOCTYPE html><style>body {{ background: #fff }}</style>{body}"),
        )
    };
    let chart = |inside: &str| {
        format!("<div class='chart'><svg width='100' height='20'><g>{inside}</g></svg></div>")
    };
    let bad = [
        page("wide in a window", "<div style='width: 3000px'>a</div>"),
        page("contrast 2.8", "<p style='color: #999'>faint</p>"),
        page("is cut off", "<p style='position: absolute; left: -20px'>text</p>"),
        page("has no width", &chart("<rect class='bar' x='0' width='0' height='9'/>")),
        page("is not inside", &chart("<rect class='bar' x='90' width='20' height='9'/>")),
        page(
            "too small",
            &chart(
                "<rect class='bar' fill='#fff' x='0' width='9' height='20'/><text class='inside' y='15'>long text</text>",
            ),
        ),
        page("cover each other", &chart("<text y='9'>one</text><text y='12'>two</text>")),
        page(
            "on the console",
            "<script>console.error('it complains')</script><img src='http://127.0.0.1:9/picture.png' alt=''>",
        ),
    ];
    let (measured, complaints) = measure(place.path(), &bad, &WIDTHS, false);
    for seen in measured.pages.iter().filter(|seen| seen.name != "on the console") {
        assert!(seen.wrong.iter().any(|wrong| wrong.contains(&seen.name)), "{seen:?}");
    }
    for complaint in ["it complains", "picture.png"] {
        assert!(
            complaints.iter().any(|line| line.contains(complaint)),
            "{complaint}: {complaints:?}"
        );
    }
    let (measured, _) = measure(place.path(), &bad[..1], &WIDTHS, true);
    assert!(
        measured.pages[0].wrong.iter().any(|wrong| wrong.contains("luminance 1.00")),
        "a light page in the dark: {measured:?}"
    );
}
