from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from cagebuild import config
from cagebuild.config import build, checksum, toml
from cagebuild.config.model import (
    App,
    AppFiles,
    ArchiveBase,
    Build,
    BuildSecret,
    Cage,
    DebianBase,
    DockerfileBase,
    EgressRule,
    Enclave,
    Epoch,
    ImageBase,
    Ingress,
    OwnBoot,
    Runtime,
    ScratchBase,
    Secrets,
    Signing,
    Workspace,
)
from cagebuild.config.paths import Places
from cagebuild.digest import Digest
from cagebuild.errors import ConfigError, ConfigSyntaxError, SourceError, UsageError
from tests.support.config import INSTALLER, SMALLEST

EVERYTHING = f"""\
[cage]
name = "pay"

[base.debian]
suite = "bookworm"
updates = ["bookworm-updates", "bookworm-security"]
packages = ["python3-minimal", "ca-certificates"]
components = ["main", "contrib"]
mirror = "https://mirror.example.com/debian/"
snapshot = "20260711T000000Z"

[app]
entrypoint = ["python3"]
command = ["-m", "pay", ""]
user = "www-data:1000"
workdir = "/srv/pay"
env = {{ PORT = "8080", LANG = "C.UTF-8" }}

[[app.files]]
source = "src"
destination = "/srv/pay"
mode = "0640"
owner = "10:20"
tracked = false
exclude = ["**/*.pyc"]

[[app.files]]
source = "."
destination = "/"

[runtime]
installer = "{INSTALLER}"
url = "https://cdn.example.com/runtime/"

[[ingress]]
port = 8443
tls = "terminate"
protocol = "h2c"
proxy_protocol = true

[[ingress]]
port = 9443
tls = "terminate"

[[ingress]]
port = 8080
health = "/healthz?deep=1"

[egress]
allow = ["[2001:db8::]/32:443", "*.Example.com.:443", "10.0.0.0/8:5432", "db:5432"]

[secrets]
env = ["TOKEN", "API_KEY"]
files = ["tls.key", "ca"]

[logs]
forward = true

[epoch]
policy = "fixed"
time = 2026-01-01T01:00:00+01:00

[enclave]
architecture = "aarch64"
memory = "2GiB"
cpus = 4
boot = {{ kernel = "boot/Image", init = "//boot/init", cmdline = "boot/cmdline" }}

[signing]
certificate = "//keys/cert.pem"
key = "/run/secrets/key.pem"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    return tmp_path.resolve()


def written(root: Path, text: str, name: str = "services/pay/cage.toml") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def loaded(root: Path, text: str, name: str = "services/pay/cage.toml") -> Cage:
    file = written(root, text, name)
    return config.load(file, config.load_workspace(file.parent))


def messages(error: ConfigError) -> list[str]:
    return [f"{d.key}: {d.message}" for d in error.diagnostics]


def test_everything_that_can_be_said_arrives_in_the_model(root: Path) -> None:
    cage = loaded(root, EVERYTHING)
    folder = root / "services/pay"
    assert cage == Cage(
        name="pay",
        address="//services/pay",
        file=folder / "cage.toml",
        folder=folder,
        base=DebianBase(
            suite="bookworm",
            updates=("bookworm-security", "bookworm-updates"),
            packages=("ca-certificates", "python3-minimal"),
            components=("contrib", "main"),
            mirror="https://mirror.example.com/debian",
            snapshot="20260711T000000Z",
        ),
        app=App(
            files=(
                AppFiles(
                    source=folder / "src",
                    destination=PurePosixPath("/srv/pay"),
                    mode=0o640,
                    uid=10,
                    gid=20,
                    tracked=False,
                    exclude=("**/*.pyc",),
                ),
                AppFiles(
                    source=folder,
                    destination=PurePosixPath("/"),
                    mode=None,
                    uid=0,
                    gid=0,
                    tracked=True,
                    exclude=(),
                ),
            ),
            entrypoint=("python3",),
            command=("-m", "pay", ""),
            user="www-data:1000",
            workdir=PurePosixPath("/srv/pay"),
            env=(("LANG", "C.UTF-8"), ("PORT", "8080")),
        ),
        runtime=Runtime(installer=Digest.parse(INSTALLER), url="https://cdn.example.com/runtime"),
        ingress=(
            Ingress(
                port=8080,
                health="/healthz?deep=1",
                tls="passthrough",
                protocol="tcp",
                proxy_protocol=False,
            ),
            Ingress(port=8443, health=None, tls="terminate", protocol="h2c", proxy_protocol=True),
            Ingress(port=9443, health=None, tls="terminate", protocol="http", proxy_protocol=False),
        ),
        egress=(
            EgressRule(host="*.example.com", port=443),
            EgressRule(host="10.0.0.0/8", port=5432),
            EgressRule(host="2001:db8::/32", port=443),
            EgressRule(host="db", port=5432),
        ),
        secrets=Secrets(env=("API_KEY", "TOKEN"), files=("ca", "tls.key")),
        logs=True,
        epoch=Epoch(policy="fixed", time=1767225600),
        enclave=Enclave(
            architecture="aarch64",
            boot=OwnBoot(
                kernel=folder / "boot/Image",
                init=root / "boot/init",
                nsm=None,
                cmdline=folder / "boot/cmdline",
            ),
            memory_mib=2048,
            cpus=4,
        ),
        signing=Signing(certificate=root / "keys/cert.pem", key=Path("/run/secrets/key.pem")),
        checksum=cage.checksum,
    )


def test_what_is_left_out_has_the_defaults_of_the_schema(root: Path) -> None:
    cage = loaded(root, SMALLEST)
    assert cage.name == "pay"
    assert cage.base == ScratchBase()
    assert [*cage.ingress, *cage.egress, *cage.app.files, *cage.app.env] == []
    assert (cage.app.entrypoint, cage.app.user, cage.app.workdir) == (None, None, None)
    assert (cage.secrets, cage.logs) == (Secrets(env=(), files=()), False)
    assert cage.epoch == Epoch(policy="commit", time=None)
    assert cage.enclave == Enclave(architecture="x86_64", boot="aws", memory_mib=512, cpus=2)
    assert cage.signing is None


USUAL_BUILD = Build(
    engine="auto", network=False, secrets=(), cache_from=(), cache_to=(), kaniko=None
)


def dockerfile(path: str, **settings: Any) -> DockerfileBase:
    """A base in a workspace at /, with the cage's folder as context."""
    usual: dict[str, Any] = {
        "context": Path("/services/pay"),
        "tracked": True,
        "target": None,
        "args": (),
        "build": USUAL_BUILD,
    }
    return DockerfileBase(path=Path("/") / path, **{**usual, **settings})


