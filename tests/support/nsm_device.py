"""A stand-in for the Nitro Secure Module, and a check of its documents: both by the specification.

It answers at a unix socket: four bytes of length, big-endian, and the CBOR of one request or answer
of aws/aws-nitro-enclaves-nsm-api (src/api/mod.rs). A document is a COSE_Sign1 (RFC 9052), ES384.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = "i-00000000000000001-enc00000000000000001"
_ES384 = b"\xa1\x01\x38\x22"  # {1: -35}
_SHARE = 48  # bytes of each of the two numbers in a signature


@dataclass
class Device:
    """Its keys and registers."""

    root: x509.Certificate
    """Whom to trust."""
    chain: list[x509.Certificate]
    key: ec.EllipticCurvePrivateKey
    pcrs: dict[int, bytes]
    documents: int = 0
    """How many were signed."""

    def answer(self, request: object) -> object:
        """What the device says to one request."""
        if request == "DescribeNSM":
            return {
                "DescribeNSM": {
                    "version_major": 1, "version_minor": 0, "version_patch": 0,
                    "module_id": MODULE, "max_pcrs": 32, "locked_pcrs": list(range(16)),
                    "digest": "SHA384",
                }
            }  # fmt: skip
        if request == "GetRandom":
            return {"GetRandom": {"random": os.urandom(256)}}
        match request:
            case {"DescribePCR": {"index": int(index)}} if index in self.pcrs:
                return {"DescribePCR": {"lock": index < 16, "data": self.pcrs[index]}}
            case {"DescribePCR": _}:
                return {"Error": "InvalidIndex"}
            case {"Attestation": {**given}}:
                return {"Attestation": {"document": self._document(given)}}
        return {"Error": "InvalidOperation"}

    def _document(self, given: dict[Any, Any]) -> bytes:
        self.documents += 1
        payload = cbor2.dumps(
            {
                "module_id": MODULE,
                "digest": "SHA384",
                "timestamp": time.time_ns() // 1_000_000,
                "pcrs": {index: value for index, value in self.pcrs.items() if index < 16},
                "certificate": self.chain[-1].public_bytes(Encoding.DER),
                "cabundle": [each.public_bytes(Encoding.DER) for each in self.chain[:-1]],
                **{key: given.get(key) for key in ("public_key", "user_data", "nonce")},
            }
        )
        signed = cbor2.dumps(["Signature1", _ES384, b"", payload])
        r, s = utils.decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(_SHARE, "big") + s.to_bytes(_SHARE, "big")
        return cbor2.dumps([_ES384, {}, payload, signature])


def make_device() -> Device:
    """A device with keys of its own and three registers that are not zero."""
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(3)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        for name in ("root of a test", "instance of a test", MODULE)
    ]
    now = dt.datetime.now(dt.UTC)
    chain = [
        x509.CertificateBuilder()
        .subject_name(names[each])
        .issuer_name(names[max(each - 1, 0)])
        .public_key(keys[each].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=3))
        .add_extension(x509.BasicConstraints(ca=each < 2, path_length=None), critical=True)
        .sign(keys[max(each - 1, 0)], hashes.SHA384())
        for each in range(3)
    ]
    pcrs = {index: bytes(48) for index in range(32)}
    pcrs |= {index: hashlib.sha384(b"%d" % index).digest() for index in range(3)}
    return Device(root=chain[0], chain=chain, key=keys[-1], pcrs=pcrs)


@contextlib.contextmanager
def device_at(path: Path) -> Iterator[Device]:
    """A device that answers at a unix socket until the end of the block."""
    device = make_device()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        thread = threading.Thread(target=_accept, args=(server, device), daemon=True)
        thread.start()
        try:
            yield device
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(server: socket.socket, device: Device) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, device), daemon=True).start()


def _serve(connection: socket.socket, device: Device) -> None:
    with connection, connection.makefile("rb") as stream:
        while len(head := stream.read(4)) == 4:
            request = cbor2.loads(stream.read(struct.unpack(">I", head)[0]))
            raw = cbor2.dumps(device.answer(request))
            try:
                connection.sendall(struct.pack(">I", len(raw)) + raw)
            except OSError:
                return


def check_document(document: bytes, root: x509.Certificate) -> dict[str, Any]:
    """The payload of a document that is signed, by a chain that leads to this root."""
    outer = cbor2.loads(document)
    if isinstance(outer, cbor2.CBORTag):
        assert outer.tag == 18
        outer = outer.value
    protected, unprotected, payload, signature = outer
    assert cbor2.loads(protected) == {1: -35}
    assert unprotected == {}
    found = cast("dict[str, Any]", cbor2.loads(payload))
    ders = [*found["cabundle"], found["certificate"]]
    chain = [x509.load_der_x509_certificate(der) for der in ders]
    assert chain[0] == root
    for issuer, issued in itertools.pairwise(chain):
        issued.verify_directly_issued_by(issuer)
    now = dt.datetime.now(dt.UTC)
    assert all(each.not_valid_before_utc <= now <= each.not_valid_after_utc for each in chain)
    key = chain[-1].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(half, "big") for half in (signature[:_SHARE], signature[_SHARE:]))
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    return found
