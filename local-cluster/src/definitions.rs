//! Task definitions: what ECS keeps of them, what it checks, and how often they may be registered.

mod container;
mod size;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) use container::{Condition, ContainerDefinition, LogStream, pairs};
pub(crate) use size::{check_pair, check_storage};

use crate::{
    api::{ApiError, check_tags, strings, text},
    clock::seconds,
    settings::RegistrationRate,
};

/// Longest request of RegisterTaskDefinition, in bytes (ECS service quotas).
const LONGEST: usize = 64 * 1024;
/// Most containers of a task definition (ECS service quotas).
const MOST_CONTAINERS: usize = 10;

/// A revision of a task definition.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) family: String,
    pub(crate) revision: usize,
    pub(crate) containers: Vec<ContainerDefinition>,
    pub(crate) tags: Vec<Value>,
    /// The request, without its tags.
    request: Value,
    registered_at: f64,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    status: DefinitionStatus,
    deregistered_at: Option<f64>,
}

/// A revision's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DefinitionStatus {
    Active,
    Inactive,
    DeleteInProgress,
}

impl DefinitionStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::DeleteInProgress => "DELETE_IN_PROGRESS",
        }
    }
}

impl Definition {
    /// Parses and checks a request of RegisterTaskDefinition.
    pub(crate) fn parse(request: &Value) -> Result<Self, ApiError> {
        let length = request.to_string().len();
        if length > LONGEST {
            return Err(ApiError::client(format!(
                "Actual length: '{length}'. Max allowed length is '{LONGEST}' bytes."
            )));
        }
        let family = text(request, "family")
            .ok_or_else(|| ApiError::client("Family should not be null or empty."))?;
        if !is_name(family) {
            return Err(ApiError::client("Family contains invalid characters."));
        }
        check_task(request)?;
        let volumes: BTreeSet<&str> = request
            .get("volumes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|volume| text(volume, "name"))
            .collect();
        if !volumes.iter().all(|name| is_name(name)) {
            return Err(ApiError::client("Volume.name contains invalid characters."));
        }
        let containers = request
            .get("containerDefinitions")
            .and_then(Value::as_array)
            .filter(|containers| !containers.is_empty())
            .ok_or_else(|| ApiError::client("Container list cannot be empty."))?;
        if containers.len() > MOST_CONTAINERS {
            return Err(ApiError::client(format!(
                "A task definition has at most {MOST_CONTAINERS} containers."
            )));
        }
        let parsed = container::parse_all(containers, &volumes)?;
        let tags = request.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
        check_tags(&tags)?;
        let mut kept = request.clone();
        kept["containerDefinitions"] =
            containers.iter().map(container::with_defaults).collect::<Vec<_>>().into();
        if let Some(object) = kept.as_object_mut() {
            object.remove("tags");
            for (name, value) in [
                ("networkMode", json!("awsvpc")),
                ("requiresCompatibilities", json!(["FARGATE"])),
                ("volumes", json!([])),
                ("placementConstraints", json!([])),
            ] {
                object.entry(name).or_insert(value);
            }
        }
        Ok(Self {
            family: family.to_owned(),
            revision: 0,
            containers: parsed,
            tags,
            request: kept,
            registered_at: seconds(),
            state: Mutex::new(State { status: DefinitionStatus::Active, deregistered_at: None }),
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.family, self.revision)
    }

    /// Returns one of the request's fields.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.request.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn container(&self, name: &str) -> Option<&ContainerDefinition> {
        self.containers.iter().find(|container| container.name == name)
    }

    pub(crate) fn status(&self) -> DefinitionStatus {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).status
    }

    fn enter(&self, status: DefinitionStatus) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.status = status;
        state.deregistered_at.get_or_insert_with(seconds);
    }

    /// Formats it for the API.
    pub(crate) fn shown(&self, arn: &str) -> Value {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = self.request.clone();
        shown["taskDefinitionArn"] = json!(arn);
        shown["revision"] = json!(self.revision);
        shown["status"] = json!(state.status.name());
        shown["compatibilities"] = json!(["EC2", "FARGATE"]);
        shown["registeredAt"] = json!(self.registered_at);
        if let Some(at) = state.deregistered_at {
            shown["deregisteredAt"] = json!(at);
        }
        shown
    }
}

/// Checks what belongs to the task rather than to a container.
fn check_task(request: &Value) -> Result<(), ApiError> {
    let is_fargate = strings(request, "requiresCompatibilities")
        .is_some_and(|all| all.iter().any(|compatibility| compatibility == "FARGATE"));
    let given = |name: &str| request.get(name).filter(|value| !value.is_null());
    let mode = text(request, "networkMode").unwrap_or("awsvpc");
    if mode != "awsvpc" {
        return Err(ApiError::client("Fargate only supports network mode ‘awsvpc’."));
    }
    match (given("cpu"), given("memory")) {
        (Some(cpu), Some(memory)) => drop(check_pair(cpu, memory)?),
        (None, _) if is_fargate => {
            return Err(ApiError::client(
                "Fargate requires that 'cpu' be defined at the task level.",
            ));
        }
        (_, None) if is_fargate => {
            return Err(ApiError::client(
                "Fargate requires that 'memory' be defined at the task level.",
            ));
        }
        _ => {}
    }
    check_storage(given("ephemeralStorage"))?;
    let architecture = request.pointer("/runtimePlatform/cpuArchitecture").and_then(Value::as_str);
    match architecture {
        None | Some("X86_64" | "ARM64") => Ok(()),
        Some(other) => {
            Err(ApiError::client(format!("Invalid runtimePlatform: cpuArchitecture '{other}'.")))
        }
    }
}

