#!/usr/bin/env python3
"""Uses the order page as a person would, in a headless Chromium: places, pays, cancels, presses twice,
and sees each stage; then a dead letter with its reason, a phone's width, API keys, and the API's page.

  .ci/order_page.py [--screenshots FOLDER]

Needs `chromium` and `chromium-driver` (Debian's packages of these names), and the programs built by
`cargo build`. Brings its own servers. Exit code 0: everything was seen.
"""

import argparse
import base64
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PROGRAMS = pathlib.Path(__file__).resolve().parent.parent / "target" / "debug"
STACK = ["--name", "order-page"]
PATIENCE = 60  # seconds for each step
children = []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(command, log, **variables):
    child = subprocess.Popen([str(it) for it in command], stdout=log, stderr=log, env={**os.environ, **variables})
    children.append(child)
    return child


def stop(child):
    child.terminate()
    child.wait(timeout=PATIENCE)


def run(program, *arguments):
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program} {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def ask(url, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def until(what, look):
    """Waits until `look` returns something true, and returns that."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if found := look():
                print(f"ok  {what}", flush=True)
                return found
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    sys.exit(f"not seen within {PATIENCE} s: {what}\n{page_text()}")


class Browser:
    """Chromium, by the WebDriver protocol."""

    def __init__(self, log):
        port = free_port()
        start(["chromedriver", f"--port={port}"], log)
        driver = f"http://127.0.0.1:{port}"
        until("chromedriver answers", lambda: ask(f"{driver}/status")["value"]["ready"])
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = ask(f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"{driver}/session/{session['value']['sessionId']}"
        self.complaints = []
        self.size(1200, 1000)

    def end(self):
        """Else Chromium outlives its driver."""
        ask(self.session, method="DELETE")

    def post(self, path, **body):
        return ask(f"{self.session}/{path}", body)["value"]

    def go(self, url):
        self.post("url", url=url)

    def js(self, script):
        return self.post("execute/sync", script=script, args=[])

    def size(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def press(self, selector):
        [element] = self.post("element", using="css selector", value=selector).values()
        self.post(f"element/{element}/click")

    def write(self, selector, text):
        [element] = self.post("element", using="css selector", value=selector).values()
        self.post(f"element/{element}/clear")
        self.post(f"element/{element}/value", text=text)

    def text(self, selector):
        return self.js(f"const it = document.querySelector({selector!r}); return it && !it.hidden ? it.innerText : ''")

    def picture(self, folder, name):
        if not folder:
            return
        height = self.js("return document.documentElement.scrollHeight")
        width = self.js("return innerWidth")
        self.size(width, max(height, 400))
        data = ask(f"{self.session}/screenshot")["value"]
        (folder / f"{name}.png").write_bytes(base64.b64decode(data))
        self.size(width, 1000)

    def check_complaints(self):
        """A request that fails shows in the console too; what is left is the page's own fault."""
        for entry in self.post("se/log", type="browser"):
            if entry["source"] != "network":
                self.complaints.append(entry["message"])
        if self.complaints:
            sys.exit(f"the browser complains: {self.complaints}")


browser = None


def page_text():
    return browser.text("body") if browser else ""


def stages():
    return browser.js("return [...document.querySelectorAll('#stages li[data-stage]')].map((it) => it.dataset.stage)")


def listed():
    return browser.js("return [...document.querySelectorAll('#orders button')].map((it) => it.dataset.id)")


def shown():
    return browser.text("#order-id")


def sees(state, *passed):
    until(f"the order is {state}, after {' '.join(passed) or 'nothing'}",
          lambda: browser.text("#state") == state.replace("_", " ") and stages() == [*passed, state])


def twice(button):
    browser.js(f"const it = document.getElementById({button!r}); it.click(); it.click();")


def is_ready(address):
    def look():
        with urllib.request.urlopen(f"{address}/livez", timeout=2):
            return True

    until(f"{address} answers", look)


def main():
    global browser
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--screenshots", type=pathlib.Path)
    pictures = arguments.parse_args().screenshots
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    for program in ["chromium", "chromedriver"]:
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install chromium chromium-driver")
    subprocess.run([PROGRAMS / "local-stack", *STACK, "up", "--kafka-port", "0", "--postgres-port", "0"], check=True)
    with tempfile.NamedTemporaryFile("w+") as log:
        try:
            for line in run("local-stack", *STACK, "env").splitlines():
                name, value = re.fullmatch(r"export (\w+)=(.*)", line).groups()
                os.environ[name] = shlex.split(value)[0]
            run("order-consumer", "migrate")
            use(pictures, log)
        except BaseException:
            log.seek(0)
            sys.stderr.write("".join(log.readlines()[-40:]))
            raise
        finally:
            if browser:
                browser.end()
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
            subprocess.run([PROGRAMS / "local-stack", *STACK, "down", "--remove-data"], capture_output=True)
    print("the order page does what it says")


def use(pictures, log):
    global browser
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    serve = [PROGRAMS / "order-producer", "serve", "--listen", f"127.0.0.1:{port}"]
    consume = [PROGRAMS / "order-consumer", "run", "--listen", "127.0.0.1:0", "-X", "session.timeout.ms=6000"]
    gateway = start([*serve, "--no-auth"], log)
    is_ready(address)
    browser = Browser(log)

    browser.go(f"{address}/")
    until("the form is there", lambda: browser.text("#total") == "9.00 EUR")
    browser.picture(pictures, "empty")

    # Nobody consumes yet: it can be seen that it is only accepted. Pressed twice it is placed once.
    twice("place")
    sees("accepted")
    order = shown()
    until("it waits to take effect", lambda: "Waiting to take effect: placed" in browser.text("#stages"))
    until("the list has it, once", lambda: listed() == [order])
    browser.press("#again")
    until("sent again, the same order comes back", lambda: f"same order came back, {order}" in browser.text("#notice"))
    assert listed() == [order] and shown() == order, listed()
    browser.picture(pictures, "again")

    consumer = start(consume, log)
    sees("placed", "accepted")
    twice("pay")
    sees("paid", "accepted", "placed")
    browser.picture(pictures, "paid")
    browser.press("#cancel")
    sees("cancelled", "accepted", "placed", "paid")
    story = json.loads(run("order-consumer", "show", order, "-o", "json"))
    print(f"    {len(json.dumps(story))} characters of its story")
    assert browser.js("return document.getElementById('pay').disabled && document.getElementById('cancel').disabled")

    browser.write("#items .quantity", "0")
    browser.press("#place")
    until("a wrong quantity is named", lambda: "/items/0/quantity" in browser.text("#notice"))
    browser.picture(pictures, "wrong")
    browser.write("#items .quantity", "3")
    browser.press("#place")
    sees("placed", "accepted")
    assert len(listed()) == 2 and shown() != order, listed()

    # A payment that is too late: somebody else has cancelled the order before.
    stop(consumer)
    late = shown()
    run("order-producer", "cancel", late, "--customer", "c-17")
    browser.press("#pay")
    until("the payment is accepted", lambda: "Waiting to take effect: paid" in browser.text("#stages"))
    consumer = start(consume, log)
    until("the payment is a dead letter, with its reason",
          lambda: "wrong_status" in browser.text("#dead-letters") and browser.text("#state") == "cancelled")
    stop(consumer)

    # An order that never takes effect: its id is another customer's in Kafka before it gets there. That
    # needs a gateway without Kafka, and a customer of the same partition.
    stop(gateway)
    gateway = start([*serve, "--no-auth"], log, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    is_ready(address)
    browser.press("#place")
    sees("accepted")
    doomed = shown()
    assert doomed not in (order, late)

    def send(customer, *more):
        sent = run("order-producer", "send", "--customer", customer, "--item", "X:1:1", "-o", "jsonl", *more)
        return json.loads(sent.splitlines()[0])["partition"]

    partition = send("c-17")
    other = next(name for name in (f"other-{n}" for n in range(100)) if send(name) == partition)
    send(other, "--order-id", doomed)
    stop(gateway)
    gateway = start([*serve, "--no-auth"], log)
    is_ready(address)
    consumer = start(consume, log)
    sees("dead_lettered", "accepted")
    until("and says why", lambda: "customer_mismatch" in browser.text("#dead-letters"))
    until("the list says so too", lambda: "dead lettered" in browser.text("#orders"))
    browser.picture(pictures, "dead-lettered")

    browser.size(390, 844)
    for page, ready in [("/", lambda: len(listed()) == 3), ("/docs", lambda: "Problem codes" in page_text())]:
        browser.go(address + page)
        until(f"{page} is there", ready)
        width = browser.js("return document.documentElement.scrollWidth")
        assert width <= 390, f"{page} is {width} wide on a phone"
        browser.picture(pictures, f"phone{page.replace('/', '-').rstrip('-')}")
    browser.size(1200, 1000)
    browser.go(f"{address}/docs#placeOrder")
    operations = sum(len(methods) for methods in ask(f"{address}/openapi.json")["paths"].values())
    until(f"the API's page has its {operations} operations",
          lambda: browser.js("return document.querySelectorAll('.operation').length") == operations)
    until("and the one that was linked is open", lambda: "Idempotency-Key" in browser.text("#placeOrder"))
    browser.picture(pictures, "docs")

    # With API keys.
    stop(gateway)
    gateway = start(serve, log)
    is_ready(address)
    browser.go(f"{address}/")
    until("a key is asked for", lambda: "API key" in browser.text("#access"))
    browser.picture(pictures, "key")
    browser.write("#api-key", run("order-producer", "keys", "create", "--client", "page").strip())
    browser.press("#access button")
    until("with it the page is let in", lambda: not browser.text("#access") and not browser.text("#no-orders"))
    browser.press("#place")
    sees("placed", "accepted")
    browser.go(f"{address}/")
    until("the tab keeps the key", lambda: listed() and not browser.text("#access"))
    assert browser.js("return localStorage.length") == 0
    browser.check_complaints()


if __name__ == "__main__":
    main()
