//! How a request finds out whether its ids are new, while ids move from the table to the index.
//!
//! 1. Note how far the index is published; then look the ids up in the table and in the index ([`Ids::known`]). If one
//!    is found, it is answered, and nothing is claimed.
//! 2. Claim all ids in the table, in sorted order, with the complete plan ([`Ids::claim`]).
//! 3. If the index was published further meanwhile, look into it again: ids that left the table before the claim are
//!    there.
//! 4. Settle the gate: open if no id was found in the window, closed otherwise. If it is closed, the claims are
//!    withdrawn, and the caller begins again and finds the answer in step 1.
//!
//! A thread that meets a claim with an unsettled gate (a duplicate, a chain that wants the same id) runs steps 2 to 4
//! for it. It always looks into the index, since it does not know what the owner saw. The first to settle decides for
//! all, so a dead owner blocks nobody, and nobody drives before somebody has looked.
//!
//! Why the owner may skip step 3 if nothing was published: a used id is in the table until a sequence at or past its
//! own is published. If the claim found it gone, that was published before the claim; if the published sequence is the
//! same as before step 1, step 1 saw the id in the index.
//!
//! An index that cannot be read never makes an id new. In step 1 the request is refused before anything is claimed. In
//! step 3 the gate is *closed*, the claims are withdrawn and the request is refused: nothing of it remains.

use smallvec::SmallVec;

use crate::account::{Balance, TransactionId};
use crate::kernel::{GROUP, Gate, Handle, Mutant, mutant};
use crate::request::Request;

use super::{Claim, Ids, Index, IndexError, Indexed, Key, TOGETHER, ids_of};

/// How far the index was published before it was looked into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed(u64);

/// Who uses an id.
pub(crate) enum Found {
    /// A transaction's in memory.
    Claimed(Claim),
    /// That of an entry of the journal.
    Recorded(Indexed),
}

/// What a look-up of a request's ids found.
pub(crate) enum Seen {
    /// The id of this member is in use. The gate of a claim is open: it may be driven.
    Known(Found, usize),
    /// None is in use: they may be claimed.
    Unknown(Probed),
}

type Keys = SmallVec<[Key; GROUP]>;
type Places = SmallVec<[usize; GROUP]>;
type Sorted<'a> = SmallVec<[(&'a TransactionId, u32); 1]>;

impl<I: Index> Ids<I> {
    /// Looks for the ids of `request` at the journal's time `now`. Claims nothing. May read the disk.
    #[inline]
    pub(crate) fn known(&self, request: &Request, now: u64) -> Result<Seen, IndexError> {
        let probed = Probed(self.index.as_ref().map_or(0, I::published));
        for (member, asked) in request.members().iter().enumerate() {
            let Some(id) = &asked.id else { continue };
            if let Some(claim) = self.claimed(id, now)? {
                return Ok(Seen::Known(Found::Claimed(claim), member));
            }
            if let Some(index) = &self.index
                && let Some(entry) = self.indexed(index.key(id), now)?
            {
                return Ok(Seen::Known(Found::Recorded(entry), member));
            }
        }
        Ok(Seen::Unknown(probed))
    }

    /// How many of the first `requests` surely carry no id that is in use, and the probe for claiming their ids. The
    /// others must be looked up one by one. Cheaper than [`Ids::known`] for each: the cache misses of many ids overlap.
    pub(crate) fn count_new(&self, requests: &[Request], now: u64) -> (usize, Probed) {
        let probed = Probed(self.index.as_ref().map_or(0, I::published));
        let ids = |new| {
            let placed = requests[..new].iter().enumerate();
            placed.flat_map(|(place, request)| ids_of(request).map(move |(id, _)| (id, place)))
        };
        let claimed = self.table.first_claimed(ids(requests.len()).map(|(id, _)| id));
        let claimed = claimed.and_then(|which| ids(requests.len()).nth(which));
        let mut new = claimed.map_or(requests.len(), |(_, place)| place);
        let Some(index) = &self.index else { return (new, probed) };
        let (keys, places): (Keys, Places) = ids(new).map(|(id, place)| (index.key(id), place)).unzip();
        for (keys, places) in keys.chunks(TOGETHER).zip(places.chunks(TOGETHER)) {
            new = new.min(self.first_indexed(keys, now).map_or(new, |which| places[which]));
        }
        (new, probed)
    }

    /// The place of the first key that is in the index, or may be because the index cannot be read.
    fn first_indexed(&self, keys: &[Key], now: u64) -> Option<usize> {
        let candidates = self.index.as_ref()?.candidates(keys);
        let mut places = (0..keys.len()).filter(|place| candidates >> place & 1 == 1);
        places.find(|place| !matches!(self.indexed(keys[*place], now), Ok(None)))
    }

