"""The report: JSON, Markdown and one sheet of plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.load.growth import Growth
from tests.load.record import Record
from tests.load.verdict import OF_CAPACITY, OF_FAIR_SHARE, TEN_MINUTES, Phase, Rate, Verdict
from tests.load.watch import GENERATOR

PERCENTILES = (50, 90, 99)
BIN = 15.0  # s


def write(folder: Path, about: Mapping[str, Any], record: Record, load: Phase, verdict: Verdict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    latencies = percentiles(record, load)
    told = {"about": dict(about), "verdict": verdict.to_json(), "latencies": latencies, **record.to_json()}
    (folder / "report.json").write_text(json.dumps(told, indent=1) + "\n")
    (folder / "README.md").write_text(_text(about, record, latencies, verdict))
    _plot(record, load, latencies, verdict).savefig(
        folder / "plots.webp", dpi=90, pil_kwargs={"quality": 80, "method": 6}
    )


def percentiles(record: Record, load: Phase) -> dict[str, list[float]]:
    """Seconds from request to result by task, for requests that ended in the judged time."""
    found = {}
    for task, took in sorted(record.latencies.items()):
        seconds = [each for when, each in took if load.settled <= when < load.end]
        if seconds:
            found[task] = [round(float(p), 2) for p in np.percentile(seconds, PERCENTILES)]
    return found


def _text(about: Mapping[str, Any], record: Record, latencies: Mapping[str, Sequence[float]], verdict: Verdict) -> str:
    kept = {True: "yes", False: "**no**", None: "not measured"}
    answers = sorted(record.answers.items())
    return "\n".join(
        [
            "# Load report",
            "",
            f"{about['clients']} customers, of {about['keys']} clients with a key each, for {about['minutes']:g} "
            f"minutes, after {about['capacity_minutes']:g} minutes of warm-up and twice as many to measure the "
            f"capacity; {about['machine']}. `make load` writes this.",
            "",
            "Growth of memory: the difference between the medians of the first and the last third of the samples.",
            "",
            "![Throughput, latency, memory, KV cache, shares, processors](plots.webp)",
            "",
            "| promise | kept | measured |",
            "|---|---|---|",
            *(f"| {p.name} | {kept[p.kept]} | {p.measured} |" for p in verdict.promises),
            "",
            f"Capacity: {_rate(verdict.capacity)}. Reached under load: {_rate(verdict.reached)}.",
            "",
            "| task | " + " | ".join(f"{p} % within, s" for p in PERCENTILES) + " |",
            "|---|" + "---|" * len(PERCENTILES),
            *(f"| {task} | " + " | ".join(f"{each:.1f}" for each in took) + " |" for task, took in latencies.items()),
            "",
            "| process | memory, MiB | grows in 10 minutes | cores busy |",
            "|---|---|---|---|",
            *(f"| {name} | {_growth(verdict.memory.get(name))} | {cores:.2f} |" for name, cores in verdict.cpu.items()),
            "",
            "| client | of its fair share |",
            "|---|---|",
            *(f"| {client} | {share:.0%} |" for client, share in sorted(verdict.shares.items())),
            "",
            "Answers: " + ", ".join(f"{what} {status}: {count}" for (what, status), count in answers) + ".",
            "",
            "Streams: " + ", ".join(f"{what}: {count}" for what, count in sorted(record.streams.items())) + ".",
            "",
        ]
    )


def _growth(found: Growth | None) -> str:
    return "- | -" if found is None else f"{found.level / 2**20:.0f} | {found.share(TEN_MINUTES):+.2%}"


def _rate(rate: Rate) -> str:
    return f"{rate.jobs:.2f} jobs, {rate.pictures:.2f} pictures, {rate.cost:.0f} KV tokens a second"


def _plot(record: Record, load: Phase, latencies: Mapping[str, Sequence[float]], verdict: Verdict) -> Figure:
    figure = Figure((13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    _throughput(axes[0, 0], record, load, verdict)
    _latency(axes[0, 1], latencies)
    _memory(axes[0, 2], record, load)
    _cache(axes[1, 0], record, load)
    _shares(axes[1, 1], verdict)
    _processors(axes[1, 2], record, load)
    return figure


def _throughput(axes: Axes, record: Record, load: Phase, verdict: Verdict) -> None:
    jobs = list(record.drawn(load.begin, load.end))
    bins = np.arange(0, load.end - load.begin + BIN, BIN)
    cost, _ = np.histogram([j.finished - load.begin for j in jobs], bins, weights=[j.cost for j in jobs])
    axes.stairs(cost / BIN, bins / 60, label="completed")
    axes.axhline(verdict.capacity.cost, color="tab:green", label="capacity")
    axes.axhline(OF_CAPACITY * verdict.capacity.cost, color="tab:red", linestyle="--", label=f"{OF_CAPACITY:.0%} of it")
    axes.axvspan(0, (load.settled - load.begin) / 60, color="0.93", zorder=0)
    axes.set(title="KV tokens a second", xlabel="minutes", ylim=(0, None))
    axes.legend(fontsize="small")


def _latency(axes: Axes, latencies: Mapping[str, Sequence[float]]) -> None:
    places = np.arange(len(latencies))
    for index, percent in enumerate(PERCENTILES):
        took = [each[index] for each in latencies.values()]
        axes.barh(places + 0.27 * (index - 1), took, 0.25, label=f"{percent} %")
    axes.set(title="seconds from request to result", yticks=places, yticklabels=list(latencies))
    axes.invert_yaxis()
    axes.legend(fontsize="small")


def _memory(axes: Axes, record: Record, load: Phase) -> None:
    minutes = [(s.time - load.begin) / 60 for s in record.samples]
    for name in record.samples[0].rss:
        axes.plot(minutes, [s.rss[name] / 2**20 for s in record.samples], label=name)
    axes.axvline(0, color="0.7")
    axes.axvspan(0, (load.settled - load.begin) / 60, color="0.93", zorder=0)
    axes.set(title="resident memory, MiB", xlabel="minutes", ylim=(0, None))
    axes.legend(fontsize="small")


def _cache(axes: Axes, record: Record, load: Phase) -> None:
    samples = [s for s in record.samples if s.time >= load.begin]
    minutes = [(s.time - load.begin) / 60 for s in samples]
    used = [100 * s.series.get("kv_pages_used", 0) / max(1, s.series.get("kv_pages", 1)) for s in samples]
    axes.plot(minutes, used, label="KV pages in use, %")
    axes.plot(minutes, [sum(s.waiting.values()) for s in samples], label="jobs waiting")
    axes.plot(minutes, [s.series.get("http_streams", 0) for s in samples], label="streams open")
    axes.set(title="KV cache, queue, streams", xlabel="minutes", ylim=(0, None))
    axes.legend(fontsize="small")


def _shares(axes: Axes, verdict: Verdict) -> None:
    clients = sorted(verdict.shares)
    axes.bar(clients, [verdict.shares[client] for client in clients])
    axes.axhline(1, color="tab:green")
    axes.axhline(OF_FAIR_SHARE, color="tab:red", linestyle="--")
    axes.set(title="share of the fair share", ylim=(0, None))
    axes.tick_params(axis="x", labelrotation=30)


def _processors(axes: Axes, record: Record, load: Phase) -> None:
    samples = record.samples
    minutes = [(s.time - load.begin) / 60 for s in samples[1:]]
    for name in samples[0].cpu:
        pairs = pairwise(samples)
        axes.plot(minutes, [(b.cpu[name] - a.cpu[name]) / (b.time - a.time) for a, b in pairs], label=name)
    axes.set(title=f"cores busy ({GENERATOR}: the clients)", xlabel="minutes", ylim=(0, None))
    axes.legend(fontsize="small")


def describe(load: Phase, capacities: Sequence[Phase]) -> dict[str, Any]:
    return {"capacity_phases": [asdict(phase) for phase in capacities], "load_phase": asdict(load)}
