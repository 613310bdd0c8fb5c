"""Gates: limits on a comparison, written as `sqnr_db < -0.5`.

    gate    = [scope] [which "."] metric sign number [unit]
    scope   = "layer" | "overall"     each layer (default), or all together
    which   = "difference" | "new"    NEW - OLD (default), or NEW's figure
    sign    = "<" | "<=" | ">" | ">="
    unit    = "dB" of sqnr_db, "%" of the others, which are fractions

`overall new.sqnr_db < 15 dB` and `relative_error > 2%` are gates. A gate says what is wrong: it is
breached where it is true.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from srdd.errors import UsageError, unknown_name
from srdd.numerics.metrics import METRICS

SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SCOPES = ("layer", "overall")
WHICH = ("difference", "new")

EXAMPLES = "'sqnr_db < -0.5', 'overall relative_error > 2%' or 'new.sqnr_db < 15'"

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign>[<>=!]+)
      | (?P<other>\S)
    )""",
    re.VERBOSE,
)


class GateError(UsageError):
    """A gate that cannot be read.

    Attributes:
        text: the gate as it was given.
        place: index of the character at which it stops making sense.
    """

    def __init__(self, message: str, hint: str, text: str, place: int) -> None:
        super().__init__(f"{message}, at character {place + 1} of the gate {text!r}", hint)
        self.text = text
        self.place = place


@dataclass(frozen=True)
class Gate:
    """A limit.

    Attributes:
        text: as it was given.
        scope: whether it looks at each layer or at all together.
        which: whether it looks at NEW - OLD or at NEW.
        metric: of srdd.numerics.metrics.METRICS.
        sign: of SIGNS.
        limit: in the metric's own unit: dB, or a fraction.
    """

    text: str
    scope: Literal["layer", "overall"]
    which: Literal["difference", "new"]
    metric: str
    sign: str
    limit: float

    def beyond(self, value: float) -> bool:
        """Whether a figure is beyond the limit."""
        return SIGNS[self.sign](value, self.limit)

    @property
    def doubt(self) -> str | None:
        """What is odd about the gate: it fails where NEW is not worse."""
        lower = self.sign.startswith("<")
        higher_is_better = METRICS[self.metric].higher_is_better
        good = "higher" if higher_is_better else "lower"
        if lower != higher_is_better:
            return (
                f"the gate {self.text!r} is breached where NEW is good: "
                f"of {self.metric}, {good} is better"
            )
        # `< 0.5` of a difference also holds where nothing changed.
        beyond_nothing = self.limit > 0 if lower else self.limit < 0
        if self.which == "difference" and beyond_nothing:
            return (
                f"the gate {self.text!r} is breached where NEW is somewhat better, too: "
                f"of {self.metric}, {good} is better, and a difference is NEW - OLD"
            )
        return None


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


class _Reader:
    """The words of a gate, one after the other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = [
            _Token(
                str(found.lastgroup), found[str(found.lastgroup)], found.start(found.lastgroup or 0)
            )
            for found in _TOKEN.finditer(text)
        ]
        self._next = 0

    def peek(self) -> _Token:
        if self._next < len(self._tokens):
            return self._tokens[self._next]
        return _Token("end", "", len(self.text))

    def take(self) -> _Token:
        found = self.peek()
        self._next += 1
        return found

    def fail(self, expected: str, token: _Token) -> NoReturn:
        what = f"found {token.text!r}" if token.text else "it ends"
        raise GateError(
            f"expected {expected}, but {what}",
            f"write a gate as {EXAMPLES}",
            self.text,
            token.place,
        )


def parse_gate(text: str) -> Gate:
    """A gate from its text; see the module for the grammar.

    Raises:
        GateError: it does not follow the grammar, or names no metric.
    """
    reader = _Reader(text)
    scope: Literal["layer", "overall"] = "layer"
    which: Literal["difference", "new"] = "difference"
    token = reader.take()
    if token.text in SCOPES:
        scope = "overall" if token.text == "overall" else "layer"
        token = reader.take()
    if reader.peek().text == ".":
        if token.text not in WHICH:
            reader.fail("'new.' or 'difference.'", token)
        which = "new" if token.text == "new" else "difference"
        reader.take()
        token = reader.take()
    if token.kind != "word":
        reader.fail("the name of a metric", token)
    if token.text not in METRICS:
        unknown = unknown_name("metric", token.text, METRICS)
        raise GateError(unknown.message, unknown.hint, text, token.place)
    metric = token.text
    sign = reader.take()
    if sign.text not in SIGNS:
        reader.fail("one of <, <=, > and >=", sign)
    number = reader.take()
    if number.kind != "number":
        reader.fail("a number", number)
    limit = float(number.text.replace("−", "-"))
    if not math.isfinite(limit):
        reader.fail("a smaller number", number)
    unit = _unit(reader, metric)
    limit /= unit
    if metric != "sqnr_db" and abs(limit) > 1:
        meant = f"{number.text}%" if unit == 1 else "a share of at most 100%"
        raise GateError(
            f"{metric} is a fraction, and {100 * limit:g} % is never reached",
            f"write {meant}",
            text,
            number.place,
        )
    end = reader.take()
    if end.kind != "end":
        reader.fail("the end of the gate (repeat --fail-on for several)", end)
    return Gate(text.strip(), scope, which, metric, sign.text, limit)


def _unit(reader: _Reader, metric: str) -> float:
    """What the number after the sign has to be divided by."""
    token = reader.peek()
    if token.text == "%":
        if metric == "sqnr_db":
            reader.fail("dB, or nothing", token)
        reader.take()
        return 100.0
    if token.text.lower() == "db":
        if metric != "sqnr_db":
            reader.fail("%, or nothing for a fraction", token)
        reader.take()
    return 1.0
