"""A signed cage, as a release would have it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import eif_by_spec
from tests.support.e2e import OWN_BOOT, Repo, image_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CAGE = f"""\
runtime = false

[cage]
name = "signed"

[base]
scratch = true

[app]
command = ["/srv/run"]

[[app.files]]
source = "src"
destination = "/srv"

[epoch]
policy = "zero"

{OWN_BOOT}"""
SIGNING = """
[signing]
certificate = "keys/cert.pem"
key = "{key}"
"""


def make_key(folder: Path, name: str) -> None:
    """A P-384 key and a certificate of its own, by OpenSSL."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
            *("-nodes", "-days", "30", "-subj", f"/CN={name}"),
            *("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")),
        ],
        check=True,
        capture_output=True,
    )


def certificate_digest(file: Path) -> str:
    """PCR8 by its definition, of a certificate that OpenSSL turns into DER."""
    der = subprocess.run(
        ["openssl", "x509", "-in", str(file), "-outform", "DER"], check=True, capture_output=True
    ).stdout
    return eif_by_spec.pcr(der)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path / "repo", tmp_path / "store")
    repo.boot()
    repo.write("src/run", b"a program\n", mode=0o755)
    repo.write("cage.toml", CAGE)
    repo.commit()
    repo.invoke("lock")
    repo.invoke("build")
    return repo


def test_a_signature_adds_pcr8_and_moves_no_other(repo: Repo, tmp_path: Path) -> None:
    file = repo.dist("signed") / "signed.eif"
    unsigned = image_file(file)
    make_key(tmp_path, "release")
    repo.write("keys/cert.pem", (tmp_path / "release.pem").read_bytes())
    repo.write("cage.toml", CAGE + SIGNING.format(key=tmp_path / "release.key"))
    repo.commit()
    stale = repo.invoke("build", code=21)
    assert "renew the lock: invoke lock //:signed" in stale.err

    locked = repo.invoke("lock")
    assert "PCR8" in locked.out
    assert "PCR0" not in locked.out
    built = repo.invoke("build")
    signed = image_file(file)
    pcr8 = certificate_digest(tmp_path / "release.pem")
    assert built.pcrs()["//:signed"] == {**eif_by_spec.pcrs(unsigned), "PCR8": pcr8}
    assert eif_by_spec.pcrs(signed) == eif_by_spec.pcrs(unsigned)
    assert eif_by_spec.SIGNATURE in signed.kinds
    assert eif_by_spec.SIGNATURE not in unsigned.kinds

    described = json.loads(repo.invoke("describe", str(file), "--json").out)
    assert pcr8 in json.dumps(described)
    assert "CN=release" in repo.invoke("describe", str(file)).out
    again = repo.invoke("build")
    assert again.err == ""
    assert repo.invoke("pcr").pcrs() == built.pcrs()


def test_a_signed_file_whose_content_was_changed_is_told(repo: Repo, tmp_path: Path) -> None:
    make_key(tmp_path, "release")
    repo.write("keys/cert.pem", (tmp_path / "release.pem").read_bytes())
    repo.write("cage.toml", CAGE + SIGNING.format(key=tmp_path / "release.key"))
    repo.commit()
    repo.invoke("lock")
    repo.invoke("build")
    file = repo.dist("signed") / "signed.eif"
    data = bytearray(file.read_bytes())
    at = data.index(b"a program\n")
    data[at] ^= 1
    # An attacker repairs the CRC; the signature is what is left.
    import binascii

    data[544:548] = binascii.crc32(data[:544] + data[548:]).to_bytes(4, "big")
    file.write_bytes(data)
    assert "signature" in repo.invoke("describe", str(file), code=51).err
    # The damaged result is made anew, and it verifies.
    repo.invoke("build")
    repo.invoke("describe", str(file))


def test_a_key_of_another_certificate_is_refused_before_anything_is_written(
    repo: Repo, tmp_path: Path
) -> None:
    before = hashlib.sha256((repo.dist("signed") / "signed.eif").read_bytes()).digest()
    make_key(tmp_path, "release")
    make_key(tmp_path, "other")
    repo.write("keys/cert.pem", (tmp_path / "release.pem").read_bytes())
    repo.write("cage.toml", CAGE + SIGNING.format(key=tmp_path / "other.key"))
    repo.commit()
    repo.invoke("lock")
    refused = repo.invoke("build", code=52)
    assert "error: " in refused.err
    after = hashlib.sha256((repo.dist("signed") / "signed.eif").read_bytes()).digest()
    assert after == before


def test_a_missing_key_is_told(repo: Repo, tmp_path: Path) -> None:
    make_key(tmp_path, "release")
    repo.write("keys/cert.pem", (tmp_path / "release.pem").read_bytes())
    repo.write("cage.toml", CAGE + SIGNING.format(key=tmp_path / "nowhere.key"))
    repo.commit()
    repo.invoke("lock")
    assert "nowhere.key" in repo.invoke("build", code=52).err
