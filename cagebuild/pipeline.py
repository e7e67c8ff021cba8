"""The whole flow on one screen: config, lock, plan, execute, measure, report.

Every function takes a Session and cages, and returns values; what a person sees is made elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cagebuild import lock as lockfile
from cagebuild.config import environment
from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, MeasurementError, StaleLockError, UsageError
from cagebuild.execute import (
    ContainerExecutor,
    EngineExecutor,
    Export,
    ProcessExecutor,
    execute,
)
from cagebuild.plan import Plan, plan
from cagebuild.plan.boot import CARRIED
from cagebuild.results import EIF, MANIFEST, Result

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from cagebuild.config.model import Architecture, Cage, Signing
    from cagebuild.engine.job import Engine
    from cagebuild.execute import Executor, Reporter, Summary
    from cagebuild.image.export import Exported, ExportFormat
    from cagebuild.lock import Lock
    from cagebuild.pinning import Part
    from cagebuild.sandbox import Sandbox
    from cagebuild.session import Session
    from cagebuild.step import Step
    from cagebuild.store import Blob, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to run steps."""

    reporter: Reporter
    jobs: int
    keep_going: bool = False


def plans(session: Session, cages: Iterable[Cage]) -> tuple[Plan, ...]:
    """The graph of each cage, from its lock and its files; raises LockError and SourceError."""
    return tuple(_plan(session, cage, require_lock(cage)) for cage in cages)


def build(session: Session, cages: Sequence[Cage], how: How) -> tuple[Result, ...]:
    """Write the image file, measurements and manifest of each cage, where they are not yet there.

    Raises CageError: of the lock, the sources, or BuildFailedError after every step that could be
    run was reported.
    """
    done = {cage.address: session.up_to_date(cage) for cage in cages}
    missing = [cage for cage in cages if done[cage.address] is None]
    made = {result.cage.address: result for result in _build(session, missing, how)}
    return tuple(done[cage.address] or made[cage.address] for cage in cages)


def measure(session: Session, cages: Sequence[Cage], how: How) -> tuple[Result, ...]:
    """The PCRs of each cage, without its image file; raises as ``build`` does."""
    return _measured(session, {cage: require_lock(cage) for cage in cages}, how)


def lock(
    session: Session,
    cages: Sequence[Cage],
    how: How,
    *,
    update: Collection[Part] = (),
) -> tuple[tuple[Cage, Lock | None, Lock], ...]:
    """Pin what is missing or changed, measure, write the locks; (cage, before, after) of each."""
    from cagebuild.pinning import resolve

    before = {cage: session.lock_before(cage) for cage in cages}
    pinned = {
        cage: resolve(
            cage,
            session.sources(cage),
            context=session.context(cage),
            previous=old,
            update=update,
            world=session.world(),
        )
        for cage, old in before.items()
    }
    results = {result.cage: result for result in _measured(session, pinned, how)}
    after = {cage: replace(new, expected=dict(results[cage].pcrs)) for cage, new in pinned.items()}
    for cage, new in after.items():
        lockfile.write(new, cage.lock_file)
    return tuple((cage, before[cage], after[cage]) for cage in cages)


def require_lock(cage: Cage) -> Lock:
    """The cage's lock; raises LockError, and StaleLockError when it is of another time, too."""
    locked = lockfile.require(cage)
    now = environment.source_date_epoch() if cage.epoch.policy == "env" else None
    if now not in (None, locked.epoch.time):
        raise StaleLockError(
            f"{cage.address}: SOURCE_DATE_EPOCH is {now}, the lock was made with"
            f" {locked.epoch.time}",
            hint=f"unset it to build as locked, or renew the lock: invoke lock {cage.address}",
        )
    return locked


def _plan(session: Session, cage: Cage, locked: Lock) -> Plan:
    return plan(
        cage,
        locked,
        session.sources(cage),
        context=session.context(cage),
        mirrors=session.workspace.mirrors,
        digest=session.stats.digest,
    )


def run(
    session: Session,
    targets: Mapping[Cage, Sequence[Step]],
    how: How,
    exports: Sequence[Export] = (),
) -> Summary:
    """Make the steps of some cages; raises BuildFailedError after what failed was reported."""
    owned = {session.owner(cage): wanted for cage, wanted in targets.items()}
    return _run(session, owned, how, exports)


