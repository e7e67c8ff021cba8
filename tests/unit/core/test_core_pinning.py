"""What the pins of a lock are resolved to, and when they stay as they are. No network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild import config, pinning
from cagebuild.config.model import DebianBase
from cagebuild.debian import locking
from cagebuild.digest import Digest
from cagebuild.errors import ResolveError, SourceError, UsageError
from cagebuild.image import registry
from cagebuild.pinning import World, check_names, resolve
from cagebuild.recipes import pins
from cagebuild.sources import SourceFile
from tests.support.debian import Archive, keyring, make_deb
from tests.support.images import Files, named
from tests.support.tars import archive, regular
from tests.support.workspaces import ROOT, Workspace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from cagebuild.config.model import Architecture, Cage
    from cagebuild.lock import Lock
    from cagebuild.pinning import Part

ALL: frozenset[Part] = frozenset(pinning.PARTS)
SCRATCH = '[base]\nscratch = true\n[app]\ncommand = ["/a"]\n'
MIRROR = "http://mirror.test/debian"


def no_network(url: str, *, limit: int) -> bytes:
    """For all that must not ask."""
    raise AssertionError(f"the network was asked for {url}")


def no_git(paths: Sequence[Path]) -> int | None:
    """For all that must not ask."""
    raise AssertionError("git was asked")


OFFLINE = World(get=no_network, last_commit=no_git, source_date_epoch=None)


class Project:
    """A folder with one cage, ``pay``, whose text a test changes."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for name in ("bzImage", "init", "nsm.ko", "cmdline"):
            self.write(f"boot/{name}", f"{name}\n".encode())
        self.write("cage.toml", ROOT.encode())
        self.write("pay/src/run", b"program\n")

    def write(self, name: str, data: bytes) -> Path:
        """A file."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def cage(self, text: str = SCRATCH) -> Cage:
        """The cage with that cage.toml."""
        file = self.write("pay/cage.toml", text.encode())
        return config.load(file, config.load_workspace(file))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Boot files and a root."""
    return Project(tmp_path / "work")


def source(name: str, data: bytes = b"x") -> SourceFile:
    """One of the app's files."""
    return SourceFile(
        destination=name,
        kind="file",
        mode=0o644,
        uid=0,
        gid=0,
        path=Path("/anywhere") / name,
        digest=Digest.of(data),
    )


def locked(
    cage: Cage,
    world: World = OFFLINE,
    *,
    sources: tuple[SourceFile, ...] = (),
    previous: Lock | None = None,
    update: Collection[Part] = (),
) -> Lock:
    """``resolve`` with nothing to keep unless given."""
    return resolve(cage, sources, previous=previous, update=update, world=world)


# names of parts


def test_parts_by_name() -> None:
    assert check_names([]) == ALL
    assert check_names(["boot", "epoch", "boot"]) == {"boot", "epoch"}
    with pytest.raises(UsageError, match="no part 'bass'") as caught:
        check_names(["base", "bass"])
    assert "base, boot, runtime, epoch" in caught.value.hint


# the lock as a whole


def test_a_lock_says_what_it_was_made_of(project: Project) -> None:
    cage = project.cage()
    lock = locked(cage)
    assert (lock.cage, lock.config, lock.architecture) == ("pay", cage.checksum, "x86_64")
    assert (lock.base.kind, lock.base.pins) == ("scratch", {})
    assert lock.runtime is None
    assert lock.expected is None


@pytest.mark.parametrize("update", [frozenset(), ALL])
def test_locking_again_moves_nothing(project: Project, update: frozenset[Part]) -> None:
    cage = project.cage()
    first = replace(locked(cage), expected={"PCR0": "0" * 96})
    assert locked(cage, previous=first, update=update) == first


def test_a_lock_is_the_same_in_another_folder(project: Project, tmp_path: Path) -> None:
    text = SCRATCH + '[signing]\ncertificate = "//boot/init"\nkey = "/elsewhere/key"\n'
    other = Project(tmp_path / "another place" / "deep")
    assert locked(other.cage(text)).text() == locked(project.cage(text)).text()


