-- Claims by the time in their ids, so that old ones leave with TRUNCATE and not row by row. Why so,
-- and the figures: docs/decisions/0007-retention-by-ranges-of-the-id.md.
--
--   processed_messages              RANGE (message_id): an id of version 7 begins with its time
--   ├─ processed_messages_before    below the first year
--   ├─ processed_messages_2025      a year far from now is one leaf
--   ├─ processed_messages_2026      a year near to now is made of weeks
--   │  └─ processed_messages_2026_w01 … _w53
--   ├─ …
--   └─ processed_messages_after     from 2050 on: 99 % of the ids that are random
--
-- Every id has its place at any time, so a missing range can never fail a batch: the worst that
-- happens where nobody makes weeks is a leaf that holds a year.

-- How long claims are kept, and what a purge may have taken. Without a row: all, for ever.
CREATE TABLE dedup_window (
    only_row      boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    -- An unclaimed message that is older cannot be proved new, and is not applied. Null: there is
    -- no such age.
    kept_for      interval,
    -- Claims of messages older than this may be gone. Written before the first of them goes, and
    -- it never falls, whatever becomes of the window or the clock.
    purged_before timestamptz,
    recorded_at   timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE processed_messages RENAME TO processed_messages_unranged;
ALTER TABLE processed_messages_unranged
    RENAME CONSTRAINT processed_messages_pkey TO processed_messages_unranged_pkey;

CREATE TABLE processed_messages (
    message_id     uuid        NOT NULL,
    "offset"       bigint      NOT NULL,
    batch_seq      bigint      NOT NULL,
    processed_at   timestamptz NOT NULL DEFAULT now(),
    partition      integer     NOT NULL,
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('applied', 'dead_lettered', 'skipped')),
    -- A version byte, then SHA-256 over type, key and value, each with its length before it.
    fingerprint    bytea       NOT NULL,
    PRIMARY KEY (message_id, consumer_group)
) PARTITION BY RANGE (message_id);

-- Says within a leaf of any size where its youngest rows are; a few kilobytes.
CREATE INDEX processed_messages_by_time ON processed_messages
    USING brin (processed_at) WITH (autosummarize = on);

-- A claim that is changed is young again: a purge relies on it, and so do its readers.
CREATE FUNCTION touch_claim() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    new.processed_at := now();
    RETURN new;
END
$$;

CREATE TRIGGER processed_messages_touched BEFORE UPDATE ON processed_messages
    FOR EACH ROW EXECUTE FUNCTION touch_claim();

-- The least id of version 7 of this moment.
CREATE FUNCTION claim_bound(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT rpad(lpad(to_hex(greatest(0, floor(extract(epoch FROM moment) * 1000))::bigint), 12, '0'),
                32, '0')::uuid
$$;

-- When a year begins, in UTC.
CREATE FUNCTION claim_year_start(year integer) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT make_date(year, 1, 1)::timestamp AT TIME ZONE 'UTC'
$$;

-- Makes a table for a year's claims that is no part of processed_messages yet: one leaf, or one a
-- week.
CREATE FUNCTION make_claim_year(year integer, made_name text, by_week boolean) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    week_start timestamptz := claim_year_start(year);
    week_end   timestamptz;
BEGIN
    EXECUTE format(
        'CREATE TABLE %I (LIKE processed_messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES) %s',
        made_name,
        CASE WHEN by_week THEN 'PARTITION BY RANGE (message_id)' END
    );
    FOR week IN 1..53 LOOP
        EXIT WHEN NOT by_week;
        week_end := least(week_start + interval '168 hours', claim_year_start(year + 1));
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
            format('processed_messages_%s_w%s', year, to_char(week, 'FM00')),
            made_name,
            claim_bound(week_start),
            claim_bound(week_end)
        );
        week_start := week_end;
    END LOOP;
END
$$;

