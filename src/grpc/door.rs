//! Where a request enters: ours goes straight to the account service, the rest to health and reflection.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{self, Request, Response, StatusCode};
use tonic::codegen::{BoxFuture, Service as _};
use tonic::service::Routes;

use super::call::{Call, Method};
use super::deadline;
use super::foreign::Foreign;
use super::server_side::account_service_server::AccountServiceServer;
use super::service::Accounts;
use super::status::Failure;
use super::unready::Unready;
use super::upload::{Room, Upload};

const PREFIX: &str = "/equipoise.v1.AccountService/";

/// Cheap to clone; each connection has one of its own.
#[derive(Clone)]
pub(super) struct Door {
    /// Empty until the ledger is open.
    pub(super) accounts: Arc<OnceLock<AccountServiceServer<Accounts>>>,
    /// Answers until then.
    pub(super) unready: AccountServiceServer<Unready>,
    pub(super) others: Routes,
    /// Those of the connection's calls whose clients send many messages.
    pub(super) places: Arc<Semaphore>,
    pub(super) max_request_streams: usize,
    pub(super) room: Room,
    /// True once shutdown began.
    pub(super) stopping: watch::Receiver<bool>,
    /// The longest that a call may take to begin its answer.
    pub(super) cap: Duration,
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let path = request.uri().path();
        let ours = path.starts_with(PREFIX);
        let method = method(path);
        if let Some((http, field)) = not_grpc(&request) {
            let text = format!("{field} is not gRPC's");
            return Call::refused_over(http, method, Failure::Field { field, reason: "NOT_GRPC", text });
        }
        let timeout = match request.headers().get("grpc-timeout").map(|value| deadline::parse(value.as_bytes())) {
            None => None,
            Some(Ok(timeout)) => Some(timeout),
            Some(Err(deadline::Malformed)) => {
                let text = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n".to_owned();
                let failure = Failure::Field { field: "grpc-timeout", reason: "TIMEOUT_MALFORMED", text };
                return Call::refused(method, failure);
            }
        };
        let Ok(place) = method.takes_many.then(|| self.places.clone().try_acquire_owned()).transpose() else {
            return Call::refused(method, Failure::Streams { limit: self.max_request_streams });
        };
        let request = request.map(|body| Upload::new(body, place, self.room.clone(), self.cap));
        let answer = match self.accounts.get() {
            _ if !ours => self.foreign(method.name, request),
            Some(accounts) => accounts.clone().call(request),
            None => self.unready.clone().call(request),
        };
        Call::new(method, answer, timeout, self.cap)
    }
}

impl Door {
    /// The door of one more connection.
    pub(super) fn of_connection(&self) -> Self {
        let places = self.max_request_streams.min(Semaphore::MAX_PERMITS);
        Door { places: Arc::new(Semaphore::new(places)), room: self.room.of_connection(), ..self.clone() }
    }

    fn foreign(&self, name: &'static str, request: Request<Upload>) -> BoxFuture<Response<Body>, Infallible> {
        let ending = |answers, body, stopping| Body::new(Foreign::new(answers, body, stopping));
        // Reflection keeps a request for as long as the client does.
        let request = request.map(|body| ending(None, Body::new(body), self.stopping.clone()));
        let (answer, stopping) = (self.others.clone().call(request), self.stopping.clone());
        Box::pin(async move { Ok(answer.await?.map(|body| ending(Some(name), body, stopping))) })
    }
}

/// The HTTP status for a request that is not gRPC, and the header that shows it.
fn not_grpc<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    if request.method() != http::Method::POST {
        return Some((StatusCode::METHOD_NOT_ALLOWED, ":method"));
    }
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    match content_type.strip_prefix(b"application/grpc") {
        Some([] | [b'+' | b';' | b' ', ..]) => None,
        _ => Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type")),
    }
}

/// The method called. Its name contains nothing that the caller made up.
fn method(path: &str) -> Method {
    let (name, takes_many, streams) = match path.strip_prefix(PREFIX) {
        Some("GetBalance") => ("GetBalance", false, false),
        Some("UpdateBalance") => ("UpdateBalance", false, false),
        Some("TransferFunds") => ("TransferFunds", false, false),
        Some("CreateAccount") => ("CreateAccount", false, false),
        Some("ExecuteBatch") => ("ExecuteBatch", false, false),
        Some("ExecuteStream") => ("ExecuteStream", true, true),
        Some("SnapshotBalances") => ("SnapshotBalances", false, true),
        Some("ListAccounts") => ("ListAccounts", false, false),
        Some("GetTransaction") => ("GetTransaction", false, false),
        Some("WatchTransactions") => ("WatchTransactions", false, true),
        Some(_) => ("unknown method", false, false),
        None if path == "/grpc.health.v1.Health/Watch" => ("health", false, true),
        None if path.starts_with("/grpc.health.v1.Health/") => ("health", false, false),
        None if path.starts_with("/grpc.reflection.") => ("reflection", true, true),
        None => ("unknown service", false, false),
    };
    Method { name, takes_many, streams }
}
