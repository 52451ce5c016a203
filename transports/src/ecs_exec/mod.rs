//! ECS Exec: sessions in containers through AWS's session protocol, without AWS's plugin.

pub mod channel;
mod cipher;
pub mod frame;
mod handshake;
mod inbound;
mod outbound;
mod rtt;
