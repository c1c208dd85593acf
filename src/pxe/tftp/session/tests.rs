use super::*;
use proptest::prelude::*;

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_milliseconds(milliseconds)
}

fn request(block_bytes: Option<u16>, window_blocks: Option<u16>) -> ReadRequest {
    ReadRequest { name: "f".into(), block_bytes, window_blocks, ..ReadRequest::default() }
}

fn content(len: usize) -> Content {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<u8>>().into()
}

/// A client that keeps to the RFCs behind a network that loses, doubles and reorders by the bits of `fate`.
/// What it received, and the retries of the server.
fn transfer(len: usize, block_bytes: u16, window: u16, fate: &mut impl FnMut() -> u8) -> (Vec<u8>, u32) {
    let mut now = 0;
    let open = |now| Session::open(at(now), &request(Some(block_bytes), Some(window)), content(len), 65464);
    let (mut session, mut step) = open(now);
    let (mut received, mut expected, mut in_window) = (Vec::new(), 1u64, 0);
    for _ in 0..1_000_000 {
        let mut acks = Vec::new();
        match step.clone() {
            Step::Done => return (received, session.repeats()),
            Step::GiveUp if !session.is_proven() => {
                (session, step) = open(now); // the client asks again
                continue;
            }
            Step::GiveUp => panic!("the server gave up at {now} ms"),
            Step::Wait => {}
            Step::SendOptions if fate() < 205 => acks.push(0),
            Step::SendOptions => {}
            Step::SendBlocks(blocks) => {
                let mut packets = Vec::new();
                session.emit_blocks(blocks, &mut packets);
                let mut arrived: Vec<Vec<u8>> = Vec::new();
                for packet in packets.chunks(usize::from(block_bytes) + 4) {
                    match fate() {
                        0..=204 => arrived.push(packet.to_vec()),
                        205..=215 => arrived.extend([packet.to_vec(), packet.to_vec()]),
                        216..=225 => arrived.insert(0, packet.to_vec()),
                        _ => {}
                    }
                }
                for packet in arrived {
                    let block = u16::from_be_bytes([packet[2], packet[3]]);
                    let data = &packet[4..];
                    if block == expected as u16 {
                        received.extend(data);
                        in_window += 1;
                        let last = data.len() < usize::from(block_bytes);
                        if in_window == window || last {
                            acks.push(block);
                            in_window = 0;
                        }
                        expected += 1;
                    } else if acks.is_empty() {
                        acks.push((expected - 1) as u16); // RFC 7440 section 4: once for a gap or a repetition
                        in_window = 0;
                    }
                }
            }
        }
        let mut next = Step::Wait;
        for ack in acks {
            if fate() < 205 {
                now += 1;
                match session.on_ack(at(now), ack) {
                    Step::Wait => {}
                    other => next = other,
                }
            }
        }
        step = next;
        if step == Step::Wait {
            now = session.deadline().milliseconds();
            step = session.on_silence(at(now));
        }
    }
    panic!("the transfer does not end");
}

#[test]
fn files_of_every_size_around_a_block_arrive_whole() {
    for len in [0, 1, 511, 512, 513, 1023, 1024, 5000] {
        for window in [1, 2, 16] {
            let (received, retries) = transfer(len, 512, window, &mut || 0);
            assert_eq!((received.as_slice(), retries), (&*content(len), 0), "{len} bytes, window {window}");
        }
    }
}

#[test]
fn block_numbers_wrap() {
    let len = 70_000 * 8 + 3;
    assert_eq!(transfer(len, 8, 1, &mut || 0).0.as_slice(), &*content(len));
    assert_eq!(transfer(len, 8, 64, &mut || 0).0.as_slice(), &*content(len));
}

#[test]
fn without_options_the_first_block_is_the_answer() {
    let (mut session, step) = Session::open(at(0), &request(None, None), content(600), 1428);
    assert_eq!(step, Step::SendBlocks(1..2));
    assert_eq!(session.on_ack(at(1), 1), Step::SendBlocks(2..3));
    assert_eq!(session.on_ack(at(2), 2), Step::Done);
    assert_eq!(session.bytes_acknowledged(), 600);
}

#[test]
fn options_are_confirmed_within_the_limits_of_the_link() {
    let asked = ReadRequest { size: true, timeout_seconds: Some(3), ..request(Some(8192), Some(200)) };
    let (session, step) = Session::open(at(0), &asked, content(9), 1428);
    assert_eq!(step, Step::SendOptions);
    assert_eq!(session.emit_options(), b"\0\x06blksize\x001428\0tsize\x009\0timeout\x003\0windowsize\x0064\0");
    assert_eq!(session.deadline(), at(3000));
}

#[test]
fn duplicate_acknowledgements_do_not_double_the_traffic() {
    let (mut session, _) = Session::open(at(0), &request(None, None), content(5000), 1428);
    assert_eq!(session.on_ack(at(1), 1), Step::SendBlocks(2..3));
    assert_eq!(session.on_ack(at(2), 1), Step::Wait);
    assert_eq!(session.on_ack(at(3), 0), Step::Wait);
    assert_eq!(session.on_ack(at(3), 9), Step::Wait, "of a block that was never sent");
}

#[test]
fn an_acknowledgement_within_a_window_continues_after_it_and_a_duplicate_starts_it_once_again() {
    let (mut session, _) = Session::open(at(0), &request(Some(8), Some(4)), content(800), 1428);
    assert_eq!(session.on_ack(at(1), 0), Step::SendBlocks(1..5));
    assert_eq!(session.on_ack(at(2), 2), Step::SendBlocks(3..7));
    assert_eq!(session.on_ack(at(3), 2), Step::SendBlocks(3..7));
    assert_eq!(session.on_ack(at(4), 2), Step::Wait);
}

#[test]
fn an_address_that_never_answers_gets_five_packets_and_no_more() {
    let (mut session, _) = Session::open(at(0), &request(None, None), content(5000), 1428);
    let mut packets = 1;
    while session.on_silence(session.deadline()) != Step::GiveUp {
        packets += 1;
    }
    assert_eq!(packets, 5);
}

#[test]
fn a_silent_client_that_answered_before_is_waited_for_with_growing_patience() {
    let (mut session, _) = Session::open(at(0), &request(None, None), content(5000), 1428);
    session.on_ack(at(20), 1);
    let mut waits = Vec::new();
    let mut before = 20;
    while session.on_silence(session.deadline()) != Step::GiveUp {
        waits.push(session.deadline().milliseconds() - before);
        before = session.deadline().milliseconds();
    }
    assert!(waits.is_sorted() && waits.iter().sum::<i64>() > 30_000, "{waits:?}");
}

#[test]
fn netascii_changes_line_ends() {
    let asked = ReadRequest { mode: Mode::Netascii, ..request(None, None) };
    let (session, _) = Session::open(at(0), &asked, b"a\nb\rc".to_vec().into(), 1428);
    let mut out = Vec::new();
    session.emit_blocks(1..2, &mut out);
    assert_eq!(&out[4..], b"a\r\nb\r\0c");
}

proptest! {
    #[test]
    fn transfers_complete_and_are_identical_whatever_the_network_does(
        len in 0usize..6000, block_bytes in 8u16..600, window in 1u16..20, seed in any::<u64>(),
    ) {
        let mut state = seed | 1;
        let mut fate = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        let (received, _) = transfer(len, block_bytes, window, &mut fate);
        prop_assert_eq!(received.as_slice(), &*content(len));
    }
}
