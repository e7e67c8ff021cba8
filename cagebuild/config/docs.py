"""The reference of cage.toml, made from the schema: ``python -m cagebuild.config.docs``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cagebuild.config import steering
from cagebuild.config.keys import document, resolved
from cagebuild.config.ports import RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# cage.toml

<!-- Made from schemas/cage.schema.json by `python -m cagebuild.config.docs`. Change it there. -->

A folder with a `cage.toml` is a cage. A folder that holds several has files called `x.cage.toml`.
Only `base` is required, and what is said to be so below. Unknown keys are mistakes. `invoke check`
reports all mistakes at once, each with its place.

```toml
#:schema https://cagebuild.dev/schemas/cage.schema.json

[base]
debian = { suite = "bookworm", packages = ["python3", "ca-certificates"] }

[app]
command = ["python3", "/srv/app/server.py"]
user = "65534:65534"
env = { PORT = "8080" }

[[app.files]]
source = "app"
destination = "/srv/app"

[[ingress]]
port = 8080
health = "/healthz"

[egress]
allow = ["api.example.com:443"]

[runtime]
installer = "sha256:…"
```

**Paths** are relative to the cage's folder and have no `..`. `//keys/cert.pem` is relative to the
workspace's root. What `app.files` adds must lie in the cage's folder, all else in the workspace; no
symlink leads out of there. The signing key and build secrets may lie anywhere.

**Text that gets into the image's command or environment** has no line breaks and no NUL: the
enclave's init reads arguments and variables one a line. Put such text into a file.

**The workspace's root** is the nearest folder upwards whose `cage.toml` has a `[workspace]` table,
else git's top folder. Nothing outside the git checkout is looked at.

**Egress** is denied but for what is listed. A rule is `host:port`, with one port. Names are
compared without regard to case or a trailing dot. `*.example.com` is every name below `example.com`
and nothing else; `*` alone and a wildcard right below a top-level domain are refused. `[]` allows
nothing.

**The checksum** that `cage.lock` keeps covers every setting that can change a result, inherited
ones too, in a form that is the same in every checkout. It leaves out `signing.key`, `runtime.url`,
and of `[workspace]` all but what is inherited.
"""


def render() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_HEAD, *_ports(), *_secrets(), *_tables("", document(), 2)]).rstrip() + "\n"


def _ports() -> Iterator[str]:
    yield "**Ports** that `ingress` cannot have, because they are taken inside the enclave:"
    yield ""
    for user in dict.fromkeys(RESERVED.values()):
        ports = [port for port, name in sorted(RESERVED.items()) if name == user]
        yield f"- {' to '.join(str(port) for port in dict.fromkeys((ports[0], ports[-1])))}: {user}"
    yield "- those of egress rules: the runtime listens there, on loopback addresses of its own"
    yield ""


def _secrets() -> Iterator[str]:
    prefixes = " and ".join(f"`{prefix}…`" for prefix in steering.PREFIXES)
    yield "**Secrets** cannot have the names of variables that decide what code an app loads, for"
    yield f"what runs is measured and a secret is not: {prefixes},"
    yield f"{', '.join(f'`{name}`' for name in steering.NAMES)}."
    yield ""


def _tables(name: str, node: dict[str, Any], level: int) -> Iterator[str]:
    """A table's keys, then the tables among them."""
    inner: list[tuple[str, dict[str, Any]]] = []
    rows: list[str] = []
    for key, raw in node["properties"].items():
        value = resolved(raw)
        items = resolved(value.get("items", {}))
        path = f"{name}.{key}" if name else key
        if "properties" in items:
            inner.append((f"[[{path}]]", {**items, "description": value["description"]}))
        elif "properties" in value:
            inner.append((path, value))
        if name and not (value.get("type") == "object" and "properties" in value):
            rows.append(_row(key, value, key in node.get("required", ())))
    if rows:
        yield from ("| key | value | left out | |", "| --- | --- | --- | --- |", *rows, "")
    for title, value in inner:
        path = title.strip("[]")
        yield f"{'#' * level} `{title if title.startswith('[[') else f'[{title}]'}`"
        yield ""
        yield value["description"]
        yield ""
        if path == "workspace.defaults":
            yield from _inherited(value)
            continue
        yield from _tables(path, value, min(level + 1, 5))


def _inherited(node: dict[str, Any]) -> Iterator[str]:
    """The sections that can be inherited: they have the keys of the cage's own."""
    yield "| table | keys as in |"
    yield "| --- | --- |"
    for key in node["properties"]:
        section = "base.debian" if key == "base" else key
        yield f"| `[workspace.defaults.{section}]` | `[{section}]` |"
    yield ""


def _row(key: str, node: dict[str, Any], required: bool) -> str:
    text = node["description"]
    if "examples" in node:
        text += " Such as " + ", ".join(f"`{_toml(example)}`" for example in node["examples"]) + "."
    absent = f"`{_toml(node['default'])}`" if "default" in node else ""
    cells = (f"`{key}`", node["title"], "required" if required else absent, text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _toml(value: object) -> str:
    """A JSON value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
        case _:
            return f'"{value}"'


if __name__ == "__main__":
    sys.stdout.write(render())
