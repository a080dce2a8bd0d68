-- Topics that are made again under one name have other records at the same offsets. A dead letter that waits to be published gives way to the one of another
-- record at its place, and is kept beside. That table is part of dead_letters for whoever reads or deletes, and not of its key, so versions that know
-- nothing of it go on beside.

CREATE TABLE displaced_dead_letters (PRIMARY KEY (number)) INHERITS (dead_letters);

COMMENT ON TABLE displaced_dead_letters IS 'Dead letters in whose place a topic of the same name has another one; seen in dead_letters.';

CREATE FUNCTION displace_dead_letter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH displaced AS (
        DELETE FROM ONLY dead_letters d
        WHERE d.topic = NEW.topic AND d.partition = NEW.partition AND d.kafka_offset = NEW.kafka_offset
            AND (d.record_time, d.key, d.value) IS DISTINCT FROM (NEW.record_time, NEW.key, NEW.value)
        RETURNING d.*
    )
    INSERT INTO displaced_dead_letters SELECT * FROM displaced;
    RETURN NEW;
END
$$;

CREATE TRIGGER displace BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION displace_dead_letter();
