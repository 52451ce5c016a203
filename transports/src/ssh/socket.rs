//! The TCP connection below SSH, tuned so that no packet is delayed.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Configures a connected socket. `dead_after` bounds how long sent bytes may stay unacknowledged.
pub(super) fn prepare(
    socket: TcpStream,
    dead_after: Duration,
) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
    // Nagle's algorithm would delay small packets.
    let _ = socket.set_nodelay(true);
    limit_silence(&socket, dead_after);
    Socket(socket)
}

/// Closes the connection when it is dropped, unless the attempt that holds it has succeeded. russh
/// serves a connection in a task of its own. A server that never stops sending would keep that task
/// busy after the attempt.
pub(super) struct CloseOnDrop(Option<OwnedFd>);

impl CloseOnDrop {
    /// Guards this connection.
    pub(super) fn of(socket: &TcpStream) -> io::Result<Self> {
        socket.as_fd().try_clone_to_owned().map(|socket| Self(Some(socket)))
    }

    /// Keeps the connection open.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // The peer may have closed it before.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }
}

/// A socket that acknowledges at once whenever it has nothing left to read. OpenSSH's server leaves
/// Nagle's algorithm on: it holds back a small packet until the one before is acknowledged. Linux
/// delays an acknowledgement by 40 ms if no data can carry it. Without this, that happens twice in
/// an SSH handshake, and for every line of quiet output.
struct Socket(TcpStream);

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.0).poll_read(cx, buffer);
        if result.is_pending() {
            acknowledge(&self.0);
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Sets TCP_QUICKACK, which only saves time. The kernel resets it by itself, so it is set again
/// (`tcp(7)`).
#[cfg(target_os = "linux")]
fn acknowledge(socket: &TcpStream) {
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
}

/// Sets TCP_USER_TIMEOUT (`tcp(7)`). No keep-alives are sent while a write is stuck, so the kernel
/// has to detect a dead peer; by default that takes a quarter of an hour.
#[cfg(target_os = "linux")]
fn limit_silence(socket: &TcpStream, dead_after: Duration) {
    let milliseconds = u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(socket, milliseconds);
}

#[cfg(not(target_os = "linux"))]
fn acknowledge(_: &TcpStream) {}

#[cfg(not(target_os = "linux"))]
fn limit_silence(_: &TcpStream, _: Duration) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpSocket};

    use super::*;

    #[tokio::test]
    async fn writes_to_a_stuck_peer_time_out() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_unread, _) = listener.accept().await.unwrap();
        let mut near = prepare(near, Duration::from_millis(200));
        let stuck =
            tokio::time::timeout(Duration::from_secs(30), near.write_all(&vec![0; 64 << 20])).await;
        assert_eq!(stuck.expect("it is given up").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
