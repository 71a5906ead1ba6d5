"""Services that break a promise on purpose: the suite is worth something when it catches each of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class Mutant:
    """edits: pattern → replacement in the Lua texts, each of which must be found in some verb. caught_by: rules of
    the checker of which at least one must speak."""

    about: str
    caught_by: frozenset[str]
    edits: tuple[tuple[str, str], ...] = ()
    appendonly: bool = True


MUTANTS = {
    "no-fence": Mutant(
        "a worker that lost a job is believed as before",
        frozenset({"whole", "terminal event", "result", "cancel"}),
        (
            (r"job\[\d\] ~= (attempt|ARGV\[\d\])", "false"),
            # Else the stream itself would still refuse what the zombie says.
            (r"attempt \.\. '-' \.\. ARGV\[[^\]]+\]", "redis.call('HGET', job_key(id), 'attempt') .. '-*'"),
        ),
    ),
    "no-dedup": Mutant(
        "a job sent twice is taken twice",
        frozenset({"idempotent"}),
        ((r"if known\[1\] then", "if false then"),),
    ),
    "no-reaping": Mutant(
        "nobody takes over from a dead worker",
        frozenset({"not terminal"}),
        ((r"(?m)^(local \w+ = )?reap\(\)$", ""),),
    ),
    "aof-off": Mutant("the server keeps nothing on disk", frozenset({"lost"}), appendonly=False),
}


def apply(name: str | None) -> None:
    """In this process, whatever registers a script from now on."""
    if name is None or not (edits := MUTANTS[name].edits):
        return
    register: Callable[..., object] = Redis.register_script

    def registered(redis: Redis, text: str) -> object:
        for pattern, replacement in edits:
            text = re.sub(pattern, replacement, text)
        return register(redis, text)

    Redis.register_script = registered  # type: ignore[method-assign, assignment]


def check_edits(texts: list[str]) -> None:
    """Every edit still finds what it edits."""
    for name, mutant in MUTANTS.items():
        for pattern, _ in mutant.edits:
            assert any(re.search(pattern, text) for text in texts), f"{name}: nothing matches {pattern}"
