//! What a client may not do, and what it may: message sizes, deadlines, connections, cancelling.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use equipoise::grpc::Options;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{
    CreateAccountRequest, CreateAccountResponse, GetBalanceRequest, Operation, UpdateBalanceRequest,
    WatchTransactionsRequest,
};
use hyper::body::{Body as _, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Interval, interval, timeout};
use tonic::codegen::http::{Method, Request};
use tonic::{Code, Status};

use crate::harness::*;
use crate::log::{about, log};

/// GetBalance of account `a`, framed.
const GET_A: &str = "\0\0\0\0\x03\x0a\x01a";

/// UpdateBalance of account `a` by 1, framed.
const UPDATE_A: &str = "\0\0\0\0\x08\x0a\x01a\x10\x02\x1a\x01x";

async fn connect<B>(service: &Service, http: &http2::Builder<TokioExecutor>) -> http2::SendRequest<B>
where
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends what no proper client would; the status in the headers, if the answer is one.
async fn raw(service: &Service, path: &str, limit: Option<&str>, body: &str) -> Option<Status> {
    let mut sender = connect(service, &http2::Builder::new(TokioExecutor::new())).await;
    let mut request =
        Request::post(format!("http://{}{path}", service.address)).header("content-type", "application/grpc");
    if let Some(limit) = limit {
        request = request.header("grpc-timeout", limit);
    }
    let response = sender.send_request(request.body(body.to_owned()).unwrap()).await.unwrap();
    Status::from_header_map(response.headers())
}

const GET_BALANCE: &str = "/equipoise.v1.AccountService/GetBalance";
const UPDATE_BALANCE: &str = "/equipoise.v1.AccountService/UpdateBalance";

/// A03: odd deadlines are honoured or refused as malformed; the longest does not expire at once.
#[tokio::test]
async fn odd_deadlines_are_honoured_or_refused() {
    let service = Service::start().await;
    service.ledger.create(&"a".parse().unwrap(), 1).unwrap();
    service.settle().await;
    for passed in ["1n", "0m", "0n"] {
        let status = raw(&service, GET_BALANCE, Some(passed), GET_A).await.expect(passed);
        assert_eq!(status.code(), Code::DeadlineExceeded, "{passed}");
    }
    for malformed in ["5x", "-1S", "", "123456789S", "+1S"] {
        let status = raw(&service, GET_BALANCE, Some(malformed), GET_A).await.expect(malformed);
        assert_eq!(status.code(), Code::InvalidArgument, "{malformed}");
    }
    for long in ["99999999H", "10S"] {
        assert!(raw(&service, GET_BALANCE, Some(long), GET_A).await.is_none(), "{long}");
    }
    assert!(raw(&service, GET_BALANCE, None, GET_A).await.is_none());
}

/// A14: a unary call has one message; nothing is done when there are more.
#[tokio::test]
async fn a_second_message_of_a_unary_call_is_refused() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 1).await.unwrap();
    let two = UPDATE_A.repeat(2);
    let status = raw(&service, UPDATE_BALANCE, None, &two).await.expect("a refusal");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "a unary call has one message"));
    let cut = &two[..UPDATE_A.len() + 3];
    assert_eq!(raw(&service, UPDATE_BALANCE, None, cut).await.expect("a refusal").code(), Code::InvalidArgument);
    assert_eq!(balance(&client, "a").await.unwrap().version, 1);
    assert!(raw(&service, UPDATE_BALANCE, None, UPDATE_A).await.is_none());
}

/// What is no gRPC is told so in HTTP, and does nothing.
#[tokio::test]
async fn only_grpc_is_answered() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 1).await.unwrap();
    let cases = [
        (Method::GET, Some("application/grpc"), 405),
        (Method::POST, Some("text/plain"), 415),
        (Method::POST, Some("application/grpc-web"), 415),
        (Method::POST, None, 415),
        (Method::POST, Some("application/grpc+proto"), 200),
        (Method::POST, Some("application/grpc;a=b"), 200),
    ];
    for (method, content_type, expected) in cases {
        let mut sender = connect(&service, &http2::Builder::new(TokioExecutor::new())).await;
        let mut request = Request::builder().method(&method).uri(format!("http://{}{UPDATE_BALANCE}", service.address));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = sender.send_request(request.body(UPDATE_A.to_owned()).unwrap()).await.unwrap();
        assert_eq!(response.status(), expected, "{method} {content_type:?}");
    }
    // Both had the same id.
    assert_eq!(balance(&client, "a").await.unwrap().version, 2);
}