def test_the_runtime_is_the_installer_that_the_cage_names(project: Project) -> None:
    installer = Digest.of(b"installer")
    # runtime = false is the workspace's default here; a cage's own table takes its place.
    text = f'{SCRATCH}[runtime]\ninstaller = "{installer}"\n'
    lock = locked(project.cage(text))
    assert lock.runtime
    assert lock.runtime.installer == installer
    assert "x86_64" in lock.runtime.name


# boot files of the cage's own


def test_own_boot_files_are_pinned_by_path_and_digest(project: Project) -> None:
    pins = locked(project.cage()).boot.pins
    assert pins == {
        name: {"path": f"../boot/{file}", "sha256": Digest.of(f"{file}\n".encode()).hex}
        for name, file in (
            ("kernel", "bzImage"),
            ("init", "init"),
            ("nsm", "nsm.ko"),
            ("cmdline", "cmdline"),
        )
    }


def test_own_boot_files_are_always_looked_at(project: Project) -> None:
    cage = project.cage()
    first = locked(cage)
    project.write("boot/init", b"another\n")
    second = locked(cage, previous=first)
    assert second.boot.pins["init"]["sha256"] == Digest.of(b"another\n").hex
    assert second.boot.pins["kernel"] == first.boot.pins["kernel"]


def test_a_boot_file_that_is_not_there_names_its_key(project: Project) -> None:
    (project.root / "boot/nsm.ko").unlink()
    with pytest.raises(SourceError, match=r"enclave\.boot\.nsm names .*nsm\.ko") as caught:
        locked(project.cage())
    assert "enclave.boot.nsm" in caught.value.hint


def test_our_own_kernel_is_pinned_by_what_the_recipe_makes(project: Project) -> None:
    text = f'{SCRATCH}[enclave]\nboot = "cagebuild"\n'
    boot = locked(project.cage(text)).boot
    made = pins.kernel("x86_64")
    assert boot.kind == "cagebuild"
    assert boot.pins["kernel"]["sha256"] == made.digest.hex
    assert boot.pins["kernel"]["version"] == pins.sources().linux_version
    assert boot.pins["cmdline"].startswith("reboot=k panic=30")


# bases


LAYER = archive(regular("bin/app", b"program\n", mode=0o755))


def layout(*tags: str) -> Files:
    """An OCI layout of images that differ in their command."""
    made = Files()
    return made.layout(
        *(named(made.image(LAYER, config={"Cmd": ["/bin/app", tag]}), tag) for tag in tags)
    )


def test_an_archive_is_pinned_by_what_is_in_it_and_always_looked_at(project: Project) -> None:
    file = project.write("pay/base.tar", layout("one").tar())
    cage = project.cage('[base]\narchive = "base.tar"\n')
    first = locked(cage)
    assert first.base.kind == "archive"
    assert first.base.pins["archive"] == str(Digest.of_file(file))
    assert first.base.pins["layers"][0]["diff_id"] == str(Digest.of(LAYER))
    project.write("pay/base.tar", layout("two").tar())
    second = locked(cage, previous=first)
    assert second.base.pins["config"] != first.base.pins["config"]
    assert second.base.pins["layers"] == first.base.pins["layers"]


def test_a_layout_in_a_folder_has_no_digest_of_its_own(project: Project) -> None:
    layout("one").folder(project.root / "pay/base")
    pins = locked(project.cage('[base]\narchive = "base"\n')).base.pins
    assert pins["archive"] is None
    assert pins["layers"][0]["digest"] == str(Digest.of(LAYER))


def test_an_archive_that_is_not_there_names_its_key(project: Project) -> None:
    with pytest.raises(SourceError, match=r"base\.archive names .*base\.tar"):
        locked(project.cage('[base]\narchive = "base.tar"\n'))


