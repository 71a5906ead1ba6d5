"""`python -m tests.abuse`: one client attacks a service, and the report says what another client saw.

`python -m tests.abuse fuzz` decodes damaged and lying pictures instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.abuse import verdict
from tests.abuse.run import ATTACKS, Timing, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every bound holds."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["fuzz"]:
        from tests.abuse.fuzz import run as fuzz

        return fuzz.main(given[1:])
    options = _parser().parse_args(given)
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    reports = []
    for number in options.only:
        attack = ATTACKS[number]
        print(f"{number} {attack.title} …", flush=True)
        log = options.logs and options.logs / f"{number}.log"
        report = run(attack, Timing(attack=options.seconds), log=log)
        reports.append(report)
        told = ", ".join(f"{what} ×{times}" for what, times in sorted(report.told.statuses.items()))
        print(f"  the attacker saw: {told}")
        if warning := verdict.busy(report):
            print(f"  {warning}")
        for bound in verdict.broken(report):
            print(f"  BROKEN: {bound}", flush=True)
    print("\n" + verdict.table(reports))
    if options.json:
        options.json.write_text(json.dumps([verdict.to_json(report) for report in reports], indent=1))
    return 1 if any(map(verdict.broken, reports)) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("abuse", description=__doc__)
    parser.add_argument("--only", type=int, nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=20.0, help="how long an attack lasts; some last longer")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--logs", type=Path, help="folder in which to keep what the services printed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
