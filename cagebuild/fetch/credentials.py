"""Credentials for registries, from where Docker keeps them: its config file and its helpers.

Reading ``auths``, ``credHelpers`` and ``credsStore`` and talking to the helpers is the docker
library's part; choosing what to say when that fails is this module's. A secret is in no message and
no repr.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cagebuild.fetch.failure import Failure, printable

if TYPE_CHECKING:
    from docker.auth import AuthConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What to show a registry. ``identity``: the secret is an OAuth2 refresh token."""

    user: str
    secret: str = field(repr=False)
    identity: bool = False


def credentials_for(registry: str) -> tuple[Credentials | None, str]:
    """What Docker's config has for ``registry`` (``host``, ``host:port``), and the source in words.

    Raises Failure when there is a config that cannot be read, or a helper that cannot be run.
    """
    from docker.utils.config import find_config_file

    path = find_config_file()
    if not isinstance(path, str):
        return None, "no credentials: there is no Docker config file"
    config = _read_config(Path(path))
    if config is None:
        return None, f"no credentials: none in {path}"
    helper = config.get_credential_store(registry)
    program = f"docker-credential-{printable(helper)}" if helper else ""
    found = _ask(config, registry, program, path) if helper else config.resolve_authconfig(registry)
    credentials = _from(found or {})
    # The library's answer has its keys in upper case when a helper gave it.
    by_helper = helper and not {"Username", "Password", "IdentityToken"}.isdisjoint(found or {})
    if credentials is None:
        asked = f" and {program} has none" if program else ""
        return None, f"no credentials: none in {path}{asked}"
    return credentials, f"credentials from {program}, which {path} names" if by_helper else (
        f"credentials from {path}"
    )


def _read_config(path: Path) -> AuthConfig | None:
    """The parts of the config that are about credentials, or None where there are none."""
    from docker.auth import AuthConfig
    from docker.errors import DockerException

    unreadable = Failure(
        f"the Docker config {path} cannot be read",
        kind="denied",
        hint=f"correct {path}; 'docker login' writes a good one",
    )
    kinds = {"auths": dict, "credHelpers": dict, "credsStore": str}
    try:
        # The library takes a file that is not JSON for an old format, and then for an empty one.
        document = json.loads(path.read_bytes())
        known = {key: document[key] for key in kinds if document.get(key)}
        if any(not isinstance(value, kinds[key]) for key, value in known.items()):
            raise unreadable
        return AuthConfig.load_config(None, known) if known else None
    except (OSError, ValueError, RecursionError, DockerException, TypeError, AttributeError):
        raise unreadable from None


def _ask(config: AuthConfig, registry: str, program: str, path: str) -> dict[str, Any] | None:
    """What the helper has, or else the config's own entry."""
    from docker.errors import DockerException

    if shutil.which(program) is None:
        raise Failure(
            f"the credential helper {program} is not on PATH",
            kind="denied",
            hint=f"install {program}, or take it out of {path}",
        )
    try:
        found: dict[str, Any] | None = config.resolve_authconfig(registry)
    except (DockerException, ValueError, KeyError, TypeError, AttributeError):
        # Without the helper's own words: nothing keeps a secret out of them.
        raise Failure(
            f"the credential helper {program} gave no credentials",
            kind="denied",
            hint=f"see what 'echo {registry} | {program} get' says",
        ) from None
    return found


def _from(found: dict[str, Any]) -> Credentials | None:
    given = {key.lower(): value for key, value in found.items()}
    token, user, secret = (given.get(key) for key in ("identitytoken", "username", "password"))
    if isinstance(token, str) and token:
        return Credentials(user="", secret=token, identity=True)
    if isinstance(user, str) and isinstance(secret, str) and user:
        return Credentials(user=user, secret=secret)
    return None
