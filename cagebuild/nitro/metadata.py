"""The metadata section: JSON about the build, not measured; here the same for the same inputs.

Source of the keys: aws/aws-nitro-enclaves-image-format: src/defs/mod.rs, EifIdentityInfo.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cagebuild import __version__
from cagebuild.errors import EifError

if TYPE_CHECKING:
    from collections.abc import Mapping

CAGE = "cagebuild"
"""The key of CustomMetadata below which a cage's image file says what its host needs to know."""

_UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the metadata says about an image."""

    name: str
    version: str
    epoch: int
    """BuildTime, seconds since 1970."""
    kernel_version: str = _UNKNOWN
    operating_system: str = "Linux"
    docker_info: Mapping[str, object] = field(default_factory=dict)
    """About the image it was made from; JSON."""
    custom: object = None
    """CustomMetadata: JSON of the user's own, or ``{CAGE: …}`` of a cage."""


def metadata_json(identity: Identity) -> bytes:
    """The section's data. Raises EifError for a time after 9999 or values that are not JSON."""
    try:
        build_time = datetime.fromtimestamp(identity.epoch, UTC).isoformat()
        text = json.dumps(
            {
                "ImageName": identity.name,
                "ImageVersion": identity.version,
                "BuildMetadata": {
                    "BuildTime": build_time,
                    "BuildTool": "cagebuild",
                    "BuildToolVersion": __version__,
                    "OperatingSystem": identity.operating_system,
                    "KernelVersion": identity.kernel_version,
                },
                "DockerInfo": dict(identity.docker_info),
                # Always there: nitro-cli cannot read metadata without the key.
                "CustomMetadata": identity.custom,
            },
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        return text.encode()
    except (ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
        raise EifError(f"the metadata cannot be written as JSON: {error}") from error
