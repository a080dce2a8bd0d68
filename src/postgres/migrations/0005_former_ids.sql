-- What ids were used for stays findable when their window is over. Filled when they are forgotten, beside the traffic: an index of all ids of
-- the journal would be kept up with every batch. An id may be here several times.

CREATE TABLE former_ids (
    event_id text COLLATE "C" NOT NULL,
    batch bigint NOT NULL,
    place integer NOT NULL,
    member integer NOT NULL
);

COMMENT ON TABLE former_ids IS 'Ids that were forgotten: they may be used again, and lead to the journal entries that used them.';

INSERT INTO former_ids (event_id, batch, place, member)
SELECT j.transaction_id, j.batch, j.place, j.member FROM journal_entries j
LEFT JOIN processed_events e ON e.event_id = j.transaction_id AND e.batch = j.batch AND e.place = j.place AND e.member = j.member
WHERE j.transaction_id IS NOT NULL AND e.event_id IS NULL;

-- Half as large as a btree, and a constant number of pages for a look-up.
CREATE INDEX former_ids_by_id ON former_ids USING hash (event_id);
