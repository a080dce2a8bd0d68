//! Files that were changed behind the ledger's back: a torn tail is cut, damage is refused and nothing changed.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use equipoise::{AccountId, Durability, Event, Ledger, OpenError};

use super::common::Random;
use super::disk::{Disk, End};
use super::workload::{Caller, Events, Known, Shown, begin, checkpoint, open, reopen, roll};
use super::{common, depth};
use crate::account::Balance;
use crate::foreign::Observer;
use crate::journal::Noted;
use crate::journal::disk::checkpoint::{Moment, Writing};
use crate::journal::disk::load::load;
use crate::journal::disk::recovery::{Recorded, Recovered, Recovery};
use crate::journal::disk::{batch, checkpoint as checkpoints, segment};
use crate::kernel::{pin, slab::Slab};

/// Every account: balance, version, and sequence of its last change.
type Accounts = BTreeMap<String, (i64, u64, u64)>;

/// A journal, and the accounts after each of its entries.
struct Journal {
    disk: Disk,
    states: Vec<Accounts>,
}

impl Journal {
    /// Three short segments, closed, with two checkpoints.
    fn of_three_segments() -> Self {
        let disk = Disk::new();
        let (ledger, events) = open(&disk, 1);
        let ledger = ledger.expect("opens");
        begin(&ledger);
        let mut caller = Caller::new("x", 1);
        caller.run(&ledger, 4);
        checkpoint(&ledger, &events, &disk, ledger.durable());
        for _ in 0..2 {
            assert!(roll(&ledger));
            caller.run(&ledger, 6);
        }
        checkpoint(&ledger, &events, &disk, ledger.durable());
        let durable = ledger.with_durability(Durability::OnDisk);
        durable.create(&common::account("last"), 1).expect("new");
        let states = states(&ledger);
        drop((ledger, durable));
        Journal { disk, states }
    }

    /// A hundred operations, each acknowledged; then the process is killed.
    fn of_a_hundred() -> Self {
        let disk = Disk::new();
        let ledger = reopen(&disk);
        let durable = ledger.with_durability(Durability::OnDisk);
        let account = common::account("account");
        durable.create(&account, 0).expect("new");
        for _ in 1..100 {
            durable.update(&account, 1).expect("room");
        }
        let states = states(&ledger);
        Journal { disk: disk.after(End::Killed), states }
    }

    fn without_checkpoints(&self) -> Disk {
        let disk = self.disk.copy();
        disk.names().iter().filter(|name| name.starts_with("checkpoints/")).for_each(|name| disk.take(name));
        disk
    }

    /// What the recovery of `disk` comes to: how much of this journal; no other state will do.
    fn prefix(&self, disk: &Disk) -> (Result<u64, OpenError>, Vec<Event>) {
        let events = Events::default();
        let mut accounts = Accounts::new();
        let recovery = Recovery {
            install: &mut |recovered| {
                let mut install = |id: &AccountId, state: Balance, sequence| {
                    accounts.insert(id.as_str().to_owned(), (state.amount, state.version, sequence));
                };
                match recovered {
                    Recovered::Changed(Recorded { id, state, sequence }) => install(&id, state, sequence),
                    Recovered::Loaded(loaded) => Slab::over(loaded).iter().for_each(|account| {
                        let (sequence, state) = account.read(&pin());
                        install(account.key(), state, sequence);
                    }),
                }
                Ok(())
            },
            progress: &mut |_| ControlFlow::Continue(()),
            tell: &|event| events.lock().push(event.clone()),
        };
        let opened =
            crate::journal::disk::Disk::open(disk.files(), 1 << 20, recovery, Observer::new(|_| {}), |_, _| Ok(()));
        let told = std::mem::take(&mut *events.lock());
        let end = opened.map(|(_, position, _)| position.sequence);
        if let Ok(end) = end {
            assert_eq!(accounts, self.states[end as usize], "the accounts at {end}");
        }
        (end, told)
    }

    /// Refused, for what stands in `file` at `offset` or before; and nothing was changed.
    fn refuses(&self, disk: &Disk, file: &str, at: u64) {
        let refused = self.prefix(disk).0.expect_err("damage");
        let OpenError::Damaged { file: named, offset, .. } = &refused else { panic!("{refused}") };
        assert!(named == Path::new(file) && *offset <= at, "{refused}, not {file} at {at}");
        assert_eq!(disk.changes(), 0, "{refused}");
    }
}

