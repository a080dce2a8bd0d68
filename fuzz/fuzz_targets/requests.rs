//! Bytes to the gRPC service's request types, over a loopback connection to the service as it is served: no panic, only
//! status codes of the contract, and balances that add up to what was committed.

#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use equipoise::Ledger;
use equipoise::grpc::proto::{self, operation::Operation as Kind};
use equipoise::grpc::{Options, serve};
use equipoise_fuzz::input::{Amount, Name};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Calls of one input.
const MOST_CALLS: usize = 24;
/// How long a watch, which never ends, is listened to, and how many of an input's are at all.
const PATIENCE: Duration = Duration::from_millis(2);
const MOST_LISTENED: usize = 2;

fuzz_target!(|calls: Vec<Call>| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
    runtime.block_on(run(&calls));
});

/// A call: the method, and a message for it, well-formed or just bytes.
#[derive(Arbitrary, Clone, Debug)]
enum Call {
    Bytes {
        method: u8,
        bytes: Vec<u8>,
    },
    Create {
        account: Name,
        initial: Amount,
        id: Option<Name>,
    },
    Balance {
        account: Name,
    },
    Update {
        account: Name,
        delta: Amount,
        id: Option<Name>,
    },
    Transfer {
        from: Name,
        to: Name,
        amount: Amount,
        id: Option<Name>,
    },
    Batch {
        operations: Vec<BatchOperation>,
    },
    Snapshot {
        prefix: Option<Name>,
    },
    List {
        prefix: Option<Name>,
        size: i32,
        token: Option<Vec<u8>>,
    },
    /// The next page of the last ListAccounts.
    ListOn {
        prefix: Option<Name>,
        size: i32,
    },
    Transaction {
        id: Name,
    },
    Watch {
        from: u8,
        account: Option<Name>,
    },
}

#[derive(Arbitrary, Clone, Debug)]
struct BatchOperation {
    kind: u8,
    account: Name,
    other: Name,
    amount: Amount,
    id: Option<Name>,
    linked: bool,
}

const METHODS: [&str; 12] = [
    "CreateAccount",
    "GetBalance",
    "UpdateBalance",
    "TransferFunds",
    "ExecuteBatch",
    "SnapshotBalances",
    "ListAccounts",
    "GetTransaction",
    "WatchTransactions",
    "ExecuteStream",
    "NoSuchMethod",
    "",
];

fn id_text(id: &Option<Name>) -> String {
    match id {
        // Mostly valid ones, few, so that they collide.
        Some(name) if name.text().len() < 100 && !name.text().is_empty() => name.id().to_string(),
        Some(name) => name.text(),
        None => String::new(),
    }
}

impl Call {
    /// The method and the bytes of its message.
    fn encoded(&self, next_page: &str) -> (&'static str, Vec<u8>) {
        let prefix_text = |prefix: &Option<Name>| prefix.map(Name::text).unwrap_or_default();
        match self {
            Call::Bytes { method, bytes } => (METHODS[usize::from(*method) % METHODS.len()], bytes.clone()),
            Call::Create { account, initial, id } => ("CreateAccount", create(*account, *initial, id).encode_to_vec()),
            Call::Balance { account } => {
                ("GetBalance", proto::GetBalanceRequest { account_id: account.text() }.encode_to_vec())
            }
            Call::Update { account, delta, id } => ("UpdateBalance", update(*account, *delta, id).encode_to_vec()),
            Call::Transfer { from, to, amount, id } => {
                ("TransferFunds", transfer(*from, *to, *amount, id).encode_to_vec())
            }
            Call::Batch { operations } => {
                let operations = operations.iter().take(64).map(BatchOperation::message).collect();
                ("ExecuteBatch", proto::ExecuteBatchRequest { operations }.encode_to_vec())
            }
            Call::Snapshot { prefix } => {
                let request = proto::SnapshotBalancesRequest { prefix: prefix_text(prefix) };
                ("SnapshotBalances", request.encode_to_vec())
            }
            Call::List { prefix, size, token } => {
                let page_token = token.as_ref().map(|token| String::from_utf8_lossy(token).into_owned());
                (
                    "ListAccounts",
                    proto::ListAccountsRequest {
                        prefix: prefix_text(prefix),
                        page_size: *size,
                        page_token: page_token.unwrap_or_default(),
                    }
                    .encode_to_vec(),
                )
            }
            Call::ListOn { prefix, size } => {
                let prefix = prefix_text(prefix);
                let request =
                    proto::ListAccountsRequest { prefix, page_size: *size % 3, page_token: next_page.to_owned() };
                ("ListAccounts", request.encode_to_vec())
            }
            Call::Transaction { id } => {
                let request = proto::GetTransactionRequest { transaction_id: id_text(&Some(*id)) };
                ("GetTransaction", request.encode_to_vec())
            }
            Call::Watch { from, account } => {
                let account_id = account.map(Name::text).unwrap_or_default();
                let request = proto::WatchTransactionsRequest { from_sequence: u64::from(*from), account_id };
                ("WatchTransactions", request.encode_to_vec())
            }
        }
    }
}

