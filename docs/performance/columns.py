#!/usr/bin/env python3
"""What claims and orders would cost PostgreSQL with other columns, fill factors and keys: processor seconds of
one backend per million rows, log, table and index bytes per row. Beside the tables as they are, in turns.

    pip install 'psycopg[binary]'
    DATABASE_URL=… order-consumer migrate      # a database to play with: schema `columns` is made in it
    DATABASE_URL=… columns.py ROWS BATCH ROUNDS [NAME …]

On the machine of the server, whose /proc is read.
"""
import os
import statistics
import sys

import psycopg
from psycopg.types.json import Jsonb

from statements import BATCH, PLACED, ROWS, rows_in_batches, seconds, wal

ROUNDS, ONLY = int(sys.argv[3]), sys.argv[4:]

CLAIM = {"message_id": "uuid", "offset": "int8", "batch_seq": "int8", "processed_at": "timestamptz",
         "partition": "int4", "consumer_group": "text", "topic": "text", "outcome": "text",
         "fingerprint": "bytea"}
ORDER = {"order_id": "uuid", "customer_id": "text", "status": "text", "currency": "text",
         "total_cents": "int8", "items": "jsonb", "placed_at": "timestamptz",
         "updated_at": "timestamptz", "last_message_id": "uuid"}
OUTCOMES = "CHECK (outcome IN ('applied', 'dead_lettered', 'skipped'))"
STATES = "CHECK (status IN ('placed', 'paid', 'fulfilled', 'cancelled'))"
CLAIM_KEY = "PRIMARY KEY (message_id, consumer_group)"
ORDER_KEY = "PRIMARY KEY (order_id)"


class Variant:
    """A table: its columns, its constraints, its storage, and the values that are not the usual ones."""

    def __init__(self, columns, rest, values, storage=""):
        self.columns, self.rest, self.values, self.storage = columns, rest, values, storage

    def create(self, db):
        body = [f'"{name}" {kind} NOT NULL' for name, kind in self.columns.items()] + self.rest
        db.execute("DROP TABLE IF EXISTS columns.t")
        db.execute(f"CREATE TABLE columns.t ({', '.join(body)}) {self.storage}")

    def fill(self, db, batch, first):
        names = ", ".join(f'"{name}"' for name in self.columns)
        with db.cursor().copy(f"COPY columns.t ({names}) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(list(self.columns.values()))
            for number, row in enumerate(batch, first):
                values = self.values(row, number)
                copy.write_row([values[name] for name in self.columns])


def claim(row, number):
    return {"message_id": row.message, "offset": number, "batch_seq": number // BATCH,
            "processed_at": PLACED, "partition": 0, "consumer_group": "order-consumer",
            "topic": "orders", "outcome": "applied", "fingerprint": row.fingerprint}


def order(row, _):
    return {"order_id": row.order, "customer_id": row.customer, "status": "placed",
            "currency": "EUR", "total_cents": row.cents, "items": Jsonb(row.items),
            "placed_at": PLACED, "updated_at": PLACED, "last_message_id": row.message}


def small(values, **given):
    return lambda row, number: values(row, number) | given


SMALL_GROUP = CLAIM | {"consumer_group": "int2", "topic": "int2"}
VARIANTS = {
    "claims: as they are": Variant(CLAIM, [OUTCOMES, CLAIM_KEY], claim),
    "claims: group and topic as small keys": Variant(
        SMALL_GROUP, [OUTCOMES, CLAIM_KEY], small(claim, consumer_group=1, topic=1)),
    "claims: these and the outcome": Variant(
        SMALL_GROUP | {"outcome": "int2"}, ["CHECK (outcome IN (1, 2, 3))", CLAIM_KEY],
        small(claim, consumer_group=1, topic=1, outcome=1)),
    "claims: no group in the key": Variant(
        CLAIM, [OUTCOMES, "PRIMARY KEY (message_id)"], claim),
    "claims: fill factor of the index 100": Variant(
        CLAIM, [OUTCOMES, CLAIM_KEY + " WITH (fillfactor = 100)"], claim),
    "orders: as they are": Variant(ORDER, [STATES, ORDER_KEY], order),
    "orders: columns of fixed width first": Variant(
        {name: ORDER[name] for name in ("order_id", "last_message_id", "total_cents", "placed_at",
                                        "updated_at", "customer_id", "status", "currency", "items")},
        [STATES, ORDER_KEY], order),
    "orders: status and currency as small keys": Variant(
        ORDER | {"status": "int2", "currency": "int2"},
        ["CHECK (status IN (1, 2, 3, 4))", ORDER_KEY], small(order, status=1, currency=1)),
    "orders: items as json": Variant(ORDER | {"items": "json"}, [STATES, ORDER_KEY], order),
    "paid orders: as they are": Variant(ORDER, [STATES, ORDER_KEY], order),
    "paid orders: fill factor 90": Variant(
        ORDER, [STATES, ORDER_KEY], order, "WITH (fillfactor = 90)"),
    "paid orders: fill factor 50": Variant(
        ORDER, [STATES, ORDER_KEY], order, "WITH (fillfactor = 50)"),
}


def pay(db, batch):
    db.execute("UPDATE columns.t SET status = 'paid', updated_at = now() WHERE order_id = ANY(%b)",
               [[row.order for row in batch]], binary=True)


def measure(db, name, batches):
    VARIANTS[name].create(db)
    db.execute("CHECKPOINT")
    wal_before, before = wal(db), seconds(db.info.backend_pid)
    for number, batch in enumerate(batches):
        with db.transaction():
            VARIANTS[name].fill(db, batch, number * BATCH)
        if name.startswith("paid"):
            with db.transaction():
                pay(db, batch)
    took, logged = seconds(db.info.backend_pid) - before, wal(db) - wal_before
    table, index = db.execute(
        "SELECT pg_table_size('columns.t'), pg_indexes_size('columns.t')").fetchone()
    return took / ROWS * 1e6, logged / ROWS, table / ROWS, index / ROWS


def main():
    batches = rows_in_batches()
    names = [name for name in VARIANTS if not ONLY or any(text in name for text in ONLY)]
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
        db.execute("CREATE SCHEMA IF NOT EXISTS columns")
        rounds = [{name: measure(db, name, batches) for name in names} for _ in range(ROUNDS)]
        db.execute("DROP SCHEMA columns CASCADE")
    for name in names:
        cpu, logged, table, index = zip(*(of[name] for of in rounds))
        each = ", ".join(f"{one:.2f}" for one in cpu)
        print(f"{name:42} {statistics.median(cpu):5.2f} s/million ({each})   WAL "
              f"{statistics.median(logged):4.0f}   table {table[0]:4.0f}   index {index[0]:4.0f} B/row")


main()