def test_an_image_is_asked_for_when_its_name_or_processor_changes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Architecture]] = []

    class Pin:
        def to_json(self) -> dict[str, object]:
            return {"asked": len(asked)}

    def ask(reference: str, architecture: Architecture) -> Pin:
        asked.append((reference, architecture))
        return Pin()

    monkeypatch.setattr(registry, "resolve", ask)
    text = '[base]\nimage = "reg.test/app:1"\n'
    first = locked(project.cage(text))
    again = locked(project.cage(text + '[app]\ncommand = ["/other"]\n'), previous=first)
    assert again.base == first.base
    assert asked == [("reg.test/app:1", "x86_64")]
    second = locked(project.cage(text.replace(":1", ":2")), previous=first)
    third = locked(project.cage(f'{text}[enclave]\narchitecture = "aarch64"\n'), previous=first)
    assert asked[1:] == [("reg.test/app:2", "x86_64"), ("reg.test/app:1", "aarch64")]
    assert len({lock.base.made_from for lock in (first, second, third)}) == 3
    locked(project.cage(text), previous=first, update=["boot", "epoch", "runtime"])
    assert len(asked) == 3
    moved = locked(project.cage(text), previous=first, update=["base"])
    assert asked[3:] == [("reg.test/app:1", "x86_64")]
    assert moved.base.pins == {"asked": 4}


def test_pins_of_another_kind_of_base_are_not_kept(project: Project) -> None:
    first = locked(project.cage())
    project.write("pay/base.tar", layout("one").tar())
    second = locked(project.cage('[base]\narchive = "base.tar"\n'), previous=first)
    assert second.base.kind == "archive"
    third = locked(project.cage(), previous=second)
    assert third.base == first.base


# Debian


class Mirror:
    """A Debian archive that counts what it is asked for, under any URL."""

    def __init__(self, folder: Path) -> None:
        self.archive = Archive(folder / "debian")
        self.archive.add(make_deb("app"), "app", depends="lib")
        self.archive.add(make_deb("lib"), "lib")
        self.archive.publish()
        self.asked = 0

    def get(self, url: str, *, limit: int) -> bytes:
        """As ``cagebuild.fetch.http.get``."""
        self.asked += 1
        path = self.archive.root / url.partition("/debian/")[2]
        data = path.read_bytes()
        assert len(data) <= limit
        return data

    def world(self) -> World:
        """Where this is the network."""
        return World(get=self.get, last_commit=no_git, source_date_epoch=None)

    def publish_newer(self) -> None:
        """Another version of a package."""
        self.archive.add(make_deb("lib", version="2.0"), "lib", "2.0")
        self.archive.publish()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Signed by a key that is trusted in this test alone."""
    monkeypatch.setattr(locking, "archive_keyring", lambda: keyring("archive"))
    return Mirror(tmp_path)


def debian(mirror: str = MIRROR, packages: str = '"app"', more: str = "") -> str:
    """A cage on Debian packages."""
    return f"""\
