"""The instructions that only change an image's config.

Source of the rules: BuildKit's dockerfile2llb/convert.go and instructions/parse.go.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile.flags import duration
from cagebuild.embedded.refused import Refused
from cagebuild.image.config import Healthcheck

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cagebuild.dockerfile.model import Instruction
    from cagebuild.embedded.state import State

_NUMBER: Final = re.compile(r"[+-]?[0-9]+")
_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_SIGNALS: Final = re.compile(
    "ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|STKFLT"
    "|STOP|SYS|TERM|TRAP|TSTP|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ"
    r"|RTMIN(\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?"
)


def env(state: State, instruction: Instruction) -> None:
    """ENV: all its values see the variables from before it."""
    word = state.scope.word
    pairs = [(word(name), word(value or "")) for name, value in instruction.pairs]
    for name, value in pairs:
        state.scope.variables[name] = value
        state.set_env(name, value)


def label(state: State, instruction: Instruction) -> None:
    """LABEL."""
    word = state.scope.word
    state.labels.update({word(name): word(value or "") for name, value in instruction.pairs})


def expose(state: State, instruction: Instruction) -> None:
    """EXPOSE: ports and ranges of them."""
    for text in instruction.words:
        for port in state.scope.words(text):
            state.ports.update(_ports(port))


def user(state: State, instruction: Instruction) -> None:
    """USER, as it is written: it becomes numbers when the image is read."""
    state.user = state.scope.word(instruction.words[0])


def volume(state: State, instruction: Instruction) -> None:
    """VOLUME."""
    for text in instruction.words:
        path = state.scope.word(text.strip())
        if not path:
            raise Refused("a volume has no path")
        state.volumes.add(path)


def stop_signal(state: State, instruction: Instruction) -> None:
    """STOPSIGNAL, by number or name."""
    text = state.scope.word(instruction.words[0])
    known = _SIGNALS.fullmatch(text.upper().removeprefix("SIG"))
    if not known and not (_NUMBER.fullmatch(text) and int(text)):
        raise Refused(f"{text!r} is not a signal")
    state.stop_signal = text


def shell(state: State, instruction: Instruction) -> None:
    """SHELL."""
    state.shell = instruction.exec_form or state.shell


def cmd(state: State, instruction: Instruction) -> None:
    """CMD."""
    state.cmd = _command(state, instruction)
    state.cmd_is_own = True


def entrypoint(state: State, instruction: Instruction) -> None:
    """ENTRYPOINT, which takes away a CMD that was inherited."""
    state.entrypoint = _command(state, instruction)
    if not state.cmd_is_own:
        state.cmd = None


def healthcheck(state: State, instruction: Instruction) -> None:
    """HEALTHCHECK. Nothing reads its start interval."""
    command = instruction.inner
    if command is None:
        state.healthcheck = Healthcheck(test=("NONE",))
        return
    if command.exec_form is not None:
        test = ("CMD", *command.exec_form)
    else:
        test = ("CMD-SHELL", command.text)
    state.healthcheck = Healthcheck(
        test=test,
        interval=_interval(instruction, "interval"),
        timeout=_interval(instruction, "timeout"),
        start_period=_interval(instruction, "start-period"),
        retries=int(instruction.flag("retries") or "0"),
    )


SETTINGS: Final[Mapping[str, Callable[[State, Instruction], None]]] = {
    "ENV": env,
    "LABEL": label,
    "EXPOSE": expose,
    "USER": user,
    "VOLUME": volume,
    "STOPSIGNAL": stop_signal,
    "SHELL": shell,
    "CMD": cmd,
    "ENTRYPOINT": entrypoint,
    "HEALTHCHECK": healthcheck,
    # Only history and an author that nobody asks for.
    "MAINTAINER": lambda _state, _instruction: None,
}
"""What does each of them; they raise Refused."""


def _command(state: State, instruction: Instruction) -> tuple[str, ...]:
    if instruction.exec_form is not None:
        return instruction.exec_form
    return (*state.shell, instruction.text)


def _ports(text: str) -> list[str]:
    """``[ip:][host:]container[/protocol]``; only the container's ports count."""
    published, _, rest = text.rpartition(":")
    address, _, host = published.rpartition(":")
    numbers, _, protocol = rest.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise Refused(f"{text!r} has the protocol {protocol!r}", hint="tcp, udp and sctp are known")
    ports = _range(numbers, text)
    if host:
        outside = _range(host, text)
        if len(ports) not in (1, len(outside)):
            raise Refused(f"{text!r} has ranges of different lengths")
    if address:
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise Refused(f"{address!r} is not an IP address") from None
    return [f"{number}/{protocol}" for number in ports]


def _range(text: str, whole: str) -> range:
    first, dash, last = text.partition("-")
    start = _port(first, whole)
    end = _port(last, whole) if dash else start
    if end < start:
        raise Refused(f"{whole!r} is a range that ends before it starts")
    return range(start, end + 1)


def _port(text: str, whole: str) -> int:
    if not _NUMBER.fullmatch(text) or not 0 <= int(text) <= 0xFFFF:
        raise Refused(f"{whole!r} is not a port", hint="write 80, 80/udp or 8000-8010")
    return int(text)


def _interval(instruction: Instruction, name: str) -> int:
    """A duration in nanoseconds, 0 where it is not given."""
    return duration(instruction.flag(name) or "0")
