#!/usr/bin/env python3
"""Processor seconds of one PostgreSQL backend per million rows, by statement.

    pip install 'psycopg[binary]'
    DATABASE_URL=… order-consumer migrate      # a database to play with: its tables are emptied
    DATABASE_URL=… statements.py ROWS BATCH [NAME …]

On the machine of the server, whose /proc is read.
"""
import datetime
import hashlib
import json
import os
import random
import sys
import time
import uuid

import psycopg
from psycopg.types.json import Jsonb

ROWS, BATCH, ONLY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
CUSTOMERS = 10_000
PLACED = datetime.datetime.now(datetime.timezone.utc)


def version_7(ms):
    raw = bytearray(ms.to_bytes(6, "big") + os.urandom(10))
    raw[6], raw[8] = 0x70 | raw[6] & 15, 0x80 | raw[8] & 63
    return uuid.UUID(bytes=bytes(raw))


class Row:
    def __init__(self, number, start_ms):
        ms = start_ms + number // 50
        self.message, self.order = version_7(ms), version_7(ms)
        self.customer = f"c-{random.randrange(CUSTOMERS)}"
        self.cents = random.randint(100, 100_000)
        self.fingerprint = b"\x01" + hashlib.sha256(str(number).encode()).digest()
        self.items = [
            {"sku": f"TEA-{random.randint(1, 500)}", "quantity": random.randint(1, 5),
             "unit_price_cents": random.randint(100, 9999)}
            for _ in range(random.randint(1, 3))
        ]


CLAIM_COLUMNS = ('message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, '
                 "fingerprint")
ORDER_COLUMNS = ("order_id, customer_id, status, currency, total_cents, items, placed_at, "
                 "last_message_id")


def insert_claims(conflict):
    statement = f"""
        INSERT INTO processed_messages ({CLAIM_COLUMNS})
        SELECT id, "offset", batch_seq, 0, 'g', 'orders', outcome, fingerprint
          FROM unnest(%b::uuid[], %b::bigint[], %b::text[], %b::bytea[], %b::bigint[])
               AS claim (id, "offset", outcome, fingerprint, batch_seq) {conflict}"""

    def run(db, batch):
        count = len(batch)
        done = db.execute(statement, [
            [row.message for row in batch], list(range(count)), ["applied"] * count,
            [row.fingerprint for row in batch], [1] * count], binary=True)
        if "RETURNING" in conflict:
            done.fetchall()
    return run


def insert_orders(conflict):
    statement = f"""
        INSERT INTO orders ({ORDER_COLUMNS})
        SELECT * FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::bigint[],
                             %s::jsonb[], %b::timestamptz[], %b::uuid[]) {conflict}"""

    def run(db, batch):
        count = len(batch)
        db.execute(statement, [
            [row.order for row in batch], [row.customer for row in batch], ["placed"] * count,
            ["EUR"] * count, [row.cents for row in batch],
            [json.dumps(row.items) for row in batch], [PLACED] * count,
            [row.message for row in batch]])
    return run


def copy_claims(db, batch):
    with db.cursor().copy(
            f"COPY processed_messages ({CLAIM_COLUMNS}) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["uuid", "int8", "int8", "int4", "text", "text", "text", "bytea"])
        for number, row in enumerate(batch):
            copy.write_row((row.message, number, 1, 0, "g", "orders", "applied", row.fingerprint))


def copy_orders(db, batch):
    with db.cursor().copy(f"COPY orders ({ORDER_COLUMNS}) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["uuid", "text", "text", "text", "int8", "jsonb", "timestamptz", "uuid"])
        for row in batch:
            copy.write_row((row.order, row.customer, "placed", "EUR", row.cents, Jsonb(row.items),
                            PLACED, row.message))


def look_up_claims(db, batch):
    db.execute("SELECT message_id, fingerprint FROM processed_messages "
               "WHERE message_id = ANY(%b) AND consumer_group = 'g'",
               [[row.message for row in batch]], prepare=False, binary=True).fetchall()


def lock_orders(db, batch):
    db.execute("SELECT order_id FROM orders WHERE order_id = ANY(%b) ORDER BY order_id FOR UPDATE",
               [[row.order for row in batch]], binary=True).fetchall()


def totals_of(batch):
    totals = {}
    for row in batch:
        orders, cents = totals.get(row.customer, (0, 0))
        totals[row.customer] = (orders + 1, cents + row.cents)
    return dict(sorted(totals.items()))


def columns(totals):
    return [list(totals), ["EUR"] * len(totals), [orders for orders, _ in totals.values()],
            [cents for _, cents in totals.values()]]


def upsert_totals(db, batch, totals=None):
    db.execute("""
        INSERT INTO customer_totals (customer_id, currency, orders, spent_cents)
        SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[])
            ON CONFLICT (customer_id, currency) DO UPDATE
           SET orders = customer_totals.orders + excluded.orders,
               spent_cents = customer_totals.spent_cents + excluded.spent_cents""",
               columns(totals or totals_of(batch)))


def update_totals(db, batch):
    totals = totals_of(batch)
    known = db.execute("""
        UPDATE customer_totals
           SET orders = customer_totals.orders + added.orders,
               spent_cents = customer_totals.spent_cents + added.cents
          FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[])
               AS added (customer_id, currency, orders, cents)
         WHERE customer_totals.customer_id = added.customer_id
           AND customer_totals.currency = added.currency
     RETURNING customer_totals.customer_id""", columns(totals)).fetchall()
    for customer, in known:
        del totals[customer]
    if totals:
        upsert_totals(db, batch, totals)


ON_CONFLICT = "ON CONFLICT (message_id, consumer_group) DO NOTHING"
STATEMENTS = {
    "claims: on conflict, returning": insert_claims(ON_CONFLICT + " RETURNING message_id"),
    "claims: on conflict": insert_claims(ON_CONFLICT),
    "claims: plain insert": insert_claims(""),
    "claims: look-up": look_up_claims,
    "claims: copy": copy_claims,
    "orders: lock": lock_orders,
    "orders: on conflict": insert_orders("ON CONFLICT (order_id) DO NOTHING"),
    "orders: plain insert": insert_orders(""),
    "orders: copy": copy_orders,
    "totals: on conflict": upsert_totals,
    "totals: update, then insert": update_totals,
}


def seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wal(db):
    return int(db.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()[0])


def rows_in_batches():
    start_ms = int(time.time() * 1000) - ROWS // 50
    rows = [Row(number, start_ms) for number in range(ROWS)]
    return [sorted(rows[at:at + BATCH], key=lambda row: row.message)
            for at in range(0, ROWS, BATCH)]


def main():
    batches = rows_in_batches()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
        for name, run in STATEMENTS.items():
            if ONLY and not any(text in name for text in ONLY):
                continue
            db.execute("TRUNCATE processed_messages, orders, customer_totals")
            db.execute("CHECKPOINT")
            wal_before, before = wal(db), seconds(db.info.backend_pid)
            for batch in batches:
                with db.transaction():
                    run(db, batch)
            took = seconds(db.info.backend_pid) - before
            print(f"{name:32} {took / ROWS * 1e6:6.2f} s/million   "
                  f"WAL {(wal(db) - wal_before) / ROWS:4.0f} B/row", flush=True)


if __name__ == "__main__":
    main()
