use proptest::{prelude::*, sample::Index};
use states::{RunContainer, RunId, RunOrder, ShellFacts, Signal};

use super::*;
use crate::delivery::command;

const MARK: &str = "0123456789abcdef0123456789abcdef";
const FIRST: &str = "11111111111111111111111111111111";
const SECOND: &str = "22222222222222222222222222222222";
const THIRD: &str = "33333333333333333333333333333333";
const SHORT_SCRIPT: &[u8] = b"echo hello";
/// Too long for the line.
const SCRIPT: &[u8] = &[b'#'; INPUT_PIECE + 1];

fn facts() -> ShellFacts {
    ShellFacts { run_dir: "/tmp/runs".into(), follows_with_tail: true, has_setsid: true, job: None }
}

fn order() -> RunOrder {
    RunOrder {
        run: RunId::new("0001-build").unwrap(),
        stage: "build".into(),
        forget: None,
        container: RunContainer::Coordinator,
    }
}

fn start(nonce: &str, script: &[u8]) -> Command {
    command::start(nonce, &facts(), &order(), &Bytes::copy_from_slice(script))
}

fn signal(nonce: &str) -> Command {
    command::signal(nonce, &facts(), &order(), Signal::Term)
}

/// A protocol, its clock, and what was written to its terminal.
struct Desk {
    protocol: Protocol,
    now: Instant,
    written: Vec<String>,
}

impl Desk {
    fn new() -> Self {
        let now = Instant::now();
        let protocol = Protocol::new(MARK, ArmorDecoder::default(), now);
        Self { protocol, now, written: Vec::new() }
    }

    fn run(&mut self, command: &Command, input: &[u8]) -> Verb {
        self.protocol.run(command, Bytes::copy_from_slice(input), self.now)
    }

    /// Polls a verb until it waits or is done, and writes what it wants to.
    fn poll(&mut self, verb: &mut Verb) -> Result<Progress, String> {
        loop {
            match self.protocol.poll(verb, self.now)? {
                Progress::Write(bytes) => {
                    self.written.push(String::from_utf8(bytes.to_vec()).unwrap());
                }
                progress => return Ok(progress),
            }
        }
    }

    fn helper_says(&mut self, text: &str) {
        self.protocol.on_bytes(format!("~{MARK} {text}\n").as_bytes());
    }

    fn is_done(&mut self, verb: &mut Verb) -> bool {
        let is_done = self.poll(verb).unwrap() == Progress::Done;
        if is_done {
            self.protocol.release(verb);
        }
        is_done
    }

    /// Runs a command that the helper accepts.
    fn runs(&mut self, command: &Command, input: &[u8]) {
        let mut verb = self.run(command, input);
        self.poll(&mut verb).unwrap();
        if input.len() > MOST_IN_LINE {
            self.helper_says("go");
            self.poll(&mut verb).unwrap();
        }
        self.helper_says("ok");
        assert!(self.is_done(&mut verb));
    }

    fn block(&mut self, nonce: &str, offset: u64, text: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let armored = STANDARD.encode(text);
        let block = format!("~{nonce} D {offset} {} p\n{armored}\n~{nonce} E\n", text.len());
        self.protocol.on_bytes(block.as_bytes());
    }

    /// Returns the events that have come: the first digit of the nonce, and what came.
    fn events(&mut self) -> Vec<(char, Chunk)> {
        let digit = |nonce: String| nonce.chars().next().unwrap();
        std::iter::from_fn(|| self.protocol.poll_event())
            .map(|event| match event {
                Event::Item(nonce, item) => (digit(nonce), item.into_chunk()),
                Event::Noise(nonce, bytes) => (digit(nonce), Chunk::Err(bytes)),
            })
            .collect()
    }
}

fn waits_for_an_answer(progress: Result<Progress, String>) -> bool {
    matches!(progress, Ok(Progress::Wait(Some(_))))
}

#[test]
fn a_script_is_sent_when_the_helper_is_ready_for_it() {
    let mut desk = Desk::new();
    let script = vec![b'#'; INPUT_PIECE + 60];
    let mut verb = desk.run(&start(FIRST, &script), &script);
    assert!(waits_for_an_answer(desk.poll(&mut verb)));
    let line = format!("{MARK} run {FIRST} {} 'start' '~{FIRST}' '/tmp/runs'", script.len());
    assert!(desk.written[0].starts_with(&line) && desk.written[0].ends_with('\n'));
    // Until then, an early acknowledgement is not one.
    desk.helper_says("ok");
    assert!(waits_for_an_answer(desk.poll(&mut verb)));
    assert_eq!(desk.written.len(), 1);
    desk.helper_says("go");
    assert!(waits_for_an_answer(desk.poll(&mut verb)));
    let lengths: Vec<usize> = desk.written[1..].iter().map(String::len).collect();
    assert_eq!(lengths, [INPUT_PIECE, 60]);
    desk.helper_says("ok");
    assert!(desk.is_done(&mut verb));
    assert_eq!(desk.written.len(), 3);
}

