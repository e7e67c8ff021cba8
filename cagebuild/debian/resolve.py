"""The closure of named packages: everything that they need, and nothing else.

The rules, in the order in which they apply:

1. A name has one candidate, its highest version or the one that ``name=version`` asks for.
2. A dependency that one package alone can meet is taken, until there is none left.
3. Then come the open dependencies, by package name and position. One that a chosen package meets is
   met. Of any other the first alternative is taken that can be installed and conflicts with nothing
   that is chosen; then rule 2 again. Of several packages that provide a name the one with the
   highest priority comes first (``required`` before ``optional``), then the first by name.
4. Chosen packages that conflict are an error: nothing is left out or exchanged to avoid it.

Recommends are not followed, Essential packages are not added. The result does not depend on the
order in which packages were named.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cagebuild.debian.relations import RelationSyntaxError, check_name, check_version
from cagebuild.errors import ResolveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cagebuild.debian.index import Package, Universe
    from cagebuild.debian.relations import Clause


def resolve(universe: Universe, asked: Iterable[str]) -> tuple[Package, ...]:
    """The closure of ``name``, ``name:architecture`` or ``name=version``, sorted by name.

    Raises ResolveError: for a name that is not there, with names like it; for a package that cannot
    be installed, with the dependencies that lead there; for packages that conflict.
    """
    roots: dict[str, set[str]] = {}
    for text in sorted(set(asked)):
        name, version = _parse(universe, text)
        roots.setdefault(name, set()).update({version} - {""})
    for name, versions in roots.items():
        _select(universe, name, sorted(versions))
    return _Closure(universe, list(roots)).packages()


def _parse(universe: Universe, text: str) -> tuple[str, str]:
    rest, equals, version = text.partition("=")
    name, _, architecture = rest.partition(":")
    try:
        check_name(name)
        if equals:
            check_version(version)
    except RelationSyntaxError as error:
        raise ResolveError(str(error), hint="write name, or name=version") from None
    if architecture not in ("", universe.architecture):
        raise ResolveError(
            f"{text[:80]}: a base has packages of one architecture, {universe.architecture}"
        )
    return name, version


def _select(universe: Universe, name: str, versions: list[str]) -> None:
    found = universe.versions(name)
    if not found:
        raise _missing(universe, name)
    if len(versions) > 1:
        raise ResolveError(f"two versions of {name} are asked for: {' and '.join(versions)}")
    for version in versions:
        chosen = next((package for package in found if package.version == version), None)
        if chosen is None:
            raise ResolveError(
                f"{name} has no version {version} in {_suites(universe)}",
                hint=f"it has {', '.join(p.version for p in found)}; older ones need a snapshot "
                "time",
            )
        universe.select(chosen)


def _missing(universe: Universe, name: str) -> ResolveError:
    providers = [package.name for package, _ in universe.providers(name)]
    if providers:
        return ResolveError(
            f"{name} is not a package but a name that packages provide",
            hint=f"name one of them: {', '.join(dict.fromkeys(providers))}",
        )
    alike = [
        other
        for other in universe.names()
        if other[:1] == name[:1] and abs(len(other) - len(name)) <= 4
    ]
    near = difflib.get_close_matches(name, alike, n=3, cutoff=0.7)
    return ResolveError(
        f"there is no package {name} for {universe.architecture} in {_suites(universe)}",
        hint=f"did you mean {' or '.join(near)}?" if near else "",
    )


def _suites(universe: Universe) -> str:
    return ", ".join(dict.fromkeys(universe.suites))


class _Closure:
    """One resolution: what could be installed, what is chosen, and why."""

    def __init__(self, universe: Universe, roots: list[str]) -> None:
        self.universe = universe
        self.roots = roots
        self.reachable: dict[str, Package] = {}
        self.options: dict[str, list[list[str]]] = {}
        """For each reachable package and each of its clauses, the names that would meet it."""
        self.dead: dict[str, int] = {}
        """Packages that cannot be installed, with the number of the clause that says so."""
        self.chosen: dict[str, str] = {}
        """Chosen packages, each with the one that needs it; "" when it was asked for."""
        self.open: set[tuple[str, int]] = set()

    def packages(self) -> tuple[Package, ...]:
        """Resolve; raise ResolveError when there is no answer."""
        self._explore()
        self._bury()
        for root in self.roots:
            if root in self.dead:
                raise self._uninstallable(root)
        for root in self.roots:
            self._take(root, "")
        while (task := self._next_open()) is not None:
            name, number = task
            alive = self._alive(name, number)
            self._take(next((each for each in alive if not self._clashes(each)), alive[0]), name)
        self._refuse_conflicts()
        return tuple(self.reachable[name] for name in sorted(self.chosen))

    def _explore(self) -> None:
        """Find every package that any alternative could lead to."""
        pending = list(self.roots)
        while pending:
            name = pending.pop()
            if name in self.reachable:
                continue
            package = self.universe.candidate(name)
            if package is None:
                raise AssertionError(name)
            self.reachable[name] = package
            self.options[name] = [self._meeting(clause) for clause in package.depends]
            pending.extend(other for options in self.options[name] for other in options)

    def _meeting(self, clause: Clause) -> list[str]:
        """Names of the candidates that meet a clause, best first."""
        return list(
            dict.fromkeys(
                package.name
                for relation in clause
                for package in self.universe.satisfying(relation)
            )
        )

    def _bury(self) -> None:
        """Mark what cannot be installed, and what needs it, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for name in sorted(self.options.keys() - self.dead.keys()):
                for number, options in enumerate(self.options[name]):
                    if all(option in self.dead for option in options):
                        self.dead[name] = number
                        changed = True
                        break

    def _alive(self, name: str, number: int) -> list[str]:
        return [option for option in self.options[name][number] if option not in self.dead]

    def _take(self, name: str, needed_by: str) -> None:
        """Choose a package and all that follows from it without a choice."""
        pending = [(name, needed_by)]
        while pending:
            name, needed_by = pending.pop()
            if name in self.chosen:
                continue
            self.chosen[name] = needed_by
            for number in range(len(self.options[name])):
                alive = self._alive(name, number)
                if len(alive) == 1:
                    pending.append((alive[0], name))
                else:
                    self.open.add((name, number))

    def _next_open(self) -> tuple[str, int] | None:
        """The first dependency that nothing chosen meets; forget those that are met."""
        for name, number in sorted(self.open):
            if not any(option in self.chosen for option in self.options[name][number]):
                return name, number
            self.open.remove((name, number))
        return None

    def _clashes(self, name: str) -> bool:
        return any(self._conflict(name, other) for other in self.chosen)

    def _conflict(self, name: str, other: str) -> bool:
        """Whether one of two packages refuses the other; a package never refuses itself."""
        one, two = self.reachable[name], self.reachable[other]
        return name != other and any(
            self.universe.is_met_by(relation, refused)
            for refusing, refused in ((one, two), (two, one))
            for relation in refusing.refuses
        )

    def _refuse_conflicts(self) -> None:
        standing: dict[str, set[str]] = {}
        for name in self.chosen:
            for provided in (name, *(p.name for p in self.reachable[name].provides)):
                standing.setdefault(provided, set()).add(name)
        for name in sorted(self.chosen):
            for relation in self.reachable[name].refuses:
                for other in sorted(standing.get(relation.name, set()) - {name}):
                    if self.universe.is_met_by(relation, self.reachable[other]):
                        raise ResolveError(
                            f"{self.reachable[name]} conflicts with {self.reachable[other]}: it "
                            f"refuses {relation}\n  {self._reason(name)}\n  {self._reason(other)}",
                            hint="name packages that can be installed together",
                        )

    def _reason(self, name: str) -> str:
        """``a, needed by b, needed by c, which was asked for``."""
        chain = [name]
        while self.chosen[chain[-1]]:
            chain.append(self.chosen[chain[-1]])
        return ", needed by ".join(chain) + ", which was asked for"

    def _uninstallable(self, root: str) -> ResolveError:
        """Follow the clauses that cannot be met. What a package died of was dead before it."""
        lines = [f"{self.reachable[root]} cannot be installed from {_suites(self.universe)}"]
        name = root
        while True:
            number = self.dead[name]
            clause = self.reachable[name].depends[number]
            lines.append(f"{self.reachable[name]} needs {' | '.join(map(str, clause))}")
            if not self.options[name][number]:
                break
            name = self.options[name][number][0]
        for relation in clause:
            there = self.universe.candidate(relation.name)
            lines.append(
                f"there is {there}"
                if there is not None
                else f"no package is called {relation.name} or provides what is asked for"
            )
        return ResolveError(
            "\n  ".join(lines),
            hint="another suite, or one more, may have it: base.debian.suite and updates",
        )
