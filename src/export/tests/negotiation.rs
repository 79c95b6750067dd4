//! The driver of the negotiation, over a pipe in memory.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use twinblk_nbd::client::{ClientHandshake, OpenError, OpenStep};
use twinblk_nbd::{CloseReason, ExportInfo, TransmissionFlags};

use super::super::negotiate::{Agreed, NegotiationError, NegotiationLimits, Negotiations};
use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap().block_on(future)
}

fn exports(refusal: Option<&str>) -> [ExportInfo; 1] {
    [options(1 << 20).info(refusal.map(str::to_owned))]
}

/// Opens `name` and sends `after` behind it.
async fn open(stream: &mut DuplexStream, name: &str, after: &[u8]) -> Result<Terms, OpenError> {
    let mut handshake = ClientHandshake::new(name, true).unwrap();
    let (mut input, mut unused) = (vec![0; 4096], 0..0);
    loop {
        let (taken, step) = handshake.feed(&input[unused.clone()]);
        unused.start += taken;
        let mut output = handshake.take_output();
        if output.windows(2).any(|w| w == [0, 7]) {
            output.extend_from_slice(after); // Right behind GO.
        }
        stream.write_all(&output).await.unwrap();
        match step {
            OpenStep::Open(terms) => return Ok(terms),
            OpenStep::Failed(error) => return Err(error),
            OpenStep::Send => {}
            OpenStep::NeedMore => {
                let bytes = stream.read(&mut input).await.unwrap();
                assert!(bytes > 0, "the server hung up");
                unused = 0..bytes;
            }
        }
    }
}

#[test]
fn a_client_gets_through_with_what_it_sent_ahead() {
    block_on(async {
        let negotiations = Negotiations::new(NegotiationLimits::default());
        // A pipe of three bytes: every read and write is cut.
        for pipe in [3, 1 << 16] {
            let (mut client, mut server) = duplex(pipe);
            let exports = exports(None);
            let both = tokio::join!(
                negotiations.run(&mut server, &exports),
                open(&mut client, "r0", b"x"),
            );
            let Agreed { negotiated, leftover } = both.0.unwrap();
            assert_eq!(negotiated.terms(), both.1.unwrap());
            let mut rest = leftover;
            if rest.is_empty() {
                rest.resize(1, 0);
                server.read_exact(&mut rest).await.unwrap();
            }
            assert_eq!(rest, b"x");
            assert_eq!(negotiations.running(), 0);
        }
    });
}

#[test]
fn what_is_offered_is_what_is_kept() {
    let offered = options(1 << 20).info(None);
    offered.validate().unwrap();
    let has = |flag| offered.offered(true).contains(flag);
    assert!(has(TransmissionFlags::SEND_FLUSH | TransmissionFlags::CAN_MULTI_CONN));
    assert!(has(TransmissionFlags::SEND_FUA | TransmissionFlags::SEND_CACHE));
    assert!(!has(TransmissionFlags::SEND_FAST_ZERO) && !has(TransmissionFlags::READ_ONLY));
    assert_eq!((offered.min_block_bytes, offered.preferred_block_bytes), (1, 4096));
}

#[test]
fn a_node_that_does_not_serve_says_so_in_words() {
    block_on(async {
        let negotiations = Negotiations::new(NegotiationLimits::default());
        let (mut client, mut server) = duplex(4096);
        let exports = exports(Some("not primary; ask node beta"));
        let told = async {
            let outcome = open(&mut client, "r0", &[]).await;
            drop(client);
            outcome
        };
        let (outcome, told) = tokio::join!(negotiations.run(&mut server, &exports), told);
        assert!(matches!(outcome, Err(NegotiationError::HungUp)), "{outcome:?}");
        let Err(OpenError::Refused { message, .. }) = told else { panic!("{told:?}") };
        assert!(message.contains("ask node beta"));
    });
}

#[test]
fn garbage_silence_and_floods_are_closed() {
    block_on(async {
        let limits = NegotiationLimits::default();
        let exports = exports(None);

        let (mut client, mut server) = duplex(1 << 16);
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let outcome = Negotiations::new(limits).run(&mut server, &exports).await;
        let closed =
            matches!(&outcome, Err(NegotiationError::Closed(CloseReason::UnknownClientFlags(_))));
        assert!(closed, "{outcome:?}");

        let (_client, mut server) = duplex(1 << 16);
        let none = NegotiationLimits { time: Duration::ZERO, ..limits };
        let outcome = Negotiations::new(none).run(&mut server, &exports).await;
        assert!(matches!(outcome, Err(NegotiationError::TooSlow(_))), "{outcome:?}");

        let (mut client, mut server) = duplex(1 << 16);
        let few = NegotiationLimits { bytes: 100, ..limits };
        client.write_all(&[0; 4]).await.unwrap();
        client.write_all(b"IHAVEOPT\0\0\0\x01\0\0\x0f\xff").await.unwrap();
        client.write_all(&[b'a'; 4000]).await.unwrap();
        let outcome = Negotiations::new(few).run(&mut server, &exports).await;
        assert!(matches!(outcome, Err(NegotiationError::TooMuch(100))), "{outcome:?}");
    });
}

#[test]
fn the_oldest_gives_way_to_a_newcomer() {
    block_on(async {
        let limits = NegotiationLimits { at_once: 1, ..NegotiationLimits::default() };
        let negotiations = Negotiations::new(limits);
        let exports = exports(None);
        let (_silent, mut first) = duplex(64);
        let (mut client, mut second) = duplex(64);
        let (silent, (agreed, terms)) =
            tokio::join!(negotiations.run(&mut first, &exports), async {
                tokio::join!(negotiations.run(&mut second, &exports), open(&mut client, "", &[]),)
            },);
        assert!(matches!(silent, Err(NegotiationError::GaveWay)), "{silent:?}");
        assert_eq!(agreed.unwrap().negotiated.terms(), terms.unwrap());
        assert_eq!(negotiations.running(), 0);
    });
}

#[test]
fn a_negotiation_can_be_sent_to_another_thread() {
    fn assert_send(_: impl Send) {}
    let negotiations = Negotiations::new(NegotiationLimits::default());
    let (_client, mut server) = duplex(64);
    assert_send(negotiations.run(&mut server, &exports(None)));
}
