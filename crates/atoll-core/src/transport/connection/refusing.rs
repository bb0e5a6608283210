//! Requests that become no call: each is answered, and counted by reason.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::method_counters::Refused;
use super::super::request::Refusal;
use super::super::routes::Route;
use super::super::status::Status;
use super::super::streams::{Stage, StreamKey};
use super::super::wire::Responder;
use super::Connection;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Answers a request that becomes no call, and counts it: for its method, or for the server if it names none.
    pub(super) fn turn_away(
        &self,
        route: Option<&Arc<Route>>,
        reason: Refused,
        refusal: Refusal,
        responder: Responder,
    ) {
        match route {
            Some(route) => route.counters().turned_away(reason, refusal.code()),
            None => self.outbox.counters.refused.count(reason),
        }
        responder.refuse(refusal);
    }

    /// The message of a unary request is none, or is too large.
    pub(super) fn refuse_body(&self, route: &Arc<Route>, status: Status, responder: Responder) {
        self.turn_away(
            Some(route),
            Refused::BadRequest,
            Refusal::Status(status),
            responder,
        );
    }

    /// A unary request is given up while its message is read.
    pub(super) fn refuse_reading(&mut self, key: StreamKey, reason: Refused, status: Status) {
        let Some(stream) = self.remove(key) else {
            return;
        };
        if let Stage::Reading(reading) = stream.stage {
            let refusal = Refusal::Status(status);
            self.turn_away(Some(&reading.head.route), reason, refusal, stream.responder);
        }
    }
}
