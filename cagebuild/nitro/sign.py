"""Signing an image's PCR0, and checking such a signature.

The section is CBOR as serde writes it: byte strings are arrays of integers. Inside is a COSE_Sign1
(RFC 9052) whose payload holds PCR0. Source: aws/aws-nitro-enclaves-image-format:
src/utils/eif_signer.rs, src/defs/mod.rs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cagebuild.errors import EifError, SigningError
from cagebuild.nitro.pcr import extend

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_ALGORITHM = 1  # the header parameter 'alg'
_MAX_FILE = 1 << 20
_KINDS_HINT = "nitro enclaves are signed with an EC key on P-256, P-384 or P-521"


class _Algorithm(NamedTuple):
    number: int
    hash_name: str
    width: int
    """Bytes of each of the signature's two numbers."""


_ALGORITHMS = {
    "secp256r1": _Algorithm(-7, "SHA256", 32),
    "secp384r1": _Algorithm(-35, "SHA384", 48),
    "secp521r1": _Algorithm(-36, "SHA512", 66),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The signing certificate: the first one of a PEM file."""

    der: bytes

    @property
    def pcr8(self) -> str:
        """The PCR that names who signed."""
        return extend(hashlib.sha384(self.der).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A certificate and the private key that belongs to it."""

    certificate: Certificate
    key: ec.EllipticCurvePrivateKey

    def sign(self, pcr0: bytes) -> bytes:
        """The signature section's data for a PCR0 of 48 bytes."""
        import cbor2
        from cryptography.hazmat.primitives import serialization

        signed = _cose_sign(self.key, _payload(pcr0))
        # Written anew rather than copied from the file: that may hold more, even a private key.
        pem = _x509(self.certificate).public_bytes(serialization.Encoding.PEM)
        return cbor2.dumps([{"signing_certificate": list(pem), "signature": list(signed)}])


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature section that has been verified."""

    certificate: Certificate
    subject: str
    issuer: str
    not_before: str
    not_after: str
    algorithm: str
    """``ES256``, ``ES384`` or ``ES512``."""

    def to_json(self) -> dict[str, object]:
        """For the description of an image."""
        return {
            "algorithm": self.algorithm,
            "subject": self.subject,
            "issuer": self.issuer,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "sha256_fingerprint": hashlib.sha256(self.certificate.der).hexdigest(),
        }


def load_certificate(path: Path) -> Certificate:
    """The first certificate of a PEM file; raises SigningError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    data = _read(path, "certificate")
    try:
        loaded = x509.load_pem_x509_certificate(data)
        certificate = Certificate(der=loaded.public_bytes(serialization.Encoding.DER))
        key = loaded.public_key()
    except Exception as error:  # cryptography raises several kinds for malformed certificates
        raise SigningError(
            f"the signing certificate {path} cannot be read: {error}",
            hint="give an X.509 certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ) from error
    _ec_key(key, f"the signing certificate {path}")
    return certificate


def load_signer(*, certificate: Path, key: Path) -> Signer:
    """A signer from two PEM files; raises SigningError with the cause.

    The key must not be encrypted, must be EC on P-256, P-384 or P-521, and must be the
    certificate's.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    loaded = load_certificate(certificate)
    data = _read(key, "key")
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise SigningError(
            f"the signing key {key} is encrypted",
            hint="decrypt it first, for example: openssl pkey -in KEY -out PLAIN",
        ) from error
    except Exception as error:  # as above
        raise SigningError(
            f"the signing key {key} cannot be read: {error}",
            hint="give an EC private key in PEM form (-----BEGIN PRIVATE KEY-----)",
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise SigningError(
            f"the signing key {key} is not an EC key but {type(private).__name__.strip('_')}",
            hint=_KINDS_HINT,
        )
    _ec_key(private.public_key(), f"the signing key {key}")
    if private.public_key() != _x509(loaded).public_key():
        raise SigningError(
            f"the signing key {key} does not belong to the certificate {certificate}",
            hint="give the certificate that was issued for this key",
        )
    return Signer(certificate=loaded, key=private)


def verify(section: bytes, pcr0: bytes) -> Signature:
    """Check a signature section against the image's own PCR0; raises EifError with the cause.

    Whether the certificate is to be trusted, or has expired, is not judged: PCR8 says which one it
    is.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    pem, signed = _parse_section(section)
    try:
        loaded = x509.load_pem_x509_certificate(pem)
        der = loaded.public_bytes(serialization.Encoding.DER)
        key = loaded.public_key()
        subject, issuer = loaded.subject.rfc4514_string(), loaded.issuer.rfc4514_string()
        valid = (loaded.not_valid_before_utc.isoformat(), loaded.not_valid_after_utc.isoformat())
    except Exception as error:  # cryptography raises several kinds for malformed certificates
        raise EifError(f"signature section: the certificate cannot be read: {error}") from error
    try:
        ec_key, algorithm = _ec_key(key, "the certificate")
    except SigningError as error:
        raise EifError(f"signature section: {error.message}") from error
    _cose_verify(signed, ec_key, algorithm, _payload(pcr0))
    return Signature(
        certificate=Certificate(der=der),
        subject=subject,
        issuer=issuer,
        not_before=valid[0],
        not_after=valid[1],
        algorithm=f"ES{algorithm.hash_name[3:]}",
    )


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except OSError as error:
        raise SigningError(
            f"cannot read the signing {what} {path}: {error.strerror}",
            hint="check the path and that you may read the file",
        ) from error
    if len(data) > _MAX_FILE:
        raise SigningError(f"the signing {what} {path} is larger than 1 MiB")
    return data


def _x509(certificate: Certificate) -> x509.Certificate:
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate.der)


def _ec_key(key: object, what: str) -> tuple[ec.EllipticCurvePublicKey, _Algorithm]:
    """The key, if it is one that can sign an image, and how it does; raises SigningError."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(key, ec.EllipticCurvePublicKey):
        kind = type(key).__name__.removesuffix("PublicKey").strip("_")
        raise SigningError(f"{what} has a key of another kind: {kind}", hint=_KINDS_HINT)
    algorithm = _ALGORITHMS.get(key.curve.name)
    if algorithm is None:
        raise SigningError(f"{what} is on the curve {key.curve.name}", hint=_KINDS_HINT)
    return key, algorithm


def _payload(pcr0: bytes) -> bytes:
    import cbor2

    return cbor2.dumps({"register_index": 0, "register_value": list(pcr0)})


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    import cbor2

    return cbor2.dumps(["Signature1", protected, b"", payload])


def _cose_sign(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    import cbor2
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    _, algorithm = _ec_key(key.public_key(), "the key")
    protected = cbor2.dumps({_ALGORITHM: algorithm.number})
    message = _to_be_signed(protected, payload)
    digest = getattr(hashes, algorithm.hash_name)()
    try:
        # RFC 6979: the same image and key give the same bytes.
        der = key.sign(message, ec.ECDSA(digest, deterministic_signing=True))
    except UnsupportedAlgorithm:
        der = key.sign(message, ec.ECDSA(digest))
    r, s = utils.decode_dss_signature(der)
    width = algorithm.width
    return cbor2.dumps(
        [protected, {}, payload, r.to_bytes(width, "big") + s.to_bytes(width, "big")]
    )


def _cose_verify(
    signed: bytes, key: ec.EllipticCurvePublicKey, algorithm: _Algorithm, expected: bytes
) -> None:
    import cbor2
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    match _decode(signed, "COSE_Sign1"):
        case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]:
            pass
        case _:
            raise EifError("signature section: the signature is not a COSE_Sign1 of four parts")
    if protected != cbor2.dumps({_ALGORITHM: algorithm.number}):
        raise EifError(
            "signature section: the protected header is not the algorithm of the certificate's key"
        )
    if unprotected:
        raise EifError("signature section: the unprotected header is not empty")
    width = algorithm.width
    if len(signature) != 2 * width:
        raise EifError(
            f"signature section: the signature has {len(signature)} bytes, not {2 * width}"
        )
    r, s = (int.from_bytes(part, "big") for part in (signature[:width], signature[width:]))
    digest = getattr(hashes, algorithm.hash_name)()
    try:
        key.verify(
            utils.encode_dss_signature(r, s),
            _to_be_signed(protected, payload),
            ec.ECDSA(digest),
        )
    except InvalidSignature as error:
        raise EifError(
            "signature section: the signature is not one by the certificate's key"
        ) from error
    if payload != expected:
        raise EifError("signature section: what is signed is not this image's PCR0")


def _parse_section(section: bytes) -> tuple[bytes, bytes]:
    """Certificate (PEM) and COSE_Sign1 bytes."""
    match _decode(section, "signature section"):
        case [{"signing_certificate": list(pem), "signature": list(signed), **rest}] if not rest:
            return _octets(pem, "signing_certificate"), _octets(signed, "signature")
        case _:
            raise EifError(
                "signature section: not an array of one map of 'signing_certificate' and "
                "'signature'"
            )


def _octets(values: list[object], what: str) -> bytes:
    numbers = [v for v in values if type(v) is int and 0 <= v <= 255]
    if len(numbers) != len(values):
        raise EifError(f"signature section: {what} is not an array of bytes")
    return bytes(numbers)


def _decode(data: bytes, what: str) -> object:
    """One CBOR item in its shortest form and nothing after it, which is what serde writes."""
    import cbor2

    try:
        value: object = cbor2.loads(data)
        again = cbor2.dumps(value)
    except Exception as error:  # cbor2 lets several kinds through for malformed data
        raise EifError(f"signature section: the {what} is not CBOR: {error}") from error
    if again != data:
        raise EifError(f"signature section: the {what} is not CBOR in its plain form")
    return value
