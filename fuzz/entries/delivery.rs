//! Any reply of a container to the delivery protocol's commands: an answer, or an error.
//!
//! The first byte is the verb (`p`robe, `s`tart, `a`ttach, si`g`nal); then pieces, apart by 0x1e,
//! whose first byte says where they come from (`o`utput, `e`rror output, `x` the end, `l`oss). 0x01
//! stands for the command's own word: of output, only the first one, as scripts do not know it.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::Bytes;
use states::{Run as _, RunError, RunEvent, RunId, RunOrder, ShellFacts, Signal};
use transports::delivery::{self, Channel, Chunk, Exec};

/// Longer than this, a line is cut: then it matters how it was.
const LONGEST: usize = 8 * 1024;

pub fn run(data: &[u8]) {
    let Some((verb, pieces)) = data.split_first() else { return };
    if data.len() > LONGEST {
        return;
    }
    let whole = said(*verb, pieces, false);
    let in_bytes = said(*verb, pieces, true);
    assert_eq!(whole, in_bytes, "it matters where the stream was cut");
}

/// What the protocol makes of it: its output, and how it ended.
fn said(verb: u8, pieces: &[u8], in_bytes: bool) -> (Vec<u8>, String) {
    let facts = ShellFacts {
        run_dir: "/tmp".to_owned(),
        follows_with_tail: true,
        has_setsid: true,
        job: None,
    };
    let order = RunOrder {
        run: RunId::new("0000-build").expect("a valid id"),
        stage: "build".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    };
    let container = Container { said: pieces.to_vec(), in_bytes };
    match verb {
        b'p' => (
            Vec::new(),
            format!(
                "{:?}",
                now(delivery::probe(&container, None))
                    .map(|facts| facts.run_dir.len())
                    .map_err(|e| e.kind)
            ),
        ),
        b's' => followed(
            now(delivery::start(&container, &facts, &order, Bytes::from_static(b"true\n"))),
            0,
        ),
        b'a' => followed(now(delivery::attach(&container, &facts, &order, 7)), 7),
        b'g' => (
            Vec::new(),
            format!(
                "{:?}",
                now(delivery::signal(&container, &facts, &order, Signal::Term))
                    .map_err(|e| kind(&e))
            ),
        ),
        _ => (Vec::new(), String::new()),
    }
}

fn followed(run: Result<delivery::Followed, RunError>, from: u64) -> (Vec<u8>, String) {
    let mut output = Vec::new();
    let mut run = match run {
        Ok(run) => run,
        Err(e) => return (output, kind(&e)),
    };
    loop {
        match now(run.next()) {
            Ok(RunEvent::Started | RunEvent::Measured(_)) => {}
            Ok(RunEvent::Output(bytes)) => {
                assert!(!bytes.is_empty(), "an output of nothing");
                output.extend_from_slice(&bytes);
            }
            Ok(RunEvent::Exited { code, total }) => {
                assert!(
                    total <= from + output.len() as u64,
                    "an end at {total} after byte {}",
                    from + output.len() as u64
                );
                return (output, format!("exited with {code}"));
            }
            Err(e) => return (output, kind(&e)),
        }
    }
}

/// An error without its words, which may hold more of what was said, the later it was noticed.
fn kind(error: &RunError) -> String {
    let text = format!("{error:?}");
    text.split('(').next().unwrap_or_default().to_owned()
}

/// Nothing here waits for anything.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for more than was said"),
    }
}

struct Container {
    said: Vec<u8>,
    in_bytes: bool,
}

#[async_trait]
impl Exec for Container {
    async fn exec(&self, command: delivery::Command, _: Bytes) -> Result<Box<dyn Channel>, String> {
        let command = command.line();
        // The only word of 32 hexadecimal digits.
        let word = command
            .split('\'')
            .find(|word| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit()))
            .expect("the word");
        let mut chunks = Vec::new();
        let mut has_begun = false;
        for piece in self.said.split(|b| *b == 0x1e) {
            let Some((kind, text)) = piece.split_first() else { continue };
            let mut bytes = Vec::new();
            for b in text {
                let is_word =
                    *b == 1 && !(*kind == b'o' && std::mem::replace(&mut has_begun, true));
                if is_word { bytes.extend_from_slice(word.as_bytes()) } else { bytes.push(*b) }
            }
            let step = if self.in_bytes { 1 } else { bytes.len().max(1) };
            match kind {
                b'o' => {
                    chunks.extend(bytes.chunks(step).map(|b| Chunk::Out(Bytes::copy_from_slice(b))))
                }
                b'e' => {
                    chunks.extend(bytes.chunks(step).map(|b| Chunk::Err(Bytes::copy_from_slice(b))))
                }
                b'x' => chunks.push(Chunk::Ended { status: text.first().map(|b| u32::from(*b)) }),
                _ => chunks.push(Chunk::Lost("cut".to_owned())),
            }
        }
        Ok(Box::new(Pieces(chunks.into_iter())))
    }
}

struct Pieces(std::vec::IntoIter<Chunk>);

#[async_trait]
impl Channel for Pieces {
    async fn next(&mut self) -> Chunk {
        self.0.next().unwrap_or_else(|| Chunk::Lost("silence".to_owned()))
    }
}
