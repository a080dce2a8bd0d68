//! Whether a database can be used as it is: found out with every connection, and every second beside.

use super::database::Fault;
use super::link::{Link, column};
use super::migrate::VERSION;

/// Asks for the setting without what the session itself set. A restore makes keys and triggers last: until then it
/// fills tables that accept duplicates.
const STANDING: &str = "WITH wanted (relation, name) AS (VALUES
        ('products', 'products_pkey'), ('processed_events', 'processed_events_pkey'), ('commits', 'commits_pkey'),
        ('commits', 'commits_in_order'), ('ledger_sequence', 'ledger_sequence_pkey'),
        ('journal_entries', 'journal_entries_pkey'), ('consumer_offsets', 'consumer_offsets_pkey'),
        ('pruned_ids', 'pruned_ids_pkey')
    )
    SELECT pg_is_in_recovery(),
        (SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'),
        (SELECT min(name) FROM wanted WHERE NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(relation) AND c.relname = name AND i.indisunique AND i.indisvalid)),
        EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('journal_entries') AND tgname = 'append_only'),
        coalesce(to_regclass('ledger_sequence')::oid::bigint, 0),
        (SELECT min(relation) FROM wanted WHERE row_security_active(to_regclass(relation)::oid))";

/// Asked of a complete schema: a restore fills this table before it makes the keys.
const FOUND: &str = "SELECT coalesce(max(version), 0) FROM equipoise_schema";

/// What was found about a database; the default is nothing amiss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    is_standby: bool,
    is_read_only: bool,
    /// A part of the schema that is missing.
    lacks: Option<String>,
    /// The schema's version, if the schema is complete but too old: an older dump was restored.
    older: Option<i64>,
    /// A table whose row security applies to this role.
    hidden: Option<String>,
    /// The table that the commit sequence is drawn from; after a restore it is another one.
    pub(super) ledger: i64,
}

impl Standing {
    pub(super) async fn look(link: &Link) -> Result<Self, Fault> {
        let row = link.timed(link.client.query_one(STANDING, &[])).await.map_err(|broken| broken.fault)?;
        let lacks = match (column(&row, 2)?, column(&row, 3)?) {
            (None, false) => Some("append_only".to_owned()),
            (lacks, _) => lacks,
        };
        let (is_standby, is_read_only, hidden) = (column(&row, 0)?, column(&row, 1)?, column(&row, 5)?);
        let mut older = None;
        if lacks.is_none() {
            let found = link.timed(link.client.query_one(FOUND, &[])).await.map_err(|broken| broken.fault)?;
            older = Some(column(&found, 0)?).filter(|found| *found < VERSION);
        }
        Ok(Standing { is_standby, is_read_only, lacks, older, hidden, ledger: column(&row, 4)? })
    }

    /// Whether its contents may be shown: that they are complete, and not behind a primary.
    pub(super) fn read(&self) -> Result<(), Fault> {
        let unavailable = |what: String| Err(Fault::Unavailable(what));
        if self.is_standby {
            return unavailable("it is a standby: not promoted yet".to_owned());
        }
        if let Some(lacks) = &self.lacks {
            return unavailable(format!("its schema lacks {lacks}: a restore is not through"));
        }
        if let Some(found) = self.older {
            return unavailable(format!("its schema has version {found}, {VERSION} is needed"));
        }
        match &self.hidden {
            Some(table) => Err(Fault::Failed(format!(
                "its role is subject to the row-level security policy of {table}: it has to be the owner, or to have BYPASSRLS"
            ))),
            None => Ok(()),
        }
    }

    /// Whether its schema is complete, and to be brought up before it is of use.
    pub(super) fn is_older(&self) -> bool {
        !self.is_standby && !self.is_read_only && self.older.is_some()
    }

    /// Whether it may be written.
    pub(super) fn write(&self) -> Result<(), Fault> {
        self.read()?;
        if self.is_read_only {
            return Err(Fault::Unavailable("it was made read-only: default_transaction_read_only is on".to_owned()));
        }
        Ok(())
    }
}