[base]
debian = {{ suite = "trial", packages = [{packages}], mirror = "{mirror}" {more} }}
[app]
command = ["/a"]
"""


def versions(lock: Lock) -> dict[str, str]:
    """Of the pinned packages."""
    return {pin["name"]: pin["version"] for pin in lock.base.pins["packages"]}


def test_packages_are_kept_while_their_settings_stay(project: Project, mirror: Mirror) -> None:
    cage = project.cage(debian())
    first = locked(cage, mirror.world())
    assert versions(first) == {"app": "1.0", "lib": "1.0"}
    mirror.publish_newer()
    assert locked(cage, OFFLINE, previous=first) == first
    other = project.cage(f'{debian()}env = {{ A = "b" }}\n')
    assert locked(other, OFFLINE, previous=first).base == first.base
    assert locked(cage, previous=first, update=["boot", "epoch", "runtime"]).base == first.base


def test_packages_are_resolved_anew_when_told_so(project: Project, mirror: Mirror) -> None:
    cage = project.cage(debian())
    first = locked(cage, mirror.world())
    mirror.publish_newer()
    second = locked(cage, mirror.world(), previous=first, update=["base"])
    assert versions(second) == {"app": "1.0", "lib": "2.0"}
    assert second.base.made_from == first.base.made_from


CHANGED = {
    "packages": debian(packages='"lib"'),
    "components": debian(more=', components = ["main", "contrib"]'),
    "suite": debian().replace("trial", "other"),
    "snapshot": debian(more=', snapshot = "20260101T000000Z"'),
    "updates": debian(more=', updates = ["other"]'),
    "architecture": debian() + '[enclave]\narchitecture = "aarch64"\n',
}


@pytest.mark.parametrize("what", CHANGED)
def test_packages_are_resolved_anew_when_their_settings_change(
    project: Project, mirror: Mirror, what: str
) -> None:
    first = locked(project.cage(debian()), mirror.world())
    with pytest.raises(AssertionError, match="the network was asked"):
        locked(project.cage(CHANGED[what]), OFFLINE, previous=first)


def test_the_order_of_names_is_no_change(project: Project, mirror: Mirror) -> None:
    first = locked(project.cage(debian(packages='"app", "lib"')), mirror.world())
    second = locked(project.cage(debian(packages='"lib", "app"')), OFFLINE, previous=first)
    assert second == first


def test_another_mirror_moves_no_pin_but_is_where_packages_come_from(
    project: Project, mirror: Mirror
) -> None:
    first = locked(project.cage(debian()), mirror.world())
    cage = project.cage(debian("http://other.test/debian/"))
    second = locked(cage, OFFLINE, previous=first)
    assert {**second.base.pins, "mirror": MIRROR} == first.base.pins
    assert second.base.pins["mirror"] == "http://other.test/debian"
    assert second.base.made_from == first.base.made_from
    assert isinstance(cage.base, DebianBase)


def test_a_package_that_is_not_there_is_said_so(project: Project, mirror: Mirror) -> None:
    with pytest.raises(ResolveError, match="nonsense"):
        locked(project.cage(debian(packages='"nonsense"')), mirror.world())


# the epoch


def epoch(policy: str, more: str = "") -> str:
    """A cage with that policy."""
    return f'{SCRATCH}[epoch]\npolicy = "{policy}"\n{more}'


def world(commit: int | None = None, variable: int | None = None) -> World:
    """Where the last commit was then, and SOURCE_DATE_EPOCH is that."""
    return World(get=no_network, last_commit=lambda _: commit, source_date_epoch=variable)


def test_zero_and_fixed_ask_nobody(project: Project) -> None:
    assert locked(project.cage(epoch("zero"))).epoch.time == 0
    fixed = project.cage(epoch("fixed", 'time = "2026-01-01T00:00:00Z"\n'))
    assert locked(fixed).epoch.time == 1_767_225_600
    assert locked(project.cage(epoch("fixed", "time = 4294967295\n"))).epoch.time == 2**32 - 1


def test_a_fixed_time_is_the_new_one_when_it_changes(project: Project) -> None:
    first = locked(project.cage(epoch("fixed", "time = 5\n")))
    assert locked(project.cage(epoch("fixed", "time = 6\n")), previous=first).epoch.time == 6


def test_commit_asks_for_all_that_the_cage_is_made_from(project: Project) -> None:
    asked: list[Path] = []

    def last_commit(paths: Sequence[Path]) -> int:
        asked.extend(paths)
        return 7

    text = f"""{epoch("commit")}
