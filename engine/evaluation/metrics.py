"""Distances between sets of pictures, given as features (n, d)."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the normal distributions fitted to both sets (Heusel et al. 2017, eq. 6).

    |μa - μb|² + tr(Σa + Σb - 2 (Σa^½ Σb Σa^½)^½). Biased upwards for small sets: compare sets of equal size.
    """
    a, b = a.double(), b.double()
    root = _square_root(torch.cov(a.T))
    cross = _square_root(root @ torch.cov(b.T) @ root)
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float(shift + a.var(0).sum() + b.var(0).sum() - 2 * cross.trace())


def _square_root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive matrix; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def precision_recall(real: Tensor, drawn: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of drawn points that lie among the real ones, and the reverse (Kynkäänniemi et al. 2019).

    A point lies among a set when it is inside the ball of one of its points; a ball reaches to the k-th nearest
    neighbour.
    """
    return _share_inside(drawn, real, neighbours), _share_inside(real, drawn, neighbours)


def _share_inside(points: Tensor, among: Tensor, neighbours: int) -> float:
    # The nearest neighbour of a point of the set is the point itself.
    radii = torch.cat([_distances(part, among).kthvalue(neighbours + 1, dim=1).values for part in _parts(among)])
    inside = [(_distances(part, among) <= radii).any(1) for part in _parts(points)]
    return torch.cat(inside).double().mean().item()


def nearest(points: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each point, the distance to the nearest point of a set, and its index."""
    found = [_distances(part, among).min(1) for part in _parts(points)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def most_agreeing(maps: Tensor, among: Tensor) -> Tensor:
    """For each token map (n, positions): the largest share of positions at which one of a set agrees."""
    others = among.float()
    differing = [torch.cdist(part, others, p=0).min(1).values for part in _parts(maps.float())]
    return 1 - torch.cat(differing).double() / maps.shape[1]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Not by the expansion of the square, which loses small distances to rounding.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _parts(points: Tensor) -> tuple[Tensor, ...]:
    return points.split(ROWS_AT_ONCE)
