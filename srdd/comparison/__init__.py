"""Two scans compared, layer by layer: what has changed, and how sure that is.

compare         the whole: `compare_scans`
comparability   what differs between the scans besides what is compared
pairing         which records of the two belong together, and which have no partner
differences     NEW - OLD from added sums, with intervals from the replicates and a verdict
ranks           rows that moved in rank
gates           limits such as `sqnr_db < -0.5`, and where a comparison is beyond them

The result is a `srdd.documents.comparison.Comparison`.
"""

from srdd.comparison.compare import compare_scans
from srdd.comparison.gates import gate_warning, judge, parse_gate
from srdd.documents.comparison import Comparison

__all__ = ["Comparison", "compare_scans", "gate_warning", "judge", "parse_gate"]