[[app.files]]
source = "src"
destination = "/srv"
[signing]
certificate = "cert.pem"
key = "key.pem"
""".replace("scratch = true", 'archive = "base.tar"')
    project.write("pay/base.tar", layout("one").tar())
    given = World(get=no_network, last_commit=last_commit, source_date_epoch=None)
    assert locked(project.cage(text), given).epoch.time == 7
    names = sorted(path.relative_to(project.root).as_posix() for path in asked)
    assert names == [
        "boot/bzImage",
        "boot/cmdline",
        "boot/init",
        "boot/nsm.ko",
        "pay/base.tar",
        "pay/cage.toml",
        "pay/cert.pem",
        "pay/src",
    ]


def test_a_commits_time_stays_while_the_sources_stay(project: Project) -> None:
    cage, sources = project.cage(epoch("commit")), (source("a"),)
    first = locked(cage, world(100), sources=sources)
    assert first.epoch.time == 100
    kept = locked(cage, world(200), sources=sources, previous=first)
    assert kept.epoch == first.epoch


MOVES: dict[str, tuple[SourceFile, ...]] = {
    "another content": (source("a", b"y"),),
    "another name": (source("b"),),
    "one more": (source("a"), source("b")),
    "none": (),
    "another mode": (replace(source("a"), mode=0o755),),
    "another owner": (replace(source("a"), uid=1),),
    "another kind": (replace(source("a"), kind="symlink", digest=None, target="x"),),
}


@pytest.mark.parametrize("what", MOVES)
def test_a_commits_time_moves_when_the_sources_do(project: Project, what: str) -> None:
    cage = project.cage(epoch("commit"))
    first = locked(cage, world(100), sources=(source("a"),))
    moved = locked(cage, world(200), sources=MOVES[what], previous=first)
    assert moved.epoch.time == 200
    assert moved.epoch.inputs != first.epoch.inputs


def test_a_commits_time_does_not_depend_on_where_files_lie(project: Project) -> None:
    cage = project.cage(epoch("commit"))
    first = locked(cage, world(100), sources=(source("a"),))
    elsewhere = (replace(source("a"), path=Path("/another/a")),)
    assert locked(cage, world(200), sources=elsewhere, previous=first).epoch == first.epoch


def test_a_commits_time_moves_when_the_configuration_does_or_is_told_to(project: Project) -> None:
    first = locked(project.cage(epoch("commit")), world(100))
    other = project.cage(epoch("commit").replace('"/a"', '"/b"'))
    assert locked(other, world(200), previous=first).epoch.time == 200
    cage = project.cage(epoch("commit"))
    assert locked(cage, world(200), previous=first, update=["epoch"]).epoch.time == 200
    assert locked(cage, world(200), previous=first, update=["base"]).epoch.time == 100


def test_a_time_of_another_policy_is_not_kept(project: Project) -> None:
    first = locked(project.cage(epoch("commit")), world(100))
    assert locked(project.cage(epoch("zero")), previous=first).epoch.time == 0
    with pytest.raises(ResolveError, match="SOURCE_DATE_EPOCH is not set"):
        locked(project.cage(epoch("env")), previous=first)


def test_without_a_commit_the_policy_says_what_else_there_is(project: Project) -> None:
    with pytest.raises(ResolveError, match="no commit has the cage's files") as caught:
        locked(project.cage(epoch("commit")), world(None))
    assert '"zero"' in caught.value.hint


def test_the_variable_wins_over_the_last_lock_which_wins_over_nothing(project: Project) -> None:
    cage = project.cage(epoch("env"))
    with pytest.raises(ResolveError) as caught:
        locked(cage, world())
    assert "SOURCE_DATE_EPOCH=" in caught.value.hint
    first = locked(cage, world(variable=50))
    assert first.epoch.time == 50
    assert locked(cage, world(), previous=first).epoch.time == 50
    assert locked(cage, world(variable=60), previous=first).epoch.time == 60
    assert locked(cage, world(variable=0), previous=first).epoch.time == 0


@pytest.mark.parametrize("time", [2**32, 2**63, 10**30])
def test_a_time_that_no_ramdisk_holds_is_refused(project: Project, time: int) -> None:
    with pytest.raises(ResolveError, match="cannot be written to a ramdisk"):
        locked(project.cage(epoch("env")), world(variable=time))
    with pytest.raises(ResolveError, match="cannot be written to a ramdisk"):
        locked(project.cage(epoch("commit")), world(time))


def test_a_commit_before_1970_is_refused(project: Project) -> None:
    with pytest.raises(ResolveError, match="the time -1 of"):
        locked(project.cage(epoch("commit")), world(-1))


def test_uncommitted_files_have_the_time_of_the_last_commit(tmp_path: Path) -> None:
    """And keep it when they are committed as they are: the lock names it, nobody guesses."""
    workspace = Workspace(tmp_path)
    text = '[base]\nscratch = true\n[app]\ncommand = ["/srv/run"]\n[epoch]\npolicy = "commit"\n'
    workspace.add("pay", f'{text}[[app.files]]\nsource = "src"\ndestination = "/srv"\n')
    workspace.write("pay/src/run", "not committed\n", mode=0o755)
    workspace.ok("lock")
    assert workspace.locked("//pay").epoch.time == 1_700_000_000
    workspace.commit(1_800_000_000)
    assert workspace.ok("lock").lines == ["//pay  pay/cage.lock: nothing moved"]
    workspace.ok("lock", "--update", "epoch")
    assert workspace.locked("//pay").epoch.time == 1_800_000_000


def test_a_new_cage_has_the_time_of_what_of_it_is_committed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write("new/cage.toml", epoch("commit"))
    workspace.checkout.git("add", "new")
    workspace.ok("lock", "//new")
    # That of its boot files.
    assert workspace.locked("//new").epoch.time == 1_700_000_000
