"""Signatures of Release files: only what a known key signed is ever read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pysequoia import Cert, SignatureMode, sign

from cagebuild.debian import release
from cagebuild.debian.release import parse, verify
from cagebuild.debian.sources import archive_keyring
from cagebuild.errors import ResolveError, SignatureError
from tests.support.debian import DATE_SECONDS, clear_sign, key, keyring, release_text

TEXT = release_text({"main/binary-amd64/Packages.xz": b"index"}, Suite="stable", Codename="trial")
PINS = Path(release.__file__).parents[1] / "pins"


def test_a_release_signed_by_a_known_key_is_read() -> None:
    message = clear_sign(TEXT, "archive")
    read = parse(message, suite="trial", keyring=keyring("archive"))
    assert read.date == DATE_SECONDS
    assert read.signers == (key("archive").extract_certificate().fingerprint,)
    assert read.digest.hex == hashlib.sha256(message).hexdigest()
    entry = read.files["main/binary-amd64/Packages.xz"]
    assert (entry.size, entry.digest.hex) == (5, hashlib.sha256(b"index").hexdigest())


def test_the_suite_can_be_named_by_either_of_its_names() -> None:
    message = clear_sign(TEXT, "archive")
    for suite in ("trial", "stable"):
        assert parse(message, suite=suite, keyring=keyring("archive")).suite == suite


@pytest.mark.parametrize("order", [("archive", "unknown"), ("unknown", "archive")])
def test_one_known_key_among_several_signatures_is_enough(order: tuple[str, str]) -> None:
    read = parse(clear_sign(TEXT, *order), suite="trial", keyring=keyring("archive", "other"))
    assert read.signers == (key("archive").extract_certificate().fingerprint,)


def test_every_valid_signer_is_named() -> None:
    _, signers = verify(clear_sign(TEXT, "archive", "other"), keyring("archive", "other"))
    assert signers == tuple(
        sorted(key(name).extract_certificate().fingerprint for name in ("archive", "other"))
    )


GOOD = clear_sign(TEXT, "archive")
BEGIN_SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("no signature", TEXT),
        ("nothing at all", b""),
        ("an unknown key", clear_sign(TEXT, "unknown")),
        ("two unknown keys", clear_sign(TEXT, "unknown", "stranger")),
        ("changed text", GOOD.replace(b"Codename: trial", b"Codename: other")),
        (
            "a changed digest",
            GOOD.replace(hashlib.sha256(b"index").hexdigest().encode(), b"0" * 64),
        ),
        ("a line added inside", GOOD.replace(b"SHA256:\n", b"SHA256:\n " + b"0" * 64 + b" 1 x\n")),
        ("text before the message", b"Suite: evil\n" + GOOD),
        ("a blank line before the message", b"\n" + GOOD),
        ("text after the message", GOOD + b"Suite: evil\n"),
        ("two messages", GOOD + GOOD),
        ("a second message by an unknown key", GOOD + clear_sign(TEXT, "unknown")),
        ("a cut signature", GOOD[: len(GOOD) - 60]),
        ("no signature packet", GOOD.partition(BEGIN_SIGNATURE)[0]),
        (
            "the signature of another text",
            GOOD.partition(BEGIN_SIGNATURE)[0]
            + BEGIN_SIGNATURE
            + clear_sign(TEXT + b"X: y\n", "archive").partition(BEGIN_SIGNATURE)[2],
        ),
        (
            "an inline-signed message that is no clear text",
            sign(key("archive").signer(), TEXT, mode=SignatureMode.INLINE),
        ),
        (
            "a detached signature alone",
            sign(key("archive").signer(), TEXT, mode=SignatureMode.DETACHED),
        ),
        ("rubbish", bytes(range(256))),
    ],
)
def test_a_release_is_refused_that_has(wrong: str, message: bytes) -> None:
    with pytest.raises(SignatureError) as caught:
        parse(message, suite="trial", keyring=keyring("archive"))
    assert "backtrace" not in caught.value.render()


def test_no_key_no_trust() -> None:
    with pytest.raises(SignatureError):
        verify(GOOD, b"")
    with pytest.raises(SignatureError):
        verify(GOOD, b"not a keyring")


def test_another_suite_signed_by_the_right_key_is_refused() -> None:
    with pytest.raises(SignatureError, match="got the Release of stable / trial"):
        parse(GOOD, suite="bookworm", keyring=keyring("archive"))


def test_a_release_past_its_time_is_refused_unless_it_is_a_snapshot() -> None:
    text = TEXT.replace(b"Suite:", b"Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\nSuite:")
    message = clear_sign(text, "archive")
    week = DATE_SECONDS + 7 * 86400
    ring = keyring("archive")
    assert parse(message, suite="trial", keyring=ring, now=week).date == DATE_SECONDS
    assert parse(message, suite="trial", keyring=ring).date == DATE_SECONDS
    with pytest.raises(SignatureError, match="valid until"):
        parse(message, suite="trial", keyring=ring, now=week + 1)


@pytest.mark.parametrize(
    ("wrong", "old", "new"),
    [
        ("no date", b"Date: Sat", b"Dated: Sat"),
        ("a date that is none", b"Date: Sat, 11 Jul 2026", b"Date: Someday"),
        ("a field twice", b"Suite: stable", b"Suite: stable\nSuite: trial"),
        ("a short digest", b"SHA256:\n ", b"SHA256:\n 00 5 x\n "),
        ("a negative size", b"       5 main", b" -5 main"),
        (
            "one file with two digests",
            b"SHA256:\n",
            b"SHA256:\n " + b"0" * 64 + b" 5 main/binary-amd64/Packages.xz\n",
        ),
        ("no text", b"Suite", b"\xff"),
    ],
)
def test_a_signed_but_malformed_release_is_refused_that_has(
    wrong: str, old: bytes, new: bytes
) -> None:
    assert old in TEXT
    message = clear_sign(TEXT.replace(old, new), "archive")
    with pytest.raises(ResolveError, match="malformed"):
        parse(message, suite="trial", keyring=keyring("archive"))


def test_the_keyring_is_the_one_that_its_pin_describes() -> None:
    pin = json.loads((PINS / "debian.json").read_text())["keyring"]
    ring = archive_keyring()
    assert hashlib.sha256(ring).hexdigest() == pin["sha256"]
    assert {
        each.fingerprint: str(each.user_ids[0]).partition(" <")[0]
        for each in Cert.split_bytes(ring)
    } == pin["keys"]