fn states(ledger: &Ledger) -> Vec<Accounts> {
    let mut states = vec![Accounts::new()];
    for outcome in ledger.history(1, usize::MAX).expect("readable") {
        let mut next = states.last().expect("one").clone();
        if outcome.results().iter().all(Result::is_ok) {
            for change in outcome.changes() {
                let name = AccountId::as_str(&change.account).to_owned();
                next.insert(name, (change.balance, change.version, outcome.sequence()));
            }
        }
        states.push(next);
    }
    states
}

/// Where the batches of a segment begin, and where the last ends.
fn batches(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![segment::HEADER as usize];
    while let Some(header) = batch::Header::read(&bytes[starts[starts.len() - 1]..]) {
        starts.push(starts[starts.len() - 1] + header.span());
    }
    starts
}

/// Whether the byte of a segment says nothing: in its header's second part, or behind a batch's body.
fn is_idle(bytes: &[u8], at: usize) -> bool {
    let starts = batches(bytes);
    let start = starts[starts.partition_point(|start| *start <= at).max(1) - 1];
    let header = batch::Header::read(&bytes[start..]);
    (128..4096).contains(&at) || header.is_some_and(|header| at >= start + header.unpadded())
}

/// Case A12: C2, C3: whichever byte of the journal changes, the state is a prefix of it, or the place is named.
#[test]
fn a_flipped_byte_is_a_torn_tail_or_named() {
    let journal = Journal::of_three_segments();
    let disk = journal.without_checkpoints();
    let last = journal.states.len() as u64 - 1;
    assert_eq!(journal.prefix(&disk.copy()).0.expect("good"), last);
    for number in 1..=3 {
        let name = segment::name(number);
        let bytes = disk.bytes(&name);
        let end = *batches(&bytes).last().expect("one");
        let stride = (3 / depth()).max(1) as usize;
        let places =
            (0..128).chain([128, 2_000, 4_095]).chain((4_096..end + 16).step_by(stride)).chain([bytes.len() - 1]);
        for at in places {
            let disk = disk.copy();
            disk.edit(&name, |bytes| bytes[at] ^= 1 << (at % 8));
            let starts = batches(&bytes);
            let newest = starts[starts.len() - 2];
            if is_idle(&bytes, at) || (number == 3 && at >= newest) {
                // The newest batch is the closing one, or there is none here.
                assert_eq!(journal.prefix(&disk).0.expect("a torn tail at most"), last, "{name} at {at}");
            } else {
                journal.refuses(&disk, &name, at as u64);
            }
        }
    }
}

/// Case A12: C2, C6: a damaged checkpoint is passed over, and told of; what a checkpoint covers is not read.
#[test]
fn a_flipped_byte_in_a_checkpoint_is_passed_over() {
    let journal = Journal::of_three_segments();
    let last = journal.states.len() as u64 - 1;
    let names: Vec<_> = journal.disk.names().into_iter().filter(|name| name.starts_with("checkpoints/")).collect();
    assert_eq!(names.len(), 2);
    let length = journal.disk.bytes(&names[1]).len();
    for at in 0..length {
        let disk = journal.disk.copy();
        disk.edit(&names[1], |bytes| bytes[at] ^= 1 << (at % 8));
        let (end, told) = journal.prefix(&disk);
        assert_eq!(end.expect("the one before serves"), last);
        assert!(
            matches!(&told[..], [Event::CheckpointDamaged { file, .. }] if *file == Path::new(&names[1])),
            "{told:?}"
        );
    }
    let disk = journal.disk.copy();
    for name in &names {
        disk.edit(name, |bytes| bytes.truncate(bytes.len() - 1));
    }
    let (end, told) = journal.prefix(&disk);
    assert_eq!((end.expect("the journal serves"), told.len()), (last, 2));
    // Both damaged, and the journal's beginning gone.
    let disk = disk.copy();
    disk.take(&segment::name(1));
    journal.refuses(&disk, &segment::name(2), segment::FIRST_AT);
    // What the checkpoint covers may be gone, or damaged.
    let disk = journal.disk.copy();
    disk.take(&segment::name(1));
    assert_eq!(journal.prefix(&disk).0.expect("covered"), last);
    let disk = journal.disk.copy();
    disk.edit(&segment::name(1), |bytes| bytes[4_200] ^= 1);
    assert_eq!(journal.prefix(&disk).0.expect("covered"), last);
}

