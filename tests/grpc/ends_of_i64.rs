//! A06: the ends of i64, through the service.

use tonic::Code;

use crate::harness::*;

/// A12, A13: never a wrap, and the refused account goes on as it was.
#[tokio::test]
async fn a_balance_never_wraps() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "max", i64::MAX).await.unwrap();
    create(&client, "zero", 0).await.unwrap();
    create(&client, "one", 1).await.unwrap();
    let precondition = Code::FailedPrecondition;
    let text = "Balance out of range: current=9223372036854775807, delta=1";
    refused(update(&client, "max", 1, "1").await, precondition, text);
    let text = "Insufficient balance: current=0, delta=-9223372036854775808";
    refused(update(&client, "zero", i64::MIN, "2").await, precondition, text);
    let text = "Insufficient balance: current=9223372036854775807, delta=-9223372036854775808";
    refused(update(&client, "max", i64::MIN, "3").await, precondition, text);
    let text = "Balance out of range in account one: current=1, amount=9223372036854775807";
    refused(transfer(&client, "max", "one", i64::MAX, "4").await, precondition, text);
    let text = "Transfer amount must be positive";
    refused(transfer(&client, "max", "one", i64::MIN, "5").await, Code::InvalidArgument, text);
    let text = "Initial balance cannot be negative";
    refused(create(&client, "min", i64::MIN).await, Code::InvalidArgument, text);
    assert_eq!(balance(&client, "max").await.unwrap().version, 1);
    let moved = transfer(&client, "max", "zero", i64::MAX, "6").await.unwrap();
    assert_eq!((moved.from_balance, moved.to_balance), (0, i64::MAX));
}
