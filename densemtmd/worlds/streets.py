"""From a street to a picture: a pinhole camera, a depth buffer, sun, shadows, haze, and the flaws of a real camera.

Every panel of the scene is flat, so a ray through a pixel meets it at a place found in closed form: no textures are warped, each
sample asks the panel's surface what is there. The picture is sampled twice as finely as it is wanted, in both directions; light is
averaged over the four samples of a pixel, and the truth is the class that most of them have.

Shapes: ``H``, ``W`` pixels; ``h``, ``w`` twice as many samples; ``N`` samples of one panel; ``P`` panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from densemtmd.worlds.scene import FIRST, Caster, Light, Optics, Panel, Ridge, Row, Scene, Viewpoint
from densemtmd.worlds.textures import VEIL, Fine, noise

FINER = 2         # samples per pixel in each direction
NEAR = 0.25       # metres: nothing nearer is seen
FAR = 1e4         # depth of the sky


@dataclass(frozen=True)
class Picture:
    """What the camera sees, and what is there."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    truth: np.ndarray  # (H, W) uint8, fine classes
    depth: np.ndarray  # (H, W) float32, metres along the optical axis


@dataclass(frozen=True)
class Lens:
    """The picture's geometry: pixel (column, row) = (centre_x + focal * x / z, centre_y - focal * y / z)."""

    width: int
    height: int
    focal: float
    centre_x: float
    centre_y: float


def lens(width: int, height: int, optics: Optics = Optics()) -> Lens:  # noqa: B008 (it is frozen)
    """The camera's lens for a picture of ``width`` by ``height`` pixels."""
    return Lens(width, height, optics.focal * width, width / 2, optics.horizon * height)


def rotation(camera: Viewpoint) -> np.ndarray:
    """(3, 3): its columns are the camera's right, up and forward in the world."""
    cy, sy, cp, sp = np.cos(camera.yaw), np.sin(camera.yaw), np.cos(camera.pitch), np.sin(camera.pitch)
    cr, sr = np.cos(camera.roll), np.sin(camera.roll)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return yaw @ pitch @ roll


def project(points: np.ndarray, camera: Viewpoint, view: Lens) -> np.ndarray:
    """World points (..., 3) to (column, row, depth), (..., 3); only points in front of the camera (depth > 0) have a place."""
    local = (points - camera.place) @ rotation(camera)
    depth = local[..., 2]
    safe = np.where(depth > 1e-6, depth, np.nan)
    column = view.centre_x + view.focal * local[..., 0] / safe
    row = view.centre_y - view.focal * local[..., 1] / safe
    return np.stack([column, row, depth], -1)


@dataclass
class _Canvas:
    """The samples of one picture: where their rays go, and what they met."""

    view: Lens
    x: np.ndarray       # (w,) float32: a ray is (x, y, 1) in camera axes
    y: np.ndarray       # (h, 1) float32
    colour: np.ndarray  # (h, w, 3) float32, linear: reflectance × shade
    cosine: np.ndarray  # (h, w) float32: share of the sun's light that a surface turned this way gets
    fine: np.ndarray    # (h, w) uint8
    depth: np.ndarray   # (h, w) float32, infinite where nothing was met yet
    veil: np.ndarray    # (h, w) uint8: the class of a veil before what is seen
    veiled: np.ndarray  # (h, w) float32: its depth

    @classmethod
    def blank(cls, view: Lens) -> _Canvas:
        shape = (view.height, view.width)
        return cls(
            view,
            x=((np.arange(view.width) + 0.5 - view.centre_x) / view.focal).astype(np.float32),
            y=((view.centre_y - np.arange(view.height) - 0.5) / view.focal).astype(np.float32)[:, None],
            colour=np.zeros((*shape, 3), np.float32), cosine=np.zeros(shape, np.float32), fine=np.zeros(shape, np.uint8),
            depth=np.full(shape, np.inf, np.float32), veil=np.zeros(shape, np.uint8), veiled=np.full(shape, np.inf, np.float32),
        )  # fmt: skip

    def along(self, axis: np.ndarray) -> np.ndarray:
        """How far each ray goes along a direction, given in camera axes, per metre of depth: (h, w) float32."""
        a = axis.astype(np.float32)
        return a[0] * self.x + (a[1] * self.y + a[2])


