//! Following a run: its output in order, then its exit status.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use states::{Run, RunError, RunEvent, Usage, trace::fail};
use tracing::{Instrument as _, Span};

use super::{
    Channel, Chunk,
    control::{Control, Reply},
};

/// Most bytes before the stream's beginning, such as output of start-up files.
const LONGEST_PREAMBLE: usize = 64 * 1024;

/// A run that is being followed.
pub struct Followed {
    channel: Box<dyn Channel>,
    /// The span of the delivery, until the container has reported the start.
    beginning: Span,
    control: Control,
    /// The line before the spool's bytes on stdout; `None` once it has come.
    begin: Option<Vec<u8>>,
    preamble: BytesMut,
    /// Offset of the next byte.
    offset: u64,
    /// The script's exit status and its output's size, once known.
    exit: Option<(i32, u64)>,
    ready: VecDeque<RunEvent>,
    /// Whether the start was reported: a container may repeat it.
    is_started: bool,
    /// Whether its use was reported, likewise.
    is_measured: bool,
}

impl Followed {
    /// Follows a run by the command that `exec` runs. `span` lasts until the container has reported the start.
    pub(super) async fn begin(
        exec: impl Future<Output = Result<Box<dyn Channel>, String>>,
        nonce: &str,
        from: u64,
        span: Span,
    ) -> Result<Self, RunError> {
        let channel = exec.instrument(span.clone()).await.map_err(RunError::ConnectionLost);
        if let Err(error) = &channel {
            fail(&span, error.name());
        }
        Ok(Self::new(channel?, nonce, from, span))
    }

    /// Follows a run over its channel, from byte `from` of its output. `beginning` lasts until the
    /// container has reported the start.
    pub(super) fn new(channel: Box<dyn Channel>, nonce: &str, from: u64, beginning: Span) -> Self {
        Self {
            channel,
            beginning,
            control: Control::new(nonce),
            begin: Some(format!("{nonce} begin\n").into_bytes()),
            preamble: BytesMut::new(),
            offset: from,
            exit: None,
            ready: VecDeque::new(),
            is_started: false,
            is_measured: false,
        }
    }

    fn output(&mut self, mut bytes: Bytes) -> Result<(), RunError> {
        if let Some(begin) = &self.begin {
            self.preamble.extend_from_slice(&bytes);
            let Some(at) = memmem::find(&self.preamble, begin) else {
                if self.preamble.len() > LONGEST_PREAMBLE {
                    return Err(RunError::Protocol(
                        "the container's shell prints without end before it runs a command"
                            .to_owned(),
                    ));
                }
                return Ok(());
            };
            let mut preamble = std::mem::take(&mut self.preamble);
            bytes = preamble.split_off(at + begin.len()).freeze();
            self.begin = None;
        }
        if let Some((_, total)) = self.exit {
            // A background process may still write: the script's own output ends at `total`.
            let left = usize::try_from(total.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            bytes.truncate(left);
        }
        if !bytes.is_empty() {
            self.offset += bytes.len() as u64;
            self.ready.push_back(RunEvent::Output(bytes));
        }
        Ok(())
    }

    fn reply(&mut self, reply: Reply) -> Result<(), RunError> {
        if self.exit.is_some() {
            // The verdict is final, whether or not more came in the same piece.
            return Ok(());
        }
        match reply {
            Reply::Started if self.is_started => {}
            Reply::Started => {
                self.is_started = true;
                self.end_beginning();
                self.ready.push_back(RunEvent::Started);
            }
            Reply::Used(usage) if usage == Usage::default() || self.is_measured => {}
            Reply::Used(usage) => {
                self.is_measured = true;
                self.ready.push_back(RunEvent::Measured(usage));
            }
            Reply::Exit { code, total } => {
                self.exit = Some((code, total));
            }
            Reply::NotStarted(why) if why.is_empty() => {
                return Err(RunError::NotStarted(self.reason("no reason was given")));
            }
            Reply::NotStarted(why) => return Err(RunError::NotStarted(why)),
            Reply::NoInterpreter(program) => {
                return Err(RunError::NotStarted(format!(
                    "the script's first line asks for {program}, which is not in the container: the image must have it, in PATH"
                )));
            }
            Reply::Truncated(size) => {
                return Err(RunError::ConnectionLost(format!(
                    "only {size} bytes of the script arrived"
                )));
            }
            Reply::Damaged => {
                return Err(RunError::ConnectionLost(
                    "what arrived is not the script that was sent".to_owned(),
                ));
            }
            Reply::Lost(why) => {
                let why = if why.is_empty() {
                    "its processes are gone (killed, or out of memory)".to_owned()
                } else {
                    why
                };
                return Err(RunError::NoStatus(why));
            }
            Reply::Unknown(why) => return Err(RunError::Unknown(why)),
            other => return Err(RunError::Protocol(format!("{other:?}"))),
        }
        Ok(())
    }

    fn reason(&self, otherwise: &str) -> String {
        let noise = self.control.noise();
        if noise.is_empty() { otherwise.to_owned() } else { noise }
    }
}

impl Run for Followed {
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        let event = self.read_event().await;
        if let Err(error) = &event {
            fail(&self.beginning, error.name());
            self.end_beginning();
        }
        event
    }
}

