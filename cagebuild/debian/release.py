"""A suite's Release file: signed by Debian, it names every index by size and SHA-256.

Only the text that the signature covers is read: https://wiki.debian.org/DebianRepository/Format.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

from cagebuild.debian.control import ControlSyntaxError, parse_paragraph
from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import ResolveError, SignatureError

LIMIT = 16 << 20
"""Bytes of an InRelease file; bookworm's has 150,000."""

_FRAME = (
    b"-----BEGIN PGP SIGNED MESSAGE-----",
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----END PGP SIGNATURE-----",
)
_ENTRY = re.compile(r"[ \t]*([0-9a-f]{64})[ \t]+([0-9]{1,12})[ \t]+([!-~]{1,400})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile:
    """A file below ``dists/<suite>/`` as the Release names it."""

    size: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a verified Release file says."""

    suite: str
    """The name that was asked for: its Suite or its Codename."""
    date: int
    """When it was made, in seconds since 1970."""
    by_hash: bool
    """Whether indexes can be had under their digest."""
    all_apart: bool
    """Whether packages for all architectures are only in an index of their own."""
    digest: Digest
    """SHA-256 of the InRelease file."""
    signers: tuple[str, ...]
    """Fingerprints of the certificates whose signatures are valid, sorted."""
    files: Mapping[str, IndexFile]


def verify(message: bytes, keyring: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The signed text of a cleartext-signed message, and the fingerprints of its valid signers.

    ``keyring`` holds OpenPGP certificates. One valid signature by one of them is enough, as for
    apt: Debian signs with the keys of several releases. Raises SignatureError for anything else: no
    signature, none by a known key, a changed text, or bytes outside of the signed text.
    """
    from pysequoia import Cert
    from pysequoia import verify as verify_message

    _check_frame(message)
    try:
        certificates = Cert.split_bytes(keyring)
    except Exception as error:  # the library raises bare RuntimeErrors with a stack in their text
        raise SignatureError(f"the keyring cannot be read: {_first_line(error)}") from None
    try:
        verified = verify_message(message, store=lambda _wanted: certificates)
    except Exception as error:
        raise SignatureError(
            f"the signature of the Release file is not valid: {_first_line(error)}",
            hint="the mirror may be damaged or hostile, or the suite older or newer than the keys "
            "that this version knows (Debian 11 to 13); try another mirror",
        ) from None
    known = {certificate.fingerprint for certificate in certificates}
    signers = tuple(sorted({s.certificate for s in verified.valid_sigs} & known))
    if not signers or verified.bytes is None:
        raise SignatureError("the Release file has no signature by a key that is known")
    return verified.bytes, signers


def parse(message: bytes, *, suite: str, keyring: bytes, now: float | None = None) -> Release:
    """Verify an InRelease file and read it.

    With ``now`` (seconds since 1970) a Valid-Until that has passed is refused, so that a mirror
    cannot hold back updates; without, as for a snapshot, it is not looked at. Raises
    SignatureError, also when it is the Release of another suite, and ResolveError when it is
    malformed.
    """
    text, signers = verify(message, keyring)
    try:
        fields = parse_paragraph(text.decode())
        files = _files(fields.get("SHA256", ""))
        date = _time(fields.get("Date", ""))
        until = _time(fields["Valid-Until"]) if "Valid-Until" in fields else None
    except (ControlSyntaxError, UnicodeDecodeError, InvalidDigestError) as error:
        raise ResolveError(f"the Release file of {suite} is malformed: {error}") from None
    names = sorted(fields[key] for key in ("Suite", "Codename") if key in fields)
    if suite not in names:
        raise SignatureError(
            f"asked for the suite {suite}, got the Release of {' / '.join(names) or 'no suite'}",
            hint="the mirror is mixed up or hostile; try another one",
        )
    if now is not None and until is not None and now > until:
        raise SignatureError(
            f"the Release of {suite} was valid until {fields['Valid-Until']} only",
            hint="the mirror is behind, or the suite has been archived: name another mirror, or a "
            "snapshot time",
        )
    return Release(
        suite=suite,
        date=date,
        by_hash=fields.get("Acquire-By-Hash") == "yes",
        all_apart="all" in fields.get("Architectures", "").split()
        and "Packages" not in fields.get("No-Support-for-Architecture-all", "").split(),
        digest=Digest.of(message),
        signers=signers,
        files=files,
    )


def snapshot_time(seconds: int) -> str:
    """``20260711T101637Z`` for seconds since 1970."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _check_frame(message: bytes) -> None:
    """Refuse whatever is not one cleartext-signed message and nothing else.

    Inside the signed text a line cannot begin with a dash (RFC 9580, 7.2), so the lines of the
    frame are the only ones that begin with five.
    """
    lines = message.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    frame = [line.rstrip() for line in lines if line.startswith(b"-----")]
    if not frame:
        raise SignatureError("the Release file is not signed")
    if tuple(frame) != _FRAME or lines[0].rstrip() != _FRAME[0] or lines[-1].rstrip() != _FRAME[2]:
        raise SignatureError("the Release file has text outside of its one signed message")


def _files(section: str) -> dict[str, IndexFile]:
    files: dict[str, IndexFile] = {}
    for line in section.split("\n")[1:]:
        match = _ENTRY.fullmatch(line)
        if match is None:
            raise ControlSyntaxError(f"not a file of its SHA256 section: {line[:80]!r}")
        entry = IndexFile(size=int(match[2]), digest=Digest("sha256", match[1]))
        if files.setdefault(match[3], entry) != entry:
            raise ControlSyntaxError(f"it names {match[3][:80]} twice, with other content")
    return files


def _time(text: str) -> int:
    parts = parsedate_tz(text)
    try:
        if parts is None:
            raise ValueError
        return mktime_tz(parts)
    except (ValueError, OverflowError):
        raise ControlSyntaxError(f"not a date: {text[:80]!r}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()[:200]
