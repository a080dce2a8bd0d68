//! What an instance's role may do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::inventory::{Content, DeadLetter, Store as _};
use equipoise::postgres::{PgError, PgStore, Settings};

use crate::harness::{Database, Partition, SOON, account, create, event, id, letter, update};

/// Every privilege that an instance needs where the schema is up to date.
const NEEDED: [(&str, &str); 17] = [
    ("SELECT, INSERT, UPDATE", "products"),
    ("SELECT, INSERT, DELETE", "processed_events"),
    ("SELECT, INSERT", "commits"),
    ("SELECT, UPDATE", "ledger_sequence"),
    ("SELECT, INSERT", "journal_entries"),
    ("SELECT", "journal"),
    ("SELECT, INSERT, UPDATE", "consumer_offsets"),
    ("SELECT, INSERT, DELETE", "dead_letters"),
    ("INSERT", "displaced_dead_letters"),
    ("SELECT, INSERT, UPDATE", "dead_letter_publisher"),
    ("SELECT, UPDATE", "pruned_ids"),
    ("SELECT, INSERT", "former_ids"),
    ("SELECT", "equipoise_schema"),
    ("USAGE", "SEQUENCE ledger_batches"),
    ("USAGE", "SEQUENCE dead_letters_number_seq"),
    ("EXECUTE", "FUNCTION expect_rows(bigint,bigint)"),
    ("EXECUTE", "FUNCTION in_dispute(boolean,text[])"),
];

/// A role of the test's own, and the settings of its instances.
fn role(database: &Database) -> (String, Settings) {
    let role = database.url.rsplit('/').next().expect("a name").replace("test", "role");
    let url = database.url.replace("postgres@", &format!("{role}@"));
    (role, Settings::new(url))
}

/// Waits until what the store says about itself is as wanted.
async fn until(store: &PgStore, wanted: impl Fn(Option<&str>) -> bool) {
    let until = Instant::now() + SOON;
    while !wanted(store.unavailable().as_deref()) {
        assert!(Instant::now() < until, "{:?}", store.unavailable());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A11, D6, D8: an instance whose role lacks a privilege says so, and is not ready; it is again once the privilege is granted. An owner can lose
/// one, too.
#[tokio::test]
async fn a_privilege_that_was_revoked_is_told_until_it_is_granted() {
    let database = Database::new().await;
    let (role, settings) = role(&database);
    database.run(&format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")).await;
    let store = PgStore::connect(&settings).await.expect("an owner's store");
    store.submit(create("sku", 1)).await.expect("opened");
    let mut told = Vec::new();
    for (privilege, table) in [("UPDATE", "products"), ("INSERT", "processed_events"), ("SELECT", "products")] {
        database.run(&format!("REVOKE {privilege} ON {table} FROM {role}")).await;
        let lacks = format!("its role {role} lacks the privilege {privilege} on {table}");
        until(&store, |why| why.is_some_and(|why| why.contains(&lacks))).await;
        let refused = store.submit(update(&lacks, "sku", 1)).await.expect_err("it cannot be kept");
        assert!(matches!(&refused, PgError::Failed { what } if *what == lacks), "{refused}");
        told.push(store.balance(&account("sku")).await.map_err(|error| error.to_string().contains(&lacks)));
        database.run(&format!("GRANT {privilege} ON {table} TO {role}")).await;
        until(&store, |why| why.is_none()).await;
        store.submit(update(&lacks, "sku", 1)).await.expect("decided").result().expect("applied");
    }
    let balance = store.balance(&account("sku")).await.expect("read").expect("open").balance;
    store.close().await;
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    assert_eq!(balance, 4);
    assert!(matches!(told[..], [Ok(Some(_)), Ok(Some(_)), Err(true)]), "what may be read is: {told:?}");
}

/// D8: what is asked of a role is what the statements need: with that they all work, and with anything less an instance does not begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_needs_what_the_statements_need() {
    let database = Database::new().await;
    drop(database.store().await);
    let (role, mut settings) = role(&database);
    let grants = NEEDED.map(|(privileges, on)| format!("GRANT {privileges} ON {on} TO {role};")).concat();
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC; {grants}"
        ))
        .await;
    settings.id_window = Duration::ZERO;
    let done = use_all(&database, &settings).await;
    let mut begun = Vec::new();
    for (privileges, on) in NEEDED {
        for privilege in privileges.split(", ") {
            database.run(&format!("REVOKE {privilege} ON {on} FROM {role}")).await;
            let refused = PgStore::connect(&settings).await.err().map(|error| error.to_string());
            let name = on.rsplit(' ').next().unwrap_or_default();
            let lacks = match name {
                "equipoise_schema" => format!("the role {role} may not read the version of the schema"),
                _ => format!("its role {role} lacks the privilege {privilege} on {name}"),
            };
            if !refused.as_ref().is_some_and(|refused| refused.contains(&lacks)) {
                begun.push((privilege, on, refused));
            }
            database.run(&format!("GRANT {privilege} ON {on} TO {role}")).await;
        }
    }
    // Those of single columns are enough, too.
    let columns = "current_stock, version, updated_at, last_event_id, batch, place";
    database
        .run(&format!("REVOKE UPDATE ON products FROM {role}; GRANT UPDATE ({columns}) ON products TO {role}"))
        .await;
    let by_columns = async {
        let store = PgStore::connect(&settings).await?;
        let changed = store.submit(update("by columns", "a", 1)).await;
        store.close().await;
        changed
    };
    let by_columns = by_columns.await;
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    assert_eq!(done, Ok(()));
    assert!(begun.is_empty(), "{begun:?}");
    by_columns.expect("decided").result().expect("applied");
}

