#!/usr/bin/env python3
"""How fast orders go in by HTTP, with everything on this machine: gateway, relay, Kafka, consumer and
PostgreSQL. Each request is a new order with a key of its own, at a constant rate (vegeta, which counts
what a slow answer delays). The auditor looks at all of it in the end.

    cargo build --release && go install github.com/tsenart/vegeta/v12@latest
    bench/orders_by_http.py                  # 200, 500 and 2,000 orders/s, 20 s each

From POST to row is the time from the request to the commit of the row in `orders`, by PostgreSQL's
clock of commits, which is this machine's as well.
"""

import argparse
import base64
import datetime
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "target" / "release"
STACK = [PROGRAMS / "local-stack", "--name", "http-bench"]
LISTEN = "127.0.0.1:18080"
URL = f"http://{LISTEN}/v1/orders"


def run(*command, **more):
    return subprocess.run([str(it) for it in command], check=True, capture_output=True, text=True, **more).stdout


def sql(statement):
    return run("psql", os.environ["DATABASE_URL"], "-Atc", statement)


def targets(count):
    for number in range(count):
        body = {
            "customer_id": f"c-{number % 1000}",
            "currency": "EUR",
            "items": [{"sku": "TEA-1", "quantity": 1 + number % 9, "unit_price_cents": 450}],
        }
        headers = {"Content-Type": ["application/json"], "Idempotency-Key": [str(uuid.uuid4())]}
        body = base64.b64encode(json.dumps(body).encode()).decode()
        yield json.dumps({"method": "POST", "url": URL, "header": headers, "body": body})


def attack(rate, seconds, folder):
    """Returns the answers: status, time of the request and latency in seconds, and the order's id."""
    asked, answered = folder / f"{rate}.targets", folder / f"{rate}.answers"
    asked.write_text("\n".join(targets(rate * seconds)))
    run("vegeta", "attack", "-format=json", f"-targets={asked}", f"-rate={rate}", f"-duration={seconds}s",
        "-workers=64", "-max-connections=256", f"-output={answered}")
    for line in run("vegeta", "encode", "--to=json", answered).splitlines():
        result = json.loads(line)
        begun = datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", result["timestamp"])).timestamp()
        order = json.loads(base64.b64decode(result["body"]))["order_id"] if result["code"] == 201 else None
        yield result["code"], begun, result["latency"] / 1e9, order


def quantiles(times):
    times = sorted(times)
    return [f"{1000 * times[min(int(len(times) * share), len(times) - 1)]:.1f}" for share in (0.5, 0.99, 1)]


def committed():
    """When the row of each order was committed."""
    rows = sql("SELECT order_id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM orders")
    return {order: float(at) for order, at in (row.split("|") for row in rows.splitlines())}


def rows_of(good):
    """When the row of each of these was committed, once all of them have one."""
    deadline = time.monotonic() + 60
    while not {order for *_, order in good} <= (rows := committed()).keys():
        if time.monotonic() > deadline:
            sys.exit("orders were answered 201 and have no row a minute later")
        time.sleep(0.5)
    return rows


def measure(rate, seconds, folder):
    answers = list(attack(rate, seconds, folder))
    good = [answer for answer in answers if answer[0] == 201]
    span = max(begun + latency for _, begun, latency, _ in answers) - min(answer[1] for answer in answers)
    rows = rows_of(good)
    to_row = [rows[order] - begun for _, begun, _, order in good]
    others = len(answers) - len(good)
    print("|", " | ".join([f"{rate}", f"{len(good) / span:.0f}", str(others), *quantiles(answer[2] for answer in good),
                           *quantiles(to_row)]), "|", flush=True)
    return others


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rates", type=int, nargs="+", default=[200, 500, 2000], metavar="ORDERS")
    arguments.add_argument("--seconds", type=int, default=20)
    given = arguments.parse_args()
    for program in ["vegeta", "psql", PROGRAMS / "order-producer", PROGRAMS / "order-consumer", STACK[0]]:
        if not shutil.which(program):
            sys.exit(f"{program} is missing; see --help")
    run(*STACK, "up", "--kafka-port", "0", "--postgres-port", "0", "--postgres-setting", "track_commit_timestamp=on")
    children = []
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        try:
            for line in run(*STACK, "env").splitlines():
                name, value = re.fullmatch(r"export (\w+)=(.*)", line).groups()
                os.environ[name] = shlex.split(value)[0]
            run(PROGRAMS / "order-consumer", "migrate")
            for command in [
                ["order-consumer", "run", "--listen", "127.0.0.1:0"],
                ["order-producer", "serve", "--listen", LISTEN, "--no-auth", "--rate-per-address", "0"],
            ]:
                children.append(subprocess.Popen([PROGRAMS / command[0], *command[1:]], stdout=nowhere, stderr=nowhere))
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"http://{LISTEN}/readyz", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            # Connections, plans, topics, and the consumer's way into its group.
            rows_of([answer for answer in attack(100, 3, pathlib.Path(folder)) if answer[0] == 201])
            print("| asked orders/s | answered 201/s | others | answer p50 ms | p99 | most | POST to row p50 ms | p99 | most |")
            print("| ---: " * 9 + "|")
            others = [measure(rate, given.seconds, pathlib.Path(folder)) for rate in given.rates]
            print(run(PROGRAMS / "order-consumer", "verify", "--wait", "30s").strip().splitlines()[-1])
        finally:
            for child in children:
                child.send_signal(signal.SIGTERM)
            for child in children:
                child.wait(60)
            subprocess.run([*STACK, "down", "--remove-data"], capture_output=True)
    sys.exit(any(others))


main()
