-- A sku is an account's id, which has no control characters: a row that says otherwise could be read by no instance. A trigger, and no CHECK: that would
-- be evaluated with every change of a stock, and wait with everybody behind it for the reader of a long listing. Rows that are there stay.

CREATE FUNCTION refuse_sku() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a sku may not have control characters'
        USING ERRCODE = 'check_violation', TABLE = 'products', COLUMN = 'sku', CONSTRAINT = 'sku_without_controls';
END
$$;

CREATE TRIGGER sku_without_controls BEFORE INSERT OR UPDATE OF sku ON products
    FOR EACH ROW WHEN (NEW.sku ~ '[\u0001-\u001f\u007f-\u009f]') EXECUTE FUNCTION refuse_sku();
