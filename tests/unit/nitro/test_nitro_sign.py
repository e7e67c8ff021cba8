"""Signatures, checked with an independent reading of COSE and serde's CBOR."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.x509.oid import NameOID

from cagebuild.errors import EifError, SigningError
from cagebuild.nitro import eif, reader, sign
from cagebuild.nitro.build import build
from tests.support import eif_by_spec as spec
from tests.support.nitro import built, job

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
    )

CURVES: dict[str, tuple[ec.EllipticCurve, int, hashes.HashAlgorithm, int]] = {
    "P-256": (ec.SECP256R1(), -7, hashes.SHA256(), 32),
    "P-384": (ec.SECP384R1(), -35, hashes.SHA384(), 48),
    "P-521": (ec.SECP521R1(), -36, hashes.SHA512(), 66),
}
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cage\x1b[2Jsigner")])


def certificate_for(key: CertificateIssuerPrivateKeyTypes) -> x509.Certificate:
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2021, 1, 1, tzinfo=dt.UTC))
        .sign(key, digest)
    )


def key_pem(key: CertificateIssuerPrivateKeyTypes, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def files(
    folder: Path, key: CertificateIssuerPrivateKeyTypes, *, extra: bytes = b""
) -> tuple[Path, Path]:
    """Certificate and key files."""
    certificate, key_file = folder / "cert.pem", folder / "key.pem"
    pem = certificate_for(key).public_bytes(serialization.Encoding.PEM)
    certificate.write_bytes(extra + pem)
    key_file.write_bytes(key_pem(key))
    return certificate, key_file


def signer(folder: Path, curve: str = "P-384") -> sign.Signer:
    certificate, key = files(folder, ec.generate_private_key(CURVES[curve][0]))
    return sign.load_signer(certificate=certificate, key=key)


@pytest.mark.parametrize("curve", CURVES)
def test_a_signed_image(tmp_path: Path, curve: str) -> None:
    kind, number, digest, width = CURVES[curve]
    key = ec.generate_private_key(kind)
    certificate_file, key_file = files(tmp_path, key)
    given = job(tmp_path)
    unsigned = build(given, output=None).measured
    by = sign.load_signer(certificate=certificate_file, key=key_file)
    path, measured = built(tmp_path, given, by)

    image = spec.image(path.read_bytes())
    assert image.kinds[-1] == spec.SIGNATURE
    section = image.only(spec.SIGNATURE)
    assert len(section) <= 32_768
    [one] = cbor2.loads(section)
    assert list(one) == ["signing_certificate", "signature"]
    assert all(isinstance(one[name], list) for name in one)  # serde's arrays of integers
    loaded = x509.load_pem_x509_certificate(bytes(one["signing_certificate"]))
    der = loaded.public_bytes(serialization.Encoding.DER)
    assert der == certificate_for_file(certificate_file)

    protected, unprotected, payload, signature = cbor2.loads(bytes(one["signature"]))
    assert cbor2.loads(protected) == {1: number}
    assert unprotected == {}
    pcr0 = spec.pcrs(image)["PCR0"]
    told = cbor2.loads(payload)
    assert list(told.items()) == [
        ("register_index", 0),
        ("register_value", list(bytes.fromhex(pcr0))),
    ]
    assert len(signature) == 2 * width
    r, s = int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
    key.public_key().verify(
        utils.encode_dss_signature(r, s),
        cbor2.dumps(["Signature1", protected, b"", payload]),
        ec.ECDSA(digest),
    )

    assert measured.measurements.pcr8 == spec.pcr(der)
    assert measured.measurements.pcr0 == unsigned.measurements.pcr0 == pcr0
    assert measured.sections == unsigned.sections
    read = reader.read(path)
    assert read.measurements == measured.measurements
    assert read.signature is not None
    assert read.signature.algorithm == f"ES{ {32: 256, 48: 384, 66: 512}[width] }"
    assert read.signature.to_json()["sha256_fingerprint"] == hashlib.sha256(der).hexdigest()


def certificate_for_file(path: Path) -> bytes:
    loaded = x509.load_pem_x509_certificate(path.read_bytes())
    return loaded.public_bytes(serialization.Encoding.DER)


def test_measuring_needs_only_the_certificate(tmp_path: Path) -> None:
    by = signer(tmp_path)
    _, measured = built(tmp_path, signer=by)
    certificate = sign.load_certificate(tmp_path / "cert.pem")
    assert build(job(tmp_path), output=None, certificate=certificate).measured == measured


def test_the_same_key_gives_the_same_file(tmp_path: Path) -> None:
    by = signer(tmp_path)
    first = built(tmp_path, signer=by)[0].read_bytes()
    assert built(tmp_path, signer=by)[0].read_bytes() == first


def test_a_private_key_beside_the_certificate_stays_out(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate_file, key_file = files(tmp_path, key, extra=key_pem(key))
    by = sign.load_signer(certificate=certificate_file, key=key_file)
    section = by.sign(bytes(48))
    pem = bytes(cbor2.loads(section)[0]["signing_certificate"])
    assert pem.count(b"-----BEGIN") == 1
    assert b"PRIVATE" not in pem


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    certificate, key = files(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    key.write_bytes(key_pem(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(SigningError, match="does not belong to"):
        sign.load_signer(certificate=certificate, key=key)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_certificate_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    certificate, key = files(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    certificate.write_bytes(content)
    with pytest.raises(SigningError, match=r"certificate .*cannot be read"):
        sign.load_signer(certificate=certificate, key=key)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"\xff\xfe"])
def test_a_key_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    certificate, key = files(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    key.write_bytes(content)
    with pytest.raises(SigningError, match=r"key .*cannot be read"):
        sign.load_signer(certificate=certificate, key=key)


def test_an_encrypted_key(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    certificate, key = files(tmp_path, private)
    key.write_bytes(key_pem(private, b"secret"))
    with pytest.raises(SigningError, match="is encrypted") as caught:
        sign.load_signer(certificate=certificate, key=key)
    assert "openssl" in caught.value.hint


def test_keys_of_other_kinds(tmp_path: Path) -> None:
    others: list[CertificateIssuerPrivateKeyTypes] = [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
    ]
    for other in others:
        certificate, key = files(tmp_path, other)
        with pytest.raises(SigningError) as caught:
            sign.load_signer(certificate=certificate, key=key)
        assert "P-384" in caught.value.hint
    files(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    key.write_bytes(key_pem(others[0]))
    with pytest.raises(SigningError, match="not an EC key"):
        sign.load_signer(certificate=certificate, key=key)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    certificate, key = files(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    (tmp_path / name).unlink()
    with pytest.raises(SigningError, match=name):
        sign.load_signer(certificate=certificate, key=key)


def section_of(by: sign.Signer, **changes: object) -> bytes:
    """A signature section over PCR0 of zeros with some of its parts replaced."""
    [one] = cbor2.loads(by.sign(bytes(48)))
    protected, unprotected, payload, signature = cbor2.loads(bytes(one["signature"]))
    parts = {"protected": protected, "unprotected": unprotected, "payload": payload}
    parts |= {"signature": signature, **changes}
    names = ("protected", "unprotected", "payload", "signature")
    cose = cbor2.dumps([parts[name] for name in names])
    certificate = changes.get("certificate", one["signing_certificate"])
    return cbor2.dumps([{"signing_certificate": certificate, "signature": list(cose)}])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"payload": cbor2.dumps({"register_index": 1})}, "not one by the certificate's key"),
        ({"signature": bytes(96)}, "not one by the certificate's key"),
        ({"signature": bytes(95)}, "has 95 bytes, not 96"),
        ({"protected": cbor2.dumps({1: -7})}, "protected header"),
        ({"protected": b""}, "protected header"),
        ({"unprotected": {4: b"kid"}}, "unprotected header is not empty"),
        ({"payload": None}, "four parts"),
        ({"certificate": list(b"no pem")}, "certificate cannot be read"),
        ({"certificate": b"bytes"}, "not an array of one map"),
        ({"certificate": [256]}, "not an array of bytes"),
        ({"certificate": ["a"]}, "not an array of bytes"),
        ({"certificate": [True]}, "not an array of bytes"),
    ],
)
def test_signatures_that_are_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    by = signer(tmp_path)
    sign.verify(section_of(by), bytes(48))
    with pytest.raises(EifError, match=said):
        sign.verify(section_of(by, **changes), bytes(48))


def test_a_signature_of_another_image(tmp_path: Path) -> None:
    with pytest.raises(EifError, match="not this image's PCR0"):
        sign.verify(signer(tmp_path).sign(b"\1" * 48), bytes(48))


@pytest.mark.parametrize(
    "section",
    [
        b"",
        b"\x80",
        b"\xff",
        b"\x81" * 20_000,
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xd8\x23\x63(a+",
        cbor2.dumps([]) + b"\0",
        cbor2.dumps([{}, {}]),
        cbor2.dumps([{"signing_certificate": [], "signature": [], "more": 1}]),
    ],
)
def test_sections_that_are_not_signatures(section: bytes) -> None:
    with pytest.raises(EifError, match="signature section"):
        sign.verify(section, bytes(48))


def test_a_certificate_too_large_for_the_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = signer(tmp_path)
    monkeypatch.setattr(eif, "MAX_SIGNATURE", 100)
    with pytest.raises(EifError, match="signature section has"):
        built(tmp_path, signer=by)
    assert not (tmp_path / "image.eif").exists()
