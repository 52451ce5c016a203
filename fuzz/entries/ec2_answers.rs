//! EC2's XML: an address, none yet, or an error. The first two bytes are the status.

use std::net::IpAddr;

pub fn run(data: &[u8]) {
    let [high, low, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let status = u16::from_be_bytes([*high, *low]);
    match fargate_driver::control::read_public_address(status, text) {
        Ok(Some(address)) => assert!(address.parse::<IpAddr>().is_ok(), "{address:?}"),
        Ok(None) => {}
        Err(error) => assert!(!error.message.is_empty() && !error.operation.is_empty()),
    }
}
