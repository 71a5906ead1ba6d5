"""The sixteen things of the demo world as signed-distance functions.

A shape maps points, three tensors x, y, z of one length, and two proportions u, v in [0, 1] per point to one
distance per material slot (main hue, second, third); the surface is their minimum. Things stand on the floor
y = 0 and are about two units tall. The primitives are the well-known ones of Inigo Quilez's "distance
functions"; some are lower bounds of the distance, which sphere tracing allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Point = tuple[Tensor, Tensor, Tensor]
Distances = Sequence[Tensor]
Shape = Callable[[Point, Tensor, Tensor], Distances]


def _length(*parts: Tensor) -> Tensor:
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = torch.addcmul(total, part, part)
    return total.sqrt_()


def _ball(p: Point, y: float | Tensor, r: float | Tensor) -> Tensor:
    return _length(p[0], p[1] - y, p[2]) - r


def _slab(qx: Tensor, qy: Tensor, r: float) -> Tensor:
    """Distance to a corner region given the distances to its two walls, edges rounded by r."""
    qx, qy = qx + r, qy + r
    return _length(qx.clamp_min(0), qy.clamp_min(0)) + torch.maximum(qx, qy).clamp_max(0) - r


def _box(p: Point, centre: tuple, half: tuple, r: float = 0.03) -> Tensor:
    qx, qy, qz = ((c - m).abs() - (h - r) for c, m, h in zip(p, centre, half, strict=True))
    outside = _length(qx.clamp_min(0), qy.clamp_min(0), qz.clamp_min(0))
    return outside + torch.maximum(torch.maximum(qx, qy), qz).clamp_max(0) - r


def _cylinder(p: Point, y: float | Tensor, half: float | Tensor, radius: float | Tensor, r: float = 0.03) -> Tensor:
    return _slab(_length(p[0], p[2]) - radius, (p[1] - y).abs() - half, r)


def _cone(p: Point, base: float, height: float | Tensor, radius: float | Tensor) -> Tensor:
    slope = torch.as_tensor(height * height + radius * radius).sqrt()
    side = (_length(p[0], p[2]) * height + (p[1] - base - height) * radius) / slope
    return torch.maximum(side, base - p[1])


def _sphere(p: Point, u: Tensor, v: Tensor) -> Distances:
    return (_ball(p, 1.0, 1.0),)


def _cube(p: Point, u: Tensor, v: Tensor) -> Distances:
    return (_box(p, (0.0, 0.8, 0.0), (0.8, 0.8, 0.8), 0.06),)


def _ring(p: Point, u: Tensor, v: Tensor) -> Distances:
    tube = 0.27 + 0.08 * u
    return (_length(_length(p[0], p[1] - 1.0) - (1.0 - tube), p[2]) - tube,)


def _cylinder_shape(p: Point, u: Tensor, v: Tensor) -> Distances:
    half = 0.85 + 0.15 * u
    return (_cylinder(p, half, half, 0.68 - 0.1 * u, 0.04),)


def _cone_shape(p: Point, u: Tensor, v: Tensor) -> Distances:
    return (_cone(p, 0.0, 1.8 + 0.25 * u, 0.85 + 0.1 * v) - 0.02,)


def _pyramid(p: Point, u: Tensor, v: Tensor) -> Distances:
    height, half = 1.35 + 0.2 * u, 1.0
    side = torch.maximum(p[0].abs(), p[2].abs())
    faces = (side * height + (p[1] - height) * half) / (height * height + half * half).sqrt()
    return (torch.maximum(faces, -p[1]) - 0.02,)


def _diamond(p: Point, u: Tensor, v: Tensor) -> Distances:
    """A cut stone: an eight-sided double cone with a flat top, balanced on its point."""
    a, b = p[0].abs(), p[2].abs()
    ring = torch.maximum(torch.maximum(a, b), (a + b) * math.sqrt(0.5))
    below = (ring * 1.15 - p[1] * 0.95) / 1.492
    above = (ring * 0.42 + (p[1] - 1.15) * 0.45 - 0.95 * 0.42) / 0.6155
    return (torch.maximum(torch.maximum(below, above), p[1] - 1.55),)


def _star(p: Point, u: Tensor, v: Tensor) -> Distances:
    """A five-pointed star standing on two of its points, extruded."""
    c, s, radius = math.cos(math.pi / 5), math.sin(math.pi / 5), 1.08
    x, y = p[0].abs(), p[1] - c * radius
    fold = 2.0 * (c * x - s * y).clamp_min(0)
    x, y = x - c * fold, y + s * fold
    fold = 2.0 * (-c * x - s * y).clamp_min(0)
    x, y = (x + c * fold).abs(), y + s * fold - radius
    inner = 0.42 + 0.06 * u
    edge_x, edge_y = inner * s, inner * c - 1.0
    along = ((x * edge_x + y * edge_y) / (edge_x * edge_x + edge_y * edge_y)).clamp(0, radius)
    flat = _length(x - edge_x * along, y - edge_y * along) * torch.sign(y * edge_x - x * edge_y)
    return (_slab(flat, p[2].abs() - 0.24, 0.05),)


def _mushroom(p: Point, u: Tensor, v: Tensor) -> Distances:
    stem = _slab(_length(p[0], p[2]) - (0.34 - 0.08 * p[1].clamp(0, 1)), (p[1] - 0.55).abs() - 0.55, 0.05)
    wide, high = 1.0, 0.80 + 0.15 * u
    x, y, z = p[0] / wide, (p[1] - 0.95) / high, p[2] / wide
    k0 = _length(x, y, z)
    dome = k0 * (k0 - 1.0) / _length(x / wide, y / high, z / wide).clamp_min(1e-4)
    cap = torch.maximum(dome, 0.95 - p[1])
    spots = torch.full_like(dome, 9.0)
    for azimuth, rise in ((0.3, 0.55), (1.7, 0.6), (2.9, 0.5), (4.1, 0.6), (5.3, 0.55), (0.0, 1.55)):
        at_x, at_z = math.cos(rise) * math.cos(azimuth), math.cos(rise) * math.sin(azimuth)
        spot = _length(p[0] - at_x, p[1] - 0.95 - high * math.sin(rise), p[2] - at_z)
        spots = torch.minimum(spots, spot - 0.2)
    return (cap, torch.minimum(stem, torch.maximum(spots, cap - 0.025)))


def _tree(p: Point, u: Tensor, v: Tensor) -> Distances:
    leaves = _cone(p, 0.5, 0.95, 0.88)
    leaves = torch.minimum(leaves, _cone(p, 0.98, 0.85, 0.7))
    leaves = torch.minimum(leaves, _cone(p, 1.42, 0.75 + 0.15 * u, 0.5))
    return (leaves - 0.015, _cylinder(p, 0.26, 0.28, 0.2))


def _house(p: Point, u: Tensor, v: Tensor) -> Distances:
    walls = _box(p, (0.0, 0.5, 0.0), (0.72, 0.5, 0.9), 0.02)
    slope = ((p[0].abs() * 0.75 + (p[1] - 1.72) * 0.92) / 1.187).abs() - 0.06
    roof = torch.maximum(torch.maximum(slope, p[2].abs() - 1.02), 0.86 - p[1])
    under_roof = (p[0].abs() * 0.75 + (p[1] - 1.66) * 0.92) / 1.187
    gable = torch.maximum(torch.maximum(under_roof, p[2].abs() - 0.9), 0.9 - p[1])
    door = _box((p[0], p[1], p[2].abs()), (0.0, 0.33, 0.9), (0.19, 0.33, 0.03), 0.01)
    windows = _box((p[0].abs(), p[1], p[2].abs()), (0.72, 0.58, 0.4), (0.03, 0.18, 0.16), 0.01)
    chimney = _box(p, (0.4, 1.5, 0.35), (0.12, 0.35, 0.12), 0.01)
    return (roof, torch.minimum(torch.minimum(walls, gable), chimney), torch.minimum(door, windows))


def _snowman(p: Point, u: Tensor, v: Tensor) -> Distances:
    snow = torch.minimum(torch.minimum(_ball(p, 0.58, 0.64), _ball(p, 1.32, 0.46)), _ball(p, 1.88, 0.34))
    hat = torch.minimum(_cylinder(p, 2.13, 0.04, 0.40), _cylinder(p, 2.3, 0.2, 0.25))
    scarf = _length(_length(p[0], p[2]) - 0.30, (p[1] - 1.64) * 0.9) - 0.09
    eyes = _length(p[0].abs() - 0.13, p[1] - 1.95, p[2] + 0.30) - 0.055
    buttons = torch.minimum(
        _length(p[0], p[1] - 1.28, p[2] + 0.46) - 0.06, _length(p[0], p[1] - 1.05, p[2] + 0.42) - 0.06
    )
    nose_z = (p[2] + 0.30).clamp(-0.32, 0)
    nose = _length(p[0], p[1] - 1.86, p[2] + 0.30 - nose_z) - (0.075 + 0.17 * nose_z)
    return (torch.minimum(hat, scarf), snow, torch.minimum(eyes, buttons), nose * 0.9)


def _legs(p: Point, half_x: float, half_z: float, height: float, thick: float) -> Tensor:
    mirrored = (p[0].abs(), p[1], p[2].abs())
    return _box(mirrored, (half_x, height / 2, half_z), (thick, height / 2, thick), 0.02)


def _table(p: Point, u: Tensor, v: Tensor) -> Distances:
    top = _box(p, (0.0, 1.08, 0.0), (1.05, 0.09, 0.72), 0.03)
    return (top, _legs(p, 0.85, 0.54, 1.02, 0.09))


def _chair(p: Point, u: Tensor, v: Tensor) -> Distances:
    seat = _box(p, (0.0, 0.86, 0.0), (0.56, 0.09, 0.56), 0.04)
    back = _box(p, (0.0, 1.62, 0.5), (0.5, 0.34, 0.07), 0.04)
    posts = _box((p[0].abs(), p[1], p[2]), (0.46, 1.0, 0.5), (0.07, 0.98, 0.07), 0.02)
    return (torch.minimum(seat, back), torch.minimum(_legs(p, 0.46, 0.46, 0.82, 0.075), posts))


def _rocket(p: Point, u: Tensor, v: Tensor) -> Distances:
    radius = _length(p[0], p[2])
    rise = (p[1] - 1.15) / 1.12
    body = torch.maximum((radius - 0.46 * (1.0 - rise * rise)) * 0.75, 0.32 - p[1])
    nose = torch.maximum(body - 0.015, 1.68 - p[1])
    a, b = torch.maximum(p[0].abs(), p[2].abs()), torch.minimum(p[0].abs(), p[2].abs())
    fin = torch.maximum((a - 0.86 + (p[1] - 0.1) * 0.55) * 0.87, torch.maximum(0.28 - a, b - 0.06))
    fin = torch.maximum(torch.maximum(fin, (0.1 - p[1])), torch.maximum(p[1] - 0.95, -(a * 0.4 - 0.24 + p[1]) * 0.9))
    porthole = _length(p[0], p[1] - 1.33, p[2].abs() - 0.42) - 0.17
    return (torch.minimum(nose, fin), body, porthole)


def _mug(p: Point, u: Tensor, v: Tensor) -> Distances:
    outer = _cylinder(p, 0.8, 0.8, 0.68, 0.06)
    hollow = _slab(_length(p[0], p[2]) - 0.57, 0.3 - p[1], 0.02)
    wall = torch.maximum(outer, -hollow)
    handle = _length(_length(p[0] - 0.68, p[1] - 0.82) - 0.42, p[2]) - 0.1
    handle = torch.maximum(handle, 0.63 - p[0])
    coffee = torch.maximum(_length(p[0], p[2]) - 0.6, (p[1] - 1.2).abs() - 0.06)
    return (torch.minimum(wall, handle), coffee)


@dataclass(frozen=True, slots=True)
class Thing:
    """A class of the world: its shape, and how the camera and the palette treat it."""

    name: str
    synonyms: tuple[str, ...]
    shape: Shape
    middle: float  # height at which the camera looks; centre of the bounding sphere
    bound: float  # radius of the bounding sphere
    extent: float  # half of what should fill the frame
    second: str = "cream"  # material names of the slots after the main hue
    third: str = "dark"
    fourth: str = "carrot"
    turn: tuple[float, float] = (0.0, 360.0)  # the yaw range in degrees: some things have a face
    hues: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)


THINGS: tuple[Thing, ...] = (
    Thing("sphere", ("ball", "orb"), _sphere, 1.0, 1.02, 1.0),
    Thing("cube", ("box", "block"), _cube, 0.8, 1.42, 1.08),
    Thing("ring", ("torus", "donut", "doughnut"), _ring, 1.0, 1.03, 0.98, turn=(-50.0, 50.0)),
    Thing("cylinder", ("can", "drum", "column"), _cylinder_shape, 0.95, 1.28, 1.0),
    Thing("cone", ("party hat",), _cone_shape, 0.95, 1.45, 1.10),
    Thing("pyramid", (), _pyramid, 0.72, 1.64, 1.10),
    Thing("diamond", ("gem", "jewel", "crystal"), _diamond, 0.8, 1.28, 1.0),
    Thing("star", (), _star, 0.98, 1.25, 1.0, turn=(-45.0, 45.0)),
    Thing("mushroom", ("toadstool",), _mushroom, 0.93, 1.4, 1.08),
    Thing("tree", ("fir", "pine", "christmas tree"), _tree, 1.15, 1.36, 1.1, second="wood", hues=(3, 4)),
    Thing("house", ("home", "cottage", "hut"), _house, 0.88, 1.55, 1.1, third="wood"),
    Thing("snowman", (), _snowman, 1.22, 1.38, 1.1, second="white", turn=(-40.0, 40.0)),
    Thing("table", ("desk",), _table, 0.66, 1.42, 1.05, second="wood"),
    Thing("chair", ("seat",), _chair, 0.98, 1.3, 1.0, second="wood", turn=(-65.0, 65.0)),
    Thing(
        "rocket", ("spaceship", "missile"), _rocket, 1.16, 1.45, 1.05, second="white", third="glass", turn=(-45.0, 45.0)
    ),
    Thing("mug", ("cup",), _mug, 0.8, 1.45, 1.0, second="coffee", turn=(-45.0, 45.0)),
)