/// A body of some bytes, then one more each time that the pause is over, and no end.
struct Half {
    begun: Option<&'static str>,
    pause: Option<Interval>,
}

impl Half {
    fn of(begun: &'static str) -> Self {
        Half { begun: Some(begun), pause: None }
    }

    fn trickling(begun: &'static str, pause: Duration) -> Self {
        Half { begun: Some(begun), pause: Some(interval(pause)) }
    }
}

impl hyper::body::Body for Half {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<&'static [u8]>, Infallible>>> {
        let frame = |bytes: &'static str| Some(Ok(Frame::data(bytes.as_bytes())));
        match (self.begun.take(), &mut self.pause) {
            (Some(begun), _) => Poll::Ready(frame(begun)),
            (None, Some(pause)) => pause.poll_tick(context).map(|_| frame("\0")),
            (None, None) => Poll::Pending,
        }
    }
}

/// The status at the end of an ExecuteStream with this request, if it ends within `soon`.
async fn end_of_stream(service: &Service, body: Half, soon: Duration) -> Option<Code> {
    let mut sender = connect(service, &http2::Builder::new(TokioExecutor::new())).await;
    let path = "equipoise.v1.AccountService/ExecuteStream";
    let request = Request::post(format!("http://{}/{path}", service.address));
    let request = request.header("content-type", "application/grpc").body(body).unwrap();
    let mut answer = tonic::body::Body::new(sender.send_request(request).await.unwrap().into_body());
    let end = async {
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut answer).poll_frame(context)).await;
            if let Ok(trailers) = frame.unwrap().unwrap().into_trailers() {
                return Status::from_header_map(&trailers).unwrap().code();
            }
        }
    };
    timeout(soon, end).await.ok()
}

/// A message of a stream that is begun and does not go on, or only in name, ends the stream; one that is not begun may be
/// waited for.
#[tokio::test]
async fn a_half_sent_message_ends_its_stream() {
    let patience = Duration::from_millis(300);
    let service = Service::with(Options { request_timeout: patience, ..Options::default() }).await;
    for (bytes, ends) in [("\0\0\x3f\0\0", true), ("\0", true), ("\0\0\0\0\0", false), ("", false)] {
        // What ends does so however late it is heard of; what goes on is seen to for a while.
        let limit = if ends { SOON } else { Duration::from_secs(2) };
        let ended = end_of_stream(&service, Half::of(bytes), limit).await;
        assert_eq!(ended, ends.then_some(Code::DeadlineExceeded), "{bytes:?}");
    }
    let ended = end_of_stream(&service, Half::trickling("\0\0\x3f\0\0", patience / 10), SOON).await;
    assert_eq!(ended, Some(Code::DeadlineExceeded), "it trickles");
}

/// E4: what messages announce is bounded over all connections: more is refused, and there is room again when one ends. Who sends
/// whole messages notices nothing.
#[tokio::test]
async fn messages_under_way_take_bounded_room() {
    // A tenth of it passes before a refusal.
    let request_timeout = Duration::from_secs(15);
    let service = Service::with(Options { max_begun_bytes: 9 << 20, request_timeout, ..Options::default() }).await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    let begin = async |soon| {
        let mut sender = connect(&service, &http2::Builder::new(TokioExecutor::new())).await;
        let request = Request::post(format!("http://{}{GET_BALANCE}", service.address));
        let request = request.header("content-type", "application/grpc").body(Half::of("\0\0\x3f\0\0")).unwrap();
        let mut answer = tokio::spawn(async move { sender.send_request(request).await });
        match timeout(soon, &mut answer).await {
            Ok(response) => Err(Status::from_header_map(response.unwrap().unwrap().headers()).unwrap()),
            Err(_) => Ok(answer),
        }
    };
    let (short, long) = (Duration::from_millis(300), SOON);
    let (first, _second) = (begin(short).await.unwrap(), begin(short).await.unwrap());
    for _ in 0..2 {
        let status = begin(long).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(!status.details().is_empty(), "{status:?}");
    }
    assert_eq!(end_of_stream(&service, Half::of("\0\0\x3f\0\0"), long).await, Some(Code::ResourceExhausted));
    balance(&client, "a").await.unwrap();
    // Too long in any case.
    let status = balance(&client, &"x".repeat(5 << 20)).await.unwrap_err();
    assert!(status.message().contains("too large"), "{status:?}");
    first.abort();
    // It waits for its room if that is not back yet.
    begin(Duration::from_secs(3)).await.expect("room for one");
}

