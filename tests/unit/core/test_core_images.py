"""Finished images out of the workspace and image files into it: export, eif, signing, bases."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cagebuild import exporting
from cagebuild.image.config import parse_config
from tests.support import eif_by_spec as spec
from tests.support.http_server import serving
from tests.support.images import Files, encode, named
from tests.support.tars import archive, directory, regular, symlink
from tests.support.workspaces import (
    CAGE,
    ROOT,
    Workspace,
    installer,
    measurements,
    signing_files,
    steps,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.image.config import ImageConfig
    from tests.support.images import Json
    from tests.support.workspaces import Answer

FORMATS = ("oci", "oci-archive", "docker-archive")
RAMDISK, SIGNATURE = 3, 4
BOOT = ("--kernel=boot/bzImage", "--cmdline-file=boot/cmdline", "--init=boot/init")
NSM = "--nsm=boot/nsm.ko"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """No cages yet."""
    return Workspace(tmp_path)


def convert(workspace: Workspace, image: Path | str, *words: str) -> Answer:
    """``invoke eif`` with all of the workspace's boot files."""
    return workspace.run("eif", f"--image={image}", *BOOT, NSM, *words)


def converted(workspace: Workspace, image: Path | str, *words: str) -> dict[str, str]:
    """The PCRs of ``invoke eif``."""
    answer = convert(workspace, image, "--json", *words)
    assert answer.code == 0, answer.err
    found = dict(answer.json()["Measurements"])
    assert found.pop("HashAlgorithm") == "Sha384 { ... }"
    return found


def sections(workspace: Workspace, kind: int | None = None) -> list[tuple[int, bytes]]:
    """Kinds and contents of the sections of the cage ``pay``'s image file."""
    image = spec.image(workspace.result("pay", "pay.eif"))
    found = zip(image.kinds, image.data, strict=True)
    return [(each, data) for each, data in found if kind in (None, each)]


# export


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("epoch", ["0", "86400"])
def test_an_exported_image_measures_as_the_build_did(
    workspace: Workspace, form: str, epoch: str
) -> None:
    """Nothing but the image and the boot files goes into PCRs: no epoch is given to ``eif``."""
    workspace.add("pay", f'{CAGE}\n[epoch]\npolicy = "fixed"\ntime = {epoch}\n', note="first\n")
    workspace.ok("lock")
    workspace.ok("build")
    answer = workspace.ok("export", "//pay", "--output=out/image", f"--format={form}")
    assert answer.lines[0] == "out/image"
    assert converted(workspace, "out/image") == workspace.locked("//pay").expected


def test_an_exported_image_has_the_id_that_is_printed(workspace: Workspace) -> None:
    workspace.add("pay")
    workspace.ok("lock")
    answer = workspace.ok("export", "--output=image")
    index = json.loads((workspace.root / "image/index.json").read_bytes())
    digest = index["manifests"][0]["digest"]
    blobs = workspace.root / "image/blobs/sha256"
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
    assert answer.lines[1:] == [
        f"  image id  {manifest['config']['digest']}",
        f"  manifest  {digest}",
    ]
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    assert config["config"]["Cmd"] == ["/srv/run", "--serve"]
    assert config["created"] == "1970-01-01T00:00:00Z"


def test_exports_are_equal_bytes_and_name_their_cage(workspace: Workspace) -> None:
    workspace.add("pay")
    workspace.ok("lock")
    for number in (1, 2):
        workspace.ok("export", "//pay", f"--output={number}", "--format=docker-archive")
    first = (workspace.root / "1").read_bytes()
    assert (workspace.root / "2").read_bytes() == first
    assert b'"RepoTags":["pay:latest"]' in first


def test_an_export_takes_the_place_of_the_last_but_of_nothing_else(workspace: Workspace) -> None:
    workspace.add("pay")
    workspace.ok("lock")
    workspace.ok("export", "--output=image")
    workspace.ok("export", "--output=image")
    answer = workspace.run("export", "--output=boot")
    assert answer.code == 2
    assert (workspace.root / "boot/bzImage").exists()


def test_an_export_to_where_nothing_can_be_written_is_an_error_of_its_own(
    workspace: Workspace,
) -> None:
    workspace.add("pay")
    workspace.ok("lock")
    for form in FORMATS:
        answer = workspace.run("export", "--output=boot/init/image", f"--format={form}")
        assert answer.code not in (0, 1), form
        assert "boot/init" in answer.err


