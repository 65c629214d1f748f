"""A real SMTP server for the tests, which keeps its mails in a file: a JSON text a line, on disk before
the server says that it has taken the mail. Arguments: port, file. Ends with its parent.

A recipient's name says what becomes of the mail: refused-… is no mailbox, later-… is put off until there
is a file FILE.open, slow-… has its first mail taken and the answer held back for a while.
"""

import asyncio
import email
import json
import os
import sys

from aiosmtpd.controller import Controller

port, path = int(sys.argv[1]), sys.argv[2]
seen = set()


class Mailboxes:
    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.partition("@")[0]
        if name.startswith("refused"):
            return "550 5.1.1 no such mailbox"
        if name.startswith("later") and not os.path.exists(path + ".open"):
            return "450 4.2.0 come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content)
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": {name.lower(): value for name, value in mail.items()},
            "text": mail.get_payload(decode=True).decode(),
        }
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        first = envelope.rcpt_tos[0] not in seen
        seen.add(envelope.rcpt_tos[0])
        if first and envelope.rcpt_tos[0].startswith("slow"):
            await asyncio.sleep(4)
        return "250 2.0.0 queued"


controller = Controller(Mailboxes(), hostname="127.0.0.1", port=port)
controller.start()
print("listening", flush=True)
sys.stdin.read()
os._exit(0)
