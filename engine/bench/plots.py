"""One page of plots from the figures of `arpg bench engine --json`. matplotlib comes with the extra `train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROW_SIZE = (10.0, 3.0)  # inches
DPI = 110

SpreadData = Mapping[str, float]


def save_plots(record: Mapping[str, Any], path: Path) -> None:
    """record: as it is written to JSON. The growth takes two rows, and the shared keys and values one. Raises
    ValueError when the record has neither."""
    figures, facts = record["engine"], record["environment"]
    rows: list[Callable[[Sequence[Axes]], None]] = []
    if growth := figures.get("growth"):
        rows += [
            lambda panels: _growth(growth, "images_per_second", "images/s", panels),
            lambda panels: _growth(growth, "step_milliseconds", "ms a step", panels),
        ]
    if shared := figures.get("shared-kv"):
        rows.append(lambda panels: _shared_kv(shared, panels))
    if not rows:
        raise ValueError("only the parts growth and shared-kv have plots")
    figure = Figure((ROW_SIZE[0], ROW_SIZE[1] * len(rows)), layout="constrained")
    figure.suptitle(
        f"{figures['model']}, {figures['dtype']}: {facts['processor']}, {facts['threads']} threads, "
        f"torch {facts['torch']}",
        fontsize="medium",
    )
    for draw, panels in zip(rows, figure.subplots(len(rows), 3, squeeze=False), strict=True):
        draw(panels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(path)


def _growth(growth: Mapping[str, Any], figure: str, title: str, panels: Sequence[Axes]) -> None:
    """A panel for each of the three settings, with the points at which the two others are the centre's."""
    centre, points = growth["centre"], growth["points"]
    for panel, axis in zip(panels, centre, strict=True):
        others = [name for name in centre if name != axis]
        line = [point for point in points if all(point[name] == centre[name] for name in others)]
        values = {_amount(point[axis]): point[figure] for point in line}
        _line(panel, values, "")
        label = {"concurrency": "requests at once", "steps": "steps", "grid": "tokens"}[axis]
        fixed = ", ".join(f"{_amount(centre[name])} {_NAMES[name]}" for name in others)
        panel.set(title=f"{title}; {fixed}", xlabel=label)


_NAMES = {"concurrency": "requests", "steps": "steps", "grid": "tokens"}


def _shared_kv(found: Sequence[Mapping[str, Any]], panels: Sequence[Axes]) -> None:
    memory, steps, ratio = panels
    megabytes = [found[0]["shared_bytes"] / 1e6, found[0]["per_layer_bytes"] / 1e6]
    memory.bar(["shared", "per layer"], megabytes, color=["tab:blue", "tab:orange"])
    memory.set(title="KV cache of an image, MB")
    _line(steps, {one["requests"]: one["shared_step_milliseconds"] for one in found}, "shared")
    _line(steps, {one["requests"]: one["per_layer_step_milliseconds"] for one in found}, "per layer")
    steps.set(title=f"ms a step; {found[0]['steps']} steps", xlabel="requests at once")
    steps.legend(fontsize="small")
    _line(ratio, {one["requests"]: one["step_ratio"] for one in found}, "")
    ratio.axhline(1, color="grey", linewidth=0.8)
    ratio.set(title="time per layer / time shared", xlabel="requests at once")
    ratio.set_ylim(0, None)


def _line(panel: Axes, values: Mapping[int, SpreadData], label: str) -> None:
    """Medians, with bars from the least to the most."""
    x = sorted(values)
    medians = [values[at]["median"] for at in x]
    below = [values[at]["median"] - values[at]["least"] for at in x]
    above = [values[at]["most"] - values[at]["median"] for at in x]
    panel.errorbar(x, medians, yerr=[below, above], marker="o", markersize=3, capsize=2, label=label)
    panel.set_xscale("log", base=2)
    panel.set_xticks(x, [str(at) for at in x])
    panel.minorticks_off()
    panel.set_ylim(0, None, auto=True)  # a second line may need more room


def _amount(value: Any) -> int:
    """A grid by its number of tokens."""
    return value if isinstance(value, int) else value[0] * value[1]