fn create(account: Name, initial: Amount, id: &Option<Name>) -> proto::CreateAccountRequest {
    proto::CreateAccountRequest { account_id: account.text(), initial_balance: initial.0, transaction_id: id_text(id) }
}

fn update(account: Name, delta: Amount, id: &Option<Name>) -> proto::UpdateBalanceRequest {
    proto::UpdateBalanceRequest { account_id: account.text(), delta: delta.0, transaction_id: id_text(id) }
}

fn transfer(from: Name, to: Name, amount: Amount, id: &Option<Name>) -> proto::TransferFundsRequest {
    proto::TransferFundsRequest {
        from_account_id: from.text(),
        to_account_id: to.text(),
        amount: amount.0,
        transaction_id: id_text(id),
    }
}

impl BatchOperation {
    fn message(&self) -> proto::Operation {
        let operation = match self.kind % 4 {
            0 => Some(Kind::CreateAccount(create(self.account, self.amount, &self.id))),
            1 => Some(Kind::UpdateBalance(update(self.account, self.amount, &self.id))),
            2 => Some(Kind::TransferFunds(transfer(self.account, self.other, self.amount, &self.id))),
            _ => None,
        };
        proto::Operation { operation, linked: self.linked }
    }
}

async fn run(calls: &[Call]) {
    let ledger = Ledger::builder().history(1_000).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(serve(listener, ledger.clone(), Options::default(), std::future::pending()));
    let channel = Endpoint::from_static("http://service")
        .connect_with_connector(tower::service_fn(move |_| async move {
            let stream = TcpStream::connect(address).await?;
            // No TIME_WAIT: thousands of inputs would use all ports up.
            stream.set_zero_linger()?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }))
        .await
        .expect("a connection");
    let mut session = Session { channel, ledger, total: 0, next_page: String::new(), listened: 0 };
    for call in calls.iter().take(MOST_CALLS) {
        let (method, bytes) = call.encoded(&session.next_page);
        session.call(method, &bytes).await;
    }
    session.check_total().await;
    drop(session);
    served.abort();
    let _ = served.await;
}

struct Session {
    channel: Channel,
    ledger: Ledger,
    /// What the answers say was put in and taken out.
    total: i128,
    next_page: String,
    listened: usize,
}

/// Whether the service could read the message, and its answer.
struct Asked<Q, A> {
    request: Option<Q>,
    answer: Result<A, Status>,
}

impl<Q, A> Asked<Q, A> {
    /// The codes of the contract; INTERNAL only for what is no message at all.
    fn allowed(&self, beyond: &[Code]) {
        let Err(status) = &self.answer else {
            assert!(self.request.is_some(), "an answer to what is no request");
            return;
        };
        let contract = [Code::NotFound, Code::InvalidArgument, Code::FailedPrecondition, Code::AlreadyExists]
            .contains(&status.code());
        let unreadable = self.request.is_none() && status.code() == Code::Internal;
        assert!(contract || unreadable || beyond.contains(&status.code()), "{status:?}");
    }
}

impl Session {
    async fn call(&mut self, method: &'static str, bytes: &[u8]) {
        match method {
            "CreateAccount" => {
                let asked =
                    self.unary::<proto::CreateAccountRequest, proto::CreateAccountResponse>(method, bytes).await;
                asked.allowed(&[]);
                if let (Some(request), Ok(answer)) = (asked.request, asked.answer)
                    && !answer.replayed
                {
                    self.total += i128::from(request.initial_balance);
                }
            }
            "GetBalance" => {
                let asked = self.unary::<proto::GetBalanceRequest, proto::GetBalanceResponse>(method, bytes).await;
                asked.allowed(&[]);
                if let Ok(answer) = asked.answer {
                    assert!(answer.balance >= 0 && answer.version > 0 && answer.sequence > 0);
                }
            }
            "UpdateBalance" => {
                let asked =
                    self.unary::<proto::UpdateBalanceRequest, proto::UpdateBalanceResponse>(method, bytes).await;
                asked.allowed(&[]);
                if let (Some(request), Ok(answer)) = (asked.request, asked.answer) {
                    assert!(answer.new_balance >= 0);
                    self.total += if answer.replayed { 0 } else { i128::from(request.delta) };
                }
            }
            "TransferFunds" => {
                let asked =
                    self.unary::<proto::TransferFundsRequest, proto::TransferFundsResponse>(method, bytes).await;
                asked.allowed(&[]);
                if let Ok(answer) = asked.answer {
                    assert!(answer.from_balance >= 0 && answer.to_balance >= 0);
                }
            }
            "ExecuteBatch" => {
                let asked = self.unary::<proto::ExecuteBatchRequest, proto::ExecuteBatchResponse>(method, bytes).await;
                asked.allowed(&[]);
                if let (Some(request), Ok(answer)) = (asked.request, asked.answer) {
                    self.executed(&request, &answer);
                }
            }
            "ExecuteStream" => {
                let asked = self.stream::<proto::ExecuteBatchRequest, proto::ExecuteBatchResponse>(method, bytes).await;
                asked.allowed(&[]);
                if let (Some(request), Ok(answers)) = (asked.request, asked.answer) {
                    assert_eq!(answers.len(), 1, "one batch was sent");
                    self.executed(&request, &answers[0]);
                }
            }
            "ListAccounts" => {
                let asked = self.unary::<proto::ListAccountsRequest, proto::ListAccountsResponse>(method, bytes).await;
                asked.allowed(&[Code::ResourceExhausted]);
                self.next_page = asked.answer.map_or(String::new(), |answer| answer.next_page_token);
            }
            "GetTransaction" => {
                self.unary::<proto::GetTransactionRequest, proto::GetTransactionResponse>(method, bytes)
                    .await
                    .allowed(&[]);
            }
            "SnapshotBalances" => {
                let asked =
                    self.stream::<proto::SnapshotBalancesRequest, proto::SnapshotBalancesResponse>(method, bytes);
                asked.await.allowed(&[Code::ResourceExhausted]);
            }
            "WatchTransactions" => {
                self.listened += 1;
                let asked =
                    self.stream::<proto::WatchTransactionsRequest, proto::WatchTransactionsResponse>(method, bytes);
                asked.await.allowed(&[Code::OutOfRange]);
            }
            _ => {
                let answer = self.raw(method, bytes).await;
                if let Err(status) = &answer {
                    assert!(matches!(status.code(), Code::Unimplemented | Code::Internal), "{status:?}");
                }
            }
        }
    }

