-- For services that are not the owner of these tables. What a service needs is one function, so that
-- a role gets it in whatever schema the engine's tables are:
--
--     SELECT grant_engine_rights('the_role');
--
-- Purges stay with the owner: who may empty a range of claims can have everything applied again.

-- Kafka refuses a row of the outbox for good. If it is a redrive, the row goes and its dead letter
-- is opened again, as if that number had never been: should an earlier try of the record be in the
-- log after all, it counts. Returns whether it was a redrive.
--
-- A function, so that a relay which is not the consumer's needs no rights on dead letters.
CREATE FUNCTION reopen_refused_redrive(outbox_id bigint, reason text) RETURNS boolean
    LANGUAGE sql
AS $$
    WITH gone AS (
        DELETE FROM outbox WHERE id = outbox_id AND redrive_of IS NOT NULL RETURNING redrive_of
    ), opened AS (
        UPDATE dead_letters
           SET state = 'open',
               redrive_count = redrive_count - 1,
               state_changed_at = clock_timestamp(),
               state_reason = 'its redrive could not be published: ' || reason
          FROM gone
         WHERE dlq_id = gone.redrive_of AND state = 'redriven'
    )
    SELECT EXISTS (SELECT FROM gone)
$$;

-- With the rights of their owner, since a range that is made ahead has to be the owner's as well.
-- Neither takes a name or a statement from its caller, and the second does only what
-- claim_years_to_exchange() finds due. The path is fixed: what a caller puts before it must not be
-- run with the owner's rights.
DO $$
DECLARE
    function text;
BEGIN
    FOREACH function IN ARRAY ARRAY[
        'reopen_refused_redrive(bigint, text)', 'exchange_claim_year(integer, boolean)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp',
                       function, current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
END
$$;

-- What a consumer needs for its whole work: run, retries, redrive, accept. Call it again after later
-- migrations.
CREATE FUNCTION grant_engine_rights(role_name name) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role_name);
    IF to_regclass('_idempotent_consumer_migrations') IS NOT NULL THEN
        EXECUTE format('GRANT SELECT ON _idempotent_consumer_migrations TO %I', role_name);
    END IF;
    EXECUTE format('GRANT SELECT ON processed_messages, dedup_window TO %I', role_name);
    -- A claim is never taken back, and changes by a redrive only.
    EXECUTE format('GRANT INSERT, UPDATE (outcome, "offset", batch_seq) ON processed_messages TO %I',
                   role_name);
    EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE batch_seq TO %I', role_name);
    -- Not purged_before.
    EXECUTE format('GRANT INSERT (kept_for), UPDATE (kept_for, recorded_at) ON dedup_window TO %I',
                   role_name);
    EXECUTE format('GRANT SELECT, INSERT ON dedup_scope, lost_ranges, past_dead_letterings TO %I',
                   role_name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON partition_progress, dead_letters TO %I',
                   role_name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON retry_queue, outbox, relay_lease TO %I',
                   role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION reopen_refused_redrive, exchange_claim_year TO %I',
                   role_name);
END
$$;