    /// What was decided for `id`, however long ago: a claim in memory (perhaps not decided yet), or a journal entry.
    pub(crate) fn find(&self, id: &TransactionId) -> Result<Option<Found>, IndexError> {
        if let Some(claim) = self.table.find(id) {
            return Ok(Some(Found::Claimed(claim)));
        }
        let entry = self.index.as_ref().map_or(Ok(None), |index| index.find(index.key(id)))?;
        Ok(entry.map(Found::Recorded))
    }

    /// Claims the ids of a planned transaction, for which [`Ids::known`] found none. Open: it is to be driven, by
    /// anyone; closed: it never runs, and its caller begins again.
    #[inline]
    pub(crate) fn claim(&self, handle: &Handle<Balance>, probed: Probed, now: u64) -> Result<Gate, IndexError> {
        self.settle(handle, Some(probed), now)
    }

    /// Settles the gate of `handle`'s transaction. Idempotent: duplicates, and threads that it blocks, run it as well,
    /// without `probed`.
    #[inline]
    fn settle(&self, handle: &Handle<Balance>, probed: Option<Probed>, now: u64) -> Result<Gate, IndexError> {
        if let gate @ (Gate::Open | Gate::Closed) = handle.gate() {
            return Ok(gate);
        }
        let mut ids: Sorted<'_> = ids_of(handle.request()).collect();
        ids.sort_unstable();
        let verdict = self.verdict(handle, &ids, probed, now);
        let gate = handle.settle(match verdict {
            Ok(gate) => gate,
            Err(_) => Gate::Closed,
        });
        let withdrawn = match gate {
            Gate::Closed => u64::MAX,
            // Others may have settled, driven and forgotten it while we claimed: end the claims that we made too late,
            // no others.
            _ => match handle.claims_ended() {
                1.. if mutant(Mutant::LateHelperEndsAll) => u64::MAX,
                ended => ended,
            },
        };
        for (id, member) in ids {
            if u64::from(member) < withdrawn {
                self.table.withdraw(&self.table.claim_of(id, handle, member, 0));
            }
        }
        match verdict {
            Err(error) if gate != Gate::Open => Err(error),
            _ => Ok(gate),
        }
    }

    /// Claims all ids and looks into the index where that is necessary.
    fn verdict(
        &self,
        handle: &Handle<Balance>,
        ids: &Sorted<'_>,
        probed: Option<Probed>,
        now: u64,
    ) -> Result<Gate, IndexError> {
        for (id, member) in ids {
            if !self.claim_id(id, handle, *member, now)? {
                return Ok(Gate::Closed);
            }
        }
        let Some(index) = &self.index else { return Ok(Gate::Open) };
        let seen_all = match probed {
            Some(Probed(published)) => index.published() == published || mutant(Mutant::ProbeNotRepeated),
            None => mutant(Mutant::DrivenBeforeProbe),
        };
        if !seen_all {
            for (id, _) in ids {
                if self.indexed(index.key(id), now)?.is_some() {
                    return Ok(Gate::Closed);
                }
            }
        }
        Ok(Gate::Open)
    }

    /// Whether `id` is `handle`'s now.
    fn claim_id(
        &self,
        id: &TransactionId,
        handle: &Handle<Balance>,
        member: u32,
        now: u64,
    ) -> Result<bool, IndexError> {
        while let Err(claim) = self.table.claim(id, handle, member) {
            // Another chain may still lose; ids are claimed in order, so this ends.
            if self.settle(&claim.handle, None, now)? == Gate::Open {
                return Ok(false);
            }
            self.table.withdraw(&claim);
        }
        Ok(true)
    }

    /// The claim in memory on `id`, its gate open, unless it is past the window.
    #[inline]
    fn claimed(&self, id: &TransactionId, now: u64) -> Result<Option<Claim>, IndexError> {
        while let Some(claim) = self.table.find(id) {
            // A chain whose gate closes owned nothing: the id is free again.
            if self.settle(&claim.handle, None, now)? != Gate::Open {
                continue;
            }
            let expired = claim.handle.decision().is_some_and(|decision| !self.is_honoured(decision.time, now));
            if !expired {
                return Ok(Some(claim));
            }
            self.table.withdraw(&claim);
        }
        Ok(None)
    }

    /// The index's entry for `key`, unless it is past the window.
    #[inline]
    fn indexed(&self, key: Key, now: u64) -> Result<Option<Indexed>, IndexError> {
        let Some(index) = &self.index else { return Ok(None) };
        Ok(index.find(key)?.filter(|entry| self.is_honoured(entry.time, now)))
    }

    fn is_honoured(&self, time: u64, now: u64) -> bool {
        now.saturating_sub(time) <= self.window
    }
}
