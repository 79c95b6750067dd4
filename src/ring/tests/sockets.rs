//! Sockets: order, short transfers, endings, connections.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};

use socket2::SockRef;

use super::*;

/// Two connected sockets with as little room in the kernel as it allows.
fn tight_pair(world: &mut World) -> (SocketId, SocketId) {
    let (one, other) = UnixStream::pair().expect("descriptors");
    for socket in [&one, &other] {
        let socket = SockRef::from(socket);
        socket.set_send_buffer_size(1).expect("raised to the least");
        socket.set_recv_buffer_size(1).expect("raised to the least");
    }
    (world.ring.adopt_socket(one.into()), world.ring.adopt_socket(other.into()))
}

fn listener(world: &mut World, address: &str) -> (ListenerId, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("bound");
    (world.ring.adopt_listener(listener), address)
}

/// A listener whose queue is full, so that further connections go unanswered.
fn deaf_listener() -> (socket2::Socket, SocketAddr, Vec<socket2::Socket>) {
    let stream = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        socket.expect("a descriptor")
    };
    let listener = stream();
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    listener.bind(&any.into()).expect("a free port");
    listener.listen(0).expect("the shortest queue");
    let address = listener.local_addr().expect("bound");
    let queued = (0..4).map(|_| {
        let socket = stream();
        socket.set_nonblocking(true).expect("a mode");
        let _ = socket.connect(&address);
        socket
    });
    let queued = queued.collect();
    (listener, address.as_socket().expect("an address"), queued)
}

fn connect(address: SocketAddr) -> Op {
    Op::Connect { address, from: None }
}

/// Receives `bytes` bytes in whatever portions they come.
fn receive_all(world: &mut World, socket: SocketId, bytes: usize) -> Vec<u8> {
    let (payload, into) = world.take(1 << 20);
    let mut all = Vec::new();
    while all.len() < bytes {
        let count = world.run(Op::Recv { socket, into }).expect("received");
        assert!(count > 0, "closed after {} of {bytes} bytes", all.len());
        all.extend_from_slice(&world.pool.bytes(into)[..count as usize]);
    }
    world.pool.release(payload);
    all
}

