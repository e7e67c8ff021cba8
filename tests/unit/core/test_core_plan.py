"""Plans: pure, the same everywhere, and each id covers exactly what its step reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from cagebuild import code, config, lock, plan
from cagebuild.digest import Digest
from cagebuild.errors import LockError, SourceError, StaleLockError, UnsupportedError
from cagebuild.execute.graph import in_order
from cagebuild.lock import Lock, LockedRuntime, Pinned
from cagebuild.pinning import World, resolve
from cagebuild.plan import boot as plan_boot
from cagebuild.recipes import pins
from cagebuild.sources import collect
from cagebuild.step import FileInput, StepInput
from tests.support.images import Files, named
from tests.support.tars import archive, regular
from tests.support.workspaces import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cagebuild.config.model import Cage, Workspace
    from cagebuild.plan import Plan
    from cagebuild.sources import SourceFile
    from cagebuild.step import Step

INSTALLER = Digest.of(b"installer")
TEXT = f"""\
[cage]
name = "pay"

[base]
archive = "base.tar"

[app]
command = ["/srv/run"]
user = "0"
workdir = "/srv"
env = {{ A = "1" }}

[[app.files]]
source = "src"
destination = "/srv"

[[ingress]]
port = 8080

[egress]
allow = ["example.com:443"]

[epoch]
policy = "fixed"
time = 5

[enclave]
memory = "512MiB"
boot = {{ kernel = "//boot/bzImage", init = "//boot/init", nsm = "//boot/nsm.ko", \
cmdline = "//boot/cmdline" }}

[runtime]
installer = "{INSTALLER}"
url = "https://one.test"

[signing]
certificate = "//boot/cert.pem"
key = "key.pem"
"""
LAYER = archive(regular("bin/app", b"program\n"))


def no_network(url: str, *, limit: int) -> bytes:
    """Nothing here may ask."""
    raise AssertionError(f"the network was asked for {url}")


def no_git(paths: Sequence[Path]) -> int | None:
    """Nothing here may ask."""
    raise AssertionError("git was asked")


OFFLINE = World(get=no_network, last_commit=no_git, source_date_epoch=None)


def base_archive(*words: str) -> bytes:
    """An image with that command."""
    made = Files()
    return made.layout(named(made.image(LAYER, config={"Cmd": list(words)}), "app:1")).tar()


class Project:
    """A cage that has a bit of everything."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for name in ("bzImage", "init", "nsm.ko", "cmdline", "cert.pem"):
            self.write(f"boot/{name}", f"{name}\n".encode())
        self.write("cage.toml", ROOT.encode())
        self.write("pay/src/run", b"program\n")
        self.write("pay/src/note", b"note\n")
        self.write("pay/base.tar", base_archive("/bin/app"))
        self.write("pay/cage.toml", TEXT.encode())

    def write(self, name: str, data: bytes) -> Path:
        """A file."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def edit(self, old: str, new: str) -> None:
        """Change cage.toml."""
        file = self.root / "pay/cage.toml"
        before = file.read_text()
        assert old in before
        file.write_text(before.replace(old, new))

    def workspace(self) -> Workspace:
        """As it is now."""
        return config.load_workspace(self.root)

    def cage(self) -> Cage:
        """As it is now."""
        return config.load(self.root / "pay/cage.toml", self.workspace())

    def sources(self) -> tuple[SourceFile, ...]:
        """As they are now; there is no git."""
        cage = self.cage()
        return collect(self.workspace(), [cage], Digest.of_file)[cage].files

    def lock(self) -> Lock:
        """A new one."""
        return resolve(self.cage(), self.sources(), previous=None, update=(), world=OFFLINE)

    def plan(self, locked: Lock | None = None, *, mirrors: tuple[str, ...] = ()) -> Plan:
        """By a new lock unless one is given."""
        return plan.plan(
            self.cage(),
            locked or self.lock(),
            self.sources(),
            mirrors=mirrors,
            digest=Digest.of_file,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A bit of everything."""
    return Project(tmp_path / "work")


