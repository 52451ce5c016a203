//! The planner, and a world in which its plans are carried out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn pool(name: &str, count: u32) -> Pool {
    Pool { name: name.to_owned(), count, windows: Vec::new(), max_age: 8 * HOUR }
}

fn task(number: u64, pool: &str, created: Timestamp, is_ready: bool) -> Task {
    Task { id: JobId::warm(number), pool: pool.to_owned(), created, is_ready, is_current: true }
}

fn retired(plan: &Plan) -> Vec<(JobId, Retirement)> {
    plan.retirements.clone()
}

#[test]
fn what_is_missing_is_launched_at_once_and_nothing_else() {
    let pools = [pool("a", 3)];
    let tasks = [task(1, "a", START, true), task(2, "a", START, false)];
    let planned = plan(START, &pools, &tasks, &Pressure::default());
    assert_eq!(planned.launches, ["a"]);
    assert_eq!(planned.retirements, []);
    assert_eq!(planned.wanted["a"], 3);
    let full = [&tasks[..], &[task(3, "a", START, false)]].concat();
    assert_eq!(plan(START, &pools, &full, &Pressure::default()).launches, [""; 0]);
}

#[test]
fn launches_are_shared_by_the_pools_and_bounded_at_a_time() {
    let pools = [pool("a", 100), pool("b", 100)];
    let planned = plan(START, &pools, &[], &Pressure::default());
    let of = |name: &str| planned.launches.iter().filter(|pool| *pool == name).count();
    assert_eq!(of("a") + of("b"), AT_ONCE);
    assert!(of("a") >= 2 && of("b") >= 2, "{planned:?}");
    assert_eq!(planned.again, START + TURN);
    // The emptier one is first.
    let half: Vec<Task> = (0..50).map(|n| task(n, "a", START, true)).collect();
    assert_eq!(plan(START, &pools, &half, &Pressure::default()).launches[0], "b");
}

#[test]
fn jobs_launches_come_first() {
    let pressure = Pressure { is_job_launching: true, ..Pressure::default() };
    let planned = plan(START, &[pool("a", 1)], &[], &pressure);
    assert_eq!((planned.launches.len(), planned.again), (0, START + TURN));
}

#[test]
fn refusals_slow_all_pools_down_and_one_launch_shows_whether_they_are_over() {
    let pools = [pool("a", 3), pool("b", 3)];
    let mut refusals = Setbacks::default();
    let mut waits = Vec::new();
    for _ in 0..8 {
        refusals.add((START, START));
        let pressure = Pressure { refusals, ..Pressure::default() };
        let planned = plan(START, &pools, &[], &pressure);
        assert_eq!(planned.launches, [""; 0]);
        let until = refusals.until(&AFTER_REFUSALS, "refusals").unwrap();
        waits.push(until.since(START));
        assert_eq!(plan(until, &pools, &[], &pressure).launches.len(), 1);
        let trying = [task(1, "a", START, false)];
        assert_eq!(plan(until, &pools, &trying, &pressure).launches, [""; 0]);
    }
    assert!(waits[4] > 4 * waits[0] && waits[7] <= AFTER_REFUSALS.longest * 12 / 10, "{waits:?}");
}

#[test]
fn refusals_side_by_side_count_as_one() {
    let mut refusals = Setbacks::default();
    let later = |seconds| START + Duration::from_secs(seconds);
    refusals.add((START, later(1)));
    refusals.add((START, later(2)));
    assert_eq!((refusals.count, refusals.last), (1, Some(later(2))));
    refusals.add((later(7), later(8)));
    assert_eq!(refusals.count, 2);
}

#[test]
fn a_pool_whose_tasks_do_not_start_is_slowed_down_alone() {
    let pools = [pool("bad", 3), pool("good", 1)];
    let mut failures = Setbacks::default();
    failures.add((START, START));
    let pressure =
        Pressure { failures: [("bad".to_owned(), failures)].into(), ..Pressure::default() };
    let planned = plan(START, &pools, &[], &pressure);
    assert_eq!(planned.launches, ["good"]);
    let later = plan(planned.again.max(START + Duration::from_secs(15)), &pools, &[], &pressure);
    assert_eq!(later.launches.iter().filter(|pool| *pool == "bad").count(), 1);
}

#[test]
fn tasks_that_no_job_could_use_are_retired_at_once() {
    let mut outdated = task(1, "a", START, true);
    outdated.is_current = false;
    let gone = task(2, "gone", START, true);
    let planned =
        plan(START, &[pool("a", 1)], &[outdated.clone(), gone.clone()], &Pressure::default());
    assert_eq!(
        retired(&planned),
        [(outdated.id, Retirement::Outdated), (gone.id, Retirement::NoPool)]
    );
    assert_eq!(planned.launches, ["a"], "a task that cannot be used is replaced");
}

#[test]
fn if_less_is_wanted_the_oldest_ready_ones_go_and_those_that_start() {
    let tasks = [
        task(1, "a", START + HOUR, true),
        task(2, "a", START, true),
        task(3, "a", START + 2 * HOUR, false),
    ];
    let planned = plan(START + 2 * HOUR, &[pool("a", 1)], &tasks, &Pressure::default());
    assert_eq!(
        retired(&planned),
        [(JobId::warm(2), Retirement::Surplus), (JobId::warm(3), Retirement::Surplus)]
    );
}

