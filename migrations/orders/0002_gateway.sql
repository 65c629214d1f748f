-- What the HTTP gateway has accepted. An order, its event in the outbox and the answer to its request
-- are written in one transaction; whether the event has taken effect is in orders and
-- processed_messages, and is never copied to here.
CREATE TABLE accepted_orders (
    order_id    uuid        PRIMARY KEY,
    customer_id text        NOT NULL,
    -- Where the order stands once all that was accepted has taken effect. A request for an order locks
    -- its row first, so its events enter the outbox in the order of their acceptance.
    status      text        NOT NULL
                CHECK (status IN ('placed', 'paid', 'fulfilled', 'cancelled')),
    currency    text        NOT NULL,
    total_cents bigint      NOT NULL,
    items       jsonb       NOT NULL,
    placed_at   timestamptz NOT NULL,
    -- Rises with each accepted event.
    version     bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- A page of a customer's orders, the newest first.
CREATE INDEX accepted_orders_by_customer
    ON accepted_orders (customer_id, created_at DESC, order_id DESC);

-- The event behind each version: by its message id the consumer's outcome is found.
CREATE TABLE accepted_events (
    order_id    uuid        NOT NULL REFERENCES accepted_orders,
    version     bigint      NOT NULL,
    message_id  uuid        NOT NULL,
    event_type  text        NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, version)
);

-- The first answer to each Idempotency-Key of a client. A second request with the key waits for the
-- transaction of the first one at this primary key. The answer is written in that transaction too, so
-- a row that can be seen has one: after a crash nothing is ever under way.
CREATE TABLE idempotency_keys (
    client      text        NOT NULL,
    key         text        NOT NULL,
    -- SHA-256 over method, path and body, each with its length before it.
    fingerprint bytea       NOT NULL,
    status      smallint,
    -- [[name, value], …]
    headers     jsonb,
    body        bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, key)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- Who may use the gateway. The secret is 256 random bits, shown once; a plain hash of so much chance
-- cannot be guessed back.
CREATE TABLE api_keys (
    key_id        text        PRIMARY KEY,
    -- Idempotency-Keys belong to the client, so that it may change its API key.
    client        text        NOT NULL,
    secret_sha256 bytea       NOT NULL,
    scopes        text[]      NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    revoked_at    timestamptz
);
