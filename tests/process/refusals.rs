//! Case A04: refusals are kept, with their ids, like everything else that was decided.

use tonic::Code;

use crate::audit::Audit;
use crate::client::{Answer, Client, Order, transaction};
use crate::ids_survive_a_restart;
use crate::service::{Service, serve_with, verified};

const FEW: &[&str] = &["--ids", "1000", "--checkpoint-every", "300"];

async fn sent(client: &Client, order: &Order) -> Answer {
    order.send(client).await.unwrap().remove(0)
}

fn text(answer: &Answer) -> (i32, &str, bool) {
    (answer.code, &answer.message, answer.replayed)
}

/// B1, B3: a refusal is the same, and known as a replay, after 5,000 other ids have pushed it out of memory and after
/// a kill; another request under its id is told so; what was malformed leaves its id unused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(&mut serve_with(dir.path(), FEW));
    let client = service.client().await;
    let refused = Order::update("r1", "a", -5);
    let lost = Order::update("r2", "ghost", 1);
    let twice = Order::create("r4", "a", 0);
    assert_eq!(sent(&client, &Order::create("", "a", 0)).await.code, 0);
    let first = [sent(&client, &refused).await, sent(&client, &lost).await, sent(&client, &twice).await];
    let precondition = Code::FailedPrecondition as i32;
    assert_eq!(text(&first[0]), (precondition, "Insufficient balance: current=0, delta=-5", false));
    assert_eq!(text(&first[1]), (Code::NotFound as i32, "Account ghost not found", false));
    assert_eq!(text(&first[2]), (Code::AlreadyExists as i32, "Account a already exists", false));
    assert_eq!(sent(&client, &Order::update("d1", "a", 100)).await.code, 0);
    assert_eq!(sent(&client, &Order::create("", "ghost", 0)).await.code, 0);
    assert_eq!(sent(&client, &Order::create("", "b", 0)).await.code, 0);
    for malformed in [("a", "a", 1), ("a", "b", 0), ("a", "b", -1)] {
        let order = Order::transfer("r3", malformed.0, malformed.1, malformed.2);
        assert_eq!(order.send(&client).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let fresh = sent(&client, &Order::transfer("r3", "a", "b", 1)).await;
    assert!(fresh.code == 0 && !fresh.replayed, "{fresh:?}");
    assert_eq!(Order::create("r5", "neg", -1).send(&client).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(sent(&client, &Order::create("r5", "neg", 1)).await.code, 0);
    kept(&client, [&refused, &lost, &twice], &first).await;
    let mut audit = Audit::default();
    audit.read(&client).await;
    service.kill();

    let service = Service::start(&mut serve_with(dir.path(), FEW));
    let client = service.client().await;
    if ids_survive_a_restart() {
        kept(&client, [&refused, &lost, &twice], &first).await;
        push_out(&client).await;
        kept(&client, [&refused, &lost, &twice], &first).await;
    }
    audit.read(&client).await;
    audit.compare(&client, &crate::audit::Told::default()).await;
    service.stop();
    verified(dir.path());
}

async fn kept(client: &Client, orders: [&Order; 3], first: &[Answer; 3]) {
    for (order, first) in orders.into_iter().zip(first) {
        let again = sent(client, order).await;
        assert_eq!(again, Answer { replayed: true, ..first.clone() }, "{order:?}");
        let entry = transaction(client, &order.steps[0].0).await.unwrap();
        assert_eq!((entry.code, entry.message), (first.code, first.message.clone()));
    }
    let other = Order::update("r1", "a", -6).send(client).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    assert!(other.message().contains("delta"), "{other:?}");
}

/// 5,000 other ids.
async fn push_out(client: &Client) {
    use equipoise::grpc::proto::operation::Operation as Kind;
    use equipoise::grpc::proto::{ExecuteBatchRequest, Operation, UpdateBalanceRequest};

    for batch in 0..10 {
        let update = |number| {
            let transaction_id = format!("other-{batch}-{number}");
            let update = UpdateBalanceRequest { account_id: "b".into(), delta: 1, transaction_id };
            Operation { operation: Some(Kind::UpdateBalance(update)), linked: false }
        };
        let request = ExecuteBatchRequest { operations: (0..500).map(update).collect() };
        let results = client.clone().execute_batch(request).await.unwrap().into_inner().results;
        assert!(results.iter().all(|result| result.code == 0));
    }
}
