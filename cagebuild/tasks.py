"""The commands. In a monorepo's tasks.py: ``from cagebuild.tasks import *``.

Each command imports what it needs when it runs, so that ``invoke build`` with nothing to do and
``invoke --list`` are quick.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cagebuild.cli import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cagebuild.config.model import Architecture, Cage
    from cagebuild.pipeline import How
    from cagebuild.session import Session

__all__ = [
    "build",
    "cache",
    "cages",
    "check",
    "describe",
    "diff",
    "eif",
    "export",
    "graph",
    "host",
    "lock",
    "pcr",
    "plan",
    "sbom",
    "stage",
    "verify",
]

_TARGETS = "cages: //folder, folder/..., a path or a name; none: all below this folder"
_RUNNING = {
    "words": _TARGETS,
    "jobs": "steps at once (default: one for each CPU)",
    "keep_going": "go on with what does not need a step that failed",
    "verbose": "show the steps that were hits, too",
    "explain": "say for each step that ran what changed since the last time",
}


def _session() -> Session:
    from cagebuild.session import Session

    return Session(Path.cwd())


def _how(jobs: int, keep_going: bool, verbose: bool, explain: bool) -> How:
    import os
    import sys

    from cagebuild.errors import UsageError
    from cagebuild.pipeline import How
    from cagebuild.report import reporter

    if jobs < 0:
        raise UsageError(f"--jobs {jobs}: expected 1 or more, or 0 for one each CPU")
    return How(
        reporter=reporter(sys.stderr, verbose=verbose, explain=explain),
        jobs=jobs or len(os.sched_getaffinity(0)),
        keep_going=keep_going,
    )


@command(help=_RUNNING)
def build(
    context: Any,
    words: Sequence[str] = (),
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Build each cage's image file, measurements and manifest into dist/<name>/."""
    from cagebuild import pipeline, show

    session = _session()
    chosen = session.cages(words)
    show.sources(session, chosen)
    show.dockerfiles(session, chosen)
    results = pipeline.build(session, chosen, _how(jobs, keep_going, verbose, explain))
    show.results(session, results)


@command(help={**_RUNNING, "json": "print the measurements as nitro-cli does"})
def pcr(
    context: Any,
    words: Sequence[str] = (),
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
    json: bool = False,
) -> None:
    """Print each cage's PCRs without writing its image file; fails if they are not the lock's."""
    from cagebuild import pipeline, show

    session = _session()
    chosen = session.cages(words)
    show.sources(session, chosen)
    show.dockerfiles(session, chosen)
    results = pipeline.measure(session, chosen, _how(jobs, keep_going, verbose, explain))
    if json:
        show.results_json(results)
    else:
        show.results(session, results)
    pipeline.require_expected(results)


