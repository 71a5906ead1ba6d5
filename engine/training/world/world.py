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

from engine.training.world.shapes import THINGS, Distances, Point, Thing

SPLITS = ("train", "validation", "test")
SUPERSAMPLING = 2
HALF_VIEW = 0.36  # tangent of half the angle of view

# Linear light.
HUES = torch.tensor(
    [
        [0.71, 0.03, 0.04],  # red
        [0.88, 0.21, 0.02],  # orange
        [0.90, 0.55, 0.04],  # yellow
        [0.10, 0.42, 0.08],  # green
        [0.02, 0.38, 0.37],  # teal
        [0.03, 0.14, 0.68],  # blue
        [0.24, 0.07, 0.52],  # purple
        [0.85, 0.17, 0.33],  # pink
    ]
)
MATERIALS = {
    "cream": (0.84, 0.75, 0.58),
    "white": (0.88, 0.89, 0.92),
    "wood": (0.30, 0.14, 0.06),
    "dark": (0.03, 0.03, 0.045),
    "glass": (0.10, 0.35, 0.55),
    "carrot": (0.90, 0.25, 0.02),
    "coffee": (0.07, 0.025, 0.01),
}
FLOORS = torch.tensor([[0.70, 0.55, 0.36], [0.34, 0.46, 0.27], [0.40, 0.41, 0.52], [0.58, 0.30, 0.21]])
HORIZONS = torch.tensor([[0.74, 0.86, 0.95], [0.96, 0.76, 0.58], [0.76, 0.90, 0.86]])
ZENITHS = torch.tensor([[0.22, 0.46, 0.84], [0.72, 0.34, 0.40], [0.20, 0.55, 0.58]])
SUN = torch.tensor([1.00, 0.93, 0.82])
AMBIENT = torch.tensor([0.42, 0.46, 0.54])


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
    distance = thing.extent / (HALF_VIEW * fill)
    right = torch.stack([yaw.cos(), torch.zeros_like(yaw), yaw.sin()], -1)
    up = torch.linalg.cross(right, back)
    up = up * torch.sign(up[:, 1:2])
    half = (distance * HALF_VIEW)[:, None]
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
        target + back * distance[:, None],
        towards(yaw + sun[:, 0], sun[:, 1]),
        _column(scenes, "proportions"),
        rays,
        owner,
    )


def _distances(thing: Thing, point: Tensor, proportions: Tensor) -> Distances:
    p: Point = (point[0], point[1], point[2])
    return thing.shape(p, proportions[0], proportions[1])


def _distance(thing: Thing, point: Tensor, proportions: Tensor) -> Tensor:
    first, *rest = _distances(thing, point, proportions)
    for other in rest:
        first = torch.minimum(first, other)
    return first


