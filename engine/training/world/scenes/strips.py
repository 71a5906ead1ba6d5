"""Renders panoramas, thing by thing, each in the perspective of a camera that stands before it.

Each thing casts its shadow on the floor, not on other things.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.training.world.scenes.panorama import NEAR, WIDTH, Panorama, Placed
from engine.training.world.shapes import THINGS
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

SHADOW = 3.4  # how far to the side a thing's shadow reaches at most, in units
MAJORITY = SUPERSAMPLING**2 // 2  # a pixel belongs to a thing that has so many of its samples


@dataclass(frozen=True, slots=True)
class Strip:
    """A rendered panorama: picture uint8 (H, W, 3); owners uint8 (H, W): 0 for floor and sky, k + 1 for thing k of the
    panorama; areas (things,): the pixels of each thing if nothing hid it and the panorama went
    on. The upper or lower border cuts a row of a thing in 1 of 200."""

    picture: np.ndarray
    owners: np.ndarray
    areas: np.ndarray


def render_strip(world: Panorama, size: int = 128) -> Strip:
    """size: the height in pixels; the width is WIDTH times as much."""
    high, wide = size * SUPERSAMPLING, round(WIDTH * size) * SUPERSAMPLING
    colour, on_floor = _background(world, high)
    colour = colour[:, :, None].expand(-1, -1, wide).contiguous()
    lit, near = torch.ones(high, wide), torch.ones(high, wide)
    for one in world.things:
        _shade_floor(world, one, on_floor, lit, near)
    ground = FLOORS[world.floor][:, None, None]
    shaded = ground * (SUN[:, None, None] * (0.78 * lit) + AMBIENT[:, None, None] * (0.45 + 0.55 * near) * 0.75)
    away = _away(world, _rows(world, high)[1])[:, None]
    haze = HORIZONS[world.sky][:, None, None]
    colour = torch.where(on_floor[:, None], torch.lerp(shaded, haze.expand_as(shaded), away.expand(high, wide)), colour)
    owners, areas = torch.zeros(high, wide, dtype=torch.uint8), []
    for number, one in enumerate(world.things, start=1):
        areas.append(_paint(world, one, number, colour, owners))
    picture = develop(colour.flatten(1), 1, size, wide // SUPERSAMPLING)[0]
    return Strip(picture, _majority(owners, len(world.things)), np.array(areas, np.int32))


def _rows(world: Panorama, high: int) -> tuple[Tensor, Tensor]:
    """Straight ahead in each row of samples: direction (2, high), up and forward, of length 1; how far the floor is."""
    pitch = torch.tensor(world.pitch)
    down = HALF_VIEW * ((torch.arange(high) + 0.5) / high * 2 - 1)
    rise = -pitch.sin() - down * pitch.cos()
    ahead = pitch.cos() - down * pitch.sin()
    direction = torch.stack([rise, ahead])
    direction = direction / direction.norm(dim=0)
    origin = torch.tensor([0.0, world.height])[:, None].expand(-1, high)
    return direction, floor_along(origin, direction[[1, 0]])


def _background(world: Panorama, high: int) -> tuple[Tensor, Tensor]:
    """The sky (3, high), and which rows are floor."""
    direction, to_floor = _rows(world, high)
    share = (direction[0].clamp_min(0) * 3.2).clamp_max(1).sqrt()
    sky = torch.lerp(HORIZONS[world.sky][:, None], ZENITHS[world.sky][:, None], share)
    return sky, torch.isfinite(to_floor)


def _away(world: Panorama, to_point: Tensor) -> Tensor:
    """Share of haze at a distance from the camera; none at near things."""
    usual = (sum(NEAR) / 2) / np.cos(world.pitch)
    away = (to_point / usual - 1.0).clamp(0, 50)
    return 1 - torch.exp(-0.10 * away * away)


@dataclass(frozen=True, slots=True)
class _Rays:
    """Through the samples of some rows and of the columns around a thing, which may lie outside the picture. In the
    thing's frame."""

    origin: Tensor  # (3, 1)
    sun: Tensor  # (3, 1)
    direction: Tensor  # (3, rows · columns)
    proportions: Tensor  # (2, 1)
    columns: range


def _rays(world: Panorama, one: Placed, high: int, rows: Tensor, reach: float) -> _Rays:
    """reach: how far to either side, in heights."""
    columns = range(round((one.x - reach) * high), round((one.x + reach) * high) + 1)
    yaw, pitch = torch.tensor(one.yaw), torch.tensor(world.pitch)

    def towards(azimuth: Tensor, elevation: Tensor) -> Tensor:
        flat = elevation.cos()
        return torch.stack([azimuth.sin() * flat, elevation.sin(), -azimuth.cos() * flat])

    back, flat = towards(yaw, pitch), towards(yaw, torch.tensor(0.0))
    right = torch.stack([yaw.cos(), torch.tensor(0.0), yaw.sin()])
    up = torch.stack([-yaw.sin() * pitch.sin(), pitch.cos(), yaw.cos() * pitch.sin()])
    across = ((torch.arange(columns.start, columns.stop) + 0.5) / high - one.x) * 2
    down = (rows + 0.5) / high * 2 - 1
    rays = (
        -back[:, None, None]
        + HALF_VIEW * across[None, None, :] * right[:, None, None]
        - HALF_VIEW * down[None, :, None] * up[:, None, None]
    ).flatten(1)
    azimuth, elevation = torch.tensor(world.sun[0]), torch.tensor(world.sun[1])
    return _Rays(
        origin=(flat * one.depth + torch.tensor([0.0, world.height, 0.0]))[:, None],
        sun=towards(yaw + azimuth, elevation)[:, None],
        direction=rays * (rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2]).rsqrt(),
        proportions=torch.tensor(one.proportions)[:, None],
        columns=columns,
    )


