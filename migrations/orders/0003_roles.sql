-- A role for each program, without LOGIN: whoever runs it makes a user and grants it the role. What
-- each may do and why: docs/security.md.

-- What became of a message, and nothing else of the claims: for the gateway.
CREATE VIEW message_outcomes AS
SELECT claim.message_id, claim.outcome, letter.error_code, letter.error_message
  FROM processed_messages AS claim
       LEFT JOIN dead_letters AS letter
              ON letter.message_id = claim.message_id
             AND letter.consumer_group = claim.consumer_group
             AND claim.outcome = 'dead_lettered';

-- Makes the roles that are missing, which are of the whole cluster, and gives each what it needs here.
-- Returns those that are missing still, since the caller may not make roles. May be called any number
-- of times; `order-consumer migrate` does so each time.
CREATE FUNCTION grant_order_pipeline_rights() RETURNS SETOF text
    LANGUAGE plpgsql
AS $$
DECLARE
    role_name text;
    tracked   text;
BEGIN
    -- Two at once would get in each other's way in the catalog.
    PERFORM pg_advisory_xact_lock(hashtext('grant_order_pipeline_rights'));
    FOREACH role_name IN ARRAY ARRAY[
        'order_pipeline_producer', 'order_pipeline_consumer', 'order_pipeline_notifier',
        'order_pipeline_auditor'
    ] LOOP
        IF to_regrole(role_name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RETURN NEXT role_name;
                    CONTINUE;
                -- Somebody makes it for another database just now.
                WHEN unique_violation OR duplicate_object THEN NULL;
            END;
        END IF;
        -- A notifier has claims of its own, in a schema of its own: it gets its rights there, by
        -- grant_engine_rights, and none on these tables.
        CONTINUE WHEN role_name = 'order_pipeline_notifier';
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role_name);
        FOREACH tracked IN ARRAY ARRAY['_idempotent_consumer_migrations', '_order_migrations'] LOOP
            -- Another tool that applies these files has tables of its own.
            IF to_regclass(tracked) IS NOT NULL THEN
                EXECUTE format('GRANT SELECT ON %I TO %I', tracked, role_name);
            END IF;
        END LOOP;
    END LOOP;

    IF to_regrole('order_pipeline_producer') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE ON accepted_orders, api_keys TO order_pipeline_producer;
        GRANT SELECT, INSERT ON accepted_events TO order_pipeline_producer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO order_pipeline_producer;
        GRANT SELECT ON orders, message_outcomes, dedup_scope TO order_pipeline_producer;
        GRANT SELECT (purged_before) ON dedup_window TO order_pipeline_producer;
        -- Its relay publishes what others wrote, too. It cannot say of a record that it is a redrive.
        GRANT SELECT, DELETE,
              INSERT (topic, partition, key, value, headers),
              UPDATE (value, headers, may_omit_value, refused_at, refused_reason)
           ON outbox TO order_pipeline_producer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON relay_lease TO order_pipeline_producer;
        GRANT EXECUTE ON FUNCTION reopen_refused_redrive TO order_pipeline_producer;
    END IF;

    IF to_regrole('order_pipeline_consumer') IS NOT NULL THEN
        PERFORM grant_engine_rights('order_pipeline_consumer');
        GRANT SELECT, INSERT, UPDATE ON orders, customer_totals TO order_pipeline_consumer;
    END IF;

    IF to_regrole('order_pipeline_auditor') IS NOT NULL THEN
        GRANT SELECT ON processed_messages, batch_seq, dedup_scope, dedup_window, partition_progress,
                        lost_ranges, dead_letters, past_dead_letterings, retry_queue, outbox,
                        relay_lease, orders, customer_totals
           TO order_pipeline_auditor;
    END IF;
END
$$;

DO $$
DECLARE
    missing text := (SELECT string_agg(role_name, ', ') FROM grant_order_pipeline_rights() AS role_name);
BEGIN
    IF missing IS NOT NULL THEN
        RAISE WARNING 'this user may not create roles, so these are missing: %', missing
              USING HINT = 'Make them with CREATE ROLE … NOLOGIN, then SELECT grant_order_pipeline_rights().';
    END IF;
END
$$;
