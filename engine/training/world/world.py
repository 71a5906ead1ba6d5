"""The demo world: lit solids on a floor under a sky, sphere-traced in plain torch.

A picture is a function of (split, index): the index chooses the class, a seeded generator everything else.
Rays are in the frame of the object; the camera and the sun are rotated instead of the object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.training.world.shapes import THINGS, Thing
from engine.training.world.tracing import (
    AMBIENT,
    FLOORS,
    HALF_VIEW,
    HORIZONS,
    HUES,
    SUN,
    SUPERSAMPLING,
    ZENITHS,
    develop,
    distance,
    floor_along,
    light,
    march,
    surface,
)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Scene:
    """All that varies between pictures. Angles are in radians, shifts in frame widths."""

    label: int
    hue: int
    floor: int
    sky: int
    yaw: float
    pitch: float
    fill: float  # share of the frame that the object spans
    shift: tuple[float, float]
    sun: tuple[float, float]  # azimuth from the camera's back, elevation
    proportions: tuple[float, float]


def scene(split: str, index: int) -> Scene:
    """The scene number `index` of a split; any 16 in a row hold each class once."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), index])))
    label = index % len(THINGS)
    thing = THINGS[label]
    side = 1.0 if rng.random() < 0.5 else -1.0
    return Scene(
        label=label,
        hue=thing.hues[int(rng.integers(len(thing.hues)))],
        floor=int(rng.integers(len(FLOORS))),
        sky=int(rng.integers(len(HORIZONS))),
        yaw=math.radians(rng.uniform(*thing.turn)),
        pitch=math.radians(rng.uniform(9.0, 14.0)),
        fill=rng.uniform(0.56, 0.66),
        shift=(rng.uniform(-0.05, 0.05), rng.uniform(-0.02, 0.03)),
        sun=(side * math.radians(rng.uniform(35.0, 65.0)), math.radians(rng.uniform(40.0, 55.0))),
        proportions=(rng.random(), rng.random()),
    )


def render(scenes: list[Scene], size: int = 128) -> np.ndarray:
    """uint8 (n, size, size, 3), sRGB."""
    return _by_class(_render_class, scenes, size)


def silhouettes(scenes: list[Scene], size: int = 128) -> np.ndarray:
    """bool (n, size, size): the pixels that the object reaches into, its shadow not counted."""
    return _by_class(_silhouettes_of_class, scenes, size)


def _by_class(draw: Callable[[Thing, list[Scene], int], np.ndarray], scenes: list[Scene], size: int) -> np.ndarray:
    pictures: dict[int, np.ndarray] = {}
    for label in sorted({s.label for s in scenes}):
        members = [i for i, s in enumerate(scenes) if s.label == label]
        for start in range(0, len(members), 4):  # the rays of four scenes fit into the CPU's cache
            batch = members[start : start + 4]
            pictures |= zip(batch, draw(THINGS[label], [scenes[i] for i in batch], size), strict=True)
    return np.stack([pictures[i] for i in range(len(scenes))])


@dataclass(frozen=True, slots=True)
class _Frame:
    """The rays of a batch, flattened; `owner` is the scene of each."""

    origin: Tensor  # (n, 3)
    sun: Tensor  # (n, 3)
    proportions: Tensor  # (n, 2)
    direction: Tensor  # (3, rays)
    owner: Tensor  # (rays,)


def _column(scenes: list[Scene], name: str) -> Tensor:
    return torch.tensor([getattr(s, name) for s in scenes], dtype=torch.float32)