def ids(made: Plan) -> dict[str, str]:
    """Of all steps, by kind: each is there once."""
    steps = list(in_order([made.measure, made.eif]).values())
    found = {step.kind: step.id for step in steps}
    assert len(found) == len(steps)
    return found


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The kinds of the steps with other ids."""
    assert before.keys() == after.keys()
    return {kind for kind in before if before[kind] != after[kind]}


EVERYTHING = {"import", "app-layer", "image", "fetch", "runtime", "measure", "eif"}
ENCLAVE = {"measure", "eif"}
IMAGE = {"image", *ENCLAVE}

# the same everywhere


def test_a_plan_has_a_step_for_each_thing_to_do(project: Project) -> None:
    assert ids(project.plan()).keys() == EVERYTHING


def test_the_same_lock_and_files_give_the_same_plan(project: Project) -> None:
    locked = project.lock()
    assert ids(project.plan(locked)) == ids(project.plan(locked))


def test_ids_are_the_same_in_another_checkout(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "another place" / "deep" / "er")
    assert ids(other.plan()) == ids(project.plan())
    for step in in_order([other.plan().eif]).values():
        assert str(tmp_path) not in json.dumps(step.facts())


def test_planning_asks_for_local_files_alone(project: Project) -> None:
    """What it reads of this machine is what it is given to read with."""
    locked, cage, sources = project.lock(), project.cage(), project.sources()
    asked: list[str] = []

    def digest(path: Path) -> Digest:
        asked.append(path.name)
        return Digest.of_file(path)

    plan.plan(cage, locked, sources, mirrors=(), digest=digest)
    expected = {"bzImage", "init", "nsm.ko", "cmdline", "cert.pem", "base.tar"}
    assert set(asked) == expected


def test_a_plan_does_not_change_its_lock(project: Project) -> None:
    locked = project.lock()
    before = locked.text()
    project.plan(locked)
    assert locked.text() == before


# what moves which steps


def _choose_arm(project: Project) -> None:
    project.edit("[enclave]", '[enclave]\narchitecture = "aarch64"')
    project.write("pay/base.tar", _for_arm())


def _move_init(project: Project) -> None:
    (project.root / "boot/init").rename(project.root / "boot/start")
    project.edit("//boot/init", "//boot/start")


def _for_arm() -> bytes:
    made = Files()
    image = made.image(LAYER, architecture="arm64", config={"Cmd": ["/bin/app"]})
    return made.layout(named(image, "app:1")).tar()


CHANGES: dict[str, tuple[Callable[[Project], object], set[str]]] = {
    "a source": (lambda p: p.write("pay/src/note", b"other\n"), {"app-layer", *IMAGE}),
    "a new source": (lambda p: p.write("pay/src/new", b""), {"app-layer", *IMAGE}),
    "a source's name": (
        lambda p: (p.root / "pay/src/note").rename(p.root / "pay/src/renamed"),
        {"app-layer", *IMAGE},
    ),
    "a source that can be run": (
        lambda p: (p.root / "pay/src/note").chmod(0o755),
        {"app-layer", *IMAGE},
    ),
    "a source's owner": (
        lambda p: p.edit('"/srv"\n\n[[ing', '"/srv"\nowner = "5:6"\n\n[[ing'),
        {"app-layer", *IMAGE},
    ),
    "a destination": (
        lambda p: p.edit('destination = "/srv"', 'destination = "/srv/app"'),
        {"app-layer", *IMAGE},
    ),
    "the base": (
        lambda p: p.write("pay/base.tar", base_archive("/bin/app", "more")),
        {"import", *IMAGE},
    ),
    "the image's name in the base": (
        lambda p: p.edit('"base.tar"', '{ path = "base.tar", name = "app:1" }'),
        {"import", *IMAGE},
    ),
    "the command": (lambda p: p.edit('"/srv/run"', '"/srv/other"'), IMAGE),
    "the user": (lambda p: p.edit('user = "0"', 'user = "1"'), IMAGE),
    "the working directory": (lambda p: p.edit('workdir = "/srv"', 'workdir = "/"'), IMAGE),
    "the environment": (lambda p: p.edit('A = "1"', 'A = "2"'), IMAGE),
    "a way in": (lambda p: p.edit("8080", "8081"), IMAGE),
    "a way out": (lambda p: p.edit("example.com:443", "example.com:444"), IMAGE),
    "the name": (lambda p: p.edit('"pay"', '"mail"'), IMAGE),
    "the time": (lambda p: p.edit("time = 5", "time = 6"), IMAGE),
    "the kernel": (lambda p: p.write("boot/bzImage", b"x"), ENCLAVE),
    "the init": (lambda p: p.write("boot/init", b"x"), ENCLAVE),
    "the driver": (lambda p: p.write("boot/nsm.ko", b"x"), ENCLAVE),
    "the command line": (lambda p: p.write("boot/cmdline", b"x"), ENCLAVE),
    "no driver": (lambda p: p.edit('nsm = "//boot/nsm.ko", ', ""), ENCLAVE),
    "the certificate": (lambda p: p.write("boot/cert.pem", b"x"), ENCLAVE),
    "the installer": (
        lambda p: p.edit(str(INSTALLER), str(Digest.of(b"other"))),
        {"fetch", "runtime", *ENCLAVE},
    ),
    "the processor": (_choose_arm, EVERYTHING - {"fetch"}),
    "memory, which the metadata tells the host": (
        lambda p: p.edit("512MiB", "1GiB"),
        {"measure", "eif"},
    ),
    # What cannot change the result changes no id.
    "the signing key": (lambda p: p.edit("key.pem", "elsewhere.pem"), set()),
    "the installer's location": (lambda p: p.edit("one.test", "two.test"), set()),
    "a comment": (lambda p: p.edit("[base]", "# of no effect\n[base]"), set()),
    "a file beside the sources": (lambda p: p.write("pay/README", b"x"), set()),
    "where a file of the same content is": (_move_init, set()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_moves_the_steps_that_read_it_and_those_below(project: Project, what: str) -> None:
    change, expected = CHANGES[what]
    before = ids(project.plan())
    change(project)
    assert moved(before, ids(project.plan())) == expected


def test_other_code_moves_all_but_what_is_known_by_its_digest(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids(project.plan())
    monkeypatch.setattr(code, "version", lambda: "another")
    assert moved(before, ids(project.plan())) == EVERYTHING - {"fetch"}


def test_mirrors_are_asked_first_and_move_nothing(project: Project) -> None:
    before, after = project.plan(), project.plan(mirrors=("https://a.test/cas", "https://b.test"))
    assert ids(after) == ids(before)
    (fetch,) = (step for step in in_order([after.eif]).values() if step.kind == "fetch")
    assert fetch.hints["locations"] == [
        f"https://a.test/cas/{INSTALLER.hex}",
        f"https://b.test/{INSTALLER.hex}",
        f"https://one.test/{INSTALLER.hex}",
    ]


def test_expected_measurements_are_no_input(project: Project) -> None:
    locked = project.lock()
    other = replace(locked, expected={"PCR0": "0" * 96, "PCR1": "0" * 96, "PCR2": "0" * 96})
    assert ids(project.plan(other)) == ids(project.plan(locked))


def test_the_version_of_the_code_is_of_its_source_and_stays_in_a_process() -> None:
    assert len(bytes.fromhex(code.version())) == 32
    assert code.version() == code.version()


def test_the_image_is_what_layers_and_config_make(project: Project) -> None:
    made = project.plan()
    inputs = made.image_inputs()
    assert sorted(inputs) == ["config.json", *(f"layer-{number:03}.tar" for number in range(4))]
    kinds = [inputs[f"layer-{number:03}.tar"].step.kind for number in range(4)]
    assert kinds == ["import", "app-layer", "runtime", "image"]
    assert made.measure.params["origins"] == [
        f"layer {Digest.of(LAYER).hex[:12]}",
        "app",
        "runtime",
        "settings",
    ]


def test_no_key_is_an_input_of_any_step(project: Project) -> None:
    for step in in_order([project.plan().eif]).values():
        for given in step.inputs.values():
            path = getattr(given, "path", Path("none"))
            assert path.name != "key.pem"


def test_a_cage_with_the_least(project: Project) -> None:
    project.edit(TEXT, 'runtime = false\n[base]\nscratch = true\n[app]\ncommand = ["/a"]\n')
    assert ids(project.plan()).keys() == {"image", "measure", "eif"}


# pins of packages


def debian_pins(*versions: str, mirror: str = "https://mirror.test/debian") -> dict[str, Any]:
    """Pins of packages ``p0``, ``p1``, … of these versions."""
    return {
        "mirror": mirror,
        "suites": [
            {
                "suite": "trial",
                "date": 1,
                "snapshot": "20260101T000000Z",
                "release": str(Digest.of(b"release")),
            }
        ],
        "packages": [
            {
                "name": f"p{number}",
                "version": version,
                "architecture": "amd64",
                "filename": f"pool/main/p{number}.deb",
                "size": 5,
                "sha256": Digest.of(f"p{number} {version}".encode()).hex,
                "suite": "trial",
            }
            for number, version in enumerate(versions)
        ],
    }


def on_debian(project: Project, pins: dict[str, Any], *, kernel: str = "6.1") -> Plan:
    """The plan of a cage on those packages and a Debian kernel."""
    project.edit('archive = "base.tar"', 'debian = { suite = "trial", packages = ["p0"] }')
    boot = (project.root / "pay/cage.toml").read_text().split("boot = ")[1].split("\n")[0]
    project.edit(boot, '"debian"')
    made_from = Digest.of(b"settings")
    locked = Lock(
        cage="pay",
        config=project.cage().checksum,
        architecture="x86_64",
        epoch=lock.LockedEpoch(policy="fixed", time=5, inputs=made_from),
        base=Pinned(made_from=made_from, kind="debian", pins=pins),
        boot=Pinned(
            made_from=made_from,
            kind="debian",
            pins={"kernel": debian_pins(kernel), "cmdline": "console=ttyS0"},
        ),
        runtime=lock.LockedRuntime(installer=INSTALLER, name="runtime"),
        expected=None,
    )
    made = project.plan(locked)
    project.write("pay/cage.toml", TEXT.encode())
    return made


def names(made: Plan) -> dict[str, str]:
    """Ids by the steps' own names."""
    return {step.name: step.id for step in in_order([made.eif]).values()}


