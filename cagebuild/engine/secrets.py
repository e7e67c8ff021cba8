"""Build secrets: where they come from, and that they go nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cagebuild.engine.job import Secret
from cagebuild.errors import ImageError, UsageError
from cagebuild.image.tree import Kind, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cagebuild.image.config import ImageConfig
    from cagebuild.image.tree import Node

_MOST_BYTES: Final = 500 * 1024
"""As BuildKit has it."""
_LEAST_TOLD: Final = 6
"""Shorter text than that is found by chance, so it is neither masked nor looked for."""
_MASK: Final = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The secrets of one build."""

    values: tuple[Secret, ...]
    _told: tuple[tuple[str, bytes], ...]
    """Id and each line of a value that is long enough to be known again; longest first."""

    @classmethod
    def gather(
        cls,
        ids: Sequence[str],
        sources: Mapping[str, Mapping[str, Any]],
        variable: Callable[[str], bytes | None],
    ) -> Secrets:
        """Read each from its variable or file; UsageError for what is not there."""
        values = tuple(
            Secret(id=name, value=_read(name, sources.get(name) or {}, variable)) for name in ids
        )
        told = {
            (secret.id, line.strip())
            for secret in values
            for line in (secret.value, *secret.value.splitlines())
            if len(line.strip()) >= _LEAST_TOLD
        }
        return cls(values=values, _told=tuple(sorted(told, key=lambda t: (-len(t[1]), t))))

    def masked(self, text: str) -> str:
        """Text without any of them, as whole lines."""
        for _, value in self._told:
            text = text.replace(value.decode("utf-8", "replace"), _MASK)
        return text

    def refuse_in(self, root: Node, config: ImageConfig) -> None:
        """Raise ImageError where a file, a name or the config of the image holds one of them."""
        if not self._told:
            return
        for name, value in self._told:
            where = _in_config(config, value.decode("utf-8", "replace"))
            if where:
                raise _leaked(name, f"its {where}", "")
        seen: set[Node] = set()
        for path, node in walk(root):
            if node in seen:
                continue
            seen.add(node)
            texts = node.read() if node.kind is Kind.FILE else [node.target]
            for name in self._found(path + b"\n", texts):
                raise _leaked(name, f"/{path.decode('utf-8', 'backslashreplace')}", node.origin)

    def _found(self, rest: bytes, texts: Iterable[bytes]) -> Iterable[str]:
        """Ids of secrets in the text that the pieces make, also across their ends."""
        longest = max(len(value) for _, value in self._told)
        for piece in texts:
            text = rest + piece
            yield from (name for name, value in self._told if value in text)
            rest = text[-longest + 1 :]
        yield from (name for name, value in self._told if value in rest)


def _read(name: str, source: Mapping[str, Any], variable: Callable[[str], bytes | None]) -> bytes:
    env, file = source.get("env"), source.get("file")
    if env is not None:
        value = variable(env)
        if value is None:
            raise UsageError(
                f"the build secret '{name}' is to come from the variable {env}, which is not set",
                hint=f"export {env}=…, or change build.secrets.{name} in cage.toml",
            )
    else:
        try:
            with Path(str(file)).open("rb") as stream:
                value = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            raise UsageError(
                f"the build secret '{name}' is to come from {file}, which cannot be read:"
                f" {error.strerror}",
                hint=f"put the file there, or change build.secrets.{name} in cage.toml",
            ) from None
    if len(value) > _MOST_BYTES:
        raise UsageError(f"the build secret '{name}' has more than {_MOST_BYTES >> 10} KiB")
    if not value:
        raise UsageError(f"the build secret '{name}' is empty")
    return value


def _in_config(config: ImageConfig, text: str) -> str:
    parts = {
        "environment": config.env,
        "entrypoint": config.entrypoint or (),
        "command": config.cmd or (),
        "labels": [*config.labels, *config.labels.values()],
        "health check": config.healthcheck.test if config.healthcheck else (),
    }
    return next((name for name, words in parts.items() if any(text in w for w in words)), "")


def _leaked(name: str, where: str, origin: str) -> ImageError:
    by = f" ({origin})" if origin else ""
    return ImageError(
        f"the image would hold the build secret '{name}' in {where}{by}",
        hint="use it in the RUN that mounts it and write it nowhere: the image is no place for it",
    )
