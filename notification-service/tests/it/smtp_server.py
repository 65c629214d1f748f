"""A real SMTP server for the tests, which keeps its mails in a file: a JSON text a line, on disk before
the server says that it has taken the mail. Ends with its parent.

With --certificate it is encrypted: from the first byte, or with --starttls once the client asks for it,
and before that it takes nothing. With --login it wants that user and password, and notes in FILE.logins
who came with what.

A recipient's name says what becomes of the mail: refused-… is no mailbox, later-… is put off until there
is a file FILE.open, slow-… has its first mail taken and the answer held back for a while.
"""

import argparse
import asyncio
import email
import json
import os
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("file")
parser.add_argument("--certificate", help="PEM file of a key and its certificate")
parser.add_argument("--starttls", action="store_true")
parser.add_argument("--login", help="USER:PASSWORD")
arguments = parser.parse_args()
path = arguments.file
seen = set()


def authenticate(server, session, envelope, mechanism, login):
    given = f"{login.login.decode()}:{login.password.decode()}"
    with open(path + ".logins", "a") as file:
        file.write(given + "\n")
    return AuthResult(success=given == arguments.login, handled=False)


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
        parts = {part.get_content_type(): part for part in mail.walk() if not part.is_multipart()}
        contents = {name: part.get_payload(decode=True).decode() for name, part in parts.items()}
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": {name.lower(): value for name, value in mail.items()},
            "text": contents["text/plain"],
            "page": contents.get("text/html"),
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


settings = {}
if arguments.certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate)
    if arguments.starttls:
        settings |= {"tls_context": context, "require_starttls": True}
    else:
        # What it means by TLS is STARTTLS, which there is none of here.
        settings |= {"ssl_context": context, "auth_require_tls": False}
if arguments.login:
    settings |= {"authenticator": authenticate, "auth_required": True}
controller = Controller(Mailboxes(), hostname="127.0.0.1", port=arguments.port, **settings)
controller.start()
print("listening", flush=True)
sys.stdin.read()
os._exit(0)
