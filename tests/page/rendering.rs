//! What the page shows of 0, 1 and 500 jobs, and of jobs with hostile texts.

use std::{collections::BTreeSet, fs, sync::Arc};

use fargate_driver::service::page;
use states::{AnyJob, Snapshot, StateName};

use super::directory::{calls_and_pools, directory, view};

/// The content as a document: it parses only if every text in it is escaped.
fn parse(content: &str) -> roxmltree::Document<'_> {
    roxmltree::Document::parse(content).unwrap_or_else(|e| panic!("{e}: {content}"))
}

fn in_one_element(content: &str) -> String {
    format!("<div>{content}</div>")
}

fn rows(document: &roxmltree::Document<'_>) -> usize {
    document.descendants().filter(|node| node.has_tag_name("tr")).count()
}

#[test]
fn a_directory_without_jobs_has_a_page() {
    let place = directory(0);
    let content = in_one_element(&page::content(&view(place.path())));
    let document = parse(&content);
    assert_eq!(rows(&document), 0);
    assert!(content.contains("No job runs.") && content.contains("all go on"), "{content}");
    for absent in ["Warm tasks", "Calls to AWS", "Last failures", "class=\"card"] {
        assert!(!content.contains(absent), "{absent}: {content}");
    }
}

#[test]
fn one_job_has_a_row_and_a_link() {
    let place = directory(0);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/snapshots/v1/pending.ron");
    fs::copy(fixture, place.path().join("one.ron")).unwrap();
    let content = in_one_element(&page::content(&view(place.path())));
    let document = parse(&content);
    assert_eq!(rows(&document), 2, "a head and a row: {content}");
    let link = document.descendants().find(|node| node.has_tag_name("a")).unwrap();
    assert_eq!(link.attribute("href"), Some("/job/one"));
    assert!(content.contains("1 job<"), "{content}");
}

#[test]
fn five_hundred_jobs_have_a_row_each_and_a_cause_has_one_card() {
    let place = directory(500);
    let mut view = view(place.path());
    calls_and_pools(&mut view);
    let overview = &view.overview;
    assert_eq!(overview.jobs.len(), 500);
    for state in [StateName::Pending, StateName::Executing, StateName::Stopping] {
        assert!(overview.in_state(Some(state)).count() > 10, "{state}");
    }
    let content = in_one_element(&page::content(&view));
    let document = parse(&content);
    for number in 0..500 {
        assert!(
            content.contains(&format!("href=\"/job/job-{number}\"")),
            "job {number} is missing"
        );
    }
    let cards: Vec<_> =
        document.descendants().filter(|node| node.has_tag_name("section")).collect();
    let causes: BTreeSet<_> =
        overview.stuck().map(|job| job.problems().next().map(|found| found.cause)).collect();
    assert_eq!(cards.len(), causes.len(), "a card for each cause: {causes:?}");
    for card in cards {
        let list = card.children().find(|node| node.has_tag_name("ul")).unwrap();
        assert!(list.children().count() <= 10, "{content}");
    }
    assert!(content.contains("more are in the table below"), "{content}");
    for there in
        ["Warm tasks", "3 of 4", "ThrottlingException ×3", "Last failures", "finished jobs"]
    {
        assert!(content.contains(there), "{there}: {content}");
    }
}

#[test]
fn the_diagnosis_of_a_stuck_job_is_that_of_its_report() {
    let place = directory(0);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/stuck/connection-refused.ron");
    fs::copy(fixture, place.path().join("one.ron")).unwrap();
    let view = view(place.path());
    let job = &view.overview.jobs[0];
    let found = job.problems().next().expect("a problem is found");
    let content = page::content(&view);
    for text in [&found.heading(), &found.summary].into_iter().chain(&found.remedy) {
        let markup = replay::page::prose(text).into_string();
        assert!(content.contains(&markup), "{markup}: {content}");
    }
    assert!(!found.remedy.is_empty(), "{found:?}");
}

#[test]
fn hostile_texts_are_shown_and_do_nothing() {
    const HOSTILE: &str =
        "</td><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\r\ndata: x";
    let place = directory(0);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/snapshots/v1/executing.ron");
    let mut snapshot = Snapshot::parse(&fs::read_to_string(fixture).unwrap()).unwrap();
    let AnyJob::Executing(job) = &mut snapshot.job else { panic!("{fixture} runs no script") };
    let about = &mut Arc::make_mut(&mut job.header).about;
    for text in
        [&mut about.job_name, &mut about.job_id, &mut about.pipeline_id, &mut about.project_url]
    {
        *text = HOSTILE.to_owned();
    }
    Arc::make_mut(&mut job.header).spec.task_definition = HOSTILE.to_owned();
    fs::write(place.path().join("one.ron"), snapshot.to_ron().unwrap()).unwrap();
    fs::write(place.path().join("two.ron"), HOSTILE).unwrap();
    let content = in_one_element(&page::content(&view(place.path())));
    let document = parse(&content);
    assert_eq!(rows(&document), 3, "a head and two rows: {content}");
    assert!(document.descendants().any(|node| node.text().is_some_and(|t| t.contains("<script>"))));
    assert!(!document.descendants().any(|node| matches!(node.tag_name().name(), "script" | "img")));
    let manager = page::page("<b>m</b>", &content);
    assert!(manager.contains("Jobs of &lt;b&gt;m&lt;/b&gt;"), "{manager}");
    assert!(page::failure("<b>why</b>").contains("&lt;b&gt;why"));
}