-- Puts a year's table in its place.
CREATE FUNCTION attach_claim_year(year integer, made_name text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format(
        'ALTER TABLE processed_messages ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        made_name,
        claim_bound(claim_year_start(year)),
        claim_bound(claim_year_start(year + 1))
    );
END
$$;

DO $$
DECLARE
    first_year constant integer := 2020;
    -- From here on nothing is divided further: the table works as well, purged row by row.
    end_year   constant integer := 2050;
BEGIN
    EXECUTE format(
        'CREATE TABLE processed_messages_before PARTITION OF processed_messages FOR VALUES FROM (MINVALUE) TO (%L)',
        claim_bound(claim_year_start(first_year))
    );
    EXECUTE format(
        'CREATE TABLE processed_messages_after PARTITION OF processed_messages FOR VALUES FROM (%L) TO (MAXVALUE)',
        claim_bound(claim_year_start(end_year))
    );
    FOR year IN first_year..end_year - 1 LOOP
        PERFORM make_claim_year(
            year,
            format('processed_messages_%s', year),
            year BETWEEN extract(year FROM now() - interval '26 weeks')
                     AND extract(year FROM now() + interval '26 weeks')
        );
        PERFORM attach_claim_year(year, format('processed_messages_%s', year));
    END LOOP;
END
$$;

INSERT INTO processed_messages
       (message_id, "offset", batch_seq, processed_at, partition, consumer_group, topic, outcome,
        fingerprint)
SELECT message_id, "offset", batch_seq, processed_at, partition, consumer_group, topic, outcome,
       fingerprint
  FROM processed_messages_unranged
 ORDER BY processed_at;

DROP TABLE processed_messages_unranged;

-- The leaves in the order of their ranges; no bound where the range has none.
CREATE FUNCTION claim_leaves()
    RETURNS TABLE (leaf regclass, from_id uuid, until_id uuid, is_week boolean)
    LANGUAGE sql STABLE
AS $$
    SELECT tree.relid,
           substring(bounds.text FROM $r$FROM \('([0-9a-f-]+)'\)$r$)::uuid,
           substring(bounds.text FROM $r$TO \('([0-9a-f-]+)'\)$r$)::uuid,
           tree.level = 2
      FROM pg_partition_tree('processed_messages') AS tree
      JOIN pg_class AS class ON class.oid = tree.relid,
           pg_get_expr(class.relpartbound, class.oid) AS bounds (text)
     WHERE tree.isleaf
     ORDER BY 2 NULLS FIRST
$$;

-- Whether the claim of this message is old: it was made before `cutoff`, and if its id has a time,
-- that is before `cutoff` as well.
--
-- An old claim may go, unless its message has a dead letter, with which it stays: a repeat would be
-- applied otherwise, and the dead letter redriven on top of it.
CREATE FUNCTION is_old_claim(message_id uuid, processed_at timestamptz, cutoff timestamptz)
    RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT processed_at < cutoff
       AND (substr(message_id::text, 15, 1) <> '7' OR message_id < claim_bound(cutoff))
$$;

-- What a purge would take: whole leaves, and leaves of which it takes rows. A leaf goes whole if
-- its range is past and little in it has to stay. Counts are the planner's.
--
-- Young weeks are not looked at: the few random ids in them go with their week.
CREATE FUNCTION claims_to_purge(cutoff timestamptz)
    RETURNS TABLE (leaf text, is_whole boolean, claims bigint, bytes bigint)
    LANGUAGE plpgsql STABLE
    -- Without a scan from one end to the other.
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    -- Rows that stay are written anew while the leaf is locked.
    most_kept constant bigint := 100000;
    part    record;
    is_past boolean;
    found   boolean;
    kept    bigint;
BEGIN
    FOR part IN SELECT * FROM claim_leaves() LOOP
        is_past := coalesce(part.until_id <= claim_bound(cutoff), false);
        CONTINUE WHEN part.is_week AND NOT is_past;
        EXECUTE format(
            'SELECT EXISTS (
                 SELECT FROM %s AS claim
                  WHERE processed_at < $1
                    AND is_old_claim(message_id, processed_at, $1)
                    AND NOT EXISTS (
                            SELECT FROM dead_letters AS letter
                             WHERE letter.message_id = claim.message_id
                               AND letter.consumer_group = claim.consumer_group
                        )
             )',
            part.leaf
        ) INTO found USING cutoff;
        CONTINUE WHEN NOT found;
        is_whole := false;
        IF is_past THEN
            EXECUTE format(
                'SELECT (SELECT count(*) FROM (SELECT FROM %s WHERE processed_at >= $1 LIMIT $4) AS young)
                      + (SELECT count(*) FROM (SELECT FROM dead_letters
                                                WHERE message_id >= $2 AND message_id < $3
                                                LIMIT $4) AS dead)',
                part.leaf
            ) INTO kept USING cutoff, coalesce(part.from_id, '00000000-0000-0000-0000-000000000000'),
                              part.until_id, most_kept;
            is_whole := kept < most_kept;
        END IF;
        leaf := part.leaf;
        bytes := pg_total_relation_size(part.leaf);
        -- Near enough: as many rows a page as when it was last analyzed, or as usual.
        SELECT pg_relation_size(oid) / current_setting('block_size')::bigint
               * CASE WHEN reltuples > 0 AND relpages > 0 THEN reltuples / relpages ELSE 50 END
          INTO claims
          FROM pg_class
         WHERE oid = part.leaf;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Brings the index by time up to date, so that the leaf is locked for a short time only.
CREATE FUNCTION summarize_claims(leaf_name text) RETURNS void
    LANGUAGE sql
AS $$
    SELECT brin_summarize_new_values(pg_index.indexrelid)
      FROM pg_index
      JOIN pg_class AS index ON index.oid = pg_index.indexrelid
      JOIN pg_am ON pg_am.oid = index.relam AND pg_am.amname = 'brin'
     WHERE pg_index.indrelid = to_regclass(leaf_name)
$$;