#[test]
fn a_short_script_is_in_the_line() {
    for script in [b"#".as_slice(), SHORT_SCRIPT, &[0xff; MOST_IN_LINE]] {
        let mut desk = Desk::new();
        let mut verb = desk.run(&start(FIRST, script), script);
        assert!(waits_for_an_answer(desk.poll(&mut verb)));
        let [line] = &desk.written[..] else { panic!("{:?}", desk.written) };
        let (words, input) = line.strip_suffix('\n').unwrap().rsplit_once(' ').unwrap();
        let begins = format!("{MARK} with {FIRST} {} 'start' '~{FIRST}' '/tmp/runs'", script.len());
        assert!(words.starts_with(&begins), "{line}");
        assert_eq!(STANDARD.decode(input).unwrap(), script);
        desk.helper_says("ok");
        assert!(desk.is_done(&mut verb));
        assert_eq!(desk.written.len(), 1);
    }
}

#[test]
fn verbs_are_sent_one_at_a_time_in_their_order() {
    let mut desk = Desk::new();
    let mut first = desk.run(&signal(FIRST), b"");
    let mut ping = desk.protocol.ping(desk.now);
    let mut second = desk.run(&signal(SECOND), b"");
    assert!(waits_for_an_answer(desk.poll(&mut first)));
    for waiting in [&mut ping, &mut second] {
        assert_eq!(desk.poll(waiting), Ok(Progress::Wait(None)));
    }
    desk.helper_says("ok");
    assert!(desk.is_done(&mut first));
    assert_eq!(desk.poll(&mut second), Ok(Progress::Wait(None)));
    assert!(waits_for_an_answer(desk.poll(&mut ping)));
    desk.helper_says("pong");
    assert!(desk.is_done(&mut ping));
    assert!(waits_for_an_answer(desk.poll(&mut second)));
    let verbs: Vec<&str> =
        desk.written.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(verbs, ["run", "ping\n", "run"]);
}

#[test]
fn a_verb_that_was_not_sent_can_be_given_up() {
    let mut desk = Desk::new();
    let (mut first, mut second) = (desk.run(&signal(FIRST), b""), desk.run(&signal(SECOND), b""));
    desk.poll(&mut first).unwrap();
    desk.poll(&mut second).unwrap();
    desk.protocol.release(&second);
    desk.helper_says("ok");
    assert!(desk.is_done(&mut first));
    desk.runs(&signal(SECOND), b"");
    assert!(desk.protocol.quit().is_some());
}

#[test]
fn after_an_interrupted_verb_nothing_is_written() {
    for answers in [&[][..], &["go"][..]] {
        let mut desk = Desk::new();
        let mut verb = desk.run(&start(FIRST, SCRIPT), SCRIPT);
        desk.poll(&mut verb).unwrap();
        for answer in answers {
            desk.helper_says(answer);
            desk.poll(&mut verb).unwrap();
        }
        let written = desk.written.len();
        desk.protocol.release(&verb);
        desk.protocol.abandon(FIRST);
        // The late answer changes nothing: the caller is gone.
        desk.helper_says("ok");
        let mut next = desk.run(&signal(SECOND), b"");
        let refused = desk.poll(&mut next).unwrap_err();
        assert!(refused.contains("interrupted"), "{refused}");
        desk.protocol.release(&next);
        let mut ping = desk.protocol.ping(desk.now);
        assert!(desk.poll(&mut ping).is_err());
        desk.protocol.release(&ping);
        assert_eq!(desk.protocol.quit(), None);
        assert_eq!(desk.written.len(), written);
    }
}

#[test]
fn an_answer_that_does_not_come_is_waited_for_since_the_last_byte() {
    let mut desk = Desk::new();
    let mut verb = desk.run(&start(FIRST, SCRIPT), SCRIPT);
    desk.poll(&mut verb).unwrap();
    desk.now += ANSWER_WITHIN - Duration::from_secs(1);
    desk.helper_says("go");
    let until = desk.now + ANSWER_WITHIN;
    assert_eq!(desk.poll(&mut verb), Ok(Progress::Wait(Some(until))));
    desk.now = until - Duration::from_millis(1);
    assert_eq!(desk.poll(&mut verb), Ok(Progress::Wait(Some(until))));
    desk.now = until;
    let late = desk.poll(&mut verb).unwrap_err();
    assert_eq!(late, "the container's shell did not answer within 120 s");
}

