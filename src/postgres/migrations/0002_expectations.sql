-- Ends a transaction whose statements did not find the rows that its batch was decided from.

CREATE FUNCTION expect_rows(seen bigint, expected bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF seen <> expected THEN
        RAISE EXCEPTION 'others changed what this batch was decided from' USING ERRCODE = 'EQ001';
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION expect_rows IS 'Not an error for anybody: the batch is decided again.';

COMMENT ON COLUMN journal_entries.as_of IS 'Of what was refused: an account that it is about, or met in its chain, had been opened by nobody up to this sequence.';