def test_how_a_dockerfile_is_built(root: Path) -> None:
    text = SMALLEST.replace("scratch = true", 'dockerfile = "Dockerfile"')
    base = loaded(
        root,
        text
        + """
[build]
engine = "buildah"
network = true
cache_from = ["type=registry,ref=localhost:5000/cache"]

[build.secrets]
token = { env = "TOKEN" }
netrc = { file = "/etc/netrc" }
""",
    ).base
    assert isinstance(base, DockerfileBase)
    assert base.build == Build(
        engine="buildah",
        network=True,
        secrets=(
            BuildSecret(id="netrc", env=None, file=Path("/etc/netrc")),
            BuildSecret(id="token", env="TOKEN", file=None),
        ),
        cache_from=("type=registry,ref=localhost:5000/cache",),
        cache_to=(),
        kaniko=None,
    )


@pytest.mark.parametrize(
    ("table", "same"),
    [
        ('engine = "buildah"', True),
        ('cache_to = ["type=gha"]', True),
        ("network = true", False),
        ('secrets = { a = { env = "A" } }', False),
    ],
)
def test_how_it_is_built_is_in_the_checksum_where_it_can_change_the_result(
    root: Path, table: str, same: bool
) -> None:
    text = SMALLEST.replace("scratch = true", 'dockerfile = "Dockerfile"')
    plain = loaded(root, text).checksum
    assert (loaded(root, f"{text}\n[build]\n{table}\n").checksum == plain) is same