/// Case A12: C2: so is one that cannot be read, and what only looks like one is none.
#[test]
fn an_unreadable_checkpoint_is_passed_over() {
    let journal = Journal::of_three_segments();
    let last = journal.states.len() as u64 - 1;
    for (number, sequence) in checkpoints::all(&*journal.disk.files()).expect("readable").into_iter().enumerate() {
        let disk = journal.disk.copy();
        disk.break_reads(Some(&checkpoints::name(sequence)));
        let (end, told) = journal.prefix(&disk);
        assert_eq!(end.expect("the other serves"), last);
        assert_eq!(told.len(), usize::from(number == 0), "{told:?}");
    }
    let disk = journal.disk.copy();
    disk.put("checkpoints/copy.checkpoint", b"");
    disk.break_reads(Some("checkpoints/copy.checkpoint"));
    assert_eq!(journal.prefix(&disk).0.expect("nobody reads it"), last);
}

/// Case A12: C2: a tail that is missing shows where a checkpoint is beyond it.
#[test]
fn a_checkpoint_beyond_the_end_is_refused() {
    let journal = Journal::of_three_segments();
    let disk = journal.disk.copy();
    disk.take(&segment::name(3));
    let newest = checkpoints::all(&*disk.files()).expect("readable")[0];
    journal.refuses(&disk, &checkpoints::name(newest), 16);
    let disk = journal.disk.copy();
    disk.names().iter().filter(|name| name.starts_with("journal/")).for_each(|name| disk.take(name));
    journal.refuses(&disk, &checkpoints::name(newest), 16);
}

/// Case A12: C2: segments that are missing, swapped, another ledger's, or of an earlier time.
#[test]
fn segments_that_do_not_belong_are_refused() {
    let journal = Journal::of_three_segments();
    let whole = journal.without_checkpoints();
    let names = [1, 2, 3].map(segment::name);
    let disk = whole.copy();
    disk.take(&names[1]);
    journal.refuses(&disk, &names[1], 0);
    let disk = whole.copy();
    disk.take(&names[0]);
    journal.refuses(&disk, &names[1], segment::FIRST_AT);
    let disk = whole.copy();
    let (one, two) = (disk.bytes(&names[0]), disk.bytes(&names[1]));
    disk.put(&names[0], &two);
    disk.put(&names[1], &one);
    journal.refuses(&disk, &names[0], segment::NUMBER_AT);
    let other = Journal::of_three_segments();
    for (number, name) in names.iter().enumerate() {
        let disk = whole.copy();
        disk.put(name, &other.disk.bytes(name));
        journal.refuses(&disk, &names[number.max(1)], segment::HEADER);
        // Neither where a checkpoint covers what is not read.
        let disk = journal.disk.copy();
        disk.put(name, &other.disk.bytes(name));
        let refused = journal.prefix(&disk).0.expect_err("another ledger's");
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
        assert_eq!(disk.changes(), 0);
    }
    for length in [0, 100, 4_096, 8_000] {
        let disk = whole.copy();
        disk.edit(&names[1], |bytes| bytes.truncate(length));
        journal.refuses(&disk, &names[1], length as u64);
    }
}

/// Case A12: C2: batches of an earlier time behind the tail are not taken for new ones.
#[test]
fn a_stale_batch_behind_the_tail_is_no_new_one() {
    let journal = Journal::of_three_segments();
    let whole = journal.without_checkpoints();
    let last = journal.states.len() as u64 - 1;
    let newest = segment::name(3);
    let tail = whole.bytes(&newest);
    let starts = batches(&tail);
    let end = starts[starts.len() - 1];
    // Of an older segment: its salt is another.
    let old = whole.bytes(&segment::name(2));
    let old_starts = batches(&old);
    for pair in old_starts.windows(2) {
        let disk = whole.copy();
        disk.edit(&newest, |bytes| bytes[end..end + pair[1] - pair[0]].copy_from_slice(&old[pair[0]..pair[1]]));
        assert_eq!(journal.prefix(&disk).0.expect("torn"), last);
    }
    // Of this one: it does not continue.
    for pair in starts.windows(2) {
        let disk = whole.copy();
        disk.edit(&newest, |bytes| bytes[end..end + pair[1] - pair[0]].copy_from_slice(&tail[pair[0]..pair[1]]));
        journal.refuses(&disk, &newest, end as u64 + batch::NUMBER_AT);
    }
}

