-- What is known of a process that ended in the middle of its work: which messages may have ended
-- it, and how often each of them has.
ALTER TABLE partition_progress
    -- The offset behind the last record that went into work. Above next_offset only where a process
    -- ended during that work after one had ended before: the records between are tried one at a
    -- time.
    ADD COLUMN handed_out     bigint  NOT NULL DEFAULT 0,
    -- Whether the lane that owned the partition has given it back. False while one owns it.
    ADD COLUMN clean          boolean NOT NULL DEFAULT true,
    -- The record that was tried alone last, how many processes have begun to, and the latest.
    ADD COLUMN charged_offset bigint,
    ADD COLUMN charges        integer NOT NULL DEFAULT 0,
    ADD COLUMN charged_by     text    NOT NULL DEFAULT '';

UPDATE partition_progress SET handed_out = next_offset;

-- The same for a message that waits for another attempt.
ALTER TABLE retry_queue
    ADD COLUMN charges    integer NOT NULL DEFAULT 0,
    ADD COLUMN charged_by text    NOT NULL DEFAULT '';
