"""What the recipes make against what is pinned, and moving the pins.

``python -m cagebuild.renewing STORE [--update] [--newest] [--architecture …] [--carry FOLDER]``
makes kernels, installers and programs of the host in a store of its own, says what moved, and fails
if anything did.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cagebuild.errors import CageError
from cagebuild.execute import execute
from cagebuild.pipeline import executor
from cagebuild.recipes import pins
from cagebuild.recipes.graph import Recipes
from cagebuild.report import reporter
from cagebuild.runtime.installer import read_manifest
from cagebuild.runtime.pins import ARCHITECTURES, PINS, read
from cagebuild.runtime.sources import host_files, installer_files, kernel_files, tree_digest
from cagebuild.store import Session, Store
from cagebuild.store.statcache import StatCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cagebuild.execute import Summary
    from cagebuild.step import Step, StepInput
    from cagebuild.store import Blob

_SUITE = "bookworm"
"""It gets no more updates, so its packages stay where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What the recipes made, whatever is pinned."""

    toolchain: Mapping[str, Blob]
    kernels: Mapping[str, Blob]
    installers: Mapping[str, Blob]
    hosts: Mapping[str, Blob]
    """Programs of the host."""

    def all(self) -> tuple[Blob, ...]:
        """What is pinned and carried: all but the toolchain."""
        kinds = (self.kernels, self.installers, self.hosts)
        return tuple(blob for made in kinds for blob in made.values())


def make(
    store: Store, wanted: Sequence[StepInput | Step], *, jobs: int, processes: int | None = None
) -> Summary:
    """Run what the store does not have; raises BuildFailedError after what failed was shown."""
    from cagebuild.step import StepInput

    steps = [each.step if isinstance(each, StepInput) else each for each in wanted]
    summary = execute(
        {"recipes": steps},
        store=store,
        executor=executor(processes=processes),
        reporter=reporter(sys.stderr),
        jobs=jobs,
    )
    summary.raise_for_failures()
    return summary


def build(
    store: Store, architectures: Sequence[str], *, jobs: int, processes: int | None = None
) -> Built:
    """Make everything from its sources; raises BuildFailedError after what failed was shown."""
    recipes = Recipes((), StatCache(store.digests).digest, held=False)
    toolchain = recipes.toolchain()
    kernels = {each: recipes.kernel(each) for each in architectures}
    installers = {each: recipes.installer(each) for each in architectures}
    hosts = {each: recipes.host(each) for each in architectures}
    wanted = [*kernels.values(), *installers.values(), *hosts.values()]
    summary = make(store, [toolchain, *wanted], jobs=jobs, processes=processes)
    made = {given.step.id: summary.output(given.step, given.output) for given in wanted}
    return Built(
        toolchain={name: summary.output(toolchain, name) for name in toolchain.outputs},
        kernels={each: made[given.step.id] for each, given in kernels.items()},
        installers={each: made[given.step.id] for each, given in installers.items()},
        hosts={each: made[given.step.id] for each, given in hosts.items()},
    )


def keep(store: Store, built: Built) -> None:
    """Let builds that know what was made by its pinned digest find it."""
    recipes = Recipes((), StatCache(store.digests).digest)
    for made, pinned in (
        *((blob, recipes.kernel(each)) for each, blob in built.kernels.items()),
        *((blob, recipes.installer(each)) for each, blob in built.installers.items()),
        *((blob, recipes.host(each)) for each, blob in built.hosts.items()),
    ):
        if pinned.step.expected != {pinned.output: made.digest}:
            continue
        with Session(store, [pinned.step.id]) as session, session.scratch() as folder:
            file = folder / pinned.output
            store.export(made, file)
            session.commit(pinned.step, {pinned.output: file})


def describe(store: Store, built: Built) -> dict[str, dict[str, Any]]:
    """The files of pins that say what came out, by name."""
    return {
        pins.TOOLCHAIN: {
            "outputs": {name: str(blob.digest) for name, blob in built.toolchain.items()},
        },
        pins.KERNEL: {
            architecture: {
                "digest": str(blob.digest),
                "size": blob.size,
                "sources": str(tree_digest(kernel_files(architecture))),
            }
            for architecture, blob in built.kernels.items()
        },
        pins.RUNTIME: {
            architecture: {
                "digest": str(blob.digest),
                "size": blob.size,
                "sources": str(tree_digest(installer_files())),
                "files": {
                    file.path: str(file.digest)
                    for file in read_manifest(store.blob_path(blob.digest)).files
                    if file.digest
                },
            }
            for architecture, blob in built.installers.items()
        },
        pins.HOST: {
            architecture: {
                "digest": str(blob.digest),
                "size": blob.size,
                "sources": str(tree_digest(host_files())),
            }
            for architecture, blob in built.hosts.items()
        },
    }


def moved(name: str, pinned: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each value that is not as pinned."""
    before, after = _flat("", pinned), _flat("", found)
    return [
        f"{name}: {key}: got {after.get(key, 'nothing')}, expected {before.get(key, 'nothing')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _flat(place: str, value: object) -> dict[str, str]:
    if isinstance(value, dict):
        inner = (_flat(f"{place} {key}".strip(), each) for key, each in value.items())
        return {key: text for each in inner for key, text in each.items()}
    return {place: json.dumps(value)}


def pin_newest() -> None:
    """Pin the newest packages and sources; raises ResolveError, SignatureError and FetchError."""
    from cagebuild.config.model import DebianBase
    from cagebuild.debian.locking import lock_base, lock_package, lock_source
    from cagebuild.debian.sources import defaults
    from cagebuild.fetch.http import get

    known = read(pins.TOOLCHAIN)
    base = DebianBase(
        suite=_SUITE,
        updates=(),
        packages=tuple(known["wanted"]),
        components=("main",),
        mirror=defaults().mirror,
        snapshot=None,
    )
    packages = lock_base(base, pins.BUILDS_ON, get)
    _write(pins.TOOLCHAIN, {**known, "pins": packages.to_json()})
    linux = lock_package("linux-source-6.12", f"{_SUITE}-security", pins.BUILDS_ON, get)
    busybox = lock_source("busybox", _SUITE, "main", get)
    _write(pins.SOURCES, {"linux": linux.to_json(), "busybox": busybox.to_json()})
    pins.toolchain.cache_clear()
    pins.sources.cache_clear()


def _write(name: str, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    (PINS / name).write_text(text, encoding="ascii")


def carry(store: Store, built: Built, folder: Path) -> None:
    """Put what was made into a folder under its digest, as a wheel carries it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for blob in built.all():
        store.export(blob, folder / blob.digest.hex)


def main() -> int:
    """Print what moved; 0 when nothing did, or when the pins were moved along."""
    parser = argparse.ArgumentParser(prog="python -m cagebuild.renewing", description=__doc__)
    parser.add_argument("store", type=Path, help="where to keep what was made")
    parser.add_argument("--newest", action="store_true", help="pin the newest sources first")
    parser.add_argument("--update", action="store_true", help="move the pins of what came out")
    parser.add_argument("--architecture", action="append", choices=ARCHITECTURES)
    parser.add_argument("--carry", type=Path, metavar="FOLDER", help="also put it there")
    parser.add_argument("--jobs", type=int, default=1, help="steps at once")
    parser.add_argument("--processes", type=int, help="of each step at once (one for each CPU)")
    given = parser.parse_args()
    try:
        if given.newest:
            pin_newest()
        store = Store(given.store.absolute())
        wanted = given.architecture or ARCHITECTURES
        built = build(store, wanted, jobs=given.jobs, processes=given.processes)
        lines = []
        for name, found in describe(store, built).items():
            # What was not made this time stays as it is.
            pinned = read(name)
            now = {**pinned, **found}
            lines += moved(name, pinned, now)
            if given.update:
                _write(name, now)
        keep(store, built)
        if given.carry:
            carry(store, built, given.carry)
    except CageError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print("\n".join(lines) or "kernels, runtime installers and programs of the host are as pinned")
    return 1 if lines and not given.update else 0


if __name__ == "__main__":
    sys.exit(main())