def test_an_export_is_not_disturbed_by_a_build_that_begins_meanwhile(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.add("pay")
    workspace.add("mail")
    workspace.ok("lock")
    done: list[Answer] = []

    def parse(data: bytes, label: str) -> ImageConfig:
        if not done:
            done.append(workspace.ok("build", "//mail"))
            done.append(workspace.ok("cache", "--prune", "--older-than=0d"))
        return parse_config(data, label)

    monkeypatch.setattr(exporting, "parse_config", parse)
    answer = workspace.ok("export", "//pay", "--output=image", "--format=oci-archive")
    assert len(done) == 2
    assert converted(workspace, "image") == workspace.locked("//pay").expected
    assert len(answer.lines) == 3


# eif


def docker_archive(path: Path, *layers: bytes, config: Json, tag: str = "app:1") -> Path:
    """As ``docker save`` writes it."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
        },
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": names}]
    path.write_bytes(
        archive(
            regular("config.json", encode(document)),
            *(regular(name, data) for name, data in zip(names, layers, strict=True)),
            regular("manifest.json", encode(manifest)),
        )
    )
    return path


LAYER = archive(
    directory("etc"),
    regular("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n"),
    directory("bin"),
    regular("bin/app", b"program\n", mode=0o755),
)


def test_a_docker_archive_becomes_an_image_file(workspace: Workspace) -> None:
    image = docker_archive(workspace.root / "app.tar", LAYER, config={"Cmd": ["/bin/app"]})
    only = convert(workspace, image)
    assert only.code == 0, only.err
    pcrs = {line.split()[0]: line.split()[1] for line in only.lines}
    assert list(pcrs) == ["PCR0", "PCR1", "PCR2"]
    assert convert(workspace, image, "--output=app.eif").out == only.out
    described = workspace.ok("describe", "app.eif", "--json").json()
    assert {name: described["Measurements"][name] for name in pcrs} == pcrs
    assert described["metadata"]["ImageName"] == "app:1"


def test_eif_runs_cmd_as_nitro_cli_does_and_warns_where_docker_would_run_both(
    workspace: Workspace,
) -> None:
    config: Json = {"Entrypoint": ["/bin/app"], "Cmd": ["--serve"]}
    image = docker_archive(workspace.root / "app.tar", LAYER, config=config)
    answer = convert(workspace, image)
    assert answer.code == 0
    assert "Docker would run /bin/app --serve" in answer.err
    by_docker = convert(workspace, image, "--command=docker")
    assert by_docker.err == ""
    assert by_docker.out != answer.out
    same = docker_archive(
        workspace.root / "same.tar", LAYER, config={"Cmd": ["/bin/app", "--serve"]}
    )
    assert convert(workspace, same).out == by_docker.out


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such image": (("--image=nothing.tar", *BOOT), 50, "nothing.tar"),
    "no image": (("--image=cage.toml", *BOOT), 50, "cage.toml"),
    "no such kernel": (("--image=app.tar", "--kernel=none", *BOOT[1:]), 51, "none"),
    "a kernel that is none": (("--image=app.tar", "--kernel=cage.toml", *BOOT[1:]), 51, "bzImage"),
    "no such command line": (
        ("--image=app.tar", BOOT[0], "--cmdline-file=none", BOOT[2]),
        51,
        "none",
    ),
    "no such init": (("--image=app.tar", *BOOT[:2], "--init=none"), 51, "none"),
    "no such nsm": (("--image=app.tar", *BOOT, "--nsm=none"), 51, "none"),
    "an architecture that is none": (("--image=app.tar", *BOOT, "--arch=arm"), 2, "aarch64"),
    "another architecture": (("--image=app.tar", *BOOT, "--arch=aarch64"), 0, ""),
    "a rule that is none": (("--image=app.tar", *BOOT, "--command=sh"), 2, "nitro-cli or docker"),
    "a certificate without its key": (("--image=app.tar", *BOOT, "--cert=x"), 2, "--key"),
    "a key without its certificate": (("--image=app.tar", *BOOT, "--key=x"), 2, "--cert"),
    "no such certificate": (("--image=app.tar", *BOOT, "--key=x", "--cert=y"), 52, "y"),
    "no image at all": (BOOT, 1, "image"),
    "an output in no folder": (
        ("--image=app.tar", *BOOT, "--output=boot/init/x.eif"),
        51,
        "boot/init/x.eif",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_converted_is_told(workspace: Workspace, what: str) -> None:
    docker_archive(workspace.root / "app.tar", LAYER, config={"Cmd": ["/bin/app"]})
    words, code, said = WRONG[what]
    answer = workspace.run("eif", *words)
    if what == "another architecture":
        assert answer.code not in (0, 1)
        return
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.out == ""


# bases


def test_a_base_archive_gives_command_user_and_environment(workspace: Workspace) -> None:
    """Without the runtime the image's own words are what init runs: ENTRYPOINT, then CMD."""
    config: Json = {"Entrypoint": ["/bin/app"], "Cmd": ["--serve"], "Env": ["A=1", "PATH=/bin"]}
    workspace.write("pay/base.tar", "")
    docker_archive(workspace.root / "pay/base.tar", LAYER, config=config)
    workspace.write("pay/cage.toml", '[base]\narchive = "base.tar"\n')
    workspace.commit()
    workspace.ok("lock")
    workspace.ok("build")
    _, ramdisk = sections(workspace, RAMDISK)[1]
    assert b"/bin/app\n--serve\n" in ramdisk
    assert b"PATH=/bin\nA=1\n" in ramdisk
    manifest = workspace.result("pay", "manifest.json").decode()
    assert "rootfs/bin/app" in manifest
    by_docker = converted(workspace, "pay/base.tar", "--command=docker")
    assert by_docker["PCR1"] == measurements(workspace, "pay")["PCR1"]


def test_a_base_archive_that_changed_after_locking_is_stale(workspace: Workspace) -> None:
    file = workspace.write("pay/base.tar", "")
    docker_archive(file, LAYER, config={"Cmd": ["/bin/app"]})
    workspace.write("pay/cage.toml", '[base]\narchive = "base.tar"\n')
    workspace.commit()
    workspace.ok("lock")
    workspace.ok("build")
    docker_archive(file, LAYER, config={"Cmd": ["/bin/app", "more"]})
    for command in ("build", "pcr", "check", "plan"):
        answer = workspace.run(command)
        assert answer.code == 21, command
        assert "base.tar was changed" in answer.err
    file.unlink()
    assert workspace.run("build").code == 12


def test_a_base_that_is_an_oci_layout_is_taken_by_the_digests_of_its_blobs(
    workspace: Workspace,
) -> None:
    made = Files()
    image = made.image(LAYER, config={"Cmd": ["/bin/app"]})
    made.layout(named(image, "latest"))
    made.folder(workspace.root / "pay/base")
    workspace.write("pay/cage.toml", '[base]\narchive = "base"\n')
    workspace.commit()
    workspace.ok("lock")
    expected = workspace.ok("build").pcrs()
    blob = workspace.root / "pay/base/blobs/sha256" / hashlib.sha256(LAYER).hexdigest()
    blob.write_bytes(LAYER + b"\0")
    workspace.ok("cache", "--prune", "--older-than=0d")
    (workspace.root / "dist/pay/pay.eif").unlink()
    answer = workspace.run("build")
    assert answer.code == 50
    assert "changed" in answer.err
    blob.write_bytes(LAYER)
    assert workspace.ok("build").pcrs() == expected


def test_several_images_in_one_archive_have_to_be_told_apart(workspace: Workspace) -> None:
    made = Files()
    images = [
        named(made.image(LAYER, config={"Cmd": ["/bin/app", tag]}), tag) for tag in ("one", "two")
    ]
    made.layout(*images)
    made.folder(workspace.root / "pay/base")
    workspace.write("pay/cage.toml", '[base]\narchive = "base"\n')
    workspace.commit()
    answer = workspace.run("lock")
    assert answer.code == 22
    assert "one" in answer.err
    assert "two" in answer.err
    workspace.write("pay/cage.toml", '[base]\narchive = { path = "base", name = "two" }\n')
    workspace.ok("lock")
    workspace.ok("build")
    assert b"/bin/app\ntwo\n" in workspace.result("pay", "pay.eif")


# the runtime


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of a folder with an installer, and the installer's digest."""
    folder = tmp_path / "served"
    folder.mkdir()
    digest = installer(folder)
    with serving(folder) as url:
        yield url, str(digest)


def with_runtime(url: str, digest: str, more: str = "") -> str:
    """A cage with all that the runtime is told of."""
    return f"""\
[base]
archive = "base.tar"

[app]
user = "web"
workdir = "/srv/new/place"
env = {{ PORT = "8080" }}

[[ingress]]
port = 8080
health = "/healthz?a=1&b=2"

[[ingress]]
port = 8443
tls = "terminate"
proxy_protocol = true

[egress]
allow = ["*.example.com:443", "10.0.0.0/8:5432"]

[secrets]
env = ["TOKEN"]
files = ["tls.key"]

[logs]
forward = true

[epoch]
policy = "fixed"
time = 1000000000

[runtime]
installer = "{digest}"
url = "{url}"
{more}
"""


@pytest.fixture
def injected(workspace: Workspace, served: tuple[str, str]) -> Workspace:
    """A locked cage with the runtime."""
    config: Json = {"Entrypoint": ["/bin/app"], "Cmd": ["--serve"], "Env": ["A=1"]}
    file = workspace.write("pay/base.tar", "")
    docker_archive(file, LAYER, config=config)
    workspace.write("pay/cage.toml", with_runtime(*served))
    workspace.commit()
    workspace.ok("lock")
    return workspace


def test_the_runtime_is_given_the_cages_settings_as_a_file(injected: Workspace) -> None:
    injected.ok("build")
    eif = injected.result("pay", "pay.eif")
    start = eif.index(b'{\n  "version": 2,\n  "name": "pay"')
    settings = json.loads(eif[start : eif.index(b"\n}\n", start) + 3])
    assert settings == {
        "version": 2,
        "name": "pay",
        "argv": ["/bin/app", "--serve"],
        "uid": 33,
        "gid": 34,
        "groups": [34],
        "env": [
            "HOME=/var/www",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "A=1",
            "PORT=8080",
        ],
        "workdir": "/srv/new/place",
        "ingress": [
            {
                "port": 8080,
                "health": "/healthz?a=1&b=2",
                "tls": "passthrough",
                "protocol": "tcp",
                "proxy_protocol": False,
            },
            {
                "port": 8443,
                "health": None,
                "tls": "terminate",
                "protocol": "http",
                "proxy_protocol": True,
            },
        ],
        "egress": [
            {"host": "*.example.com", "port": 443},
            {"host": "10.0.0.0/8", "port": 5432},
        ],
        "secrets": {"env": ["TOKEN"], "files": ["tls.key"]},
        "logs": True,
        "epoch": 1000000000,
    }
    manifest = injected.result("pay", "manifest.json").decode()
    for name in (
        "cage/bin/cage-guest",
        "cage/manifest.json",
        "cage/etc/cage.json",
        "srv/new/place",
    ):
        assert f'"rootfs/{name}' in manifest
    assert b"/cage/bin/cage-guest\nboot\n" in eif


def cage_metadata(workspace: Workspace) -> dict[str, Any]:
    """What the image file of the cage ``pay`` says to its host."""
    described = workspace.ok("describe", "dist/pay/pay.eif", "--json").json()
    custom: dict[str, Any] = described["metadata"]["CustomMetadata"]
    assert list(custom) == ["cagebuild"]
    return dict(custom["cagebuild"])


def test_the_image_file_tells_the_host_what_it_needs_to_know(injected: Workspace) -> None:
    injected.ok("build")
    described = injected.ok("describe", "dist/pay/pay.eif")
    eif = injected.result("pay", "pay.eif")
    start = eif.index(b'{\n  "version": 2,\n  "name": "pay"')
    settings = json.loads(eif[start : eif.index(b"\n}\n", start) + 3])
    assert cage_metadata(injected) == {
        "version": 1,
        "name": "pay",
        "architecture": "x86_64",
        "memory_mib": 512,
        "cpus": 2,
        **{key: settings[key] for key in ("ingress", "egress", "secrets", "logs")},
    }
    assert "    memory_mib: 512" in described.lines
    assert '    egress: {"host": "10.0.0.0/8", "port": 5432}' in described.lines


def test_what_the_host_is_told_moves_no_pcr(injected: Workspace) -> None:
    injected.ok("build")
    expected, before = injected.locked("//pay").expected, injected.result("pay", "pay.eif")
    more = "[enclave]\nmemory = 4096\ncpus = 8\n"
    file = injected.root / "pay/cage.toml"
    injected.write("pay/cage.toml", f"{file.read_text()}\n{more}")
    injected.commit()
    injected.ok("lock")
    assert injected.ok("build").pcrs() == expected == injected.locked("//pay").expected
    found = cage_metadata(injected)
    assert (found["memory_mib"], found["cpus"]) == (4096, 8)
    assert injected.result("pay", "pay.eif") != before


def test_image_files_are_equal_bytes_with_an_empty_store(
    injected: Workspace, tmp_path: Path
) -> None:
    injected.ok("build")
    before = injected.result("pay", "pay.eif")
    injected.ok("build", env={"XDG_CACHE_HOME": str(tmp_path / "empty")})
    assert injected.result("pay", "pay.eif") == before


def test_nothing_gets_in_or_out_of_a_cage_without_the_runtime(workspace: Workspace) -> None:
    """Whatever it inherits."""
    workspace.write("cage.toml", f'{ROOT}\n[workspace.defaults.egress]\nallow = ["a.test:443"]\n')
    workspace.add("pay")
    workspace.ok("lock")
    workspace.ok("build")
    found = cage_metadata(workspace)
    assert (found["ingress"], found["egress"], found["logs"]) == ([], [], False)


@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_image_with_the_runtime_measures_as_the_build_did(
    injected: Workspace, form: str
) -> None:
    injected.ok("export", "//pay", "--output=image", f"--format={form}")
    assert converted(injected, "image") == injected.locked("//pay").expected


def test_after_locking_the_network_is_asked_for_locked_files_only(
    injected: Workspace, served: tuple[str, str], tmp_path: Path
) -> None:
    """The store is gone and so is the installer's URL; a mirror has it, under its digest."""
    expected = injected.locked("//pay").expected
    folder = tmp_path / "served" / "mirrored"
    folder.mkdir()
    name = served[1].removeprefix("sha256:")
    (tmp_path / "served" / name).rename(folder / name)
    env = {"XDG_CACHE_HOME": str(tmp_path / "empty")}
    failed = injected.run("build", env=env)
    assert failed.code == 71
    assert served[0] in failed.err
    injected.write("cage.toml", f'[workspace]\nmirrors = ["{served[0]}/mirrored"]\n{_rest()}')
    assert injected.ok("build", env=env).pcrs() == expected
    assert injected.ok("plan", env=env).lines[-1].startswith("  hit")


def _rest() -> str:
    return ROOT.replace("[workspace.defaults]", "\n[workspace.defaults]", 1)


def test_a_mirror_with_other_bytes_is_passed_over(
    injected: Workspace, served: tuple[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "served" / "bad"
    folder.mkdir()
    name = served[1].removeprefix("sha256:")
    good = (tmp_path / "served" / name).read_bytes()
    (folder / name).write_bytes(b"x" * len(good))
    injected.write("cage.toml", f'[workspace]\nmirrors = ["{served[0]}/bad"]\n{_rest()}')
    answer = injected.ok("build", env={"XDG_CACHE_HOME": str(tmp_path / "empty")})
    assert answer.pcrs() == injected.locked("//pay").expected
    (tmp_path / "served" / name).unlink()
    answer = injected.run("build", "--explain", env={"XDG_CACHE_HOME": str(tmp_path / "empty2")})
    assert answer.code in (50, 71)  # when the image is looked at, or when a step reads the blob


def test_an_image_with_a_cage_folder_of_its_own_is_refused(
    injected: Workspace,
) -> None:
    layer = archive(directory("cage"), regular("cage/mine", b"x"))
    docker_archive(injected.root / "pay/base.tar", LAYER, layer, config={"Cmd": ["/bin/app"]})
    answer = injected.run("lock")
    assert answer.code == 71
    assert "/cage of its own" in answer.err


def test_a_user_that_the_image_does_not_know_is_refused(injected: Workspace) -> None:
    text = (injected.root / "pay/cage.toml").read_text()
    injected.write("pay/cage.toml", text.replace('"web"', '"wbe"'))
    answer = injected.run("lock")
    assert answer.code == 71
    assert "'wbe' is not in the image's /etc/passwd" in answer.err


def test_a_working_directory_that_is_a_file_is_refused(injected: Workspace) -> None:
    layer = archive(symlink("srv", "etc/passwd"))
    docker_archive(injected.root / "pay/base.tar", LAYER, layer, config={"Cmd": ["/bin/app"]})
    answer = injected.run("lock")
    assert answer.code == 71
    assert "is not a directory" in answer.err


def test_a_cages_own_kernel_with_the_runtimes_init_left_alone(injected: Workspace) -> None:
    """Own boot files bring their own init, whatever the installer has."""
    injected.ok("build")
    _, boot = sections(injected, RAMDISK)[0]
    assert b"init program\n" in boot
    assert b"init of a test" not in boot


# signing


def signed(workspace: Workspace, curve: ec.EllipticCurve | None = None) -> x509.Certificate:
    """A locked cage ``pay`` that is signed, and its certificate."""
    certificate, key = signing_files(workspace.root.parent, curve)
    workspace.write("keys/certificate.pem", certificate.read_bytes())
    text = f"""{CAGE}
[signing]
certificate = "//keys/certificate.pem"
key = "{key}"
"""
    workspace.add("pay", text)
    workspace.ok("lock")
    return x509.load_pem_x509_certificate(certificate.read_bytes())


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_cage_has_a_pcr8_and_verifies(
    workspace: Workspace, curve: ec.EllipticCurve
) -> None:
    certificate = signed(workspace, curve)
    answer = workspace.ok("build")
    der = certificate.public_bytes(serialization.Encoding.DER)
    pcr8 = hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()
    assert measurements(workspace, "pay")["PCR8"] == pcr8
    assert answer.pcrs()["PCR8"] == pcr8
    assert "  as in cage.lock" in answer.lines
    described = workspace.ok("describe", "dist/pay/pay.eif")
    assert f"PCR8          {pcr8}" in described.lines
    assert any(line.startswith("signature") and "verified" in line for line in described.lines)


def test_a_signed_file_is_the_unsigned_one_but_for_its_signature(workspace: Workspace) -> None:
    signed(workspace)
    workspace.ok("build")
    first = sections(workspace)
    workspace.write("pay/cage.toml", CAGE)
    workspace.ok("lock")
    workspace.ok("build")
    assert [each for each in first if each[0] != SIGNATURE] == sections(workspace)
    assert [kind for kind, _ in first].count(SIGNATURE) == 1
    assert "PCR8" not in measurements(workspace, "pay")


def test_a_signed_cage_is_not_built_twice(workspace: Workspace) -> None:
    signed(workspace)
    workspace.ok("build")
    before = workspace.result("pay", "pay.eif")
    assert steps(workspace.ok("build")) == {}
    assert workspace.result("pay", "pay.eif") == before


def test_neither_key_nor_signature_gets_into_the_store(workspace: Workspace) -> None:
    signed(workspace)
    workspace.ok("build")
    key = (workspace.root.parent / "key.pem").read_bytes()
    secret = key.splitlines()[1]
    ((_, signature),) = sections(workspace, SIGNATURE)
    for path in workspace.store.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data
            assert signature not in data


def test_measuring_and_locking_need_no_key(workspace: Workspace) -> None:
    signed(workspace)
    (workspace.root.parent / "key.pem").unlink()
    assert "PCR8" in workspace.ok("pcr").pcrs()
    workspace.ok("lock", "--update", "epoch")
    answer = workspace.run("build")
    assert answer.code == 52
    assert "key.pem" in answer.err
    assert not (workspace.root / "dist/pay/pay.eif").exists()


def test_another_certificate_moves_pcr8_alone(workspace: Workspace) -> None:
    signed(workspace)
    before = workspace.locked("//pay").expected
    assert before
    certificate, _ = signing_files(workspace.root.parent)
    workspace.write("keys/certificate.pem", certificate.read_bytes())
    answer = workspace.run("pcr")
    assert answer.code == 60
    got = answer.pcrs()
    assert [name for name in got if got[name] != before[name]] == ["PCR8"]
    assert f"expected {before['PCR8']}" in answer.out


def test_a_key_of_another_certificate_leaves_no_image_file(workspace: Workspace) -> None:
    signed(workspace)
    certificate, _ = signing_files(workspace.root.parent)
    assert certificate.exists()
    answer = workspace.run("build")
    assert answer.code == 52
    assert not list((workspace.root / "dist/pay").glob("*.eif"))
    assert not list((workspace.root / "dist/pay").glob(".*"))


def test_a_kill_while_signing_leaves_nothing_for_good(workspace: Workspace) -> None:
    """The unsigned copy lies where the next build sweeps."""
    signed(workspace)
    program = """\
import os, signal
from cagebuild.nitro import attach
attach.sign_file = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
from cagebuild.tasks import *
"""
    workspace.write("tasks.py", program)
    assert workspace.process("build").code == -9
    workspace.ok("build")
    names = sorted(path.name for path in (workspace.root / "dist/pay").iterdir())
    assert names == ["manifest.json", "measurements.json", "pay.eif"]
    assert not list((workspace.store / "tmp").iterdir())


def test_an_image_is_signed_by_eif_as_by_build(workspace: Workspace) -> None:
    signed(workspace)
    workspace.ok("export", "--output=image")
    key = workspace.root.parent / "key.pem"
    got = converted(workspace, "image", "--cert=keys/certificate.pem", f"--key={key}")
    assert got == workspace.locked("//pay").expected
