//! A ledger inside a program: accounts, transfers, ids, a chain, a snapshot.
//!
//! `cargo run --no-default-features --example embedded`

use equipoise::{AccountId, Ledger, Member, Operation, Request, TransactionId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ledger = Ledger::new();
    let [alice, bob, fees] = [AccountId::new("alice")?, AccountId::new("bob")?, AccountId::new("fees")?];

    for (account, initial) in [(&alice, 100), (&bob, 200), (&fees, 0)] {
        ledger.create(account, initial)?;
    }
    let before = ledger.snapshot()?;

    // Both accounts change, or neither; the answer has them in the order of the call.
    let moved = ledger.transfer(&alice, &bob, 50)?;
    println!("transfer: {} has {}, {} has {}", moved[0].id, moved[0].balance, moved[1].id, moved[1].balance);

    // A refusal says what stands in the way, and changes nothing.
    if let Err(refused) = ledger.transfer(&alice, &bob, 1_000) {
        println!("refused: {refused}");
    }

    // With an id, the same request may be sent again: it is applied once, and answered every time.
    let salary = Request::single(Operation::update(alice.clone(), 25), Some(TransactionId::new("salary-2026-01")?));
    for _ in 0..2 {
        let outcome = ledger.submit(salary.clone())?;
        let balance = outcome.result()?[0].balance;
        println!("salary: alice has {balance} at sequence {}, replayed: {}", outcome.sequence(), outcome.replayed());
    }

    // A chain is committed under one sequence, or not at all; each operation sees the ones before it.
    let chain = Request::chain(vec![
        Member { id: None, operation: Operation::transfer(bob.clone(), alice.clone(), 100)? },
        Member { id: None, operation: Operation::transfer(alice.clone(), fees.clone(), 3)? },
    ])?;
    let outcome = ledger.submit(chain)?;
    println!("chain: {} operations at sequence {}", outcome.results().len(), outcome.sequence());

    // Snapshots are moments: the first still shows what was before.
    let now = ledger.snapshot()?;
    for (name, snapshot) in [("before", &before), ("now", &now)] {
        let balances: Vec<_> = snapshot.iter().map(|state| format!("{}={}", state.id, state.balance)).collect();
        println!("{name}: sequence {}, {}, total {}", snapshot.sequence(), balances.join(" "), snapshot.total());
    }
    Ok(())
}