def test_where_a_secret_lies_is_not_in_the_checksum(root: Path) -> None:
    text = SMALLEST.replace("scratch = true", 'dockerfile = "Dockerfile"') + "\n[build.secrets]\n"
    by_file = loaded(root, text + 'a = { file = "/a" }\n').checksum
    assert by_file == loaded(root, text + 'a = { env = "A" }\n').checksum


def test_debian_has_its_own_mirror_and_main(root: Path) -> None:
    text = SMALLEST.replace(
        "scratch = true", 'debian = { suite = "bookworm", packages = ["dash=0.5.12-2"] }'
    )
    base = loaded(root, text).base
    assert isinstance(base, DebianBase)
    assert (base.mirror, base.components) == (build.debian_mirror(), ("main",))
    assert base.packages == ("dash=0.5.12-2",)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ('image = "localhost:5000/a/b:1"', ImageBase(reference="localhost:5000/a/b:1")),
        (
            f'image = "registry.example.com/a@{INSTALLER}"',
            ImageBase(reference=f"registry.example.com/a@{INSTALLER}"),
        ),
        ('archive = "a/b.tar"', ArchiveBase(path=Path("/services/pay/a/b.tar"), name=None)),
        (
            'archive = { path = "//b", name = "x:1" }',
            ArchiveBase(path=Path("/b"), name="x:1"),
        ),
        (
            'dockerfile = "Dockerfile"',
            dockerfile("services/pay/Dockerfile"),
        ),
        (
            'dockerfile = { path = "D", target = "t", args = { B = "2", A = "1" } }',
            dockerfile("services/pay/D", target="t", args=(("A", "1"), ("B", "2"))),
        ),
        (
            'dockerfile = { path = "//docker/D", context = "//services", tracked = false }',
            dockerfile("docker/D", context=Path("/services"), tracked=False),
        ),
    ],
)
def test_other_bases(root: Path, text: str, base: Any) -> None:
    for field in ("path", "context"):
        if hasattr(base, field):
            located = root / getattr(base, field).relative_to("/")
            base = dataclasses.replace(base, **{field: located})
    assert loaded(root, SMALLEST.replace("scratch = true", text)).base == base


def test_no_runtime_when_the_cage_says_so(root: Path) -> None:
    text = "runtime = false\n" + SMALLEST.partition("[runtime]")[0]
    assert loaded(root, text).runtime is None


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1767225600),
        ("2026-01-01 00:00:00z", 1767225600),
        ('"2026-01-01T00:00:00-01:00"', 1767229200),
        ("0", 0),
        ("4294967295", 4294967295),
        ("2106-02-07T06:28:15Z", 4294967295),
    ],
)
def test_a_fixed_time_is_a_time_or_seconds(root: Path, time: str, seconds: int) -> None:
    cage = loaded(root, SMALLEST + f'[epoch]\npolicy = "fixed"\ntime = {time}\n')
    assert cage.epoch.time == seconds


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("services/pay/cage.toml", "//services/pay"),
        ("services/pay/debug.cage.toml", "//services/pay:debug"),
        ("debug.cage.toml", "//:debug"),
    ],
)
def test_addresses(root: Path, name: str, address: str) -> None:
    cage = loaded(root, SMALLEST, name)
    assert cage.address == address
    assert cage.name == address.rpartition("/")[2].rpartition(":")[2]
    assert cage.lock_file == root / name.replace(".toml", ".lock")


def test_the_root_may_be_a_cage_as_well(root: Path) -> None:
    text = '[cage]\nname = "top"\n' + SMALLEST + "[workspace]\n"
    cage = loaded(root, text, "cage.toml")
    assert (cage.address, cage.name) == ("//:top", "top")


