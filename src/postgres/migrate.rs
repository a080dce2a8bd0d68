//! Brings the database's schema up to what this program knows.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::error::PgError;
use super::link::{Link, column, fault, text};

/// In their order; the first is version 1. One that was released is never changed.
const MIGRATIONS: [&str; 9] = [
    include_str!("migrations/0001_ledger.sql"),
    include_str!("migrations/0002_expectations.sql"),
    include_str!("migrations/0003_pruned_ids.sql"),
    include_str!("migrations/0004_displaced_letters.sql"),
    include_str!("migrations/0005_former_ids.sql"),
    include_str!("migrations/0006_publisher.sql"),
    include_str!("migrations/0007_skus.sql"),
    include_str!("migrations/0008_in_dispute.sql"),
    include_str!("migrations/0009_newest_sequence.sql"),
];

/// The version that this program knows, and needs.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The advisory lock with which only one instance migrates at a time. "equipois" in ASCII.
const LOCK: i64 = 0x6571_7569_706f_6973;

/// The versions that a schema has.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS equipoise_schema (
    version bigint PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";

/// How long a step waits for a table: everybody who uses the table waits behind it, older instances among them.
const LOCKED: Duration = Duration::from_millis(200);

/// When to try a step again that did not get its table.
const AGAIN: Duration = Duration::from_secs(2);

/// The schema in the search path that has the tables, or else the one in which new tables are made. Quoted.
const SCHEMA: &str = "SELECT quote_ident(coalesce(
        (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = to_regclass('equipoise_schema')),
        current_schema()))";

/// Brings the tables up to date, and returns the schema that has them. Missing tables are made only if `begun` is true:
/// while a dump is restored in place they are gone for a moment.
///
/// From then on that schema is named: one that is made later, and comes earlier in the search path, would be a second
/// ledger.
pub(super) async fn migrate(link: &Link, begun: bool) -> Result<String, PgError> {
    let client = &link.client;
    let failed = |error: Error| PgError::from(fault(&error));
    let encoding = client.query_one("SHOW server_encoding", &[]).await.map_err(failed)?;
    let encoding: &str = column(&encoding, 0)?;
    if encoding != "UTF8" {
        return Err(PgError::Settings { what: format!("the database's encoding is {encoding}, it must be UTF8") });
    }
    // An instance that came first may hold the lock for longer than a statement may take.
    client.batch_execute("SET statement_timeout = 0; SET lock_timeout = 0").await.map_err(failed)?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(failed)?;
    let done = in_its_schema(client, begun).await;
    let unlocked = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await.map_err(failed);
    let schema = done?;
    unlocked.map(|_| schema)
}

async fn in_its_schema(client: &Client, begun: bool) -> Result<String, PgError> {
    let failed = |error: Error| PgError::from(fault(&error));
    let found = client.query_one(SCHEMA, &[]).await.map_err(failed)?;
    let Some(schema) = column::<Option<String>>(&found, 0)? else {
        return Err(PgError::Settings { what: "no schema of the search path is there".to_owned() });
    };
    client.batch_execute(&format!("SET search_path = {schema}")).await.map_err(failed)?;
    bring_up(client, &schema, begun).await?;
    Ok(schema)
}

/// If there is nothing to do, this needs no right to change the schema.
async fn bring_up(client: &Client, schema: &str, begun: bool) -> Result<(), PgError> {
    let failed = |error: Error| PgError::from(fault(&error));
    let versions = client.query_one("SELECT to_regclass('equipoise_schema') IS NOT NULL", &[]).await.map_err(failed)?;
    let mut found = 0;
    if column(&versions, 0)? {
        let version = client.query_one("SELECT coalesce(max(version), 0) FROM equipoise_schema", &[]).await;
        found = match version {
            Ok(row) => column(&row, 0)?,
            Err(error) => {
                return Err(refused(client, &format!("read the version of the schema {schema}"), &error).await);
            }
        };
    }
    if found == 0 && !begun {
        return Err(PgError::Unavailable {
            what: format!("the schema {schema} has no version: a restore is not through"),
        });
    }
    if found > VERSION {
        return Err(PgError::SchemaTooNew { found, known: VERSION });
    }
    for (version, migration) in (1..).zip(MIGRATIONS) {
        if version > found {
            let table = if version == 1 { TABLE } else { "" };
            let step = format!(
                "BEGIN; SET LOCAL lock_timeout = {}; {table}; {migration};
                INSERT INTO equipoise_schema (version) VALUES ({version}); COMMIT",
                LOCKED.as_millis()
            );
            while let Err(error) = client.batch_execute(&step).await {
                let _ = client.batch_execute("ROLLBACK").await;
                if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                let what =
                    format!("bring the schema {schema} from version {found} to {VERSION}, at migration {version}");
                return Err(refused(client, &what, &error).await);
            }
        }
    }
    Ok(())
}

/// What could not be done, and why; if a right is missing, also the role that lacks it.
async fn refused(client: &Client, what: &str, error: &Error) -> PgError {
    if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        let what = format!("it could not {what}: {}", text(error));
        return match fault(error).into() {
            PgError::Unavailable { .. } => PgError::Unavailable { what },
            _ => PgError::Failed { what },
        };
    }
    let role = client.query_one("SELECT current_user::text", &[]).await.and_then(|row| row.try_get(0));
    let role = role.unwrap_or_else(|_| "of this connection".to_owned());
    PgError::Failed { what: format!("the role {role} may not {what}: {}", text(error)) }
}
