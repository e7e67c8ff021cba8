"""What the steps ``measure`` and ``eif`` share: the finished image and boot files to an enclave.

Inputs: the layers (see ``cagebuild.steps.finished``), ``config.json`` of the finished image,
``kernel``, ``init``, ``nsm`` and ``cmdline`` where they are files, and ``certificate`` of a cage
that is signed. Parameters: ``epoch``, ``architecture``, ``origins``, ``name``, ``metadata`` (what
the host is told of the cage), and ``cmdline`` where it is no file. Outputs:
``measurements.json``, ``manifest.json``, ``warnings.json``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from cagebuild.errors import ImageError
from cagebuild.nitro.build import BootFiles, Job, build, expected_size
from cagebuild.nitro.container import create_container
from cagebuild.nitro.metadata import CAGE, Identity
from cagebuild.nitro.sign import load_certificate
from cagebuild.step import canonical
from cagebuild.steps import finished

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.config.model import Architecture
    from cagebuild.step import StepContext


def run(context: StepContext, output: Path | None) -> None:
    """Write the image file to ``output``, or only measure; raises CageError."""
    job = _job(context)
    total = expected_size(job)
    certificate = context.inputs.get("certificate")
    built = build(
        job,
        output=output,
        manifest_file=context.output("manifest.json"),
        certificate=load_certificate(certificate) if certificate else None,
        progress=lambda done: context.progress(done, total),
    )
    _write(context.output("measurements.json"), built.measured.to_json())
    _write(context.output("warnings.json"), list(built.warnings))


def _write(file: Path, document: object) -> None:
    file.write_text(json.dumps(document, indent=2) + "\n")


def _job(context: StepContext) -> Job:
    inputs = context.inputs
    epoch = cast("int", context.params["epoch"])
    origins = cast("list[str]", context.params["origins"])
    config: dict[str, Any] = json.loads(inputs["config.json"].read_bytes())["config"]
    root = finished.tree(inputs, origins, epoch)
    create_container(root, workdir=config.get("WorkingDir", ""), epoch=epoch)
    command = config.get("Cmd") if config.get("Cmd") is not None else config.get("Entrypoint")
    if not command:
        raise ImageError("the finished image has no program to run")
    return Job(
        root=root,
        cmd=tuple(command),
        env=tuple(config.get("Env") or ()),
        boot=BootFiles(
            kernel=inputs["kernel"],
            cmdline=_cmdline(context),
            init=inputs["init"],
            nsm=inputs.get("nsm"),
        ),
        architecture=cast("Architecture", context.params["architecture"]),
        identity=Identity(
            name=str(context.params["name"]),
            version="1",
            epoch=epoch,
            # In one order, wherever the step runs.
            custom={CAGE: json.loads(canonical(context.params["metadata"]))},
        ),
    )


def _cmdline(context: StepContext) -> bytes:
    file = context.inputs.get("cmdline")
    return file.read_bytes() if file else str(context.params["cmdline"]).encode()
