"""Light and sphere tracing of one thing: where rays meet it, how much of the sun reaches a point, and the colour seen
there. Rays (3, n) are in the frame of the thing, which stands on the floor y = 0 at x = z = 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.training.world.shapes import Distances, Point, Thing

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


def _distances(thing: Thing, point: Tensor, proportions: Tensor) -> Distances:
    p: Point = (point[0], point[1], point[2])
    return thing.shape(p, proportions[0], proportions[1])


def distance(thing: Thing, point: Tensor, proportions: Tensor) -> Tensor:
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


def march(thing: Thing, origin: Tensor, direction: Tensor, proportions: Tensor, steps: int = 40) -> Tensor:
    """Distance along each ray to the surface, inf where it misses."""
    found = torch.full((direction.shape[1],), torch.inf)
    t, leave = _span(thing, origin, direction)
    live = torch.nonzero(leave > 0).squeeze(1)
    t, leave = t[live], leave[live]
    o, d, q = (x.index_select(1, live) for x in (origin, direction, proportions))
    for step in range(steps):
        gap = distance(thing, torch.addcmul(o, d, t), q)
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


def light(thing: Thing, point: Tensor, sun: Tensor, proportions: Tensor, steps: int = 18) -> Tensor:
    """Share of the sun that reaches each point: soft shadows by the narrowest pass of the ray."""
    share = torch.ones(point.shape[1])
    t, leave = _span(thing, point, sun)
    live = torch.nonzero(leave > 0).squeeze(1)
    t, leave = t[live].clamp_min(0.03), leave[live]
    o, d, q = (x.index_select(1, live) for x in (point, sun, proportions))
    narrow = torch.ones_like(t)
    for _ in range(steps):
        gap = distance(thing, torch.addcmul(o, d, t), q)
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
        total += k * distance(thing, point + 0.004 * k, proportions)
    return total / total.norm(dim=0).clamp_min(1e-6)


def floor_along(origin: Tensor, direction: Tensor) -> Tensor:
    """Distance along each ray to the floor, inf where it misses."""
    return torch.where(direction[1] < -1e-4, -origin[1] / direction[1].clamp_max(-1e-4), torch.inf)


def surface(
    thing: Thing,
    paint: Tensor,
    ground: Tensor,
    sun: Tensor,
    proportions: Tensor,
    point: Tensor,
    view: Tensor,
) -> Tensor:
    """Linear light (3, n) of points on a thing seen along `view`. paint: its main hue, ground: the floor's, each (3, n)
    or (3, 1)."""
    normal = _normal(thing, point, proportions)
    slots = torch.stack(list(_distances(thing, point, proportions))).argmin(0)
    for slot, name in enumerate((thing.second, thing.third, thing.fourth), start=1):
        paint = torch.where(slots == slot, torch.tensor(MATERIALS[name])[:, None], paint)
    facing = (normal * sun).sum(0).clamp_min(0)
    lit = facing * light(thing, point + 0.02 * normal, sun, proportions)
    open_sky = 0.5 + 0.5 * normal[1]
    bounce = ground * (0.30 * (0.5 - 0.5 * normal[1]) * (0.4 + 0.6 * point[1].clamp(0, 1)))
    colour = paint * (SUN[:, None] * (0.92 * lit) + AMBIENT[:, None] * (0.34 + 0.46 * open_sky) + bounce)
    half = sun - view
    half = half / half.norm(dim=0).clamp_min(1e-6)
    gloss = (normal * half).sum(0).clamp_min(0) ** 40 * (lit > 0)
    return colour + 0.30 * gloss * SUN[:, None]


def develop(colour: Tensor, n: int, height: int, width: int) -> np.ndarray:
    """Linear light (3, rays) to averaged, sRGB-coded bytes (n, height, width, 3)."""
    image = colour.clamp(0, 1).reshape(3, n, height, SUPERSAMPLING, width, SUPERSAMPLING).mean((3, 5))
    image = torch.where(image <= 0.0031308, 12.92 * image, 1.055 * image.clamp_min(1e-6) ** (1 / 2.4) - 0.055)
    return (image * 255 + 0.5).to(torch.uint8).permute(1, 2, 3, 0).numpy()
