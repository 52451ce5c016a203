//! Durations of a task's phases: ranges, from which each task's own times are drawn.
//!
//! There are two profiles. `quick` is for tests and first tries. `fargate` has the times of AWS
//! Fargate, from three sources:
//!
//! - RunTask to RUNNING, StopTask to STOPPED: timestamps of published task descriptions and issue
//!   threads
//! - eventual consistency, `stopTimeout`: the Amazon ECS API reference
//! - the exec agent's start: amazon-ssm-agent's source

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

/// The tag of RunTask that says how large the task's image is, in megabytes.
const IMAGE_TAG: &str = "local-cluster:image-megabytes";

/// A range of durations, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Span {
    /// Returns a range of one duration.
    #[must_use]
    pub const fn exactly(duration: Duration) -> Self {
        Self { least: duration, most: duration }
    }

    const fn millis(least: u64, most: u64) -> Self {
        Self { least: Duration::from_millis(least), most: Duration::from_millis(most) }
    }

    fn draw(self, random: &mut StdRng) -> Duration {
        self.least + (self.most.saturating_sub(self.least)).mul_f64(random.random_range(0.0..=1.0))
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self::exactly(duration)
    }
}

/// A set of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// A task runs within a second: long enough for each phase to be seen.
    #[default]
    Quick,
    /// A task takes as long as on AWS Fargate.
    Fargate,
}

/// How long the phases of a task take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// The factor of all durations: 0.02 makes a minute 1.2 s.
    pub scale: f64,
    /// The seed: equal seeds draw equal times for a cluster's first task, its second, and so on.
    pub seed: u64,
    /// After RunTask: until then, DescribeTasks answers `MISSING`.
    pub describe_lag: Span,
    /// After RunTask: until then, ListTasks does not show the task.
    pub list_lag: Span,
    /// PROVISIONING: the network interface is made.
    pub provisioning: Span,
    /// PENDING, without the image: capacity, host, network.
    pub pending: Span,
    /// PENDING, for each gigabyte (10⁹ bytes) of the image: it is pulled and unpacked.
    pub pull_per_gigabyte: Span,
    /// The image's size, in megabytes, of tasks whose tag `local-cluster:image-megabytes` does not
    /// name another.
    pub image_megabytes: u32,
    /// ACTIVATING.
    pub activating: Span,
    /// From RUNNING until the SSH server accepts connections.
    pub ssh_server: Span,
    /// From RUNNING until the exec agent's `lastStatus` is RUNNING: before, ExecuteCommand is
    /// refused with `InvalidParameterException`.
    pub exec_agent: Span,
    /// From then until it is connected: before, with `TargetNotConnectedException`.
    pub exec_connects: Span,
    /// From ExecuteCommand until the session begins, besides what the agent takes by itself
    /// ([`AgentRules`](crate::AgentRules)).
    pub exec_session: Span,
    /// DEACTIVATING.
    pub deactivating: Span,
    /// STOPPING, if no process of the task's takes longer: the container's init process ends
    /// itself, or ignores SIGTERM.
    pub stopping: Span,
    /// From SIGTERM to SIGKILL when a task is stopped (ECS: `stopTimeout`, 30 s).
    pub stop_timeout: Duration,
    /// DEPROVISIONING: the network interface is taken away.
    pub deprovisioning: Span,
}

impl Default for Times {
    fn default() -> Self {
        Self::quick()
    }
}

