//! Parses a terminal's output: marked lines, blocks of output in armor, and noise.
//!
//! ```text
//! ~<nonce> D <offset> <length> <p|z>      a block begins: plain, or packed by gzip
//! SGVsbG8K…                               base64, in lines or not
//! ~<nonce> E                              it ends
//! ~<nonce> <anything else>                a line, also in the middle of a block
//! ```
//!
//! Base64 has no `~`, and each marked line is written in one piece. So a line may come between any
//! two characters of a block. Anything else in a block is damage. Memory is bounded for any input.

use std::{collections::VecDeque, io::Read as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// Longest marked line.
const LONGEST_LINE: usize = 8 * 1024;
/// Longest block, in bytes of output.
const LONGEST_BLOCK: usize = 1024 * 1024;
/// Digits of a nonce.
const NONCE: usize = 32;

/// A piece of a terminal's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A marked line.
    Line {
        /// Nonce of the command that it belongs to.
        nonce: String,
        /// The rest of it.
        text: String,
    },
    /// A block of output.
    Block {
        /// Nonce of the command that it belongs to.
        nonce: String,
        /// Its offset in the output.
        offset: u64,
        /// The output.
        bytes: Bytes,
    },
    /// A damaged block. Output from its offset on has to be requested again.
    Damaged {
        /// Nonce of the command that it belongs to.
        nonce: String,
        /// What is wrong with it.
        why: String,
    },
    /// Unmarked bytes.
    Noise(Bytes),
}

/// A piece whose block may still be compressed: log text takes about a hundredth of its length
/// then.
#[derive(Debug)]
pub(super) enum Raw {
    Piece(Piece),
    Packed(Packed),
}

/// A block that was compressed in the container.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) nonce: String,
    pub(super) offset: u64,
    /// Bytes of output in it.
    pub(super) length: usize,
    pub(super) bytes: Vec<u8>,
}

/// A parser of a terminal's output.
#[derive(Debug, Default)]
pub struct ArmorDecoder {
    /// The beginning of a marked line.
    line: Option<Vec<u8>>,
    block: Option<Block>,
    pieces: VecDeque<Raw>,
}

#[derive(Debug)]
struct Block {
    nonce: String,
    offset: u64,
    length: usize,
    packed: bool,
    text: Vec<u8>,
    damage: Option<&'static str>,
}

impl ArmorDecoder {
    /// Appends bytes of the terminal.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if let Some(line) = &mut self.line {
                let end = bytes.iter().position(|b| *b == b'\n');
                line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                bytes = &bytes[end.map_or(bytes.len(), |end| end + 1)..];
                if end.is_some() || line.len() > LONGEST_LINE {
                    let line = std::mem::take(line);
                    self.line = None;
                    self.marked(&line);
                }
            } else {
                let mark = bytes.iter().position(|b| *b == b'~');
                let (text, rest) = bytes.split_at(mark.unwrap_or(bytes.len()));
                self.unmarked(text);
                bytes = rest;
                if mark.is_some() {
                    bytes = &bytes[1..];
                    self.line = Some(Vec::new());
                }
            }
        }
    }

    /// Returns the next piece.
    pub fn piece(&mut self) -> Option<Piece> {
        Some(match self.raw()? {
            Raw::Piece(piece) => piece,
            Raw::Packed(packed) => packed.open(),
        })
    }

    /// Returns the next piece, still compressed.
    pub(super) fn raw(&mut self) -> Option<Raw> {
        self.pieces.pop_front()
    }

    fn found(&mut self, piece: Piece) {
        self.pieces.push_back(Raw::Piece(piece));
    }

    fn unmarked(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let Some(block) = &mut self.block else {
            return self.found(Piece::Noise(Bytes::copy_from_slice(text)));
        };
        // Base64 is a third longer, with line ends a little more; gzip may add a little to data
        // that it cannot compress.
        if block.text.len() + text.len() > block.length.saturating_mul(3) / 2 + 1024 {
            block.damage.get_or_insert("it is longer than it says");
        } else {
            block.text.extend_from_slice(text);
        }
    }

    fn marked(&mut self, line: &[u8]) {
        // Noise with a `~` in it may stand before the mark.
        let start = line.iter().rposition(|b| *b == b'~').map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&line[start..]).unwrap_or_default().trim_end_matches('\r');
        let marked = text.split_once(' ').filter(|(nonce, _)| {
            nonce.len() == NONCE && nonce.bytes().all(|b| b.is_ascii_hexdigit())
        });
        let Some((nonce, text)) = marked else {
            if let Some(block) = &mut self.block {
                block.damage.get_or_insert("something else is in it");
            }
            return self.found(Piece::Noise([b"~", line, b"\n"].concat().into()));
        };
        let (nonce, text) = (nonce.to_owned(), text.to_owned());
        match text.split_once(' ') {
            Some(("D", head)) => {
                if let Some(block) = self.block.take() {
                    self.found(Piece::Damaged {
                        nonce: block.nonce,
                        why: "it does not end".to_owned(),
                    });
                }
                match Block::new(&nonce, head) {
                    Some(block) => self.block = Some(block),
                    None => self
                        .found(Piece::Damaged { nonce, why: format!("it begins with {head:?}") }),
                }
            }
            None if text == "E" => match self.block.take() {
                Some(block) if block.nonce == nonce => {
                    let opened = block.open();
                    self.pieces.push_back(opened);
                }
                _ => {
                    self.found(Piece::Damaged { nonce, why: "its beginning is missing".to_owned() })
                }
            },
            _ => self.found(Piece::Line { nonce, text }),
        }
    }
}