@command(
    help={
        **_RUNNING,
        "words": _TARGETS + "; with --update also: base, boot, runtime, epoch",
        "update": "move the pins of the named parts (of all, if none is named)",
    }
)
def lock(
    context: Any,
    words: Sequence[str] = (),
    update: bool = False,
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Pin what is missing or changed in cage.lock, measure, and say what moved."""
    from cagebuild import pipeline, show
    from cagebuild.pinning import PARTS, check_names

    parts = [word for word in words if update and word in PARTS]
    session = _session()
    chosen = _cages_to_lock(session, [word for word in words if word not in parts], update)
    moved = check_names(parts) if update else frozenset()
    if "runtime" in moved:
        session = pipeline.update_installers(session, chosen)
        chosen = session.cages([cage.address for cage in chosen])
    show.sources(session, chosen)
    show.dockerfiles(session, chosen)
    show.uncommitted(session, chosen)
    how = _how(jobs, keep_going, verbose, explain)
    show.locks(session, pipeline.lock(session, chosen, how, update=moved))


def _cages_to_lock(session: Session, words: Sequence[str], update: bool) -> tuple[Cage, ...]:
    from cagebuild.errors import UsageError
    from cagebuild.pinning import PARTS

    try:
        return session.cages(words)
    except UsageError as error:
        if not update:
            raise
        hint = f"{error.hint + '; ' if error.hint else ''}the parts of a lock: {', '.join(PARTS)}"
        raise UsageError(error.message, hint=hint) from None


@command(help={"words": _TARGETS})
def check(context: Any, words: Sequence[str] = ()) -> None:
    """Check configurations and locks without building; every mistake is shown at once."""
    from cagebuild import pipeline, show

    session = _session()
    chosen = session.cages(words)
    show.sources(session, chosen)
    show.dockerfiles(session, chosen)
    pipeline.check(session, chosen)
    print(f"{len(chosen)} cage{'' if len(chosen) == 1 else 's'}: no mistakes")


@command(help={"words": _TARGETS})
def cages(context: Any, words: Sequence[str] = ()) -> None:
    """List the cages of the workspace."""
    from cagebuild import show

    session = _session()
    show.cages(session.cages(words or ["//..."]))


@command(
    help={
        "words": _TARGETS,
        "json": "print everything that ids are made of, as JSON",
        "explain": "say for each miss what changed since the last time",
    }
)
def plan(
    context: Any, words: Sequence[str] = (), json: bool = False, explain: bool = False
) -> None:
    """Print the steps of each cage, with ids, hit or miss, and build nothing."""
    from cagebuild import pipeline, showplan

    session = _session()
    plans = pipeline.plans(session, session.cages(words))
    if json:
        print(showplan.as_json(session, plans))
    else:
        print("\n".join(showplan.text(session, plans, explain=explain)))


@command(help={"words": _TARGETS, "format": "mermaid or dot"})
def graph(context: Any, words: Sequence[str] = (), format: str = "mermaid") -> None:  # noqa: A002
    """Print the graph of steps for Mermaid or Graphviz."""
    from cagebuild import pipeline, showplan

    session = _session()
    print("\n".join(showplan.graph(pipeline.plans(session, session.cages(words)), format)))


@command(
    help={
        "arch": "the host's processor: x86_64 or aarch64",
        "jobs": _RUNNING["jobs"],
        "verbose": _RUNNING["verbose"],
        "explain": _RUNNING["explain"],
    }
)
def host(
    context: Any,
    arch: str = "x86_64",
    jobs: int = 0,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Write the program that runs and serves enclaves on their host, dist/cage-host-<arch>."""
    from cagebuild import pipeline

    session = _session()
    how = _how(jobs, False, verbose, explain)
    written = pipeline.host_program(session, _architecture(arch), how)
    print(written.relative_to(session.workspace.root))


def _architecture(text: str) -> Architecture:
    from cagebuild.errors import UsageError
    from cagebuild.runtime.pins import ARCHITECTURES

    for known in ARCHITECTURES:
        if text == known:
            return known
    raise UsageError(f"--arch {text}: expected {' or '.join(ARCHITECTURES)}")


@command(
    help={
        "prune": "remove what was not used for longest, down to the bounds given",
        "older_than": "with --prune: all that was not used for so long: 30d, 12h",
        "max_size": "with --prune: down to that size: 10GiB, 500MiB",
        "dry_run": "with --prune: only say what would be removed",
    }
)
def cache(
    context: Any,
    prune: bool = False,
    older_than: str = "",
    max_size: str = "",
    dry_run: bool = False,
) -> None:
    """Show what the store holds, or make it smaller."""
    from cagebuild import storage

    store = _session().store
    if prune:
        storage.remove(store, older_than=older_than, max_size=max_size, dry_run=dry_run)
    else:
        storage.show(store)


@command(positional=["file"], help={"file": "an enclave image file", "json": "print JSON"})
def describe(context: Any, file: str, json: bool = False) -> None:
    """Show an enclave image file: header, sections, metadata, PCRs, signature, ramdisks."""
    from cagebuild import show
    from cagebuild.nitro.describe import describe as described

    found = described(Path(file))
    if json:
        show.json_document(found.to_json())
    else:
        print(found.render())


@command(
    positional=["a", "b"],
    help={
        "a": "what was expected: a manifest, image file, lock, dist folder, or git revision",
        "b": "what there is now: the same; a git revision is REVISION or REVISION://cage",
        "json": "print JSON",
        "limit": "files to name for each origin",
    },
)
def diff(context: Any, a: str, b: str, json: bool = False, limit: int = 10) -> None:
    """Explain each PCR that moved: section, then files, then what of them changed."""
    from cagebuild import compare, show

    difference = compare.difference(_session, a, b, limit=limit)
    show.difference(difference, as_json=json)


@command(
    help={
        "image": "an OCI layout (folder or archive) or docker-archive",
        "name": "which image of an archive that holds several",
        "kernel": "bzImage or Image",
        "cmdline_file": "the kernel's command line",
        "init": "the init program",
        "nsm": "nsm.ko, where the kernel needs it",
        "arch": "x86_64 or aarch64",
        "cert": "certificate to sign with (PEM)",
        "key": "its private key (PEM)",
        "output": "the enclave image file to write; without it nothing is written",
        "command": "whose reading of CMD and ENTRYPOINT: nitro-cli (one of them) or docker (both)",
        "json": "print the measurements as nitro-cli does",
    }
)
def eif(
    context: Any,
    image: str,
    kernel: str,
    cmdline_file: str,
    init: str,
    nsm: str = "",
    name: str = "",
    arch: str = "x86_64",
    cert: str = "",
    key: str = "",
    output: str = "",
    command: str = "nitro-cli",
    json: bool = False,
) -> None:
    """Convert an existing image with given boot files; nothing is added to it."""
    from cagebuild import converting

    words = converting.Words(
        image=image,
        name=name,
        kernel=kernel,
        cmdline_file=cmdline_file,
        init=init,
        nsm=nsm,
        architecture=arch,
        certificate=cert,
        key=key,
        output=output,
        command=command,
    )
    converting.run(words, as_json=json)


@command(
    help={
        **_RUNNING,
        "output": "file or folder to write",
        "format": "oci (a folder), oci-archive, or docker-archive (for docker load)",
    }
)
def export(
    context: Any,
    words: Sequence[str] = (),
    output: str = "",
    format: str = "oci",  # noqa: A002
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Write a cage's finished image, from which nitro-cli comes to the same PCRs."""
    from cagebuild import exporting, pipeline

    session = _session()
    form = exporting.known_format(format)
    target = Path(output or f"image.{form}")
    how = _how(jobs, keep_going, verbose, explain)
    done = pipeline.export(session, session.cages(words), how, target, form)
    print(f"{target}\n  image id  {done.config}\n  manifest  {done.manifest}")


@command(help=_RUNNING)
def sbom(
    context: Any,
    words: Sequence[str] = (),
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Print the bill of materials of what is injected into a cage, as CycloneDX JSON."""
    from cagebuild import pipeline

    session = _session()
    how = _how(jobs, keep_going, verbose, explain)
    print(pipeline.bill_of_materials(session, session.cages(words), how).decode(), end="")


@command(help={**_RUNNING, "output": "folder to write; none: print the Dockerfile, run nothing"})
def stage(
    context: Any,
    words: Sequence[str] = (),
    output: str = "",
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Print a cage's image as a Dockerfile, or write it with all that it copies."""
    from cagebuild.stage import write

    session = _session()
    chosen = session.cages(words)
    if not output:
        print(write.dockerfile(session, chosen).decode("utf-8", "surrogateescape"), end="")
        return
    command = write.write(session, chosen, _how(jobs, keep_going, verbose, explain), Path(output))
    print(f"{output}\n  by hand: cd {shlex.quote(output)} && {command}")


@command(
    help={
        **_RUNNING,
        "rebuild": "build again, from nothing and under other conditions, and compare",
        "engines": "with --rebuild: engines for Dockerfiles, such as buildkit,buildah (default: all"
        " that are here)",
        "with_": "nitro-cli: the program that comes to PCRs of its own, in a container",
        "nitro_image": "the image that it is in, REF@sha256:… or the id of a local one (default:"
        " built once from Amazon Linux's packages)",
    }
)
def verify(
    context: Any,
    words: Sequence[str] = (),
    rebuild: bool = False,
    engines: str = "",
    with_: str = "",
    nitro_image: str = "",
    jobs: int = 0,
    keep_going: bool = False,
    verbose: bool = False,
    explain: bool = False,
) -> None:
    """Check PCRs: by building again (--rebuild), or by another program (--with nitro-cli)."""
    from cagebuild import show
    from cagebuild.errors import UsageError
    from cagebuild.nitrocli.opinion import opinions, require_agreement
    from cagebuild.reproduce import rebuilt

    if with_ not in ("", "nitro-cli"):
        raise UsageError(f"--with {with_}: expected --with nitro-cli")
    if engines and not rebuild:
        raise UsageError("--engines is for --rebuild")
    if not rebuild and not with_:
        raise UsageError("verify how?", hint="--rebuild builds again, --with nitro-cli asks it")
    how = _how(jobs, keep_going, verbose, explain)
    if rebuild:
        for line in rebuilt(Path.cwd(), words, how, engines):
            print(line, flush=True)
    if with_:
        session = _session()
        chosen = session.cages(words)
        show.sources(session, chosen)
        found = opinions(session, chosen, how, image=nitro_image, show=show.opinion)
        require_agreement(found)
