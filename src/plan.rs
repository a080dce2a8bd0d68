//! From a request to the kernel's plan: which accounts it touches, in ascending id order, with what.

#![warn(clippy::arithmetic_side_effects)]

use smallvec::SmallVec;

use crate::account::{AccountId, Balance, Change, Reason, Reject};
use crate::kernel::{Account, Leg, Plan, Refused, earlier};
use crate::request::Request;

/// One change, on its way to its leg.
struct PlannedChange<'g> {
    account: &'g Account<Balance>,
    place: u32,
    change: Change,
}

/// Plans `request`, to be committed not before `time`. An account that `known` does not find has no leg: the first such
/// operation is refused, whatever the others say. That holds at the look-up, not at the commit; so `now` is read first,
/// and the accounts are looked up again.
pub(crate) fn plan<'g>(
    request: Request,
    time: u64,
    now: impl Fn() -> u64,
    mut known: impl FnMut(&AccountId) -> Option<&'g Account<Balance>>,
) -> Plan<Balance> {
    let (mut legs, mut refusal) = legs(&request, &mut known);
    let mut as_of = 0;
    if refusal.is_some() {
        as_of = now();
        (legs, refusal) = self::legs(&request, &mut known);
    }
    Plan { legs, refusal, as_of, time, request }
}

type Legs = SmallVec<[Leg<Balance>; 2]>;

/// Up to this many changes are inserted in order as they come; sorting is faster for more.
const FEW: usize = 8;

fn legs<'g>(
    request: &Request,
    mut known: impl FnMut(&AccountId) -> Option<&'g Account<Balance>>,
) -> (Legs, Option<Refused<Reject>>) {
    let mut legs = Legs::new();
    let mut changes = SmallVec::<[PlannedChange<'g>; 0]>::new();
    let mut refusal = None;
    let few = request.members().iter().map(|member| member.operation.leg_count()).sum::<usize>() <= FEW;
    for (member, place) in request.members().iter().zip(0_u32..) {
        for position in 0_u16.. {
            let Some(id) = member.operation.account(usize::from(position)) else { break };
            let Some(account) = known(id) else {
                let reject = Reject { reason: Reason::NotFound, leg: position, current: 0 };
                refusal = earlier(refusal, Some(Refused { place, reject }));
                continue;
            };
            // Wanted when the ids are claimed.
            account.prefetch();
            let planned = PlannedChange { account, place, change: member.operation.change(usize::from(position)) };
            if few {
                planned.insert(&mut legs);
            } else {
                changes.push(planned);
            }
        }
    }
    // Stable: the changes of one account stay in the order of the request.
    changes.sort_by(|a, b| a.account.key().cmp(b.account.key()));
    for planned in changes {
        planned.append(&mut legs);
    }
    (legs, refusal)
}

impl PlannedChange<'_> {
    /// Adds it to the leg of its account, or makes one at its place in their order.
    fn insert(self, legs: &mut Legs) {
        let key = self.account.key();
        let place = legs.iter().take_while(|leg| leg.account().key() < key).count();
        if place == legs.len() || !std::ptr::eq(legs[place].account(), self.account) {
            legs.insert(place, Leg::new(self.account));
        }
        legs[place].push(self.place, self.change);
    }

    /// As [`Self::insert`], where none comes after it.
    fn append(self, legs: &mut Legs) {
        if legs.last().is_none_or(|last| !std::ptr::eq(last.account(), self.account)) {
            legs.push(Leg::new(self.account));
        }
        if let Some(leg) = legs.last_mut() {
            leg.push(self.place, self.change);
        }
    }
}

#[cfg(all(test, not(any(equipoise_loom, equipoise_shuttle))))]
mod tests {
    use super::*;
    use crate::request::{Member, Operation, Posting};

    fn account(id: &str) -> AccountId {
        AccountId::new(id).expect("a valid id")
    }

    /// The accounts of the legs that `request` is planned with, in their order.
    fn order(request: Request, known: &[Account<Balance>]) -> Vec<String> {
        let plan = plan(request, 0, || 0, |id| known.iter().find(|account| account.key() == id));
        assert_eq!(plan.refusal, None);
        plan.legs.iter().map(|leg| leg.account().key().to_string()).collect()
    }

    fn transfer(from: &str, to: &str) -> Operation {
        Operation::transfer(account(from), account(to), 1).expect("valid")
    }

    /// A8: accounts are taken in ascending order of their ids as bytes, whichever way the money flows and however many
    /// there are.
    #[test]
    fn legs_ascend_whichever_way_the_money_flows() {
        let ids = ["B", "a", "b", "b0", "c", "d", "e", "f", "g", "z", "\u{e9}"];
        let known: Vec<_> = ids.into_iter().map(|id| Account::new(account(id))).collect();
        assert_eq!(order(Request::single(transfer("a", "b"), None), &known), ["a", "b"]);
        assert_eq!(order(Request::single(transfer("b", "a"), None), &known), ["a", "b"]);
        assert_eq!(order(Request::single(transfer("a", "B"), None), &known), ["B", "a"]);
        let all = ids.iter().rev().map(|id| Posting { account: account(id), delta: 0 }).collect();
        assert_eq!(order(Request::single(Operation::post(all).expect("valid"), None), &known), ids);
        let members = [("z", "a"), ("a", "z"), ("c", "b0")];
        let chain = members.map(|(from, to)| Member { id: None, operation: transfer(from, to) }).to_vec();
        assert_eq!(order(Request::chain(chain).expect("valid"), &known), ["a", "b0", "c", "z"]);
    }
}