def _span(thing: Thing, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (3, n) enter and leave the bounding sphere; leave < 0 means never."""
    x, y, z = origin[0], origin[1] - thing.middle, origin[2]
    b = x * direction[0] + y * direction[1] + z * direction[2]
    inside = b * b - (x * x + y * y + z * z) + thing.bound**2
    root = inside.clamp_min(0).sqrt()
    leave = torch.where(inside > 0, root - b, torch.full_like(b, -1.0))
    return (-b - root).clamp_min(0), leave


def _march(thing: Thing, origin: Tensor, direction: Tensor, proportions: Tensor, steps: int = 40) -> Tensor:
    """Distance along each ray to the surface, inf where it misses."""
    found = torch.full((direction.shape[1],), torch.inf)
    t, leave = _span(thing, origin, direction)
    live = torch.nonzero(leave > 0).squeeze(1)
    t, leave = t[live], leave[live]
    o, d, q = (x.index_select(1, live) for x in (origin, direction, proportions))
    for step in range(steps):
        gap = _distance(thing, torch.addcmul(o, d, t), q)
        t = t + gap * 0.95
        if step % 4 == 3 or step == steps - 1:
            near = gap < 0.004 if step < steps - 1 else gap < 0.03
            found[live[near & (t < leave)]] = t[near & (t < leave)]
            keep = torch.nonzero(~near & (t < leave)).squeeze(1)
            live, t, leave = live[keep], t[keep], leave[keep]
            o, d, q = (x.index_select(1, keep) for x in (o, d, q))
            if not len(live):
                break
    return found


def _light(thing: Thing, point: Tensor, sun: Tensor, proportions: Tensor, steps: int = 18) -> Tensor:
    """Share of the sun that reaches each point: soft shadows by the narrowest pass of the ray."""
    share = torch.ones(point.shape[1])
    t, leave = _span(thing, point, sun)
    live = torch.nonzero(leave > 0).squeeze(1)
    t, leave = t[live].clamp_min(0.03), leave[live]
    o, d, q = (x.index_select(1, live) for x in (point, sun, proportions))
    narrow = torch.ones_like(t)
    for _ in range(steps):
        gap = _distance(thing, torch.addcmul(o, d, t), q)
        narrow = torch.minimum(narrow, torch.where(t < leave, 9.0 * gap / t, 1.0))
        t = t + gap.clamp(0.03, 0.3)
    narrow = narrow.clamp(0, 1)
    share[live] = narrow * narrow * (3 - 2 * narrow)
    return share


def _normal(thing: Thing, point: Tensor, proportions: Tensor) -> Tensor:
    """Gradient of the distance by four samples on a tetrahedron."""
    total = torch.zeros_like(point)
    for corner in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0)):
        k = torch.tensor(corner)[:, None]
        total += k * _distance(thing, point + 0.004 * k, proportions)
    return total / total.norm(dim=0).clamp_min(1e-6)


def _to_floor(origin: Tensor, direction: Tensor) -> Tensor:
    """Distance along each ray to the floor, inf where it misses."""
    return torch.where(direction[1] < -1e-4, -origin[1] / direction[1].clamp_max(-1e-4), torch.inf)


def _silhouettes_of_class(thing: Thing, scenes: list[Scene], size: int) -> np.ndarray:
    frame = _frame(thing, scenes, size * SUPERSAMPLING)
    origin, proportions = frame.origin.T[:, frame.owner], frame.proportions.T[:, frame.owner]
    hit = _march(thing, origin, frame.direction, proportions) < _to_floor(origin, frame.direction)
    samples = hit.reshape(len(scenes), size, SUPERSAMPLING, size, SUPERSAMPLING).numpy()
    return np.asarray(samples.any((2, 4)))


def _render_class(thing: Thing, scenes: list[Scene], size: int) -> np.ndarray:
    side = size * SUPERSAMPLING
    frame = _frame(thing, scenes, side)
    direction = frame.direction

    def per_ray(values: Tensor) -> Tensor:  # (n, k) to (k, rays)
        return values.T[:, :, None].expand(-1, -1, side * side).reshape(values.shape[1], -1)

    origin, sun, proportions = per_ray(frame.origin), per_ray(frame.sun), per_ray(frame.proportions)
    to_object = _march(thing, origin, direction, proportions)
    to_floor = _to_floor(origin, direction)

    sky = torch.tensor([s.sky for s in scenes])
    horizon, zenith = per_ray(HORIZONS[sky]), per_ray(ZENITHS[sky])
    colour = torch.lerp(horizon, zenith, (direction[1].clamp_min(0) * 3.2).clamp_max(1).sqrt())

    on_floor = torch.nonzero((to_floor < to_object) & torch.isfinite(to_floor)).squeeze(1)
    o, d, light_from, q = (x.index_select(1, on_floor) for x in (origin, direction, sun, proportions))
    point = torch.addcmul(o, d, to_floor[on_floor])
    ground = FLOORS.T[:, torch.tensor([s.floor for s in scenes])[frame.owner[on_floor]]]
    lit = _light(thing, point, light_from, q)
    near = _distance(thing, point, q).clamp(0, 0.6) / 0.6  # contact shade
    shaded = ground * (SUN[:, None] * (0.78 * lit) + AMBIENT[:, None] * (0.45 + 0.55 * near) * 0.75)
    away = (to_floor[on_floor] / frame.origin[frame.owner[on_floor]].norm(dim=1) - 1.0).clamp_min(0)
    colour[:, on_floor] = torch.lerp(shaded, horizon[:, on_floor], 1 - torch.exp(-0.10 * away * away))

    on_object = torch.nonzero(to_object < to_floor).squeeze(1)
    o, d = origin.index_select(1, on_object), direction.index_select(1, on_object)
    surface = torch.addcmul(o, d, to_object[on_object])
    colour[:, on_object] = _surface(thing, scenes, frame, on_object, surface, d)
    return _develop(colour, len(scenes), size)


def _surface(thing: Thing, scenes: list[Scene], frame: _Frame, chosen: Tensor, point: Tensor, view: Tensor) -> Tensor:
    """Colour (3, n) of object points seen along `view`."""
    owner = frame.owner[chosen]
    sun, proportions = frame.sun.T[:, owner], frame.proportions.T[:, owner]
    normal = _normal(thing, point, proportions)
    slots = torch.stack(list(_distances(thing, point, proportions))).argmin(0)
    hue = HUES.T[:, torch.tensor([s.hue for s in scenes])[owner]]
    paint = hue
    for slot, name in enumerate((thing.second, thing.third, thing.fourth), start=1):
        paint = torch.where(slots == slot, torch.tensor(MATERIALS[name])[:, None], paint)
    ground = FLOORS.T[:, torch.tensor([s.floor for s in scenes])[owner]]
    facing = (normal * sun).sum(0).clamp_min(0)
    lit = facing * _light(thing, point + 0.02 * normal, sun, proportions)
    open_sky = 0.5 + 0.5 * normal[1]
    bounce = ground * (0.30 * (0.5 - 0.5 * normal[1]) * (0.4 + 0.6 * point[1].clamp(0, 1)))
    colour = paint * (SUN[:, None] * (0.92 * lit) + AMBIENT[:, None] * (0.34 + 0.46 * open_sky) + bounce)
    half = sun - view
    half = half / half.norm(dim=0).clamp_min(1e-6)
    gloss = (normal * half).sum(0).clamp_min(0) ** 40 * (lit > 0)
    return colour + 0.30 * gloss * SUN[:, None]


def _develop(colour: Tensor, n: int, size: int) -> np.ndarray:
    """Linear light (3, rays) to averaged, sRGB-coded bytes."""
    side = size * SUPERSAMPLING
    image = colour.clamp(0, 1).reshape(3, n, size, SUPERSAMPLING, size, SUPERSAMPLING).mean((3, 5))
    image = torch.where(image <= 0.0031308, 12.92 * image, 1.055 * image.clamp_min(1e-6) ** (1 / 2.4) - 0.055)
    assert side * side * n == colour.shape[1]
    return (image * 255 + 0.5).to(torch.uint8).permute(1, 2, 3, 0).numpy()
