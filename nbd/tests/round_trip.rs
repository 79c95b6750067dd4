//! Properties: what one side encodes the other side reads, for any values and any fragmentation.

mod wire;

use proptest::prelude::*;
use twinblk_nbd::client::{Client, ClientEvent, Failure};
use twinblk_nbd::*;
use wire::{ALL, terms};

fn any_request() -> impl Strategy<Value = Request> {
    let values = (any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u32>());
    values.prop_map(|(command, flags, cookie, offset, length)| {
        Request::new(Command(command), cookie, offset, length).flags(CommandFlags(flags))
    })
}

/// Requests near all the limits, with known commands more often than not.
fn plausible_request() -> impl Strategy<Value = Request> {
    let near =
        |edge: u64| (0..2048_u64).prop_map(move |by| edge.wrapping_sub(1024).wrapping_add(by));
    let offset = prop_oneof![near(0), near(1 << 30), near((1 << 30) - (64 << 20)), any::<u64>()];
    let length = prop_oneof![
        0..2048_u32,
        Just(MAX_REQUEST_BYTES),
        Just(MAX_REQUEST_BYTES + 1),
        any::<u32>()
    ];
    let flags = prop_oneof![3 => Just(0), 1 => 0..32_u16];
    (0..9_u16, flags, offset, length).prop_map(|(command, flags, offset, length)| {
        Request::new(Command(command), 7, offset, length).flags(CommandFlags(flags))
    })
}

fn any_flags() -> impl Strategy<Value = TransmissionFlags> {
    prop_oneof![Just(ALL), any::<u16>().prop_map(TransmissionFlags)]
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(request in any_request()) {
        prop_assert_eq!(Request::parse(&request.encode()), Ok(request));
    }

    #[test]
    fn what_passes_the_check_is_in_range_and_permitted(request in plausible_request(), flags in any_flags()) {
        let terms = terms(flags);
        match check(&request, &terms) {
            Ok(checked) => {
                prop_assert_eq!(checked.operation.command(), request.command);
                prop_assert!(u128::from(checked.offset) + u128::from(checked.length) <= u128::from(terms.size_bytes));
                let command = checked.operation.command();
                let carries = matches!(command, Command::READ | Command::WRITE);
                prop_assert!(!carries || checked.length <= MAX_REQUEST_BYTES);
                let reads = matches!(command, Command::READ | Command::FLUSH | Command::CACHE);
                prop_assert!(reads || !flags.contains(TransmissionFlags::READ_ONLY));
                prop_assert_eq!(checked.payload_bytes(), request.payload_bytes());
            }
            Err(Rejection::Refuse(refusal)) => {
                prop_assert_eq!(refusal.drain, request.payload_bytes());
                prop_assert!(refusal.errno.spelling().is_some());
            }
            Err(Rejection::Disconnect) => prop_assert_eq!(request.command, Command::DISC),
            Err(Rejection::Close(_)) => prop_assert!(request.payload_bytes() > MAX_DRAIN_BYTES),
        }
    }

    #[test]
    fn fragments_do_not_matter(
        requests in prop::collection::vec(plausible_request(), 1..8),
        cuts in prop::collection::vec(1..64_usize, 1..20),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|request| {
            let payload = vec![0x25; request.payload_bytes().min(4096) as usize];
            [&request.encode()[..], &payload].concat()
        }).collect();
        prop_assert_eq!(follow(&stream, &mut cuts.iter().copied().cycle()), follow(&stream, &mut std::iter::repeat(stream.len())));
    }

    #[test]
    fn replies_are_read_as_they_were_written(
        structured: bool, cookie: u64, offset in 0..1_u64 << 29, length in 0..4096_u32, command in 0..7_u16,
        errno in prop::option::of(1..200_u32), size in 1..64_usize,
    ) {
        let mut client = Client::new(Terms { structured_replies: structured, ..terms(ALL) });
        let range = if command == Command::FLUSH.0 { (0, 0) } else { (offset, length) };
        let request = Request::new(Command(command), cookie, range.0, range.1);
        prop_assume!(request.command != Command::DISC);
        client.submit(request).expect("room");
        let checked = check(&request, client.terms()).expect("a good request");
        let mut header = [0; MAX_REPLY_HEADER_BYTES];
        let replies = ReplyEncoder::new(structured);
        let used = match errno {
            None => replies.success(&checked, &mut header),
            Some(errno) => replies.failure(&checked, Errno(errno), &mut header),
        };
        let result = errno.map_or(Ok(()), |errno| Err(Failure { errno: Errno(errno), offset: None, message: String::new() }));
        let mut seen = Vec::new();
        for piece in header[..used].chunks(size) {
            let (taken, event) = client.feed(piece);
            prop_assert_eq!(taken, piece.len());
            seen.extend((event != ClientEvent::NeedMore).then_some(event));
        }
        if request.command == Command::READ && length > 0 && errno.is_none() {
            prop_assert_eq!(seen.pop(), Some(ClientEvent::Data { cookie, offset, length }));
            client.payload_done();
            seen.push(client.feed(&[]).1);
        }
        prop_assert_eq!(seen, [ClientEvent::Completed { cookie, result }]);
    }
}

/// All events of a stream fed in pieces of the given sizes; payloads are skipped as a server would
/// take them.
fn follow(stream: &[u8], sizes: &mut dyn Iterator<Item = usize>) -> Vec<Event> {
    let mut transmission = Transmission::new(terms(ALL));
    let (mut events, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let size = sizes.next().expect("endless").min(rest.len());
        let (taken, event) = transmission.feed(&rest[..size]);
        rest = &rest[taken..];
        match event {
            Event::NeedMore => continue,
            Event::Request(request) => {
                rest = &rest[rest.len().min(request.payload_bytes() as usize)..];
                transmission.payload_done();
            }
            Event::Disconnect | Event::Fatal(_) => rest = &[],
            _ => {}
        }
        events.push(event);
    }
    events
}