impl Times {
    /// Returns the times of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        match profile {
            Profile::Quick => Self::quick(),
            Profile::Fargate => Self::fargate(),
        }
    }

    fn quick() -> Self {
        let ms = |millis| Span::exactly(Duration::from_millis(millis));
        Self {
            scale: 1.0,
            seed: 0,
            describe_lag: ms(50),
            list_lag: ms(50),
            provisioning: ms(200),
            pending: ms(300),
            pull_per_gigabyte: ms(0),
            image_megabytes: 0,
            activating: ms(100),
            ssh_server: ms(150),
            exec_agent: ms(100),
            exec_connects: ms(50),
            exec_session: ms(0),
            deactivating: ms(0),
            stopping: ms(0),
            stop_timeout: Duration::from_millis(1000),
            deprovisioning: ms(50),
        }
    }

    /// Returns Fargate's times:
    ///
    /// - RunTask to RUNNING: 20 to 90 s, for images of up to 870 MB
    /// - StopTask to STOPPED: 13 to 66 s
    /// - RUNNING until the exec agent is connected: 2 to 15 s
    /// - ExecuteCommand to a session's first byte: 1 to 5 s, of which the first second is in
    ///   [`AgentRules::real`](crate::AgentRules::real)
    fn fargate() -> Self {
        Self {
            scale: 1.0,
            seed: 0,
            describe_lag: Span::millis(500, 3000),
            list_lag: Span::millis(1000, 8000),
            provisioning: Span::millis(6000, 9000),
            pending: Span::millis(13_000, 17_000),
            pull_per_gigabyte: Span::millis(50_000, 70_000),
            image_megabytes: 413,
            activating: Span::millis(1000, 3000),
            ssh_server: Span::millis(200, 1500),
            exec_agent: Span::millis(1000, 10_000),
            exec_connects: Span::millis(1000, 5000),
            exec_session: Span::millis(0, 3950),
            deactivating: Span::millis(2000, 16_000),
            stopping: Span::millis(1000, 30_000),
            stop_timeout: Duration::from_secs(30),
            deprovisioning: Span::millis(10_000, 20_000),
        }
    }

    /// Draws the times of the cluster's task number `number`.
    pub(crate) fn draw(&self, number: u64, image_megabytes: Option<u32>) -> TaskTimes {
        let mut random = StdRng::seed_from_u64(
            self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        );
        let mut draw = |span: Span| span.draw(&mut random).mul_f64(self.scale);
        let gigabytes = f64::from(image_megabytes.unwrap_or(self.image_megabytes)) / 1000.0;
        TaskTimes {
            describe_lag: draw(self.describe_lag),
            list_lag: draw(self.list_lag),
            provisioning: draw(self.provisioning),
            pending: draw(self.pending) + draw(self.pull_per_gigabyte).mul_f64(gigabytes),
            activating: draw(self.activating),
            ssh_server: draw(self.ssh_server),
            exec_agent: draw(self.exec_agent),
            exec_connects: draw(self.exec_connects),
            deactivating: draw(self.deactivating),
            stopping: draw(self.stopping),
            stop_timeout: self.stop_timeout.mul_f64(self.scale),
            deprovisioning: draw(self.deprovisioning),
            sessions: Sessions {
                span: self.exec_session,
                scale: self.scale,
                random: Mutex::new(random),
            },
        }
    }
}

/// The times of one task, in the order in which they pass: see [`Times`].
#[derive(Debug)]
pub(crate) struct TaskTimes {
    pub(crate) describe_lag: Duration,
    pub(crate) list_lag: Duration,
    pub(crate) provisioning: Duration,
    pub(crate) pending: Duration,
    pub(crate) activating: Duration,
    pub(crate) ssh_server: Duration,
    pub(crate) exec_agent: Duration,
    pub(crate) exec_connects: Duration,
    pub(crate) deactivating: Duration,
    pub(crate) stopping: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) deprovisioning: Duration,
    sessions: Sessions,
}

#[derive(Debug)]
struct Sessions {
    span: Span,
    scale: f64,
    random: Mutex<StdRng>,
}

impl TaskTimes {
    /// Draws how long the task's next session takes to begin.
    pub(crate) fn next_session(&self) -> Duration {
        let mut random = self.sessions.random.lock().unwrap_or_else(PoisonError::into_inner);
        self.sessions.span.draw(&mut random).mul_f64(self.sessions.scale)
    }
}

