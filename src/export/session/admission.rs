//! Owns the way of a decoded request to the core: what it must wait for, what it takes along.
//! Must never let a request on that would take more than its client's share.

use twinblk_nbd::{Checked, Operation};

use super::{Desk, Incoming, Next, Pending, Session, range_of};
use crate::buffer::Pool;
use crate::export::spread;
use crate::limits::{CLIENT_BYTES_MAX, CLIENT_REQUESTS_MAX, EXPORT_REQUESTS_MAX};
use crate::replica::event::{Input, Pieces, Request};
use crate::units::Bytes;

/// What a request takes along: its slots, if it has any, and what they take up.
type Claimed = (Option<Pieces>, u64);

impl Session {
    /// Lets a request in, or puts it aside and says what it waits for.
    pub(super) fn admit(&mut self, request: Checked, desk: &mut Desk<'_>) -> Option<Next> {
        let empty = request.length == 0 && request.operation != Operation::Flush;
        if empty || request.operation == Operation::Cache {
            // A hint that is not taken; the specification lets the server ignore it.
            self.succeed(&request);
            return None;
        }
        let (pieces, charge) = match self.claim(&request, desk) {
            Ok(claimed) => claimed,
            Err(next) => {
                self.stalled = Some(request);
                return Some(next);
            }
        };
        self.charged += charge;
        match (request.operation, pieces) {
            (Operation::Write { .. }, Some(pieces)) => {
                let since = desk.now;
                self.incoming = Some(Incoming { request, pieces, charge, have: 0, since });
            }
            (_, pieces) => self.begin(request, pieces, charge, desk),
        }
        None
    }

    /// Everything a request needs before it begins.
    fn claim(&mut self, request: &Checked, desk: &mut Desk<'_>) -> Result<Claimed, Next> {
        let slots = matches!(request.operation, Operation::Read { .. } | Operation::Write { .. });
        let range = range_of(request);
        let wanted = self.charged + range.blocks().length_bytes();
        let greedy = slots && self.charged > 0 && wanted > CLIENT_BYTES_MAX;
        if greedy || self.pending.len() >= CLIENT_REQUESTS_MAX {
            self.leave_line(desk.pool);
            return Err(Next::Hold);
        }
        if desk.tally.in_core >= EXPORT_REQUESTS_MAX {
            self.leave_line(desk.pool);
            return Err(Next::Crowded);
        }
        if !slots {
            return Ok((None, 0));
        }
        let Some(pieces) = self.take_slots(desk.pool, range) else {
            let join = || desk.pool.join_line(self.account);
            self.ticket.get_or_insert_with(join);
            return Err(Next::Line);
        };
        self.leave_line(desk.pool);
        let charge = spread::capacity_bytes(desk.pool, &pieces);
        Ok((Some(pieces), charge))
    }

    /// Takes slots if there are any and it is this client's turn.
    fn take_slots(&self, pool: &mut Pool, range: Bytes) -> Option<Pieces> {
        let turn = match &self.ticket {
            Some(ticket) => pool.is_first(self.account, ticket),
            None => !pool.has_line_of(self.account),
        };
        if turn { spread::take(pool, self.account, range) } else { None }
    }

    /// Hands a request to the core.
    pub(super) fn begin(
        &mut self,
        request: Checked,
        pieces: Option<Pieces>,
        charge: u64,
        desk: &mut Desk<'_>,
    ) {
        let range = range_of(&request);
        let asked = match (request.operation, pieces) {
            (Operation::Read { .. }, Some(pieces)) => Request::Read { range, pieces },
            (Operation::Write { fua }, Some(pieces)) => Request::Write { range, pieces, fua },
            (Operation::Trim { fua }, _) => Request::Zero { range, discard: true, fua },
            // A fast zero is not offered, so none is asked for: the slower of two replicas decides.
            (Operation::WriteZeroes { fua, no_hole, .. }, _) => {
                Request::Zero { range, discard: !no_hole, fua }
            }
            _ => Request::Flush,
        };
        let key = self.pending.insert(Pending { request, charge });
        let key = u16::try_from(key).expect("keys are below CLIENT_REQUESTS_MAX");
        desk.tally.began(&request);
        desk.out.push(Input::Request { id: desk.id.request(key), request: asked });
    }
}
