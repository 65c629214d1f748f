#!/usr/bin/env python3
"""Does what docs/walkthrough.md tells its reader to do, and holds it to what it says will be seen.

  .ci/walkthrough.py [--show] [--keep-going] [FILE]

The fenced `sh` blocks run in their order in one bash, so that variables and background jobs live on. Each
has to end with exit code 0 within two minutes. A `text` block behind it is what it prints, line by line:
`…` within a line stands for anything, a line of `…` alone for any lines. Needs curl, psql, Python 3 with
venv, and what the stack needs; brings its own servers. --show prints what each block printed, and --keep-going
goes on behind one that printed something else.
"""

import argparse
import functools
import os
import pathlib
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATIENCE = 120  # seconds for a block; the first one builds
BUILD_PATIENCE = 1200
STACK = "walkthrough"


class Block:
    """Commands, with the line of their fence, and what they are to print, if that is said."""

    def __init__(self, line, commands):
        self.line, self.commands = line, commands
        self.text_line, self.text = None, None


def blocks_of(text):
    blocks, fence, taken = [], None, None
    for number, line in enumerate(text.splitlines(), 1):
        if fence is None:
            if line.startswith("```"):
                fence, start, taken = line[3:].strip(), number, []
        elif line.startswith("```"):
            if fence == "sh":
                blocks.append(Block(start, taken))
            elif fence == "text":
                if not blocks or blocks[-1].text is not None:
                    sys.exit(f"line {start}: a text block without commands before it")
                blocks[-1].text_line, blocks[-1].text = start, trimmed(taken)
            fence = None
        else:
            taken.append(line)
    if fence is not None:
        sys.exit(f"line {start}: a block without an end")
    return blocks


def fits(expected, line):
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, line) is not None


def first_misfit(expected, printed):
    """None if what was printed is as expected, else the line of each where it is not."""
    furthest = (0, 0)

    @functools.cache
    def match(i, j):
        nonlocal furthest
        if i > furthest[0]:
            furthest = (i, j)
        if i == len(expected):
            return j == len(printed)
        if expected[i] == "…":
            return match(i + 1, j) or (j < len(printed) and match(i, j + 1))
        return j < len(printed) and fits(expected[i], printed[j]) and match(i + 1, j + 1)

    return None if match(0, 0) else furthest


class Shell:
    """A bash in a process group of its own, with all that it starts in the background."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.token = secrets.token_hex(8)
        environment = {
            name: value for name, value in os.environ.items()
            if name not in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "RUST_LOG", "LOG_FORMAT")
            and not name.startswith(("ORDER_", "ORDERS_", "NOTIFICATION_", "CONSUMER_", "PG"))
        }
        ports = free_ports()
        for variable in ("api", "consumer", "smtp"):
            environment[variable] = f"127.0.0.1:{next(ports)}"
        environment |= {"TMPDIR": str(scratch), "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        self.process = subprocess.Popen(["bash", "--noprofile", "--norc"], cwd=ROOT, env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        self.unread = b""

    def run(self, commands, patience):
        """The lines that the commands print, and their exit code: None if they did not end in time."""
        script = self.scratch / "block"
        script.write_text("\n".join(commands) + "\n")
        # Nothing that a command could read, or it would take the next block.
        line = f". {script} </dev/null; printf '\\n%s %s\\n' {self.token} $?\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return ["the shell has ended"], None
        end = re.compile(rb"\n" + self.token.encode() + rb" (\d+)\n")
        deadline = time.monotonic() + patience
        while not (found := end.search(self.unread)):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            read = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not read:
                why = "the shell has ended" if ready else f"not done after {patience} s"
                return [*lines_of(self.unread), f"({why})"], None
            self.unread += read
        printed, self.unread = self.unread[:found.start()], self.unread[found.end():]
        return lines_of(printed), int(found[1])

    def end(self):
        """Ends what runs in the group, by its number."""
        self.process.stdin.close()
        for kind, patience in [(signal.SIGTERM, 10), (signal.SIGKILL, 5)]:
            deadline = time.monotonic() + patience
            try:
                os.killpg(self.process.pid, kind)
                while time.monotonic() < deadline:
                    self.process.poll()
                    os.killpg(self.process.pid, 0)
                    time.sleep(0.05)
            except ProcessLookupError:
                break
        self.process.wait()


def lines_of(output):
    return trimmed(output.decode(errors="replace").replace("\r", "").split("\n"))


def trimmed(lines):
    lines = [line.rstrip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def free_ports():
    """Below those of outgoing connections: who keeps connecting to a stopped server must not get its port."""
    for port in range(10_000 + os.getpid() * 7 % 9_000, 20_000):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def down():
    stack = ROOT / "target" / "debug" / "local-stack"
    if stack.exists():
        subprocess.run([stack, "--name", STACK, "down", "--remove-data"], capture_output=True)


def fail(file, block, why, printed, expected=None):
    print(f"\n{file.name}, line {block.line}: {why}")
    for command in block.commands:
        print(f"  $ {command}")
    for name, lines in [("expected", expected), ("printed", printed)]:
        if lines is not None:
            print(f"{name}:")
            print("".join(f"  | {line}\n" for line in lines) or "  (nothing)\n", end="")
    return 1


def walk(file, blocks, shell, show, keep_going):
    code = 0
    for number, block in enumerate(blocks):
        begun = time.monotonic()
        printed, ended = shell.run(block.commands, BUILD_PATIENCE if number == 0 else PATIENCE)
        if ended != 0:
            return fail(file, block, f"ended with exit code {ended}" if ended else "did not end", printed)
        if block.text is not None and (misfit := first_misfit(block.text, printed)):
            fitting, read = misfit
            wanted = block.text[fitting] if fitting < len(block.text) else "(no more lines)"
            got = printed[read] if read < len(printed) else "(no more lines)"
            why = f"line {block.text_line + 1 + fitting} says\n  {wanted}\nand what came is\n  {got}"
            code = fail(file, block, why, printed, block.text)
            if not keep_going:
                return code
            continue
        said = "as it says" if block.text is not None else "done"
        print(f"ok  line {block.line}: {said}, {time.monotonic() - begun:.1f} s", flush=True)
        if show:
            print("".join(f"    | {line}\n" for line in printed), end="", flush=True)
    return code


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--show", action="store_true")
    arguments.add_argument("--keep-going", action="store_true")
    arguments.add_argument("file", nargs="?", type=pathlib.Path, default=ROOT / "docs" / "walkthrough.md")
    given = arguments.parse_args()
    blocks = blocks_of(given.file.read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    down()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        shell = Shell(scratch)
        code = 1
        try:
            code = walk(given.file, blocks, shell, given.show, given.keep_going)
        finally:
            shell.end()
            down()
            if code:
                for log in sorted(scratch.rglob("*.log")):
                    lines = log.read_text(errors="replace").splitlines()
                    print(f"\nthe end of {log.name}:", *lines[-15:], sep="\n  ")
    if code == 0:
        print(f"{len(blocks)} blocks of {given.file.name} do what it says")
    return code


if __name__ == "__main__":
    sys.exit(main())
