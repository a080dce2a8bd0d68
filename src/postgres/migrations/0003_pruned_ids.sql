-- How far ids were forgotten. The ids of a batch are found by its journal entries: no index for it has to be kept up to date.

CREATE TABLE pruned_ids (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    sequence bigint NOT NULL
);

COMMENT ON TABLE pruned_ids IS 'The ids of the entries up to this commit sequence are no longer in processed_events: their window is over.';

INSERT INTO pruned_ids (sequence) VALUES (0);