/// C1, C3: what tore the tail off began in the padding of the batch before: that is zeros again, as `verify` wants it.
#[test]
fn the_padding_before_a_torn_tail_is_made_zero() {
    let journal = Journal::of_a_hundred();
    let name = segment::name(1);
    let bytes = journal.disk.bytes(&name);
    let starts = batches(&bytes);
    let padding = |pair: &[usize]| {
        let header = batch::Header::read(&bytes[pair[0]..]).expect("a batch");
        pair[0] + header.unpadded()..pair[1]
    };
    let padded =
        starts.windows(2).map(padding).rfind(|padding| !padding.is_empty()).expect("one of a hundred has some");
    let disk = journal.disk.copy();
    disk.edit(&name, |bytes| bytes[padded.start..].fill(0x5a));
    drop(reopen(&disk));
    assert_eq!(disk.bytes(&name)[padded.clone()], vec![0; padded.len()]);
}

/// Case A12, exactly: C1, C2, C3: whatever is torn off the newest segment, what is left is a prefix, and what comes
/// later survives.
#[test]
fn a_torn_tail_is_cut_and_written_over() {
    let journal = Journal::of_a_hundred();
    let name = segment::name(1);
    let bytes = journal.disk.bytes(&name);
    let starts = batches(&bytes);
    let (end, three) = (starts[starts.len() - 1], starts[starts.len() - 4]);
    let check = |change: &dyn Fn(&mut Vec<u8>), least: u64, what: &str| {
        let disk = journal.disk.copy();
        disk.edit(&name, change);
        let kept = journal.prefix(&disk.copy()).0.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(kept >= least, "{what}: {kept}");
        let mut known = Known::default();
        let ledger = reopen(&disk);
        known.check(&ledger, &Shown::default());
        assert_eq!(known.sequence, kept, "{what}");
        let durable = ledger.with_durability(Durability::OnDisk);
        let mut shown = Shown::default();
        for number in 0..10 {
            let create = common::create(&format!("later-{number}"), number);
            shown.outcome(&durable.submit(common::alone(create)).expect("decided"));
        }
        let killed = disk.after(End::PowerCut(1));
        drop((ledger, durable));
        known.check(&reopen(&killed), &shown);
    };
    let full = |length: usize| starts[1..].iter().filter(|end| **end <= length + 7).count() as u64;
    let stride = (199 / depth()).max(1) as usize;
    for length in (0..three).step_by(stride).chain((three..=end + 1).step_by((3 / depth()).max(1) as usize)).chain([
        4_095,
        4_096,
        bytes.len() - 1,
    ]) {
        check(&|bytes| bytes.truncate(length), full(length.saturating_sub(7)), &format!("cut to {length}"));
    }
    for at in (three..end).step_by((25 / depth()).max(1) as usize) {
        let least = full(at.saturating_sub(7));
        check(&|bytes| bytes[at..end].fill(0), least, &format!("zeros from {at}"));
        let random = |bytes: &mut Vec<u8>| {
            let random = &mut Random(at as u64);
            bytes[at..].iter_mut().take(end - at + 100).for_each(|byte| *byte = random.next() as u8);
        };
        check(&random, least, &format!("anything from {at}"));
    }
    check(&|bytes| bytes.fill(0), 0, "only zeros");
    check(&|bytes| bytes[4_096..].fill(0), 0, "only a header");
    check(&|bytes| bytes.push(7), 100, "one byte more");
    check(&|bytes| bytes.resize(4 << 20, 7), 100, "much more");
}

/// C2: a journal may not run back in time, though the clock does and the newest segment is empty.
#[test]
fn time_goes_on_from_the_checkpoint_where_the_newest_segment_is_empty() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1);
    let ledger = ledger.expect("opens");
    begin(&ledger);
    checkpoint(&ledger, &events, &disk, ledger.durable());
    let time = ledger.history(ledger.sequence(), 1).expect("readable")[0].time();
    assert!(roll(&ledger));
    let killed = disk.after(End::Killed);
    drop(ledger);
    let recovery = Recovery { install: &mut |_| Ok(()), progress: &mut |_| ControlFlow::Continue(()), tell: &|_| {} };
    let opened =
        crate::journal::disk::Disk::open(killed.files(), 1 << 20, recovery, Observer::new(|_| {}), |_, _| Ok(()));
    assert_eq!(opened.map(|(_, position, _)| position.time).expect("good"), time);
}

