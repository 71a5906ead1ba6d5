"""What the card of each family says: tasks, settings, steps, rows of KV cache; and the published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine import Engine, Request, RequestError
from engine.card import SETTINGS, ModelCard
from engine.models.families import FAMILIES
from engine.request import RequestOutput
from tests.support.tiny import random_folder, random_text

TEXT_ROWS = 12


def model(folder: Path, family: str, **sizes: Any) -> Engine:
    return Engine.load(random_folder(folder / family, family=family, **sizes), device="cpu")


@pytest.mark.parametrize(("family", "steps"), [("llamagen", 64), ("llamagen-t2i", 64), ("par", 19)])
def test_a_fixed_order_says_what_it_honours_and_refuses_another(tmp_path: Path, family: str, steps: int) -> None:
    engine = model(tmp_path, family)
    card = engine.model
    assert card.steps == steps
    assert card.tasks == ("generate", "fork")
    assert card.settings == ("guidance_scale", "guidance_interval", "temperature", "top_k", "top_p")
    assert ModelCard.from_json(card.to_json()) == card
    for field, request in (
        ("fixed_tokens", Request(fixed_tokens={0: 1})),
        ("order", Request(order=tuple(range(64)))),
        ("grid", Request(grid=(16, 16))),
    ):
        with pytest.raises(RequestError, match=f"^{field}: .* in a fixed order"):
            engine.add(request)
    assert engine.idle
    engine.add(Request())
    updates: list[RequestOutput] = []
    while not engine.idle:
        updates += engine.step()
    assert [update.step for update in updates] == list(range(1, steps + 1))
    assert {update.steps for update in updates} == {steps}


@pytest.mark.parametrize("family", ["arpg", "arpg-t2i"])
def test_any_order_honours_all_settings(tmp_path: Path, family: str) -> None:
    card = model(tmp_path, family).model
    tasks = ("generate", "inpaint", "vary", "outpaint", "expand", "fork")
    assert (card.settings, card.steps, card.tasks) == (SETTINGS, None, tasks)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_picture_caches_more_rows_than_its_card_says(tmp_path: Path, family: str) -> None:
    """The cost of a picture, for every family. A text of all rows takes what the card says, a shorter one less."""
    engine = model(tmp_path, family, grid=(6, 6))
    card = engine.model
    pages = -(-card.cached_rows(36) // 16)
    if card.conditioning == "class":
        assert pages == 3
        assert engine.cost(Request(class_label=0, steps=36)) == 2 * engine.cost(Request(steps=36)) == 2 * 48
        return
    assert (card.cached_rows(36), pages) == (TEXT_ROWS + 35, 3)
    assert engine.cost(Request(prompt=random_text(0, TEXT_ROWS))) == 2 * 48
    assert engine.cost(Request(prompt=random_text(0, 1), negative_prompt=random_text(0, TEXT_ROWS))) == 2 * 48
    assert engine.cost(Request()) == 48
    small = model(tmp_path / "small", family, grid=(4, 4))
    assert small.cost(Request(prompt=random_text(0, 1))) == 2 * 16
    assert small.cost(Request(prompt=random_text(0, 2))) == 2 * 32


@pytest.mark.parametrize(
    ("family", "size", "millions"),
    [
        ("llamagen", "B", 110.888448),
        ("llamagen", "L", 342.910976),
        ("llamagen", "XL", 774.699520),
        ("llamagen", "XXL", 1410.972672),
        ("llamagen", "XXXL", 3893.027840),
        ("llamagen", "3B", 3096.659200),
        ("llamagen-t2i", "XL", 777.678080),
        ("par", "XL", 774.699520 + 3 * 1280 / 1e6),
        ("par", "3B", 3096.659200 + 3 * 3200 / 1e6),
    ],
)
def test_published_sizes_have_the_published_parameter_counts(family: str, size: str, millions: float) -> None:
    with torch.device("meta"):
        network = FAMILIES[family]({"transformer": size, "regions": 4}, (24, 24)).network
    assert sum(p.numel() for p in network.parameters()) == round(millions * 1e6)
    assert network.rotary((24, 24)).shape == (577, network.kv_shape.head_dim // 2, 2)