def _inside(columns: range, wide: int) -> tuple[slice, slice]:
    """The part of the columns inside the picture, as a slice of them and as a slice of the picture."""
    first, last = max(columns.start, 0), min(columns.stop, wide)
    return slice(first - columns.start, max(first, last) - columns.start), slice(first, max(first, last))


def _shade_floor(world: Panorama, one: Placed, on_floor: Tensor, lit: Tensor, near: Tensor) -> None:
    """Lower the light that reaches the floor, and its open sky, around a thing."""
    thing, (high, wide) = THINGS[one.label], lit.shape
    rows = torch.nonzero(on_floor).squeeze(1)
    rays = _rays(world, one, high, rows, (SHADOW + thing.bound) / (2 * HALF_VIEW * (one.depth - thing.bound)))
    within, columns = _inside(rays.columns, wide)
    direction = rays.direction.unflatten(1, (len(rows), -1))[:, :, within].flatten(1)
    count = direction.shape[1]
    origin = rays.origin.expand(-1, count)
    point = torch.addcmul(origin, direction, floor_along(origin, direction))
    reach = SHADOW + 2 * thing.bound
    around = torch.nonzero(point[0] * point[0] + point[2] * point[2] < reach * reach).squeeze(1)
    point = point.index_select(1, around)
    sun, proportions = rays.sun.expand(-1, len(around)), rays.proportions.expand(-1, len(around))
    for values, found in (
        (lit, light(thing, point, sun, proportions)),
        (near, distance(thing, point, proportions).clamp(0, 0.6) / 0.6),
    ):
        part = torch.ones(count).index_copy(0, around, found).view(len(rows), -1)
        values[rows, columns] = torch.minimum(values[rows, columns], part)


def _paint(world: Panorama, one: Placed, number: int, colour: Tensor, owners: Tensor) -> int:
    """Draw a thing over what is behind it; the pixels of its whole silhouette."""
    thing, (high, wide) = THINGS[one.label], owners.shape
    reach = 1.1 * thing.bound / (2 * HALF_VIEW * (one.depth - thing.bound))
    rays = _rays(world, one, high, torch.arange(high), reach)
    count = rays.direction.shape[1]
    origin, proportions = rays.origin.expand(-1, count), rays.proportions.expand(-1, count)
    to_thing = march(thing, origin, rays.direction, proportions)
    whole = (to_thing < floor_along(origin, rays.direction)).view(high, -1)
    within, _ = _inside(rays.columns, wide)
    drawn = torch.zeros_like(whole)
    drawn[:, within] = whole[:, within]
    chosen = torch.nonzero(drawn.flatten()).squeeze(1)
    direction, far = rays.direction.index_select(1, chosen), to_thing[chosen]
    found = surface(
        thing,
        HUES[one.hue][:, None],
        FLOORS[world.floor][:, None],
        rays.sun.expand(-1, len(chosen)),
        rays.proportions.expand(-1, len(chosen)),
        torch.addcmul(rays.origin.expand(-1, len(chosen)), direction, far),
        direction,
    )
    found = torch.lerp(found, HORIZONS[world.sky][:, None].expand_as(found), _away(world, far))
    row, column = chosen // len(rays.columns), chosen % len(rays.columns) + rays.columns.start
    colour[:, row, column] = found
    owners[row, column] = number
    # The columns outside the picture are aligned with whole pixels, as the picture's own are.
    start = rays.columns.start % SUPERSAMPLING
    padded = torch.nn.functional.pad(whole.float(), (start, -(len(rays.columns) + start) % SUPERSAMPLING))
    samples = padded.unflatten(1, (-1, SUPERSAMPLING)).unflatten(0, (-1, SUPERSAMPLING)).sum((1, 3))
    return int((samples >= MAJORITY).sum())


def _majority(owners: Tensor, things: int) -> np.ndarray:
    """uint8 (H, W): the nearest thing that has the majority of a pixel's samples."""
    samples = owners.unflatten(1, (-1, SUPERSAMPLING)).unflatten(0, (-1, SUPERSAMPLING))
    found = torch.zeros(samples.shape[0], samples.shape[2], dtype=torch.uint8)
    for number in range(1, things + 1):  # from far to near
        found[(samples == number).sum((1, 3)) >= MAJORITY] = number
    return np.asarray(found.numpy())
