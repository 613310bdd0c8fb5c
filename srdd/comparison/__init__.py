"""Two scans compared, layer by layer: what has changed, and how sure that is.

compare         the whole: `compare_scans`
comparability   what differs between the scans besides what is compared
pairing         which records of the two belong together, and which have no partner
figures         metrics of layers, kinds or tensors from added sums
differences     NEW - OLD with intervals from the replicates, and a verdict in words
ranks           rows that moved in rank
gates           limits such as `sqnr_db < -0.5`, and where a comparison is beyond them
"""

from srdd.comparison.compare import Comparison, Group, Row, Side, compare_scans
from srdd.comparison.differences import Difference
from srdd.comparison.gates import Gate, Outcome, judge, parse_gate

__all__ = [
    "Comparison",
    "Difference",
    "Gate",
    "Group",
    "Outcome",
    "Row",
    "Side",
    "compare_scans",
    "judge",
    "parse_gate",
]
