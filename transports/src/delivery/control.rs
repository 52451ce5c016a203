//! The control lines of the supervisor, on its stderr.

use states::{JobShell, ShellFacts, Usage, foreign_text::clipped};

/// Bytes of other text on stderr that are kept to explain a failure.
const NOISE_KEPT: usize = 2000;
/// Longest control line, in bytes; a longer one is noise.
const LONGEST_LINE: usize = 8 * 1024;

/// Longest name of a run directory.
const LONGEST_DIRECTORY: usize = 1024;

/// A reply of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Ready(ShellFacts),
    /// Comes before `Ready`, in tasks with a container of the job's own.
    Job(JobShell),
    NoPlace,
    /// The shared volume cannot be used.
    NoVolume,
    /// These programs are missing.
    NoJobTools(String),
    /// The job's container does not take orders.
    NotUp,
    Started,
    /// Why, if the supervisor says so itself.
    NotStarted(String),
    NoInterpreter(String),
    Truncated(String),
    Damaged,
    /// Comes before `Exit`, where the container shows what it has used.
    Used(Usage),
    Exit {
        code: i32,
        total: u64,
    },
    Lost(String),
    Unknown(String),
    Done,
    Nonsense(String),
}

/// Splits stderr into marked lines and noise. Its memory is bounded for any input.
#[derive(Debug)]
pub(super) struct Control {
    mark: String,
    partial: Vec<u8>,
    replies: std::collections::VecDeque<Reply>,
    noise: Vec<u8>,
}

impl Control {
    pub(super) fn new(nonce: &str) -> Self {
        Self {
            mark: format!("{nonce} "),
            partial: Vec::new(),
            replies: std::collections::VecDeque::new(),
            noise: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() > LONGEST_LINE {
                let line = std::mem::take(&mut self.partial);
                self.line(&line);
            }
        }
    }

    pub(super) fn reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// The unmarked text, made safe for people to read.
    pub(super) fn noise(&self) -> String {
        clipped(&String::from_utf8_lossy(&self.noise))
    }

    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        // A login shell may have written to the line before the mark.
        if let Some((_, reply)) = text.split_once(&self.mark) {
            self.replies.push_back(parse(reply.trim_end()));
        } else {
            let room = NOISE_KEPT.saturating_sub(self.noise.len());
            self.noise.extend_from_slice(&line[..line.len().min(room)]);
        }
    }
}

fn parse(text: &str) -> Reply {
    let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
    let nonsense = || Reply::Nonsense(clipped(text));
    match kind {
        "ready" => facts(rest).map_or_else(nonsense, Reply::Ready),
        "job" => job(rest).map_or_else(nonsense, Reply::Job),
        "noplace" => Reply::NoPlace,
        "novolume" => Reply::NoVolume,
        "nojobtools" => Reply::NoJobTools(clipped(rest)),
        "notup" => Reply::NotUp,
        "started" => Reply::Started,
        "notstarted" => Reply::NotStarted(clipped(rest)),
        "nointerpreter" => Reply::NoInterpreter(clipped(rest)),
        "damaged" => Reply::Damaged,
        "used" => Reply::Used(usage(rest)),
        "truncated" => Reply::Truncated(clipped(rest)),
        "exit" => {
            match rest.split_once(' ').map(|(code, total)| (code.parse(), total.trim().parse())) {
                Some((Ok(code), Ok(total))) => Reply::Exit { code, total },
                _ => nonsense(),
            }
        }
        "lost" => Reply::Lost(clipped(rest)),
        "unknown" => Reply::Unknown(clipped(rest)),
        "done" => Reply::Done,
        _ => nonsense(),
    }
}

fn facts(text: &str) -> Option<ShellFacts> {
    let mut words = text.splitn(3, ' ');
    let (follows_with_tail, has_setsid) = (flag(words.next())?, flag(words.next())?);
    let run_dir = words.next().filter(|dir| is_directory(dir))?.to_owned();
    Some(ShellFacts { run_dir, follows_with_tail, has_setsid, job: None })
}

fn job(text: &str) -> Option<JobShell> {
    let mut words = text.splitn(4, ' ');
    let mut next = || flag(words.next());
    let (has_bash, has_setsid, can_edit_hosts) = (next()?, next()?, next()?);
    let run_dir = words.next().filter(|dir| is_directory(dir))?.to_owned();
    Some(JobShell { run_dir, has_bash, has_setsid, can_edit_hosts })
}

/// Reads what a container has used. The job can write anything there, and a run does not fail for
/// it: what is no number is not known.
fn usage(text: &str) -> Usage {
    let mut words = text.split(' ');
    let mut number = || {
        let word = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()))?;
        word.parse().ok()
    };
    Usage { memory: number(), cpu: number() }
}