#[test]
fn answers_to_no_verb_are_not_kept_for_the_next() {
    let mut desk = Desk::new();
    for _ in 0..1000 {
        desk.helper_says("ok");
    }
    assert_eq!(desk.protocol.answers.len(), MOST_ANSWERS);
    let mut verb = desk.run(&signal(FIRST), b"");
    assert!(waits_for_an_answer(desk.poll(&mut verb)));
    desk.helper_says("ok");
    assert!(desk.is_done(&mut verb));
}

#[test]
fn output_is_passed_on_in_order_and_ends_with_the_command() {
    let mut desk = Desk::new();
    desk.runs(&start(FIRST, SCRIPT), SCRIPT);
    desk.block(FIRST, 0, "hello ");
    desk.protocol.on_bytes(format!("~{FIRST} started\nwarning\n").as_bytes());
    desk.block(FIRST, 6, "world");
    desk.block(SECOND, 0, "of no command");
    desk.helper_says(&format!("end {FIRST} 3"));
    desk.block(FIRST, 11, "too late");
    let expected = [
        ('1', Chunk::Out("hello ".into())),
        ('1', Chunk::Err(format!("{FIRST} started\n").into())),
        ('1', Chunk::Err("warning\n".into())),
        ('1', Chunk::Out("world".into())),
        ('1', Chunk::Ended { status: Some(3) }),
    ];
    let events: Vec<_> =
        desk.events().into_iter().filter(|event| event.1 != Chunk::Err("\n".into())).collect();
    assert_eq!(events, expected);
}

#[test]
fn a_gap_or_damage_loses_the_run_and_no_other_command() {
    let damage = format!("~{FIRST} D 0 5 p\n!!!!\n~{FIRST} E\n");
    for bytes in [format!("~{FIRST} D 5 1 p\nYQ==\n~{FIRST} E\n"), damage] {
        let mut desk = Desk::new();
        desk.runs(&start(FIRST, SCRIPT), SCRIPT);
        desk.runs(&signal(SECOND), b"");
        desk.protocol.on_bytes(bytes.as_bytes());
        desk.helper_says(&format!("end {SECOND} 0"));
        let mut events = desk.events();
        events.retain(|(_, chunk)| !matches!(chunk, Chunk::Err(_)));
        assert!(matches!(&events[0], ('1', Chunk::Lost(_))), "{events:?}");
        assert_eq!(events[1..], [('2', Chunk::Ended { status: Some(0) })]);
    }
}

#[test]
fn a_second_run_waits_for_an_abandoned_one_to_end() {
    let mut desk = Desk::new();
    desk.runs(&start(FIRST, SCRIPT), SCRIPT);
    assert!(desk.protocol.abandon(FIRST));
    let mut second = desk.run(&start(SECOND, SCRIPT), SCRIPT);
    let until = desk.now + FOLLOWER_ENDS_WITHIN;
    assert_eq!(desk.poll(&mut second), Ok(Progress::Wait(Some(until))));
    // Signals do not wait.
    desk.runs(&signal(THIRD), b"");
    desk.helper_says(&format!("end {FIRST} 0"));
    assert!(waits_for_an_answer(desk.poll(&mut second)));
    assert!(desk.written.last().unwrap().contains("'start'"));

    let mut desk = Desk::new();
    desk.runs(&start(FIRST, SCRIPT), SCRIPT);
    desk.protocol.abandon(FIRST);
    let mut second = desk.run(&start(SECOND, SCRIPT), SCRIPT);
    desk.poll(&mut second).unwrap();
    desk.now += FOLLOWER_ENDS_WITHIN;
    let refused = desk.poll(&mut second).unwrap_err();
    assert!(refused.contains("already follows another run"), "{refused}");
}

#[test]
fn the_end_of_the_session_ends_every_command_and_verb() {
    let mut desk = Desk::new();
    desk.runs(&start(FIRST, SCRIPT), SCRIPT);
    let mut verb = desk.run(&signal(SECOND), b"");
    desk.poll(&mut verb).unwrap();
    desk.protocol.on_end("reset".to_owned());
    assert_eq!(desk.poll(&mut verb), Err("reset".to_owned()));
    desk.protocol.release(&verb);
    let mut events = desk.events();
    events.sort_by_key(|(nonce, _)| *nonce);
    let lost = || Chunk::Lost("reset".to_owned());
    assert_eq!(events, [('1', lost()), ('2', lost())]);
    let mut later = desk.run(&signal(SECOND), b"");
    assert_eq!(desk.poll(&mut later), Err("reset".to_owned()));
}