class TestRoot:
    def test_is_the_nearest_workspace(self, root: Path) -> None:
        written(root, "[workspace]\n", "cage.toml")
        written(root, "[workspace]\n", "services/cage.toml")
        file = written(root, SMALLEST)
        assert config.load_workspace(file).root == root / "services"

    def test_is_else_the_top_of_git_whatever_lies_above(self, root: Path) -> None:
        written(root, "[workspace]\n", "cage.toml")
        (root / "clone/.git").mkdir(parents=True)
        file = written(root / "clone", SMALLEST)
        assert config.load_workspace(file.parent).root == root / "clone"

    def test_is_else_the_nearest_cage_and_else_the_folder(self, tmp_path: Path) -> None:
        top = tmp_path.resolve()
        file = written(top, SMALLEST)
        (file.parent / "src").mkdir()
        assert config.load_workspace(file.parent / "src").root == file.parent
        assert config.load_workspace(top).root == top

    def test_is_found_through_symlinks(self, root: Path, tmp_path: Path) -> None:
        file = written(root, SMALLEST)
        (root / "link").symlink_to(file.parent)
        assert config.load_workspace(root / "link").root == root


class TestInherited:
    def root_says(self, root: Path, text: str) -> None:
        written(root, text, "cage.toml")

    def test_tables_are_merged_key_by_key_and_the_cage_wins(self, root: Path) -> None:
        self.root_says(
            root,
            "[workspace.defaults]\n"
            'base.debian = { suite = "trixie", packages = ["dash"], components = ["main", "x"] }\n'
            f'runtime = {{ installer = "{INSTALLER}", url = "https://a.example.com" }}\n'
            'egress.allow = ["a.example.com:1"]\n'
            'enclave = { memory = "1GiB", cpus = 8 }\n',
        )
        cage = loaded(
            root,
            '[base.debian]\nsuite = "bookworm"\n[app]\ncommand = ["x"]\n[enclave]\ncpus = 1\n'
            '[runtime]\nurl = "http://b.example.com"\n',
        )
        assert isinstance(cage.base, DebianBase)
        assert (cage.base.suite, cage.base.packages) == ("bookworm", ("dash",))
        assert cage.base.components == ("main", "x")
        assert cage.runtime == Runtime(
            installer=Digest.parse(INSTALLER), url="http://b.example.com"
        )
        assert cage.egress == (EgressRule(host="a.example.com", port=1),)
        assert (cage.enclave.memory_mib, cage.enclave.cpus) == (1024, 1)

    def test_lists_are_taken_whole(self, root: Path) -> None:
        self.root_says(root, '[workspace.defaults.egress]\nallow = ["a.example.com:1"]\n')
        assert loaded(root, SMALLEST + "[egress]\nallow = []\n").egress == ()

    def test_debian_is_not_inherited_by_another_base(self, root: Path) -> None:
        self.root_says(root, '[workspace.defaults.base.debian]\nsuite = "bookworm"\n')
        assert loaded(root, SMALLEST).base == ScratchBase()

    def test_epoch_and_signing_are_taken_whole(self, root: Path) -> None:
        self.root_says(
            root,
            '[workspace.defaults.epoch]\npolicy = "fixed"\ntime = 2026-01-01T00:00:00Z\n'
            '[workspace.defaults.signing]\ncertificate = "keys/c.pem"\nkey = "keys/k.pem"\n',
        )
        inherited = loaded(root, SMALLEST)
        assert inherited.epoch == Epoch(policy="fixed", time=1767225600)
        assert inherited.signing == Signing(
            certificate=root / "keys/c.pem", key=root / "keys/k.pem"
        )
        own = loaded(root, "signing = false\n" + SMALLEST + '[epoch]\npolicy = "zero"\n')
        assert (own.epoch, own.signing) == (Epoch(policy="zero", time=None), None)

    def test_runtime_can_be_declined(self, root: Path) -> None:
        self.root_says(
            root,
            f'[workspace.defaults]\nruntime.installer = "{INSTALLER}"\n'
            'egress.allow = ["a.example.com:1"]\n',
        )
        text = "runtime = false\n" + SMALLEST.partition("[runtime]")[0]
        assert loaded(root, text).runtime is None

    def test_paths_start_at_the_root(self, root: Path) -> None:
        self.root_says(
            root,
            "[workspace.defaults.enclave]\n"
            'boot = { kernel = "boot/k", init = "boot/i", cmdline = "//boot/c", nsm = "n.ko" }\n',
        )
        boot = loaded(root, SMALLEST).enclave.boot
        assert boot == OwnBoot(
            kernel=root / "boot/k",
            init=root / "boot/i",
            cmdline=root / "boot/c",
            nsm=root / "n.ko",
        )


