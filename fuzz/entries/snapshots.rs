//! Any file as a snapshot: an error, or a job that can be saved, replayed and continued.

use states::{Observation, Snapshot, Timestamp};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(snapshot) = Snapshot::parse(text) else { return };
    let saved = snapshot.to_ron().expect("what was read can be written");
    let again = Snapshot::parse(&saved)
        .unwrap_or_else(|e| panic!("what was written cannot be read: {e}\n{saved}"));
    assert_eq!(again, snapshot, "saving changed it");
    let _ = snapshot.journal.replay(snapshot.job.header().clone());
    // The next process goes on, whatever the clock says meanwhile.
    let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
    for now in [
        newest.unwrap_or(snapshot.job.header().created),
        Timestamp::from_millis(0),
        Timestamp::from_millis(u64::MAX),
    ] {
        let mut job = snapshot.clone();
        job.plan(now);
        let opened = Observation::Opened { process: 1, purpose: "fuzz".to_owned() };
        for saw in [
            opened,
            Observation::Missing,
            Observation::TimePassed,
            Observation::TimePassed,
            Observation::CancelRequested,
        ] {
            job.step(saw, now);
        }
        for entry in &snapshot.journal.entries {
            job.step(entry.saw.clone(), now);
        }
        let saved = job.to_ron().expect("what went on can be written");
        assert_eq!(Snapshot::parse(&saved).expect("what went on can be read"), job);
    }
}