/// E4: nor does a message keep its room whose stream nobody reads from, so that nobody asks for the rest of it.
#[tokio::test]
async fn unread_streams_give_room_back() {
    let patience = Duration::from_secs(10);
    let options = Options { max_begun_bytes: 8_300_000, request_timeout: patience, ..Options::default() };
    let service = Service::with(options).await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    let mut http = http2::Builder::new(TokioExecutor::new());
    // What the first, empty batch is answered does not fit.
    http.initial_stream_window_size(0);
    let mut unread = Vec::new();
    for _ in 0..2 {
        let mut sender = connect(&service, &http).await;
        let path = "equipoise.v1.AccountService/ExecuteStream";
        let request = Request::post(format!("http://{}/{path}", service.address));
        let request = request.header("content-type", "application/grpc");
        let body = Half::of("\0\0\0\0\0\0\0\x3f\0\0");
        unread.push((sender.send_request(request.body(body).unwrap()).await.unwrap(), sender));
    }
    let updates = || {
        let update = |_| UpdateBalanceRequest { account_id: "a".into(), delta: 1, transaction_id: "".into() };
        let operation = |update| Operation { operation: Some(Kind::UpdateBalance(update)), linked: false };
        (0..10_000).map(update).map(operation).collect::<Vec<_>>()
    };
    let refused = async {
        loop {
            if let Err(status) = batch(&client, updates()).await {
                break status;
            }
        }
    };
    let status = timeout(SOON, refused).await.expect("no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let passes = async { while batch(&client, updates()).await.is_err() {} };
    timeout(SOON, passes).await.expect("room again");
    drop(unread);
}

/// E4: a stream ends with its deadline.
#[tokio::test]
async fn a_stream_ends_with_its_deadline() {
    let service = Service::start().await;
    let mut client = service.client().await;
    let mut request = tonic::Request::new(WatchTransactionsRequest::default());
    request.set_timeout(Duration::from_secs(2));
    let mut stream = client.watch_transactions(request).await.unwrap().into_inner();
    let end = timeout(SOON, stream.message()).await.expect("an end").unwrap_err();
    assert_eq!(end.code(), Code::DeadlineExceeded);
}

/// A half-sent request is ended by the service's own limit.
#[tokio::test]
async fn a_half_sent_request_is_ended() {
    let service = Service::with(Options { request_timeout: Duration::from_secs(2), ..Options::default() }).await;
    let client = service.client().await;
    let (_held, requests) = tokio::sync::mpsc::channel::<equipoise::grpc::proto::GetBalanceRequest>(1);
    let mut grpc = tonic::client::Grpc::new(service.channel().await);
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(GET_BALANCE);
    let codec = tonic_prost::ProstCodec::<_, equipoise::grpc::proto::GetBalanceResponse>::default();
    let stream = tokio_stream::wrappers::ReceiverStream::new(requests);
    let status = grpc.client_streaming(tonic::Request::new(stream), path, codec).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    refused(balance(&client, "a").await, Code::NotFound, "Account a not found");
}

/// A03: a message that was cancelled before its request ended starts nothing, and is logged as a caller who left.
#[tokio::test]
async fn a_cancelled_request_is_not_started() {
    let log = log();
    let service = Service::start().await;
    let client = service.client().await;
    // No other test cancels such calls. The lines cannot say for whom: nobody has seen the end of the request.
    let logged = || about(&log, "CANCELLED").iter().filter(|line| line["operation"] == "CreateAccount").count();
    let mut grpc = tonic::client::Grpc::new(service.channel().await);
    let until = Instant::now() + SOON;
    for call in 0.. {
        if logged() >= 20 {
            break;
        }
        assert!(Instant::now() < until, "{} lines for {call} calls", logged());
        grpc.ready().await.unwrap();
        let (request, requests) = tokio::sync::mpsc::channel(1);
        request.send(CreateAccountRequest { account_id: "a".into(), ..Default::default() }).await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/equipoise.v1.AccountService/CreateAccount");
        let codec = tonic_prost::ProstCodec::<_, CreateAccountResponse>::default();
        let stream = tokio_stream::wrappers::ReceiverStream::new(requests);
        let call = grpc.client_streaming(tonic::Request::new(stream), path, codec);
        timeout(Duration::from_millis(100), call).await.expect_err("the request has not ended");
    }
    refused(balance(&client, "a").await, Code::NotFound, "Account a not found");
}

/// E4: an answer that its client does not take is cut off, whether or not the client named a deadline.
#[tokio::test]
async fn an_answer_that_is_not_taken_is_cut_off() {
    let service = Service::with(Options { request_timeout: Duration::from_secs(2), ..Options::default() }).await;
    service.ledger.create(&"a".parse().unwrap(), 1).unwrap();
    service.settle().await;
    for path in [GET_BALANCE, "/grpc.health.v1.Health/Check"] {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.initial_stream_window_size(0);
        let mut sender = connect(&service, &http).await;
        let request =
            Request::post(format!("http://{}{path}", service.address)).header("content-type", "application/grpc");
        let body = if path == GET_BALANCE { GET_A } else { "\0\0\0\0\0" };
        let response = sender.send_request(request.body(body.to_owned()).unwrap()).await.unwrap();
        let mut answer = tonic::body::Body::new(response.into_body());
        let next = std::future::poll_fn(|context| Pin::new(&mut answer).poll_frame(context));
        let ended = timeout(SOON, next).await.expect("an end");
        assert!(ended.is_some_and(|frame| frame.is_err()), "{path}");
    }
}

/// A14: messages past the limit are refused as overload is; the connection goes on.
#[tokio::test]
async fn a_message_past_the_limit_is_refused() {
    let service = Service::start().await;
    let client = service.client().await;
    let status = balance(&client, &"x".repeat(5 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    refused(balance(&client, "a").await, Code::NotFound, "Account a not found");
}

/// A13: what cannot be decoded is the caller's fault, not an internal error.
#[tokio::test]
async fn garbage_is_an_invalid_argument() {
    let service = Service::start().await;
    let status = raw(&service, GET_BALANCE, None, "\0\0\0\0\x01\x0f").await.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let status = raw(&service, "/equipoise.v1.AccountService/Nothing", None, "").await.unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = raw(&service, "/nobody.Service/Nothing", None, "").await.unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// Connections past the limit are closed at once; when one ends there is room again.
#[tokio::test]
async fn connections_past_the_limit_are_closed() {
    let service = Service::with(Options { max_connections: 2, ..Options::default() }).await;
    service.ledger.create(&"a".parse().unwrap(), 1).unwrap();
    service.settle().await;
    let (first, second) = (service.client().await, service.client().await);
    balance(&first, "a").await.unwrap();
    balance(&second, "a").await.unwrap();
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", service.address)).unwrap();
    let third = Client::new(endpoint.connect_lazy());
    let status = balance(&third, "a").await.unwrap_err();
    assert!(std::error::Error::source(&status).is_some(), "the transport's error, not an answer: {status:?}");
    drop(first);
    timeout(SOON, async {
        while balance(&third, "a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("room again");
    balance(&second, "a").await.unwrap();
}

/// A03: a client that cancels much loses nothing else on its connection, and every cancelled id is applied once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_disturb_no_others() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    let patient = {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..500 {
                client.clone().get_balance(GetBalanceRequest { account_id: "a".into() }).await.unwrap();
            }
        })
    };
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..2_000 {
        let client = client.clone();
        calls.spawn(async move {
            let id = format!("u{call}");
            let patience = Duration::from_micros(call % 300 * 10);
            if timeout(patience, update(&client, "a", 1, &id)).await.is_err() {
                update(&client, "a", 1, &id).await.unwrap();
            }
        });
    }
    calls.join_all().await;
    patient.await.unwrap();
    assert_eq!(balance(&client, "a").await.unwrap().balance, 2_000);
}
