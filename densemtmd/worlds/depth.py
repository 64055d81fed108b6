"""A depth camera that looks at spheres: a z-buffer, and the flaws of a real sensor.

Shapes: ``N`` pictures, ``S`` spheres, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class View:
    """Where the rays of pictures go: the ray of pixel (u, v) is ((u − u0)/fx, (v0 − v)/fy, 1)."""

    fx: np.ndarray  # (N,) each
    fy: np.ndarray
    u0: np.ndarray
    v0: np.ndarray
    width: int
    height: int


def draw_spheres(spheres: np.ndarray, view: View) -> np.ndarray:
    """The depth of the nearest sphere along each ray.

    All pictures are drawn at once, sphere by sphere: the windows that one sphere covers in different pictures cannot meet, so that the
    z-buffer needs no order.

    Args:
        spheres: (N, S, 4) x, y, z, radius in mm, float32; those that reach behind the camera are not drawn.
        view: of each picture.

    Returns:
        (N, H, W) float32 mm, infinite where there is no sphere.
    """
    count, height, width = len(spheres), view.height, view.width
    # A frame about each picture catches what lies outside, so that no window has to be cut.
    x, y, z, radius = np.moveaxis(spheres, -1, 0)
    near = np.maximum(z - radius, 1)
    u = view.u0[:, None] + view.fx[:, None] * x / z
    v = view.v0[:, None] - view.fy[:, None] * y / z
    tangent = np.maximum(abs(x), abs(y)) / near
    reach = np.ceil(np.maximum(view.fx, view.fy)[:, None] * radius / near * (1 + 0.5 * tangent) + 1).astype(int)
    shown = (z > 2 * radius) & (u > -reach) & (u < width + reach) & (v > -reach) & (v < height + reach)
    margin = 2 * int(reach[shown].max()) + 2 if shown.any() else 0
    high, wide = height + 2 * margin, width + 2 * margin
    buffer = np.full(count * high * wide, np.inf, np.float32)
    pictures = np.arange(count)
    halves = np.where(shown, reach, 0).max(0)  # of the windows of each sphere, the same in all pictures
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    inner = row.clip(halves - margin, height + margin - halves - 1), column.clip(halves - margin, width + margin - halves - 1)
    base = (pictures[:, None] * high + inner[0] + margin) * wide + inner[1] + margin
    fx, fy = view.fx.astype(np.float32), view.fy.astype(np.float32)
    for s in range(spheres.shape[1]):
        those = pictures[shown[:, s]]
        if not len(those):
            continue
        cx, cy, cz, r = (spheres[those, s, k, None] for k in range(4))
        steps = np.arange(-halves[s], halves[s] + 1)
        across = ((column - u)[those, s, None] + steps).astype(np.float32) / fx[those, None]  # (n, w), from the ray through the centre
        down = ((v - row)[those, s, None] - steps).astype(np.float32) / fy[those, None]
        tx, ty = across + cx / cz, down + cy / cz
        # |centre × ray|² without the cancellation of large numbers: both are taken from the ray through the centre.
        dx, dy = across[:, None, :], down[:, :, None]
        squared = 1 + (tx * tx)[:, None, :] + (ty * ty)[:, :, None]
        side = (cx * down)[:, :, None] - (cy * across)[:, None, :]
        inside = (r * r)[:, :, None] * squared - (cz * cz)[:, :, None] * (dx * dx + dy * dy) - side * side
        along = (cx * tx)[:, None, :] + ((cy * ty) + cz)[:, :, None]
        depth = np.where(inside > 0, (along - np.sqrt(np.maximum(inside, 0))) / squared, np.float32(np.inf))
        index = base[those, s, None, None] + steps[:, None] * wide + steps
        buffer[index] = np.minimum(buffer[index], depth)
    return buffer.reshape(count, high, wide)[:, margin : margin + height, margin : margin + width]


def sense(
    depth: np.ndarray,
    random: np.random.Generator,
    noise: float = 1.2,
    edges: float = 0.3,
    jitter: float = 0.0,
    nothing: float = 0.0,
) -> np.ndarray:
    """What a sensor makes of true depth: rough depth in whole millimetres, ragged edges, holes.

    Args:
        depth: (N, H, W) mm, infinite where there is nothing.
        random: the source of chance.
        noise: standard deviation at 700 mm, which grows with the square of the distance.
        edges: share of the pixels at a jump in depth that have no reading.
        jitter: share of the pixels at a jump that read a neighbour's depth, in blocks of 2 × 2.
        nothing: what the sensor says where it has no reading, mm.

    Returns:
        (N, H, W) float32, whole mm.
    """
    height, width = depth.shape[-2:]
    seen = np.where(np.isfinite(depth), depth, np.float32(4000))
    jump = np.zeros(depth.shape, bool)
    for axis in (-1, -2):
        first, second = np.swapaxes(seen, axis, -1)[..., :-1], np.swapaxes(seen, axis, -1)[..., 1:]
        jumps, view = abs(first - second) > 20, np.swapaxes(jump, axis, -1)
        view[..., 1:] |= jumps
        view[..., :-1] |= jumps
    at = np.flatnonzero(jump)  # one index a pixel: three take longer than all the rest
    flat = seen.reshape(-1)
    if jitter:
        picture, row, column = np.unravel_index(at, seen.shape)
        blocks = random.integers(-1, 2, (len(depth), 2, -(-height // 2), -(-width // 2)), np.int8)
        blocks[random.random(blocks.shape, np.float32) >= jitter] = 0
        down, across = blocks[picture, :, row // 2, column // 2].T
        edge = seen[picture, (row + down).clip(0, height - 1), (column + across).clip(0, width - 1)]
    else:
        edge = flat[at]
    flat[at] = np.where(random.random(len(edge), np.float32) < edges, 4000, edge)
    there = np.flatnonzero(flat < 4000)
    read = flat[there]
    read += random.standard_normal(len(read), np.float32) * (np.float32(noise / 700**2) * read * read)
    result = np.full(depth.shape, nothing, np.float32)
    result.reshape(-1)[there] = np.rint(read)
    return result
