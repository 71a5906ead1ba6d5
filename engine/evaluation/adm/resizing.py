"""Models of 384 pixels are measured at 256."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def resize(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (n, *size, 3) of pictures uint8 (n, H, W, 3), bicubic without antialiasing, as LlamaGen and PAR resize
    theirs. They do it before they round to 8 bits, and the pictures here are rounded already."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size, mode="bicubic", align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