def obtain(session: Session, steps: Sequence[Step], how: How) -> Summary:
    """Have the store hold what some steps make; raises as ``run`` does."""
    return _run(session, {"obtained": steps}, how)


def bill_of_materials(session: Session, cages: Sequence[Cage], how: How) -> bytes:
    """What the runtime of one cage consists of, as CycloneDX JSON; UsageError for several cages."""
    from cagebuild.runtime.installer import read_manifest
    from cagebuild.runtime.sbom import sbom
    from cagebuild.step import FileInput

    (made,) = plans(session, [one_cage(cages, "sbom")])
    if made.installer is None:
        raise UsageError(f"{made.cage.address}: runtime is false, so nothing is injected")
    if isinstance(made.installer, FileInput):
        file, digest = made.installer.path, made.installer.digest
    else:
        summary = obtain(session, [made.installer.step], how)
        digest = summary.output(made.installer.step, made.installer.output).digest
        file = session.store.blob_path(digest)
    return sbom(read_manifest(file), digest)


def host_program(session: Session, architecture: Architecture, how: How) -> Path:
    """Write ``dist/cage-host-<architecture>``, the program that serves enclaves on their parent.

    It is what this version pins: as this installation carries it, or made from source. Raises as
    ``run`` does, and StoreError.
    """
    from cagebuild.files import write_atomically
    from cagebuild.recipes import pins
    from cagebuild.recipes.graph import Recipes

    target = session.workspace.root / "dist" / f"cage-host-{architecture}"
    pinned = pins.host(architecture).digest
    carried = CARRIED / pinned.hex
    if carried.is_file():
        program = carried.read_bytes()
        if Digest.of(program) != pinned:
            raise DigestMismatchError(
                f"{carried}: got {Digest.of(program)}, expected {pinned}",
                hint="install cagebuild again: this file of it was changed",
            )
        write_atomically(target, program, 0o755)
        return target
    recipes = Recipes(session.workspace.mirrors, session.stats.digest)
    made = recipes.host(architecture)
    summary = obtain(session, [made.step], how)
    session.store.export(summary.output(made.step, made.output), target, mode=0o755)
    return target


def one_cage(cages: Sequence[Cage], command: str) -> Cage:
    """The one cage that a command is meant for; raises UsageError for several."""
    if len(cages) != 1:
        raise UsageError(
            f"{len(cages)} cages are meant", hint=f"name one: invoke {command} //folder"
        )
    return cages[0]


def _run(
    session: Session,
    targets: Mapping[str, Sequence[Step]],
    how: How,
    exports: Sequence[Export] = (),
) -> Summary:
    summary = execute(
        targets,
        store=session.store,
        executor=executor(),
        reporter=how.reporter,
        jobs=how.jobs,
        keep_going=how.keep_going,
        exports=exports,
        stats=session.stats,
    )
    session.save()
    summary.raise_for_failures()
    return summary


def executor(*, processes: int | None = None) -> Executor:
    """Where steps run: in this process, in a sandbox (``container``) or by an engine (``engine``).

    ``processes``: how many a program in a sandbox may start at once; None: one for each CPU.
    """
    from cagebuild import steps

    def find(*, needed_for: str) -> Sandbox:
        from cagebuild.sandbox import choose

        return choose(environment.sandbox(), needed_for=needed_for)

    def find_engine(hints: Mapping[str, object], *, needed_for: str) -> Engine:
        from cagebuild.engine.choice import choose

        kaniko = hints["kaniko"]
        return choose(
            str(hints["engine"]), None if kaniko is None else str(kaniko), needed_for=needed_for
        )

    return EngineExecutor(
        ContainerExecutor(ProcessExecutor(steps.load), find, processes=processes),
        find_engine,
        variable=environment.variable,
        use_cache=environment.engine_cache(),
    )


def _measured(session: Session, locks: Mapping[Cage, Lock], how: How) -> tuple[Result, ...]:
    targets = {cage: _plan(session, cage, locked).measure for cage, locked in locks.items()}
    summary = run(session, {cage: (step,) for cage, step in targets.items()}, how)
    return tuple(
        _result(session, cage, locks[cage], step, summary) for cage, step in targets.items()
    )