#[test]
fn a_task_that_is_too_old_is_retired_once_another_one_is_ready() {
    let pools = [pool("a", 2)];
    let now = START + 8 * HOUR;
    let mut tasks = vec![task(1, "a", START, true), task(2, "a", START, true)];
    let before = plan(now.max(START), &pools, &tasks, &Pressure::default());
    assert_eq!((before.launches.len(), before.retirements.len()), (1, 0), "one at a time");
    tasks.push(task(3, "a", now, false));
    let starting = plan(now, &pools, &tasks, &Pressure::default());
    assert_eq!((starting.launches.len(), starting.retirements.len()), (0, 0));
    tasks[2].is_ready = true;
    let ready = plan(now, &pools, &tasks, &Pressure::default());
    assert_eq!(retired(&ready), [(JobId::warm(1), Retirement::Aged)]);
    assert_eq!(ready.launches.len(), 1, "the other one's turn");
    let young = plan(START + HOUR, &pools, &tasks[..2], &Pressure::default());
    assert_eq!(young.again, START + HOUR + LONGEST);
    let almost = START + 8 * HOUR.saturating_sub(Duration::from_secs(1));
    assert!(plan(almost, &pools, &tasks[..2], &Pressure::default()).again <= START + 8 * HOUR);
}

/// A world that carries plans out: tasks start within a time, jobs claim them, ECS refuses.
struct World {
    now: Timestamp,
    tasks: Vec<Task>,
    pressure: Pressure,
    started: u64,
    launches_per_pool: BTreeMap<String, u32>,
}

#[derive(Debug, Clone)]
enum Event {
    Claim(prop::sample::Index),
    Refused,
    Job(bool),
    Failed(prop::sample::Index),
    Changed,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Event::Claim),
        Just(Event::Refused),
        any::<bool>().prop_map(Event::Job),
        any::<prop::sample::Index>().prop_map(Event::Failed),
        Just(Event::Changed),
    ]
}

impl World {
    /// Carries out one plan, and checks what must hold for any.
    fn turn(&mut self, pools: &[Pool]) {
        let planned = plan(self.now, pools, &self.tasks, &self.pressure);
        let launches = planned.launches.len();
        assert!(launches <= AT_ONCE);
        assert!(launches == 0 || !self.pressure.is_job_launching, "{planned:?}");
        if let Some(until) = self.pressure.refusals.until(&AFTER_REFUSALS, "refusals") {
            assert!(launches <= usize::from(self.now >= until), "{planned:?}");
        }
        for (id, _) in &planned.retirements {
            let before = self.tasks.len();
            self.tasks.retain(|task| task.id != *id);
            assert_eq!(self.tasks.len(), before - 1, "{id} is retired twice or does not exist");
        }
        for name in planned.launches {
            self.started += 1;
            *self.launches_per_pool.entry(name.clone()).or_default() += 1;
            self.tasks.push(task(self.started, &name, self.now, false));
        }
        for pool in pools {
            let own = self.tasks.iter().filter(|task| task.pool == pool.name).count();
            assert!(own <= pool.count as usize + REPLACEMENTS, "{own} of {}", pool.count);
        }
        assert!(planned.again > self.now);
        self.now = planned.again.min(self.now + Duration::from_secs(5));
        let now = self.now;
        for task in &mut self.tasks {
            task.is_ready |= now.since(task.created) >= Duration::from_secs(45);
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Claim(at) => {
                let mut ready: Vec<usize> = Vec::new();
                ready.extend(
                    self.tasks.iter().enumerate().filter(|(_, t)| t.is_ready).map(|(n, _)| n),
                );
                if !ready.is_empty() {
                    self.tasks.remove(ready[at.index(ready.len())]);
                }
            }
            Event::Refused => self.pressure.refusals.add((self.now, self.now)),
            Event::Job(launches) => self.pressure.is_job_launching = *launches,
            Event::Failed(at) if !self.tasks.is_empty() => {
                let failed = self.tasks.remove(at.index(self.tasks.len()));
                self.pressure.failures.entry(failed.pool).or_default().add((self.now, self.now));
            }
            Event::Failed(_) => {}
            Event::Changed => self.tasks.iter_mut().for_each(|task| task.is_current = false),
        }
    }
}

proptest! {
    #[test]
    fn pools_are_never_too_large_and_become_what_is_wanted(
        counts in prop::collection::vec(0..12_u32, 1..4),
        events in prop::collection::vec((any_event(), 0..5_usize), 0..40),
    ) {
        let pools: Vec<Pool> =
            counts.iter().enumerate().map(|(n, count)| pool(&n.to_string(), *count)).collect();
        let mut world = World {
            now: START,
            tasks: Vec::new(),
            pressure: Pressure::default(),
            started: 0,
            launches_per_pool: BTreeMap::new(),
        };
        for (event, turns) in &events {
            world.happens(event);
            (0..*turns).for_each(|_| world.turn(&pools));
        }
        // From here on, everything succeeds.
        world.pressure = Pressure::default();
        for _ in 0..60 {
            world.turn(&pools);
        }
        for pool in &pools {
            let own: Vec<&Task> = world.tasks.iter().filter(|t| t.pool == pool.name).collect();
            prop_assert_eq!(own.len(), pool.count as usize);
            prop_assert!(own.iter().all(|task| task.is_ready && task.is_current));
        }
        // All are replaced, one after the other, and never is one missing.
        world.now = world.now + 8 * HOUR;
        let began = world.now;
        let launched = world.launches_per_pool.values().sum::<u32>();
        for _ in 0..400 {
            world.turn(&pools);
            for pool in &pools {
                let ready = world.tasks.iter().filter(|t| t.pool == pool.name && t.is_ready);
                prop_assert!(ready.count() >= pool.count as usize);
            }
        }
        prop_assert!(world.tasks.iter().all(|task| task.created >= began));
        let replaced = world.launches_per_pool.values().sum::<u32>() - launched;
        prop_assert_eq!(replaced, counts.iter().sum::<u32>(), "each once");
    }
}