class TestStore:
    def settings(self, root: Path, text: str) -> Workspace:
        written(root, text, "cage.toml")
        return config.load_workspace(root)

    def test_is_in_the_users_cache(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
        store = self.settings(root, "[workspace]\n").store
        assert store.path == Path("/var/cache/me/cagebuild")
        assert store.max_bytes == 20 << 30

    def test_ignores_a_relative_cache(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "cache")
        monkeypatch.setenv("HOME", "/home/me")
        store = self.settings(root, "[workspace]\n").store
        assert store.path == Path("/home/me/.cache/cagebuild")

    @pytest.mark.parametrize(
        ("text", "path"),
        [("/var/store", "/var/store"), ("~/store", "/home/me/store"), ("~", "/home/me")],
    )
    def test_is_where_the_workspace_says(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str
    ) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        store = self.settings(root, f'[workspace.store]\npath = "{text}"\nmax_size = "5MiB"\n')
        assert (store.store.path, store.store.max_bytes) == (Path(path), 5 << 20)

    def test_may_be_relative_to_the_root(self, root: Path) -> None:
        assert self.settings(root, '[workspace.store]\npath = "../s"\n').store.path == (
            root.parent / "s"
        )

    def test_mirrors(self, root: Path) -> None:
        found = self.settings(root, '[workspace]\nmirrors = ["https://m.example.com/x/"]\n')
        assert found.mirrors == ("https://m.example.com/x",)


class TestChecksum:
    def test_is_the_same_in_another_checkout(self, tmp_path: Path) -> None:
        sums = set()
        for name in ("a", "b/c"):
            root = tmp_path.resolve() / name
            (root / ".git").mkdir(parents=True)
            sums.add(loaded(root, EVERYTHING).checksum)
        assert len(sums) == 1

    def test_does_not_know_comments_and_order(self, root: Path) -> None:
        first = loaded(root, SMALLEST + '[egress]\nallow = ["b:1", "a:1"]\n').checksum
        assert loaded(root, '[egress]\nallow = ["a:1", "B.:1"] # x\n' + SMALLEST).checksum == first

    def test_is_known(self, root: Path) -> None:
        """Every lock goes stale when this changes: then checksum.VERSION has to change too."""
        assert checksum.VERSION == 2
        assert str(loaded(root, EVERYTHING).checksum) == CHECKSUM

    def test_covers_defaults_but_not_where_things_come_from(self, root: Path) -> None:
        plain = loaded(root, SMALLEST)
        written(root, '[workspace]\nmirrors = ["https://a.example.com"]\n', "cage.toml")
        assert loaded(root, SMALLEST).checksum == plain.checksum
        written(root, "[workspace.defaults.enclave]\ncpus = 3\n", "cage.toml")
        assert loaded(root, SMALLEST).checksum != plain.checksum

    def test_covers_every_field_but_those_that_change_no_result(self, root: Path) -> None:
        cage = loaded(root, EVERYTHING)
        places = Places(cage.folder, root)
        ignored = {
            f"{at}"
            for at, changed in mutations(cage)
            if checksum.of(changed, places) == cage.checksum
        }
        assert ignored == {
            "Cage.address",
            "Cage.file",
            "Cage.folder",
            "Cage.checksum",
            "Runtime.url",
            "Signing.key",
        }


CHECKSUM = "sha256:a7ba86c54f5c22526f096a6d055008928712817b3e9fec9f92a8f45b9ae4cee6"


def mutations(value: Any) -> list[tuple[str, Any]]:
    """The value with each field in turn changed, at any depth, and the name of that field."""
    found: list[tuple[str, Any]] = []
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            for at, changed in mutations(item):
                found.append((at, (*value[:index], changed, *value[index + 1 :])))
        return found
    if not dataclasses.is_dataclass(value) or isinstance(value, Digest | type):
        return found
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        at = f"{type(value).__name__}.{field.name}"
        found.append((at, dataclasses.replace(value, **{field.name: other(old)})))
        for deeper, changed in mutations(old):
            found.append((deeper, dataclasses.replace(value, **{field.name: changed})))
    return found


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, tuple):
        return (*value, "other")
    return f"{value} and other"


