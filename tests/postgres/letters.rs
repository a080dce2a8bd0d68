//! Dead letters of topics that were deleted and made again under the same name.

use std::sync::Arc;

use equipoise::inventory::{Applied, Content, DeadLetter, Run, Store as _};
use equipoise::postgres::PgStore;

use crate::harness::{Database, Partition, letter};

/// The schema before letters of another topic of the same name were told apart.
const BEFORE: [&str; 3] = [
    include_str!("../../src/postgres/migrations/0001_ledger.sql"),
    include_str!("../../src/postgres/migrations/0002_expectations.sql"),
    include_str!("../../src/postgres/migrations/0003_pruned_ids.sql"),
];

/// What a version of that time sends.
const INSERT_BEFORE: &str = "INSERT INTO dead_letters
        (topic, partition, kafka_offset, record_time, key, value, header_names, header_values, reason)
    VALUES ('inventory-events', 0, $1, $2, NULL, NULL, '{}', '{}', 'old')
    ON CONFLICT (topic, partition, kafka_offset) DO NOTHING";

fn written_at(time: i64) -> DeadLetter {
    DeadLetter { timestamp: Some(time), ..letter(0, 0, &format!("written at {time}")) }
}

/// Consumes the partition from its beginning, where there is this record alone.
async fn consume(store: &PgStore, partition: &mut Partition, letter: &DeadLetter) {
    if partition.0.next.is_some() {
        let back = Run { next: 0, fingerprint: 0, ..partition.run(&[]) };
        partition.apply_run(store, &back).await.expect("it goes back");
    }
    let run = partition.run_of(vec![Content::Malformed(Arc::new(letter.clone()))]);
    let applied = partition.apply_run(store, &run).await.expect("applied");
    assert_eq!(applied, Applied { dead_letters: 1, ..Applied::default() });
}

async fn waiting(store: &PgStore) -> Vec<Option<i64>> {
    store.dead_letters(10).await.expect("letters").iter().map(|stored| stored.letter.timestamp).collect()
}

/// D6: a letter of one topic keeps none of another, each is published once, and the same record consumed again is the same letter.
#[tokio::test]
async fn letters_of_topics_of_one_name_are_all_kept() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    for time in [1, 2, 2, 3] {
        consume(&store, &mut partition, &written_at(time)).await;
    }
    let letters = store.dead_letters(10).await.expect("letters");
    assert_eq!(letters.iter().map(|stored| &stored.letter).collect::<Vec<_>>(), [1, 2, 3].map(written_at).each_ref());
    store.published(&[letters[0].number]).await.expect("forgotten");
    assert_eq!(waiting(&store).await, [Some(2), Some(3)]);
    consume(&store, &mut partition, &written_at(4)).await;
    store.published(&[letters[1].number, letters[2].number]).await.expect("forgotten");
    assert_eq!(waiting(&store).await, [Some(4)]);
    consume(&store, &mut partition, &written_at(5)).await;
    let numbers: Vec<_> = store.dead_letters(10).await.expect("letters").iter().map(|stored| stored.number).collect();
    store.published(&numbers).await.expect("forgotten");
    assert!(waiting(&store).await.is_empty());
    database.check().await;
}

/// D8: a database with letters in it is brought up, and who wrote it before writes on meanwhile.
#[tokio::test]
async fn letters_from_before_are_kept() {
    let database = Database::new().await;
    database
        .run("CREATE TABLE equipoise_schema (version bigint PRIMARY KEY, applied_at timestamptz DEFAULT now())")
        .await;
    for (version, migration) in (1..).zip(BEFORE) {
        database.run(migration).await;
        database.run(&format!("INSERT INTO equipoise_schema (version) VALUES ({version})")).await;
    }
    let old = database.client().await;
    let insert = old.prepare(INSERT_BEFORE).await.expect("prepared");
    old.execute(&insert, &[&0_i64, &1_i64]).await.expect("inserted");

    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    consume(&store, &mut partition, &written_at(2)).await;
    assert_eq!(waiting(&store).await, [Some(1), Some(2)]);
    for time in [3_i64, 4, 4] {
        old.execute(&insert, &[&0_i64, &time]).await.expect("inserted");
    }
    assert_eq!(waiting(&store).await, [1, 2, 3, 4].map(Some));
}

