"""An independent acceptor of WS-Management logins: pyspnego's NTLM behind plain sockets.

    ntlm_acceptor.py http|tls-ntlm|tls-basic --account 'LAB\\backup' --password … [--flip-bit N] [--clear-answer N]
                     [--close-after N]

Prints one line of JSON with its port (and the certificate's SHA-256), answers until its standard input ends, then
prints one line of JSON with what it saw. Every crime of the client (a clear message or password where there must be
none, a second login on a connection, a wrong signature) is in the list "crimes".
"""

import argparse
import base64
import datetime
import hashlib
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
import xml.etree.ElementTree as ElementTree

SOAP = "{http://www.w3.org/2003/05/soap-envelope}"
WSMAN = "{http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd}"
BOUNDARY = b"--Encrypted Boundary"
SEALED_TYPE = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'
LONGEST_BODY_BYTES = 1 << 20

arguments = argparse.ArgumentParser()
arguments.add_argument("mode", choices=["http", "tls-ntlm", "tls-basic"])
arguments.add_argument("--account", required=True)
arguments.add_argument("--password", required=True)
arguments.add_argument("--flip-bit", type=int, default=0, help="flip a bit of the N-th answer")
arguments.add_argument("--clear-answer", type=int, default=0, help="send the N-th answer unsealed")
arguments.add_argument("--close-after", type=int, default=0, help="close the connection after N answers on it")
options = arguments.parse_args()

# pyspnego reads the accounts it knows from a file.
domain, _, user = options.account.rpartition("\\")
accounts = tempfile.NamedTemporaryFile("w", suffix=".txt")
accounts.write(f"{domain}:{user}:{options.password}\n")
accounts.flush()
os.environ["NTLM_USER_FILE"] = accounts.name
import spnego  # noqa: E402
from spnego.channel_bindings import GssChannelBindings  # noqa: E402

lock = threading.Lock()
seen = {"crimes": [], "logins": 0, "rounds": 0, "connections": 0, "refused": 0, "bindings": False}
wire = bytearray()


def crime(text):
    with lock:
        seen["crimes"].append(text)