fn flag(word: Option<&str>) -> Option<bool> {
    match word? {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

/// Whether `name` can be the run directory. Snapshots hold it, and the journal records it with each
/// answer of the container.
fn is_directory(name: &str) -> bool {
    name.starts_with('/') && name.len() <= LONGEST_DIRECTORY && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replies(pieces: &[&[u8]]) -> (Vec<Reply>, String) {
        let mut control = Control::new("n0nce");
        for piece in pieces {
            control.push(piece);
        }
        (std::iter::from_fn(|| control.reply()).collect(), control.noise())
    }

    #[test]
    fn finds_marked_lines_in_noise() {
        let (replies, noise) = replies(&[
            b"motd\nn0n",
            b"ce exit 42 300\nmkdir: No space left on device\nother exit 0 0\n",
        ]);
        assert_eq!(replies, [Reply::Exit { code: 42, total: 300 }]);
        assert_eq!(noise, "motd mkdir: No space left on device other exit 0 0");
    }

    #[test]
    fn reads_facts() {
        let (replies, _) = replies(&[b"n0nce ready 1 0 /tmp/with space\n"]);
        let facts = ShellFacts {
            run_dir: "/tmp/with space".into(),
            follows_with_tail: true,
            has_setsid: false,
            job: None,
        };
        assert_eq!(replies, [Reply::Ready(facts)]);
    }

    #[test]
    fn reads_the_job_containers_facts() {
        let (read, _) =
            replies(&[b"n0nce job 1 0 1 /fargate/runs\nn0nce job 1 x 1 /fargate/runs\n"]);
        let job = JobShell {
            run_dir: "/fargate/runs".into(),
            has_bash: true,
            has_setsid: false,
            can_edit_hosts: true,
        };
        assert_eq!(read, [Reply::Job(job), Reply::Nonsense("job 1 x 1 /fargate/runs".into())]);
    }

    #[test]
    fn usage_is_numbers_or_unknown() {
        let used = |memory, cpu| Reply::Used(Usage { memory, cpu });
        for (line, expected) in [
            ("used 1181116006 8200000", used(Some(1_181_116_006), Some(8_200_000))),
            ("used - 7", used(None, Some(7))),
            ("used max -1", used(None, None)),
            ("used 99999999999999999999 +5 x", used(None, None)),
            ("used", used(None, None)),
        ] {
            let (read, _) = replies(&[format!("n0nce {line}\n").as_bytes()]);
            assert_eq!(read, [expected], "{line}");
        }
    }

    #[test]
    fn container_text_is_clipped_and_made_harmless() {
        let long = "x\u{1b}".repeat(3000);
        for (line, tells) in [
            (format!("n0nce lost {long}\n"), "Lost"),
            (format!("n0nce nointerpreter {long}\n"), "NoInterpreter"),
            (format!("n0nce ready 1 1 /{long}\n"), "Nonsense"),
            ("n0nce ready 1 1 /tmp/\u{7}\n".to_owned(), "Nonsense"),
        ] {
            let (replies, _) = replies(&[line.as_bytes()]);
            let [Reply::Lost(text) | Reply::NoInterpreter(text) | Reply::Nonsense(text)] =
                &replies[..]
            else {
                panic!("{replies:?}")
            };
            assert!(
                text.chars().count() <= states::foreign_text::MAX_CHARS
                    && !text.contains(char::is_control),
                "{tells}: {text:?}"
            );
            assert!(format!("{replies:?}").contains(tells), "{replies:?}");
        }
        let (_, noise) = replies(&[long.as_bytes(), b"\n"]);
        assert!(
            noise.chars().count() <= states::foreign_text::MAX_CHARS
                && !noise.contains(char::is_control),
            "{noise:?}"
        );
    }

    proptest! {
        #[test]
        fn is_bounded_and_never_panics(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20)) {
            let mut control = Control::new("n0nce");
            for piece in &pieces {
                control.push(piece);
            }
            prop_assert!(control.partial.len() <= LONGEST_LINE + 3000 && control.noise.len() <= NOISE_KEPT);
        }

        #[test]
        fn split_input_parses_alike(text in "(n0nce (exit -?[0-9]{1,12} [0-9]{1,12}|started|lost x|zzz)\n|[a-z ]{0,9}\n){0,8}", at in 0usize..200) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            prop_assert_eq!(replies(&[bytes]), replies(&[&bytes[..at], &bytes[at..]]));
        }
    }
}