/// Returns the image size in RunTask's tags, in megabytes.
pub(crate) fn image_megabytes(tags: &Value) -> Option<u32> {
    let tag = tags
        .as_array()?
        .iter()
        .find(|tag| tag.get("key").and_then(Value::as_str) == Some(IMAGE_TAG))?;
    tag.get("value")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seconds(times: &[Duration]) -> f64 {
        times.iter().sum::<Duration>().as_secs_f64()
    }

    fn starts(image_megabytes: Option<u32>) -> Vec<f64> {
        let fargate = Times::of(Profile::Fargate);
        let start =
            |times: TaskTimes| seconds(&[times.provisioning, times.pending, times.activating]);
        (0..2000).map(|number| start(fargate.draw(number, image_megabytes))).collect()
    }

    fn within(figures: &[f64], least: f64, most: f64) {
        assert!(
            figures.iter().all(|figure| (least..=most).contains(figure)),
            "not within {least} to {most}: {figures:?}"
        );
        // The whole range is used, including a tenth of it at either end.
        let tenth = (most - least) / 10.0;
        let any = |from: f64, to: f64| figures.iter().any(|figure| (from..=to).contains(figure));
        assert!(
            any(least, least + 3.0 * tenth) && any(most - 3.0 * tenth, most),
            "{least} to {most} is not used"
        );
    }

    #[test]
    fn the_fargate_profile_matches_published_times() {
        within(&starts(Some(0)), 20.0, 29.0);
        within(&starts(None), 40.0, 58.0);
        within(&starts(Some(870)), 63.0, 90.0);
        let drawn: Vec<TaskTimes> =
            (0..2000).map(|number| Times::of(Profile::Fargate).draw(number, None)).collect();
        let figures = |of: fn(&TaskTimes) -> f64| drawn.iter().map(of).collect::<Vec<_>>();
        within(&figures(|t| seconds(&[t.deactivating, t.stopping, t.deprovisioning])), 13.0, 66.0);
        within(&figures(|t| seconds(&[t.exec_agent, t.exec_connects])), 2.0, 15.0);
        within(&figures(|t| seconds(&[t.next_session()])), 0.0, 3.95);
        assert!(drawn.iter().all(|t| t.provisioning < Duration::from_secs(10)));
    }

    #[test]
    fn equal_seeds_draw_equal_times_and_tasks_differ() {
        let drawn = |seed: u64, number: u64| {
            let times = Times { seed, ..Times::of(Profile::Fargate) }.draw(number, None);
            (
                times.provisioning,
                times.pending,
                times.deprovisioning,
                times.next_session(),
                times.next_session(),
            )
        };
        assert_eq!(drawn(7, 3), drawn(7, 3));
        assert_ne!(drawn(7, 3), drawn(7, 4));
        assert_ne!(drawn(7, 3), drawn(8, 3));
        assert_ne!(drawn(7, 3).3, drawn(7, 3).4);
    }

    #[test]
    fn a_scale_shortens_everything() {
        let whole = Times::of(Profile::Fargate).draw(1, None);
        let short = Times { scale: 0.02, ..Times::of(Profile::Fargate) }.draw(1, None);
        let near = |whole: Duration, short: Duration| {
            (whole.as_secs_f64() * 0.02 - short.as_secs_f64()).abs() < 1e-6
        };
        assert!(near(whole.pending, short.pending) && near(whole.stop_timeout, short.stop_timeout));
        assert!(
            near(whole.next_session(), short.next_session())
                && near(whole.list_lag, short.list_lag)
        );
    }

    #[test]
    fn image_sizes_are_read_from_tags() {
        let tag = |value: &str| json!([{ "key": "team", "value": "ci" }, { "key": IMAGE_TAG, "value": value }]);
        assert_eq!(image_megabytes(&tag("850")), Some(850));
        assert_eq!(image_megabytes(&tag("large")), None);
        assert_eq!(image_megabytes(&json!([])), None);
    }
}
