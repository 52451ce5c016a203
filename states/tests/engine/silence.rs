//! A script that says nothing for long: what is known of it is on disk all the same, for whoever looks.

use std::time::Duration;

use states::{AnyJob, Link, Observation, Outcome};

use crate::world::{cloud::Cloud, manager::Manager, weather::Weather};

#[tokio::test(start_paused = true)]
async fn a_silent_script_is_on_record_as_running() {
    let manager = Manager::new(Cloud::new(Weather::new(0)));
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let mut io = manager.io();
    let run = manager.run("build_script", "#! 3600000 0 0\nthe first line, after an hour\n", &mut io);
    let looked = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        manager.shelf.snapshots.lock().unwrap().values().next().cloned().unwrap()
    };
    let snapshot = tokio::select! {
        ended = run => panic!("it ended: {ended:?}"),
        snapshot = looked => snapshot,
    };
    let AnyJob::Executing(job) = &snapshot.job else { panic!("{snapshot:#?}") };
    assert!(job.state.started && job.state.link == Link::Up, "{job:#?}");
    assert_eq!(snapshot.journal.entries.last().map(|entry| &entry.saw), Some(&Observation::Delivered));
}
