use proptest::prelude::*;

use super::*;

const ID: MessageId = MessageId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

fn hello() -> Frame {
    Frame {
        kind: Kind::Input,
        sequence: 7,
        flags: 0,
        id: ID,
        created: 0x0190_0000_0000,
        payload_type: payload_type::OUTPUT,
        payload: Bytes::from_static(b"hello"),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Written by hand from the table in the agent's `message` package, the digest by `printf hello |
/// sha256sum`.
fn golden() -> Vec<u8> {
    let text = "00000074
        696e7075745f73747265616d5f64617461202020202020202020202020202020
        00000001
        0000019000000000
        0000000000000007
        0000000000000000
        08090a0b0c0d0e0f 0001020304050607
        2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
        00000001
        00000005
        68656c6c6f";
    unhex(text)
}

#[test]
fn golden_bytes() {
    assert_eq!(hello().encode(), golden());
    assert_eq!(Frame::parse(&Bytes::from(golden())), Ok(hello()));
}

#[test]
fn ids_are_formatted_as_uuids() {
    assert_eq!(ID.hyphenated(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert_eq!(MessageId::parse("00010203-0405-0607-0809-0A0B0C0D0E0F"), Some(ID));
    assert_eq!(MessageId::parse("00010203-0405-0607-0809-0a0b0c0d0e0"), None);
    assert_eq!(MessageId::parse("0001020304050607-0809-0a0b0c0d0e0f--"), None);
    let random = MessageId::random([0xff; 16]).hyphenated();
    assert_eq!(random, "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

fn with(change: impl FnOnce(&mut Vec<u8>)) -> Result<Frame, FrameError> {
    let mut bytes = golden();
    change(&mut bytes);
    Frame::parse(&Bytes::from(bytes))
}

#[test]
fn a_type_padded_with_nul_is_read() {
    assert_eq!(with(|b| b[21..36].fill(0)), Ok(hello()));
}

#[test]
fn a_longer_header_is_read() {
    let longer = with(|b| {
        b[..4].copy_from_slice(&120_u32.to_be_bytes());
        b.splice(116..116, [9, 9, 9, 9]);
    });
    assert_eq!(longer, Ok(hello()));
}

#[test]
fn malformed_frames_are_refused() {
    assert_eq!(with(|b| b.truncate(119)), Err(FrameError::Size(119)));
    assert_eq!(with(|b| b.resize(2 * 1024 * 1024, 0)), Err(FrameError::Size(2 * 1024 * 1024)));
    for length in [0, 115, 122, u32::MAX, u32::MAX - 3] {
        assert_eq!(
            with(|b| b[..4].copy_from_slice(&length.to_be_bytes())),
            Err(FrameError::HeaderLength(length))
        );
    }
    assert_eq!(
        with(|b| b.truncate(124)),
        Err(FrameError::PayloadLength { announced: 5, found: 4 })
    );
    assert_eq!(with(|b| b[4..36].fill(b' ')), Err(FrameError::Empty("message type")));
    assert_eq!(with(|b| b[40..48].fill(0)), Err(FrameError::Empty("date")));
    assert_eq!(with(|b| b[120] ^= 1), Err(FrameError::Digest));
}

/// As both AWS's peers do: these two carry nothing that could be wrong.
#[test]
fn publication_messages_skip_validation() {
    for (name, kind) in [
        ("pause_publication", Kind::PausePublication),
        ("start_publication", Kind::StartPublication),
    ] {
        let frame = with(|b| {
            b[4..].fill(0);
            b[4..4 + name.len()].copy_from_slice(name.as_bytes());
        });
        assert_eq!(frame.unwrap().kind, kind);
    }
}

proptest! {
    #[test]
    fn frames_round_trip(sequence in any::<i64>(), flags in any::<u64>(), id in any::<[u8; 16]>(), created in 1_u64.., kind in any::<u32>(), payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let frame = Frame { sequence, flags, id: MessageId(id), created, payload_type: kind, payload: payload.into(), ..hello() };
        prop_assert_eq!(Frame::parse(&frame.encode()), Ok(frame));
        prop_assert_eq!(MessageId::parse(&MessageId(id).hyphenated()), Some(MessageId(id)));
    }

    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), head in proptest::option::of(0_u32..200)) {
        let mut bytes = bytes;
        if let (Some(head), true) = (head, bytes.len() >= 4) {
            bytes[..4].copy_from_slice(&head.to_be_bytes());
        }
        let _ = Frame::parse(&Bytes::from(bytes));
    }
}
