"""`python -m tests.abuse fuzz --seconds 600`: decodes the costliest uploads, then such as Hypothesis makes, until the
time is over."""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from service.tasks.pictures.masks import MaskMode
from tests.abuse.builders import png_with
from tests.abuse.fuzz.extremes import extremes
from tests.abuse.fuzz.files import uploads
from tests.abuse.fuzz.measuring import MAX_BYTES, MAX_SECONDS, measure

HANG_SECONDS = 60.0
EXAMPLES = 200
"""Of one seed: Hypothesis does not know the time."""

ROLES = ("image", "image", "mask", "both")
PICTURE = png_with(side=64)
UNHURRIED = settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
MODES: tuple[MaskMode, ...] = ("white", "black", "alpha", "nonzero")


@dataclass(slots=True)
class Tally:
    """outcomes: how often each. slowest, largest: seconds and bytes. broken: what is no refusal, too slow or too
    large, with its file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0
    broken: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, file: bytes, role: str, mode: MaskMode) -> None:
        """role: what the file is uploaded as."""
        image = PICTURE if role == "mask" else file
        try:
            measured = measure(image, None if role == "image" else mode, None if role == "image" else file)
        except Exception as error:
            self.outcomes[type(error).__name__] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.broken.append((f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})", file))
            return
        self.outcomes[measured.outcome] += 1
        self.slowest, self.largest = max(self.slowest, measured.seconds), max(self.largest, measured.bytes)
        if measured.seconds > MAX_SECONDS:
            self.broken.append((f"{measured.outcome} after {measured.seconds:.1f} s", file))
        if measured.bytes > MAX_BYTES:
            self.broken.append((f"{measured.outcome} with {measured.bytes / 2**20:.0f} MiB", file))

    def __str__(self) -> str:
        outcomes = ", ".join(f"{outcome} ×{times}" for outcome, times in self.outcomes.most_common())
        most = f"slowest {self.slowest:.2f} s, largest {self.largest / 2**20:.0f} MiB, {len(self.broken)} broken"
        return f"{self.outcomes.total()} files: {most}; {outcomes}"


def examples(tally: Tally, count: int, number: int) -> None:
    """Adds this many uploads to the tally; the same number makes the same ones."""

    @seed(number)
    @settings(UNHURRIED, max_examples=count)
    @given(file=uploads(), role=st.sampled_from(ROLES), mode=st.sampled_from(MODES))
    def one(file: bytes, role: str, mode: MaskMode) -> None:
        tally.add(file, role, mode)

    one()


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0 if nothing is broken."""
    options = _parser().parse_args(arguments)
    tally, until = Tally(), time.monotonic() + options.seconds
    for name, file in extremes():
        tally.add(file, "image", "white")
        tally.add(file, "mask", "white")
        print(f"{name}: {tally}", flush=True)
    for number in itertools.count(options.seed):
        faulthandler.dump_traceback_later(HANG_SECONDS * EXAMPLES, exit=True)
        examples(tally, EXAMPLES, number)
        print(f"seed {number}: {tally}", flush=True)
        if time.monotonic() > until:
            break
    for number, (what, file) in enumerate(tally.broken):
        print(f"BROKEN: {what}, {len(file):,} bytes")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"broken-{number}").write_bytes(file)
    return 1 if tally.broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("abuse fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first files; the next ones have the next seeds")
    parser.add_argument("--keep", type=Path, help="folder for the files that break a bound")
    return parser
