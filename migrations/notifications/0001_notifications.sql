-- Whom to write to. Filled by whoever knows the customers; a customer who is not in here gets mail at
-- the address of --recipient-template, if that is given.
CREATE TABLE notification_contacts (
    customer_id text        PRIMARY KEY,
    email       text        NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- A row a mail that the SMTP server has taken, written in the transaction of the message's claim.
CREATE TABLE notifications_sent (
    -- Of the notification; with the sender's domain it is the mail's Message-ID.
    message_id   uuid        PRIMARY KEY,
    order_id     uuid        NOT NULL,
    customer_id  text        NOT NULL,
    -- What the mail says of the order: placed, paid, fulfilled or cancelled.
    status       text        NOT NULL,
    email        text        NOT NULL,
    -- The server's answer, often with the id under which it queued the mail.
    server_reply text        NOT NULL,
    sent_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX notifications_sent_by_order ON notifications_sent (order_id, sent_at);
