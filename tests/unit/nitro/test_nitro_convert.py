"""Converting existing images: what is run, what is warned of, what reaches the ramdisk."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import CageError, EifError, ImageError
from cagebuild.image.config import ImageConfig
from cagebuild.nitro import attach, manifest, reader
from cagebuild.nitro.convert import CommandRule, Conversion, command_of, convert
from tests.support import eif_by_spec as spec
from tests.support.images import Files, Json
from tests.support.nitro import boot_files, built
from tests.support.tars import archive, directory, hard_link, regular, symlink
from tests.unit.nitro.test_nitro_sign import signer

if TYPE_CHECKING:
    from pathlib import Path

BASE = archive(
    directory("bin/", mtime=11),
    regular("bin/app", b"first", 0o755, mtime=12),
    regular("bin/old", b"gone"),
    directory("etc/", 0o700, mtime=13),
    regular("etc/hosts", b"10.0.0.1 x"),
)
TOP = archive(
    directory("bin/", mtime=21),
    regular("bin/.wh.old"),
    regular("bin/app", b"second", 0o755, mtime=22),
    hard_link("bin/again", "bin/app", 0o755),
    symlink("bin/sh", "app", mtime=23),
)


def layout(
    folder: Path, *layers: bytes, config: Json | None = None, compressed: bool = False
) -> Path:
    files = Files()
    config = {"Cmd": ["/bin/app"], "Env": ["A=1", "B=2"], "WorkingDir": "/bin", **(config or {})}
    stored = [gzip.compress(layer, mtime=0) for layer in layers] if compressed else None
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compressed else "")
    image = files.image(*layers, config=config, stored=stored, media_type=kind)
    return files.layout(image).folder(folder / ("compressed" if compressed else "layout"))


def conversion(folder: Path, image: Path, command: CommandRule = "nitro-cli") -> Conversion:
    return Conversion(image=image, boot=boot_files(folder), command=command)


def test_layers_to_an_image_file(tmp_path: Path) -> None:
    output = tmp_path / "out.eif"
    done = convert(conversion(tmp_path, layout(tmp_path, BASE, TOP)), output=output)
    assert done.warnings == ("WORKDIR '/bin' is ignored: it is run in /",)
    image = spec.image(output.read_bytes())
    assert done.measured.measurements.pcrs() == spec.pcrs(image)
    entries = {e.name: e for e in spec.cpio(image.ramdisks[1]).entries}
    # The directory's time is that of the upper layer; the group's first name holds the data.
    assert entries[b"rootfs/bin/"].mtime == 21
    assert entries[b"rootfs/bin/again"].data == b"second"
    assert entries[b"rootfs/bin/app"].data == b"again"
    assert entries[b"rootfs/bin/sh"].data == b"app"
    assert b"rootfs/bin/old" not in entries
    assert entries[b"rootfs/etc/"].mode == 0o040700
    assert len(entries[b"rootfs/etc/hosts"].data) == 160
    assert entries[b"cmd"].data == b"/bin/app\n"
    assert entries[b"env"].data == b"A=1\nB=2\n"
    metadata = image.metadata
    assert isinstance(metadata, dict)
    assert metadata["DockerInfo"]["Id"] == "sha256:" + metadata["ImageVersion"]


def test_neither_form_nor_place_of_the_image_matters(tmp_path: Path) -> None:
    plain = layout(tmp_path, BASE, TOP)
    packed = layout(tmp_path, BASE, TOP, compressed=True)
    tar = tmp_path / "image.tar"
    image = Files()
    descriptor = image.image(BASE, TOP, config={"Cmd": ["/bin/app"], "Env": ["A=1", "B=2"]})
    tar.write_bytes(image.layout(descriptor).tar())
    results = {
        convert(conversion(tmp_path, path), output=None).measured.measurements
        for path in (plain, packed, tar)
    }
    assert len(results) == 1
    assert not list(tmp_path.glob("cagebuild-*"))


def test_measuring_and_a_manifest(tmp_path: Path) -> None:
    given = conversion(tmp_path, layout(tmp_path, BASE, TOP))
    done = convert(given, output=tmp_path / "x.eif", manifest_file=tmp_path / "m.json")
    assert convert(given, output=None).measured == done.measured
    origins = {e.path: e.origin for e in manifest.load(tmp_path / "m.json").entries()}
    assert origins[b"rootfs/bin/sh"] == f"layer sha256:{hashlib.sha256(TOP).hexdigest()}"
    assert json.loads((tmp_path / "m.json").read_bytes())["architecture"] == "x86_64"


def test_a_damaged_layer(tmp_path: Path) -> None:
    image = layout(tmp_path, BASE, TOP)
    blob = image / "blobs" / "sha256" / hashlib.sha256(BASE).hexdigest()
    blob.write_bytes(BASE.replace(b"first", b"worse"))
    with pytest.raises(ImageError, match="diff id"):
        convert(conversion(tmp_path, image), output=tmp_path / "out.eif")
    assert not (tmp_path / "out.eif").exists()


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "nitro", "docker"),
    [
        (None, ("a",), ("a",), ("a",)),
        (("e",), None, ("e",), ("e",)),
        (("e",), ("a",), ("a",), ("e", "a")),
        (("e",), (), (), ("e",)),
        ((), ("a",), ("a",), ("a",)),
    ],
)
def test_what_is_run(
    entrypoint: tuple[str, ...] | None,
    cmd: tuple[str, ...] | None,
    nitro: tuple[str, ...],
    docker: tuple[str, ...],
) -> None:
    config = ImageConfig(architecture="amd64", os="linux", entrypoint=entrypoint, cmd=cmd)
    argv, warnings = command_of(config, "nitro-cli")
    assert argv == nitro
    assert bool(warnings) == (nitro != docker)
    assert command_of(config, "docker") == (docker, ())


@pytest.mark.parametrize("rule", ["nitro-cli", "docker"])
def test_nothing_to_run(rule: CommandRule) -> None:
    with pytest.raises(EifError, match="neither CMD nor ENTRYPOINT"):
        command_of(ImageConfig(architecture="amd64", os="linux"), rule)


def test_what_is_ignored_is_said() -> None:
    config = ImageConfig(architecture="amd64", os="linux", cmd=("a",), user="app", workdir="/srv")
    said = command_of(config, "nitro-cli")[1]
    assert [line.split()[0] for line in said] == ["USER", "WORKDIR"]


def test_what_nitro_cli_makes_anew_is_said(tmp_path: Path) -> None:
    layer = archive(regular("opt/tool", b"x"), directory("srv/"))
    image = layout(tmp_path, layer, config={"WorkingDir": "/srv/app"})
    said = convert(conversion(tmp_path, image), output=None).warnings
    assert any("WORKDIR '/srv/app' is in no layer" in line for line in said)
    assert any("1 directories have no entry" in line and "/opt" in line for line in said)


def test_an_environment_that_init_would_misread(tmp_path: Path) -> None:
    image = layout(tmp_path, BASE, config={"Env": ["KEY=-----BEGIN\nEND"]})
    with pytest.raises(EifError, match="line break"):
        convert(conversion(tmp_path, image), output=tmp_path / "out.eif")
    assert not (tmp_path / "out.eif").exists()


def test_what_is_no_image(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CageError):
            convert(conversion(tmp_path, path), output=None)


def test_signing_after_the_build_is_signing_in_the_build(tmp_path: Path) -> None:
    by = signer(tmp_path)
    unsigned, _ = built(tmp_path)
    done = attach.sign_file(unsigned, tmp_path / "signed.eif", by)
    at_once, measured = built(tmp_path, signer=by)
    assert (tmp_path / "signed.eif").read_bytes() == at_once.read_bytes()
    assert done == measured.measurements == reader.read(tmp_path / "signed.eif").measurements
    with pytest.raises(EifError, match="signed already"):
        attach.sign_file(at_once, tmp_path / "twice.eif", by)


def test_signing_in_place_and_only_what_is_whole(tmp_path: Path) -> None:
    by = signer(tmp_path)
    path, _ = built(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(EifError, match="CRC"):
        attach.sign_file(path, path, by)
    path.write_bytes(good)
    attach.sign_file(path, path, by)
    assert reader.read(path).signature is not None
