"""What a schema cannot say of a cage or a workspace: checks over documents whose shape is right.

Values that the schema refused are None in such a document, so that nothing is reported twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cagebuild.config import paths, traffic
from cagebuild.config.problems import Problem
from cagebuild.config.sections import alone, patterns

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from cagebuild.config.positions import Path

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
RUNTIME_FOLDER = "/cage"
MOST_ID = (1 << 32) - 2
"""The largest user or group id; the one above means 'no change' to the kernel."""
_IMAGE = re.compile(
    r"(?P<host>[^/]+)/(?P<name>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_HOST = re.compile(r"(?:localhost|[A-Za-z0-9.-]*\.[A-Za-z0-9.-]*|[A-Za-z0-9.-]+(?=:))(?::[0-9]+)?")

_BASES = "a table with exactly one of: archive, debian, dockerfile, image, scratch"
ONE_LINE = "the enclave's init reads arguments and variables one a line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A cage's document with what it inherits, and what is known of it beside that."""

    document: dict[str, Any]
    own: dict[str, Any]
    """The cage's own part of the document."""
    places: paths.Places
    fallback_name: str | None
    """The name that the file's place gives; None at the root."""
    is_root: bool

    def section(self, name: str) -> dict[str, Any]:
        """A table, empty where there is none."""
        value = self.document.get(name)
        return value if isinstance(value, dict) else {}

    def lacks(self, *path: str) -> bool:
        """Whether a key is not there. One that was refused is there."""
        value: Any = self.document
        for key in path:
            if value is None:
                return False
            if not isinstance(value, dict) or key not in value:
                return True
            value = value[key]
        return False


def problems(subject: Subject) -> Iterator[Problem]:
    """Every mistake of a cage that its shape does not show."""
    for check in _CHECKS:
        yield from check(subject)
    yield from alone(subject.document, ())
    yield from paths.malformed(subject.document, subject.places)


def _place(subject: Subject) -> Iterator[Problem]:
    if "workspace" in subject.own and not subject.is_root:
        yield Problem(
            path=("workspace",),
            at="key",
            message="only the cage.toml at the workspace's root has this table",
            hint=f"the root is {subject.places.root}",
        )
    if not subject.lacks("cage", "name"):
        return
    name = subject.fallback_name
    if name is None:
        yield Problem(
            path=("cage", "name"),
            at="key",
            message="missing: a cage at the workspace's root needs a name",
            hint='[cage] name = "…": the folder of a checkout may be called anything',
        )
    elif not NAME.fullmatch(name):
        like = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
        yield Problem(
            path=("cage", "name"),
            at="key",
            message=f"missing: '{name}' cannot be the cage's name",
            hint=f'[cage] name = "{like or "…"}"',
        )


def _base_is_whole(subject: Subject) -> Iterator[Problem]:
    if "workspace" in subject.own and subject.lacks("base"):
        # The schema leaves this to us: a root's file may be no cage at all.
        message = "missing: a cage's file says what the cage is built on"
        yield Problem(path=("base",), at="key", message=message, hint=_BASES)
    if not subject.lacks("base", "debian"):
        for key, hint in (("suite", '"bookworm"'), ("packages", '["python3-minimal"]')):
            if subject.lacks("base", "debian", key):
                yield Problem(
                    path=("base", "debian", key),
                    at="key",
                    message="missing here and in the workspace's defaults",
                    hint=f"such as {key} = {hint}",
                )
    reference = subject.section("base").get("image")
    if reference is not None:
        yield from _image(reference)


def _image(reference: str) -> Iterator[Problem]:
    at: Path = ("base", "image")
    match = _IMAGE.fullmatch(reference)
    if match and _HOST.fullmatch(match["host"]):
        if not match["tag"] and not match["digest"]:
            hint = f'such as "{reference}:1.0"'
            yield Problem(path=at, message="has neither a tag nor a digest", hint=hint)
        return
    path = reference if "/" in reference else f"library/{reference}"
    if _IMAGE.fullmatch(f"docker.io/{path}"):
        hint = f"did you mean 'docker.io/{path}'?"
        yield Problem(path=at, message="names no registry", hint=hint)
        return
    hint = "host/repository:tag or host/repository@sha256:…, the repository in lower case"
    yield Problem(path=at, message="is not the name of an image", hint=hint)


def _program(subject: Subject) -> Iterator[Problem]:
    app = subject.section("app")
    for key in ("entrypoint", "command"):
        words = app.get(key)
        if words == [] and (key == "command" or not app.get("command")):
            hint = "leave it out to have it as in the base image"
            yield Problem(path=("app", key), message="is empty", hint=hint)
        if words and words[0] == "" and (key == "entrypoint" or not app.get("entrypoint")):
            yield Problem(path=("app", key, 0), message="the program's name is empty")
        for index, word in enumerate(words or ()):
            yield from _one_line(word, ("app", key, index))
    empty = not subject.lacks("base", "debian") or not subject.lacks("base", "scratch")
    if empty and subject.lacks("app", "entrypoint") and subject.lacks("app", "command"):
        yield Problem(
            path=("app", "command"),
            at="key",
            message="missing: this base has no program of its own to run",
            hint='such as command = ["python3", "/srv/app/server.py"]',
        )


