//! The tables, as people and other versions meet them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::inventory::{Content, Store as _, StoreError};
use equipoise::postgres::{PgError, PgStore, Settings};

use crate::harness::{Database, Partition, SOON, TOPIC, account, create, event, letter, update};

/// D8: a person finds the products and the events in tables named after them.
#[tokio::test]
async fn the_tables_can_be_queried() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &[event("a", "sku", 5), event("b", "sku", -2)]).await.expect("applied");
    let product = "SELECT sku || ' ' || current_stock || ' ' || version || ' ' || last_event_id
        || ' ' || (updated_at > now() - interval '1 minute') FROM products";
    assert_eq!(database.one::<String>(product).await, "sku 3 3 b true");
    let events = "SELECT string_agg(event_id || ' ' || product_id, ', ' ORDER BY event_id)
        FROM processed_events WHERE processed_at > now() - interval '1 minute'";
    assert_eq!(database.one::<String>(events).await, "a sku, b sku");
    let offsets = "SELECT topic || ' ' || partition || ' ' || epoch || ' ' || next_offset FROM consumer_offsets";
    assert_eq!(database.one::<String>(offsets).await, "inventory-events 0 1 2");
    let journal = "SELECT string_agg(sequence || operation || amount || '=' || balance_after, ' ' ORDER BY sequence)
        FROM journal";
    assert_eq!(database.one::<String>(journal).await, "1create0=0 2update5=5 3update-2=3");
}

/// D8: a product that a person wrote or changed is taken as it is, whatever an instance remembers.
#[tokio::test]
async fn a_product_may_be_written_by_hand() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    database.run("INSERT INTO products (sku, current_stock) VALUES ('by hand', 100)").await;
    partition.apply(&store, &[event("a", "by hand", -1)]).await.expect("applied");
    database.run("UPDATE products SET current_stock = 7 WHERE sku = 'by hand'").await;
    let applied = partition.apply(&store, &[event("b", "by hand", -8), event("c", "by hand", -7)]).await;
    let applied = applied.expect("applied");
    assert_eq!((applied.applied, applied.rejected, applied.redecided), (1, 1, 1));
    database.run("DELETE FROM products").await;
    assert_eq!(store.balance(&account("by hand")).await.expect("readable"), None);
    partition.apply(&store, &[event("d", "by hand", 2)]).await.expect("applied");
    let state = store.balance(&account("by hand")).await.expect("readable").expect("open");
    assert_eq!((state.balance, state.version), (2, 2));
}

