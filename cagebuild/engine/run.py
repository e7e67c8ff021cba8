"""The step ``engine``: a Dockerfile's target, built by an engine, as one layer.

What an engine is given and what is kept of its result is the same for all of them, so that PCRs do
not depend on which one it was.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, cast

from cagebuild.dockerfile.parse import parse
from cagebuild.engine import leftovers
from cagebuild.engine.job import EngineJob, FailedInstructionError
from cagebuild.engine.origins import layers_made, mount_targets
from cagebuild.engine.secrets import Secrets
from cagebuild.errors import Diagnostic, DockerfileError, ToolFailedError
from cagebuild.image import ondisk
from cagebuild.image.layers import Layer, flatten, set_times
from cagebuild.image.layout import open_image
from cagebuild.image.onelayer import write_parts
from cagebuild.image.tree import Region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cagebuild.config.model import Architecture
    from cagebuild.engine.job import Engine
    from cagebuild.image.config import ImageConfig
    from cagebuild.image.tree import Node

CONTEXT: Final = "context.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One step of this kind, and where its files are."""

    params: Mapping[str, Any]
    """``dockerfile``, its text with every image by digest; ``name``, what the file is called;
    ``target``; ``args``; ``architecture``; ``epoch``; ``network``; ``secrets``, their ids;
    ``base_layers``, origins of the layers below the target's own."""
    hints: Mapping[str, Any]
    """``dockerfile``, where the user has it; ``secrets``, id → ``env`` or ``file``; ``cache_from``;
    ``cache_to``."""
    context: Path
    output: Callable[[str], Path]
    scratch: Path
    """Empty; the caller removes it."""


def build(
    engine: Engine,
    order: Order,
    *,
    say: Callable[[str], None],
    variable: Callable[[str], bytes | None],
    use_cache: bool,
) -> None:
    """Build; write ``layer.tar``, ``config.json`` and ``origins.json``.

    ``say`` takes lines, and an empty one at least twice a second; it may raise to end the build.
    ``variable`` reads one of the environment. Raises ToolFailedError, UsageError for a secret that
    is not there, ImageError, and what ``say`` raises.
    """
    params = order.params
    secrets = Secrets.gather(params["secrets"], order.hints.get("secrets") or {}, variable)
    job = _job(order, secrets, say, use_cache=use_cache)
    say(f"by {engine.describe()}")
    try:
        archive = engine.build(job)
    except FailedInstructionError as failed:
        raise _explained(failed, engine, order, secrets) from None
    except DockerfileError as mistakes:
        # The engine has read what was staged; the user's own file has the same lines.
        file = _users_file(order)
        shown = (replace(each, file=file) for each in mistakes.diagnostics)
        raise DockerfileError(tuple(shown)) from None
    except ToolFailedError as failed:
        raise ToolFailedError(secrets.masked(failed.message), hint=failed.hint) from None
    root, config = _read(archive, order, job.architecture)
    secrets.refuse_in(root, config)
    write_parts(root, config, epoch=params["epoch"], output=order.output)


def _job(
    order: Order, secrets: Secrets, say: Callable[[str], None], *, use_cache: bool
) -> EngineJob:
    """Everything that the engine gets, in folders of its own."""
    params, hints = order.params, order.hints
    epoch: int = params["epoch"]
    # BuildKit takes a file of another build for the same if folder, name, size and time are, and
    # times are always the epoch: so no two builds have a folder of one name.
    context = order.scratch / f"context-{token_hex(16)}"
    dockerfile, work = order.scratch / "Dockerfile", order.scratch / "work"
    _write_context(order.context, context, epoch, say)
    dockerfile.write_bytes(_text(order))
    os.utime(dockerfile, (epoch, epoch))
    work.mkdir(mode=0o700)
    return EngineJob(
        context=context,
        dockerfile=dockerfile,
        target=params["target"],
        args=params["args"],
        architecture=cast("Architecture", params["architecture"]),
        epoch=epoch,
        network=params["network"],
        secrets=secrets.values,
        cache_from=tuple(hints.get("cache_from") or ()),
        cache_to=tuple(hints.get("cache_to") or ()),
        use_cache=use_cache,
        scratch=work,
        say=lambda line: say(secrets.masked(line)),
    )


def _read(archive: Path, order: Order, architecture: Architecture) -> tuple[Node, ImageConfig]:
    """The tree and the config of what an engine has made, without what is its own."""
    unpacked = order.scratch / "unpacked"
    unpacked.mkdir()
    image = open_image(archive, architecture=architecture, scratch=unpacked)
    dockerfile = parse(_text(order), Path(order.params["name"]))
    made = layers_made(dockerfile, image.config, order.params)
    seen = leftovers.Seen(mount_targets(dockerfile))
    layers = (
        Layer(
            region=blob.open(unpacked),
            name=blob.name,
            origin=each.origin if each.by_run else seen.watching(each.origin),
        )
        for blob, each in zip(image.layers, made, strict=True)
    )
    root = flatten(layers, keep_unchanged=True)
    leftovers.remove(root, seen)
    return root, _plain(image.config)


def _text(order: Order) -> bytes:
    text: str = order.params["dockerfile"]
    return text.encode("utf-8", "surrogateescape")


def _users_file(order: Order) -> Path:
    return Path(order.hints.get("dockerfile") or order.params["name"])


def _write_context(file: Path, folder: Path, epoch: int, say: Callable[[str], None]) -> None:
    layer = Layer(region=Region.of_file(file), name="the context", origin="")
    root = flatten([layer])
    set_times(root, epoch)
    ondisk.write(root, folder, lambda: say(""))


def _plain(config: ImageConfig) -> ImageConfig:
    """What the image says of itself, without what engines say of themselves."""
    labels = {name: text for name, text in config.labels.items() if name != leftovers.LABEL}
    return replace(config, labels=labels, workdir=config.workdir or "/")


def _explained(
    failed: FailedInstructionError, engine: Engine, order: Order, secrets: Secrets
) -> ToolFailedError:
    """The error with the Dockerfile's line, and what was said last."""
    lines = _text(order).decode("utf-8", "replace").splitlines()
    line = failed.line if failed.line and failed.line <= len(lines) else 0
    place = Diagnostic(
        file=_users_file(order),
        line=line,
        column=1,
        width=len(lines[line - 1]) if line else 1,
        message=f"failed in {engine.describe()}: {secrets.masked(failed.instruction)}",
        source_line=lines[line - 1] if line else "",
    )
    said = [f"    {secrets.masked(each)}" for each in failed.said]
    return ToolFailedError(
        "\n".join([place.render(), *(["  last output:", *said] if said else [])])
    )
