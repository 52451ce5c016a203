use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;
use crate::ecs_exec::handshake::Challenge;

fn opening() -> Opening {
    Opening { token: "secret".to_owned(), unix_millis: 1_700_000_000_000, seed: [7; 32] }
}

fn frame(kind: Kind, sequence: i64, payload_type: u32, payload: &[u8]) -> Bytes {
    let mut bits = [3; 16];
    bits[..8].copy_from_slice(&sequence.to_be_bytes());
    let payload = Bytes::copy_from_slice(payload);
    Frame {
        kind,
        sequence,
        flags: 0,
        id: MessageId::random(bits),
        created: 1,
        payload_type,
        payload,
    }
    .encode()
}

fn output(sequence: i64, text: &[u8]) -> Bytes {
    frame(Kind::Output, sequence, payload_type::OUTPUT, text)
}

fn sent(channel: &mut DataChannel, now: Instant) -> Vec<Frame> {
    let mut sent = Vec::new();
    while let Some(transmit) = channel.poll_transmit(now) {
        if let Transmit::Binary(bytes) = transmit {
            sent.push(Frame::parse(&bytes).unwrap());
        }
    }
    sent
}

fn events(channel: &mut DataChannel) -> Vec<Event> {
    std::iter::from_fn(|| channel.poll_event()).collect()
}

fn text(events: &[Event]) -> Vec<u8> {
    events
        .iter()
        .filter_map(
            |event| if let Event::Output(bytes) = event { Some(bytes.to_vec()) } else { None },
        )
        .flatten()
        .collect()
}

fn acknowledge(message: &Frame) -> Bytes {
    frame(
        Kind::Acknowledge,
        0,
        0,
        handshake::acknowledgement(&Kind::Input, message.id, message.sequence).as_bytes(),
    )
}

#[test]
fn nothing_is_sent_before_the_first_output() {
    let now = Instant::now();
    let mut channel = DataChannel::new(opening(), now);
    channel.send(Bytes::from_static(b"early"));
    channel.resize(200, 50);
    assert!(
        matches!(channel.poll_transmit(now), Some(Transmit::Text(open)) if open.contains("secret"))
    );
    assert_eq!(sent(&mut channel, now), []);
    channel.on_frame(&output(0, b"BOOT"), now);
    let out = sent(&mut channel, now);
    let kinds: Vec<_> =
        out.iter().map(|frame| (frame.kind.clone(), frame.sequence, frame.payload_type)).collect();
    assert_eq!(
        kinds,
        [
            (Kind::Acknowledge, 0, 0),
            (Kind::Input, 0, payload_type::OUTPUT),
            (Kind::Input, 1, payload_type::SIZE)
        ]
    );
}

#[test]
fn reordered_and_duplicate_output_is_delivered_once_in_order() {
    let now = Instant::now();
    let mut channel = DataChannel::new(opening(), now);
    for sequence in [0_i64, 3, 1, 1, 3, 2, 5, 4, 0] {
        channel.on_frame(&output(sequence, sequence.to_string().as_bytes()), now);
    }
    let acknowledgements = sent(&mut channel, now).len();
    assert_eq!(acknowledgements, 9, "each copy is acknowledged");
    assert_eq!(text(&events(&mut channel)), b"012345");
}

#[test]
fn damaged_messages_are_not_acknowledged() {
    let now = Instant::now();
    let mut channel = DataChannel::new(opening(), now);
    let mut damaged = output(0, b"hello").to_vec();
    damaged[121] ^= 1;
    channel.on_frame(&damaged.into(), now);
    assert_eq!((sent(&mut channel, now), events(&mut channel)), (vec![], vec![]));
    channel.on_frame(&output(0, b"hello"), now);
    assert_eq!(text(&events(&mut channel)), b"hello");
    for _ in 0..MOST_BAD {
        channel.on_frame(&Bytes::from_static(b"nonsense"), now);
    }
    assert!(matches!(&events(&mut channel)[..], [Event::Closed(Closed::Lost(_))]));
}

#[test]
fn silence_closes_the_channel_but_a_pause_does_not() {
    let mut now = Instant::now();
    let mut channel = DataChannel::new(opening(), now);
    channel.on_frame(&output(0, b"BOOT"), now);
    channel.send(Bytes::from_static(b"x"));
    let _ = sent(&mut channel, now);
    channel.on_frame(&frame(Kind::PausePublication, 0, 0, b""), now);
    for _ in 0..60 {
        now += Duration::from_secs(5);
        channel.on_sign_of_life(now);
        channel.on_tick(now);
    }
    assert_eq!(text(&events(&mut channel)), b"BOOT", "five minutes of pause");
    channel.on_frame(&frame(Kind::StartPublication, 0, 0, b""), now);
    assert_eq!(sent(&mut channel, now).len(), 1, "at once");
    for _ in 0..20 {
        now += Duration::from_secs(5);
        channel.on_sign_of_life(now);
        channel.on_tick(now);
    }
    assert!(matches!(&events(&mut channel)[..], [Event::Closed(Closed::Lost(_))]));
}

