"""How reports of the engine's thread reach the event loop."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from typing import Any

import pytest

from engine.core.engine import EngineStats
from engine.request import RequestOutput
from service.worker.engine_thread import EngineReport, ImageKey
from service.worker.threads import report_box
from service.worker.threads.report_box import ReportBox

pytestmark = pytest.mark.anyio

KEY = ImageKey("job", 1, 0)
NOTHING: dict[str, Any] = {field.name: 0 for field in fields(EngineStats)}
BUSY = EngineStats(**NOTHING | {"running": 1})


def tokens(done: int, total: int = 4) -> EngineReport:
    output = RequestOutput(id=0, step=done, steps=total, positions=(done,), tokens=(1,), n_done=done, n_total=total)
    return EngineReport(updates=[(KEY, output)], step_seconds=0.001, stats=BUSY)


async def test_tokens_alone_wait_and_an_end_brings_them_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_box, "PACE_SECONDS", 3600.0)
    absorbed: list[EngineReport] = []
    box = ReportBox(absorbed.append)
    box.put(first := EngineReport(added=[KEY], step_seconds=0.001, stats=BUSY))
    await asyncio.sleep(0.01)
    assert absorbed == [first]
    box.put(tokens(1))
    box.put(tokens(2))
    await asyncio.sleep(0.01)
    assert absorbed == [first]
    box.put(tokens(4))
    await asyncio.sleep(0.01)
    assert [report.updates[0][1].n_done for report in absorbed[1:]] == [1, 2, 4]


async def test_tokens_arrive_once_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_box, "PACE_SECONDS", 0.02)
    absorbed: list[EngineReport] = []
    box = ReportBox(absorbed.append)
    box.put(EngineReport(added=[KEY], step_seconds=0.001, stats=BUSY))
    await asyncio.sleep(0.03)
    box.put(tokens(1))
    await asyncio.sleep(0.01)
    assert len(absorbed) == 2


def test_a_report_that_no_other_follows_does_not_wait() -> None:
    assert not tokens(1).urgent
    assert tokens(4).urgent
    assert replace(tokens(1), stats=replace(BUSY, running=0)).urgent
    assert replace(tokens(1), left=[KEY.attempt_key]).urgent
    assert replace(tokens(1), failed=[KEY]).urgent
    assert EngineReport(fatal=RuntimeError()).urgent