/// Has every statement run, but those about the fate of a commit.
async fn use_all(database: &Database, settings: &Settings) -> Result<(), String> {
    let failed = |error: PgError| error.to_string();
    let store = PgStore::connect(settings).await.map_err(failed)?;
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &[event("e", "a", 5), event("f", "b", 5)]).await.map_err(|error| error.to_string())?;
    store.submit(update("u", "a", -9)).await.map_err(failed)?;
    store.submit(update("u", "a", -9)).await.map_err(failed)?;
    store.transaction(&id("u")).await.map_err(failed)?.ok_or("a transaction that is not there")?;
    store.history(0, 10).await.map_err(failed)?;
    store.list("").await.map_err(failed)?.page(0, 10).await.map_err(failed)?;
    for time in [1, 2] {
        let letter = DeadLetter { timestamp: Some(time), ..letter(0, 0, "") };
        let run = partition.run_of(vec![Content::Malformed(Arc::new(letter))]);
        partition.apply_run(&store, &run).await.map_err(|error| error.to_string())?;
        partition.0.next = Some(2);
        database.run("UPDATE consumer_offsets SET next_offset = 2").await;
    }
    let letters = store.dead_letters(10).await.map_err(|error| error.to_string())?;
    let numbers: Vec<_> = letters.iter().map(|stored| stored.number).collect();
    store.published(&numbers).await.map_err(|error| error.to_string())?;
    if numbers.len() != 2 {
        return Err(format!("the letters {letters:?}"));
    }
    let locker = database.client().await;
    locker.batch_execute("BEGIN; SELECT FROM products WHERE sku = 'a' FOR UPDATE").await.expect("locked");
    let locked = store.submit(update("v", "a", 1)).await.expect_err("locked").to_string();
    locker.batch_execute("ROLLBACK").await.expect("unlocked");
    if !locked.contains("locked the row of a") {
        return Err(locked);
    }
    let until = Instant::now() + SOON;
    while store.metrics().pruned_ids.get() == 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await;
    match (store.metrics().pruned_ids.get(), store.metrics().prune_failures.get(), store.unavailable()) {
        (1.., 0, _) => Ok(()),
        unpruned => Err(format!("ids are not forgotten: {unpruned:?}")),
    }
}
