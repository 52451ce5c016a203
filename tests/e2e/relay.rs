//! A relay between stages' processes and the service. It counts the frames of both directions in one
//! order, and kills a process before or after one of them.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::Child,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::runner::Job;

/// The `frame`th frame of a stage, from 1, and a moment at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub frame: usize,
    pub moment: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The frame was sent and does not arrive.
    Before,
    /// It arrives.
    After,
}

impl Point {
    /// Returns the point after this one.
    pub fn next(self) -> Self {
        match self.moment {
            Moment::Before => Self { moment: Moment::After, ..self },
            Moment::After => Self { frame: self.frame + 1, moment: Moment::Before },
        }
    }

    /// Returns the first point.
    pub fn first() -> Self {
        Self { frame: 1, moment: Moment::Before }
    }
}

/// What is killed where.
struct Aim {
    point: Point,
    process: OwnedFd,
}

#[derive(Default)]
struct Frames {
    passed: usize,
    aim: Option<Aim>,
    /// The kind of the frame at which the relay has killed.
    killed_at: Option<char>,
}

/// The relay of a metadata directory.
pub struct Relay {
    own: PathBuf,
    service: PathBuf,
    path: PathBuf,
    frames: Arc<Mutex<Frames>>,
    has_ended: Arc<AtomicBool>,
}

impl Relay {
    /// Starts it beside the job's directory.
    pub fn start(job: &Job) -> Self {
        let relay = Self {
            own: job.path("relay.sock"),
            service: job.path("service.sock"),
            path: job.metadata.join("fargate.sock"),
            frames: Arc::default(),
            has_ended: Arc::default(),
        };
        let listener = UnixListener::bind(&relay.own).unwrap();
        let (frames, service, has_ended) =
            (Arc::clone(&relay.frames), relay.service.clone(), Arc::clone(&relay.has_ended));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if has_ended.load(Ordering::Relaxed) {
                    return;
                }
                // Without a service, the connection ends.
                let Ok(service) = UnixStream::connect(&service) else { continue };
                frames.lock().unwrap().passed = 0;
                for (from, to) in [(&client, &service), (&service, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let frames = Arc::clone(&frames);
                    thread::spawn(move || {
                        let _ = pass(&from, &to, &frames);
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        relay
    }

    /// Places itself before the service that has just started.
    pub fn insert(&self) {
        fs::rename(&self.path, &self.service).unwrap();
        fs::hard_link(&self.own, &self.path).unwrap();
    }

    /// Kills this process at a point of the next stage, which `start` starts and returns with the
    /// process.
    pub fn aim(&self, point: Point, start: impl FnOnce() -> (u32, Child)) -> Child {
        // No frame passes before the process is known.
        let mut frames = self.frames.lock().unwrap();
        let (process, stage) = start();
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        *frames = Frames { aim: Some(Aim { point, process }), ..Frames::default() };
        stage
    }

    /// Stops aiming. Returns the kind of the frame at which it has killed, if it has.
    pub fn killed_at(&self) -> Option<char> {
        let mut frames = self.frames.lock().unwrap();
        frames.aim = None;
        frames.killed_at.take()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.own);
    }
}

/// Passes frames on, one by one, until an end or a kill.
fn pass(mut from: &UnixStream, mut to: &UnixStream, frames: &Mutex<Frames>) -> io::Result<()> {
    loop {
        let mut frame = vec![0; 5];
        from.read_exact(&mut frame)?;
        let length = u32::from_be_bytes(frame[1..].try_into().unwrap());
        frame.resize(5 + usize::try_from(length).unwrap(), 0);
        from.read_exact(&mut frame[5..])?;
        // No other frame passes meanwhile.
        let mut frames = frames.lock().unwrap();
        frames.passed += 1;
        let passed = frames.passed;
        let due = frames.aim.take_if(|aim| aim.point.frame == passed);
        if due.as_ref().is_none_or(|aim| aim.point.moment == Moment::After) {
            to.write_all(&frame)?;
        }
        if let Some(aim) = due {
            // It may have ended by itself, after its last frame.
            let _ = pidfd_send_signal(&aim.process, Signal::KILL);
            frames.killed_at = Some(char::from(frame[0]));
            return Ok(());
        }
    }
}