    /// Counts what a batch did.
    fn executed(&mut self, request: &proto::ExecuteBatchRequest, answer: &proto::ExecuteBatchResponse) {
        assert_eq!(request.operations.len(), answer.results.len());
        for (operation, result) in request.operations.iter().zip(&answer.results) {
            assert_eq!(result.code == 0, result.message.is_empty());
            assert_eq!(result.code != 0, result.accounts.is_empty());
            let codes =
                [Code::Ok, Code::NotFound, Code::InvalidArgument, Code::FailedPrecondition, Code::AlreadyExists];
            assert!(codes.contains(&Code::from_i32(result.code)), "{result:?}");
            if result.code == 0 && !result.replayed {
                self.total += match &operation.operation {
                    Some(Kind::CreateAccount(create)) => i128::from(create.initial_balance),
                    Some(Kind::UpdateBalance(update)) => i128::from(update.delta),
                    _ => 0,
                };
            }
        }
    }

    /// What was told adds up to what is there, in the ledger and through the service.
    async fn check_total(&mut self) {
        assert_eq!(self.ledger.snapshot().expect("a free slot").total(), self.total);
        let asked =
            self.stream::<proto::SnapshotBalancesRequest, proto::SnapshotBalancesResponse>("SnapshotBalances", &[]);
        let messages = match asked.await.answer {
            Ok(messages) => messages,
            // The input left as many walks open as there may be.
            Err(status) => return assert_eq!(status.code(), Code::ResourceExhausted),
        };
        let accounts = messages.iter().flat_map(|message| &message.accounts);
        assert_eq!(accounts.map(|account| i128::from(account.balance)).sum::<i128>(), self.total);
    }

    async fn raw(&self, method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the service is there");
        let answer = grpc.unary(Request::new(bytes.to_vec()), path(method), Raw).await?;
        Ok(answer.into_inner())
    }

    async fn unary<Q: Message + Default, A: Message + Default>(&self, method: &str, bytes: &[u8]) -> Asked<Q, A> {
        let answer = self.raw(method, bytes).await;
        let answer = answer.map(|bytes| A::decode(&bytes[..]).expect("an answer"));
        Asked { request: Q::decode(bytes).ok(), answer }
    }

    /// The messages of a stream until it ends; of a watch, which never does, until nothing comes for a while.
    async fn stream<Q: Message + Default, A: Message + Default>(&self, method: &str, bytes: &[u8]) -> Asked<Q, Vec<A>> {
        Asked { request: Q::decode(bytes).ok(), answer: self.messages(method, bytes).await }
    }

    async fn messages<A: Message + Default>(&self, method: &str, bytes: &[u8]) -> Result<Vec<A>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the service is there");
        let answer = grpc.server_streaming(Request::new(bytes.to_vec()), path(method), Raw).await?;
        let mut stream = answer.into_inner();
        let mut messages = Vec::new();
        let is_watch = method == "WatchTransactions";
        if is_watch && self.listened > MOST_LISTENED {
            return Ok(messages);
        }
        let patience = if is_watch { PATIENCE } else { Duration::MAX };
        while let Ok(message) = tokio::time::timeout(patience, stream.message()).await {
            match message? {
                Some(bytes) => messages.push(A::decode(&bytes[..]).expect("a message")),
                None => break,
            }
        }
        Ok(messages)
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/equipoise.v1.AccountService/{method}").parse().expect("a path")
}

/// Messages as they are: bytes.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use tonic::codegen::Bytes;
        tonic::codec::EncodeBuf::reserve(buffer, item.len());
        prost::bytes::BufMut::put(buffer, Bytes::from(item));
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = prost::bytes::Buf::remaining(buffer);
        Ok(Some(prost::bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