class TestCache:
    def test_known_files_are_not_checked_again(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(root, EVERYTHING)
        cache = config.MarkerFiles(tmp_path / "valid")
        workspace = config.load_workspace(file, validated=cache)
        first = config.load(file, workspace, validated=cache)

        def fail(*_: object) -> None:
            raise AssertionError("checked again")

        monkeypatch.setattr("cagebuild.config.shape.problems", fail)
        assert config.load(file, workspace, validated=cache) == first
        file.write_text(EVERYTHING + "# changed\n")
        with pytest.raises(AssertionError, match="checked again"):
            config.load(file, workspace, validated=cache)

    def test_other_defaults_are_another_key(self, root: Path, tmp_path: Path) -> None:
        file = written(root, '[base]\nscratch = true\n[app]\ncommand = ["x"]\n')
        written(root, f'[workspace.defaults]\nruntime.installer = "{INSTALLER}"\n', "cage.toml")
        cache = config.MarkerFiles(tmp_path / "valid")
        config.load(file, config.load_workspace(root), validated=cache)
        written(root, "[workspace]\n", "cage.toml")
        with pytest.raises(ConfigError) as caught:
            config.load(file, config.load_workspace(root), validated=cache)
        assert messages(caught.value) == [
            "runtime.installer: missing here and in the workspace's defaults"
        ]

    def test_a_cache_that_knows_everything_makes_nothing_valid(self, root: Path) -> None:
        class Liar:
            def known(self, key: str) -> bool:
                return bool(key)

            def remember(self, key: str) -> None:
                raise AssertionError(key)

        for text in ("x = 1\n", "base = 1\n", SMALLEST.replace('"/app"', "1 # ")):
            file = written(root, text)
            with pytest.raises(ConfigError):
                config.load(file, config.load_workspace(root), validated=Liar())

    def test_symlinks_are_looked_at_every_time(self, root: Path, tmp_path: Path) -> None:
        text = SMALLEST + '[[app.files]]\nsource = "src/x"\ndestination = "/x"\n'
        file = written(root, text)
        (file.parent / "src").mkdir()
        cache = config.MarkerFiles(tmp_path / "valid")
        workspace = config.load_workspace(root)
        config.load(file, workspace, validated=cache)
        (file.parent / "src").rmdir()
        (file.parent / "src").symlink_to("/etc")
        with pytest.raises(ConfigError, match="1 mistake") as caught:
            config.load(file, workspace, validated=cache)
        assert "through a symlink" in caught.value.diagnostics[0].message

    def test_markers_are_bounded_and_need_no_writable_folder(self, tmp_path: Path) -> None:
        cache = config.MarkerFiles(tmp_path / "valid")
        keys = [f"ab{number:062x}" for number in range(300)]
        for key in keys:
            cache.remember(key)
        assert cache.known(keys[-1])
        assert not cache.known(keys[0])
        (tmp_path / "file").touch()
        unwritable = config.MarkerFiles(tmp_path / "file")
        unwritable.remember(keys[0])
        assert not unwritable.known(keys[0])


class TestRefused:
    def test_all_files_at_once(self, root: Path) -> None:
        files = [
            written(root, SMALLEST + "x = 1\n", "a/cage.toml"),
            written(root, SMALLEST, "b/cage.toml"),
            written(root, "x = \n", "c/cage.toml"),
        ]
        with pytest.raises(ConfigError) as caught:
            config.load_all(files, config.load_workspace(root))
        assert [d.file.parent.name for d in caught.value.diagnostics] == ["a", "c"]
        assert caught.value.exit_code == ConfigError.exit_code
        with pytest.raises(ConfigSyntaxError):
            config.load_all(files[2:], config.load_workspace(root))

    def test_a_file_that_is_not_there_or_too_large(self, root: Path) -> None:
        workspace = config.load_workspace(root)
        with pytest.raises(SourceError, match="No such file"):
            config.load(root / "x/cage.toml", workspace)
        file = written(root, "#" * (toml.LIMIT + 1))
        with pytest.raises(SourceError, match="more than"):
            config.load(file, workspace)

    def test_a_file_that_is_a_symlink(self, root: Path) -> None:
        """What it leads to may be outside the commit."""
        written(root, SMALLEST, "other.toml")
        (root / "services").mkdir()
        (root / "services/cage.toml").symlink_to("../other.toml")
        with pytest.raises(SourceError, match="is a symlink"):
            config.load(root / "services/cage.toml", config.load_workspace(root))

    def test_files_that_are_no_cages_of_the_workspace(self, root: Path, tmp_path: Path) -> None:
        workspace = config.load_workspace(written(root, SMALLEST))
        other_root = dataclasses.replace(workspace, root=root / "other")
        with pytest.raises(UsageError):
            config.load(root / "services/pay/cage.toml", other_root)
        for name in ("settings.toml", ".cage.toml", "xcage.toml"):
            with pytest.raises(UsageError):
                config.load(written(root, SMALLEST, name), workspace)

    def test_one_name_for_two_cages(self, root: Path) -> None:
        files = [written(root, SMALLEST, f"{team}/pay/cage.toml") for team in "ab"]
        cages = config.load_all(files, config.load_workspace(root))
        with pytest.raises(ConfigError) as caught:
            config.check_names(cages)
        assert messages(caught.value) == ["cage.name: //a/pay and //b/pay are both called 'pay'"]
        config.check_names(cages[:1])

    def test_a_flood_of_mistakes_is_cut(self, root: Path) -> None:
        text = SMALLEST + "".join(f"x{number} = 1\n" for number in range(5000))
        with pytest.raises(ConfigError) as caught:
            loaded(root, text)
        assert len(caught.value.diagnostics) == 101
        assert caught.value.diagnostics[-1].message == "and 4900 more mistakes in this file"

    def test_a_message_does_nothing_to_a_terminal(self, root: Path) -> None:
        text = SMALLEST + '[egress]\nallow = ["\\u001b[2J\\u202e"]\n"\\u001b" = 1\n'
        with pytest.raises(ConfigError) as caught:
            loaded(root, text)
        shown = caught.value.render()
        assert all(c.isprintable() or c == "\n" for c in shown), shown

    def test_a_value_that_ends_in_a_line_break(self, root: Path) -> None:
        """Python's "$" would let it pass."""
        for key, value in (("user", "root\\n"), ("workdir", "/srv\\n")):
            with pytest.raises(ConfigError):
                loaded(root, SMALLEST.replace("[runtime]", f'{key} = "{value}"\n[runtime]'))


def test_a_copied_cage_keeps_its_checksum_but_for_the_name(root: Path) -> None:
    cage = loaded(root, EVERYTHING.replace('"//boot/init"', '"boot/init"'))
    shutil.copytree(cage.folder, root / "elsewhere")
    copy = config.load(root / "elsewhere/cage.toml", config.load_workspace(root))
    assert copy.checksum == cage.checksum
    assert copy.address == "//elsewhere"
