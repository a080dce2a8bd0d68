-- Who publishes dead letters: one instance at a time. It is a lease, and no lock of a session: that would be lost with a connection while the instance goes
-- on, and kept by one that is suspended or whose machine is gone.

CREATE TABLE dead_letter_publisher (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder bigint NOT NULL,
    until timestamptz NOT NULL
);

COMMENT ON TABLE dead_letter_publisher IS 'The instance that has the letters of dead_letters to publish, until then at most.';