def _build(session: Session, cages: Sequence[Cage], how: How) -> tuple[Result, ...]:
    if not cages:
        return ()
    locks = {cage: require_lock(cage) for cage in cages}
    keys = {cage: session.key(cage) for cage in cages}
    targets = {cage: _plan(session, cage, locks[cage]).eif for cage in cages}
    exports = [
        Export(step=step, output=output, path=path)
        for cage, step in targets.items()
        for output, path in session.outputs(cage).items()
        if not (cage.signing and output == EIF)
    ]
    summary = run(session, {cage: (step,) for cage, step in targets.items()}, how, exports)
    results = []
    for cage, step in targets.items():
        result = _result(session, cage, locks[cage], step, summary)
        eif = session.outputs(cage)[EIF]
        if cage.signing:
            _sign(session.store, cage.signing, step, summary.output(step, EIF), eif)
        result = replace(result, eif=eif)
        session.remember_build(cage, keys[cage], result)
        results.append(result)
    return tuple(results)


def _sign(store: Store, signing: Signing, step: Step, unsigned: Blob, target: Path) -> None:
    """Sign a copy. The key is read here and nowhere else: it is no input of any step."""
    from cagebuild.nitro.attach import sign_file
    from cagebuild.nitro.sign import load_signer
    from cagebuild.store import Session as StoreSession

    signer = load_signer(certificate=signing.certificate, key=signing.key)
    target.parent.mkdir(parents=True, exist_ok=True)
    with StoreSession(store, [step.id]) as kept, kept.scratch() as scratch:
        copy = scratch / EIF
        store.export(unsigned, copy)
        sign_file(copy, target, signer)


def _result(session: Session, cage: Cage, locked: Lock, step: Step, summary: Summary) -> Result:
    measured: dict[str, Any] = json.loads(
        session.store.read(summary.output(step, "measurements.json"))
    )
    warnings = json.loads(session.store.read(summary.output(step, "warnings.json")))
    pcrs = {name: value for name, value in measured["Measurements"].items() if "PCR" in name}
    session.memory.remember_manifest(pcrs, summary.output(step, MANIFEST))
    return Result(
        cage=cage,
        pcrs=pcrs,
        expected=locked.expected,
        warnings=tuple(warnings),
        eif=None,
    )


def require_expected(results: Iterable[Result]) -> None:
    """Raise MeasurementError, naming the cages, unless every PCR is the one of its lock."""
    wrong = [result.cage.address for result in results if not result.as_locked]
    if wrong:
        raise MeasurementError(
            f"PCRs differ from the lock: {', '.join(wrong)}",
            hint="if the change is meant, renew the lock: invoke lock",
        )


def check(session: Session, cages: Sequence[Cage]) -> None:
    """Check what can be checked without building: locks, and pinned files of the cage's own.

    A cage without a lock is fine: it has yet to be pinned. Raises LockError and SourceError.
    """
    for cage in cages:
        if cage.lock_file.exists():
            _plan(session, cage, require_lock(cage))


def update_installers(session: Session, cages: Sequence[Cage]) -> Session:
    """Write this version's installer digest where cages have another one; the workspace anew.

    A digest that a cage inherits is changed in the workspace's defaults, one of its own in its own
    file, and so is an inherited one of another architecture.
    """
    from cagebuild.config import set_value
    from cagebuild.config.loader import CAGE_FILE
    from cagebuild.recipes.pins import installer

    # Defaults may say runtime = false.
    inherited = (session.workspace.defaults.get("runtime") or {}).get("installer")
    root_file = session.workspace.root / CAGE_FILE
    for cage in cages:
        if cage.runtime is not None and str(cage.runtime.installer) == inherited:
            digest = installer(cage.enclave.architecture).digest
            set_value(root_file, "workspace.defaults.runtime.installer", str(digest))
            session = session.again()
            break
    for cage in session.cages([cage.address for cage in cages]):
        digest = installer(cage.enclave.architecture).digest
        if cage.runtime is not None and cage.runtime.installer != digest:
            set_value(cage.file, "runtime.installer", str(digest))
    return session.again()


def export(
    session: Session, cages: Sequence[Cage], how: How, output: Path, form: ExportFormat
) -> Exported:
    """Write the finished image of one cage to ``output``; raises UsageError for several cages."""
    from cagebuild.exporting import write

    cage = one_cage(cages, "export")
    made = _plan(session, cage, require_lock(cage))
    inputs = made.image_inputs()
    summary = run(session, {cage: [given.step for given in inputs.values()]}, how)
    blobs = {name: summary.output(given.step, given.output) for name, given in inputs.items()}
    return write(session.store, made, blobs, output, form)