def certificate():
    """A self-signed certificate and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "acceptor")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(36500))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = builder.add_extension(alternative, False).sign(key, hashes.SHA256())
    file = tempfile.NamedTemporaryFile(suffix=".pem")
    file.write(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    file.write(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    file.flush()
    return file, made.public_bytes(serialization.Encoding.DER)


class Connection:
    def __init__(self, stream, der):
        self.stream, self.buffer, self.answers, self.ready = stream, bytearray(), 0, False
        bindings = None
        if der is not None and options.mode == "tls-ntlm":
            data = b"tls-server-end-point:" + hashlib.sha256(der).digest()
            bindings = GssChannelBindings(application_data=data)
            seen["bindings"] = True
        self.context = spnego.server(protocol="ntlm", channel_bindings=bindings)

    def receive(self):
        piece = self.stream.recv(65536)
        with lock:
            wire.extend(piece)
        if not piece:
            raise EOFError
        self.buffer.extend(piece)

    def request(self):
        while b"\r\n\r\n" not in self.buffer:
            self.receive()
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        assert length <= LONGEST_BODY_BYTES and "transfer-encoding" not in headers
        self.buffer = bytearray(rest)
        while len(self.buffer) < length:
            self.receive()
        body, self.buffer = bytes(self.buffer[:length]), self.buffer[length:]
        if lines[0] != "POST /wsman HTTP/1.1" or "host" not in headers:
            crime(f"the request line or host is wrong: {lines[0]}")
        return headers, body

    def answer(self, status, headers=(), body=b""):
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.stream.sendall(head.encode() + b"\r\n" + body)

    def refuse(self):
        with lock:
            seen["refused"] += 1
        offers = {"tls-basic": ['Basic realm="WSMAN"']}.get(options.mode, ["Negotiate", "Kerberos"])
        self.answer(401, [("WWW-Authenticate", offer) for offer in offers])

    def login(self, headers, body):
        """One leg of NTLM; false when the connection is refused."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme != "Negotiate" or not token:
            if body:
                crime("a message came before the login")
            return self.refuse()
        if body:
            crime("a leg of the login carried a message")
        try:
            reply = self.context.step(base64.b64decode(token))
        except spnego.exceptions.SpnegoError as error:
            print(f"refused: {error}", file=sys.stderr)
            self.context = spnego.server(protocol="ntlm")
            return self.refuse()
        if not self.context.complete:
            return self.answer(401, [("WWW-Authenticate", "Negotiate " + base64.b64encode(reply).decode())])
        self.ready = True
        with lock:
            seen["logins"] += 1
        return self.answer(200)

    def unseal(self, headers, body):
        if headers.get("content-type") != SEALED_TYPE:
            crime(f"a message came unsealed: {headers.get('content-type')}")
            return body
        form = rb"^--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n" \
            rb"\tOriginalContent: type=application/soap\+xml;charset=UTF-8;Length=(\d+)\r\n" \
            rb"--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n(.*)--Encrypted Boundary--\r\n$"
        length, sealed = re.match(form, body, re.DOTALL).groups()
        size = int.from_bytes(sealed[:4], "little")
        assert size == 16, size
        clear = self.context.unwrap_winrm(sealed[4 : 4 + size], sealed[4 + size :])
        assert len(clear) == int(length)
        return clear

    def seal(self, clear, number):
        wrapped = self.context.wrap_winrm(clear)
        data = bytearray(wrapped.data)
        if number == options.flip_bit:
            data[len(data) // 2] ^= 1
        head = "\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n" \
            f"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length={len(clear)}\r\n"
        return BOUNDARY + b"\r\n" + head.encode() + BOUNDARY + b"\r\n\tContent-Type: application/octet-stream\r\n" \
            + len(wrapped.header).to_bytes(4, "little") + wrapped.header + bytes(data) + BOUNDARY + b"--\r\n"

    def message(self, headers, body):
        clear = body
        if options.mode == "http":
            clear = self.unseal(headers, body)
        elif options.mode == "tls-ntlm" and "authorization" in headers:
            crime("a login came on a connection that is logged in")
        envelope = ElementTree.fromstring(clear)
        resource = envelope.find(f"{SOAP}Header/{WSMAN}ResourceURI").text
        with lock:
            seen["rounds"] += 1
            number = seen["rounds"]
        text = "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope'><s:Body><p:Echo xmlns:p='urn:echo'>" \
            f"<p:Round>{number}</p:Round><p:Resource>{resource}</p:Resource><p:Long>{'ü' * 9000}</p:Long></p:Echo>" \
            "</s:Body></s:Envelope>"
        kind, answer = "application/soap+xml;charset=UTF-8", text.encode()
        if options.mode == "http" and number != options.clear_answer:
            kind, answer = SEALED_TYPE, self.seal(answer, number)
        self.answer(200, [("Content-Type", kind)], answer)
        self.answers += 1

    def serve(self):
        expected = "Basic " + base64.b64encode(f"{options.account}:{options.password}".encode()).decode()
        while True:
            headers, body = self.request()
            if options.mode == "tls-basic":
                if headers.get("authorization") == expected:
                    self.message(headers, body)
                else:
                    self.refuse()
            elif self.ready:
                self.message(headers, body)
            else:
                self.login(headers, body)
            if options.close_after and self.answers == options.close_after:
                return


def serve(stream, der, tls):
    with lock:
        seen["connections"] += 1
    try:
        if tls is not None:
            stream = tls.wrap_socket(stream, server_side=True)
        Connection(stream, der).serve()
    except (EOFError, ConnectionError, ssl.SSLError):
        pass
    except Exception as error:  # whatever goes wrong here is the client's doing, or a fault of this program: show it
        crime(f"{type(error).__name__}: {error}")
    finally:
        stream.close()


def accept(listener, der, tls):
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=serve, args=(stream, der, tls), daemon=True).start()


def main():
    file = der = tls = None
    if options.mode != "http":
        file, der = certificate()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file.name)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener, der, tls), daemon=True).start()
    pin = hashlib.sha256(der).hexdigest() if der else ""
    print(json.dumps({"port": listener.getsockname()[1], "sha256": pin}), flush=True)
    sys.stdin.read()
    with lock:
        raw = bytes(wire)
        if options.mode == "http":
            secret = options.password
            pair = base64.b64encode(f"{options.account}:{secret}".encode())
            for what in (secret.encode(), secret.encode("utf-16-le"), pair, b"Envelope", b"Basic"):
                if what in raw:
                    seen["crimes"].append(f"{what!r} came over the wire")
        print(json.dumps(seen), flush=True)


main()
