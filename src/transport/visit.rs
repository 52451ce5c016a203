//! People in containers, over the transport that the job uses.

use bytes::Bytes;
use states::{ConnectError, Target};
use transports::{
    Command, Screen, Terminal, Visit,
    delivery::{Channel, Chunk},
    ecs_exec::ExecTransport,
    ssh::SshTransport,
};

use super::AnyTransport;
use crate::control::ExecCalls;

type Ssh = SshTransport;
type Exec = ExecTransport<ExecCalls>;

impl Visit for AnyTransport {
    type Terminal = AnyTerminal;
    type Command = AnyCommand;

    async fn terminal(
        &self,
        target: &Target,
        screen: &Screen,
    ) -> Result<AnyTerminal, ConnectError> {
        if Self::is_exec(target) {
            self.exec.terminal(target, screen).await.map(AnyTerminal::Exec)
        } else {
            self.ssh.terminal(target, screen).await.map(AnyTerminal::Ssh)
        }
    }

    async fn command(&self, target: &Target, command: &str) -> Result<AnyCommand, ConnectError> {
        if Self::is_exec(target) {
            self.exec
                .command(target, command)
                .await
                .map(|command| AnyCommand::Exec(Box::new(command)))
        } else {
            self.ssh.command(target, command).await.map(AnyCommand::Ssh)
        }
    }
}

/// A terminal over one of them.
pub enum AnyTerminal {
    /// Over SSH.
    Ssh(<Ssh as Visit>::Terminal),
    /// Over ECS Exec.
    Exec(<Exec as Visit>::Terminal),
}

impl Terminal for AnyTerminal {
    async fn write(&self, bytes: Bytes) -> Result<(), String> {
        match self {
            Self::Ssh(terminal) => terminal.write(bytes).await,
            Self::Exec(terminal) => terminal.write(bytes).await,
        }
    }

    async fn read(&self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Ssh(terminal) => terminal.read().await,
            Self::Exec(terminal) => terminal.read().await,
        }
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        match self {
            Self::Ssh(terminal) => terminal.resize(columns, rows).await,
            Self::Exec(terminal) => terminal.resize(columns, rows).await,
        }
    }

    fn status(&self) -> Option<u32> {
        match self {
            Self::Ssh(terminal) => terminal.status(),
            Self::Exec(terminal) => terminal.status(),
        }
    }

    async fn close(&self) {
        match self {
            Self::Ssh(terminal) => terminal.close().await,
            Self::Exec(terminal) => terminal.close().await,
        }
    }
}

/// A command without a terminal over one of them.
pub enum AnyCommand {
    /// Over SSH.
    Ssh(<Ssh as Visit>::Command),
    /// Over ECS Exec.
    Exec(Box<<Exec as Visit>::Command>),
}

impl Channel for AnyCommand {
    async fn next(&mut self) -> Chunk {
        match self {
            Self::Ssh(command) => command.next().await,
            Self::Exec(command) => command.next().await,
        }
    }
}

impl Command for AnyCommand {
    async fn end(&mut self) -> bool {
        match self {
            Self::Ssh(command) => command.end().await,
            Self::Exec(command) => command.end().await,
        }
    }

    async fn close(self) {
        match self {
            Self::Ssh(command) => command.close().await,
            Self::Exec(command) => (*command).close().await,
        }
    }
}