def test_a_package_of_another_version_moves_the_base_and_all_below(project: Project) -> None:
    before = names(on_debian(project, debian_pins("1", "1")))
    after = names(on_debian(project, debian_pins("1", "2")))
    assert before.keys() - after.keys() == {"fetch p1 1"}
    assert after.keys() - before.keys() == {"fetch p1 2"}
    same = {name for name in before if before[name] == after.get(name)}
    assert same == {
        "fetch p0 1",
        "fetch p0 6.1",
        "kernel 6.1",
        "fetch runtime installer",
        "runtime",
        "app files",
    }


def test_the_order_of_packages_is_part_of_the_base_by_name_alone(project: Project) -> None:
    before = names(on_debian(project, debian_pins("1", "1")))
    other = debian_pins("1", "1", mirror="https://another.test")
    assert names(on_debian(project, other)) == before


def test_another_kernel_moves_the_enclave_alone(project: Project) -> None:
    before = names(on_debian(project, debian_pins("1")))
    after = names(on_debian(project, debian_pins("1"), kernel="6.2"))
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"fetch p0 6.2", "kernel 6.2", "eif pay"}


# what cannot be planned


@pytest.mark.parametrize("boot", ["debian", "cagebuild"])
def test_a_kernel_of_ours_or_debians_without_the_runtime_has_no_init(
    project: Project, boot: Literal["debian", "cagebuild"]
) -> None:
    locked, cage = project.lock(), project.cage()
    cage = replace(cage, enclave=replace(cage.enclave, boot=boot), runtime=None)
    with pytest.raises(UnsupportedError, match="runtime is false"):
        plan.plan(cage, replace(locked, runtime=None), (), mirrors=(), digest=Digest.of_file)


