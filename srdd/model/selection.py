"""Selection: which linears are measured, by patterns on their names.

A pattern with `*`, `?` or `[` has to match the whole name, as in a shell; one without has to be a
part of it. Only linears of decoder layers can be selected: the head and the embeddings, which
deployments keep in full precision, are never among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from srdd.errors import UsageError


def matches(name: str, pattern: str) -> bool:
    """Whether a module's name fits a pattern."""
    if any(c in pattern for c in "*?["):
        return fnmatchcase(name, pattern)
    return pattern in name


def only(name: str) -> str:
    """A pattern that fits this name and no other."""
    return f"{name[:-1]}[{name[-1]}]"


@dataclass(frozen=True)
class Selection:
    """Names that fit any of `include` (all, if it is empty) and none of `exclude`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the linear of this name is measured."""
        wanted = not self.include or any(matches(name, pattern) for pattern in self.include)
        return wanted and not any(matches(name, pattern) for pattern in self.exclude)

    def check(self, names: Iterable[str]) -> None:
        """Make sure that every pattern fits something and something is left.

        Raises:
            UsageError: a pattern fits none of `names`, or nothing is selected.
        """
        known = list(names)
        for option, patterns in (("`include`", self.include), ("`exclude`", self.exclude)):
            for pattern in patterns:
                if not any(matches(name, pattern) for name in known):
                    raise UsageError(
                        f"{option} {pattern!r} fits no linear of this model",
                        f"names look like: {', '.join(_examples(known))}",
                    )
        if known and not any(self.takes(name) for name in known):
            raise UsageError(
                "`include` and `exclude` leave no linear to measure", "drop one of the patterns"
            )


def _examples(names: Sequence[str]) -> list[str]:
    """One name for each way that names end, at most eight."""
    return list({name.rpartition(".")[2]: name for name in reversed(names)}.values())[::-1][:8]
