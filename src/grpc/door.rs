//! Where a request enters: ours goes straight to the account service, the rest to health and reflection.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;

use super::call::Call;
use super::deadline;
use super::opening::Recovery;
use super::server_side::account_service_server::AccountServiceServer;
use super::service::Accounts;
use super::status::Failure;

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
        let operation = operation(path);
        let timeout = match request.headers().get("grpc-timeout").map(|value| deadline::parse(value.as_bytes())) {
            None => None,
            Some(Ok(timeout)) => Some(timeout),
            Some(Err(deadline::Malformed)) => {
                let text = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n".to_owned();
                let failure = Failure::Field { field: "grpc-timeout", reason: "TIMEOUT_MALFORMED", text };
                return Call::refused(operation, failure);
            }
        };
        let answer = match self.accounts.get() {
            _ if !ours => Box::pin(self.others.clone().call(request.map(Body::new))),
            Some(accounts) => accounts.clone().call(request),
            None => return Call::refused(operation, self.recovery.progress().into()),
        };
        Call::new(operation, answer, timeout, self.cap)
    }
}

/// The call's name in the log; what a caller made up stays out of it.
fn operation(path: &str) -> &'static str {
    match path.strip_prefix(PREFIX) {
        Some("GetBalance") => "GetBalance",
        Some("UpdateBalance") => "UpdateBalance",
        Some("TransferFunds") => "TransferFunds",
        Some("CreateAccount") => "CreateAccount",
        Some("ExecuteBatch") => "ExecuteBatch",
        Some("ExecuteStream") => "ExecuteStream",
        Some("SnapshotBalances") => "SnapshotBalances",
        Some("ListAccounts") => "ListAccounts",
        Some("GetTransaction") => "GetTransaction",
        Some("WatchTransactions") => "WatchTransactions",
        Some(_) => "unknown method",
        None if path.starts_with("/grpc.health.v1.Health/") => "health",
        None if path.starts_with("/grpc.reflection.") => "reflection",
        None => "unknown service",
    }
}
