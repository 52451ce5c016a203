//! The page in a real browser: in light and in dark, in a wide window and a narrow one; and that it
//! stays current.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use fargate_driver::service::{page, source::View};
use states::{AnyJob, Snapshot};

use super::{
    browser::{dump, measure},
    directory::{calls_and_pools, directory, view},
};

/// Windows' widths, in CSS's pixels: a large screen's, a laptop's, a telephone's.
const WIDTHS: [u32; 3] = [1600, 1000, 400];

/// The page without its script, which finds no server in a frame.
fn still(view: &View) -> String {
    page::page("runner-1", &page::content(view))
        .replace(page::SCRIPT, "")
        .replace("<script></script>", "")
}

/// A job whose names have no place to break, longer than any window.
fn long_names() -> View {
    let place = directory(0);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/stuck/connection-lost.ron");
    let mut snapshot = Snapshot::parse(&fs::read_to_string(fixture).unwrap()).unwrap();
    let AnyJob::Executing(job) = &mut snapshot.job else { panic!("{fixture} runs no script") };
    let about = &mut Arc::make_mut(&mut job.header).about;
    about.job_name = "n".repeat(250);
    about.project_url = format!("https://gitlab.example/{}", "p".repeat(250));
    fs::write(place.path().join("one.ron"), snapshot.to_ron().unwrap()).unwrap();
    fs::write(place.path().join(format!("{}.ron", "u".repeat(200))), "no snapshot").unwrap();
    view(place.path())
}

#[test]
#[ignore = "needs Chromium: scripts/test installs it and runs this"]
fn the_page_looks_right_in_light_and_dark_wide_and_narrow() {
    let place = tempfile::tempdir().unwrap();
    let mut full = view(directory(60).path());
    calls_and_pools(&mut full);
    let pages = [
        ("empty".to_owned(), still(&view(directory(0).path()))),
        ("full".to_owned(), still(&full)),
        ("long names".to_owned(), still(&long_names())),
        (
            "failure".to_owned(),
            page::page("runner-1", &page::failure("it is gone")).replace(page::SCRIPT, ""),
        ),
    ];
    for dark in [false, true] {
        let (measured, complaints) = measure(place.path(), &pages, &WIDTHS, dark);
        assert_eq!(measured.dark, dark);
        // An empty script has another hash than the page's policy admits.
        let complaints: Vec<_> =
            complaints.iter().filter(|line| !line.contains("script-src")).collect();
        assert_eq!(complaints, Vec::<&String>::new(), "what the browser says on its console");
        assert_eq!(measured.pages.len(), pages.len() * WIDTHS.len());
        for seen in &measured.pages {
            assert!(
                seen.wrong.is_empty(),
                "{}, dark: {dark}, {} pixels: {:#?}",
                seen.name,
                seen.width,
                seen.wrong
            );
            let least = if seen.name == "full" { 400 } else { 2 };
            assert!(seen.texts >= least && seen.bars == 0, "{seen:?}");
        }
    }
}

/// Answers as the service does, but for two pictures. The page has `/wait.png`, and the browser does
/// not take the page for loaded before it has that. The content of the event has `/seen.png`, which
/// the browser wants once the script has put the content into the page.
fn serve_pictures(listener: &TcpListener, page: &str, event: &str) {
    let mut waits: Vec<TcpStream> = Vec::new();
    let mut followers = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut line = String::new();
        // A browser may open a connection that it does not use, or close one at any time.
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = BufReader::new(&stream).read_line(&mut line);
        let answer = |kind: &str, body: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n{body}")
        };
        match line.split(' ').nth(1).unwrap_or_default() {
            "/" => drop(stream.write_all(answer("text/html", page).as_bytes())),
            "/events" => {
                let _ = stream.write_all(answer("text/event-stream", event).as_bytes());
                followers.push(stream);
            }
            "/wait.png" => waits.push(stream),
            "/seen.png" => return,
            // A picture for the tab.
            _ => {}
        }
    }
}

#[test]
#[ignore = "needs Chromium: scripts/test installs it and runs this"]
fn the_script_puts_new_content_into_the_page() {
    let page = page::page("runner-1", "before<img src='/wait.png' alt=''>")
        .replace("default-src 'none'", "default-src 'none'; img-src 'self'");
    let event = "data: after\ndata: <img src='/seen.png' alt=''>\n\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        serve_pictures(&listener, &page, event);
        done.send(()).unwrap();
    });
    let browser = thread::spawn(move || dump(&format!("http://{address}/"), false, &[]));
    let seen = is_done.recv_timeout(Duration::from_secs(60));
    assert!(seen.is_ok(), "the content was not put into the page");
    let output = browser.join().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(">after") && !text.contains("before"), "{text}");
    assert!(!log.contains("Content Security Policy"), "{log}");
}
