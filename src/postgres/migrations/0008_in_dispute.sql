-- Which new rows somebody else has inserted and not committed: nobody sees them, and whoever inserts the same keys waits. So it is tried, each time for as
-- long as a lock may take, with ever fewer keys; after a second all that are left count. Nothing is kept.

CREATE FUNCTION in_dispute(are_products boolean, keys text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    half integer := cardinality(keys) / 2;
BEGIN
    BEGIN
        IF are_products THEN
            INSERT INTO products (sku)
            SELECT key FROM unnest(keys) AS key WHERE NOT EXISTS (SELECT FROM products WHERE sku = key)
            ON CONFLICT DO NOTHING;
        ELSE
            INSERT INTO processed_events (event_id, product_id, batch, place, member)
            SELECT key, '', 0, 0, 0 FROM unnest(keys) AS key WHERE NOT EXISTS (SELECT FROM processed_events WHERE event_id = key)
            ON CONFLICT DO NOTHING;
        END IF;
        RAISE EXCEPTION 'nothing is kept' USING ERRCODE = 'EQ002';
    EXCEPTION
        WHEN SQLSTATE 'EQ002' THEN RETURN '{}';
        WHEN lock_not_available THEN NULL;
    END;
    IF half = 0 OR clock_timestamp() > statement_timestamp() + interval '1 second' THEN
        RETURN keys;
    END IF;
    RETURN in_dispute(are_products, keys[:half]) || in_dispute(are_products, keys[half + 1:]);
END
$$;

COMMENT ON FUNCTION in_dispute IS 'Those of the keys that somebody else has inserted and not committed. Wants a short lock_timeout.';
