//! Both ends of the NBD protocol: every input ends, no answer grows without bound, and what is
//! served lies within the export. The first byte says how the bytes are cut into pieces.

use twinblk_nbd::client::{ClientHandshake, OpenStep};
use twinblk_nbd::{
    Event, ExportInfo, Handshake, MAX_DRAIN_BYTES, Negotiated, Operation, Step, Transmission,
};

/// Longest answer to one piece: all exports of a LIST, or the facts of one.
const ANSWER_BYTES_MAX: usize = 64 << 10;

fn exports() -> Vec<ExportInfo> {
    vec![ExportInfo::new("r0", 1 << 30), ExportInfo::new("other", 12_345 * 512)]
}

pub(super) fn server(bytes: &[u8]) {
    let Some((piece, mut bytes)) = bytes.split_first() else {
        return;
    };
    let piece = usize::from(*piece) + 1;
    let exports = exports();
    let mut handshake = Handshake::new();
    while handshake.take_output().len() <= ANSWER_BYTES_MAX {
        let given = &bytes[..piece.min(bytes.len())];
        let (taken, step) = handshake.feed(given, &exports);
        bytes = &bytes[taken..];
        match step {
            Step::NeedMore if bytes.is_empty() => return,
            Step::NeedMore | Step::Send => {}
            Step::Negotiated(negotiated) => return transmit(&negotiated, piece, bytes),
            Step::Closed(_) => return,
        }
    }
    panic!("an answer without bound");
}

fn transmit(negotiated: &Negotiated, piece: usize, mut bytes: &[u8]) {
    let terms = negotiated.terms();
    let mut stream = Transmission::new(terms);
    loop {
        let given = &bytes[..piece.min(bytes.len())];
        let (taken, event) = stream.feed(given);
        bytes = &bytes[taken..];
        match event {
            Event::NeedMore if bytes.is_empty() => return,
            Event::NeedMore => {}
            Event::Request(request) => {
                let end = request.offset.checked_add(u64::from(request.length));
                let inside = end.is_some_and(|end| end <= terms.size_bytes);
                assert!(inside || matches!(request.operation, Operation::Flush), "{request:?}");
                let payload = request.payload_bytes() as usize;
                if payload > bytes.len() {
                    return;
                }
                bytes = &bytes[payload..];
                if payload > 0 {
                    stream.payload_done();
                }
            }
            Event::Refused(refusal) => assert!(refusal.drain <= MAX_DRAIN_BYTES),
            Event::PayloadDue(_) => panic!("it was declared taken"),
            Event::Disconnect | Event::Fatal(_) => return,
        }
    }
}

pub(super) fn client(bytes: &[u8]) {
    let Some((first, mut bytes)) = bytes.split_first() else {
        return;
    };
    let piece = usize::from(*first) + 1;
    let mut handshake = ClientHandshake::new("r0", first & 1 == 1).expect("a name");
    while handshake.take_output().len() <= ANSWER_BYTES_MAX {
        let given = &bytes[..piece.min(bytes.len())];
        let (taken, step) = handshake.feed(given);
        bytes = &bytes[taken..];
        match step {
            OpenStep::NeedMore if bytes.is_empty() => return,
            OpenStep::NeedMore | OpenStep::Send => {}
            OpenStep::Open(_) | OpenStep::Failed(_) => return,
        }
    }
    panic!("an answer without bound");
}