/// E7: numbers that cannot be are refused, not computed with.
#[test]
fn hostile_headers_and_names_are_refused() {
    let journal = Journal::of_three_segments();
    let whole = journal.without_checkpoints();
    let name = segment::name(3);
    let header = segment::Header::read(&whole.bytes(&name)).expect("good");
    for (batch, first, length) in [
        (u64::MAX, header.first, header.length),
        (header.batch, u64::MAX, header.length),
        (header.batch, 0, header.length),
        (header.batch, header.first, u64::MAX),
        (header.batch, header.first, header.length + 1),
    ] {
        let disk = whole.copy();
        let hostile = segment::Header { batch, first, length, ..header };
        disk.edit(&name, |bytes| bytes[..4_096].copy_from_slice(&hostile.bytes()));
        journal.refuses(&disk, &name, segment::HEADER);
    }
    let disk = whole.copy();
    for odd in ["18446744073709551615.segment", "018446744073709551615.segment", "00000000001.segment", "x", "spare"] {
        disk.put(&format!("journal/{odd}"), b"odd");
    }
    assert_eq!(journal.prefix(&disk).0.expect("not the journal's"), journal.states.len() as u64 - 1);
}

/// A checkpoint at sequence 9 of as many accounts as `count`, each changed at `sequence`.
fn written(disk: &Disk, count: i64, sequence: impl Fn(i64) -> u64) -> io::Result<String> {
    let files = disk.files();
    let moment = Moment { sequence: 9, time: 1, batch: 1, noted: Noted::default() };
    let mut writing = Writing::begin(&*files, &moment, [7; 16], 0)?;
    for number in 0..count {
        writing.push(&numbered(number), Balance { amount: number, version: 1 }, sequence(number))?;
    }
    writing.finish().map(|(header, _)| checkpoints::name(header.sequence))
}

/// Too long to lie in the account itself.
fn numbered(number: i64) -> AccountId {
    common::account(&format!("account-{number:040}"))
}

/// E6: a checkpoint of many blocks is loaded whole and in order, or not at all, whichever block is damaged or missing.
#[test]
fn a_checkpoint_of_many_blocks_is_loaded_whole_or_not_at_all() {
    let disk = Disk::new();
    let sequence = |number: i64| 1 + number.unsigned_abs() % 9;
    let name = written(&disk, 50_000, sequence).expect("written");
    let load = |disk: &Disk| load(&*disk.files().open(&name).expect("there")).expect("a thread");
    let accounts = Slab::over(load(&disk).unwrap_or_else(|what| panic!("{what}")).accounts);
    let guard = &pin();
    let found = accounts.iter().map(|account| (account.key().clone(), account.read(guard)));
    assert!(found.eq((0..50_000).map(|number| {
        let state = Balance { amount: number, version: 1 };
        (numbered(number), (sequence(number), state))
    })));
    let bytes = disk.bytes(&name);
    let mut at = 128;
    let mut blocks = 0;
    while let Some(length) = bytes.get(at..).and_then(|block| block.first_chunk()) {
        let damaged = disk.copy();
        damaged.edit(&name, |bytes| bytes[at + 100] ^= 1);
        let what = load(&damaged).err().expect("damaged");
        assert_eq!(what, format!("a wrong checksum in the block at offset {at}"));
        damaged.edit(&name, |bytes| bytes.truncate(at));
        assert!(load(&damaged).err().expect("cut").contains("not as its header says"));
        at += 8 + u32::from_le_bytes(*length) as usize;
        blocks += 1;
    }
    assert!(blocks > 8, "{blocks}");
}

/// C3, E7: a checkpoint is of nothing that came later, and of nothing that never came.
#[test]
fn a_checkpoint_of_impossible_changes_is_none() {
    assert!(written(&Disk::new(), 10, |_| 9).is_ok());
    for impossible in [0, 10, u64::MAX] {
        let refused = written(&Disk::new(), 10, |number| if number == 5 { impossible } else { 9 });
        let what = refused.expect_err("impossible").to_string();
        assert!(what.contains("an account of a sequence that cannot be in the block at offset 128"), "{what}");
    }
}