/// D6, case A16: of two instances one at a time has the letters to publish; the other gets what that one leaves, or all when it is gone.
#[tokio::test]
async fn one_instance_at_a_time_publishes() {
    let database = Database::new().await;
    let (store, other) = (database.store().await, database.store().await);
    let mut partition = Partition::take(&store, 0).await;
    let contents = (0..3).map(|time| Content::Malformed(Arc::new(written_at(time)))).collect();
    let run = partition.run_of(contents);
    partition.apply_run(&store, &run).await.expect("applied");
    let letters = store.dead_letters(2).await.expect("letters");
    assert_eq!(letters.len(), 2);
    assert_eq!(waiting(&other).await, []);
    assert_eq!(waiting(&store).await.len(), 3, "its own still");
    store.published(&[letters[0].number]).await.expect("forgotten");
    assert_eq!(waiting(&other).await, [Some(1), Some(2)]);
    assert_eq!(waiting(&store).await, []);
    // It is suspended, or its machine is gone.
    database.run("UPDATE dead_letter_publisher SET until = until - interval '1 minute'").await;
    assert_eq!(waiting(&store).await, [Some(1), Some(2)]);
    // The clock was put back.
    database.run("UPDATE dead_letter_publisher SET until = until + interval '1 day'").await;
    assert_eq!(waiting(&other).await, [Some(1), Some(2)]);
    other.published(&[letters[1].number]).await.expect("forgotten");
    database.run("DELETE FROM dead_letter_publisher").await;
    assert_eq!(waiting(&store).await, [Some(2)]);
}

/// D6: a letter that has the number of one that was published, since the database was put back, is another one and stays.
#[tokio::test]
async fn a_letter_with_the_number_of_another_is_kept() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    consume(&store, &mut partition, &written_at(1)).await;
    let lent = store.dead_letters(10).await.expect("letters");
    database.run("UPDATE dead_letters SET kafka_offset = 7, record_time = 2").await;
    store.published(&[lent[0].number]).await.expect("forgotten");
    assert_eq!(waiting(&store).await, [Some(2)]);
    store.published(&[lent[0].number]).await.expect("forgotten");
    assert!(waiting(&store).await.is_empty());
}

/// D6: a letter that somebody made unreadable, as no array of names may have a null, keeps no other from being published, however many there are
/// of them; it is named.
#[tokio::test]
async fn a_letter_that_cannot_be_read_holds_up_no_other() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    let contents = (0..5).map(|time| Content::Malformed(Arc::new(written_at(time)))).collect();
    let run = partition.run_of(contents);
    partition.apply_run(&store, &run).await.expect("applied");
    let nulls = "UPDATE dead_letters SET header_names = '{NULL,b}' WHERE kafka_offset IN (0, 1, 3)";
    database.run(nulls).await;
    let first: i64 = database.one("SELECT min(number) FROM dead_letters").await;
    for time in [2, 4] {
        let letters = store.dead_letters(1).await.expect("letters");
        assert_eq!(letters.iter().map(|stored| stored.letter.timestamp).collect::<Vec<_>>(), [Some(time)]);
        store.published(&[letters[0].number]).await.expect("forgotten");
    }
    let refused = store.dead_letters(2).await.expect_err("none can be read").to_string();
    assert!(refused.contains(&format!("the header_names of the letter {first} in dead_letters")), "{refused}");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM dead_letters").await, 3);
    database.run("UPDATE dead_letters SET header_names = header_names[2:], header_values = header_values[2:]").await;
    assert_eq!(waiting(&store).await, [Some(0), Some(1), Some(3)]);
}