/// D8, A14: what a person writes can be read, or is refused; where a sku from before cannot be, it is named.
#[tokio::test]
async fn a_sku_that_nobody_could_read_is_refused() {
    let database = Database::new().await;
    let store = database.store().await;
    let client = database.client().await;
    let insert = "INSERT INTO products (sku, current_stock) VALUES ($1, 5)";
    client.execute(insert, &[&"a\u{a0}\u{2028}é😀 ~!"]).await.expect("no control characters");
    let controls = (1..0xa0).filter_map(char::from_u32).filter(|character| character.is_control());
    for control in controls {
        let refused = client.execute(insert, &[&format!("a{control}b")]).await.expect_err("a control character");
        assert_eq!(refused.code().expect("the server").code(), "23514", "{control:?}: {refused}");
    }
    let rename = client.batch_execute("UPDATE products SET sku = E'a\nb'").await.expect_err("a control character");
    assert_eq!(rename.code().expect("the server").code(), "23514");
    let page = async || store.list("").await.expect("a listing").page(0, 10).await;
    assert_eq!(page().await.expect("a page").len(), 1);
    let before = "ALTER TABLE products DISABLE TRIGGER USER; INSERT INTO products (sku) VALUES (E'b\nc')";
    database.run(before).await;
    let refused = page().await.expect_err("unreadable");
    assert!(
        matches!(&refused, PgError::Failed { what } if what.contains(r#"the row of "b\nc" in products"#)),
        "{refused}"
    );
}

/// D6, D8: a column that somebody added and that every row has to fill is told as what it is: no event is taken for a dead letter, no request for
/// a wrong one.
#[tokio::test]
async fn a_column_that_nobody_fills_is_nobodys_fault() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    database.run("ALTER TABLE products ADD warehouse text NOT NULL").await;
    let refused = store.submit(create("a", 1)).await.expect_err("it cannot be kept");
    assert!(matches!(&refused, PgError::Failed { what } if what.contains("warehouse")), "{refused}");
    let run = partition.run(&[event("e", "b", 1)]);
    let refused = store.apply(TOPIC, std::slice::from_ref(&run)).await.expect_err("it cannot be kept");
    assert!(matches!(&refused, StoreError::Held { partitions, .. } if partitions == &[0]), "{refused}");
    database.run("ALTER TABLE products ALTER warehouse SET DEFAULT 'main'").await;
    assert_eq!(partition.apply_run(&store, &run).await.expect("applied").applied, 1);
    assert!(store.dead_letters(1).await.expect("letters").is_empty());
}

/// D6: only what leaves such a column empty has to wait for a person, a call and a partition; the rest of its batch is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_column_that_some_leave_empty_holds_up_only_them() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("open", 0)).await.expect("opened");
    let [mut bad, mut good] = [Partition::take(&store, 0).await, Partition::take(&store, 1).await];
    let trigger = "ALTER TABLE products ADD warehouse text NOT NULL DEFAULT 'main';
        CREATE FUNCTION place() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN IF NEW.sku LIKE 'bad%' THEN NEW.warehouse := NULL; END IF; RETURN NEW; END$$;
        CREATE TRIGGER place BEFORE INSERT ON products FOR EACH ROW EXECUTE FUNCTION place()";
    database.run(trigger).await;
    let runs = [
        bad.run(&[event("b0", "open", 1), event("b1", "bad", 1), event("b2", "open", 1)]),
        good.run(&[event("g0", "open", 10), event("g1", "good", 1)]),
    ];
    let mut queued = Vec::new();
    for number in 0..10 {
        queued.push(store.enqueue(create(&format!("bad{number}"), 1)).await.expect("queued"));
        queued.push(store.enqueue(update(&format!("u{number}"), "open", 100)).await.expect("queued"));
    }
    match store.apply(TOPIC, &runs).await {
        Err(StoreError::Held { partitions, applied }) => assert_eq!((partitions, applied.applied), (vec![0], 2)),
        other => panic!("{other:?}"),
    }
    for pair in queued.chunks_mut(2) {
        let refused = pair[0].outcome().await.expect_err("it cannot be kept");
        assert!(matches!(&refused, PgError::Failed { what } if what.contains("warehouse")), "{refused}");
        pair[1].outcome().await.expect("decided").result().expect("applied");
    }
    let stock = "SELECT current_stock FROM products WHERE sku = 'open'";
    assert_eq!(database.one::<i64>(stock).await, 1_010, "nothing of the run that waits");
    good.0.next = Some(2);
    good.apply(&store, &[event("g2", "open", 1)]).await.expect("applied");
    database.run("DROP TRIGGER place ON products").await;
    assert_eq!(bad.apply_run(&store, &runs[0]).await.expect("applied").applied, 3);
    assert_eq!(database.one::<i64>(stock).await, 1_013);
    assert!(store.dead_letters(1).await.expect("letters").is_empty());
    database.check().await;
}

/// D6: a dead letter or an offset that cannot be kept, since a column was left empty, holds up its partition alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_column_that_a_partition_leaves_empty_holds_up_only_that() {
    let letters = "ALTER TABLE dead_letters ADD team text NOT NULL";
    let offsets = "ALTER TABLE consumer_offsets ADD team text NOT NULL DEFAULT 'a';
        CREATE FUNCTION team() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN IF NEW.partition = 0 THEN NEW.team := NULL; END IF; RETURN NEW; END$$;
        CREATE TRIGGER team BEFORE UPDATE ON consumer_offsets FOR EACH ROW EXECUTE FUNCTION team()";
    let cases = [
        (letters, "ALTER TABLE dead_letters ALTER team SET DEFAULT 'a'"),
        (offsets, "DROP TRIGGER team ON consumer_offsets"),
    ];
    for (broken, mended) in cases {
        let database = Database::new().await;
        let store = database.store().await;
        store.submit(create("open", 0)).await.expect("opened");
        let [mut bad, mut good] = [Partition::take(&store, 0).await, Partition::take(&store, 1).await];
        database.run(broken).await;
        let original = Arc::new(letter(0, 0, "malformed"));
        let first = Content::Event { event: event("b", "open", 1), original: original.clone() };
        let runs = [bad.run_of(vec![first, Content::Malformed(original)]), good.run(&[event("g", "open", 10)])];
        let mut queued = store.enqueue(update("u", "open", 100)).await.expect("queued");
        match store.apply(TOPIC, &runs).await {
            Err(StoreError::Held { partitions, applied }) => assert_eq!((partitions, applied.applied), (vec![0], 1)),
            other => panic!("{broken}: {other:?}"),
        }
        queued.outcome().await.expect("decided").result().expect("applied");
        let stock = "SELECT current_stock FROM products WHERE sku = 'open'";
        assert_eq!(database.one::<i64>(stock).await, 110, "nothing of the run that waits");
        good.0.next = Some(1);
        good.apply(&store, &[event("g2", "open", 10)]).await.expect("applied");
        database.run(mended).await;
        let applied = bad.apply_run(&store, &runs[0]).await.expect("applied");
        assert_eq!((applied.applied, applied.dead_letters), (1, 1));
        assert_eq!(store.dead_letters(2).await.expect("letters").len(), 1);
        database.check().await;
    }
}

