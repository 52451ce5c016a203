//! A TCP proxy with the faults of networks: it cuts connections after so many bytes, or drops
//! packets for a while.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use crate::cluster::eventually;

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToClient,
    ToServer,
}

/// A fault of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// RST: unread bytes are lost.
    Reset,
    /// FIN: an orderly end at an unexpected point.
    Close,
    /// All connections hold still until [`Proxy::thaw`].
    Freeze,
}

/// A fault of one connection, and its moment.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub way: Way,
    /// The number of bytes of that direction that pass.
    pub after: u64,
    pub what: What,
}

/// A proxy in front of any number of servers, which share its faults.
pub struct Proxy {
    /// One for each of the next connections.
    faults: Mutex<VecDeque<Fault>>,
    happened: AtomicUsize,
    /// Bytes to the client and to the server, per connection.
    carried: Mutex<Vec<Arc<[AtomicU64; 2]>>>,
    frozen: watch::Sender<bool>,
    /// Its receivers are the open connections, which end with each new value.
    ends: watch::Sender<()>,
}

impl Proxy {
    pub fn new() -> Arc<Self> {
        let frozen = watch::Sender::new(false);
        Arc::new(Self {
            faults: Mutex::default(),
            happened: AtomicUsize::new(0),
            carried: Mutex::default(),
            frozen,
            ends: watch::Sender::new(()),
        })
    }

    /// Listens at `at` and forwards everything to `server`.
    pub fn stand_before(self: &Arc<Self>, at: SocketAddr, server: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Arc::clone(self);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    let proxy = Arc::clone(&proxy);
                    tokio::spawn(async move { proxy.carry(client, server).await });
                }
            });
        });
        address
    }

    /// Plans faults for the next connections, one after the other. Ends the others: a service keeps
    /// its connections.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.ends.send_replace(());
        eventually("the connections have ended", || self.ends.receiver_count() == 0);
        self.faults.lock().unwrap().extend(faults);
    }

    /// Drops planned faults that did not happen.
    pub fn clear(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// Returns how many faults have happened.
    pub fn happened(&self) -> usize {
        self.happened.load(Ordering::SeqCst)
    }

    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Returns how many bytes the newest connection carried in this direction.
    pub fn carried(&self, way: Way) -> u64 {
        self.carried
            .lock()
            .unwrap()
            .last()
            .map_or(0, |bytes| bytes[way as usize].load(Ordering::SeqCst))
    }

    async fn carry(&self, mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
        let mut server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let fault = self.faults.lock().unwrap().pop_front();
        let mut ends = self.ends.subscribe();
        let bytes: Arc<[AtomicU64; 2]> = Arc::default();
        self.carried.lock().unwrap().push(Arc::clone(&bytes));
        let happens = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let limit = |way| fault.filter(|fault| fault.way == way);
            tokio::select! {
                end = self.pump(from_server, to_client, limit(Way::ToClient), &bytes[Way::ToClient as usize]) => end,
                end = self.pump(from_client, to_server, limit(Way::ToServer), &bytes[Way::ToServer as usize]) => end,
                _ = ends.changed() => None,
            }
        };
        match happens {
            Some(What::Reset) => client.set_zero_linger()?,
            Some(What::Close | What::Freeze) | None => {
                client.shutdown().await?;
                drop(ends);
                // Closing with unread bytes would be a reset. A peer that keeps it open is not
                // waited for.
                let mut nowhere = tokio::io::sink();
                let _ = tokio::time::timeout(
                    Duration::from_secs(10),
                    tokio::io::copy(&mut client, &mut nowhere),
                )
                .await;
            }
        }
        Ok(())
    }

    /// Forwards until the fault happens, or one side ends.
    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut fault: Option<Fault>,
        carried: &AtomicU64,
    ) -> Option<What> {
        let mut frozen = self.frozen.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let so_far = carried.load(Ordering::SeqCst);
            if let Some(due) = fault.take_if(|fault| so_far >= fault.after) {
                self.happened.fetch_add(1, Ordering::SeqCst);
                if due.what != What::Freeze {
                    return Some(due.what);
                }
                self.freeze();
            }
            // The sender is in `self`.
            frozen.wait_for(|frozen| !frozen).await.ok()?;
            let room = fault.map_or(buffer.len(), |fault| {
                usize::try_from(fault.after - so_far).unwrap().min(buffer.len())
            });
            let read = from.read(&mut buffer[..room]).await.ok().filter(|read| *read > 0)?;
            frozen.wait_for(|frozen| !frozen).await.ok()?;
            to.write_all(&buffer[..read]).await.ok()?;
            carried.fetch_add(read as u64, Ordering::SeqCst);
        }
    }
}
