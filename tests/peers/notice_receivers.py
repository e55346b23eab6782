"""Receivers of notices that share no code with this project: an SMTP server (aiosmtpd) and a webhook that checks signatures.

usage: notice_receivers.py smtp SECURITY FAULTS    SECURITY: starttls, tls, plain
       notice_receivers.py webhook SECURITY FAULTS SECURITY: tls, plain

FAULTS is a list with commas, one for each connection (smtp) or request (webhook); the last one repeats:
  smtp     ok, login (refuses it), recipient (550), busy (451), drop (closes after the greeting), slow (never answers DATA)
  webhook  ok, drop, slow, redirect, flood (an endless answer), or a status such as 503

The first line on standard output is JSON with the port and the certificate in PEM form; then each message is a line. It ends when
its standard input does. The account is `backup` with the password `a password of this test`; the signing key is
`a signing key of this test`."""

import asyncio
import datetime
import email
import email.policy
import hashlib
import hmac
import http.server
import ipaddress
import json
import os
import ssl
import sys
import tempfile
import threading
import time

from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

what, security, faults = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
ACCOUNT, PASSWORD, KEY = b"backup", b"a password of this test", b"a signing key of this test"
lock = threading.Lock()


def tell(**record):
    with lock:
        print(json.dumps(record), flush=True)


def next_fault():
    with lock:
        return faults.pop(0) if len(faults) > 1 else faults[0]


def certificate():
    """A self-signed certificate for 127.0.0.1, as PEM, and an SSL context that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem + secret)
        file.flush()
        context.load_cert_chain(file.name)
    return pem.decode(), context


class Handler:
    def __init__(self, fault):
        self.fault = fault

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.fault == "recipient":
            return "550 5.1.1 No such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if self.fault == "busy":
            return "451 4.3.2 Come back later"
        if self.fault == "slow":
            await asyncio.sleep(3600)
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        tell(
            sender=envelope.mail_from,
            to=envelope.rcpt_tos,
            encrypted=session.ssl is not None or security == "tls",
            login=bool(session.authenticated),
            subject=message["subject"],
            id=message["message-id"],
            headers=sorted(name.lower() for name in message.keys()),
            text=message.get_body().get_content(),
        )
        return "250 2.0.0 Queued as 4711"


def authenticator(fault):
    def check(server, session, envelope, mechanism, data):
        tell(login_tried=True, encrypted=session.ssl is not None or security == "tls")
        good = fault != "login" and data.login == ACCOUNT and data.password == PASSWORD
        return AuthResult(success=good, handled=False) if not good else AuthResult(success=True)

    return check


class Dropping(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"220 receiver\r\n")
        transport.close()


async def smtp(pem, context):
    loop = asyncio.get_running_loop()

    def session():
        fault = next_fault()
        if fault == "drop":
            return Dropping()
        return SMTP(
            Handler(fault),
            hostname="receiver",
            loop=loop,
            tls_context=context if security == "starttls" else None,
            require_starttls=security == "starttls",
            authenticator=authenticator(fault),
            auth_require_tls=security == "starttls",
            # Inside TLS from the first byte the library does not know of it.
        )

    server = await loop.create_server(session, "127.0.0.1", 0, ssl=context if security == "tls" else None)
    tell(port=server.sockets[0].getsockname()[1], ca_pem=pem)
    await server.serve_forever()


class Webhook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        stamp = self.headers["stillframe-timestamp"]
        expected = "v1=" + hmac.new(KEY, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        fault = next_fault()
        tell(
            genuine=hmac.compare_digest(expected, self.headers["stillframe-signature"] or ""),
            fresh=abs(time.time() - int(stamp)) < 300,
            delivery=self.headers["stillframe-delivery"],
            fault=fault,
            body=json.loads(body),
        )
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(3600)
        status = {"ok": 200, "redirect": 302, "flood": 500}.get(fault) or int(fault)
        answer = b"Thank you." if status == 200 else b"Not today."
        self.send_response(status)
        if fault == "redirect":
            self.send_header("location", "http://169.254.169.254/latest")
        if fault == "flood":
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"flood " * 1000)
            except OSError:
                return
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def webhook(pem, context):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    server.daemon_threads = True
    if security == "tls":
        server.socket = context.wrap_socket(server.socket, server_side=True)
    tell(port=server.server_address[1], ca_pem=pem)
    server.serve_forever()


def end_with_standard_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_standard_input, daemon=True).start()
pem, context = certificate()
if what == "smtp":
    asyncio.run(smtp(pem, context))
else:
    webhook(pem, context)
