-- Rows stay here for minutes. A vacuum because of many new ones would freeze what is about to go, and
-- statistics of columns that no query compares help no plan: while one key in ten fails, both cost
-- 0.86 s of processor for 300,000 rows, as much as it takes to insert 80,000 of them. Rows that are
-- gone are vacuumed as everywhere.
ALTER TABLE retry_queue
    SET (autovacuum_vacuum_insert_threshold = -1);

ALTER TABLE retry_queue
    ALTER COLUMN topic_id            SET STATISTICS 0,
    ALTER COLUMN fingerprint         SET STATISTICS 0,
    ALTER COLUMN record_timestamp_ms SET STATISTICS 0,
    ALTER COLUMN key                 SET STATISTICS 0,
    ALTER COLUMN value               SET STATISTICS 0,
    ALTER COLUMN headers             SET STATISTICS 0,
    ALTER COLUMN error_class         SET STATISTICS 0,
    ALTER COLUMN error_code          SET STATISTICS 0,
    ALTER COLUMN error_message       SET STATISTICS 0;
