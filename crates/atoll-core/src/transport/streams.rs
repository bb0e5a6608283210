//! The streams of one connection: a slab of slots, each with the generation of its present tenant.
//!
//! Only the connection task enters. Replies and deadlines name a stream by its key; a key whose stream has
//! gone finds nothing, whoever has moved in since.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;
use h2::RecvStream;
use slab::Slab;

use super::body::{Assembler, Decoder};
use super::call::{Call, CallHead};
use super::outbox::{Outbox, StreamWaker};
use super::wire::Responder;

/// Names one stream of one connection, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A stream between its headers and its reply.
pub(super) struct Stream {
    generation: u32,
    pub(super) deadline: Option<Instant>,
    pub(super) responder: Responder,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// The body is not complete.
    Reading(Box<Reading>),
    /// The call is out of the transport's hands, waiting for its reply.
    Dispatched(Arc<Call>),
    /// As `Dispatched`, with messages that come or go meanwhile.
    Streaming(Arc<Call>, Option<Box<Incoming>>),
}

impl Stage {
    /// The call, once there is one.
    pub(super) fn call(&self) -> Option<&Arc<Call>> {
        match self {
            Self::Reading(_) => None,
            Self::Dispatched(call) | Self::Streaming(call, _) => Some(call),
        }
    }
}

/// The body of a streaming request that is not complete.
pub(super) struct Incoming {
    pub(super) body: RecvStream,
    pub(super) decoder: Decoder,
    /// What has come and waits until the handler has taken what came before.
    pub(super) kept: BytesMut,
    /// When the last of that came, in nanoseconds since the connection.
    pub(super) kept_at: u64,
    /// The client has sent its last byte.
    pub(super) has_ended: bool,
    /// Of the message that is due; `None` when none was when it was last looked at.
    pub(super) progress: Option<BodyProgress>,
}

pub(super) struct Reading {
    pub(super) head: CallHead,
    pub(super) body: RecvStream,
    pub(super) assembler: Assembler,
    pub(super) progress: BodyProgress,
}

/// How far a request had come when it was last looked at.
#[derive(Clone, Copy)]
pub(super) struct BodyProgress {
    pub(super) at: Instant,
    /// Messages that were whole.
    pub(super) completed: u64,
    /// Bytes of the next one.
    pub(super) received: usize,
}

/// The table of streams.
pub(super) struct Streams {
    slab: Slab<Stream>,
    generation: u32,
    /// One waker per slot, made when the slot is first used and kept for its later tenants: a wake-up that
    /// comes too late makes the connection look at the new one, which is harmless.
    wakers: Vec<Waker>,
    outbox: Arc<Outbox>,
}

impl Streams {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            slab: Slab::new(),
            generation: 0,
            wakers: Vec::new(),
            outbox,
        }
    }

    /// The key that the next inserted stream will have.
    pub(super) fn next_key(&self) -> StreamKey {
        StreamKey {
            index: self.slab.vacant_key() as u32,
            generation: self.generation,
        }
    }

    /// Puts a stream in, under [`Self::next_key`].
    pub(super) fn insert(&mut self, deadline: Option<Instant>, responder: Responder, stage: Stage) {
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        self.waker(self.slab.vacant_key() as u32);
        self.slab.insert(Stream {
            generation,
            deadline,
            responder,
            stage,
        });
    }

    pub(super) fn contains(&self, key: StreamKey) -> bool {
        self.slab
            .get(key.index as usize)
            .is_some_and(|stream| stream.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slab
            .get_mut(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    /// A stream with the waker of its slot.
    pub(super) fn get_with_waker(&mut self, key: StreamKey) -> Option<(&mut Stream, &Waker)> {
        let waker = self.wakers.get(key.index as usize)?;
        let stream = self.slab.get_mut(key.index as usize)?;
        (stream.generation == key.generation).then_some((stream, waker))
    }

    pub(super) fn remove(&mut self, key: StreamKey) -> Option<Stream> {
        self.contains(key)
            .then(|| self.slab.remove(key.index as usize))
    }

    /// The present tenant of a slot.
    pub(super) fn key_at(&self, index: u32) -> Option<StreamKey> {
        let generation = self.slab.get(index as usize)?.generation;
        Some(StreamKey { index, generation })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// All streams with their stages.
    pub(super) fn stages(&mut self) -> impl Iterator<Item = (StreamKey, &mut Stage)> {
        self.slab.iter_mut().map(|(index, stream)| {
            let (index, generation) = (index as u32, stream.generation);
            (StreamKey { index, generation }, &mut stream.stage)
        })
    }

    pub(super) fn keys(&self) -> Vec<StreamKey> {
        let key = |(index, stream): (usize, &Stream)| StreamKey {
            index: index as u32,
            generation: stream.generation,
        };
        self.slab.iter().map(key).collect()
    }

    /// The waker of a slot, whether it is taken or will be next.
    pub(super) fn waker(&mut self, index: u32) -> &Waker {
        while self.wakers.len() <= index as usize {
            let waker = StreamWaker {
                outbox: Arc::clone(&self.outbox),
                index: self.wakers.len() as u32,
            };
            self.wakers.push(Waker::from(Arc::new(waker)));
        }
        &self.wakers[index as usize]
    }
}