def _frame(thing: Thing, scenes: list[Scene], side: int) -> _Frame:
    yaw, pitch, fill = _column(scenes, "yaw"), _column(scenes, "pitch"), _column(scenes, "fill")
    shift, sun = _column(scenes, "shift"), _column(scenes, "sun")

    def towards(azimuth: Tensor, elevation: Tensor) -> Tensor:
        flat = elevation.cos()
        return torch.stack([azimuth.sin() * flat, elevation.sin(), -azimuth.cos() * flat], -1)

    back = towards(yaw, pitch)
    apart = thing.extent / (HALF_VIEW * fill)
    right = torch.stack([yaw.cos(), torch.zeros_like(yaw), yaw.sin()], -1)
    up = torch.linalg.cross(right, back)
    up = up * torch.sign(up[:, 1:2])
    half = (apart * HALF_VIEW)[:, None]
    target = torch.tensor([0.0, thing.middle, 0.0]) - 2 * half * (shift[:, :1] * right + shift[:, 1:] * up)
    ticks = (torch.arange(side) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = (
        -back[:, None]
        + HALF_VIEW * across.reshape(1, -1, 1) * right[:, None]
        - HALF_VIEW * down.reshape(1, -1, 1) * up[:, None]
    )
    rays = (rays * (rays * rays).sum(-1, keepdim=True).rsqrt()).permute(2, 0, 1).reshape(3, -1)
    owner = torch.arange(len(scenes)).repeat_interleave(side * side)
    return _Frame(
        target + back * apart[:, None],
        towards(yaw + sun[:, 0], sun[:, 1]),
        _column(scenes, "proportions"),
        rays,
        owner,
    )


def _silhouettes_of_class(thing: Thing, scenes: list[Scene], size: int) -> np.ndarray:
    frame = _frame(thing, scenes, size * SUPERSAMPLING)
    origin, proportions = frame.origin.T[:, frame.owner], frame.proportions.T[:, frame.owner]
    hit = march(thing, origin, frame.direction, proportions) < floor_along(origin, frame.direction)
    samples = hit.reshape(len(scenes), size, SUPERSAMPLING, size, SUPERSAMPLING).numpy()
    return np.asarray(samples.any((2, 4)))


def _render_class(thing: Thing, scenes: list[Scene], size: int) -> np.ndarray:
    side = size * SUPERSAMPLING
    frame = _frame(thing, scenes, side)
    direction = frame.direction

    def per_ray(values: Tensor) -> Tensor:  # (n, k) to (k, rays)
        return values.T[:, :, None].expand(-1, -1, side * side).reshape(values.shape[1], -1)

    origin, sun, proportions = per_ray(frame.origin), per_ray(frame.sun), per_ray(frame.proportions)
    to_object = march(thing, origin, direction, proportions)
    to_floor = floor_along(origin, direction)

    sky = torch.tensor([s.sky for s in scenes])
    horizon, zenith = per_ray(HORIZONS[sky]), per_ray(ZENITHS[sky])
    colour = torch.lerp(horizon, zenith, (direction[1].clamp_min(0) * 3.2).clamp_max(1).sqrt())

    on_floor = torch.nonzero((to_floor < to_object) & torch.isfinite(to_floor)).squeeze(1)
    o, d, light_from, q = (x.index_select(1, on_floor) for x in (origin, direction, sun, proportions))
    point = torch.addcmul(o, d, to_floor[on_floor])
    ground = FLOORS.T[:, torch.tensor([s.floor for s in scenes])[frame.owner[on_floor]]]
    lit = light(thing, point, light_from, q)
    near = distance(thing, point, q).clamp(0, 0.6) / 0.6  # contact shade
    shaded = ground * (SUN[:, None] * (0.78 * lit) + AMBIENT[:, None] * (0.45 + 0.55 * near) * 0.75)
    away = (to_floor[on_floor] / frame.origin[frame.owner[on_floor]].norm(dim=1) - 1.0).clamp_min(0)
    colour[:, on_floor] = torch.lerp(shaded, horizon[:, on_floor], 1 - torch.exp(-0.10 * away * away))

    on_object = torch.nonzero(to_object < to_floor).squeeze(1)
    o, d = origin.index_select(1, on_object), direction.index_select(1, on_object)
    owner = frame.owner[on_object]
    colour[:, on_object] = surface(
        thing,
        HUES.T[:, torch.tensor([s.hue for s in scenes])[owner]],
        FLOORS.T[:, torch.tensor([s.floor for s in scenes])[owner]],
        frame.sun.T[:, owner],
        frame.proportions.T[:, owner],
        torch.addcmul(o, d, to_object[on_object]),
        d,
    )
    return develop(colour, len(scenes), size, size)
