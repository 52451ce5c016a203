//! The faults of a world: which ones happen, and when. Counts those that were injected.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

macro_rules! faults {
    ($($fault:ident,)*) => {
        /// Every kind of fault. [`FaultPlan::injected`] counts them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($fault,)*
        }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$fault,)*];
        }
    };
}
faults! {
    Throttled,
    LostCall,
    LostAnswer,
    LateEffect,
    GarbledAnswer,
    HiddenTask,
    NoCapacity,
    AccountLimit,
    LaunchConflict,
    LaunchDenied,
    ApiDown,
    CredentialsExpired,
    NeverRuns,
    NeverListens,
    KeyLate,
    OutOfMemory,
    SpotInterruption,
    HostRetired,
    StoppedBySomebody,
    ImageMissing,
    TaskForgotten,
    Unconnected,
    ConnectionCut,
    ConnectionFrozen,
    NetworkDown,
    IdentityChanged,
    FilesLost,
    NotStarted,
    NoStatus,
    ProcessKilled,
    Cancelled,
    StageRepeated,
    PrepareRepeated,
    CleanupsAtOnce,
    CleanupRepeated,
    CleanupBesideStage,
    Reaped,
    Unsaved,
    SavedYetFailed,
    Unmarked,
    Unarchived,
}

/// The probability of each fault, 0 to 1, each time that it is possible.
#[derive(Debug, Clone, Default)]
pub struct Odds {
    /// For each call to ECS.
    pub throttled: f64,
    pub lost_call: f64,
    pub lost_answer: f64,
    pub garbled_answer: f64,
    /// For each effect: it comes after the process that wanted it has given up, or has died.
    pub late_effect: f64,
    /// For each launch.
    pub no_capacity: f64,
    pub account_limit: f64,
    /// For each launch whose token an earlier, unfinished call has used.
    pub launch_conflict: f64,
    pub launch_denied: f64,
    /// For each attempt to connect.
    pub unconnected: f64,
    /// For each connection: in its first moments.
    pub cut: f64,
    pub frozen: f64,
    /// For each script.
    pub not_started: f64,
    pub no_status: f64,
    /// For each write.
    pub unsaved: f64,
    pub saved_yet_failed: f64,
    pub unmarked: f64,
    pub unarchived: f64,
}

/// How a task ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    OutOfMemory,
    SpotInterruption,
    HostRetired,
    StoppedBySomebody,
    ImageMissing,
    /// From then on, ECS does not know it.
    Forgotten,
}

impl End {
    pub const ALL: [Self; 6] = [
        Self::OutOfMemory,
        Self::SpotInterruption,
        Self::HostRetired,
        Self::StoppedBySomebody,
        Self::ImageMissing,
        Self::Forgotten,
    ];

    pub fn fault(self) -> Fault {
        match self {
            Self::OutOfMemory => Fault::OutOfMemory,
            Self::SpotInterruption => Fault::SpotInterruption,
            Self::HostRetired => Fault::HostRetired,
            Self::StoppedBySomebody => Fault::StoppedBySomebody,
            Self::ImageMissing => Fault::ImageMissing,
            Self::Forgotten => Fault::TaskForgotten,
        }
    }
}

/// What happens to a task. Times are counted from its launch.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// How long ECS does not show it after RunTask.
    pub invisible: Duration,
    /// `None`: never.
    pub runs_after: Option<Duration>,
    pub listens_after: Option<Duration>,
    pub key_after: Duration,
    /// When ECS shows its exec agent as RUNNING; `None`: never.
    pub agent_after: Option<Duration>,
    /// How long a successful attempt to connect takes.
    pub answers_in: Duration,
    pub ends: Option<(Duration, End)>,
    /// When DescribeTasks does not show it.
    pub hidden: Range<Duration>,
    pub identity_changes: Option<Duration>,
    pub files_lost: Option<Duration>,
}

/// The age at which a task is RUNNING, and at which its container listens.
pub const RUNNING_AFTER: Duration = Duration::from_secs(12);
pub const LISTENING_AFTER: Duration = Duration::from_secs(11);

impl Default for TaskPlan {
    fn default() -> Self {
        Self {
            invisible: Duration::from_millis(1500),
            runs_after: Some(RUNNING_AFTER),
            listens_after: Some(LISTENING_AFTER),
            key_after: Duration::ZERO,
            agent_after: None,
            answers_in: Duration::ZERO,
            ends: None,
            hidden: Duration::ZERO..Duration::ZERO,
            identity_changes: None,
            files_lost: None,
        }
    }
}

/// The faults of one world. There are none by default.
#[derive(Debug)]
pub struct FaultPlan {
    pub odds: Odds,
    /// The plans of the tasks, in the order of their launch. Later tasks have the default.
    pub task_plans: Vec<TaskPlan>,
    /// Counted from the world's beginning.
    pub api_down: Range<Duration>,
    pub credentials_expired: Range<Duration>,
    pub network_down: Range<Duration>,
    /// How long each connection lasts.
    pub connections_live: Option<Duration>,
    pub injected: BTreeMap<Fault, u32>,
    random: StdRng,
    began: Instant,
}

impl FaultPlan {
    pub fn new(seed: u64) -> Self {
        Self {
            odds: Odds::default(),
            task_plans: Vec::new(),
            api_down: Duration::ZERO..Duration::ZERO,
            credentials_expired: Duration::ZERO..Duration::ZERO,
            network_down: Duration::ZERO..Duration::ZERO,
            connections_live: None,
            injected: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            began: Instant::now(),
        }
    }

    /// Removes all faults.
    pub fn clear(&mut self) {
        self.odds = Odds::default();
        self.connections_live = None;
        for window in [&mut self.api_down, &mut self.credentials_expired, &mut self.network_down] {
            *window = Duration::ZERO..Duration::ZERO;
        }
    }

    /// Counts an injected fault.
    pub fn record(&mut self, fault: Fault) {
        *self.injected.entry(fault).or_default() += 1;
    }

    pub fn has_injected(&self, faults: &[Fault]) -> bool {
        faults.iter().any(|fault| self.injected.contains_key(fault))
    }

    /// Whether the fault happens this time.
    pub fn inject(&mut self, share: f64, fault: Fault) -> bool {
        // Draw no random number for an impossible fault, so that runs stay comparable.
        let happens = share > 0.0 && self.random.random_bool(share);
        if happens {
            self.record(fault);
        }
        happens
    }

    /// Whether the fault happens now, in this window.
    pub fn inject_within(&mut self, window: &Range<Duration>, fault: Fault) -> bool {
        let happens = window.contains(&self.began.elapsed());
        if happens {
            self.record(fault);
        }
        happens
    }

    /// A random number of milliseconds in this range.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    /// A random index below `among`.
    pub fn pick(&mut self, among: usize) -> usize {
        self.random.random_range(0..among)
    }
}
