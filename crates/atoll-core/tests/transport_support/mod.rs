//! What the transport's tests share: a server whose calls the test answers itself, a client made of h2, and
//! a client made of bare frames.
//!
//! Every wait has a limit, so that a test fails with a sentence instead of hanging.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate of its own and uses a part of this"
)]

pub mod frames;
pub mod fuzz;

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::transport::{
    Call, Dispatch, Listener, Reply, Route, Routes, Transport, TransportConfig, TransportStats,
    frame,
};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The path whose calls the test answers.
pub const HELD: &str = "/test.Service/Held";
/// The path that answers each call with its own message, on the network thread.
pub const ECHO: &str = "/test.Service/Echo";

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a future gives, which must be soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what} did not happen within {PATIENCE:?}");
    };
    value
}

/// What the dispatch target of [`HELD`] was told.
#[derive(Debug)]
pub enum Told {
    /// A batch of calls.
    Dispatched(Vec<Arc<Call>>),
    /// One call that is to be cancelled.
    Cancelled(Arc<Call>),
    /// Calls whose handlers wait no longer.
    Progress(Vec<Arc<Call>>),
}

/// Passes on what it is told.
struct Messenger(UnboundedSender<Told>);

impl Dispatch for Messenger {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        let _ = self.0.send(Told::Dispatched(std::mem::take(calls)));
    }

    fn cancelled(&self, call: &Arc<Call>) {
        let _ = self.0.send(Told::Cancelled(Arc::clone(call)));
    }

    fn progress(&self, calls: &mut Vec<Arc<Call>>) {
        let _ = self.0.send(Told::Progress(std::mem::take(calls)));
    }
}

/// Answers with what was asked.
pub struct Echo;

impl Dispatch for Echo {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            assert!(call.begin());
            let message = call.take_message();
            call.reply(Reply::ok(frame(&message.bytes)));
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

/// A running transport with the routes [`HELD`] and [`ECHO`].
pub struct Server {
    pub transport: Transport,
    pub port: u16,
    told: UnboundedReceiver<Told>,
}

impl Server {
    pub fn start() -> Self {
        Self::with_config(TransportConfig::default())
    }

    pub fn with_config(config: TransportConfig) -> Self {
        Self::with_routes(config, |held| held)
    }

    pub fn with_routes(config: TransportConfig, held: impl FnOnce(Route) -> Route) -> Self {
        let (sender, told) = unbounded_channel();
        let messenger: Arc<dyn Dispatch> = Arc::new(Messenger(sender));
        let held = held(Route::new(HELD, messenger, Arc::new("held")));
        let echo = Route::new(ECHO, Arc::new(Echo), Arc::new("echo"));
        let routes = Arc::new(Routes::new([held, echo], None));
        let listener = Listener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.port().expect("TCP has a port");
        let transport = Transport::start(config, routes, vec![listener]).expect("a transport");
        Self {
            transport,
            port,
            told,
        }
    }

    /// The next thing that the target of [`HELD`] is told.
    pub async fn told(&mut self) -> Told {
        soon("a dispatch or a cancellation", self.told.recv())
            .await
            .expect("the transport runs")
    }

    /// The next batch of calls.
    pub async fn batch(&mut self) -> Vec<Arc<Call>> {
        match self.told().await {
            Told::Dispatched(calls) => calls,
            told => panic!("unexpected: {told:?}"),
        }
    }

    /// The next call, alone in its batch.
    pub async fn call(&mut self) -> Arc<Call> {
        let mut batch = self.batch().await;
        assert_eq!(batch.len(), 1);
        batch.remove(0)
    }

    /// The next call that is cancelled.
    pub async fn cancelled(&mut self) -> Arc<Call> {
        match self.told().await {
            Told::Cancelled(call) => call,
            told => panic!("unexpected: {told:?}"),
        }
    }

    /// The next progress, of `call` alone.
    pub async fn progress_of(&mut self, call: &Arc<Call>) {
        match self.told().await {
            Told::Progress(calls) if calls.len() == 1 && Arc::ptr_eq(&calls[0], call) => {}
            told => panic!("unexpected: {told:?}"),
        }
    }

