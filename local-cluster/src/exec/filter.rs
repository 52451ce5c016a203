//! Filters a terminal's output like the agent, which tries to send UTF-8 only (amazon-ssm-agent,
//! `shell.go`, `processStdoutData`).

/// Passes bytes on, and keeps up to three at the end that may be the start of a character.
#[derive(Debug, Default)]
pub(super) struct Filter {
    kept: Vec<u8>,
}

impl Filter {
    /// Returns the bytes to send now, which may be none.
    ///
    /// ASCII and whole characters pass. An invalid byte passes as it is, but not within the last
    /// three. A genuine U+FFFD looks like an invalid byte: its first byte passes alone.
    pub(super) fn pass(&mut self, read: &[u8]) -> Vec<u8> {
        if self.kept.is_empty() && read.is_ascii() {
            return read.to_vec();
        }
        let mut bytes = std::mem::take(&mut self.kept);
        bytes.extend_from_slice(read);
        let mut passed = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match first_character(rest) {
                Some(length) => {
                    passed.extend_from_slice(&rest[..length]);
                    at += length;
                }
                None if rest.len() < 4 => break,
                None => {
                    passed.push(rest[0]);
                    at += if rest.starts_with("\u{fffd}".as_bytes()) { 3 } else { 1 };
                }
            }
        }
        self.kept = bytes.split_off(at);
        passed
    }
}

/// Returns the length of the character at the start; `None` if it is invalid, incomplete, or
/// U+FFFD.
fn first_character(bytes: &[u8]) -> Option<usize> {
    let chunk = bytes.get(..4).unwrap_or(bytes).utf8_chunks().next()?;
    let character = chunk.valid().chars().next()?;
    (character != '\u{fffd}').then(|| character.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(reads: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let mut filter = Filter::default();
        let passed = reads.iter().flat_map(|read| filter.pass(read)).collect();
        (passed, filter.kept)
    }

    #[test]
    fn text_passes_at_any_split() {
        let text = "ASCII, é, 漢字, 🦀 and more".as_bytes();
        for cut in 0..text.len() {
            let (out, kept) = passed(&[&text[..cut], &text[cut..]]);
            assert_eq!((out.as_slice(), kept.len()), (text, 0), "cut at {cut}");
        }
    }

    #[test]
    fn invalid_bytes_pass_but_not_at_the_end() {
        assert_eq!(passed(&[b"a\xffbcdef"]), (b"a\xffbcdef".to_vec(), vec![]));
        assert_eq!(passed(&[b"abc\xff"]), (b"abc".to_vec(), b"\xff".to_vec()));
        assert_eq!(passed(&[b"abc\xff", b"d", b"efgh"]), (b"abc\xffdefgh".to_vec(), vec![]));
    }

    #[test]
    fn a_genuine_replacement_character_becomes_its_first_byte() {
        assert_eq!(passed(&["a\u{fffd}bcd".as_bytes()]), (b"a\xefbcd".to_vec(), vec![]));
    }

    #[test]
    fn a_payload_is_longer_than_a_read_by_three_bytes_at_most() {
        let mut filter = Filter::default();
        assert!(filter.pass(&[0xf0, 0x9f, 0xa6]).is_empty());
        let mut read = vec![0x80];
        read.resize(1024, b'x');
        assert_eq!(filter.pass(&read).len(), 1027);
    }
}