#[test]
fn channel_closed_waits_for_missing_output() {
    let now = Instant::now();
    for missing in [false, true] {
        let mut channel = DataChannel::new(opening(), now);
        channel.on_frame(&output(0, b"a"), now);
        channel.on_frame(&output(2, b"c"), now);
        channel.on_frame(&frame(Kind::ChannelClosed, 0, 0, br#"{"Output":""}"#), now);
        assert_eq!(text(&events(&mut channel)), b"a");
        if missing {
            channel.on_tick(now + LATE_OUTPUT);
            assert!(matches!(&events(&mut channel)[..], [Event::Closed(Closed::Lost(_))]));
        } else {
            channel.on_frame(&output(1, b"b"), now);
            let last = events(&mut channel);
            assert_eq!(
                (text(&last), last.last()),
                (b"bc".to_vec(), Some(&Event::Closed(Closed::Ended(String::new()))))
            );
        }
    }
}

/// How long an upload takes to an agent that is so far away and takes so long for a message.
fn upload(
    size: usize,
    one_way: Duration,
    per_message: Duration,
    is_lost: impl Fn(u64) -> bool,
) -> (Duration, Vec<u8>, u64) {
    let began = Instant::now();
    let mut now = began;
    let mut channel = DataChannel::new(opening(), now);
    channel.on_frame(&output(0, b"BOOT"), now);
    channel.send((0..size).map(|n| (n / 1024) as u8).collect());
    let (mut to_agent, mut to_client) =
        (VecDeque::<(Instant, Frame)>::new(), VecDeque::<(Instant, Frame)>::new());
    let mut early = std::collections::BTreeMap::<i64, Bytes>::new();
    let (mut expected, mut received, mut idle_from, mut copies) = (0, Vec::new(), now, 0_u64);
    while !channel.is_delivered() {
        for frame in sent(&mut channel, now).into_iter().filter(|frame| frame.kind == Kind::Input) {
            copies += 1;
            if !is_lost(copies) {
                to_agent.push_back((now + one_way, frame));
            }
        }
        let next = [
            to_agent.front().map(|(at, _)| *at),
            to_client.front().map(|(at, _)| *at),
            Some(channel.deadline()),
        ];
        now = next.into_iter().flatten().min().unwrap().max(now);
        assert!(
            now < began + Duration::from_secs(120),
            "{} of {size} bytes have arrived",
            received.len()
        );
        while let Some((at, frame)) = to_agent.pop_front_if(|(at, _)| *at <= now) {
            // One after the other, in its socket's loop.
            idle_from = idle_from.max(at) + per_message;
            if frame.sequence >= expected {
                early.insert(frame.sequence, frame.payload.clone());
            }
            while let Some(payload) = early.remove(&expected) {
                received.extend_from_slice(&payload);
                expected += 1;
            }
            to_client.push_back((idle_from + one_way, frame));
        }
        while let Some((_, frame)) = to_client.pop_front_if(|(at, _)| *at <= now) {
            channel.on_frame(&acknowledge(&frame), now);
        }
        channel.on_tick(now);
        assert!(!events(&mut channel).iter().any(|event| matches!(event, Event::Closed(_))));
    }
    (now - began, received, copies)
}

const FIVE_MEGABYTES: usize = 5_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);

fn assert_arrived(received: &[u8], size: usize) {
    assert!(
        received.len() == size
            && received.iter().enumerate().all(|(n, byte)| *byte == (n / 1024) as u8)
    );
}

/// AWS's own agent takes 5 MB in 1.8 s if it is near.
#[test]
fn an_upload_is_not_limited_by_the_round_trip() {
    let per_message = Duration::from_micros(360);
    let (took, received, copies) = upload(FIVE_MEGABYTES, 20 * MILLISECOND, per_message, |_| false);
    assert_arrived(&received, FIVE_MEGABYTES);
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(copies, FIVE_MEGABYTES.div_ceil(1024) as u64, "nothing is sent twice");
    let (took, ..) = upload(FIVE_MEGABYTES, 100 * MILLISECOND, Duration::ZERO, |_| false);
    let round_trips = took.as_secs_f64() / 0.2;
    assert!(round_trips <= 14.0, "{round_trips} round trips");
}

#[test]
fn an_upload_recovers_from_any_loss() {
    for (what, is_lost) in [
        ("one", (|n| n == 500) as fn(u64) -> bool),
        ("all that is under way", |n| (400..=900).contains(&n)),
        ("one in twenty", |n| n % 20 == 7),
        ("the last", |n| n == 4883),
        ("nine in ten for a while", |n| n < 600 && n % 10 != 0),
    ] {
        let (took, received, copies) =
            upload(FIVE_MEGABYTES, 20 * MILLISECOND, Duration::from_micros(360), is_lost);
        assert_arrived(&received, FIVE_MEGABYTES);
        assert!(took <= Duration::from_secs(12), "{what}: {took:?}");
        let lost = (1..=copies).filter(|n| is_lost(*n)).count() as u64;
        let needless = copies - lost - FIVE_MEGABYTES.div_ceil(1024) as u64;
        assert!(needless <= 1100, "{what}: {needless} were sent in vain");
    }
}

/// A terminal that takes no input for a while holds up the agent. Messages in flight are not
/// repeated without end.
#[test]
fn an_agent_that_stalls_is_not_flooded() {
    let began = Instant::now();
    let mut now = began;
    let mut channel = DataChannel::new(opening(), now);
    channel.on_frame(&output(0, b"BOOT"), now);
    channel.send(vec![b'x'; FIVE_MEGABYTES].into());
    // Widens the window to its limit.
    for _ in 0..10 {
        for frame in sent(&mut channel, now).into_iter().filter(|frame| frame.kind == Kind::Input) {
            channel.on_frame(&acknowledge(&frame), now + MILLISECOND);
        }
        now += 2 * MILLISECOND;
    }
    let under_way = sent(&mut channel, now).len();
    assert!((400..=512).contains(&under_way), "{under_way}");
    let mut again = 0;
    while now < began + Duration::from_secs(10) {
        now += 100 * MILLISECOND;
        channel.on_sign_of_life(now);
        channel.on_tick(now);
        again += sent(&mut channel, now).len();
    }
    assert!((32..=8 * 32).contains(&again), "{again} messages in ten seconds of silence");
}

#[test]
fn the_agents_errors_are_one_plain_line() {
    let now = Instant::now();
    let long = format!("\n----------ERROR-------\n{}\n\n", "x\n".repeat(5000));
    for (said, expected) in [
        (
            "\n----------ERROR-------\nUnable to start command: Failed to start pty: fork/exec /bin/sh: no such file or directory\n\n",
            "Unable to start command: Failed to start pty: fork/exec /bin/sh: no such file or directory",
        ),
        ("Your session timed out due to inactivity.", "Your session timed out due to inactivity."),
        (
            "\n----------ERROR-------\nEncountered error while initiating handshake.\r\n\u{1b}[2JKMS denied\n\n",
            "Encountered error while initiating handshake. \u{fffd}[2JKMS denied",
        ),
        ("", ""),
        (long.as_str(), ""),
    ] {
        let mut channel = DataChannel::new(opening(), now);
        let payload = serde_json::json!({ "Output": said }).to_string();
        channel.on_frame(&frame(Kind::ChannelClosed, 0, 0, payload.as_bytes()), now);
        let [Event::Closed(Closed::Ended(text))] = &events(&mut channel)[..] else {
            panic!("{said:?}")
        };
        assert!(text == expected || (said.len() > 1000 && text.chars().count() == 500), "{text:?}");
    }
}

/// Small messages count with what keeping them costs.
#[test]
fn a_flood_of_tiny_messages_stops_reading() {
    let now = Instant::now();
    let mut channel = DataChannel::new(opening(), now);
    let taken = (0..).take_while(|sequence| {
        channel.on_frame(&output(*sequence, b"x"), now);
        let _ = sent(&mut channel, now);
        channel.is_ready()
    });
    let taken = taken.count();
    assert!((500..=1100).contains(&taken), "{taken} messages of a byte");
    let _ = events(&mut channel);
    assert!(channel.is_ready());
}

#[test]
fn an_encrypted_session_proves_its_key() {
    let now = Instant::now();
    let mut channel = DataChannel::new(opening(), now);
    let request = br#"{"AgentVersion":"3","RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}},{"ActionType":"SessionType","ActionParameters":{"SessionType":"InteractiveCommands","Properties":null}}]}"#;
    channel.on_frame(&frame(Kind::Output, 0, payload_type::HANDSHAKE_REQUEST, request), now);
    let [Event::KeyWanted(wanted)] = &events(&mut channel)[..] else { panic!("a key is wanted") };
    let key: Vec<u8> = (0..64).collect();
    channel.key(wanted, Ok(DataKey { plain: key.clone(), sealed: vec![1] }), now);
    channel.send(Bytes::from_static(b"held"));
    let agent = Cipher::reversed(&key);
    let challenge =
        Challenge { challenge: STANDARD.encode(agent.seal(&[9; 64], [1; 12]).unwrap()) };
    channel.on_frame(
        &frame(
            Kind::Output,
            1,
            payload_type::CHALLENGE_REQUEST,
            &serde_json::to_vec(&challenge).unwrap(),
        ),
        now,
    );
    let out: Vec<_> =
        sent(&mut channel, now).into_iter().filter(|frame| frame.kind == Kind::Input).collect();
    assert_eq!(
        out.iter().map(|f| f.payload_type).collect::<Vec<_>>(),
        [payload_type::HANDSHAKE_RESPONSE, payload_type::CHALLENGE_RESPONSE]
    );
    let proof: Challenge = serde_json::from_slice(&out[1].payload).unwrap();
    assert_eq!(agent.open(&STANDARD.decode(proof.challenge).unwrap()).unwrap(), [9; 64][..]);
    channel.on_frame(&frame(Kind::Output, 2, payload_type::HANDSHAKE_COMPLETE, b"{}"), now);
    let held = sent(&mut channel, now).pop().unwrap();
    assert_eq!(agent.open(&held.payload).unwrap(), "held");
    channel.on_frame(&output(3, b"not sealed at all, though long enough to be"), now);
    assert!(matches!(&events(&mut channel)[..], [Event::Closed(Closed::Refused(_))]));
}

proptest! {
    /// Messages and acknowledgements are lost, doubled, damaged and reordered.
    #[test]
    fn output_survives_an_unreliable_line(
        up in proptest::collection::vec(any::<u8>(), 1..20_000), down in proptest::collection::vec(any::<u8>(), 1..20_000), seed in any::<u64>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut channel = DataChannel::new(opening(), now);
        channel.send(Bytes::from(up.clone()));
        let out: Vec<Bytes> = down.chunks(700).enumerate().map(|(i, part)| output(i64::try_from(i).unwrap(), part)).collect();
        let mut unacknowledged: Vec<i64> = (0..i64::try_from(out.len()).unwrap()).collect();
        let (mut received, mut inputs): (Vec<u8>, std::collections::BTreeMap<i64, Bytes>) = (Vec::new(), std::collections::BTreeMap::new());
        for _ in 0..5000 {
            let mut wire: Vec<Bytes> = unacknowledged.iter().take(20).map(|s| out[usize::try_from(*s).unwrap()].clone()).collect();
            for message in sent(&mut channel, now) {
                if rng.random_ratio(3, 10) {
                    continue;
                }
                if message.kind == Kind::Input {
                    inputs.insert(message.sequence, message.payload.clone());
                    wire.push(acknowledge(&message));
                } else if let Ok(acknowledged) = serde_json::from_slice::<Acknowledged>(&message.payload) {
                    unacknowledged.retain(|s| *s != acknowledged.sequence);
                }
            }
            for _ in 0..wire.len() {
                let (a, b) = (rng.random_range(0..wire.len()), rng.random_range(0..wire.len()));
                wire.swap(a, b);
            }
            for bytes in wire {
                if rng.random_ratio(3, 10) {
                    continue;
                }
                let mut damaged = bytes.to_vec();
                if rng.random_ratio(1, 10) {
                    let at = rng.random_range(120..damaged.len());
                    damaged[at] ^= 1;
                }
                let damaged = Bytes::from(damaged);
                channel.on_frame(&damaged, now);
                if rng.random_ratio(1, 10) {
                    channel.on_frame(&damaged, now);
                }
            }
            received.extend(text(&events(&mut channel)));
            if received.len() >= down.len() && channel.is_delivered() {
                break;
            }
            now += Duration::from_millis(100);
            channel.on_tick(now);
        }
        prop_assert!(received == down);
        let arrived: Vec<u8> = inputs.into_values().flatten().collect();
        prop_assert!(arrived == up);
    }

    #[test]
    fn hostile_frames_neither_panic_nor_grow_memory(messages in proptest::collection::vec((0_i64..40, 0_u32..14, proptest::collection::vec(any::<u8>(), 0..200), 0_usize..7), 0..200)) {
        let now = Instant::now();
        let mut channel = DataChannel::new(opening(), now);
        for (sequence, payload_type, payload, kind) in messages {
            let kind = [Kind::Output, Kind::Output, Kind::Acknowledge, Kind::ChannelClosed, Kind::PausePublication, Kind::StartPublication, Kind::Other("odd".into())][kind].clone();
            channel.on_frame(&frame(kind, sequence, payload_type, &payload), now);
        }
        channel.on_tick(channel.deadline());
        prop_assert!(channel.events.len() <= 201 && channel.transmit.len() <= 601);
    }
}
