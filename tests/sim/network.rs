//! Owns what lies between hosts: links that delay, cut and corrupt, and who listens where. Must
//! never know what travels.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use twinblk::ring::{Errno, ListenerId, SocketId};
use twinblk::units::Nanos;

use crate::clockwork::{Clockwork, Event, LifeId, NetEvent, OpId, Outcome};
use crate::link::{Link, address};
use crate::socket::{End, Segment};

struct Listener {
    life: LifeId,
    address: SocketAddr,
    /// Connections nobody has accepted yet.
    backlog: VecDeque<usize>,
    accepting: VecDeque<OpId>,
}

/// A connection attempt under way.
struct Attempt {
    life: LifeId,
    host: usize,
    address: SocketAddr,
    tries: u32,
    /// The end made for it, once the other host has answered.
    made: Option<usize>,
}

/// All hosts' networking.
pub(crate) struct Net {
    hosts: usize,
    /// Per host whether it has power.
    up: Vec<bool>,
    links: Vec<Link>,
    listeners: Vec<Option<Listener>>,
    attempts: BTreeMap<OpId, Attempt>,
    pub(crate) ends: Vec<End>,
    sockets: BTreeMap<(LifeId, u32), usize>,
}

const SYN_TRIES: u32 = 6;

impl Net {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            hosts,
            up: vec![true; hosts],
            links: vec![Link::good(); hosts * hosts],
            listeners: Vec::new(),
            attempts: BTreeMap::new(),
            ends: Vec::new(),
            sockets: BTreeMap::new(),
        }
    }

    fn host_of(&self, wanted: SocketAddr) -> Option<usize> {
        let found = (0..self.hosts).find(|host| address(*host, wanted.port()) == wanted);
        found.filter(|host| self.up[*host])
    }

    pub(crate) fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from * self.hosts + to]
    }

    /// Changes a direction; what was held up by a cut moves again once it is open.
    pub(crate) fn set_link(
        &mut self,
        clockwork: &mut Clockwork,
        (from, to): (usize, usize),
        link: Link,
    ) {
        let was_cut = std::mem::replace(&mut self.links[from * self.hosts + to], link).cut;
        if !was_cut || link.cut {
            return;
        }
        for end in 0..self.ends.len() {
            let (here, there) = (self.ends[end].host, self.ends[self.ends[end].peer].host);
            if (here, there) == (from, to) {
                // Whatever was lost is sent again, when the sender's timer says so.
                let pause = clockwork.random.around(100_000_000);
                self.ends[end].delay_wire(clockwork.now + Nanos(pause));
                self.plan_arrival(clockwork, end);
                self.pump(clockwork, end);
            }
            if (there, here) == (from, to) {
                let owed = std::mem::take(&mut self.ends[end].acknowledged_late);
                self.ends[end].acknowledged(clockwork, owed);
            }
        }
    }

    pub(crate) fn listen(
        &mut self,
        life: LifeId,
        address: SocketAddr,
    ) -> Result<ListenerId, Errno> {
        let used = self.listeners.iter().flatten().any(|listener| listener.address == address);
        if used {
            return Err(Errno(libc::EADDRINUSE));
        }
        let id = u32::try_from(self.listeners.len()).expect("few listeners");
        let (backlog, accepting) = (VecDeque::new(), VecDeque::new());
        self.listeners.push(Some(Listener { life, address, backlog, accepting }));
        Ok(ListenerId(id))
    }

    pub(crate) fn accept(
        &mut self,
        clockwork: &mut Clockwork,
        life: LifeId,
        op: OpId,
        id: ListenerId,
    ) {
        let index = id.0 as usize;
        match self.listeners.get_mut(index).and_then(Option::as_mut) {
            Some(listener) if listener.life == life => listener.accepting.push_back(op),
            _ => clockwork.end(life, op, Err(Errno(libc::EBADF))),
        }
        self.hand_over(clockwork, index);
    }

    /// Gives waiting connections to waiting accepts.
    fn hand_over(&mut self, clockwork: &mut Clockwork, index: usize) {
        while let Some(listener) = self.listeners.get_mut(index).and_then(Option::as_mut) {
            if listener.accepting.is_empty() || listener.backlog.is_empty() {
                return;
            }
            let (life, end) = (listener.life, listener.backlog.pop_front());
            let (op, end) = (listener.accepting.pop_front(), end.expect("not empty"));
            let socket = self.name(life, end);
            clockwork.end(life, op.expect("not empty"), Ok(Outcome::Count(socket)));
        }
    }

    /// Gives an end to a life, under the lowest number it does not use.
    fn name(&mut self, life: LifeId, end: usize) -> u32 {
        let mut free = 0;
        while self.sockets.contains_key(&(life, free)) {
            free += 1;
        }
        self.sockets.insert((life, free), end);
        self.ends[end].owner = Some((life, free));
        free
    }

    pub(crate) fn connect(
        &mut self,
        clockwork: &mut Clockwork,
        (life, host): (LifeId, usize),
        op: OpId,
        address: SocketAddr,
    ) {
        self.attempts.insert(op, Attempt { life, host, address, tries: 0, made: None });
        let span = self.delay(clockwork, host, self.host_of(address).unwrap_or(host));
        clockwork.after(span, Event::Net(NetEvent::Syn(op)));
    }

    fn delay(&self, clockwork: &mut Clockwork, from: usize, to: usize) -> u64 {
        let link = self.link(from, to);
        link.latency + clockwork.random.below(link.jitter + 1)
    }

    pub(crate) fn event(&mut self, clockwork: &mut Clockwork, event: NetEvent) {
        match event {
            NetEvent::Arrive(end, count) => self.arrive(clockwork, end, count),
            NetEvent::Syn(op) => self.syn(clockwork, op),
            NetEvent::Connected(op) => self.connected(clockwork, op),
            NetEvent::Reset(end) => {
                self.ends[end].reset(clockwork);
                self.settle_close(clockwork, end);
            }
        }
    }

    fn syn(&mut self, clockwork: &mut Clockwork, op: OpId) {
        let Some(attempt) = self.attempts.get_mut(&op) else {
            return;
        };
        let (host, address, life) = (attempt.host, attempt.address, attempt.life);
        attempt.tries += 1;
        let tries = attempt.tries;
        let there = self.host_of(address);
        let open = |to: usize| !self.link(host, to).cut && !self.link(to, host).cut;
        let Some(there) = there.filter(|there| open(*there)) else {
            if tries > SYN_TRIES {
                self.attempts.remove(&op);
                clockwork.end(life, op, Err(Errno(libc::ETIMEDOUT)));
            } else {
                clockwork.after(500_000_000 << tries, Event::Net(NetEvent::Syn(op)));
            }
            return;
        };
        let listens = |listener: &Option<Listener>| {
            listener.as_ref().is_some_and(|listener| listener.address == address)
        };
        if let Some(index) = self.listeners.iter().position(listens) {
            let mine = self.make_pair(clockwork, host, there);
            self.attempts.get_mut(&op).expect("just seen").made = Some(mine);
            let theirs = self.ends[mine].peer;
            let listener = self.listeners[index].as_mut().expect("just found");
            listener.backlog.push_back(theirs);
            self.hand_over(clockwork, index);
        }
        let back = self.delay(clockwork, there, host);
        clockwork.after(back, Event::Net(NetEvent::Connected(op)));
    }

    fn make_pair(&mut self, clockwork: &mut Clockwork, host: usize, there: usize) -> usize {
        let first = self.ends.len();
        let buffer = 1 << clockwork.random.between(12, 20);
        self.ends.push(End::new(host, first + 1, buffer));
        self.ends.push(End::new(there, first, buffer));
        first
    }

    fn connected(&mut self, clockwork: &mut Clockwork, op: OpId) {
        let Some(attempt) = self.attempts.remove(&op) else {
            return;
        };
        let result = match attempt.made {
            None => Err(Errno(libc::ECONNREFUSED)),
            Some(end) => Ok(Outcome::Count(self.name(attempt.life, end))),
        };
        clockwork.end(attempt.life, op, result);
    }

    fn find(&self, life: LifeId, socket: SocketId) -> Option<usize> {
        self.sockets.get(&(life, socket.0)).copied()
    }

    pub(crate) fn receive(
        &mut self,
        clockwork: &mut Clockwork,
        life: LifeId,
        op: OpId,
        (socket, room): (SocketId, usize),
    ) {
        let open = |end: &usize| self.ends[*end].closing.is_none();
        let Some(end) = self.find(life, socket).filter(open) else {
            clockwork.end(life, op, Err(Errno(libc::EBADF)));
            return;
        };
        self.ends[end].receiving.push_back((op, room));
        self.serve(clockwork, end);
    }

    pub(crate) fn send(
        &mut self,
        clockwork: &mut Clockwork,
        life: LifeId,
        op: OpId,
        (socket, bytes): (SocketId, &[u8]),
    ) {
        let open = |end: &usize| self.ends[*end].closing.is_none();
        let Some(end) = self.find(life, socket).filter(open) else {
            clockwork.end(life, op, Err(Errno(libc::EBADF)));
            return;
        };
        self.ends[end].send(clockwork, op, bytes);
        self.pump(clockwork, end);
    }

    pub(crate) fn shutdown(&mut self, clockwork: &mut Clockwork, life: LifeId, socket: SocketId) {
        if let Some(end) = self.find(life, socket) {
            self.ends[end].shutdown(clockwork);
            self.pump(clockwork, end);
            self.settle_close(clockwork, end);
        }
    }

    pub(crate) fn close(
        &mut self,
        clockwork: &mut Clockwork,
        life: LifeId,
        op: OpId,
        socket: SocketId,
    ) {
        match self.find(life, socket) {
            Some(end) => {
                assert!(self.ends[end].closing.is_none(), "a socket is closed twice");
                self.ends[end].closing = Some(op);
                self.settle_close(clockwork, end);
            }
            None => clockwork.end(life, op, Err(Errno(libc::EBADF))),
        }
    }

    /// Ends a `Close` whose socket has no operation left.
    fn settle_close(&mut self, clockwork: &mut Clockwork, end: usize) {
        if self.ends[end].is_busy() {
            return;
        }
        let Some(op) = self.ends[end].closing.take() else {
            return;
        };
        let (life, socket) = self.ends[end].owner.take().expect("an open socket has an owner");
        self.sockets.remove(&(life, socket));
        self.abandon(clockwork, end);
        clockwork.end(life, op, Ok(Outcome::Count(0)));
    }

    /// Nobody holds the end any more: its last bytes still travel, then the end or a reset.
    fn abandon(&mut self, clockwork: &mut Clockwork, end: usize) {
        let unread = self.ends[end].abandon();
        if unread {
            self.send_reset(clockwork, end);
        } else {
            self.pump(clockwork, end);
        }
    }

    fn send_reset(&mut self, clockwork: &mut Clockwork, end: usize) {
        let (from, peer) = (self.ends[end].host, self.ends[end].peer);
        let to = self.ends[peer].host;
        if !self.link(from, to).cut {
            let span = self.delay(clockwork, from, to);
            clockwork.after(span, Event::Net(NetEvent::Reset(peer)));
        }
    }

    /// A connection breaks with a reset at both ends.
    pub(crate) fn break_connections(
        &mut self,
        clockwork: &mut Clockwork,
        one: usize,
        other: usize,
    ) {
        for end in 0..self.ends.len() {
            let (here, there) = (self.ends[end].host, self.ends[self.ends[end].peer].host);
            if (here, there) == (one, other) || (there, here) == (one, other) {
                self.ends[end].reset(clockwork);
                self.settle_close(clockwork, end);
            }
        }
    }

    /// The kernel cleans up after a process.
    pub(crate) fn kill(&mut self, clockwork: &mut Clockwork, life: LifeId) {
        let mine = |attempt: &Attempt| attempt.life == life;
        let made = self.attempts.values().filter(|attempt| mine(attempt)).filter_map(|a| a.made);
        let made: Vec<usize> = made.collect();
        self.attempts.retain(|_, attempt| !mine(attempt));
        for end in made {
            self.abandon(clockwork, end);
        }
        for index in 0..self.listeners.len() {
            if self.listeners[index].as_ref().is_some_and(|listener| listener.life == life) {
                let listener = self.listeners[index].take().expect("just seen");
                for end in listener.backlog {
                    self.ends[end].abandon();
                    self.send_reset(clockwork, end);
                }
            }
        }
        let owned = |(of, _): &(LifeId, u32), end: &usize| (*of == life).then_some(*end);
        let ends: Vec<usize> =
            self.sockets.iter().filter_map(|(key, end)| owned(key, end)).collect();
        self.sockets.retain(|(of, _), _| *of != life);
        for end in ends {
            self.ends[end].drop_operations();
            self.abandon(clockwork, end);
        }
    }

    /// A host loses power: nobody is told, and what it had to send is gone.
    pub(crate) fn cut_power(&mut self, host: usize) {
        self.up[host] = false;
        self.attempts.retain(|_, attempt| attempt.host != host);
        for listener in &mut self.listeners {
            listener.take_if(|listener| address(host, listener.address.port()) == listener.address);
        }
        self.sockets.retain(|_, end| self.ends[*end].host != host);
        for end in self.ends.iter_mut().filter(|end| end.host == host) {
            end.vanish();
        }
    }

    pub(crate) fn power_on(&mut self, host: usize) {
        self.up[host] = true;
    }

    /// Puts what waits in a send buffer on the wire, as far as the other side has room.
    fn pump(&mut self, clockwork: &mut Clockwork, end: usize) {
        let (from, peer) = (self.ends[end].host, self.ends[end].peer);
        let link = *self.link(from, self.ends[peer].host);
        let room = self.ends[peer].room();
        self.ends[end].fill_wire(clockwork, &link, room);
        self.plan_arrival(clockwork, end);
    }

    fn plan_arrival(&mut self, clockwork: &mut Clockwork, end: usize) {
        if let Some((when, count)) = self.ends[end].next_arrival() {
            clockwork.at(when, Event::Net(NetEvent::Arrive(end, count)));
        }
    }

    fn arrive(&mut self, clockwork: &mut Clockwork, end: usize, count: u64) {
        if !self.ends[end].is_current(count) {
            return;
        }
        let (from, peer) = (self.ends[end].host, self.ends[end].peer);
        let to = self.ends[peer].host;
        if self.link(from, to).cut {
            self.ends[end].stall();
            return;
        }
        let segment = self.ends[end].take_segment();
        let answered = !self.link(to, from).cut;
        let size = segment.bytes();
        if !self.up[to] {
            // Nobody is there to answer; the sender goes on trying until it gives up by itself.
        } else if self.ends[peer].is_abandoned() {
            if answered && matches!(segment, Segment::Bytes(_)) {
                self.send_reset(clockwork, peer);
            }
        } else {
            self.ends[peer].deliver(segment);
            self.serve(clockwork, peer);
            let sender = &mut self.ends[end];
            if answered {
                sender.acknowledged(clockwork, size);
            } else {
                sender.acknowledged_late += size;
            }
        }
        self.settle_close(clockwork, end);
        self.pump(clockwork, end);
    }

    /// Gives received bytes to waiting receives; the sender may then send more.
    fn serve(&mut self, clockwork: &mut Clockwork, end: usize) {
        if self.ends[end].serve(clockwork) {
            let peer = self.ends[end].peer;
            self.pump(clockwork, peer);
        }
        self.settle_close(clockwork, end);
    }

    /// Connections and attempts, for tests.
    pub(crate) fn open_sockets(&self, life: LifeId) -> usize {
        self.sockets.keys().filter(|(of, _)| *of == life).count()
    }
}
