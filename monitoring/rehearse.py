#!/usr/bin/env python3
"""Has one alert fire and resolve for real: OrderConsumerDown.

A consumer on a stack of its own, Prometheus with the rules of this folder, Alertmanager, and a
receiver that waits for what Alertmanager sends. The consumer is killed, and started again. So that
it takes seconds, scrapes are a second apart and each `for` of the rules is two seconds.

Needs `prometheus` and `prometheus-alertmanager` (Debian's packages of these names), and the programs
built by `cargo build`. Exit code 0: it fired, and resolved.
"""

import http.server
import json
import os
import pathlib
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

FOLDER = pathlib.Path(__file__).resolve().parent
PROGRAMS = FOLDER.parent / "target" / "debug"
STACK = ["--name", "alerts"]
PATIENCE = 90  # seconds for each step
heard = queue.Queue()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            heard.put((alert["labels"]["alertname"], alert["status"], alert["annotations"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def wait_for(name, status):
    """The next notification of this alert is to be this one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            alert, its, annotations = heard.get(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            sys.exit(f"{name} was not {status} within {PATIENCE} s")
        print(f"{time.strftime('%H:%M:%S')} {alert} {its}: {annotations['summary']}")
        if (alert, its) == (name, status):
            return annotations


def wait_until_ready(url):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"{url} did not answer within {PATIENCE} s")


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def wait_until_quiet(prometheus, alertmanager):
    """The consumer is scraped, and no alert is under way."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        scraped = get(f"{prometheus}/api/v1/query?query=up")["data"]["result"]
        if (any(it["value"][1] == "1" for it in scraped)
                and not get(f"{prometheus}/api/v1/alerts")["data"]["alerts"]
                and not get(f"{alertmanager}/api/v2/alerts")):
            return
        time.sleep(0.5)
    sys.exit(f"alerts were under way for {PATIENCE} s with the consumer running")


def main():
    for program in ["prometheus", "prometheus-alertmanager"]:
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install prometheus prometheus-alertmanager")
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    children = []
    consumer_port, prometheus_port, alertmanager_port = free_port(), free_port(), free_port()
    stack = PROGRAMS / "local-stack"
    subprocess.run([stack, "up", *STACK], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        log = (scratch / "log").open("w")

        def start(*command):
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            children.append(child)
            return child

        def start_consumer():
            child = start(PROGRAMS / "order-consumer", "run", "-X", "session.timeout.ms=6000",
                          "--listen", f"127.0.0.1:{consumer_port}")
            wait_until_ready(f"http://127.0.0.1:{consumer_port}/readyz")
            return child

        try:
            lines = subprocess.run([stack, "env", *STACK], check=True, capture_output=True, text=True)
            exports = [line.split("=", 1) for word in lines.stdout.splitlines()
                       for line in shlex.split(word) if "=" in line]
            environment = {**os.environ, **dict(exports)}
            subprocess.run([PROGRAMS / "order-consumer", "migrate"], check=True, env=environment,
                           stdout=log, stderr=log)
            rules = (FOLDER / "rules" / "order-pipeline.yml").read_text()
            (scratch / "rules.yml").write_text(re.sub(r"for: \d+m", "for: 2s", rules))
            (scratch / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager_port}"]}}]}}]}}
scrape_configs:
  - {{job_name: order-consumer, static_configs: [{{targets: ["127.0.0.1:{consumer_port}"]}}]}}
""")
            config = (FOLDER / "alertmanager.yml").read_text()
            config = config.replace("group_wait: 10s", "group_wait: 1s")
            config = config.replace("group_interval: 1m", "group_interval: 1s")
            config = config.replace("  - name: page\n", f"""  - name: page
    webhook_configs: [{{url: "http://127.0.0.1:{receiver.server_port}/"}}]
""")
            (scratch / "alertmanager.yml").write_text(config)
            threading.Thread(target=receiver.serve_forever, daemon=True).start()
            consumer = start_consumer()
            start("prometheus-alertmanager", f"--config.file={scratch}/alertmanager.yml",
                  f"--storage.path={scratch}/alertmanager", "--cluster.listen-address=",
                  f"--web.listen-address=127.0.0.1:{alertmanager_port}")
            wait_until_ready(f"http://127.0.0.1:{alertmanager_port}/-/ready")
            start("prometheus", f"--config.file={scratch}/prometheus.yml",
                  "--rules.alert.resend-delay=1s",
                  f"--storage.tsdb.path={scratch}/prometheus",
                  f"--web.listen-address=127.0.0.1:{prometheus_port}")
            wait_until_ready(f"http://127.0.0.1:{prometheus_port}/-/ready")
            # Nothing had been scraped at first, so that the alert may fire, and has to be over.
            wait_until_quiet(f"http://127.0.0.1:{prometheus_port}", f"http://127.0.0.1:{alertmanager_port}")
            time.sleep(3)  # more than the intervals at which Alertmanager tells
            while not heard.empty():
                heard.get()
            print(f"{time.strftime('%H:%M:%S')} the consumer is killed")
            consumer.send_signal(signal.SIGKILL)
            consumer.wait()
            annotations = wait_for("OrderConsumerDown", "firing")
            print(f"{time.strftime('%H:%M:%S')} it is started again, as {annotations['runbook']} says")
            start_consumer()
            wait_for("OrderConsumerDown", "resolved")
        finally:
            for child in reversed(children):
                child.terminate()
                child.wait()
            subprocess.run([stack, "down", *STACK], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            shutil.rmtree(FOLDER.parent / "target" / "local-stack" / "stacks" / "alerts", ignore_errors=True)
    print("it fired, and resolved")


if __name__ == "__main__":
    main()