impl Followed {
    /// Ends the span of the delivery. A span lasts until it was left for the last time.
    fn end_beginning(&mut self) {
        std::mem::replace(&mut self.beginning, Span::none()).in_scope(|| {});
    }

    async fn read_event(&mut self) -> Result<RunEvent, RunError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some((code, total)) = self.exit
                && self.offset >= total
            {
                // A background process may have written beyond `total` before the script's end was
                // known.
                return Ok(RunEvent::Exited { code, total: total.max(self.offset) });
            }
            match self.channel.next().await {
                Chunk::Out(bytes) => self.output(bytes)?,
                Chunk::Err(bytes) => {
                    self.control.push(&bytes);
                    while let Some(reply) = self.control.reply() {
                        self.reply(reply)?;
                    }
                }
                Chunk::Ended { status } => {
                    let status = status.map_or_else(
                        || "without a status".to_owned(),
                        |s| format!("with status {s}"),
                    );
                    let why = match self.exit {
                        Some((_, total)) => {
                            format!("the stream ended at byte {} of {total}", self.offset)
                        }
                        None => format!(
                            "the command in the container ended {status} before the script did: {}",
                            self.reason("it gave no reason")
                        ),
                    };
                    return Err(RunError::ConnectionLost(why));
                }
                Chunk::Lost(why) => return Err(RunError::ConnectionLost(why)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use futures_util::FutureExt as _;
    use tracing::{
        Event, Metadata, Subscriber,
        span::{Attributes, Id, Record},
    };

    use super::*;

    /// Counts how often a span was left. It ends when it was left for the last time.
    #[derive(Clone, Default)]
    struct Exits(Arc<AtomicUsize>);

    impl Subscriber for Exits {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A container that answers when the test says so.
    #[derive(Clone, Default)]
    struct Answers(Arc<Mutex<VecDeque<Chunk>>>);

    #[async_trait]
    impl Channel for Answers {
        async fn next(&mut self) -> Chunk {
            let next = self.0.lock().unwrap().pop_front();
            match next {
                Some(chunk) => chunk,
                None => std::future::pending().await,
            }
        }
    }

    fn left_after(answer: Chunk) -> (Option<Result<RunEvent, RunError>>, usize) {
        let (exits, answers) = (Exits::default(), Answers::default());
        tracing::subscriber::with_default(exits.clone(), || {
            let span = tracing::info_span!("start");
            let mut run = Followed::new(Box::new(answers.clone()), "n", 0, span);
            let begin = Chunk::Out(Bytes::from_static(b"n begin\n"));
            answers.0.lock().unwrap().push_back(begin);
            assert_eq!(run.next().now_or_never(), None);
            assert_eq!(exits.0.load(Ordering::Relaxed), 0, "it has not started");
            answers.0.lock().unwrap().push_back(answer);
            (run.next().now_or_never(), exits.0.load(Ordering::Relaxed))
        })
    }

    #[test]
    fn the_span_of_a_start_lasts_until_the_container_says_that_it_runs() {
        let started = Chunk::Err(Bytes::from_static(b"n started\n"));
        assert_eq!(left_after(started), (Some(Ok(RunEvent::Started)), 1));
        let output = Chunk::Out(Bytes::from_static(b"early"));
        let early = RunEvent::Output(Bytes::from_static(b"early"));
        assert_eq!(left_after(output), (Some(Ok(early)), 0));
        let (lost, left) = left_after(Chunk::Lost("cut".to_owned()));
        assert_eq!((lost, left), (Some(Err(RunError::ConnectionLost("cut".to_owned()))), 1));
    }
}
