//! The id index against the journal.

use fjall::{Database, KeyspaceCreateOptions};

use crate::writer::{Entry, LEDGER, Writer, check, create, sample, update};

/// Fills `ids/` beside the journal of `writer`.
fn index(writer: &Writer, published: u64, ids: &[(&str, u64, u64, u32)]) {
    let database = Database::builder(writer.directory.join("ids")).open().expect("a database");
    let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).expect("a keyspace");
    let (table, meta) = (keyspace("ids"), keyspace("meta"));
    for (id, sequence, time, member) in ids {
        let value = [&sequence.to_le_bytes()[..], &time.to_le_bytes(), &member.to_le_bytes()].concat();
        table.insert(*id, value).expect("inserted");
    }
    let value = [&published.to_le_bytes()[..], &LEDGER, &(ids.len() as u64).to_le_bytes()].concat();
    meta.insert("published", value).expect("inserted");
}

/// Three entries: x and y in the first, none in the second, z in the third.
fn ledger(name: &str) -> (Writer, u64) {
    let mut writer = Writer::new(&format!("index-{name}"));
    let begin = writer.time;
    let chain = [create("x", "a", 1, (1, 1)), update("y", "a", 1, (2, 2))];
    writer.batch(&[Entry::of(&chain), Entry::of(&[update("", "a", 1, (3, 3))])]);
    writer.batch(&[Entry::of(&[update("z", "a", 1, (4, 4))])]);
    writer.write();
    (writer, begin)
}

/// C4: every id of every entry is where the index says.
#[test]
fn an_index_with_every_id() {
    let (writer, begin) = ledger("every");
    index(&writer, 3, &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    let report = check(&writer.directory).expect("nothing is wrong");
    assert_eq!((report.indexed_ids, report.notes.len()), (Some(3), 0), "{report:?}");
}

/// What is not published yet may be there or not.
#[test]
fn an_index_that_is_behind() {
    let (writer, begin) = ledger("behind");
    index(&writer, 2, &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1)]);
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(2));
}

#[test]
fn an_index_that_is_wrong() {
    let wrong = |name: &str, published, ids: &dyn Fn(u64) -> Vec<(&'static str, u64, u64, u32)>| {
        let (writer, begin) = ledger(name);
        index(&writer, published, &ids(begin));
        check(&writer.directory).expect_err("something is wrong").to_string()
    };
    let error = wrong("missing", 3, &|begin| vec![("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1)]);
    assert!(error.contains("(batch 2, sequence 3): id z is missing in the id index"), "{error}");
    let error = wrong("member", 3, &|begin| vec![("x", 1, begin + 1, 0), ("y", 1, begin + 1, 0)]);
    assert!(error.contains("the id index has id y at sequence 1"), "{error}");
    let error = wrong("time", 3, &|begin| vec![("x", 1, begin, 0)]);
    assert!(error.contains("the id index has id x at sequence 1"), "{error}");
    let error =
        wrong("later", 3, &|begin| vec![("x", 3, begin + 3, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    assert!(error.contains("id x is said to be used by sequence 3, which does not"), "{error}");
    let error = wrong("beyond", 4, &|_| Vec::new());
    assert!(error.ends_with("ids: published up to sequence 4; the journal ends at 3"), "{error}");
}

/// B4: an id may be used again after the window; the index has the last use.
#[test]
fn an_id_used_again_after_the_window() {
    let mut writer = Writer::new("index-again");
    let later = writer.time + 48 * 60 * 60 * 1_000_000_000;
    writer.batch(&[Entry::of(&[create("x", "a", 1, (1, 1))])]);
    writer.batch(&[Entry::of(&[update("x", "a", 1, (2, 2))]).at(later)]);
    writer.write();
    index(&writer, 2, &[("x", 2, later, 0)]);
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(1));
}

/// It is derived data: one that cannot be opened is noted, and another ledger's is an error.
#[test]
fn an_index_that_cannot_be_opened() {
    let writer = sample("index-odd");
    let directory = writer.write();
    std::fs::create_dir(directory.join("ids")).expect("a folder");
    std::fs::write(directory.join("ids/version"), "nothing of fjall's").expect("a file");
    let report = check(directory).expect("nothing is wrong");
    assert!(report.notes[0].contains("the id index was not checked: it cannot be opened: "), "{report:?}");
    std::fs::remove_dir_all(directory.join("ids")).expect("removed");
    index(&writer, 0, &[]);
    let database = Database::builder(directory.join("ids")).open().expect("a database");
    let meta = database.keyspace("meta", KeyspaceCreateOptions::default).expect("a keyspace");
    meta.insert("published", [0; 32]).expect("inserted");
    drop((meta, database));
    let error = check(directory).expect_err("another ledger's").to_string();
    assert!(
        error.contains("the id index is of ledger 00000000000000000000000000000000, the journal of 7468"),
        "{error}"
    );
}