/// Whether this is a name of a family, a container or a volume: letters, digits, hyphens and
/// underscores, 255 at most.
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// All task definitions.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    known: Vec<Arc<Definition>>,
    /// Family → its last revision: numbers are not used again.
    last: HashMap<String, usize>,
    /// Family → until when a registration of it is under way.
    registering: HashMap<String, Instant>,
    bucket: Option<Bucket>,
}

impl Definitions {
    /// Registers a revision. `pending` is how long its answer takes: until then, other
    /// registrations of the family are concurrent.
    pub(crate) fn register(
        &mut self,
        mut definition: Definition,
        pending: Duration,
    ) -> Result<Arc<Definition>, ApiError> {
        let now = Instant::now();
        self.registering.retain(|_, until| *until > now);
        if self.registering.contains_key(&definition.family) {
            return Err(concurrent());
        }
        if !pending.is_zero() {
            self.registering.insert(definition.family.clone(), now + pending);
        }
        let last = self.last.entry(definition.family.clone()).or_default();
        *last += 1;
        definition.revision = *last;
        let definition = Arc::new(definition);
        self.known.push(Arc::clone(&definition));
        Ok(definition)
    }

    /// Whether a registration exceeds the rate.
    pub(crate) fn is_throttled(&mut self, rate: Option<&RegistrationRate>) -> bool {
        let Some(rate) = rate else { return false };
        let now = Instant::now();
        !self.bucket.get_or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    /// Finds a revision by `family:revision` or ARN, or the latest active one by `family`.
    pub(crate) fn find(&self, given: &str) -> Option<Arc<Definition>> {
        let name = given.rsplit('/').next().unwrap_or(given);
        if name.contains(':') {
            return self.known.iter().find(|definition| definition.name() == name).cloned();
        }
        let is_latest = |definition: &&Arc<Definition>| {
            definition.family == name && definition.status() == DefinitionStatus::Active
        };
        self.known.iter().filter(is_latest).max_by_key(|definition| definition.revision).cloned()
    }

    /// Makes a revision INACTIVE.
    pub(crate) fn deregister(&self, given: &str) -> Option<Arc<Definition>> {
        let definition = self.find(given)?;
        if definition.status() == DefinitionStatus::Active {
            definition.enter(DefinitionStatus::Inactive);
        }
        Some(definition)
    }

    /// Begins to delete a revision that is not ACTIVE.
    pub(crate) fn delete(&self, given: &str) -> Result<Arc<Definition>, &'static str> {
        let definition = self.find(given).ok_or(
            "The specified task definition does not exist. Specify a valid account, family, revision and try again.",
        )?;
        if definition.status() == DefinitionStatus::Active {
            return Err(
                "The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
            );
        }
        definition.enter(DefinitionStatus::DeleteInProgress);
        Ok(definition)
    }

    /// Forgets the revisions being deleted that no task uses.
    pub(crate) fn forget(&mut self, is_used: impl Fn(&Definition) -> bool) {
        self.known.retain(|definition| {
            definition.status() != DefinitionStatus::DeleteInProgress || is_used(definition)
        });
    }

    /// Returns all revisions, by family and revision.
    pub(crate) fn all(&self) -> Vec<Arc<Definition>> {
        let mut all = self.known.clone();
        all.sort_by(|a, b| (&a.family, a.revision).cmp(&(&b.family, b.revision)));
        all
    }
}

/// The error of concurrent registrations of a family.
pub(crate) fn concurrent() -> ApiError {
    ApiError::client(
        "Too many concurrent attempts to create a new revision of the specified family.",
    )
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(rate: &RegistrationRate, now: Instant) -> Self {
        Self { tokens: f64::from(rate.burst), filled: now }
    }

    fn take(&mut self, rate: &RegistrationRate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(f64::from(rate.burst));
        self.filled = now;
        let has_token = self.tokens >= 1.0;
        if has_token {
            self.tokens -= 1.0;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_has_a_burst_and_a_rate() {
        let rate = RegistrationRate { per_second: 2.0, burst: 3 };
        let start = Instant::now();
        let mut bucket = Bucket::full(&rate, start);
        let mut taken = |after_ms: u64| {
            let now = start + Duration::from_millis(after_ms);
            std::iter::repeat_with(|| bucket.take(&rate, now)).take_while(|taken| *taken).count()
        };
        assert_eq!([taken(0), taken(400), taken(500), taken(60_000)], [3, 0, 1, 3]);
    }

    #[test]
    fn revisions_are_not_used_again() {
        let definition = || {
            let container = json!({ "name": "c", "image": "local" });
            Definition::parse(&json!({ "family": "f", "containerDefinitions": [container] }))
                .unwrap()
        };
        let mut definitions = Definitions::default();
        for expected in ["f:1", "f:2"] {
            let name = definitions.register(definition(), Duration::ZERO).unwrap().name();
            assert_eq!(name, expected);
        }
        definitions.deregister("f:2").unwrap();
        assert_eq!(definitions.find("f").unwrap().revision, 1);
        definitions.delete("f:2").unwrap();
        definitions.forget(|_| false);
        assert!(definitions.find("f:2").is_none());
        assert_eq!(definitions.register(definition(), Duration::ZERO).unwrap().revision, 3);
    }
}
