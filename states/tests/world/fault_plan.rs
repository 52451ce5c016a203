//! What goes wrong in the world, when, and what of it was met.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

macro_rules! faults {
    ($($fault:ident,)*) => {
        /// Everything that can go wrong. [`FaultPlan::met`] counts what did.
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

/// Shares, 0 to 1, of what may go wrong each time it is done.
#[derive(Debug, Clone, Default)]
pub struct Odds {
    /// Of all calls to ECS.
    pub throttled: f64,
    pub lost_call: f64,
    pub lost_answer: f64,
    pub garbled_answer: f64,
    /// Of everything that has an effect: it comes later than whoever wanted it waits, or lives.
    pub late_effect: f64,
    /// Of launches.
    pub no_capacity: f64,
    pub account_limit: f64,
    /// Of launches whose token an earlier call has used that is not done yet.
    pub launch_conflict: f64,
    pub launch_denied: f64,
    /// Of attempts to connect.
    pub unconnected: f64,
    /// Of connections: somewhere in their first moments.
    pub cut: f64,
    pub frozen: f64,
    /// Of scripts.
    pub not_started: f64,
    pub no_status: f64,
    /// Of writes.
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
    /// From then on, ECS says that it never heard of it.
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

/// What is going to become of a task. Times are after its launch.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// How long it is not to be seen after RunTask.
    pub invisible: Duration,
    /// `None`: never.
    pub runs_after: Option<Duration>,
    pub listens_after: Option<Duration>,
    pub key_after: Duration,
    /// When ECS shows its exec agent as RUNNING; `None`: it never says.
    pub agent_after: Option<Duration>,
    /// How long an attempt to connect takes that succeeds.
    pub answers_in: Duration,
    pub ends: Option<(Duration, End)>,
    /// DescribeTasks does not show it meanwhile.
    pub hidden: Range<Duration>,
    pub identity_changes: Option<Duration>,
    pub files_lost: Option<Duration>,
}

/// How old a task is when it RUNs, and when its container listens.
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

/// What goes wrong in one world. By default nothing does.
#[derive(Debug)]
pub struct FaultPlan {
    pub odds: Odds,
    /// Of the tasks, in the order of their launch; ordinary ones afterwards.
    pub task_plans: Vec<TaskPlan>,
    /// Times since the world's beginning.
    pub api_down: Range<Duration>,
    pub credentials_expired: Range<Duration>,
    pub network_down: Range<Duration>,
    /// How long each connection lives.
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

    /// Nothing goes wrong any more.
    pub fn clear(&mut self) {
        self.odds = Odds::default();
        self.connections_live = None;
        for window in [&mut self.api_down, &mut self.credentials_expired, &mut self.network_down] {
            *window = Duration::ZERO..Duration::ZERO;
        }
    }

    pub fn record(&mut self, fault: Fault) {
        *self.injected.entry(fault).or_default() += 1;
    }

    pub fn has_injected(&self, faults: &[Fault]) -> bool {
        faults.iter().any(|fault| self.injected.contains_key(fault))
    }

    /// Whether it goes wrong this time.
    pub fn inject(&mut self, share: f64, fault: Fault) -> bool {
        // No random number is drawn for what cannot happen: odd ones out stay comparable.
        let strikes = share > 0.0 && self.random.random_bool(share);
        if strikes {
            self.record(fault);
        }
        strikes
    }

    pub fn within(&mut self, window: &Range<Duration>, fault: Fault) -> bool {
        let strikes = window.contains(&self.began.elapsed());
        if strikes {
            self.record(fault);
        }
        strikes
    }

    /// Some milliseconds of this range.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    /// One of so many.
    pub fn pick(&mut self, among: usize) -> usize {
        self.random.random_range(0..among)
    }
}