/// D6: where the rows of new partitions cannot be kept, it is said why, and those that were taken over go on.
#[tokio::test]
async fn a_column_of_the_offsets_that_nobody_fills_is_told() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    database.run("ALTER TABLE consumer_offsets ADD team text NOT NULL DEFAULT 'a'").await;
    database.run("ALTER TABLE consumer_offsets ALTER team DROP DEFAULT").await;
    partition.apply(&store, &[event("a", "sku", 1)]).await.expect("applied");
    let refused = store.take_over(TOPIC, &[1]).await.expect_err("it cannot be kept");
    let named = ["column team", "table consumer_offsets"];
    assert!(matches!(&refused, StoreError::Failed { what } if named.iter().all(|it| what.contains(it))), "{refused}");
    partition.apply(&store, &[event("b", "sku", 1)]).await.expect("applied");
}

/// C2: nobody changes the journal in place.
#[tokio::test]
async fn the_journal_is_append_only() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 1)).await.expect("opened");
    let client = database.client().await;
    for change in ["DELETE FROM journal_entries", "UPDATE journal_entries SET amount = 2", "TRUNCATE journal_entries"] {
        let refused = client.batch_execute(change).await.expect_err("append-only");
        assert!(refused.as_db_error().expect("the server").message().contains("append-only"));
    }
}

/// D8: instances that start together bring the schema up once; a newer schema is refused and not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_schema_is_brought_up_once() {
    let database = Database::new().await;
    let starting: Vec<_> = (0..6)
        .map(|_| {
            let settings = Settings::new(&database.url);
            tokio::spawn(async move { PgStore::connect(&settings).await.map(drop) })
        })
        .collect();
    for started in starting {
        started.await.expect("no panic").expect("a store");
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM equipoise_schema").await, 9);
    database.run("INSERT INTO equipoise_schema (version) VALUES (1000)").await;
    let refused = PgStore::connect(&Settings::new(&database.url)).await.expect_err("newer");
    assert_eq!(refused, PgError::SchemaTooNew { found: 1000, known: 9 });
}

/// D8: a role that may use the tables, and not change the schema, can be an instance's; where that is not enough it is said for what.
#[tokio::test]
async fn a_role_needs_no_right_to_create() {
    let database = Database::new().await;
    drop(database.store().await);
    let role = database.url.rsplit('/').next().expect("a name").replace("test", "role");
    let grants = format!(
        "CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
        REVOKE UPDATE, DELETE ON journal_entries, commits, former_ids FROM {role};
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    database.run(&grants).await;
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let store = PgStore::connect(&Settings::new(&url)).await.expect("a store");
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &[event("a", "sku", 5)]).await.expect("applied");
    assert_eq!(store.balance(&account("sku")).await.expect("read").expect("open").balance, 5);
    store.close().await;

    let known = database.one::<i64>("SELECT max(version) FROM equipoise_schema").await;
    database.run(&format!("DELETE FROM equipoise_schema WHERE version = {known}")).await;
    let refused = PgStore::connect(&Settings::new(&url)).await.expect_err("it may not");
    database.run("REVOKE SELECT ON equipoise_schema FROM PUBLIC").await;
    database.run(&format!("REVOKE ALL ON equipoise_schema FROM {role}")).await;
    let hidden = PgStore::connect(&Settings::new(&url)).await.expect_err("it may not");
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    let step = format!("from version {} to {known}, at migration {known}", known - 1);
    let said = format!("the role {role} may not bring the schema public {step}: ");
    assert!(matches!(&refused, PgError::Failed { what } if what.starts_with(&said)), "{refused}");
    let said = format!("the role {role} may not read the version of the schema public: ");
    assert!(matches!(&hidden, PgError::Failed { what } if what.starts_with(&said)), "{hidden}");
}

