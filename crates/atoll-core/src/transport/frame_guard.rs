//! A shim between the socket and h2 that reads the heads of frames and stops floods that h2 has no limit for.
//!
//! h2 limits what makes it keep something: header blocks and their CONTINUATIONs, resets of streams that it has not handed
//! out, errors on streams, small DATA frames. It does not limit what only makes it work: PING, SETTINGS, `WINDOW_UPDATE`,
//! PRIORITY and resets of streams that it has handed out. Each of these has a budget here ([`FrameLimit`]), which time fills
//! up again and so does each frame of a reply, because that is when clients measure bandwidth, open windows and let go of
//! calls.
//!
//! The frame that is over its budget and all that follow never reach h2. The client is told GOAWAY with
//! `ENHANCE_YOUR_CALM`, unless it does not even read, and then reading fails, which is how h2 ends the connection.
//!
//! It mends the `:authority` that clients on Unix sockets send, too (see `authority`).
//!
//! It also bounds what h2 takes from the socket in one go, so that one client's bytes neither delay other connections of the
//! thread nor pile up in h2 before anybody looks at them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::AuthorityMender;
use super::connection::Service;
use super::frame_heads::{
    ACK, CONTINUATION, DATA, END_STREAM, FrameHead, FrameHeads, GOAWAY, HEAD, HEADERS, PING,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::frame_limit::Budget;
use super::offence::{self, Offence};
use super::outbox::Outbox;

#[cfg(doc)]
use super::frame_limit::FrameLimit;

/// The client's connection preface, which comes before its first frame.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read from a socket before the connection's streams are looked at. Full of the smallest frames, it is still well
/// within [`TransportConfig::small_frame_overhead`](super::config::TransportConfig::small_frame_overhead).
const TURN: usize = 64 << 10;

/// Resetting a stream that is older than this is a client's deadline or a change of mind. A flood opens and resets at once:
/// only so does it get around the limit of concurrent streams.
const RIPE: Duration = Duration::from_millis(100);

/// `WINDOW_UPDATE`s that one frame of a reply earns: clients send up to two for each, for the stream and the connection.
const WINDOW_UPDATES_EARNED: u32 = 4;

/// A byte stream whose HTTP/2 frames are counted.
pub(super) struct FrameGuard<S> {
    io: S,
    service: Arc<Service>,
    outbox: Arc<Outbox>,
    received: FrameHeads,
    sent: FrameHeads,
    budgets: Budgets,
    ages: Ages,
    /// On Unix sockets.
    authority: Option<Box<AuthorityMender>>,
    /// PINGs and SETTINGS of ours that the client has not acknowledged: what we ask for is no flood.
    unanswered_pings: u32,
    unanswered_settings: u32,
    /// Bytes read since the last time that h2 was told to wait.
    turn: usize,
    verdict: Option<Verdict>,
}

struct Budgets {
    pings: Budget,
    settings: Budget,
    resets: Budget,
    window_updates: Budget,
    stray_frames: Budget,
}

/// The client has gone too far.
struct Verdict {
    goaway: Vec<u8>,
    told: usize,
    /// h2 has had its chance to write what it has, and the GOAWAY after it.
    flushed: bool,
}

/// How old streams are, roughly: three marks instead of a time per stream. Each is a time and the highest stream that there
/// was by then.
struct Ages {
    earlier: (Instant, u32),
    later: (Instant, u32),
    newest: (Instant, u32),
}

impl Ages {
    fn new(now: Instant) -> Self {
        Self {
            earlier: (now, 0),
            later: (now, 0),
            newest: (now, 0),
        }
    }

    fn opened(&mut self, stream: u32, now: Instant) {
        if now.saturating_duration_since(self.later.0) >= RIPE {
            self.earlier = self.later;
            self.later = self.newest;
        }
        self.newest = (now, self.newest.1.max(stream));
    }

    fn is_ripe(&self, stream: u32, now: Instant) -> bool {
        let ripe = |(at, highest): (Instant, u32)| {
            stream <= highest && now.saturating_duration_since(at) >= RIPE
        };
        [self.earlier, self.later, self.newest]
            .into_iter()
            .any(ripe)
    }
}

impl<S> FrameGuard<S> {
    /// Guards `io`, whose client has not sent its preface yet.
    pub(super) fn new(io: S, service: Arc<Service>, outbox: Arc<Outbox>) -> Self {
        let now = Instant::now();
        let config = &service.config;
        Self {
            io,
            received: FrameHeads::after(PREFACE.len() as u32),
            sent: FrameHeads::after(0),
            budgets: Budgets {
                pings: Budget::new(config.pings, now),
                settings: Budget::new(config.settings, now),
                resets: Budget::new(config.resets, now),
                window_updates: Budget::new(config.window_updates, now),
                stray_frames: Budget::new(config.stray_frames, now),
            },
            ages: Ages::new(now),
            authority: outbox
                .is_unix()
                .then(|| Box::new(AuthorityMender::after(PREFACE.len() as u32))),
            unanswered_pings: 0,
            unanswered_settings: 0,
            turn: 0,
            verdict: None,
            service,
            outbox,
        }
    }

    /// Looks at what has been read; where the first frame begins that is one too many.
    fn inspect(&mut self, bytes: &[u8], now: Instant) -> Option<usize> {
        let mut at = 0;
        loop {
            let before = at;
            let head = self.received.next(bytes, &mut at)?;
            if let Some(offence) = self.judge(head, now) {
                self.condemn(offence);
                // The head may have begun in the read before; then h2 waits in vain for the rest of it.
                let skipped_and_head = at - before;
                return Some(before + skipped_and_head.saturating_sub(HEAD));
            }
        }
    }

    fn judge(&mut self, head: FrameHead, now: Instant) -> Option<Offence> {
        let (config, budgets) = (&self.service.config, &mut self.budgets);
        let (budget, limit, offence) = match head.kind {
            // What is wrong with these, h2 finds.
            DATA | CONTINUATION | PUSH_PROMISE => return None,
            HEADERS => {
                self.ages.opened(head.stream, now);
                return None;
            }
            RST_STREAM if self.ages.is_ripe(head.stream, now) => return None,
            RST_STREAM => (&mut budgets.resets, config.resets, Offence::ResetFlood),
            SETTINGS if head.has(ACK) && self.unanswered_settings > 0 => {
                self.unanswered_settings -= 1;
                return None;
            }
            SETTINGS => (
                &mut budgets.settings,
                config.settings,
                Offence::SettingsFlood,
            ),
            PING if !head.has(ACK) => (&mut budgets.pings, config.pings, Offence::PingFlood),
            PING if self.unanswered_pings > 0 => {
                self.unanswered_pings -= 1;
                return None;
            }
            WINDOW_UPDATE => (
                &mut budgets.window_updates,
                config.window_updates,
                Offence::WindowUpdateFlood,
            ),
            // PRIORITY, GOAWAY, acknowledgements of pings that nobody sent, unknown types.
            _ => (
                &mut budgets.stray_frames,
                config.stray_frames,
                Offence::StrayFrameFlood,
            ),
        };
        (!budget.take(limit, now)).then_some(offence)
    }

    fn condemn(&mut self, offence: Offence) {
        offence::report(&self.service, &self.outbox, offence);
        // Clients of grpc look for this word, and ping less often when they connect again.
        let words = match offence {
            Offence::PingFlood => "too_many_pings",
            other => other.name(),
        };
        let reason = Reason::ENHANCE_YOUR_CALM.into();
        self.verdict = Some(Verdict {
            goaway: FrameHead::goaway(self.ages.newest.1, reason, words),
            told: 0,
            flushed: false,
        });
    }

    /// Looks at what has been written: each frame of a reply earns the client something, and in a GOAWAY h2 says what it
    /// has found itself.
    fn credit(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(head) = self.sent.next(bytes, &mut at) {
            let (config, budgets) = (&self.service.config, &mut self.budgets);
            match head.kind {
                DATA | HEADERS => {
                    budgets.pings.earn(config.pings, 1);
                    budgets.settings.earn(config.settings, 1);
                    budgets
                        .window_updates
                        .earn(config.window_updates, WINDOW_UPDATES_EARNED);
                    if head.has(END_STREAM) {
                        budgets.resets.earn(config.resets, 1);
                    }
                }
                PING if !head.has(ACK) => self.unanswered_pings += 1,
                SETTINGS if !head.has(ACK) => self.unanswered_settings += 1,
                GOAWAY => {
                    let end = bytes.len().min(at + head.length as usize);
                    self.complain(&bytes[at..end]);
                }
                _ => {}
            }
        }
    }

    /// h2 sends this GOAWAY, which is cut where the socket is full.
    fn complain(&self, payload: &[u8]) {
        let reason = payload.get(4..8).and_then(|reason| reason.try_into().ok());
        let reason = reason.map_or(u32::MAX, u32::from_be_bytes);
        let words = payload.get(8..).unwrap_or_default();
        if let Some(offence) = Offence::in_goaway(reason, words) {
            offence::report(&self.service, &self.outbox, offence);
        }
    }
}

fn condemned() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the client floods its connection",
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(verdict) = &mut this.verdict {
            if verdict.flushed {
                return Poll::Ready(Err(condemned()));
            }
            // h2 flushes when there is nothing to read, which is between two frames; once is enough.
            verdict.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.turn >= TURN {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                this.turn = 0;
                return Poll::Pending;
            }
        }
        let bytes = &mut buffer.filled_mut()[before..];
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if let Some(authority) = &mut this.authority {
            authority.mend(bytes);
        }
        this.turn += bytes.len();
        let now = Instant::now();
        this.outbox.has_read(now);
        if let Some(innocent) = this.inspect(bytes, now) {
            buffer.set_filled(before + innocent);
            if innocent == 0 {
                // Nothing read would mean that the client has closed.
                return Pin::new(this).poll_read(cx, buffer);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> FrameGuard<S> {
    /// A client that floods and does not read is not waited for.
    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending if self.verdict.is_some() => Poll::Ready(Err(condemned())),
            other => other,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            this.credit(&bytes[..count]);
        }
        this.written(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut count)) = written {
            for slice in slices {
                let part = slice.len().min(count);
                this.credit(&slice[..part]);
                count -= part;
                if count == 0 {
                    break;
                }
            }
        }
        this.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// h2 flushes when it has written all of a frame, so the GOAWAY fits here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(verdict) = &mut this.verdict {
            while verdict.told < verdict.goaway.len() {
                let rest = &verdict.goaway[verdict.told..];
                match Pin::new(&mut this.io).poll_write(cx, rest)? {
                    Poll::Ready(count) if count > 0 => verdict.told += count,
                    _ => return Poll::Ready(Err(condemned())),
                }
            }
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::super::admission::ServerDoors;
    use super::super::config::TransportConfig;
    use super::super::frame_limit::FrameLimit;
    use super::super::offence::OffenceNotes;
    use super::*;

    const PING_FRAME: [u8; 17] = *b"\0\0\x08\x06\0\0\0\0\0pingping";

    fn guard(pings: u32, buffer: usize) -> (FrameGuard<DuplexStream>, DuplexStream, Arc<Outbox>) {
        let (server, client) = duplex(buffer);
        let config = TransportConfig {
            pings: FrameLimit::new(pings, Duration::from_secs(3600)),
            ..TransportConfig::default()
        };
        let service = Arc::new(Service {
            doors: Arc::new(ServerDoors::new(&config)),
            config,
            routes: Arc::default(),
            notes: OffenceNotes::default(),
        });
        let outbox = Arc::new(Outbox::new("".into(), Arc::default()));
        let guard = FrameGuard::new(server, service, Arc::clone(&outbox));
        (guard, client, outbox)
    }

    fn floods(outbox: &Outbox) -> u64 {
        let mut counts = crate::transport::OffenceCounts::default();
        outbox.counters.offences.add_to(&mut counts);
        counts.get(Offence::PingFlood)
    }

    #[tokio::test]
    async fn a_flood_from_a_client_that_does_not_read_ends_without_a_goodbye() {
        // 100 pongs are more than the pipe holds, so the GOAWAY has no place in it.
        let (guard, mut client, outbox) = guard(100, 1024);
        let server = tokio::spawn(async move {
            let mut connection: h2::server::Connection<_, Bytes> =
                h2::server::handshake(guard).await.unwrap();
            connection.accept().await.expect("an error").map(drop)
        });
        client.write_all(PREFACE).await.unwrap();
        client.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        for _ in 0..1000 {
            if client.write_all(&PING_FRAME).await.is_err() {
                break;
            }
        }
        let error = server.await.unwrap().unwrap_err();
        assert!(error.is_io(), "{error}");
        assert_eq!(floods(&outbox), 1);
    }

    #[tokio::test]
    async fn a_turn_ends_although_the_client_goes_on_sending() {
        let (mut guard, mut client, _) = guard(1000, 4 * TURN);
        // One DATA frame without end.
        client.write_all(PREFACE).await.unwrap();
        client
            .write_all(b"\xff\xff\xff\0\0\0\0\0\x01")
            .await
            .unwrap();
        client.write_all(&vec![0; 3 * TURN]).await.unwrap();
        let mut buffer = vec![0; TURN / 4];
        let mut reads = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..8 {
            let mut buffer = ReadBuf::new(&mut buffer);
            reads.push(
                Pin::new(&mut guard)
                    .poll_read(&mut cx, &mut buffer)
                    .is_ready(),
            );
        }
        assert_eq!(reads, [true, true, true, true, false, true, true, true]);
    }

    #[tokio::test]
    async fn bytes_pass_as_they_are() {
        let (mut guard, mut client, _) = guard(2, 1024);
        let sent = [&PREFACE[..], &PING_FRAME, &PING_FRAME].concat();
        client.write_all(&sent).await.unwrap();
        client.write_all(&PING_FRAME).await.unwrap();
        let mut received = vec![0; sent.len()];
        guard.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
        assert_eq!(
            guard.read(&mut [0; 10]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
    }

    #[test]
    fn streams_ripen() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut ages = Ages::new(start);
        for step in 0..100 {
            ages.opened(step as u32 + 1, after(10 * step));
        }
        let now = after(1000);
        assert!(!ages.is_ripe(100, now) && !ages.is_ripe(95, now));
        assert!(ages.is_ripe(75, now) && ages.is_ripe(1, now));
        // Without new streams all ripen.
        assert!(ages.is_ripe(100, after(1200)));
        assert!(!ages.is_ripe(101, after(1200)), "there is no such stream");
    }
}
