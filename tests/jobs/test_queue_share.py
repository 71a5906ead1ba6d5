"""Who is next: clients share a model by weight and cost, and a claim takes what fits."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.jobs import Queue
from tests.support.queue import CONFIG, new, take

pytestmark = pytest.mark.anyio


async def test_clients_share_by_weight(queue: Queue) -> None:
    for i in range(30):
        await queue.submit(new(f"a{i}", "a"))
    await take(queue)
    for i in range(12):
        await queue.submit(new(f"b{i}", "b", weight=1))
        await queue.submit(new(f"c{i}", "c", weight=4))
    order = "".join([job_id[0] for job_id in await take(queue, 18)])
    # a flooded first and gets no more than its share: b and a alternate, c has four times theirs.
    assert order.count("c") == 12
    assert 2 <= order.count("a") <= 4
    assert 2 <= order.count("b") <= 4
    rest = "".join([job_id[0] for job_id in await take(queue, 60)])
    assert sorted(order + rest + "a") == sorted("a" * 30 + "b" * 12 + "c" * 12)  # nobody starves


async def test_a_dearer_job_uses_more_of_the_share(queue: Queue) -> None:
    for i in range(8):
        await queue.submit(new(f"a{i}", "a", cost=40))
        await queue.submit(new(f"b{i}", "b", cost=10))
    order = [job_id[0] for job_id in await take(queue, 10)]
    assert order.count("b") == 8


async def test_pixels_use_more_of_the_share(queue: Queue) -> None:
    """4096 of them as much as one KV token."""
    for i in range(8):
        await queue.submit(new(f"a{i}", "a", pixels=30 * 4096))
        await queue.submit(new(f"b{i}", "b"))
    order = [job_id[0] for job_id in await take(queue, 10)]
    assert order.count("b") == 8
    assert await queue.cancel("a7") == "canceled"  # and takes its pixels out of the count
    await queue.submit(new("a8", "a", pixels=30 * 4096))
    await queue.submit(new("c0", "c"))
    assert (await take(queue, 20))[-1] == "a8"


async def test_a_client_with_many_pixels_not_stored_is_passed_over(queue: Queue) -> None:
    """It alone: a worker that stores pictures more slowly than it draws them takes other clients' jobs."""
    for i in range(40):
        await queue.submit(new(f"a{i}", "a", pixels=100))
    await queue.submit(new("b0", "b", pixels=100))
    await queue.submit(new("c0", "c", pixels=100))

    async def claimed(**held: int) -> list[str]:
        claims = await queue.claim("m", "w", budget=1000, limit=8, alone=False, most_pixels=400, held=held)
        return [claim.id for claim in claims]

    assert await claimed() == ["a0", "b0", "c0", "a1"]  # a holds its half; b and c have no more
    assert await claimed(a=200) == []
    assert await claimed(a=100) == ["a2"]
    for client in "bcd":
        await queue.submit(new(f"{client}1", client, pixels=100))
    assert await claimed(a=200, b=200) == ["c1", "d1"]  # all together hold too many, but these hold none
    assert await claimed(a=199) == ["b1", "a3"]


async def test_who_comes_late_has_saved_nothing_up(queue: Queue) -> None:
    for i in range(30):
        await queue.submit(new(f"a{i}", "a"))
    await take(queue, 10)
    for i in range(10):
        await queue.submit(new(f"b{i}", "b"))
    order = [job_id[0] for job_id in await take(queue, 10)]
    assert order.count("b") <= 6


async def test_a_job_that_comes_back_turns_nobodys_time_back(queue: Queue) -> None:
    for i in range(30):
        await queue.submit(new(f"a{i}", "a"))
    await take(queue, 10)
    assert await queue.release("a0", 1) == "ok"
    assert await take(queue) == ["a0"]
    for i in range(10):
        await queue.submit(new(f"b{i}", "b"))  # as late as ever
    order = [job_id[0] for job_id in await take(queue, 10)]
    assert order.count("b") <= 6


async def test_claim_stays_within_budget_and_never_passes_the_head(queue: Queue) -> None:
    for job_id, cost in (("a", 10), ("b", 50), ("c", 10)):
        await queue.submit(new(job_id, job_id, cost=cost))
    assert await take(queue, 8, budget=30) == ["a"]  # c would fit, but b is before it
    assert await take(queue, 8, budget=49) == []
    alone = await queue.claim("m", "w", budget=5, limit=8, alone=True)
    assert [claim.id for claim in alone] == ["b"]
    assert (alone[0].attempt, alone[0].cost, alone[0].spec) == (1, 50, "b")
    assert alone[0].queued_seconds >= 0


async def test_a_canceled_job_does_not_count_against_its_client(queue: Queue) -> None:
    for i in range(20):
        await queue.submit(new(f"a{i}", "a"))
    for i in reversed(range(20)):
        await queue.cancel(f"a{i}")
    await queue.submit(new("b0", "b"))
    await queue.submit(new("b1", "b"))
    await queue.submit(new("a", "a"))
    assert await take(queue, 2) == ["a", "b0"]


async def test_a_cancel_lets_no_later_job_overtake(queue: Queue) -> None:
    for job_id in ("c", "b"):
        await queue.submit(new(job_id, "local"))
    await queue.cancel("c")
    await queue.submit(new("a", "local"))  # its name would come first, were the places the same
    assert await take(queue, 5) == ["b", "a"]


async def test_what_was_begun_counts_though_it_was_canceled(queue: Queue) -> None:
    await queue.submit(new("a0", "a"))
    await take(queue)
    await queue.release("a0", 1)
    await queue.cancel("a0")
    await queue.submit(new("a1", "a"))
    await queue.submit(new("b0", "b"))
    assert await take(queue, 2) == ["b0", "a1"]


async def test_models_do_not_block_each_other(queue: Queue) -> None:
    for i in range(5):
        await queue.submit(new(f"a{i}", model="big"))
    await queue.submit(new("b", model="small"))
    (claim,) = await queue.claim("small", "w", budget=10, limit=4, alone=False)
    assert claim.id == "b"
    stats = await queue.stats()
    assert (stats["big"].queued, stats["small"].queued, stats["small"].running) == (5, 0, 1)


async def test_idle_clients_leave_no_trace(queue: Queue, redis: Redis) -> None:
    for i in range(400):
        await queue.submit(new(f"j{i}", f"client{i}", cost=1))
        assert await queue.cancel(f"j{i}") == "canceled"
    assert await redis.hlen(CONFIG.line_key("finish_tags", "m")) < 300
