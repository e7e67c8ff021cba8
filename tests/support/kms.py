"""A stand-in for AWS KMS: Decrypt with an enclave as the recipient, over TLS.

Signatures are checked by AWS's description of Signature Version 4, documents by the module's own
chain, and answers are encrypted by openssl, as CMS in BER.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import json
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.support.nsm_device import check_document

if TYPE_CHECKING:
    import socket
    from email.message import Message

ACCESS_KEY, SECRET_KEY, TOKEN = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/EXAMPLE", "a-token"
KEY_ID = "arn:aws:kms:eu-west-1:111122223333:key/of-a-test"
_PEM = serialization.Encoding.PEM


def _certificate(
    name: str, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer: str, key: ec.EllipticCurvePrivateKey, *, authority: bool = False,
) -> x509.Certificate:  # fmt: skip
    now = dt.datetime.now(dt.UTC)
    subject, issued_by = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )


@dataclass
class Kms:
    """A server for one name, with a certificate of an authority of its own."""

    name: str
    region: str
    module: x509.Certificate
    """The root of the attestation documents that it believes."""
    pcr0: bytes
    """What the policy of its key wants."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """What it was asked, once signature and document were found right."""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        authority = _certificate(
            "ca.test", authority_key.public_key(), "ca.test", authority_key, authority=True
        )
        server = _certificate(self.name, key.public_key(), "ca.test", authority_key)
        self.authority = authority.public_bytes(_PEM)
        """Whom a client has to trust (PEM)."""
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(server.public_bytes(_PEM))
            private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            file.write(key.private_bytes(_PEM, *private))
            file.flush()
            self._tls.load_cert_chain(file.name)

    def answer(self, connection: socket.socket) -> None:
        """Serve one connection."""
        kms = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    status, answer = kms.decrypt(self.path, self.headers, body)
                except Exception as error:
                    kms.problems.append(repr(error))
                    raise
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("x-amzn-RequestId", "a-request")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        # What fails to shake hands was no client of KMS.
        with (
            contextlib.suppress(ssl.SSLError),
            self._tls.wrap_socket(connection, server_side=True) as stream,
        ):
            Handler(stream, ("", 0), cast("Any", None))

    def decrypt(
        self, path: str, headers: Message[str, str], body: bytes
    ) -> tuple[int, dict[str, object]]:
        """Status and body of the answer. A ciphertext is ``sealed:`` and the plaintext."""
        assert (path, headers["X-Amz-Target"]) == ("/", "TrentService.Decrypt")
        assert headers["Content-Type"] == "application/x-amz-json-1.1"
        assert headers["X-Amz-Security-Token"] == TOKEN
        assert headers["Authorization"] == self._authorization(headers, body)
        asked = json.loads(body)
        assert asked["Recipient"]["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
        document = base64.b64decode(asked["Recipient"]["AttestationDocument"], validate=True)
        found = check_document(document, self.module)
        self.requests.append(asked)
        if found["pcrs"][0] != self.pcr0:
            kind = "com.amazonaws.kms#AccessDeniedException"
            return 400, {"__type": kind, "Message": "not authorized to perform: kms:Decrypt"}
        plaintext = base64.b64decode(asked["CiphertextBlob"]).removeprefix(b"sealed:")
        sealed = encrypt(plaintext, serialization.load_der_public_key(found["public_key"]))
        return 200, {
            "CiphertextForRecipient": base64.b64encode(sealed).decode(),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyId": KEY_ID,
        }

    def _authorization(self, headers: Message[str, str], body: bytes) -> str:
        """The header that goes with the others, for the headers that it says are signed."""
        names = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        assert set(names.split(";")) >= {"host", "x-amz-date", "x-amz-target"}
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
        digest = hashlib.sha256(body).hexdigest()
        canonical = f"POST\n/\n\n{lines}\n{names}\n{digest}"
        stamp = headers["X-Amz-Date"]
        scope = f"{stamp[:8]}/{self.region}/kms/aws4_request"
        key = b"AWS4" + SECRET_KEY.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n"
        text += hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names},"
            f" Signature={signature}"
        )


def encrypt(plaintext: bytes, key: object) -> bytes:
    """CMS for one recipient, with lengths that are not said and content in pieces."""
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    issuer = ec.generate_private_key(ec.SECP256R1())
    recipient = _certificate("enclave.test", key, "ca.test", issuer)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(recipient.public_bytes(_PEM))
        done = subprocess.run(
            ["openssl", "cms", "-encrypt", "-binary", "-stream", "-keyid", "-aes256",
             "-outform", "DER", "-recip", file.name,
             "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"],
            input=plaintext, capture_output=True, check=True,
        )  # fmt: skip
    return done.stdout
