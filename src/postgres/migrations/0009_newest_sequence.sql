-- A snapshot that is kept open, as by a dump, keeps every version of a row that was updated since, and whoever looks for the newest one under a key
-- that all of them share looks at all. By the sequence, from its end, the newest is the first that is found. Versions that know nothing of it find
-- the row as before.

ALTER TABLE ledger_sequence DROP CONSTRAINT ledger_sequence_pkey, ADD CONSTRAINT ledger_sequence_pkey PRIMARY KEY (sequence);

-- What the key refused.
CREATE FUNCTION ledger_has_one_sequence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM ledger_sequence) > 1 THEN
        RAISE EXCEPTION 'ledger_sequence has one row' USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER one_sequence AFTER INSERT ON ledger_sequence FOR EACH STATEMENT EXECUTE FUNCTION ledger_has_one_sequence();
