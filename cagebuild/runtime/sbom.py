"""A bill of materials of an installer: CycloneDX 1.6 in JSON, from its manifest alone.

Every origin is a component with version, licence, package URL and sources, and so is every file and
link with its digest; files depend on what they were made from. Nothing in it is of the time or the
machine that made it: the same installer gives the same bytes.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.component import Component

    from cagebuild.digest import Digest
    from cagebuild.runtime.manifest import Item, Manifest
    from cagebuild.runtime.origin import Origin, SourceFile

NAME = "cagebuild-runtime-installer"
PROPERTY = "cagebuild:"
"""Before the names of this project's own properties."""


def sbom(manifest: Manifest, installer: Digest) -> bytes:
    """The bill of materials of the installer with this digest and manifest."""
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    whole = Component(
        type=ComponentType.APPLICATION,
        name=NAME,
        version=installer.hex[:12],
        bom_ref=str(installer),
        hashes=[_hash(installer)],
        properties=[Property(name=f"{PROPERTY}architecture", value=manifest.architecture)],
    )
    origins = {origin.name: _origin(origin) for origin in manifest.origins}
    files = [(item, _file(item, manifest)) for item in manifest.files]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, str(installer)),
        metadata=BomMetaData(component=whole),
        components=[*origins.values(), *(component for _, component in files)],
    )
    bom.register_dependency(whole, [component for _, component in files])
    for item, component in files:
        bom.register_dependency(component, [origins[name] for name in item.origin])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library knows no bill without the time at which it was made.
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _origin(origin: Origin) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

    def reference(source: SourceFile) -> ExternalReference:
        return ExternalReference(
            type=ExternalReferenceType.SOURCE_DISTRIBUTION,
            url=XsUri(source.url or ""),
            comment=source.name,
            hashes=[_hash(source.digest)],
        )

    return Component(
        type=ComponentType.LIBRARY,
        name=origin.name,
        version=origin.version,
        bom_ref=f"origin:{origin.name}",
        licenses=[LicenseExpression(origin.licence)],
        purl=PackageURL.from_string(origin.purl),
        external_references=[reference(source) for source in origin.sources if source.url],
        properties=[
            Property(name=f"{PROPERTY}source:{source.name}", value=str(source.digest))
            for source in origin.sources
            if not source.url
        ],
    )


def _file(item: Item, manifest: Manifest) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseExpression

    properties = [Property(name=f"{PROPERTY}mode", value=f"{item.mode:04o}")]
    if item.kind == "link":
        properties.append(Property(name=f"{PROPERTY}link", value=item.target))
    return Component(
        type=ComponentType.FILE,
        name=item.path,
        bom_ref=f"file:{item.path}",
        licenses=[LicenseExpression(manifest.licence(item))],
        hashes=[_hash(item.digest)] if item.digest else [],
        properties=properties,
    )


def _hash(digest: Digest) -> HashType:
    from cyclonedx.model import HashAlgorithm, HashType

    algorithm = HashAlgorithm(f"SHA-{digest.algorithm.removeprefix('sha')}")
    return HashType(alg=algorithm, content=digest.hex)
