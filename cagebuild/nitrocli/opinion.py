"""The command ``invoke verify --with nitro-cli``: its measurements beside ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from cagebuild import explain, pipeline
from cagebuild.errors import CageError, MeasurementError
from cagebuild.explain.text import render
from cagebuild.exporting import write
from cagebuild.nitro.build import BootFiles
from cagebuild.nitro.convert import Conversion, convert
from cagebuild.nitrocli import engine, tool
from cagebuild.nitrocli.run import Answer, Job, asked, new_tag
from cagebuild.nitrocli.stops import Stops
from cagebuild.step import StepInput
from cagebuild.store import Session as StoreSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from docker.client import DockerClient

    from cagebuild.config.model import Cage
    from cagebuild.nitrocli.tool import Tool
    from cagebuild.pipeline import How
    from cagebuild.plan import Plan
    from cagebuild.results import Result
    from cagebuild.session import Session
    from cagebuild.store import Blob

COMPARED: Final = ("PCR0", "PCR1", "PCR2")
"""PCR8 is a hash of the signing certificate and of nothing else; nitro-cli computes it only while
it signs, for which it would have to be given the private key."""
_FEW = 5
"""Files to name for each origin when something differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What nitro-cli makes of one cage, beside what is made of it here."""

    cage: Cage
    tool: str
    """The image that nitro-cli was in."""
    got: Mapping[str, str]
    """nitro-cli's PCRs."""
    expected: Mapping[str, str]
    """This program's, of the same."""
    placeholder: bool
    """The cage has no driver module, nitro-cli always has one: both were given an empty file."""
    reasons: tuple[str, ...]
    """Lines that say what differs, down to the file."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Names of the PCRs that are not the same."""
        return tuple(name for name in COMPARED if self.got[name] != self.expected[name])

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        yield self.cage.address
        for name in COMPARED:
            if name not in self.differing:
                yield f"  {name}  {self.got[name]}"
                continue
            yield f"  {name}  differs"
            yield f"    got      {self.got[name]}"
            yield f"    expected {self.expected[name]}"
        word = "not as" if self.differing else "as"
        yield f"  {word} nitro-cli of {self.tool} has it"
        if self.placeholder:
            yield "  PCR0 and PCR1 are those with an empty nsm.ko, which this cage does without"
        for line in self.reasons:
            yield f"    {line}".rstrip()


def opinions(
    session: Session,
    cages: Sequence[Cage],
    how: How,
    *,
    image: str = "",
    show: Callable[[Opinion], None],
) -> tuple[Opinion, ...]:
    """Ask nitro-cli about each cage, and ``show`` each answer as it comes.

    ``image`` names the one that nitro-cli is in; empty: the one that is built from the Dockerfile
    here. It is found before anything else is done. Raises CageError.
    """
    if image:
        tool.check_reference(image)
    found = []
    with Stops() as stops, engine.connected() as client:
        program = tool.find(client, image, lambda line: how.reporter.note(f"Docker: {line}"))
        results = pipeline.measure(session, cages, how)
        for plan, result in zip(pipeline.plans(session, cages), results, strict=True):
            case = _Case(session=session, plan=plan, result=result, how=how)
            opinion = case.opinion(client, program, stops)
            show(opinion)
            found.append(opinion)
    return tuple(found)


def require_agreement(found: Sequence[Opinion]) -> None:
    """Raise MeasurementError unless nitro-cli came to the same for every cage."""
    wrong = [
        f"{opinion.cage.address} {', '.join(opinion.differing)}"
        for opinion in found
        if opinion.differing
    ]
    if wrong:
        raise MeasurementError(
            f"nitro-cli comes to other PCRs: {'; '.join(wrong)}",
            hint="one of the two programs is wrong; use neither's image before it's known which",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One cage that was measured."""

    session: Session
    plan: Plan
    result: Result
    how: How

    def opinion(self, client: DockerClient, program: Tool, stops: Stops) -> Opinion:
        """Give nitro-cli the cage's image and boot files."""
        inputs = {**self.plan.image_inputs(), **self.plan.boot_inputs()}
        made = {name: given for name, given in inputs.items() if isinstance(given, StepInput)}
        steps = [given.step for given in made.values()]
        summary = pipeline.run(self.session, {self.plan.cage: steps}, self.how)
        blobs = {name: summary.output(given.step, given.output) for name, given in made.items()}
        kept = StoreSession(self.session.store, {step.id for step in steps})
        with kept, kept.scratch() as folder:
            job = self._job(blobs, folder)
            with asked(
                client,
                program,
                job,
                tell=lambda line: self.how.reporter.note(f"nitro-cli: {line}"),
                stops=stops,
            ) as answer:
                return self._compared(job, answer, program, folder)

    def _job(self, blobs: Mapping[str, Blob], folder: Path) -> Job:
        """The finished image as an archive in ``folder``, and the boot files."""
        store, tag, archive = self.session.store, new_tag(), folder / "image.tar"
        layers = {name: blobs[name] for name in self.plan.image_inputs()}
        write(store, self.plan, layers, archive, "docker-archive", name=tag, volumes=False)
        files: dict[str, Path] = {}
        for name, given in self.plan.boot_inputs().items():
            if isinstance(given, StepInput):
                files[name] = folder / name
                store.checkout(blobs[name], files[name])
            else:
                files[name] = given.path
        if self._placeholder:
            files["nsm"] = folder / "nsm"
            files["nsm"].touch()
        cmdline = files.get("cmdline")
        params = self.plan.measure.params
        boot = BootFiles(
            kernel=files["kernel"],
            cmdline=cmdline.read_bytes() if cmdline else str(params["cmdline"]).encode(),
            init=files["init"],
            nsm=files["nsm"],
        )
        return Job(archive=archive, tag=tag, boot=boot)

    @property
    def _placeholder(self) -> bool:
        return "nsm" not in self.plan.boot_inputs()

    def _compared(self, job: Job, answer: Answer, program: Tool, folder: Path) -> Opinion:
        expected = dict(self.result.pcrs)
        if self._placeholder:
            ours = convert(self._conversion(job), output=None, scratch=folder).measured.measurements
            expected |= {"PCR0": ours.pcr0, "PCR1": ours.pcr1}
        got = answer.measurements.pcrs()
        opinion = Opinion(
            cage=self.plan.cage,
            tool=program.name,
            got=got,
            expected=expected,
            placeholder=self._placeholder,
            reasons=(),
        )
        if not opinion.differing:
            return opinion
        return replace(opinion, reasons=tuple(self._reasons(job, answer, folder)))

    def _reasons(self, job: Job, answer: Answer, folder: Path) -> list[str]:
        """What differs between nitro-cli's image file and the same made here."""
        manifest, file = folder / "manifest.json", folder / "image.eif"
        try:
            answer.save(file)
            convert(self._conversion(job), output=None, manifest_file=manifest, scratch=folder)
            ours = replace(explain.load(manifest), name="cagebuild")
            theirs = replace(explain.load(file), name="nitro-cli")
            return render(explain.explain(ours, theirs, limit=_FEW)).splitlines()
        except CageError as error:
            return [f"what differs cannot be told: {error.message}"]

    def _conversion(self, job: Job) -> Conversion:
        return Conversion(
            image=job.archive,
            architecture=self.plan.cage.enclave.architecture,
            boot=job.boot,
            epoch=cast("int", self.plan.measure.params["epoch"]),
        )
