//! A disk that answers no reads for a while: only who asks for what lies on it waits.

use std::fs;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Order, balance, snapshot, transaction};
use crate::service::{SOON, Service, serve_with, verified};
use crate::shim::shimmed;

/// More than the service has threads for its calls.
const WAITING: usize = 16;

/// A4, E4: while repeated ids wait for the disk, reads and new requests are answered, and SIGTERM ends the service in time.
#[tokio::test]
async fn calls_that_wait_for_the_disk_hold_up_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let stalled = dir.path().join("stalled");
    let start = || {
        let mut command = serve_with(dir.path(), &["--ids", "100"]);
        command.env("TOKIO_WORKER_THREADS", "2");
        Service::start(&mut shimmed(command, dir.path(), &[("STALL", stalled.to_str().unwrap())]))
    };
    let service = start();
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    for number in 0..1_000 {
        Order::update(&format!("x{number}"), "a", 1).send(&client).await.unwrap();
    }
    for on in ["/ids/", "/journal/"] {
        fs::write(&stalled, on).unwrap();
        let mut waiting = JoinSet::new();
        for number in 0..WAITING {
            let (client, id) = (client.clone(), format!("x{number}"));
            waiting.spawn(async move {
                match number % 2 {
                    0 => assert!(Order::update(&id, "a", 1).send(&client).await.unwrap()[0].replayed),
                    _ => assert_eq!(transaction(&client, &id).await.unwrap().transaction_id, id),
                }
            });
        }
        sleep(Duration::from_millis(200)).await;
        let others = async {
            // Without ids, for which a filter of the index may send one in a thousand to the disk.
            for number in 0..100 {
                balance(&client, "a").await.unwrap();
                Order::create("", &format!("{on}{number}"), 0).send(&client).await.unwrap();
            }
            snapshot(&client).await.unwrap()
        };
        let (_, accounts) = timeout(SOON, others).await.expect("nothing of that needs the disk's reads");
        assert_eq!(accounts.iter().map(|account| account.balance).sum::<i64>(), 1_000);
        assert!(waiting.try_join_next().is_none(), "the disk is stalled");
        fs::remove_file(&stalled).unwrap();
        timeout(SOON, waiting.join_all()).await.expect("the disk is there again");
    }

    fs::write(&stalled, "/ids/").unwrap();
    for number in 0..WAITING {
        let client = client.clone();
        tokio::spawn(async move { Order::update(&format!("x{number}"), "a", 1).send(&client).await });
    }
    sleep(Duration::from_millis(200)).await;
    service.stop_in_time();
    fs::remove_file(&stalled).unwrap();
    verified(dir.path());
    let service = start();
    assert_eq!(balance(&service.client().await, "a").await.unwrap().balance, 1_000);
}