#[test]
fn a_ping_is_due_some_time_after_the_answer_to_the_last_one() {
    let mut desk = Desk::new();
    assert_eq!(desk.protocol.ping_due(), desk.now + PING_EVERY);
    desk.now += PING_EVERY;
    let mut ping = desk.protocol.ping(desk.now);
    assert!(waits_for_an_answer(desk.poll(&mut ping)));
    assert_eq!(desk.written, [format!("{MARK} ping\n")]);
    desk.now += Duration::from_secs(7);
    desk.helper_says("pong");
    assert!(desk.is_done(&mut ping));
    assert_eq!(desk.protocol.ping_due(), desk.now + PING_EVERY);
}

#[derive(Debug, Clone)]
enum Deed {
    Begin(Option<&'static [u8]>),
    Poll(Index),
    GiveUp(Index),
    Say(&'static str),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        prop::sample::select(vec![None, Some(SHORT_SCRIPT), Some(SCRIPT)]).prop_map(Deed::Begin),
        any::<Index>().prop_map(Deed::Poll),
        any::<Index>().prop_map(Deed::Poll),
        any::<Index>().prop_map(Deed::GiveUp),
        prop::sample::select(vec!["go", "ok", "pong", "end 11111111111111111111111111111111 0"])
            .prop_map(Deed::Say),
        (0..200_u64).prop_map(Deed::Wait),
    ]
}

proptest! {
    /// Whatever the container says, and whichever caller gives up: verbs never mix on the terminal,
    /// and nothing follows one that was given up.
    #[test]
    fn verbs_are_whole_on_the_terminal(deeds in prop::collection::vec(deed(), 0..60)) {
        let mut desk = Desk::new();
        // The verbs that are not done, and whether each was sent.
        let mut verbs: Vec<(Verb, bool)> = Vec::new();
        let mut interrupted_at = None;
        for deed in deeds {
            match deed {
                Deed::Begin(script) => {
                    let verb = match script {
                        Some(script) => desk.run(&start(FIRST, script), script),
                        None => desk.run(&signal(SECOND), b""),
                    };
                    verbs.push((verb, false));
                }
                Deed::Poll(at) if !verbs.is_empty() => {
                    let at = at.index(verbs.len());
                    let (verb, is_sent) = &mut verbs[at];
                    let written = desk.written.len();
                    let progress = desk.poll(verb);
                    *is_sent |= desk.written.len() > written;
                    if let Err(_) | Ok(Progress::Done) = progress {
                        desk.protocol.release(verb);
                        if progress.is_err() && *is_sent {
                            interrupted_at.get_or_insert(desk.written.len());
                        }
                        verbs.remove(at);
                    }
                }
                Deed::GiveUp(at) if !verbs.is_empty() => {
                    let (verb, is_sent) = verbs.remove(at.index(verbs.len()));
                    desk.protocol.release(&verb);
                    if is_sent {
                        interrupted_at.get_or_insert(desk.written.len());
                    }
                }
                Deed::Poll(_) | Deed::GiveUp(_) => {}
                Deed::Say(text) => desk.helper_says(text),
                Deed::Wait(seconds) => desk.now += Duration::from_secs(seconds),
            }
        }
        prop_assert!(interrupted_at.is_none_or(|at| at == desk.written.len()));
        let mut written = desk.written.iter().peekable();
        while let Some(line) = written.next() {
            let verb = line.strip_prefix(MARK).unwrap_or_default();
            let with = verb.starts_with(" with ");
            prop_assert!((with || verb.starts_with(" run ")) && line.ends_with('\n'), "{line}");
            prop_assert!(!with || line.contains("'start'"), "{line}");
            let script_begins = |next: &&String| next.as_bytes() == &SCRIPT[..INPUT_PIECE];
            if written.next_if(script_begins).is_some() {
                prop_assert!(!with && line.contains("'start'"));
                let rest = written.next_if(|next| next.as_bytes() == &SCRIPT[INPUT_PIECE..]);
                prop_assert!(rest.is_some() || written.peek().is_none(), "a verb follows a piece");
            } else if !with && line.contains("'start'") {
                prop_assert!(written.peek().is_none(), "a verb follows one without its script");
            }
        }
    }
}
