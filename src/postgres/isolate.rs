//! Which asks of a batch the database does not keep, or which runs.

use super::batch::{Changes, Missed, Written};
use super::database::{Database, Fault};
use super::decide::{Decision, Known, decide};
use super::work::{Asks, Batch};

/// If this many asks in a row fail, from the first on, none of the batch can be kept.
const ALL: usize = 8;

/// A trial found that something has changed that the batch was decided from.
pub(super) struct Outdated(pub(super) Box<Changes>, pub(super) Missed);

enum Trial {
    Kept,
    Not(Fault),
    Outdated(Outdated),
}

/// Finds the asks that the database does not keep, by trials of all asks up to one, which keep nothing: whether an ask
/// is refused may depend on what those before it made of an account.
pub(super) async fn isolate<D: Database>(
    database: &mut D,
    batch: &mut Batch,
    asks: &Asks,
    known: &Known,
    mut why: Fault,
) -> Result<Option<Outdated>, Fault> {
    let all = asks.asks.len();
    let mut culprits = 0;
    // The database keeps the first `good` asks, now that those it refuses are left out.
    let mut good = 0;
    while good < all {
        let (mut stride, mut bad) = (1, None);
        while good < bad.map_or(all, |bad: usize| bad - 1) {
            let length = match bad {
                Some(bad) => good + (bad - good) / 2,
                None => (good + stride).min(all),
            };
            match is_kept(database, batch, asks, known, length).await? {
                Trial::Kept => (good, stride) = (length, stride * 2),
                Trial::Not(fault) => (bad, why) = (Some(length), fault),
                Trial::Outdated(outdated) => return Ok(Some(outdated)),
            }
        }
        if bad.is_some() {
            culprits += 1;
            if culprits == ALL && good + 1 == ALL && matches!(why, Fault::Unfilled(_)) {
                // It is no fault of single asks: the column is in a table that gets a row for each ask.
                return Err(Fault::Failed(why.what().to_owned()));
            }
            if let Fault::Unfilled(what) = &why {
                if batch.set_aside_ask(asks, good, what) {
                    // The run may have asks that were tried already, so the rest of the batch has to be decided again
                    // first.
                    return Ok(None);
                }
            } else {
                batch.refuse(asks, good, why.what().to_owned());
            }
            good += 1;
        }
    }
    if culprits > 0 {
        return Ok(None);
    }
    isolate_runs(database, batch, asks, known, &why).await
}

/// Finds the runs whose offsets or dead letters the database does not keep, where no ask is to blame.
async fn isolate_runs<D: Database>(
    database: &mut D,
    batch: &mut Batch,
    asks: &Asks,
    known: &Known,
    why: &Fault,
) -> Result<Option<Outdated>, Fault> {
    let mut decision = decide(&asks.asks, known, |index| batch.is_refused(asks, index))?;
    let Changes { offsets, letters, .. } = batch.changes(asks, &mut decision);
    let mut any = false;
    for offset in offsets {
        let (topic, partition) = (offset.topic.clone(), offset.partition);
        let its = letters.iter().filter(|letter| letter.partition == partition && letter.topic == topic);
        let number = database.number().await?;
        let changes = Changes { number, letters: its.cloned().collect(), offsets: vec![offset], ..Changes::default() };
        match trial(database, changes).await? {
            Trial::Kept => {}
            Trial::Not(fault) => any |= batch.set_aside_run(&topic, partition, fault.what()),
            Trial::Outdated(outdated) => return Ok(Some(outdated)),
        }
    }
    // Otherwise the fault is in something else that the batch writes.
    if any { Ok(None) } else { Err(Fault::Failed(why.what().to_owned())) }
}

/// Whether the database would keep the first `length` asks.
async fn is_kept<D: Database>(
    database: &mut D,
    batch: &Batch,
    asks: &Asks,
    known: &Known,
    length: usize,
) -> Result<Trial, Fault> {
    let decision = decide(&asks.asks, known, |index| index >= length || batch.is_refused(asks, index))?;
    let number = database.number().await?;
    let Decision { records, accounts, ids, .. } = decision;
    trial(database, Changes { number, records, accounts, ids, ..Changes::default() }).await
}

/// Whether the database would keep these changes.
async fn trial<D: Database>(database: &mut D, changes: Changes) -> Result<Trial, Fault> {
    match database.write(&changes, true).await {
        Ok(Written::Missed(missed)) => Ok(Trial::Outdated(Outdated(Box::new(changes), missed))),
        Ok(_) => Ok(Trial::Kept),
        Err(fault @ (Fault::Refused(_) | Fault::Unfilled(_))) => Ok(Trial::Not(fault)),
        Err(fault) => Err(fault),
    }
}
