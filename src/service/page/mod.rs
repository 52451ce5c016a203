//! The page of all jobs: what state they are in, what each waits for, and what is wrong with those
//! that are stuck. It is read-only, and needs no script: a script only keeps it current.
//!
//! Style sheet, policy and a job's own page are `replay`'s. All texts are escaped: names and errors
//! come from projects, containers and AWS.

use std::time::Duration;

use ::replay::{
    list::Row,
    overview::{Finished, OpenJob},
    page::{live_page, policy, prose, state_class, tone_class},
    screen::cause_tone,
    summary::JobVerdict,
};
use diagnosis::{Cause, timeline::STATES, words};
use maud::{Markup, PreEscaped, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::source::{CallCount, Pool, View};

/// Replaces the page's content by what `/events` sends.
pub const SCRIPT: &str = include_str!("live.js");
/// Without scripts, the browser loads the page again after so many seconds.
const RELOAD: u32 = 10;
/// Stuck jobs with the same cause that are named beside it, at most. The table has all.
const NAMED: usize = 10;
/// What a job's name keeps in its address.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Makes the whole page around its `content`, which is what [`content`] or [`failure`] made.
#[must_use]
pub fn page(manager: &str, content: &str) -> String {
    let body = html! {
        p.note id="offline" hidden { "Not current: the service does not answer. The page tries again." }
        div id="live" { (PreEscaped(content)) }
    };
    live_page(&format!("Jobs of {manager}"), RELOAD, SCRIPT, &body).into_string()
}

/// Returns the page's policy, for a header.
#[must_use]
pub fn page_policy() -> String {
    policy(Some(SCRIPT))
}

/// Returns the link back to the page of all jobs, for a job's page.
#[must_use]
pub fn back() -> Markup {
    html! { p { a href="/" { "All jobs" } } }
}

/// Makes the content of a page whose facts cannot be read.
#[must_use]
pub fn failure(why: &str) -> String {
    html! { section.card.bad { h2 { "The jobs cannot be shown" } p { (why) } } }.into_string()
}

/// Makes the page's content, which changes as the jobs do.
#[must_use]
pub fn content(view: &View) -> String {
    let overview = &view.overview;
    let stuck = overview.stuck().count();
    html! {
        (tiles(view, stuck))
        @if stuck > 0 {
            h2 { (counted(stuck, "job needs help", "jobs need help")) }
            @for group in Group::all(overview.stuck()) { (group.draw()) }
        }
        @if overview.jobs.is_empty() { p { "No job runs." } }
        @else {
            h2 { (counted(overview.jobs.len(), "job", "jobs")) }
            (jobs(&overview.jobs))
        }
        @if !view.pools.is_empty() { h2 { "Warm tasks" } (pools(&view.pools)) }
        (finished(&overview.finished))
        @if !view.calls.is_empty() { h2 { "Calls to AWS" } (calls(&view.calls)) }
        footer {
            "As of " (words::date(overview.now)) "; times of day are UTC. "
            (overview.directory.display()) ", fargate " (env!("CARGO_PKG_VERSION"))
        }
    }
    .into_string()
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The number of jobs in each state, and how long the first of them has been in it.
fn tiles(view: &View, stuck: usize) -> Markup {
    let overview = &view.overview;
    let unreadable = overview.in_state(None).count();
    html! {
        ul.tiles {
            @for state in STATES {
                li.(state_class(state)) {
                    span.name { (state) }
                    strong { (overview.in_state(Some(state)).count()) }
                    span.note { @if let Some(age) = overview.oldest(state) { "up to " (words::span(age)) } @else { "–" } }
                }
            }
            @if unreadable > 0 {
                li.bad { span.name { "Unreadable" } strong { (unreadable) } span.note { "snapshots" } }
            }
            li.(if stuck == 0 { "good" } else { "bad" }) {
                span.name { "Need help" }
                strong { (stuck) }
                span.note { @if stuck == 0 { "all go on" } @else { "see below" } }
            }
        }
    }
}

fn address(row: &Row) -> String {
    format!("/job/{}", utf8_percent_encode(&row.snapshot, KEPT))
}

/// A job's id as a link to its page, and its name, project and pipeline.
fn job(row: &Row) -> Markup {
    html! {
        @if row.state.is_none() { (row.snapshot) }
        @else {
            a href=(address(row)) { (row.job) }
            span.note {
                @if !row.name.is_empty() { (row.name) " · " }
                (words::project(&row.project))
            }
        }
    }
}

/// Stuck jobs with the same cause. Their remedies are the same but for the job's id.
struct Group<'a> {
    heading: String,
    tone: &'static str,
    jobs: Vec<&'a OpenJob>,
}

impl<'a> Group<'a> {
    /// Groups jobs by what is wrong with them, in their order.
    fn all(stuck: impl Iterator<Item = &'a OpenJob>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for job in stuck {
            let (heading, tone) = match (job.row.state, job.problems().next()) {
                (None, _) => ("unreadable: a snapshot cannot be used".to_owned(), "bad"),
                (_, Some(found)) => (found.heading(), tone_class(cause_tone(found.cause))),
                (_, None) => ("slow: it has been in its state for long".to_owned(), "warn"),
            };
            match groups.iter_mut().find(|group| group.heading == heading) {
                Some(group) => group.jobs.push(job),
                None => groups.push(Self { heading, tone, jobs: vec![job] }),
            }
        }
        groups
    }

    fn draw(&self) -> Markup {
        let remedy = self.jobs[0].problems().next().map_or(&[][..], |found| &found.remedy);
        html! {
            section.card.(self.tone) {
                h2 { (self.heading) @if self.jobs.len() > 1 { " (" (self.jobs.len()) " jobs)" } }
                ul {
                    @for job in self.jobs.iter().take(NAMED) { li { (stuck_job(job)) } }
                }
                @if self.jobs.len() > NAMED { p.note { (self.jobs.len() - NAMED) " more are in the table below." } }
                @if !remedy.is_empty() {
                    h3 { "To do" @if self.jobs.len() > 1 { ", here for job " (self.jobs[0].row.job) } }
                    ul { @for step in remedy { li { (prose(step)) } } }
                }
            }
        }
    }
}

