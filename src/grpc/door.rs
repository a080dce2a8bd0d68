//! Where a request enters: ours goes straight to the account service, the rest to health and reflection.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;

use super::call::{Call, Method};
use super::deadline;
use super::opening::Recovery;
use super::server_side::account_service_server::AccountServiceServer;
use super::service::Accounts;
use super::status::Failure;
use super::upload::Upload;

const PREFIX: &str = "/equipoise.v1.AccountService/";

/// Cheap to clone; one for all connections.
#[derive(Clone)]
pub(super) struct Door {
    /// Empty until the ledger is open.
    pub(super) accounts: Arc<OnceLock<AccountServiceServer<Accounts>>>,
    pub(super) recovery: Arc<Recovery>,
    pub(super) others: Routes,
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
        let timeout = match request.headers().get("grpc-timeout").map(|value| deadline::parse(value.as_bytes())) {
            None => None,
            Some(Ok(timeout)) => Some(timeout),
            Some(Err(deadline::Malformed)) => {
                let text = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n".to_owned();
                let failure = Failure::Field { field: "grpc-timeout", reason: "TIMEOUT_MALFORMED", text };
                return Call::refused(method, failure);
            }
        };
        let answer = match self.accounts.get() {
            _ if !ours => Box::pin(self.others.clone().call(request.map(|body| Body::new(Upload(body))))),
            Some(accounts) => accounts.clone().call(request.map(Upload)),
            None => return Call::refused(method, self.recovery.progress().into()),
        };
        Call::new(method, answer, timeout, self.cap)
    }
}

/// What is called, named without what a caller made up.
fn method(path: &str) -> Method {
    let (name, streams) = match path.strip_prefix(PREFIX) {
        Some("GetBalance") => ("GetBalance", false),
        Some("UpdateBalance") => ("UpdateBalance", false),
        Some("TransferFunds") => ("TransferFunds", false),
        Some("CreateAccount") => ("CreateAccount", false),
        Some("ExecuteBatch") => ("ExecuteBatch", false),
        Some("ExecuteStream") => ("ExecuteStream", true),
        Some("SnapshotBalances") => ("SnapshotBalances", true),
        Some("ListAccounts") => ("ListAccounts", false),
        Some("GetTransaction") => ("GetTransaction", false),
        Some("WatchTransactions") => ("WatchTransactions", true),
        Some(_) => ("unknown method", false),
        None if path == "/grpc.health.v1.Health/Watch" => ("health", true),
        None if path.starts_with("/grpc.health.v1.Health/") => ("health", false),
        None if path.starts_with("/grpc.reflection.") => ("reflection", true),
        None => ("unknown service", false),
    };
    Method { name, streams }
}