    /// Nothing has been told that was not asked for.
    pub fn told_nothing(&mut self) {
        if let Ok(told) = self.told.try_recv() {
            panic!("unexpected: {told:?}");
        }
    }

    /// Waits until the counters say what they should.
    pub async fn until(&self, what: &str, condition: impl Fn(&TransportStats) -> bool) {
        let start = Instant::now();
        while !condition(&self.transport.stats()) {
            assert!(
                start.elapsed() < PATIENCE,
                "never came: {what}; {:#?}",
                self.transport.stats()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.port, &h2::client::Builder::new()).await
    }
}

/// An HTTP/2 client on one connection.
pub struct Client {
    pub requests: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

/// Everything that came back.
#[derive(Debug)]
pub struct Answer {
    pub http_status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `None` for Trailers-Only.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    fn final_headers(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.headers)
    }

    /// `grpc-status`, which must be there.
    pub fn status(&self) -> u8 {
        let status = self
            .final_headers()
            .get("grpc-status")
            .unwrap_or_else(|| panic!("no grpc-status in {self:?}"));
        status.to_str().unwrap().parse().unwrap()
    }

    /// `grpc-message`, still percent-encoded.
    pub fn message(&self) -> &str {
        self.final_headers()
            .get("grpc-message")
            .map_or("", |message| message.to_str().unwrap())
    }

    /// Whether everything came in one frame.
    pub fn is_trailers_only(&self) -> bool {
        self.trailers.is_none() && self.body.is_empty()
    }
}

/// A request under way.
pub struct Pending {
    pub response: h2::client::ResponseFuture,
    pub stream: SendStream<Bytes>,
}

impl Client {
    pub async fn connect(port: u16, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("a listening server");
        stream.set_nodelay(true).unwrap();
        let (requests, connection) = builder.handshake(stream).await.expect("a handshake");
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self {
            requests,
            connection,
        }
    }

    /// Closes the connection without a word.
    pub async fn vanish(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(self) {
        soon("the connection's end", self.connection).await.unwrap();
    }

    /// Opens a stream; with a body the request is complete.
    pub async fn open(&mut self, request: Request<()>, body: Option<Bytes>) -> Pending {
        poll_fn(|cx| self.requests.poll_ready(cx))
            .await
            .expect("a connection");
        let (response, mut stream) = self
            .requests
            .send_request(request, false)
            .expect("a stream");
        if let Some(body) = body {
            stream.send_data(body, true).expect("an open stream");
        }
        Pending { response, stream }
    }

    /// A whole call: `message` is framed, the answer collected.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Answer {
        self.send(request(path), Some(frame(message))).await
    }

    pub async fn send(&mut self, request: Request<()>, body: Option<Bytes>) -> Answer {
        let pending = self.open(request, body).await;
        pending.answer().await
    }
}

impl Pending {
    /// Collects the answer. The sending half stays open meanwhile, so that a request without an end is not
    /// reset.
    pub async fn answer(self) -> Answer {
        let Self { response, stream } = self;
        let answer = soon("an answer", async {
            collect(response.await.expect("a response")).await
        })
        .await;
        drop(stream);
        answer
    }

    /// Sends the message that is still missing, and collects the answer.
    pub async fn answer_to(mut self, message: &[u8]) -> Answer {
        self.stream
            .send_data(frame(message), true)
            .expect("an open stream");
        self.answer().await
    }

    /// The reason for which the server resets the stream.
    pub async fn reset_reason(&mut self) -> Reason {
        soon("a reset", poll_fn(|cx| self.stream.poll_reset(cx)))
            .await
            .expect("a reason")
    }
}

pub async fn collect(response: Response<RecvStream>) -> Answer {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("data");
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.expect("trailers");
    Answer {
        http_status: parts.status,
        headers: parts.headers,
        body: bytes.into(),
        trailers,
    }
}

/// A gRPC request without a body.
pub fn request(path: &str) -> Request<()> {
    builder(path).body(()).unwrap()
}

pub fn builder(path: &str) -> http::request::Builder {
    Request::builder()
        .method("POST")
        .uri(format!("http://test.example{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}