impl Block {
    fn new(nonce: &str, head: &str) -> Option<Self> {
        let mut words = head.split(' ');
        let offset = words.next()?.parse().ok()?;
        let length = words.next()?.parse().ok().filter(|length| *length <= LONGEST_BLOCK)?;
        let packed = match words.next()? {
            "p" => false,
            "z" => true,
            _ => return None,
        };
        let text = Vec::with_capacity(if packed { 4096 } else { length / 3 * 4 + 1024 });
        Some(Self { nonce: nonce.to_owned(), offset, length, packed, text, damage: None })
    }

    fn open(self) -> Raw {
        let Self { nonce, offset, length, packed, .. } = self;
        match Self::bytes(self.text, self.damage) {
            Ok(bytes) if packed => Raw::Packed(Packed { nonce, offset, length, bytes }),
            Ok(bytes) => Raw::Piece(block(nonce, offset, length, Ok(bytes))),
            Err(why) => Raw::Piece(Piece::Damaged { nonce, why: why.to_owned() }),
        }
    }

    fn bytes(mut text: Vec<u8>, damage: Option<&'static str>) -> Result<Vec<u8>, &'static str> {
        if let Some(damage) = damage {
            return Err(damage);
        }
        if text.iter().any(u8::is_ascii_whitespace) {
            text.retain(|b| !b.is_ascii_whitespace());
        }
        STANDARD.decode(&text).map_err(|_| "it is not in base64")
    }
}

impl Packed {
    /// Decompresses the block, or returns it as damaged.
    pub(super) fn open(self) -> Piece {
        let bytes = unpack(&self.bytes, self.length);
        block(self.nonce, self.offset, self.length, bytes)
    }
}

fn block(nonce: String, offset: u64, length: usize, bytes: Result<Vec<u8>, &'static str>) -> Piece {
    let damaged = |why: &str| Piece::Damaged { nonce: nonce.clone(), why: why.to_owned() };
    match bytes {
        Ok(bytes) if bytes.len() == length => Piece::Block { nonce, offset, bytes: bytes.into() },
        Ok(_) => damaged("it is not as long as it says"),
        Err(why) => damaged(why),
    }
}

/// Decompresses gzip and checks its checksum.
fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(length + 1);
    let most = u64::try_from(length).unwrap_or(u64::MAX) + 1;
    flate2::bufread::GzDecoder::new(packed)
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(|_| "it cannot be unpacked")?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "armor_tests.rs"]
mod tests;