-- Empties a leaf whose range is past, but for claims that are young or have a dead letter. Locks
-- this leaf and no other, and out of reach of others only from the second LOCK on: call it with a
-- short lock_timeout. Returns how many it kept; null if there is no such leaf, or its range is not
-- past.
CREATE FUNCTION empty_claim_leaf(leaf_name text, cutoff timestamptz) RETURNS bigint
    LANGUAGE plpgsql
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    part  record;
    dead  processed_messages[];
    young processed_messages[];
    kept  bigint;
BEGIN
    SELECT * INTO part FROM claim_leaves() AS known
     WHERE known.leaf = to_regclass(leaf_name) AND known.until_id <= claim_bound(cutoff);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- One purge at a time, and nobody else waits. Whatever changes in the leaf from here on is young.
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', part.leaf);
    EXECUTE format(
        'SELECT array_agg(claim::processed_messages)
           FROM dead_letters AS letter
           JOIN %s AS claim USING (message_id, consumer_group)
          WHERE letter.message_id >= $2 AND letter.message_id < $3
            AND claim.processed_at < $1',
        part.leaf
    ) INTO dead USING cutoff, coalesce(part.from_id, '00000000-0000-0000-0000-000000000000'),
                      part.until_id;
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', part.leaf);
    EXECUTE format(
        'SELECT array_agg(claim::processed_messages) FROM %s AS claim WHERE processed_at >= $1',
        part.leaf
    ) INTO young USING cutoff;
    EXECUTE format('TRUNCATE ONLY %s', part.leaf);
    EXECUTE format('INSERT INTO %s SELECT * FROM unnest($1)', part.leaf) USING young;
    EXECUTE format('INSERT INTO %s SELECT * FROM unnest($1) ON CONFLICT DO NOTHING', part.leaf)
      USING dead;
    GET DIAGNOSTICS kept = ROW_COUNT;
    RETURN kept + coalesce(cardinality(young), 0);
END
$$;

-- Deletes old claims from so many blocks of a leaf. Returns how many, and null behind its end.
CREATE FUNCTION delete_old_claims(
    leaf_name text, cutoff timestamptz, from_block bigint, blocks bigint
) RETURNS bigint
    LANGUAGE plpgsql
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    leaf    regclass := to_regclass(leaf_name);
    deleted bigint;
BEGIN
    IF leaf IS NULL OR from_block >= pg_relation_size(leaf) / current_setting('block_size')::bigint THEN
        RETURN NULL;
    END IF;
    EXECUTE format(
        'DELETE FROM %s AS claim
          WHERE ctid >= $2 AND ctid < $3
            AND is_old_claim(message_id, processed_at, $1)
            AND NOT EXISTS (
                    SELECT FROM dead_letters AS letter
                     WHERE letter.message_id = claim.message_id
                       AND letter.consumer_group = claim.consumer_group
                )',
        leaf
    ) USING cutoff, format('(%s,0)', from_block)::tid, format('(%s,0)', from_block + blocks)::tid;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

-- Years that should look otherwise: near ones are divided into weeks well ahead, those that are
-- long past and all but empty are one leaf again, so that leaves never grow in number.
CREATE FUNCTION claim_years_to_exchange() RETURNS TABLE (year integer, by_week boolean)
    LANGUAGE sql STABLE
AS $$
    SELECT known.year, known.is_near
      FROM (SELECT substring(tree.relid::text FROM '_([0-9]{4})$')::integer AS year,
                   NOT tree.isleaf AS has_weeks
              FROM pg_partition_tree('processed_messages') AS tree
             WHERE tree.level = 1) AS present,
           LATERAL (SELECT present.year,
                           present.year BETWEEN extract(year FROM now() - interval '26 weeks')
                                            AND extract(year FROM now() + interval '26 weeks')
                               AS is_near) AS known
     WHERE known.is_near <> present.has_weeks
       AND (known.is_near OR claim_year_start(present.year + 1) < now())
     ORDER BY 1
$$;

-- Puts a table of the other kind in the place of a year's, and carries its rows over. Locks all
-- claims for some milliseconds: call it with a short lock_timeout. Returns false, and does nothing,
-- if the year holds too much for that.
CREATE FUNCTION exchange_claim_year(year integer, by_week boolean) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    most_carried constant bigint := 10000;
    present constant text := format('processed_messages_%s', year);
    made    constant text := format('processed_messages_%s_new', year);
    carried bigint;
BEGIN
    IF NOT EXISTS (
        SELECT FROM claim_years_to_exchange() AS asked
         WHERE asked.year = exchange_claim_year.year AND asked.by_week = exchange_claim_year.by_week
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %I LIMIT $1) AS claim', present)
       INTO carried USING most_carried;
    IF carried = most_carried THEN
        RETURN false;
    END IF;
    PERFORM make_claim_year(year, made, by_week);
    EXECUTE format('ALTER TABLE processed_messages DETACH PARTITION %I', present);
    EXECUTE format('INSERT INTO %I SELECT * FROM %I', made, present);
    EXECUTE format('DROP TABLE %I', present);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', made, present);
    PERFORM attach_claim_year(year, present);
    RETURN true;
END
$$;