BOOT = (
    'boot = { kernel = "//boot/bzImage", init = "//boot/init", nsm = "//boot/nsm.ko",'
    ' cmdline = "//boot/cmdline" }'
)


def own_kernel(project: Project, digest: Digest) -> Lock:
    """A lock of the project with a kernel of that digest."""
    project.edit(
        BOOT,
        'boot = "cagebuild"',
    )
    locked = project.lock()
    made = {**locked.boot.pins["kernel"], "sha256": digest.hex}
    return replace(locked, boot=replace(locked.boot, pins={**locked.boot.pins, "kernel": made}))


def kernel_step(planned: Plan) -> Step:
    given = planned.eif.inputs["kernel"]
    assert isinstance(given, StepInput)
    return given.step


def test_our_kernel_is_made_from_source_and_known_by_its_digest(project: Project) -> None:
    locked = own_kernel(project, pins.kernel("x86_64").digest)
    project.edit('url = "https://one.test"\n', "")
    project.edit(str(INSTALLER), str(pins.installer("x86_64").digest))
    step = kernel_step(project.plan(project.lock()))
    assert step.kind == "container"
    assert step.expected == {"kernel": pins.kernel("x86_64").digest}
    assert locked.boot.kind == "cagebuild"
    kinds = {each.kind for each in in_order([step]).values()}
    assert kinds == {"container", "debian-base", "fetch"}


def test_our_kernel_comes_from_where_the_cage_says(project: Project) -> None:
    digest = Digest.of(b"a kernel of another version")
    step = kernel_step(project.plan(own_kernel(project, digest)))
    assert step.kind == "fetch"
    assert step.hints["locations"] == [f"https://one.test/{digest.hex}"]


