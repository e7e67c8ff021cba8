"""One command's view of a workspace: its cages, their files, the store."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from cagebuild import code
from cagebuild import lock as lockfile
from cagebuild.config import check_names, load_all, load_workspace
from cagebuild.config.environment import engine, source_date_epoch
from cagebuild.config.model import ArchiveBase, DockerfileBase
from cagebuild.config.validated import MarkerFiles
from cagebuild.errors import LockError
from cagebuild.results import Built, Memory, Result, outputs
from cagebuild.sources import collect
from cagebuild.step import canonical
from cagebuild.store import Store
from cagebuild.store.statcache import StatCache
from cagebuild.workspace import inputs, select

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cagebuild.config.model import Cage, EngineChoice, Workspace
    from cagebuild.lock import Lock
    from cagebuild.pinning import World
    from cagebuild.sources import AppSources, BuildContext, SourceFile


class Session:
    """A workspace, as one command sees it."""

    def __init__(self, start: Path) -> None:
        """The workspace around the folder ``start``; raises ConfigError."""
        self.start = start
        self.workspace: Workspace = load_workspace(start)
        self._sources: dict[Cage, AppSources] = {}

    def again(self) -> Session:
        """The same after files of the workspace were changed."""
        return Session(self.start)

    @cached_property
    def store(self) -> Store:
        """The workspace's store; raises StoreError."""
        settings = self.workspace.store
        return Store(settings.path, max_bytes=settings.max_bytes)

    @cached_property
    def stats(self) -> StatCache:
        """Digests of files that did not change since they were last read."""
        return StatCache(self.store.digests)

    @cached_property
    def memory(self) -> Memory:
        """Earlier builds."""
        return Memory(self.store)

    def cages(self, words: Sequence[str]) -> tuple[Cage, ...]:
        """The cages that a command's words mean; raises UsageError and ConfigError."""
        named = select(self.workspace, words, self.start)
        validated = MarkerFiles(self.store.root / "validated")
        found = load_all([cage.file for cage in named], self.workspace, validated=validated)
        check_names(found)
        chosen = engine()
        return tuple(_by_engine(cage, chosen) for cage in found) if chosen else found

    def load_sources(self, cages: Sequence[Cage]) -> None:
        """Look at the files of several cages at once, which is quicker than one by one."""
        new = [cage for cage in cages if cage not in self._sources]
        if new:
            self._sources |= collect(self.workspace, new, self.stats.digest)

    def app_sources(self, cage: Cage) -> AppSources:
        """The app's files of a cage; raises SourceError."""
        self.load_sources([cage])
        return self._sources[cage]

    def sources(self, cage: Cage) -> tuple[SourceFile, ...]:
        """The files that are added, sorted by destination; raises SourceError."""
        return self.app_sources(cage).files

    def context(self, cage: Cage) -> BuildContext | None:
        """The Dockerfile of a cage that has one, and what it may copy; raises SourceError."""
        return self.app_sources(cage).context

    def save(self) -> None:
        """Keep what was learnt of files for the next command."""
        self.stats.save()

    def owner(self, cage: Cage) -> str:
        """Names a cage of this checkout for as long as it stays where it is."""
        return f"{self.workspace.root}\n{cage.address}"

    def lock_before(self, cage: Cage) -> Lock | None:
        """The cage's lock as it is, or None when there is none that can be read."""
        try:
            return lockfile.read(cage.lock_file)
        except LockError:
            return None

    def outputs(self, cage: Cage) -> dict[str, Path]:
        """Where the files of a cage go, by output of the step ``eif``."""
        return outputs(self.workspace.root, cage)

    def key(self, cage: Cage) -> str | None:
        """All that a build of the cage reads, as one hash; None when something is not there.

        The plan is made from just that, so an equal key means an equal plan.
        """
        read = inputs(cage)
        if isinstance(cage.base, ArchiveBase) and cage.base.path.is_dir():
            # It names all else in a layout by digest.
            read = (*read, cage.base.path / "index.json")
        local = [path for path in read if path.is_file()]
        local = [path for path in (*local, cage.lock_file) if path != cage.file]
        context = self.context(cage)
        try:
            parts = [
                code.version(),
                [context and [[file.facts(), str(file.digest)] for file in context.files]],
                str(cage.checksum),
                source_date_epoch() if cage.epoch.policy == "env" else None,
                [[file.facts(), str(file.digest)] for file in self.sources(cage)],
                [str(self.stats.digest(path)) for path in local],
            ]
        except OSError:
            return None
        return hashlib.sha256(canonical(parts)).hexdigest()

    def up_to_date(self, cage: Cage) -> Result | None:
        """The last build's result, if nothing that it was made from or wrote has changed since."""
        built = self.memory.built(self.owner(cage))
        if built is None or built.key != self.key(cage):
            return None
        files = self.outputs(cage)
        try:
            if any(str(self.stats.digest(files[name])) != built.files[name] for name in files):
                return None
        except (OSError, KeyError):
            return None
        return Result(
            cage=cage,
            pcrs=built.pcrs,
            expected=built.expected,
            warnings=built.warnings,
            eif=files["image.eif"],
        )

    def remember_build(self, cage: Cage, key: str | None, result: Result) -> None:
        """Note a finished build under the key that was taken before it began."""
        if key is None:
            return
        files = {name: str(self.stats.digest(file)) for name, file in self.outputs(cage).items()}
        built = Built(
            key=key,
            files=files,
            pcrs=result.pcrs,
            expected=result.expected,
            warnings=result.warnings,
        )
        self.memory.remember_built(self.owner(cage), built)

    def world(self) -> World:
        """Where new pins come from."""
        from cagebuild.fetch.http import get
        from cagebuild.pinning import World
        from cagebuild.workspace import last_commit_time

        return World(
            get=get,
            last_commit=lambda paths: last_commit_time(self.workspace, paths),
            source_date_epoch=source_date_epoch(),
        )


def _by_engine(cage: Cage, engine: EngineChoice) -> Cage:
    """The cage with another engine, which is no part of what its checksum covers."""
    if not isinstance(cage.base, DockerfileBase):
        return cage
    build = replace(cage.base.build, engine=engine)
    return replace(cage, base=replace(cage.base, build=build))
