use std::io::Write as _;

use proptest::prelude::*;

use super::*;

const A: &str = "0123456789abcdef0123456789abcdef";
const B: &str = "fedcba9876543210fedcba9876543210";

fn pieces(parts: &[&[u8]]) -> Vec<Piece> {
    let mut armor = ArmorDecoder::default();
    parts.iter().for_each(|part| armor.push(part));
    // Noise comes in whatever pieces it came in.
    let mut all: Vec<Piece> = Vec::new();
    while let Some(piece) = armor.piece() {
        match (all.last_mut(), piece) {
            (Some(Piece::Noise(before)), Piece::Noise(more)) => {
                *before = [&before[..], &more[..]].concat().into()
            }
            (_, piece) => all.push(piece),
        }
    }
    all
}

fn block(offset: u64, bytes: &[u8], packed: bool) -> Vec<u8> {
    let text = if packed {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        STANDARD.encode(gzip.finish().unwrap())
    } else {
        STANDARD.encode(bytes)
    };
    let kind = if packed { 'z' } else { 'p' };
    let mut out = format!("~{A} D {offset} {} {kind}\n", bytes.len()).into_bytes();
    for line in text.as_bytes().chunks(76) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend(format!("~{A} E\n").into_bytes());
    out
}

fn expected(offset: u64, bytes: &[u8]) -> Piece {
    Piece::Block { nonce: A.to_owned(), offset, bytes: Bytes::copy_from_slice(bytes) }
}

fn line(nonce: &str, text: &str) -> Piece {
    Piece::Line { nonce: nonce.to_owned(), text: text.to_owned() }
}

#[test]
fn a_line_may_come_between_any_two_bytes_of_a_block() {
    let whole = block(7, b"hello, hello, hello", false);
    let inner = format!("~{B} done\r\n").into_bytes();
    let head = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    let tail = whole.len() - format!("~{A} E\n").len();
    for at in head..=tail {
        let found = pieces(&[&whole[..at], &inner, &whole[at..]]);
        assert_eq!(found, [line(B, "done"), expected(7, b"hello, hello, hello")], "at {at}");
    }
}

#[test]
fn noise_is_ignored_between_blocks_and_damages_them_inside() {
    let whole = block(0, b"hello", false);
    let noise = b"mkdir: ~/x: No space left\n";
    let found = pieces(&[noise, &whole, noise]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[1], expected(0, b"hello"));
    for noise in [&noise[..], b"QUJD", b"!", b"~nobody says\n"] {
        let head = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        let found = pieces(&[&whole[..head], noise, &whole[head..]]);
        assert!(found.iter().any(|piece| matches!(piece, Piece::Damaged { .. })), "{found:?}");
        assert!(!found.iter().any(|piece| matches!(piece, Piece::Block { .. })), "{found:?}");
    }
    let marked = format!("prompt ~ $ ~{A} exit 0 3\n");
    assert_eq!(pieces(&[marked.as_bytes()])[1..], [line(A, "exit 0 3")]);
}

#[test]
fn malformed_blocks_are_damaged() {
    let text = |head: &str, body: &str| format!("~{A} D {head}\n{body}\n~{A} E\n");
    for bad in [
        text("0 5 p", "aGVsbG8"),
        text("0 4 p", "aGVsbG8="),
        text("0 6 p", "aGVsbG8="),
        text("0 5 z", "aGVsbG8="),
        text("0 5 q", "aGVsbG8="),
        text("0 99999999 p", "aGVsbG8="),
        text("-1 5 p", "aGVsbG8="),
        text("0 5 p", &"aGVsbG8=".repeat(1000)),
        format!("~{A} E\n"),
        format!("~{A} D 0 5 p\naGVs\n~{B} E\n"),
    ] {
        let found = pieces(&[bad.as_bytes()]);
        assert!(
            found.iter().any(|piece| matches!(piece, Piece::Damaged { .. })),
            "{bad}: {found:?}"
        );
        assert!(
            !found.iter().any(|piece| matches!(piece, Piece::Block { .. })),
            "{bad}: {found:?}"
        );
    }
    // A bomb: a megabyte of zeros that says it is five bytes.
    let mut bomb = block(0, &vec![0; 1_000_000], true);
    let head = bomb.iter().position(|b| *b == b'\n').unwrap();
    bomb.splice(..head, format!("~{A} D 0 5 z").into_bytes());
    assert!(matches!(&pieces(&[&bomb])[..], [Piece::Damaged { .. }]));
}

proptest! {
    #[test]
    fn blocks_survive_any_split(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000), packed in any::<bool>(), offset in any::<u64>(),
        cuts in proptest::collection::vec(0usize..6000, 0..8),
    ) {
        let whole = block(offset, &bytes, packed);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
        prop_assert_eq!(pieces(&parts), vec![expected(offset, &bytes)]);
    }

    /// Whatever happens to a block on its way: it arrives as it was sent, or is known to be damaged.
    #[test]
    fn insertions_and_losses_are_detected(
        bytes in proptest::collection::vec(any::<u8>(), 1..500), packed in any::<bool>(), at in 0usize..2000,
        lost in 0usize..40, inserted in "[ -~]{0,40}",
    ) {
        let whole = block(0, &bytes, packed);
        let at = at % whole.len();
        let end = (at + lost).min(whole.len());
        let mut changed = [&whole[..at], inserted.as_bytes(), &whole[end..]].concat();
        changed.extend_from_slice(format!("~{A} E\n").as_bytes());
        for piece in pieces(&[&changed]) {
            // A change of the offset's digits is noticed, as the next offset is known.
            // One of the same length in plain base64 is not noticed: a terminal loses or inserts, it does not replace.
            if let (Piece::Block { bytes: found, .. }, true) = (&piece, lost != inserted.len()) {
                let in_head = at < whole.iter().position(|b| *b == b'\n').unwrap();
                prop_assert!(in_head || found == &bytes, "{:?}", piece);
            }
        }
    }

    #[test]
    fn is_bounded_and_never_panics(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..10), head in "(~[0-9a-f]{32} (D [0-9]{1,8} [0-9]{1,8} [pz]|E|x)\n)?") {
        let mut armor = ArmorDecoder::default();
        armor.push(head.as_bytes());
        for part in &parts {
            armor.push(part);
            while armor.piece().is_some() {}
        }
        prop_assert!(armor.line.as_ref().is_none_or(|line| line.len() <= LONGEST_LINE + 3000));
        prop_assert!(armor.block.as_ref().is_none_or(|block| block.text.len() <= LONGEST_BLOCK * 2));
    }
}