def test_a_kernel_and_an_installer_that_the_installation_carries_are_taken(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = b"the kernel that a wheel carries"
    digest = Digest.of(kernel)
    (tmp_path / digest.hex).write_bytes(kernel)
    monkeypatch.setattr(plan_boot, "CARRIED", tmp_path)
    given = project.plan(own_kernel(project, digest)).eif.inputs["kernel"]
    assert given == FileInput(digest=digest, path=tmp_path / digest.hex)


def test_a_kernel_that_nobody_has_is_refused_with_the_command(project: Project) -> None:
    digest = Digest.of(b"another")
    locked = own_kernel(project, digest)
    cage = project.cage()
    assert cage.runtime is not None
    cage = replace(cage, runtime=replace(cage.runtime, url=None))
    ours = LockedRuntime(installer=pins.installer("x86_64").digest, name="ours")
    with pytest.raises(LockError, match=f"the lock pins the kernel {digest}") as caught:
        plan.plan(cage, replace(locked, runtime=ours), (), mirrors=(), digest=Digest.of_file)
    assert "invoke lock --update boot //pay" in caught.value.hint


def test_an_installer_that_nobody_has_is_refused_with_the_command(project: Project) -> None:
    locked = project.lock()
    project.edit('url = "https://one.test"\n', "")
    with pytest.raises(LockError, match=str(INSTALLER)) as caught:
        project.plan(locked)
    assert "invoke lock --update runtime //pay" in caught.value.hint


FILES = ["pay/base.tar", "boot/bzImage", "boot/init", "boot/nsm.ko", "boot/cmdline"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_changed_after_locking_is_stale(project: Project, file: str) -> None:
    locked = project.lock()
    project.write(file, b"other")
    with pytest.raises(StaleLockError, match="was changed after") as caught:
        project.plan(locked)
    assert file.rpartition("/")[2] in caught.value.message
    assert caught.value.hint == "renew the lock: invoke lock //pay"


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_gone_after_locking_names_its_key(project: Project, file: str) -> None:
    locked = project.lock()
    (project.root / file).unlink()
    with pytest.raises(SourceError) as caught:
        project.plan(locked)
    key = "base.archive" if file.startswith("pay") else "enclave.boot."
    assert key in caught.value.message
    assert Path(file).name in caught.value.message


def test_a_certificate_that_is_not_there_is_a_mistake_of_the_cage(project: Project) -> None:
    locked = project.lock()
    (project.root / "boot/cert.pem").unlink()
    with pytest.raises(SourceError, match=r"signing\.certificate names .*cert\.pem"):
        project.plan(locked)


def wrong_pins(part: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Lock], Lock]:
    """A lock whose pins of one part somebody has edited."""

    def edit(locked: Lock) -> Lock:
        pinned: Pinned = getattr(locked, part)
        pins = json.loads(json.dumps(dict(pinned.pins)))
        change(pins)
        edited = replace(pinned, pins=pins)
        return replace(locked, base=edited) if part == "base" else replace(locked, boot=edited)

    return edit


EDITED: dict[str, Callable[[Lock], Lock]] = {
    "no boot files": wrong_pins("boot", lambda pins: pins.clear()),
    "no kernel": wrong_pins("boot", lambda pins: pins.pop("kernel")),
    "a kernel that is text": wrong_pins("boot", lambda pins: pins.update(kernel="x")),
    "a kernel without a digest": wrong_pins("boot", lambda pins: pins["kernel"].pop("sha256")),
    "a short digest": wrong_pins("boot", lambda pins: pins["kernel"].update(sha256="ab")),
    "a digest that is a number": wrong_pins("boot", lambda pins: pins["kernel"].update(sha256=5)),
    "no archive": wrong_pins("base", lambda pins: pins.clear()),
    "layers that are text": wrong_pins("base", lambda pins: pins.update(layers="ab")),
    "a layer that is null": wrong_pins("base", lambda pins: pins.update(layers=[None])),
}


@pytest.mark.parametrize("what", EDITED)
def test_pins_that_somebody_edited_are_refused_with_the_command(
    project: Project, what: str
) -> None:
    with pytest.raises(LockError) as caught:
        project.plan(EDITED[what](project.lock()))
    assert caught.value.exit_code == 20
    assert "invoke lock" in caught.value.hint


@pytest.mark.parametrize("cmdline", [None, 5, ["console"]])
def test_a_debian_kernel_needs_its_command_line(project: Project, cmdline: object) -> None:
    locked, cage = project.lock(), project.cage()
    cage = replace(cage, enclave=replace(cage.enclave, boot="debian"))
    pins = {"kernel": debian_pins("1"), "cmdline": cmdline}
    locked = replace(locked, boot=replace(locked.boot, kind="debian", pins=pins))
    with pytest.raises(LockError, match="command line"):
        plan.plan(cage, locked, (), mirrors=(), digest=Digest.of_file)