on_both! {
    fn a_gather_arrives_whole_and_in_order_through_a_narrow_socket(world) {
        let (sender, receiver) = tight_pair(&mut world);
        let (payload, span) = world.pattern(1 << 20, 5);
        let mut expected = Vec::new();
        let mut tokens = Vec::new();
        for number in 0..3_u8 {
            let mut gather = Box::new(Gather::default());
            gather.push_bytes(&[number; 24]);
            gather.push_span(span);
            gather.push_bytes(&[0xF0 | number; 5]);
            expected.extend_from_slice(&[number; 24]);
            expected.extend_from_slice(world.pool.bytes(span));
            expected.extend_from_slice(&[0xF0 | number; 5]);
            tokens.push(world.start(Op::Send { socket: sender, gather }));
        }
        let received = receive_all(&mut world, receiver, expected.len());
        assert!(received == expected);
        for token in tokens {
            let done = world.wait(token);
            assert_eq!(done.result, Ok((1 << 20) + 29));
            assert_eq!(done.gather.map(|gather| gather.chunks.len()), Some(3));
        }
        world.pool.release(payload);
    }

    fn more_vectors_than_one_call_takes_still_arrive(world) {
        let (one, other) = UnixStream::pair().expect("descriptors");
        let sender = world.ring.adopt_socket(one.into());
        let receiver = world.ring.adopt_socket(other.into());
        let (payload, span) = world.pattern(4096, 5);
        let mut gather = Box::new(Gather::default());
        let mut expected = Vec::new();
        for number in 0..3000_u32 {
            gather.push_bytes(&number.to_le_bytes());
            gather.push_span(Span { offset: number, length: 1, ..span });
            expected.extend_from_slice(&number.to_le_bytes());
            expected.push(world.pool.bytes(span)[number as usize]);
        }
        let token = world.start(Op::Send { socket: sender, gather });
        assert!(receive_all(&mut world, receiver, expected.len()) == expected);
        assert_eq!(world.wait(token).result, Ok(15_000));
        world.pool.release(payload);
    }

    fn nothing_to_send_is_sent_at_once(world) {
        let (sender, _) = tight_pair(&mut world);
        let gather = Box::new(Gather::default());
        let token = world.start(Op::Send { socket: sender, gather });
        let done = world.wait(token);
        assert_eq!((done.result, done.gather.is_some()), (Ok(0), true));
    }

    fn hanging_up_is_seen_without_a_receive(world) {
        use std::io::Write as _;
        let (one, mut other) = UnixStream::pair().expect("descriptors");
        let unix = world.ring.adopt_socket(one.into());
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = port.local_addr().expect("bound");
        let mut client = std::net::TcpStream::connect(address).expect("connected");
        let (accepted, _) = port.accept().expect("accepted");
        let tcp = world.ring.adopt_socket(accepted.into());
        // What was sent and not received must not hide it.
        other.write_all(b"request").expect("sent");
        client.write_all(b"request").expect("sent");
        assert!(!world.ring.has_hung_up(unix) && !world.ring.has_hung_up(tcp));
        drop((other, client));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !(world.ring.has_hung_up(unix) && world.ring.has_hung_up(tcp)) {
            assert!(std::time::Instant::now() < end, "not seen");
            std::thread::yield_now();
        }
    }

    fn shutdown_ends_what_is_pending_and_close_comes_last(world) {
        let (socket, _other) = tight_pair(&mut world);
        let (payload, span) = world.pattern(1 << 20, 5);
        let receive = world.start(Op::Recv { socket, into: Span { length: 4096, ..span } });
        let again = world.start(Op::Recv { socket, into: Span { length: 4096, ..span } });
        let mut gather = Box::new(Gather::default());
        gather.push_span(span);
        let send = world.start(Op::Send { socket, gather });
        world.peek();
        let close = world.start(Op::Close { socket });
        world.peek();
        world.peek();
        assert!(world.completions.is_empty(), "everything still waits");
        assert!(world.ring.release_socket(socket).is_none());
        world.ring.shutdown(socket);
        assert_eq!(world.wait(close).result, Ok(0));
        assert!(world.wait(receive).result.is_ok_and(|count| count == 0));
        assert!(world.wait(again).result.is_ok_and(|count| count == 0));
        let sent = world.wait(send);
        assert_eq!((sent.result, sent.gather.is_some()), (Err(Errno(libc::EPIPE)), true));
        let late = Op::Recv { socket, into: span };
        assert_eq!(world.run(late), Err(Errno(libc::EBADF)));
        assert_eq!(world.run(Op::Close { socket }), Err(Errno(libc::EBADF)));
        world.pool.release(payload);
    }

    fn the_other_side_closing_reads_as_zero(world) {
        let (one, other) = UnixStream::pair().expect("descriptors");
        let socket = world.ring.adopt_socket(one.into());
        let (payload, into) = world.take(4096);
        let receive = world.start(Op::Recv { socket, into });
        world.peek();
        drop(other);
        assert_eq!(world.wait(receive).result, Ok(0));
        world.pool.release(payload);
    }

    fn connections_are_made_and_accepted_over_both_protocols(world) {
        let (payload, into) = world.take(4096);
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, address) = listener(&mut world, local);
            let accept = world.start(Op::Accept { listener });
            let from = Some(address.ip());
            let client = world.run(Op::Connect { address, from }).expect("connected");
            let server = world.wait(accept).result.expect("accepted");
            assert_ne!(client, server);
            let mut gather = Box::new(Gather::default());
            gather.push_bytes(b"hello");
            let socket = SocketId(client);
            assert_eq!(world.run(Op::Send { socket, gather }), Ok(5));
            let socket = SocketId(server);
            assert_eq!(world.run(Op::Recv { socket, into }), Ok(5));
            assert_eq!(&world.pool.bytes(into)[..5], b"hello");
            world.ring.close_listener(listener);
        }
        world.pool.release(payload);
    }

    fn a_refused_connection_says_so(world) {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = address.expect("a port now free again");
        assert_eq!(world.run(connect(address)), Err(Errno(libc::ECONNREFUSED)));
        let from = Some(Ipv6Addr::LOCALHOST.into());
        assert!(world.run(Op::Connect { address, from }).is_err(), "two protocols");
        let from = Some("192.0.2.1".parse().expect("an address of nobody"));
        let foreign = world.run(Op::Connect { address, from });
        assert_eq!(foreign, Err(Errno(libc::EADDRNOTAVAIL)));
    }

    fn an_unanswered_connection_ends_in_time(world) {
        let (_listener, address, _queued) = deaf_listener();
        world.ring.engine.held().connect_time = Nanos::from_millis(20);
        let first = world.start(connect(address));
        let second = world.start(connect(address));
        assert_eq!(world.wait(first).result, Err(Errno(libc::ETIMEDOUT)));
        assert_eq!(world.wait(second).result, Err(Errno(libc::ETIMEDOUT)));
    }

    fn dropping_a_ring_ends_an_unanswered_connection(world) {
        let (_listener, address, _queued) = deaf_listener();
        world.ring.engine.held().connect_time = Nanos::from_millis(3_600_000);
        world.start(connect(address));
        world.peek();
        // This test would never end if the ring waited for an answer.
    }

    fn closing_a_listener_ends_its_accepts(world) {
        let (tcp, _) = listener(&mut world, "127.0.0.1:0");
        let directory = tempfile::tempdir().expect("a directory");
        let unix = UnixListener::bind(directory.path().join("socket")).expect("a socket");
        let unix = world.ring.adopt_listener(unix);
        for listener in [tcp, unix] {
            let first = world.start(Op::Accept { listener });
            let second = world.start(Op::Accept { listener });
            world.peek();
            world.ring.close_listener(listener);
            assert_eq!(world.wait(first).result, Err(Errno(libc::ECANCELED)));
            assert_eq!(world.wait(second).result, Err(Errno(libc::ECANCELED)));
            assert_eq!(world.run(Op::Accept { listener }), Err(Errno(libc::EBADF)));
        }
    }

    fn a_socket_moves_to_another_ring(world) {
        let (listener, address) = listener(&mut world, "127.0.0.1:0");
        let accept = world.start(Op::Accept { listener });
        let client = SocketId(world.run(connect(address)).expect("connected"));
        let server = SocketId(world.wait(accept).result.expect("accepted"));
        let moved = world.ring.release_socket(server).expect("nothing in flight");
        assert!(world.ring.release_socket(server).is_none());
        for choice in [RingChoice::Uring, RingChoice::Portable] {
            let mut second = World::new(choice);
            let there = second.ring.adopt_socket(moved.try_clone().expect("a descriptor"));
            let (payload, into) = second.take(4096);
            let receive = second.start(Op::Recv { socket: there, into });
            second.peek();
            let mut gather = Box::new(Gather::default());
            gather.push_bytes(b"moved");
            assert_eq!(world.run(Op::Send { socket: client, gather }), Ok(5));
            assert_eq!(second.wait(receive).result, Ok(5));
            second.pool.release(payload);
        }
    }

    fn a_thousand_connections_leave_nothing_behind(world) {
        let (listener, address) = listener(&mut world, "127.0.0.1:0");
        for _ in 0..1000 {
            let accept = world.start(Op::Accept { listener });
            let client = SocketId(world.run(connect(address)).expect("connected"));
            let server = SocketId(world.wait(accept).result.expect("accepted"));
            assert!(client.0 < 4 && server.0 < 4, "ids are reused");
            for socket in [client, server] {
                world.ring.shutdown(socket);
                assert_eq!(world.run(Op::Close { socket }), Ok(0));
            }
        }
    }

    fn dropping_a_ring_ends_what_waits_for_ever(world) {
        let (one, _two) = tight_pair(&mut world);
        let (listener, _) = listener(&mut world, "127.0.0.1:0");
        let (payload, into) = world.take(1 << 20);
        world.start(Op::Recv { socket: one, into });
        world.start(Op::Accept { listener });
        let mut gather = Box::new(Gather::default());
        gather.push_span(into);
        world.start(Op::Send { socket: one, gather });
        world.peek();
        let World { ring, mut pool, .. } = world;
        drop(ring);
        pool.release(payload);
    }
}
