//! An entry of a journal, as it is printed by those who read the files.

use std::io;

use serde::Serialize;

use super::exit::Failure;
use super::output::{Page, Record, escape};
use super::record::{LegRecord, nanoseconds};
use crate::verify::{Entry, Leg, Problem};

/// One entry, in full.
#[derive(Serialize)]
pub(super) struct EntryRecord {
    sequence: u64,
    commit_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalRecord>,
    members: Vec<MemberRecord>,
}

#[derive(Serialize)]
struct RefusalRecord {
    /// The place of the refused member, and of its account in it; from 0.
    member: u32,
    leg: u16,
    reason: &'static str,
    current: i64,
    /// The sequence as of which the account was unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<u64>,
}

#[derive(Serialize)]
struct MemberRecord {
    operation: &'static str,
    transaction_id: String,
    legs: Vec<LegRecord>,
}

impl From<&Entry<'_>> for EntryRecord {
    fn from(entry: &Entry<'_>) -> Self {
        let refusal = entry.refusal.map(|refusal| RefusalRecord {
            member: refusal.member,
            leg: refusal.leg,
            reason: refusal.reason.name(),
            current: refusal.current,
            as_of: entry.as_of,
        });
        let leg = |leg: &Leg<'_>| LegRecord {
            account_id: leg.account.to_owned(),
            delta: leg.delta,
            balance: leg.state.balance,
            version: leg.state.version,
        };
        let members = entry.parts().map(|(_, member, legs)| MemberRecord {
            operation: member.kind.name(),
            transaction_id: member.id.unwrap_or_default().to_owned(),
            legs: legs.iter().map(leg).collect(),
        });
        let (sequence, commit_time) = (entry.sequence, nanoseconds(entry.time));
        EntryRecord { sequence, commit_time, refusal, members: members.collect() }
    }
}

impl Record for EntryRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let EntryRecord { sequence, commit_time, refusal, members } = self;
        page.line(format_args!("{sequence:>12}  {commit_time}"))?;
        if let Some(RefusalRecord { member, leg, reason, current, as_of }) = refusal {
            let style = page.refusal();
            let as_of = as_of.map_or(String::new(), |as_of| format!(" as of sequence {as_of}"));
            page.line(format_args!(
                "{:>12}  {style}refused: {reason}{style:#} at member {member}, account {leg}, with balance {current}{as_of}",
                ""
            ))?;
        }
        for MemberRecord { operation, transaction_id, legs } in members {
            let id = if transaction_id.is_empty() { "-" } else { transaction_id };
            page.line(format_args!("{:>12}  {operation}  {}", "", escape(id)))?;
            let verb = if refusal.is_none() { "->" } else { "refused, still" };
            for LegRecord { account_id, delta, balance, version } in legs {
                page.line(format_args!("{delta:>+33} {verb} {balance} (version {version})  {}", escape(account_id)))?;
            }
        }
        Ok(())
    }
}

/// Why no more is printed.
pub(super) enum Stop {
    Enough,
    Failed(Failure),
}

impl Stop {
    /// Compaction took the `sequence` that `option` asks for.
    pub(super) fn dropped(option: &str, sequence: u64, oldest: u64) -> Self {
        let gone = format!("{option} {sequence}: the entries before sequence {oldest} were dropped");
        Stop::Failed(Failure::Refused(gone))
    }
}

/// The journal ends with sequence `last`, before the one that `--from` asks for.
pub(super) fn not_there_yet(from: u64, last: u64) -> Failure {
    Failure::Refused(format!("--from {from}: the journal ends at sequence {last}"))
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop::Failed(Failure::Damage(problem))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Failed(Failure::Output(error))
    }
}
