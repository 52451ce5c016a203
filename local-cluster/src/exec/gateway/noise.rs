//! Loses, doubles, delays and damages messages.

use bytes::Bytes;

use crate::faults::ExecFaults;

/// Offsets of a message's digest and payload.
const DIGEST: usize = 80;
const PAYLOAD: usize = 120;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Noise {
    /// A message that the next one will overtake.
    late: Option<Bytes>,
}

impl Noise {
    /// Returns the messages that come out for one that goes in.
    pub(super) fn pass(&mut self, frame: Bytes, faults: &ExecFaults) -> Vec<Bytes> {
        let happens = |percent: u32| percent > 0 && rand::random_range(0..100) < percent;
        let mut out = Vec::with_capacity(1);
        if !happens(faults.drop_percent) {
            let frame = if happens(faults.corrupt_percent) && frame.len() > PAYLOAD {
                flipped(&frame, rand::random_range(PAYLOAD..frame.len()))
            } else if happens(faults.wrong_digest_percent) && frame.len() > PAYLOAD {
                flipped(&frame, rand::random_range(DIGEST..DIGEST + 32))
            } else {
                frame
            };
            if happens(faults.duplicate_percent) {
                out.push(frame.clone());
            }
            if self.late.is_none() && happens(faults.reorder_percent) {
                self.late = Some(frame);
                return out;
            }
            out.push(frame);
        }
        out.extend(self.late.take());
        out
    }
}

fn flipped(frame: &Bytes, at: usize) -> Bytes {
    let mut frame = frame.to_vec();
    frame[at] ^= 1 << rand::random_range(0..8);
    frame.into()
}
