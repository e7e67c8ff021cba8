"""Kernels and installers from source: made once, by `nox -s runtime` or by the first test."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.recipes.graph import Recipes
from cagebuild.renewing import make
from cagebuild.runtime.pins import ARCHITECTURES
from cagebuild.seeding import pinned_steps, seed
from cagebuild.store import Store
from cagebuild.store.statcache import StatCache

if TYPE_CHECKING:
    from cagebuild.step import StepInput

ROOT = Path(__file__).parents[2]


def made_store() -> Store:
    """The store that `nox -s runtime` keeps."""
    return Store(ROOT / ".nox/made")


def recipes(store: Store) -> Recipes:
    """The recipes, held to their pins."""
    return Recipes((), StatCache(store.digests).digest)


def provide(*wanted: StepInput) -> list[Path]:
    """Files that recipes make, read-only, made now if they are not there yet."""
    store = made_store()
    with (ROOT / ".nox/made.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one makes them
        summary = make(store, wanted, jobs=len(os.sched_getaffinity(0)))
    return [store.blob_path(summary.output(given.step, given.output).digest) for given in wanted]


def kernel(architecture: str) -> Path:
    """This project's kernel."""
    return provide(recipes(made_store()).kernel(architecture))[0]


def installer(architecture: str) -> Path:
    """This version's runtime installer."""
    return provide(recipes(made_store()).installer(architecture))[0]


def seed_store(store: Store) -> None:
    """Give a store the installers, and the kernel for x86_64."""
    ours = recipes(store)
    wanted = [ours.kernel("x86_64"), *(ours.installer(each) for each in ARCHITECTURES)]
    provide(*wanted)
    seed(made_store(), store, pinned_steps(given.step for given in wanted).values())
