//! A server in front of moto that answers in AWS's place: it refuses, it changes answers, and it
//! knows what moto does not. It records every call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::http::Message;

/// What the server does beside passing calls on.
#[derive(Default)]
pub struct Behaviour {
    /// Actions that are refused; `*`: all.
    pub denied: BTreeSet<String>,
    /// Whether every call is refused as those with an expired session are.
    pub are_credentials_expired: bool,
    /// Actions that IAM's simulator does not allow.
    pub not_simulated: BTreeSet<String>,
    /// Quotas, by their codes.
    pub quotas: BTreeMap<String, f64>,
    /// Texts to replace in the answers of actions.
    pub replaced: Vec<(&'static str, String, String)>,
    /// Values to set in the JSON answers of actions, by their pointers.
    pub set: Vec<(&'static str, String, Value)>,
    /// The instance's metadata, by path.
    pub metadata: BTreeMap<String, String>,
    /// How far the clock of the services is behind, in seconds.
    pub clock_behind: i64,
}

impl Behaviour {
    /// The manager is an instance with this address, in this security group.
    pub fn place_manager(&mut self, address: &str, group: &str) {
        const MAC: &str = "02:00:00:00:00:01";
        let of_interface = |name: &str| format!("network/interfaces/macs/{MAC}/{name}");
        for (path, value) in [
            ("mac".to_owned(), MAC),
            (of_interface("local-ipv4s"), address),
            (of_interface("security-group-ids"), group),
        ] {
            self.metadata.insert(path, value.to_owned());
        }
    }
}

#[derive(Default)]
struct State {
    behaviour: Mutex<Behaviour>,
    calls: Mutex<Vec<String>>,
}

/// The server.
pub struct Front {
    pub endpoint: String,
    state: Arc<State>,
}

impl Front {
    /// Starts it before moto, or before nothing.
    pub fn start(upstream: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.answer(&stream, upstream));
            }
        });
        Self { endpoint, state }
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    /// Returns the actions that were called, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state.calls.lock().unwrap().clone()
    }
}

/// An error answer, in the protocol of the request.
fn refusal(is_json: bool, code: &str, message: &str) -> Message {
    let body = if is_json {
        json!({ "__type": code, "message": message }).to_string()
    } else {
        format!(
            "<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        )
    };
    Message { first: "HTTP/1.1 403 Forbidden".to_owned(), headers: Vec::new(), body: body.into() }
}

fn success(body: String) -> Message {
    Message { first: "HTTP/1.1 200 OK".to_owned(), headers: Vec::new(), body: body.into() }
}

impl State {
    fn answer(&self, stream: &TcpStream, upstream: Option<&str>) -> Option<()> {
        let request = Message::read(stream)?;
        let path = request.first.split(' ').nth(1).unwrap_or_default().to_owned();
        if let Some(path) = path.strip_prefix("/latest/") {
            return self.metadata(path).write(stream).ok();
        }
        let target = request.header("x-amz-target").map(str::to_owned);
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let field = |name: &str| {
            let mut fields = form.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(n, _)| *n == name).map(|(_, value)| value.to_owned())
        };
        let action = match &target {
            Some(target) => target.rsplit('.').next().unwrap_or_default().to_owned(),
            None => field("Action").unwrap_or_default(),
        };
        self.calls.lock().unwrap().push(action.clone());
        let is_json = target.is_some();
        let behaviour = self.behaviour.lock().unwrap();
        let mut answer = if behaviour.are_credentials_expired {
            let code = if is_json { "ExpiredTokenException" } else { "ExpiredToken" };
            refusal(is_json, code, "The security token included in the request is expired")
        } else if behaviour.denied.contains(&action) || behaviour.denied.contains("*") {
            let said = format!("User: x is not authorized to perform: {action}");
            refusal(is_json, if is_json { "AccessDeniedException" } else { "AccessDenied" }, &said)
        } else {
            match action.as_str() {
                "GetServiceQuota" => {
                    let asked: Value = serde_json::from_slice(&request.body).unwrap();
                    let code = asked["QuotaCode"].as_str().unwrap();
                    let value = behaviour.quotas.get(code).copied().unwrap_or(100.0);
                    success(json!({ "Quota": { "QuotaCode": code, "Value": value } }).to_string())
                }
                "SimulatePrincipalPolicy" => simulate(&form, &behaviour.not_simulated),
                _ => {
                    let above = TcpStream::connect(upstream?.trim_start_matches("http://")).ok()?;
                    request.write(&above).ok()?;
                    Message::read(&above)?
                }
            }
        };
        if let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) {
            for (_, pointer, value) in behaviour.set.iter().filter(|(of, ..)| *of == action) {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                if let Some(parent) = body.pointer_mut(parent) {
                    parent[key] = value.clone();
                }
            }
            answer.body = body.to_string().into();
        }
        for (_, from, to) in behaviour.replaced.iter().filter(|(of, ..)| *of == action) {
            let body = String::from_utf8(answer.body).unwrap();
            assert!(body.contains(from), "{action}: {from} is not in {body}");
            answer.body = body.replace(from, to).into();
        }
        answer.headers.retain(|header| !header.to_ascii_lowercase().starts_with("date:"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(now.as_secs()).unwrap() - behaviour.clock_behind;
        answer.headers.push(format!("Date: {}", http_date(seconds)));
        answer.write(stream).ok()
    }

    fn metadata(&self, path: &str) -> Message {
        let behaviour = self.behaviour.lock().unwrap();
        let found = match path {
            "api/token" => Some("token".to_owned()),
            _ => behaviour.metadata.get(path.trim_start_matches("meta-data/")).cloned(),
        };
        let mut answer = found.map_or_else(
            || Message { first: "HTTP/1.1 404 Not Found".to_owned(), ..Message::default() },
            success,
        );
        answer.headers.push("x-aws-ec2-metadata-token-ttl-seconds: 21600".to_owned());
        answer
    }
}

/// IAM's simulator: everything is allowed, except for these actions, and for `ACTION by KEY` with
/// this key in its context.
fn simulate(form: &str, denied: &BTreeSet<String>) -> Message {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let fields = || form.split('&').filter_map(|field| field.split_once('='));
    let keys: Vec<String> = fields()
        .filter(|(name, _)| name.ends_with("ContextKeyName"))
        .map(|(_, key)| decode(key))
        .collect();
    let actions = fields()
        .filter(|(name, _)| name.starts_with("ActionNames"))
        .map(|(_, action)| decode(action));
    let results: String = actions
        .map(|action| {
            let mut by_key = keys.iter().map(|key| format!("{action} by {key}"));
            let is_denied = denied.contains(&action) || by_key.any(|denied_by| denied.contains(&denied_by));
            let decision = if is_denied { "implicitDeny" } else { "allowed" };
            format!("<member><EvalActionName>{action}</EvalActionName><EvalDecision>{decision}</EvalDecision></member>")
        })
        .collect();
    success(format!(
        "<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult><EvaluationResults>{results}</EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"
    ))
}

/// RFC 9110, "Date/Time Formats".
fn http_date(seconds: i64) -> String {
    use aws_smithy_types::date_time::{DateTime, Format};
    DateTime::from_secs(seconds).fmt(Format::HttpDate).unwrap()
}
