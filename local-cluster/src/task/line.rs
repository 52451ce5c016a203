//! A connection that can be slow, or break after a number of bytes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::cluster::Cluster;

/// Most bytes that a slow line passes at once.
const PORTION: usize = 4 * 1024;

/// A connection to a client, with its faults.
pub(super) struct Line {
    stream: TcpStream,
    /// A handle of the connection, to shut it down in both directions.
    other_handle: std::net::TcpStream,
    cluster: Arc<Cluster>,
    written: u64,
    pause: Pin<Box<Sleep>>,
}

impl Line {
    pub(super) fn new(stream: std::net::TcpStream, cluster: Arc<Cluster>) -> io::Result<Self> {
        let other_handle = stream.try_clone()?;
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            other_handle,
            cluster,
            written: 0,
            pause: Box::pin(sleep_until(Instant::now())),
        })
    }

    /// Whether the line breaks now.
    fn breaks(&self) -> bool {
        let mut faults = self.cluster.faults();
        let ssh = &mut faults.ssh;
        let cut = ssh.cuts > 0 && ssh.cut_after_bytes.is_some_and(|after| self.written >= after);
        if cut {
            ssh.cuts -= 1;
        }
        cut
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let rate = self.cluster.faults().ssh.bytes_per_second;
        if rate.is_some() {
            ready!(self.pause.as_mut().poll(cx));
        }
        if self.breaks() {
            // Without this, the client would notice only by its keep-alives.
            let _ = self.other_handle.shutdown(std::net::Shutdown::Both);
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        let portion = if rate.is_some() { &buf[..buf.len().min(PORTION)] } else { buf };
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, portion))?;
        self.written += written as u64;
        if let Some(rate) = rate {
            let took = Duration::from_secs_f64(written as f64 / rate.max(1) as f64);
            self.pause.as_mut().reset(Instant::now() + took);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