def _one_line(value: str | None, at: Path) -> Iterator[Problem]:
    if value is not None and ("\n" in value or "\0" in value):
        what = "a line break" if "\n" in value else "a NUL"
        yield Problem(path=at, message=f"has {what}: {ONE_LINE}", hint="put it into a file")


def _surroundings(subject: Subject) -> Iterator[Problem]:
    app = subject.section("app")
    for name, value in (app.get("env") or {}).items():
        yield from _one_line(value, ("app", "env", name))
    if app.get("workdir") is not None:
        yield from _image_path(app["workdir"], ("app", "workdir"))
    for number in str(app.get("user") or "").split(":"):
        if number.isdecimal() and int(number) > MOST_ID:
            yield Problem(path=("app", "user"), message=f"{number} is more than {MOST_ID}")


def _files(subject: Subject) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, entry in enumerate(subject.section("app").get("files") or ()):
        at: Path = ("app", "files", index)
        if not entry:
            continue
        yield from patterns(entry.get("exclude"), (*at, "exclude"))
        owner = entry.get("owner") or ""
        if any(number and int(number) > MOST_ID for number in owner.split(":")):
            yield Problem(path=(*at, "owner"), message=f"an id is more than {MOST_ID}")
        destination = entry.get("destination")
        if destination is None:
            continue
        wrong = [*_destination(destination, (*at, "destination"))]
        yield from wrong
        if not wrong and seen.setdefault(destination, index) != index:
            yield Problem(
                path=(*at, "destination"),
                message=f"app.files[{seen[destination]}] goes to '{destination}' as well",
                hint="put what belongs together into one folder, or give each its own",
            )


def _destination(text: str, at: Path) -> Iterator[Problem]:
    wrong = [*_image_path(text, at)]
    yield from wrong
    if not wrong and PurePosixPath(text).is_relative_to(RUNTIME_FOLDER):
        message = f"{RUNTIME_FOLDER} belongs to the runtime"
        yield Problem(path=at, message=message, hint="such as /srv/app")


def _image_path(text: str, at: Path) -> Iterator[Problem]:
    if "\n" in text or "\0" in text:
        yield Problem(path=at, message="has a line break or a NUL")
    elif not text.startswith("/"):
        hint = f'such as "/{text.removeprefix("./")}"'
        yield Problem(path=at, message="is not absolute", hint=hint)
    elif ".." in text.split("/"):
        yield Problem(path=at, message="has a '..'", hint="write where it leads to")
    elif text != "/" and set(text[1:].split("/")) & {"", "."}:
        plain = "/" + "/".join(part for part in text.split("/") if part not in {"", "."})
        yield Problem(path=at, message="has an empty or '.' part", hint=f'write "{plain}"')


def _runtime(subject: Subject) -> Iterator[Problem]:
    value = subject.document.get("runtime")
    if value is False:
        own = subject.own
        secrets = own.get("secrets") or {}
        for key, used, message in (
            ("ingress", own.get("ingress"), "nothing carries traffic"),
            ("egress", (own.get("egress") or {}).get("allow"), "nothing carries traffic"),
            ("secrets", secrets.get("env") or secrets.get("files"), "nothing takes secrets"),
            ("logs", (own.get("logs") or {}).get("forward"), "nothing forwards logs"),
        ):
            if used:
                yield Problem(
                    path=(key,),
                    at="key",
                    message=f"{message} in a cage with 'runtime = false'",
                    hint=f"leave out {key}, or have a runtime",
                )
    elif subject.lacks("runtime", "installer"):
        yield Problem(
            path=("runtime", "installer"),
            at="key",
            message="missing here and in the workspace's defaults",
            hint='[runtime] installer = "sha256:…", or runtime = false above the first table',
        )


def _build(subject: Subject) -> Iterator[Problem]:
    if "build" in subject.own and subject.lacks("base", "dockerfile"):
        message = "has no use here: only base.dockerfile is built by an engine"
        yield Problem(path=("build",), at="key", message=message, hint="leave it out")
        return
    build = subject.section("build")
    if build.get("engine") == "kaniko" and "kaniko" not in build:
        yield Problem(
            path=("build", "kaniko"),
            at="key",
            message="missing: the engine 'kaniko' needs the image of its executor",
            hint='such as kaniko = "registry.example.com/kaniko/executor@sha256:…"',
        )
    if build.get("engine") == "kaniko" and build.get("secrets"):
        message = "kaniko has no build secrets"
        yield Problem(path=("build", "secrets"), at="key", message=message, hint="another engine")


def _traffic(subject: Subject) -> Iterator[Problem]:
    yield from traffic.ingress(subject.document)
    yield from traffic.secrets(subject.document)


_CHECKS: tuple[Callable[[Subject], Iterator[Problem]], ...] = (
    _place,
    _base_is_whole,
    _program,
    _surroundings,
    _files,
    _runtime,
    _build,
    _traffic,
)


def workspace(section: dict[str, Any], root: pathlib.Path) -> Iterator[Problem]:
    """Every mistake of a ``[workspace]`` table that its shape does not show."""
    for key in ("cages", "exclude"):
        yield from patterns(section.get(key), ("workspace", key))
    defaults = section.get("defaults") or {}
    at: Path = ("workspace", "defaults")
    yield from alone(defaults, at)
    places = paths.Places(root, root)
    for problem in (*paths.malformed(defaults, places), *paths.escapes(defaults, places)):
        yield Problem(path=(*at, *problem.path), message=problem.message, hint=problem.hint)
