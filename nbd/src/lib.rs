//! The NBD protocol, without sockets, files, clocks or threads: bytes go in, bytes and events come
//! out.
//!
//! Owns what is on the wire between a client and a server of `doc/proto.md` (the specification kept
//! by the NBD project): fixed newstyle negotiation, simple and structured replies. It must never
//! hold a payload, open a socket or a file, or know whom it serves.
//!
//! # A server
//! 1. [`Handshake`] takes what the client sends, in any fragmentation, and looks exports up through
//!    [`Exports`]. It ends in [`Negotiated`] or a [`CloseReason`].
//! 2. [`Transmission`] finds the requests in the bytes that follow and judges each with [`check`]:
//!    what comes out as [`Event::Request`] is in range, allowed, and may be served as it is.
//! 3. The payload of a WRITE is the caller's to read, into the caller's own buffer.
//! 4. [`ReplyEncoder`] writes the header of a reply into the caller's own buffer; the data of a
//!    READ goes behind it.
//!
//! A caller sets the limits that need a clock or a count of connections; those that need neither
//! are in the constants ([`MAX_REQUEST_BYTES`] and its neighbours) and kept here.
//!
//! # A client
//! [`client`] holds one for tests and measurements.
//!
//! # A handshake and one write
//! ```
//! use twinblk_nbd::client::{Client, ClientEvent, ClientHandshake, OpenStep};
//! use twinblk_nbd::*;
//!
//! let flags = TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA;
//! let exports = [ExportInfo { flags, ..ExportInfo::new("disk", 1 << 20) }];
//! let mut disk = vec![0_u8; 1 << 20];
//!
//! // Negotiation: each side's output is the other side's input.
//! let mut server = Handshake::new();
//! let mut opening = ClientHandshake::new("disk", true)?;
//! let (mut negotiated, mut terms) = (None, None);
//! while terms.is_none() {
//!     if let (_, OpenStep::Open(agreed)) = opening.feed(&server.take_output()) {
//!         terms = Some(agreed);
//!     }
//!     if let (_, Step::Negotiated(agreed)) = server.feed(&opening.take_output(), &exports) {
//!         negotiated = Some(agreed);
//!     }
//! }
//! let (negotiated, terms) = (negotiated.unwrap(), terms.unwrap());
//! assert_eq!(negotiated.terms(), terms);
//!
//! // One write of four bytes, to be stable when it is answered.
//! let mut client = Client::new(terms);
//! let write = Request::new(Command::WRITE, 7, 4096, 4).flags(CommandFlags::FUA);
//! let stream = [&client.submit(write)?[..], b"safe"].concat();
//!
//! let mut transmission = Transmission::new(negotiated.terms());
//! let (taken, Event::Request(request)) = transmission.feed(&stream) else { panic!("it keeps every rule") };
//! assert_eq!(request.operation, Operation::Write { fua: true });
//! let payload = &stream[taken..][..request.payload_bytes() as usize];
//! disk[4096..][..4].copy_from_slice(payload);
//! transmission.payload_done();
//!
//! let mut header = [0; MAX_REPLY_HEADER_BYTES];
//! let length = ReplyEncoder::new(negotiated.structured_replies).success(&request, &mut header);
//! let (_, event) = client.feed(&header[..length]);
//! assert_eq!(event, ClientEvent::Completed { cookie: 7, result: Ok(()) });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod client;
mod constants;
mod error;
mod export;
mod field;
mod handshake;
mod option;
mod reply;
mod request;
mod transmission;

pub use constants::*;
pub use error::*;
pub use export::*;
pub use handshake::*;
pub use reply::*;
pub use request::*;
pub use transmission::*;
