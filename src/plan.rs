//! From a request to the kernel's plan: which accounts it touches, in ascending id order, with what.

use smallvec::SmallVec;

use crate::account::{AccountId, Balance, Change, Reason, Reject};
use crate::kernel::{Account, Leg, Owned, Plan};
use crate::request::Request;

/// One change, on its way to its leg.
struct Step<'g> {
    account: &'g Account<Balance>,
    place: u32,
    change: Change,
}

/// Plans `request`, to be committed not before `time`. An account that `known` does not find has no leg: the first such
/// operation is refused, whatever the others say.
pub(crate) fn plan<'g>(
    request: Request,
    time: u64,
    known: impl Fn(&AccountId) -> Option<&'g Account<Balance>>,
) -> Owned<Balance> {
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
    let mut legs = SmallVec::<[Leg<Balance>; 2]>::new();
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
    Owned::new(Plan { legs, refusal, time, request })
}
