"""The table and the plot of an experiment."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment.figures import Results
from experiment.plan import ARMS, BASELINE, Level


def sigmas(level: Level) -> str:
    return f"sigma {level[0]:g} to {level[1]:g}"


@dataclass(frozen=True)
class Figure:
    """How a table and a plot call the figure that they show, and write it.

    Attributes:
        title: of the table.
        less: what a figure below that of no noise means.
        level: the title of a level of noise.
        axis: of the plot, with its unit.
        scale, digits: the table shows `scale` times the figure, with so many decimals.
        axis_scale: the plot shows `axis_scale` times the figure.
    """

    title: str
    less: str
    level: Callable[[Any], str]
    axis: str
    scale: float = 1.0
    digits: int = 4
    axis_scale: float = 1.0


LOSS = Figure(
    title="Held-out loss in nats per token",
    less="lower loss",
    level=sigmas,
    axis="held-out loss minus that without noise, 0.001 nats per token",
    axis_scale=1e3,
)


def table(
    summary: Mapping[str, Any],
    levels: Sequence[Any],
    format: str,
    arms: Sequence[str] = ARMS,
    figure: Figure = LOSS,
) -> str:
    """All figures as text of at most 80 columns."""

    def number(value: float, sign: str = "") -> str:
        return f"{figure.scale * value:{sign}.{figure.digits}f}"

    def cell(found: Mapping[str, Any] | None, sign: str = "+") -> str:
        if found is None:
            return ""
        star = "*" if found.get("excludes_zero") else ""
        return f"{number(found['mean'], sign)} ±{number(found['half_width'])}{star}"

    rows = {(row["level"], row["arm"]): row for row in summary["rows"]}
    clean, training = rows[None, BASELINE], summary["training"]
    before, change = training["before"], training["change"]
    lines = [
        f"{figure.title}, {change['seeds']} seeds, ± half a 95 % interval",
        "",
        f"{'':22}{'W4A4 ' + format:20}16 bits",
        f"{'before training':22}{number(before['w4a4']):20}{number(before['bfloat16'])}",
        f"{'after, without noise':22}{cell(clean['w4a4']['loss'], ''):20}"
        f"{cell(clean['bfloat16']['loss'], '')}",
    ]
    if not training["learns"]:
        lines += ["", "Training taught the model nothing: what follows says nothing about noise."]
    for place, level in enumerate(levels):
        lines += [
            "",
            f"{figure.level(level):27}W4A4 less W4A4 of...                16 bits less",
            f"{'arm':10}{'W4A4':17}{'no noise':18}{'uniform':18}no noise",
        ]
        for arm in arms:
            row = rows[place, arm]
            cells = (
                f"{cell(row['w4a4']['loss'], ''):17}",
                f"{cell(row['w4a4']['to_none']):18}",
                f"{cell(row['w4a4'].get('to_uniform')):18}",
                cell(row["bfloat16"]["to_none"]),
            )
            lines.append(f"{arm:10}{''.join(cells)}".rstrip())
    told = summary["comparisons"]
    excluding = told["exclude_zero"]
    lower = f" ({told['of_these_lower_loss']} of them with {figure.less})" if excluding else ""
    note = (
        f"Below 0: {figure.less} with noise. *: the interval excludes 0. Of the "
        f"{told['number']} differences to no noise under W4A4, {excluding or 'none'} "
        f"exclude{'s' if excluding < 2 else ''} 0{lower}; {told['by_chance']:.1f} would by chance "
        "if noise did nothing. Widened so that all hold at once (Bonferroni), "
        f"{told['exclude_zero_bonferroni'] or 'none'} "
        f"do{'es' if told['exclude_zero_bonferroni'] < 2 else ''}. With this scatter between "
        "seeds, an experiment of this size sees a true difference to no noise of "
        f"{number(summary['detectable']['w4a4'])} under W4A4 four times in five (median over the "
        f"arms), and one of {number(summary['detectable']['bfloat16'])} in 16 bits."
    )
    lines += ["", *textwrap.wrap(note, 80)]
    return "\n".join(lines) + "\n"


def draw(
    results: Results,
    summary: Mapping[str, Any],
    levels: Sequence[Any],
    path: Path,
    arms: Sequence[str] = ARMS,
    figure: Figure = LOSS,
) -> None:
    """The differences to no noise as an SVG: each seed a dot, with mean and interval.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scale = figure.axis_scale
    rows = {(row["level"], row["arm"]): row for row in summary["rows"]}
    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "rin", "svg.fonttype": "none", "font.size": 9}):
        canvas, panels = pyplot.subplots(
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
                places = [place + shift for place in range(len(arms))]
                for place, arm in zip(places, arms, strict=True):
                    runs = zip(results[number, arm], results[None, BASELINE], strict=True)
                    dots = [scale * (a["held_out"][form] - b["held_out"][form]) for a, b in runs]
                    panel.plot(dots, [place] * len(dots), "|", color=colour, alpha=0.5)
                found = [rows[number, arm][form]["to_none"] for arm in arms]
                panel.errorbar(
                    [scale * one["mean"] for one in found],
                    places,
                    xerr=[scale * one["half_width"] for one in found],
                    fmt="o",
                    color=colour,
                    markersize=4,
                    capsize=2,
                    label=label,
                )
            panel.set_title(figure.level(level), fontsize=9)
        panels[0][0].set_yticks(range(len(arms)), arms)
        panels[0][0].invert_yaxis()
        canvas.supxlabel(figure.axis, fontsize=9)
        handles, labels = panels[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8)
        canvas.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(canvas)
