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
/// operation is refused, whatever the others say. That is true of the moment of the look-up, not of the commit: so
/// `now` is asked for a sequence first, and the accounts are looked for again.
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

/// Up to so many changes are put where they belong as they come; of more it takes less time to sort them.
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
