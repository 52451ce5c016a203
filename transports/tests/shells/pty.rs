//! A program in a pseudo-terminal of its own, as the exec agent starts one.

use std::{collections::BTreeMap, path::Path};

use async_trait::async_trait;
use bytes::Bytes;
use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Child,
    sync::Mutex,
};
use transports::Terminal;

pub(crate) struct Pty {
    reader: Mutex<OwnedReadPty>,
    writer: Mutex<OwnedWritePty>,
    _leader: Child,
}

impl Pty {
    /// Also the process id of the session's leader, which is the terminal's foreground group.
    pub(crate) fn spawn(
        sh: &Path,
        command: &str,
        environment: BTreeMap<String, String>,
    ) -> Result<(Self, u32), String> {
        let (pty, slave) = pty_process::open().map_err(|e| e.to_string())?;
        let command = pty_process::Command::new(sh)
            .args(["-c", command])
            .env_clear()
            .envs(environment)
            .kill_on_drop(true);
        let leader = command.spawn(slave).map_err(|e| e.to_string())?;
        let id = leader.id().unwrap();
        let (reader, writer) = pty.into_split();
        Ok((Self { reader: Mutex::new(reader), writer: Mutex::new(writer), _leader: leader }, id))
    }
}

#[async_trait]
impl Terminal for Pty {
    async fn write(&self, bytes: Bytes) -> Result<(), String> {
        self.writer.lock().await.write_all(&bytes).await.map_err(|e| e.to_string())
    }

    /// Reads as little at a time as the agent. A terminal that no process has open is at its end.
    async fn read(&self) -> Result<Option<Bytes>, String> {
        let mut bytes = vec![0; 1024];
        match self.reader.lock().await.read(&mut bytes).await {
            Ok(0) | Err(_) => Ok(None),
            Ok(n) => {
                bytes.truncate(n);
                Ok(Some(bytes.into()))
            }
        }
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        let size = Size::new(u16::try_from(rows).unwrap(), u16::try_from(columns).unwrap());
        self.writer.lock().await.resize(size).map_err(|e| e.to_string())
    }

    async fn close(&self) {}
}
