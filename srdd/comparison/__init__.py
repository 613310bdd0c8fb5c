"""Two scans held against each other, layer by layer: has anything changed, and how sure is that.

comparability   what differs besides what is compared, and whether the prompts are the same
pairing         which records of the two belong together, and which have no partner
differences     NEW - OLD with intervals from the replicates, and a verdict in words
ranks           layers that moved in rank
gates           `sqnr_db < -0.5`: the small language of limits
breaches        where a comparison is beyond a limit
"""

from srdd.comparison.breaches import Outcome, judge
from srdd.comparison.differences import Difference
from srdd.comparison.gates import Gate, GateError, parse_gate
from srdd.comparison.whole import Comparison, Group, Side, compare_scans

__all__ = [
    "Comparison",
    "Difference",
    "Gate",
    "GateError",
    "Group",
    "Outcome",
    "Side",
    "compare_scans",
    "judge",
    "parse_gate",
]
