//! Claims by real threads, and what they keep; the sanitizers look at what is freed.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::claims::{Claims, PARTS};
use super::super::pin;
use super::claimant;

/// B2: what is claimed is held by one at a time, while claims end, tables are renewed and go.
#[test]
fn a_claim_excludes_others() {
    const REQUESTS: u64 = 3;
    let claims = Claims::new(0);
    let held: [AtomicBool; REQUESTS as usize] = Default::default();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (claims, held) = (&claims, &held);
            scope.spawn(move || {
                let mut got = 0;
                for turn in 0..20_000_u64 {
                    let request = (turn + thread) % REQUESTS;
                    let mine = claimant(request);
                    if claims.claim(request, &mine, None, |found, _| *found == request).is_ok() {
                        got += 1;
                        let others = held[request as usize].swap(true, Ordering::SeqCst);
                        assert!(!others, "held by two");
                        held[request as usize].store(false, Ordering::SeqCst);
                        claims.end(request, &mine, None);
                    } else if let Some((found, _)) = claims.find(request, |found, _| *found == request) {
                        assert_eq!(*found.request(), request);
                    }
                    claims.collect();
                }
                assert!(got > 0);
            });
        }
    });
    assert_eq!(claims.len(), 0);
}

/// C6: tables go when what was claimed in them has ended, whichever is held longest; each claim is found as long as it
/// holds.
#[test]
fn tables_go_with_their_last_claim() {
    let claims = Claims::new(0);
    let hash = |number: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let kept = claimant(u64::MAX);
    assert!(claims.claim(hash(u64::MAX - 1), &kept, None, |found, _| *found == u64::MAX).is_ok());
    let handles: Vec<_> = (0..20_000).map(claimant).collect();
    for handle in &handles {
        let number = *handle.request();
        assert!(claims.claim(hash(number), handle, None, |found, _| *found == number).is_ok());
        assert!(claims.claim(hash(number), handle, None, |found, _| *found == number).is_ok(), "its own");
    }
    let tables = claims.tables_count();
    assert!((3..8).contains(&tables), "{tables} tables: they grow with what is held");
    assert_eq!(claims.len(), 20_001);
    for handle in &handles {
        let number = *handle.request();
        let other = claimant(number);
        let refused = claims.claim(hash(number), &other, None, |found, _| *found == number);
        assert!(refused.is_err_and(|(holder, _)| holder.same(handle)));
        claims.end(hash(number), &other, None);
        assert!(claims.contains(hash(number), |found, _| *found == number), "another's claim was ended");
        claims.end(hash(number), handle, None);
        assert!(!claims.contains(hash(number), |found, _| *found == number));
    }
    let collect = || (0..1_000).for_each(|_| claims.collect());
    collect();
    assert_eq!(claims.tables_count(), 2, "the newest, and the one that is in use");
    assert!(claims.find(hash(u64::MAX - 1), |found, _| *found == u64::MAX).is_some_and(|(found, _)| found.same(&kept)));
    claims.end(hash(u64::MAX - 1), &kept, None);
    collect();
    assert_eq!((claims.tables_count(), claims.len()), (1, 0));
    pin().flush();
}

/// C6: what is still claimed goes with the claims.
#[test]
fn claims_that_never_ended_are_given_back() {
    let claims = Claims::new(10);
    let handle = claimant(1);
    assert!(claims.claim(7, &handle, None, |found, _| *found == 1).is_ok());
    drop(claims);
    // LeakSanitizer sees a reference that was forgotten, AddressSanitizer one that was given back twice.
    assert_eq!(*handle.request(), 1);
}

/// C6: who holds a claim for long holds up no table but its own.
#[test]
fn a_claim_that_is_held_keeps_one_table() {
    let claims = Claims::new(0);
    let hash = |number: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let held = claimant(0);
    assert!(claims.claim(hash(0), &held, None, |found, _| *found == 0).is_ok());
    for number in 1..200_000 {
        let handle = claimant(number);
        assert!(claims.claim(hash(number), &handle, None, |found, _| *found == number).is_ok());
        claims.end(hash(number), &handle, None);
        claims.collect();
        assert!(claims.tables_count() <= 4, "after {number}");
    }
    assert!(claims.contains(hash(0), |found, _| *found == 0));
}

/// B2: of a transaction's parts one is claimed, found and ended without the others, however much their hashes look
/// alike.
#[test]
fn parts_are_claimed_one_by_one() {
    const LAST: u32 = PARTS as u32 - 1;
    let claims = Claims::new(0);
    let hash = 7;
    let chain = claimant(0);
    let is = |wanted| move |_: &u64, part| part == Some(wanted);
    for part in [0, 1, LAST] {
        assert!(!claims.contains(hash, is(part)), "claimed with another one");
        assert!(claims.claim(hash, &chain, Some(part), is(part)).is_ok());
        assert!(claims.find(hash, is(part)).is_some_and(|(found, met)| found.same(&chain) && met == Some(part)));
    }
    let rival = claims.claim(hash, &claimant(1), Some(5), is(1));
    assert!(rival.is_err_and(|(holder, part)| holder.same(&chain) && part == Some(1)));
    for (held, part) in [(3, 1), (2, LAST), (1, 0)] {
        assert_eq!(claims.len(), held);
        claims.end(hash, &chain, Some(part));
        assert!(!claims.contains(hash, is(part)));
    }
    assert_eq!(claims.len(), 0);
}
