"""`python -m tests.chaos`: runs every plan, prints a table of results, and writes them as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.campaign import Plan, Report, campaign
from tests.chaos.cluster import preload
from tests.chaos.plans import mutants, real, smoke, storms

COLUMNS = (
    ("worker killed", "kills"),
    ("worker frozen", "freezes"),
    ("worker drained", "drains"),
    ("server killed", "server kills"),
    ("server stalled", "stalls"),
    ("front end killed", "API kills"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every run kept its promises and every mutant was caught."""
    parsed = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        logs = parsed.logs or Path(scratch)
        plans = chosen(parsed, Path(scratch))
        preload(real_engine=any(plan.folder for plan in plans))
        reports = []
        for plan in plans:
            print(f"{plan.name}, seed {plan.seed} …", flush=True)
            name = f"{plan.name}-{plan.seed}"
            report = asyncio.run(campaign(plan, (logs / name).absolute()))
            reports.append(report)
            print(line(report), flush=True)
            for violation in report.violations[: parsed.show]:
                print(f"    {violation.rule}: {violation.job} {violation.detail}")
    print("\n" + table(reports))
    if parsed.json:
        parsed.json.write_text(json.dumps([report.to_json() for report in reports], indent=1))
    return 0 if all(map(well, reports)) else 1


def chosen(parsed: argparse.Namespace, scratch: Path) -> list[Plan]:
    what = parsed.only or ["storm", "real", "mutants"]
    plans: list[Plan] = []
    if "smoke" in what:
        plans += [smoke(parsed.seeds[0])]
    if "storm" in what:
        plans += storms(parsed.seeds, jobs=parsed.jobs)
    if "real" in what:
        plans += [real(parsed.seeds[0], scratch / "model")]
    plans += mutants(parsed.seeds[0], [name for name in what if name not in ("smoke", "storm", "real")])
    return plans


def well(report: Report) -> bool:
    from tests.chaos.mutants import MUTANTS

    spoken = {violation.rule for violation in report.violations}
    return not spoken if report.mutant is None else bool(spoken & MUTANTS[report.mutant].caught_by)


def line(report: Report) -> str:
    said = f"{len(report.violations)} violations" if report.mutant is None else "caught" if well(report) else "MISSED"
    return f"  {said}, {report.seconds:g} s: {json.dumps(report.figures)} {json.dumps(report.happened)}"


def table(reports: Sequence[Report]) -> str:
    heads = ["run", "seed", "jobs", *(head for _, head in COLUMNS), "replies lost", "readers", "connections"]
    heads += ["violations", "s"]
    rows = [heads]
    for report in reports:
        figures = report.figures
        rows.append(
            [
                report.plan,
                str(report.seed),
                str(figures["jobs"]),
                *(str(report.happened[kind]) for kind, _ in COLUMNS),
                *(str(figures[name]) for name in ("replies lost", "readers", "connections")),
                str(len(report.violations)) if report.mutant is None else "caught" if well(report) else "MISSED",
                f"{report.seconds:g}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("chaos", description=__doc__)
    made.add_argument(
        "--only", action="append", help="storm, real, mutants, smoke or a mutant's name; default: all but smoke"
    )
    made.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    made.add_argument("--jobs", type=int, default=300)
    made.add_argument("--json", type=Path, help="file for the results")
    made.add_argument("--logs", type=Path, help="folder in which to keep the processes' logs")
    made.add_argument("--show", type=int, default=20, help="how many violations of a run to print")
    return made


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