def render(scene: Scene, frame: int, width: int, height: int, rng: np.random.Generator) -> Picture:
    """One frame of a scene; ``rng`` draws the camera's noise alone."""
    camera, panels, casters = scene.at(frame)
    canvas = _Canvas.blank(lens(width * FINER, height * FINER, scene.optics))
    turn = rotation(camera)
    _paint_panels(canvas, panels, camera, turn, scene.light)
    rays = (canvas.along(turn[0]), canvas.along(turn[1]), canvas.along(turn[2]))  # in the world: right, up, ahead
    _paint_ground(canvas, scene, camera, rays)
    _paint_sky(canvas, scene, rays)
    behind = canvas.veiled < canvas.depth
    canvas.fine[behind] = canvas.veil[behind]

    _shine(canvas, scene, camera, casters, rays)
    truth = _majority(canvas.fine)
    d, c = canvas.depth, canvas.colour
    depth = np.minimum(np.minimum(d[::2, ::2], d[1::2, ::2]), np.minimum(d[::2, 1::2], d[1::2, 1::2]))
    linear = (c[::2, ::2] + c[1::2, ::2] + c[::2, 1::2] + c[1::2, 1::2]) * np.float32(0.25)
    return Picture(_expose(linear, truth, scene.optics, rng), truth, depth)


# --------------------------------------------------------------------------------------------------------------------- panels

Box = tuple[int, int, int, int]  # left, right, top, bottom: first and past-the-last column and row


def _clipped(corners: np.ndarray) -> np.ndarray:
    """The corners (4, 3), in camera axes, of a panel that reaches behind the camera, cut off in front of it: (3 to 5, 3)."""
    points = []
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        if a[2] >= NEAR:
            points.append(a)
        if (a[2] < NEAR) != (b[2] < NEAR):
            points.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(points)


def _boxes(corners: np.ndarray, view: Lens) -> np.ndarray:
    """The part of the picture that each panel may cover: corners (P, n, 3) in camera axes to (P, 4) :data:`Box`."""
    columns = view.centre_x + view.focal * corners[..., 0] / corners[..., 2]
    rows = view.centre_y - view.focal * corners[..., 1] / corners[..., 2]
    low = np.floor(np.stack([columns.min(1), rows.min(1)], 1) - 0.5)
    high = np.ceil(np.stack([columns.max(1), rows.max(1)], 1) + 0.5)
    limit = (view.width, view.height)
    return np.stack([np.clip(low, 0, limit), np.clip(high, 0, limit)], 2).reshape(-1, 4).astype(int)