/// A stuck job in a line or two: for how long, and its problems. The first one's cause is in the
/// heading of its group.
fn stuck_job(job: &OpenJob) -> Markup {
    let row = &job.row;
    let Some(state) = row.state else {
        return html! { (row.stuck.as_deref().unwrap_or_default()) };
    };
    let reason = row.stuck.as_deref().filter(|_| job.problems().next().is_none());
    html! {
        a href=(address(row)) { (row.job) }
        " " (row.name) @if !row.name.is_empty() { " " } "of " (words::project(&row.project)) ", "
        (state) " for " (words::span(job.in_state())) ". "
        @if let Some(reason) = reason { (prose(reason)) "." }
        @for (number, found) in job.problems().enumerate() {
            @if number > 0 { " " (found.cause.name()) ": " }
            (prose(&found.summary))
        }
    }
}

fn jobs(jobs: &[OpenJob]) -> Markup {
    html! {
        table.jobs {
            thead { tr { th { "Job" } th { "State" } th.number { "for" } th { "Waits for" } } }
            tbody {
                @for open in jobs {
                    @let row = &open.row;
                    tr {
                        td { (job(row)) }
                        @match row.state {
                            Some(state) => { td.state.(state_class(state)) { (state) } td.number { (words::span(open.in_state())) } },
                            None => { td.bad { "unreadable" } td.number { "–" } },
                        }
                        td {
                            @if row.stuck.is_some() { div.(tone_class(row.tone())) { (row.outcome()) } }
                            @if open.waits_for.is_empty() { (row.last) } @else { (open.waits_for) }
                        }
                    }
                }
            }
        }
    }
}

fn pools(pools: &[Pool]) -> Markup {
    html! {
        table.jobs {
            thead { tr { th { "Pool" } th.number { "ready" } th.number { "starting" } th.number { "hits" } th.number { "idle" } } }
            tbody {
                @for pool in pools {
                    tr {
                        td {
                            (pool.name)
                            @if let Some(problem) = &pool.problem { div.warn { (prose(problem)) } }
                        }
                        td.number.(if pool.ready < pool.wanted { "warn" } else { "good" }) { (pool.ready) " of " (pool.wanted) }
                        td.number { (pool.starting) }
                        td.number {
                            (pool.hits) " of " (pool.hits + pool.misses)
                            @if let Some(percent) = (pool.hits * 100).checked_div(pool.hits + pool.misses) { span.note { (percent) " %" } }
                        }
                        td.number { (words::span(pool.idle)) }
                    }
                }
            }
        }
        p.note { "Hits are jobs that got a warm task, of all that wanted one since this page's service began." }
    }
}

fn finished(finished: &Finished) -> Markup {
    let all: u64 = finished.verdicts.values().sum();
    if all == 0 {
        return html! {};
    }
    html! {
        @if !finished.failures.is_empty() {
            h2 { "Last failures" }
            table.jobs {
                thead { tr { th { "Job" } th { "Ended" } th.number { "after" } th { "Cause" } } }
                tbody {
                    @for row in &finished.failures {
                        tr {
                            td { (job(row)) }
                            td.note { (words::date(row.last_at)) }
                            td.number { (words::span(Duration::from_millis(row.in_state_ms))) }
                            td.(tone_class(row.tone())) {
                                (row.outcome())
                                @if row.cause != Cause::Unknown { span.note { (row.cause.words()) } }
                            }
                        }
                    }
                }
            }
        }
        h2 { (counted(usize::try_from(all).unwrap_or(usize::MAX), "finished job", "finished jobs")) }
        table.counts { tbody {
            @for verdict in JobVerdict::ALL {
                @if let Some(count) = finished.verdicts.get(&verdict) {
                    tr { td { (verdict.words()) } td.number { (count) } }
                }
            }
        } }
        p.note { "As far as the archive keeps them." }
    }
}

fn calls(calls: &[CallCount]) -> Markup {
    html! {
        table.jobs {
            thead { tr { th { "Operation" } th.number { "last minute" } th.number { "last 15 minutes" } th.number { "all" } th.number { "failed" } } }
            tbody {
                @for call in calls {
                    tr {
                        td {
                            (call.method)
                            @for (code, count) in &call.errors { span.note { (code) " ×" (count) } }
                        }
                        td.number { (call.last_minute) }
                        td.number { (call.last_quarter) }
                        td.number { (call.calls) }
                        td.number.(if call.failed() > 0 { "warn" } else { "" }) { (call.failed()) }
                    }
                }
            }
        }
    }
}
