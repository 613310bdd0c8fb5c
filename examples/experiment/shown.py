"""The table and the plot of an experiment."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.figures import Results
from experiment.plan import ARMS, BASELINE, Level


def sigmas(level: Level) -> str:
    return f"sigma {level[0]:g} to {level[1]:g}"


def _cell(found: Mapping[str, Any] | None, sign: str = "+") -> str:
    if found is None:
        return ""
    star = "*" if found.get("excludes_zero") else ""
    return f"{found['mean']:{sign}.4f} ±{found['half_width']:.4f}{star}"


def table(summary: Mapping[str, Any], levels: Sequence[Level], format: str) -> str:
    """All figures as text of at most 80 columns."""
    rows = {(row["level"], row["arm"]): row for row in summary["rows"]}
    clean, training = rows[None, BASELINE], summary["training"]
    before, change = training["before"], training["change"]
    lines = [
        f"Held-out loss in nats per token, {change['seeds']} seeds, ± half a 95 % interval",
        "",
        f"{'':22}{'W4A4 ' + format:20}16 bits",
        f"{'before training':22}{before['w4a4']:<20.4f}{before['bfloat16']:.4f}",
        f"{'after, without noise':22}{_cell(clean['w4a4']['loss'], ''):20}"
        f"{_cell(clean['bfloat16']['loss'], '')}",
    ]
    if not training["learns"]:
        lines += ["", "Training did not lower the loss: what follows says nothing about noise."]
    for number, level in enumerate(levels):
        lines += [
            "",
            f"{sigmas(level):27}W4A4 less W4A4 of...                16 bits less",
            f"{'arm':10}{'W4A4':17}{'no noise':18}{'uniform':18}no noise",
        ]
        for arm in ARMS:
            row = rows[number, arm]
            cells = (
                f"{_cell(row['w4a4']['loss'], ''):17}",
                f"{_cell(row['w4a4']['to_none']):18}",
                f"{_cell(row['w4a4'].get('to_uniform')):18}",
                _cell(row["bfloat16"]["to_none"]),
            )
            lines.append(f"{arm:10}{''.join(cells)}".rstrip())
    told = summary["comparisons"]
    excluding = told["exclude_zero"]
    lower = f" ({told['of_these_lower_loss']} of them with lower loss)" if excluding else ""
    note = (
        "Below 0: lower loss with noise. *: the interval excludes 0. Of the "
        f"{told['number']} differences to no noise under W4A4, {excluding or 'none'} "
        f"exclude{'s' if excluding < 2 else ''} 0{lower}; {told['by_chance']:.1f} would by chance "
        "if noise did nothing. Widened so that all hold at once (Bonferroni), "
        f"{told['exclude_zero_bonferroni'] or 'none'} "
        f"do{'es' if told['exclude_zero_bonferroni'] < 2 else ''}."
    )
    lines += ["", *textwrap.wrap(note, 80)]
    return "\n".join(lines) + "\n"


def draw(results: Results, summary: Mapping[str, Any], levels: Sequence[Level], path: Path) -> None:
    """The differences to no noise as an SVG: each seed a dot, with mean and interval.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = {(row["level"], row["arm"]): row for row in summary["rows"]}
    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "rin", "svg.fonttype": "none", "font.size": 9}):
        figure, panels = pyplot.subplots(
            1,
            len(levels),
            figsize=(2.9 * len(levels) + 0.9, 3.4),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for number, (panel, level) in enumerate(zip(panels[0], levels, strict=True)):
            panel.axvline(0, color="0.6", linewidth=1)
            for shift, form, colour, label in (
                (-0.16, "w4a4", "C0", "W4A4"),
                (0.16, "bfloat16", "C1", "16 bits"),
            ):
                places = [place + shift for place in range(len(ARMS))]
                for place, arm in zip(places, ARMS, strict=True):
                    runs = zip(results[number, arm], results[None, BASELINE], strict=True)
                    dots = [1e3 * (a["held_out"][form] - b["held_out"][form]) for a, b in runs]
                    panel.plot(dots, [place] * len(dots), "|", color=colour, alpha=0.5)
                found = [rows[number, arm][form]["to_none"] for arm in ARMS]
                panel.errorbar(
                    [1e3 * one["mean"] for one in found],
                    places,
                    xerr=[1e3 * one["half_width"] for one in found],
                    fmt="o",
                    color=colour,
                    markersize=4,
                    capsize=2,
                    label=label,
                )
            panel.set_title(sigmas(level), fontsize=9)
        panels[0][0].set_yticks(range(len(ARMS)), ARMS)
        panels[0][0].invert_yaxis()
        figure.supxlabel("held-out loss minus that without noise, 0.001 nats per token", fontsize=9)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
