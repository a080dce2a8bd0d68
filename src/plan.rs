//! From a request to the kernel's plan: which accounts it touches, in ascending id order, with what.

use smallvec::SmallVec;

use crate::account::{AccountId, Balance, Change, Reason, Reject};
use crate::kernel::{Account, Leg, Plan};
use crate::request::Request;

/// One change, on its way to its leg.
struct Step<'g> {
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
    known: impl Fn(&AccountId) -> Option<&'g Account<Balance>>,
) -> Plan<Balance> {
    let (mut legs, mut refusal) = legs(&request, &known);
    let mut as_of = 0;
    if refusal.is_some() {
        as_of = now();
        (legs, refusal) = self::legs(&request, &known);
    }
    Plan { legs, refusal, as_of, time, request }
}

type Legs = SmallVec<[Leg<Balance>; 2]>;

fn legs<'g>(
    request: &Request,
    known: impl Fn(&AccountId) -> Option<&'g Account<Balance>>,
) -> (Legs, Option<(u32, Reject)>) {
    let mut steps = SmallVec::<[Step<'g>; 2]>::new();
    let mut refusal: Option<(u32, Reject)> = None;
    for (member, place) in request.members().iter().zip(0_u32..) {
        for (id, position) in member.operation.accounts().into_iter().zip(0_u16..) {
            match known(id) {
                Some(account) => {
                    steps.push(Step { account, place, change: member.operation.change(usize::from(position)) });
                }
                None => {
                    let unknown = (place, Reject { reason: Reason::NotFound, leg: position, current: 0 });
                    refusal = Some(refusal.map_or(unknown, |first| first.min(unknown)));
                }
            }
        }
    }
    // Stable: the changes of one account stay in the order of the request.
    steps.sort_by(|a, b| a.account.key().cmp(b.account.key()));
    let mut legs = Legs::new();
    let mut last: Option<&Account<Balance>> = None;
    for Step { account, place, change } in steps {
        if last.is_none_or(|last| !std::ptr::eq(last, account)) {
            legs.push(Leg::new(account));
            last = Some(account);
        }
        if let Some(leg) = legs.last_mut() {
            leg.push(place, change);
        }
    }
    (legs, refusal)
}