/// A3, D8: a role that is subject to row security is refused, and not told that the rows are not there; nor is it said to be ready.
#[tokio::test]
async fn hidden_rows_are_not_taken_for_none() {
    let database = Database::new().await;
    let owner = database.store().await;
    owner.submit(create("sku", 1)).await.expect("opened");
    let role = database.url.rsplit('/').next().expect("a name").replace("test", "role");
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    database.run(&grants).await;
    let settings = Settings::new(database.url.replace("postgres@", &format!("{role}@")));
    let store = PgStore::connect(&settings).await.expect("a store");
    database.run("ALTER TABLE products ENABLE ROW LEVEL SECURITY").await;
    let balance = store.balance(&account("sku")).await;
    let listing = store.list("").await.map(|listing| listing.sequence());
    let created = store.submit(create("sku", 1)).await;
    let until = Instant::now() + SOON;
    while store.unavailable().is_none() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let unavailable = store.unavailable().unwrap_or_default();
    let balance_then = store.balance(&account("sku")).await;
    database.run("CREATE POLICY all_of_them ON products USING (true)").await;
    let anew = PgStore::connect(&settings).await.map(drop);
    store.close().await;
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    let [balance, balance_then] = [balance, balance_then].map(|balance| balance.expect_err("hidden").to_string());
    let [listing, anew] = [listing.map(drop), anew].map(|done| done.expect_err("hidden").to_string());
    for refused in [balance, balance_then, listing, anew, unavailable] {
        assert!(refused.contains("row-level security policy"), "{refused}");
    }
    assert!(matches!(&created, Err(PgError::Failed { .. })), "{created:?}");
    assert_eq!(owner.balance(&account("sku")).await.expect("read").expect("open").balance, 1);
}

/// D2, D3: a schema that is made later, and comes first in the search path, is no second ledger; another search path is.
#[tokio::test]
async fn a_schema_in_front_is_no_second_ledger() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 1)).await.expect("opened");
    store.submit(update("u", "sku", 1)).await.expect("decided");
    database.run("CREATE SCHEMA AUTHORIZATION current_user").await;
    let other = database.store().await;
    assert!(other.submit(update("u", "sku", 1)).await.expect("decided").replayed(), "it is the same ledger");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'products'").await, 1);
    database.run("CREATE SCHEMA \"Ours\"").await;
    let apart = format!("{}?options=-c%20search_path%3D%22Ours%22", database.url);
    let apart = PgStore::connect(&Settings::new(apart)).await.expect("a store");
    assert!(!apart.submit(update("u", "sku", 1)).await.expect("decided").replayed(), "it is another one");
    assert_eq!(store.balance(&account("sku")).await.expect("read").expect("open").balance, 2);
}

/// A14: a database that cannot hold every id is refused at the start, not in the middle of a batch.
#[tokio::test]
async fn the_encoding_must_be_utf8() {
    let database = Database::new().await;
    let client = database.client().await;
    let name = format!("{}_latin1", database.url.rsplit('/').next().expect("a name"));
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    client.batch_execute(&create).await.expect("a database");
    let refused = PgStore::connect(&Settings::new(format!("{}_latin1", database.url))).await.expect_err("LATIN1");
    client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("dropped");
    assert!(matches!(refused, PgError::Settings { .. }), "{refused}");
}

/// D6: a database that is not up is waited for only when the caller says so.
#[tokio::test]
async fn connecting_waits_when_told_to() {
    // Nobody else gets the port, and nobody listens on it.
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let url = format!("postgresql://postgres@{}/postgres", bound.local_addr().expect("an address"));
    let refused = PgStore::connect(&Settings::new(&url)).await.expect_err("nobody there");
    assert!(matches!(refused, PgError::Unavailable { .. }), "{refused}");
    let mut settings = Settings::new(&url);
    settings.wait_for_start = std::time::Duration::from_millis(700);
    let started = std::time::Instant::now();
    PgStore::connect(&settings).await.expect_err("nobody there");
    assert!(started.elapsed() >= settings.wait_for_start);
    let wrong = PgStore::connect(&Settings::new("nonsense")).await.expect_err("no URL");
    assert!(matches!(wrong, PgError::Settings { .. }), "{wrong}");
}

/// D8: text is compared by its bytes, whatever the database's language.
#[tokio::test]
async fn ids_are_compared_by_bytes() {
    let database = Database::new().await;
    let store = database.store().await;
    for product in ["b", "B", "a\u{301}", "\u{e1}", "a", "Z", "a-", "\u{1f600}"] {
        store.submit(create(product, 1)).await.expect("opened").result().expect("a new one");
    }
    store.submit(update("\u{e1}", "a", 1)).await.expect("decided");
    let other = store.submit(update("a\u{301}", "a", 1)).await.expect("decided");
    assert!(!other.replayed());
    let listing = store.list("").await.expect("a listing");
    let mut ids = Vec::new();
    while let page = listing.page(ids.len() as u64, 3).await.expect("a page")
        && !page.is_empty()
    {
        ids.extend(page.into_iter().map(|state| state.id));
    }
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!((ids.len(), &ids), (8, &sorted));
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &[event("e", "\u{1f600}", 1)]).await.expect("applied");
    assert!(store.dead_letters(1).await.expect("letters").is_empty());
}