def _paint_panels(canvas: _Canvas, panels: Sequence[Panel], camera: Viewpoint, turn: np.ndarray, light: Light) -> None:
    """All panels, near ones first, so that hidden samples are never painted."""
    if not panels:
        return
    corner = np.array([p.corner for p in panels]) - camera.place
    across, up = np.array([p.across for p in panels]), np.array([p.up for p in panels])
    width, height = np.array([p.width for p in panels]), np.array([p.height for p in panels])
    faces, turns = np.array([p.faces for p in panels]), np.array([p.turns for p in panels])
    flat = corner[turns][:, [0, 2]]
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    across[turns] = np.stack([flat[:, 1], np.zeros(len(flat)), -flat[:, 0]], 1)
    corner[turns] -= across[turns] * width[turns, None] / 2

    normal = np.cross(up, across)           # towards whoever has `across` on the right
    seen_from = -(normal * corner).sum(1)   # > 0: the camera is on that side
    sun = normal @ light.to_sun * np.where(faces == 0, np.sign(seen_from), faces)
    sun = np.where(turns, 0.3 + 0.45 * np.clip(sun, 0, 1), np.clip(sun, 0, 1))
    sun[[not p.shaded for p in panels]] = 0.3

    # A ray d meets the plane at depth t = (n·corner) / (n·d); there u = t (d·across) - corner·across, and so for v.
    axes = np.stack([normal @ turn, across @ turn, up @ turn], 1)                                     # (P, 3, 3) in camera axes
    planes = np.concatenate([axes, axes @ (corner @ turn)[:, :, None]], 2).astype(np.float32)         # (P, 3, 4)
    u, v = axes[:, 1] * width[:, None], axes[:, 2] * height[:, None]
    corners = np.stack([corner @ turn + edge for edge in (0 * u, u, u + v, v)], 1)                    # (P, 4, 3)
    nearest = corners[:, :, 2].min(1)
    samples = (width + height) * canvas.view.focal / np.maximum(nearest, NEAR)
    shown = (corners[:, :, 2].max(1) > NEAR) & (seen_from * faces >= 0) & (samples > 7)
    boxes = _boxes(np.where(corners[:, :, 2:] < NEAR, (0, 0, 1), corners), canvas.view)
    for k in np.flatnonzero(shown & (nearest < NEAR)):
        boxes[k] = _boxes(_clipped(corners[k])[None], canvas.view)[0]
    shown &= (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
    seen = np.flatnonzero(shown)
    for k in seen[np.argsort(nearest[seen], kind="stable")]:
        left, right, top, bottom = boxes[k]
        if canvas.depth[top:bottom, left:right].max() > nearest[k]:
            _paint_panel(canvas, panels[k], planes[k], (left, right, top, bottom), sun[k])


def _paint_panel(canvas: _Canvas, panel: Panel, plane: np.ndarray, box: Box, sun: float) -> None:
    """One panel, wherever it is nearer than what is there.

    ``plane``, (3, 4): normal, across and up in camera axes, and how far along each the panel's corner is.
    """
    left, right, top, bottom = box
    window = slice(top, bottom), slice(left, right)
    xs, ys = canvas.x[left:right], canvas.y[top:bottom]
    (nx, ny, nz, n0), (ux, uy, uz, u0), (vx, vy, vz, v0) = plane
    t = n0 / (nx * xs + (ny * ys + nz))
    u = t * (ux * xs + (uy * ys + uz)) - u0
    v = t * (vx * xs + (vy * ys + vz)) - v0
    inside = (t > NEAR) & (t < canvas.depth[window])
    inside &= (u >= 0) & (u <= panel.width)
    inside &= (v >= 0) & (v <= panel.height)
    row, column = inside.nonzero()
    if not len(row):
        return
    seen = row * (right - left) + column
    u, v, t = u.take(seen), v.take(seen), t.take(seen)
    where = (row + top) * canvas.view.width + (column + left)
    surface = panel.surface
    index, shade = surface.paint(u, v, t / np.float32(canvas.view.focal))

    solid = index < VEIL
    if not solid.all():
        veil = np.flatnonzero((index == VEIL) & (t < canvas.veiled.ravel()[where]))
        canvas.veiled.ravel()[where[veil]] = t[veil]
        canvas.veil.ravel()[where[veil]] = surface.fine[0]
        where, t, index, shade = where[solid], t[solid], index[solid], shade[solid]
    canvas.colour.reshape(-1, 3)[where] = surface.linear[index] * shade[:, None]
    canvas.cosine.ravel()[where] = sun
    canvas.fine.ravel()[where] = surface.fine[index]
    canvas.depth.ravel()[where] = t


# ------------------------------------------------------------------------------------------------------------- ground and sky


Rays = tuple[np.ndarray, np.ndarray, np.ndarray]  # (h, w) float32 each: metres to the right, up and ahead per metre of depth


def _paint_ground(canvas: _Canvas, scene: Scene, camera: Viewpoint, rays: Rays) -> None:
    """The ground wherever nothing stands before it; from 400 m on it is all trees."""
    where = np.isinf(canvas.depth) & (rays[1] < -0.004)
    t = np.float32(-camera.place[1]) / rays[1][where]
    s = np.float32(camera.place[2]) + t * rays[2][where]
    x = np.float32(camera.place[0]) + t * rays[0][where] - np.float32(scene.bend) * s * s
    index, shade = scene.ground.paint(x, s, t / np.float32(canvas.view.focal))
    canvas.colour[where] = scene.ground.linear[index] * shade[:, None]
    canvas.cosine[where] = max(0.0, float(scene.light.to_sun[1]))
    canvas.fine[where] = scene.ground.fine[index]
    canvas.depth[where] = t


def _paint_sky(canvas: _Canvas, scene: Scene, rays: Rays) -> None:
    """Sky and clouds, and before them mountains and the far tree line. The sky's colour is light already; :func:`_shine` leaves it
    alone."""
    light = scene.light
    where = np.isinf(canvas.depth)
    right, rise, ahead = (ray[where] for ray in rays)
    length = np.sqrt(right * right + rise * rise + ahead * ahead)
    around = np.arctan2(right, ahead)
    right, rise, ahead = right / length, rise / length, ahead / length
    horizon, zenith, sun = (c.astype(np.float32) for c in (light.horizon, light.zenith, light.sun))
    up = np.clip(rise, 0, 1)
    low = 1 - up
    low = (low * low * low)[:, None]
    plane = 60 / (up + np.float32(0.12))
    cx, cz = right * plane + scene.backdrop, ahead * plane + scene.backdrop
    billow = noise("cloud", cx, cz) + 0.25 * noise("cloud", cx * 3.1 + 99, cz * 3.1)
    cover = np.clip((billow - 1.6 + 3.2 * light.clouds) * 1.1, 0, 1)[:, None] * np.float32(0.9)
    white = horizon * (1.0 + 0.10 * np.clip(billow, -2, 2))[:, None].astype(np.float32)
    colour = (horizon * low + zenith * (1 - low)) * (1 - cover) + white * cover
    if light.sun.any():
        to_sun = light.to_sun.astype(np.float32)
        near_sun = np.clip(right * to_sun[0] + rise * to_sun[1] + ahead * to_sun[2], 0, 1)
        glow = near_sun * near_sun * near_sun  # cubed, and cubed again: a wide glow and a small one
        colour += (0.2 * glow * glow + 0.42 * glow**20)[:, None] * sun
    fine, depth = np.full(rise.shape, Fine.SKY, np.uint8), np.full(rise.shape, FAR, np.float32)
    cosine = np.full(rise.shape, 0.3, np.float32)
    for ridge in scene.ridges:
        line = _skyline(ridge, around)
        rock = np.flatnonzero(rise < line)
        colour[rock], cosine[rock] = _mountainside(ridge, around[rock], rise[rock], line[rock], light)
        fine[rock], depth[rock] = Fine.MOUNTAIN, ridge.distance
    line = 0.028 + 0.016 * noise("cloud", around * 40 + scene.backdrop, np.full_like(around, 7.0))
    line = line + 0.004 * noise("clump", around * 260, np.full_like(around, 3.0))
    trees = rise < line * np.float32(scene.tree_line)
    texture = 1 + 0.18 * noise("leaf", around[trees] * 300, rise[trees] * 300)
    colour[trees] = np.array(scene.far_trees, np.float32) * texture[:, None]
    canvas.colour[where] = colour
    fine[trees], depth[trees], cosine[trees] = Fine.FAR_TREES, 250, 0.3
    canvas.cosine[where], canvas.fine[where], canvas.depth[where] = cosine, fine, depth


def _skyline(ridge: Ridge, around: np.ndarray) -> np.ndarray:
    """How high a ridge stands in each direction (radians), over its distance: straight slopes between peaks at random, large and small."""
    high = np.zeros_like(around)
    for octave in range(6):
        place = around * np.float32(5 * 2**octave) + np.float32(ridge.seed)
        left = np.floor(place)
        row = np.full_like(place, 37 * octave + ridge.seed)
        before, after = noise("white", left, row), noise("white", left + 1, row)
        high += (before + (after - before) * (place - left)) * np.float32(0.5**octave)
    return high * np.float32(0.6 * ridge.height)  # the sum is 1.97 at most, and rarely above 1.6


def _mountainside(ridge: Ridge, around: np.ndarray, rise: np.ndarray, line: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance (N, 3) and share of the sun (N,) on a ridge: gullies down its slopes, one side of which lies in shade, and snow."""
    gully = np.zeros_like(around)
    for octave in range(4):  # each lies slanted, as what water carves does
        x, y = around * np.float32(30 * 2**octave) + ridge.seed, rise * np.float32(25 * 2**octave)
        place = x + y * (-1) ** octave
        left = np.floor(place)
        row = np.floor(y / 2) + 53 * octave
        before, after = noise("white", left, row), noise("white", left + 1, row)
        gully += (before + (after - before) * (place - left) - 0.5) * np.float32(0.7**octave)
    snowy = np.clip((rise / ridge.height - ridge.snow + 0.25 * gully) * 12, 0, 1)[:, None]
    colour = ridge.rock.astype(np.float32) * (1 + 0.5 * gully)[:, None] * (1 - snowy) + np.float32(0.75) * snowy
    towards = np.float32(0.5 if light.to_sun[2] < 0 else 0.25)  # a sun behind the camera lights what it sees
    below = (line - rise) / np.float32(ridge.height)
    return colour, np.clip(towards + 0.55 * gully * np.float32(np.sign(light.to_sun[0])) - 0.1 * below, 0.04, 1)


# ---------------------------------------------------------------------------------------------------------------------- light

_GRID = 5.0              # cells of the shadow map per metre
_MAP = (160, 320)        # its size: across, along
_MAP_LEFT = -16.0        # metres


def _shadow_map(casters: Sequence[Caster], light: Light, start: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ground from above, from ``start`` metres along the street on.

    Returns shares 0..1, (along, across) float32 each: of the sun that solid things take, that leaves take, and how near the
    ground something stands above it.
    """
    images = [Image.new("L", _MAP, 0) for _ in range(3)]
    solid, leaves, contact = (ImageDraw.Draw(image) for image in images)
    lean = -light.to_sun / max(float(light.to_sun[1]), 0.2)  # where a shadow falls, per metre of height
    for c in casters:
        if not start - 12 < c.s < start + 75:
            continue
        column, row = (c.x - _MAP_LEFT) * _GRID, (c.s - start) * _GRID
        a, b = c.half[0] * _GRID, c.half[1] * _GRID
        if c.low < 0.3 and a * b > 2:
            contact.rectangle([column - a, row - b, column + a, row + b], fill=255)
        if not light.sun.any():
            continue
        if c.leafy:
            for height in np.linspace(c.low + 0.15 * (c.high - c.low), c.high, 4):
                i, j = column + lean[0] * height * _GRID, row + lean[2] * height * _GRID
                leaves.ellipse([i - a, j - b, i + a, j + b], fill=255)
            continue
        if max(c.half) < 0.25:  # a post's shadow is a line
            foot, head = ((column + lean[0] * y * _GRID, row + lean[2] * y * _GRID) for y in (c.low, c.high))
            solid.line([foot, head], fill=255, width=max(1, round(2 * a)))
            continue
        ends = []
        for height in (c.low, c.high):
            i, j = column + lean[0] * height * _GRID, row + lean[2] * height * _GRID
            ends.append([(i - a, j - b), (i + a, j - b), (i + a, j + b), (i - a, j + b)])
        for k in range(4):
            solid.polygon([ends[0][k], ends[0][(k + 1) % 4], ends[1][(k + 1) % 4], ends[1][k]], fill=255)
        solid.polygon(ends[0], fill=255)
        solid.polygon(ends[1], fill=255)
    blurred = [image.filter(ImageFilter.BoxBlur(radius)) for image, radius in zip(images, (0.7, 1.5, 2.5), strict=True)]
    maps = [np.asarray(image, np.float32) / 255 for image in blurred]
    return maps[0], maps[1], maps[2]


def _houses_shade(row: Row, light: Light, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Share 0..1 of the sun that a row of houses takes from street coordinates (x, y, s): the ray to the sun meets the row's front."""
    t = (np.float32(row.x) - x) * np.float32(1 / light.to_sun[0])
    at = s + t * np.float32(light.to_sun[2])
    over = y + t * np.float32(light.to_sun[1])
    high = row.skyline.take(((at - np.float32(FIRST)) * 2).astype(np.int32), mode="clip")
    shade = np.clip((high - over) / (0.02 * np.abs(t) + 0.05) + 0.5, 0, 1)
    return shade * ((t > 0.05) & (high > 0))


def _shine(canvas: _Canvas, scene: Scene, camera: Viewpoint, casters: Sequence[Caster], rays: Rays) -> None:
    """Turn reflectance into light: sun and sky, what is in shadow, and the haze of the distance."""
    light = scene.light
    lit = canvas.depth < FAR
    t = np.where(lit, canvas.depth, np.float32(1))
    start = float(camera.place[2])
    s = np.float32(start) + t * rays[2]
    x = np.float32(camera.place[0]) + t * rays[0] - np.float32(scene.bend) * s * s
    y = np.maximum(np.float32(camera.place[1]) + t * rays[1], 0)

    solid, leaves, contact = _shadow_map(casters, light, start)
    column, row = ((x - _MAP_LEFT) * _GRID).astype(np.int32), ((s - start) * _GRID).astype(np.int32)
    known = (y < 0.02) & (column >= 0) & (column < _MAP[0]) & (row >= 0) & (row < _MAP[1])
    cell = row[known] * _MAP[0] + column[known]
    sky = np.ones_like(t)
    sky[known] = 1 - 0.72 * contact.take(cell)
    cosine = canvas.cosine
    if light.sun.any():
        gx, gs = x[known], s[known]
        dapple = noise("leaf", gx * 18, gs * 18) + 0.8 * noise("clump", gx * 10, gs * 10)
        leafy = leaves.take(cell) * np.clip(0.95 - 0.5 * np.clip(dapple - 0.6, 0, 2), 0, 1)
        cosine[known] *= 1 - np.maximum(solid.take(cell), leafy)
        for houses in scene.rows:
            if houses.x * light.to_sun[0] > 0:
                cosine *= 1 - _houses_shade(houses, light, x, y, s)
    air = np.exp(np.float32(-light.haze) * t)
    for channel in range(3):
        received = sky * np.float32(0.5 * light.sky[channel]) + cosine * np.float32(light.sun[channel])
        seen = canvas.colour[..., channel]
        hazed = seen * received * air + (1 - air) * np.float32(0.6 * light.horizon[channel])
        np.copyto(seen, hazed, where=lit)


# --------------------------------------------------------------------------------------------------------------------- camera


def _majority(fine: np.ndarray) -> np.ndarray:
    """The class that most of a pixel's four samples have, (h, w) to (H, W); of a tie, the later class."""
    a, b, c, d = (fine[i::2, j::2] for i in (0, 1) for j in (0, 1))
    low, high = np.minimum(a, b), np.maximum(a, b)
    low2, high2 = np.minimum(c, d), np.maximum(c, d)
    first, last = np.minimum(low, low2), np.maximum(high, high2)
    inner = np.maximum(low, low2), np.minimum(high, high2)
    second, third = np.minimum(*inner), np.maximum(*inner)
    # Sorted now: first <= second <= third <= last.
    return np.where(third == last, last, np.where(second == third, third, np.where(first == second, second, last)))


_WHITE = 4.0  # exposures from here on are white


def _film() -> np.ndarray:
    """What the camera shows for exposures 0 to :data:`_WHITE`: bright light runs into white softly, as on film."""
    shown = (1 - np.exp(-1.25 * np.linspace(0, _WHITE, 8192))) ** (1 / 2.2)
    return (0.5 * shown + 0.5 * shown**2 * (3 - 2 * shown)).astype(np.float32)


_FILM = _film()


def _expose(linear: np.ndarray, truth: np.ndarray, optics: Optics, rng: np.random.Generator) -> np.ndarray:
    """Light (H, W, 3) to an 8-bit picture: exposure, the lens's blur and vignette, the sensor's noise."""
    height, width = truth.shape
    below = linear[truth != Fine.SKY] if (truth != Fine.SKY).any() else linear.reshape(-1, 3)
    gain = optics.exposure / max(float(below.mean()), 1e-3) * float(np.exp(rng.normal(0, 0.16)))
    soft = float(rng.uniform(0.02, 0.11))
    for image in (linear, linear.transpose(1, 0, 2)):  # down, then across: each pixel takes a little of its neighbours
        sharp = image.copy()
        image *= np.float32(1 - 2 * soft)
        sharp *= np.float32(soft)
        image[1:] += sharp[:-1]
        image[:-1] += sharp[1:]
        image[:1] += sharp[:1]
        image[-1:] += sharp[-1:]
    i = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / max(width, height)
    j = (np.arange(width, dtype=np.float32)[None] - width / 2) / max(width, height)
    vignette = 1 - float(rng.uniform(0.3, 0.9)) * (i * i + j * j)
    balance = ((1 + rng.normal(0, 0.025, 3)) * optics.balance).astype(np.float32)
    grey = linear.mean(2, keepdims=True)
    linear = linear + (grey - linear) * np.float32(rng.uniform(0.05, 0.3))  # colours are never as pure as paint
    exposure = linear * (np.float32(gain) * vignette[..., None].astype(np.float32) * balance)
    level = np.minimum(exposure * np.float32(len(_FILM) / _WHITE), len(_FILM) - 1).astype(np.int32)
    shown = _FILM.take(level)
    grain = rng.standard_normal(shown.shape, dtype=np.float32) * np.float32(rng.uniform(*optics.grain))
    return np.clip((shown + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
