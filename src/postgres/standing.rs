//! Whether a database can be used as it is: found out with every connection, and every second beside.

use super::database::Fault;
use super::link::{Link, column};
use super::migrate::VERSION;

/// Asks for the setting without what the session itself set. A restore makes keys and triggers last: until then it
/// fills tables that accept duplicates.
///
/// `needed` has what the statements of this module need, and whether its SELECT is for what callers read. Of a table
/// the privilege on any column is enough: somebody may have granted it for those columns alone that are used.
const STANDING: &str = "WITH wanted (relation, name) AS (VALUES
        ('products', 'products_pkey'), ('processed_events', 'processed_events_pkey'), ('commits', 'commits_pkey'),
        ('commits', 'commits_in_order'), ('ledger_sequence', 'ledger_sequence_pkey'),
        ('journal_entries', 'journal_entries_pkey'), ('consumer_offsets', 'consumer_offsets_pkey'),
        ('pruned_ids', 'pruned_ids_pkey')
    ), needed (name, privileges, is_read) AS (VALUES
        ('products', '{SELECT,INSERT,UPDATE}'::text[], true), ('processed_events', '{SELECT,INSERT,DELETE}', true),
        ('commits', '{SELECT,INSERT}', true), ('ledger_sequence', '{SELECT,UPDATE}', true),
        ('journal', '{SELECT}', true), ('journal_entries', '{SELECT,INSERT}', false),
        ('former_ids', '{SELECT,INSERT}', true), ('pruned_ids', '{SELECT,UPDATE}', false),
        ('consumer_offsets', '{SELECT,INSERT,UPDATE}', false), ('dead_letters', '{SELECT,INSERT,DELETE}', false),
        ('displaced_dead_letters', '{INSERT}', false), ('dead_letter_publisher', '{SELECT,INSERT,UPDATE}', false),
        ('equipoise_schema', '{SELECT}', true),
        ('ledger_batches', '{USAGE}', false), ('dead_letters_number_seq', '{USAGE}', false),
        ('expect_rows(bigint,bigint)', '{EXECUTE}', false), ('in_dispute(boolean,text[])', '{EXECUTE}', false)
    ), lacked AS (
        SELECT privilege, name, is_read AND privilege = 'SELECT' AS is_read
        FROM needed CROSS JOIN unnest(privileges) AS privilege
        WHERE NOT CASE privilege
            WHEN 'EXECUTE' THEN has_function_privilege(to_regprocedure(name)::oid, privilege)
            WHEN 'USAGE' THEN has_sequence_privilege(to_regclass(name)::oid, 'USAGE, UPDATE')
            WHEN 'DELETE' THEN has_table_privilege(to_regclass(name)::oid, privilege)
            ELSE has_any_column_privilege(to_regclass(name)::oid, privilege) END
        ORDER BY is_read DESC, name, privilege LIMIT 1
    )
    SELECT pg_is_in_recovery(),
        (SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'),
        (SELECT min(name) FROM wanted WHERE NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(relation) AND c.relname = name AND i.indisunique AND i.indisvalid)),
        EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('journal_entries') AND tgname = 'append_only'),
        coalesce(to_regclass('ledger_sequence')::oid::bigint, 0),
        (SELECT min(relation) FROM wanted WHERE row_security_active(to_regclass(relation)::oid)),
        (SELECT format('its role %s lacks the privilege %s on %s', current_user, privilege, name) FROM lacked),
        coalesce((SELECT is_read FROM lacked), false)";

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
    /// A privilege that this role lacks, in words.
    denied: Option<String>,
    /// Whether that one is needed to read.
    is_unreadable: bool,
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
        let (denied, is_unreadable): (_, bool) = (column(&row, 6)?, column(&row, 7)?);
        let mut older = None;
        if lacks.is_none() && !is_unreadable {
            let found = link.timed(link.client.query_one(FOUND, &[])).await.map_err(|broken| broken.fault)?;
            older = Some(column(&found, 0)?).filter(|found| *found < VERSION);
        }
        let ledger = column(&row, 4)?;
        Ok(Standing { is_standby, is_read_only, lacks, older, hidden, denied, is_unreadable, ledger })
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
        if let Some(table) = &self.hidden {
            return Err(Fault::Failed(format!(
                "its role is subject to the row-level security policy of {table}: it has to be the owner, or to have BYPASSRLS"
            )));
        }
        if self.is_unreadable { self.permit() } else { Ok(()) }
    }

    /// Whether the role has every privilege.
    fn permit(&self) -> Result<(), Fault> {
        self.denied.clone().map_or(Ok(()), |denied| Err(Fault::Failed(denied)))
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
        self.permit()
    }
}
