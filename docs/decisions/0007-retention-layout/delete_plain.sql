-- The plain table: old claims by DELETE, 64 blocks a transaction.
DO $$
DECLARE
    block bigint := 0;
    gone  bigint := 0;
    n     bigint;
BEGIN
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    WHILE block < pg_relation_size('processed_messages') / 8192 LOOP
        DELETE FROM processed_messages AS claim
         WHERE ctid >= format('(%s,0)', block)::tid AND ctid < format('(%s,0)', block + 64)::tid
           AND processed_at < now() - interval '30 days'
           AND NOT EXISTS (SELECT FROM dead_letters AS letter
                            WHERE letter.message_id = claim.message_id
                              AND letter.consumer_group = claim.consumer_group);
        GET DIAGNOSTICS n = ROW_COUNT;
        gone := gone + n;
        block := block + 64;
        COMMIT;
    END LOOP;
    RAISE NOTICE '% claims deleted', gone;
END
$$;
