"""What the street world is made of: its fine classes, noise, and the surfaces of everything that stands in a street.

A :class:`Surface` paints a flat panel. Its ``paint(u, v, step)`` gets the places of N picture samples on the panel, in metres from the
panel's lower left corner, and how many metres one sample spans there (details smaller than that fade out instead of flickering). It
answers with the index of a material per sample, and a shade that multiplies the material's colour. One index says more than a
colour could: :data:`HOLE` (nothing here, what stands behind is seen) and :data:`VEIL` (what stands behind is seen, yet the
place belongs to this thing, as between two pickets of a fence: annotators outline the fence, not its gaps).

Shapes: ``N`` samples of one panel, ``M`` materials of one surface, ``P`` parts of one figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property

import numpy as np

HOLE = 255
VEIL = 254


class Fine(IntEnum):
    """The fine classes of the truth. Things come after what is behind them: a tie within a pixel goes to the later one."""

    SKY = 0
    FAR_TREES = 1
    GRASS = 2
    ROAD = 3
    CYCLE_LANE = 4
    LANE_MARKING = 5
    KERB = 6
    SIDEWALK = 7
    BUILDING = 8
    ROOF = 9
    WINDOW = 10
    DOOR = 11
    WALL = 12
    FENCE = 13
    BUSH = 14
    TREE = 15
    TRUNK = 16
    BIN = 17
    CAR = 18
    TRUCK = 19
    TRAFFIC_LIGHT = 20
    SIGN = 21
    POLE = 22
    PEDESTRIAN = 23
    BIKE_PARKED = 24
    BIKE_RIDDEN = 25
    RIDER = 26
    WATER = 27     # these two are in the other world alone
    MOUNTAIN = 28


Colour = tuple[float, float, float]
Paint = tuple[np.ndarray, np.ndarray]  # index (N,) uint8 into the materials, or HOLE, or VEIL; shade (N,) float32, about 1


@dataclass(frozen=True)
class Material:
    """One fine class in one colour: (R, G, B) as displayed, 0..1."""

    fine: Fine
    colour: Colour


@dataclass(frozen=True)
class Surface:
    """How a panel looks, and what it is. The class of the first material is the one that a VEIL belongs to."""

    materials: tuple[Material, ...]
    paint: Callable[[np.ndarray, np.ndarray, np.ndarray], Paint]

    @cached_property
    def linear(self) -> np.ndarray:
        """The materials' colours as shares of light, (M, 3) float32."""
        return np.array([m.colour for m in self.materials], np.float32) ** np.float32(2.2)

    @cached_property
    def fine(self) -> np.ndarray:
        """The materials' classes, (M,) uint8."""
        return np.array([m.fine for m in self.materials], np.uint8)


# ---------------------------------------------------------------------------------------------------------------------- noise

_BITS = 9
_SIDE = 1 << _BITS


@cache
def _noise_tables() -> dict[str, np.ndarray]:
    """Tiles of noise, 512×512, flattened: ``white`` uniform in 0..1; the others with mean 0 and deviation 1."""
    rng = np.random.default_rng(46)
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE)[None])
    frequency[0, 0] = 1 / _SIDE
    gains = {
        "cloud": frequency**-1.5,                            # all sizes, as clouds, stains and worn ground have
        "clump": np.exp(-(np.log(frequency * 24) ** 2)),     # blobs of about 12 texels
        "leaf": np.exp(-(np.log(frequency * 9) ** 2)),       # blobs of about 4 texels
    }
    tables = {"white": rng.random((_SIDE, _SIDE), dtype=np.float32)}
    for name, gain in gains.items():
        field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_SIDE, _SIDE))) * gain).real
        tables[name] = ((field - field.mean()) / field.std()).astype(np.float32)
    return {name: np.ascontiguousarray(table).ravel() for name, table in tables.items()}


def noise(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise at (x, y), in texels, from -60,000 up; it repeats every 512 texels."""
    column = (x + 65536.0).astype(np.int32) & (_SIDE - 1)
    row = (y + 65536.0).astype(np.int32) & (_SIDE - 1)
    return _noise_tables()[kind].take((row << _BITS) | column)


def _visible(size: float, step: np.ndarray) -> np.ndarray:
    """How much of a detail ``size`` metres small is left where a sample spans ``step`` metres: 1 near, 0 far."""
    return np.clip(1.6 - step * (1.2 / size), 0.0, 1.0)


def _line(position: np.ndarray, period: float, width: float, step: np.ndarray) -> np.ndarray:
    """Darkness 0..1 of joints ``width`` metres wide that repeat every ``period`` metres, thinned out in the distance."""
    off = np.abs((position / period) % 1.0 - 0.5) * period
    return (off > period / 2 - np.maximum(width, step) / 2) * np.minimum(1.0, width / step)


def _tone(column: np.ndarray, row: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    """A random number 0..1 for each cell of a grid of bricks, slabs or windows."""
    return noise("white", column + offset[0], row + offset[1])


def _offset(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.integers(0, _SIDE)), float(rng.integers(0, _SIDE))


# ------------------------------------------------------------------------------------------------------------------ masonry

def masonry(kind: str, u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    """The shade of a bare wall of ``plaster``, ``brick``, ``stone``, ``concrete`` or ``boards``, (N,)."""
    ou, ov = offset
    shade = 1.0 + 0.05 * noise("cloud", u * 14 + ou, v * 14 + ov) + 0.04 * noise("clump", u * 33 + ov, v * 4 + ou)
    if kind == "plaster":
        return shade + 0.05 * noise("leaf", u * 54 + ou, v * 54 + ov) * _visible(0.05, step)
    if kind == "concrete":
        joints = np.maximum(_line(u, 1.5, 0.03, step), _line(v, 1.0, 0.03, step))
        return shade - 0.3 * joints + 0.1 * (_tone(u // 1.5, v // 1.0, offset) - 0.5)
    if kind == "boards":
        return shade - 0.4 * _line(v, 0.22, 0.03, step) + 0.16 * (_tone(u // 3.0, v // 0.22, offset) - 0.5) * _visible(0.2, step)
    height, length = (0.1, 0.3) if kind == "brick" else (0.34, 0.7)
    row = np.floor(v / height)
    shifted = u + (row % 2) * (length / 2)
    joints = np.maximum(_line(v, height, 0.02, step), _line(shifted, length, 0.02, step))
    tones = (_tone(shifted // length, row, offset) - 0.5) * _visible(height, step)
    return shade - 0.35 * joints + (0.5 if kind == "brick" else 0.35) * tones


def bare_wall(rng: np.random.Generator, fine: Fine, kind: str, colour: Colour, gable: tuple[float, float] | None = None) -> Surface:
    """A wall without openings. ``gable`` is (width, height of the eaves): above them it narrows to a ridge at 45 degrees or less."""
    offset = _offset(rng)

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        index = np.zeros(u.shape, np.uint8)
        if gable is not None:
            index[_outside_gable(u, v, *gable)] = HOLE
        shade = masonry(kind, u, v, step, offset) * (0.75 + 0.25 * np.clip(v / 1.2, 0, 1))
        return index, shade.astype(np.float32)

    return Surface((Material(fine, colour),), paint)


GABLE_SLOPE = 0.75  # metres of height per metre of half the width


def _outside_gable(u: np.ndarray, v: np.ndarray, width: float, eaves: float) -> np.ndarray:
    return (v - eaves) > (width / 2 - np.abs(u - width / 2)) * GABLE_SLOPE


def tiles(rng: np.random.Generator, colour: Colour) -> Surface:
    """A roof: rows of tiles, and moss."""
    offset = _offset(rng)

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        shade = 1 - 0.35 * _line(v, 0.35, 0.06, step) + 0.3 * (_tone(u // 0.25, v // 0.35, offset) - 0.5) * _visible(0.25, step)
        shade += 0.08 * noise("cloud", u * 12 + offset[0], v * 12 + offset[1])
        return np.zeros(u.shape, np.uint8), shade.astype(np.float32)

    return Surface((Material(Fine.ROOF, colour),), paint)


@dataclass(frozen=True)
class FacadeStyle:
    """What a building looks like from the street; lengths in metres."""

    kind: str                     # of `masonry`
    colour: Colour
    trim: Colour                  # frames, sills, cornice
    accent: Colour                # door, shutters, shop sign
    storey: float
    bay: float                    # distance of windows
    window: tuple[float, float]   # width, height
    sill: float                   # above the floor
    shop: bool
    shutters: bool
    balconies: bool


def _darker(colour: Colour) -> Colour:
    r, g, b = colour
    return 0.55 * r + 0.1, 0.55 * g + 0.1, 0.55 * b + 0.1


def facade(rng: np.random.Generator, style: FacadeStyle, width: float, height: float, gabled: bool = False) -> Surface:
    """The street side of a building: storeys of windows, a door or shop windows at the bottom, a cornice at ``height``.

    With ``gabled`` the panel goes on above ``height`` as a gable.
    """
    offset = _offset(rng)
    bays = max(1, round(width / style.bay))
    bay = width / bays
    storeys = max(1, round(height / style.storey))
    storey = height / storeys
    door = int(rng.integers(0, bays))
    glass_width, glass_height = min(style.window[0], bay - 0.3), min(style.window[1], storey - 0.6)
    wall, plinth, trim, dark, bright, curtain, frame, door_colour, sign, rail = range(10)
    materials = (
        Material(Fine.BUILDING, style.colour),
        Material(Fine.BUILDING, _darker(style.colour)),
        Material(Fine.BUILDING, style.trim),
        Material(Fine.WINDOW, (0.16, 0.19, 0.23)),
        Material(Fine.WINDOW, (0.48, 0.57, 0.66)),
        Material(Fine.WINDOW, (0.66, 0.64, 0.58)),
        Material(Fine.WINDOW, style.trim),
        Material(Fine.DOOR, style.accent),
        Material(Fine.BUILDING, style.accent),
        Material(Fine.BUILDING, (0.2, 0.2, 0.22)),
    )

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        index = np.full(u.shape, wall, np.uint8)
        shade = masonry(style.kind, u, v, step, offset)
        column, floor = np.floor(u / bay), np.floor(v / storey)
        across, above = u - (column + 0.5) * bay, v - floor * storey  # from the middle of the bay, from the floor
        ground = floor == 0
        attic = v > height
        index[v < 0.45] = plinth

        shop = ground & style.shop
        half = np.where(shop, np.float32(bay / 2 - 0.2), np.float32(glass_width / 2))
        low = np.where(shop, np.float32(0.45), np.float32(style.sill))
        top = np.where(shop, np.float32(2.5), np.float32(style.sill + glass_height))
        if style.shop:
            index[ground & (above > 2.55) & (above < 3.05)] = sign
        side, edge = half - np.abs(across), np.minimum(above - low, top - above)
        inside = (side > 0) & (edge > 0) & ~attic & (ground | (above < storey - 0.2))
        tone = _tone(column, floor, offset)
        pane = np.where(tone < 0.5, dark, np.where(tone < 0.8, bright, curtain)).astype(np.uint8)
        pane[(tone > 0.3) & (tone < 0.45) & (above > low + 0.55 * (top - low))] = curtain  # a blind, half drawn
        thick = np.maximum(0.07, step)
        framed = (side < thick) | (edge < thick) | ((np.abs(across) < thick / 2) & (half > 0.5))
        index[(np.abs(across) < half + 0.1) & (above > low - 0.12) & (above <= low) & ~attic & ~ground] = trim
        if style.shutters:
            index[(side <= 0) & (side > -0.45) & (edge > 0) & ~attic & ~ground] = sign
        index[inside] = np.where(framed, frame, pane)[inside]
        glass = inside & ~framed
        depth = np.clip((top - above) / 0.25, 0.0, 1.0)  # the lintel shades the upper rim
        mirror = 0.75 + 0.5 * (above - low) / np.maximum(top - low, 0.1) + 0.12 * noise("clump", u * 14 + offset[0], v * 14)
        shade[glass] = (mirror * (0.45 + 0.55 * depth))[glass]

        if style.balconies:
            railing = (floor > 0) & (above < 1.0) & (np.abs(across) < bay * 0.42) & (column % 2 == offset[0] % 2) & ~attic
            bars = ((u / 0.14) % 1.0 < 0.35) | (above > 0.92) | (above < 0.14) | (step > 0.05)
            index[railing & bars] = rail
        at_door = ground & (column == door) & (np.abs(across) < 0.65)
        index[at_door & (above < 2.45)] = trim
        panel = at_door & (above < 2.3) & (np.abs(across) < 0.52)
        index[panel] = door_colour
        shade[panel] = (0.85 + 0.2 * ((np.abs(across) < 0.36) & (above % 1.0 > 0.2)))[panel]

        cornice = (v > height - 0.32) & (v < height) if not gabled else np.zeros(u.shape, bool)
        index[cornice] = trim
        shade[(v > height - 0.55) & (v < height - 0.32)] *= 0.7
        pipe = np.abs(u - 0.25) < np.maximum(0.06, step / 2)
        index[pipe & ~attic] = rail
        if gabled:
            index[_outside_gable(u, v, width, height)] = HOLE
        return index, (shade * (0.72 + 0.28 * np.clip(v / 1.5, 0, 1))).astype(np.float32)

    return Surface(materials, paint)


# ------------------------------------------------------------------------------------------------------------------- ground


@dataclass(frozen=True)
class GroundPlan:
    """The street from above: strips from left to right, lines along them, and at most one side street across. Metres."""

    edges: tuple[float, ...]                                # x of the borders between strips
    strips: tuple[Fine, ...]                                # one more than edges
    road: tuple[float, float]                               # x of the carriageway's borders
    lines: tuple[tuple[float, float, float, float], ...]    # x, width, length of a dash, gap (0: solid)
    crossing: float | None                                  # where the middle of the side street is, along the street
    half: float                                             # half the side street's carriageway
    paving: str                                             # of the sidewalks: slabs, bricks, asphalt
    cobbles: bool                                           # a carriageway of cobbles


_FLAT = 10.0  # the ground is seen so flatly that a sample is many times longer than it is wide; only its width is handed in


def _grain(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    """Fresh asphalt: what it adds to the shade, (N,), as the other grounds below."""
    return 0.07 * noise("leaf", u * 81 + offset[1], v * 81 + offset[0]) * _visible(0.05, step)


def _asphalt(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    """Old asphalt: patches with seams, cracks."""
    far = step * _FLAT
    patch = _tone(u // 2.6, v // 7.0, offset)
    seam = np.maximum(_line(u, 2.6, 0.05, step), _line(v, 7.0, 0.05, far)) * (patch > 0.75)
    crack = np.abs(noise("clump", u * 14 + offset[0], v * 8 + offset[1])) < 0.035
    return _grain(u, v, step, offset) - 0.14 * (patch > 0.86) - 0.3 * seam - 0.25 * crack * _visible(0.12, far)


def _cobbles(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    row = np.floor(v / 0.16)
    near = _visible(0.16, step * _FLAT)
    return (0.5 * (_tone((u + row % 2 * 0.08) // 0.16, row, offset) - 0.5) - 0.3 * _line(u, 0.16, 0.03, step)) * near


def _laid(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float], length: float, depth: float) -> np.ndarray:
    """Stones of ``length`` by ``depth`` metres, laid in rows."""
    far = step * _FLAT
    row = np.floor(v / depth)
    shifted = u + row % 2 * (length / 2)
    near = _visible(depth, far)
    joint = np.maximum(_line(shifted, length, 0.025, step), _line(v, depth, 0.025, far) * near)
    return 0.35 * (_tone(shifted // length, row, offset) - 0.5) * near - 0.32 * joint


def _slabs(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    return _laid(u, v, step, offset, 0.6, 0.6)


def _bricks(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    return _laid(u, v, step, offset, 0.24, 0.12)


def _turf(u: np.ndarray, v: np.ndarray, step: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    blades = noise("leaf", u * 47 + offset[0], v * 22 + offset[1]) * (0.08 + 0.2 * _visible(0.3, step))
    return blades + 0.12 * noise("clump", u * 12 + offset[1], v * 4 + offset[0])


def ground(rng: np.random.Generator, plan: GroundPlan) -> Surface:
    """The ground; ``u`` is metres to the right of the street's middle, ``v`` metres along it."""
    offset = _offset(rng)
    order = (Fine.ROAD, Fine.CYCLE_LANE, Fine.LANE_MARKING, Fine.KERB, Fine.SIDEWALK, Fine.GRASS)
    warm = float(rng.uniform(-0.03, 0.04))
    grey = float(rng.uniform(0.36, 0.52))
    pave = float(rng.uniform(0.46, 0.64))
    brick_red = plan.paving == "bricks" and rng.random() < 0.6
    green = (float(rng.uniform(0.34, 0.5)), float(rng.uniform(0.44, 0.54)), float(rng.uniform(0.18, 0.26)))
    colours: dict[Fine, Colour] = {
        Fine.ROAD: (grey + warm, grey, grey - warm),
        Fine.CYCLE_LANE: (0.56, 0.33, 0.29),
        Fine.LANE_MARKING: (0.9, 0.9, 0.87),
        Fine.KERB: (0.68, 0.67, 0.64),
        Fine.SIDEWALK: (pave * 1.05, pave * 0.78, pave * 0.7) if brick_red else (pave + 0.02, pave, pave - 0.03),
        Fine.GRASS: green,
    }
    number = {fine: np.uint8(k) for k, fine in enumerate(order)}
    strips = np.array([number[fine] for fine in plan.strips], np.uint8)
    edges = np.array(plan.edges, np.float32)
    surfacing = _cobbles if plan.cobbles else _asphalt
    paving = {"slabs": _slabs, "bricks": _bricks, "asphalt": _grain}[plan.paving]

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        index = strips[np.searchsorted(edges, u)]
        on_road = (u > plan.road[0]) & (u < plan.road[1])
        worn = noise("cloud", u * 20 + offset[0], v * 8 + offset[1])
        for x, width, dash, gap in plan.lines:
            line = (np.abs(u - x) < width / 2) & (worn < 1.6)
            index[line & ((v % (dash + gap)) < dash)] = number[Fine.LANE_MARKING]
        if plan.crossing is not None:
            along = np.abs(v - plan.crossing)
            index[along < plan.half + 2.2] = number[Fine.SIDEWALK]
            index[along < plan.half + 0.15] = number[Fine.KERB]
            near_road = (u > plan.road[0] - 0.15) & (u < plan.road[1] + 0.15)
            index[near_road & (along < plan.half + 2.2)] = number[Fine.KERB]
            index[(along < plan.half) | (on_road & (along < plan.half + 2.2))] = number[Fine.ROAD]
            before = v - (plan.crossing - plan.half - 5.5)
            index[on_road & (before > -1.2) & (before < 3.2)] = number[Fine.ROAD]
            index[on_road & (before > 0) & (before < 2.8) & (u % 1.0 < 0.5)] = number[Fine.LANE_MARKING]
            index[on_road & (u > 0) & (before > -1.2) & (before < -0.8)] = number[Fine.LANE_MARKING]

        shade = 1 + 0.06 * worn
        road, walk, grass = index <= number[Fine.LANE_MARKING], index == number[Fine.SIDEWALK], index == number[Fine.GRASS]
        for part, texture in ((road, surfacing), (walk, paving), (grass, _turf)):
            at = np.flatnonzero(part)
            shade[at] += texture(u[at], v[at], step[at], offset)
        kerb = np.flatnonzero(index == number[Fine.KERB])
        shade[kerb] -= 0.3 * _line(v[kerb], 1.0, 0.03, step[kerb] * _FLAT)
        return index, shade

    return Surface(tuple(Material(fine, colours[fine]) for fine in order), paint)


@dataclass(frozen=True)
class Land:
    """Open country from above, metres: meadows and fields, at most one road along x = 0, at most one lake."""

    road: float                                      # half its width; 0: none
    gravel: bool                                     # the road, which then has no middle line
    lake: tuple[float, float, float, float] | None   # x and s of its middle, half its width and length
    meadow: Colour
    field: Colour                                    # ploughed or mown, in patches
    snow: float                                      # share of the ground that it covers
    water: Colour

    def in_lake(self, x: float, s: float, margin: float) -> bool:
        """Whether a place is nearer to the lake's water than so many metres."""
        if self.lake is None:
            return False
        middle_x, middle_s, half_x, half_s = self.lake
        return ((x - middle_x) / (half_x + margin)) ** 2 + ((s - middle_s) / (half_s + margin)) ** 2 < 1.1


def land(rng: np.random.Generator, plan: Land) -> Surface:
    """The ground of open country; ``u`` is metres to the right of the road's middle, ``v`` metres along it."""
    offset = _offset(rng)
    grey = float(rng.uniform(0.3, 0.42))
    meadow, field, snow, road, marking, water = range(6)
    materials = (
        Material(Fine.GRASS, plan.meadow),
        Material(Fine.GRASS, plan.field),
        Material(Fine.GRASS, (0.88, 0.9, 0.95)),
        Material(Fine.ROAD, (0.56, 0.5, 0.42) if plan.gravel else (grey, grey, grey * 1.04)),
        Material(Fine.LANE_MARKING, (0.88, 0.87, 0.8)),
        Material(Fine.WATER, plan.water),
    )
    turned = float(rng.uniform(-0.6, 0.6))  # the furrows, against the road

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        wide = noise("cloud", u * 3 + offset[1], v * 3 + offset[0])
        worn = noise("cloud", u * 24 + offset[0], v * 12 + offset[1])
        index = np.where(noise("clump", u * 0.35 + offset[0], v * 0.2 + offset[1]) + 0.2 * worn > 0.5, field, meadow).astype(np.uint8)
        shade = 1 + 0.07 * worn + 0.08 * wide
        furrow = np.sin((u + turned * v) * np.float32(2 * np.pi / 0.7)) * _visible(0.7, step * _FLAT)
        shade += np.where(index == field, 0.16 * furrow, _turf(u, v, step, offset))
        if plan.snow:
            index[wide + 0.35 * worn > 3 * (0.5 - plan.snow)] = snow
        if plan.road:
            ragged = plan.road + np.where(worn > 0, 0.12, 0.08) * worn * (2.0 if plan.gravel else 0.6)
            paved = np.abs(u) < ragged
            index[paved] = road
            shade[paved] = (1 + 0.08 * worn + (_turf if plan.gravel else _asphalt)(u, v, step, offset))[paved]
            if plan.gravel:  # grass between the ruts
                index[(np.abs(u) < 0.35) & (worn > -0.3)] = meadow
            else:
                index[(np.abs(u) < 0.07) & (v % 7.0 < 3.0) & (worn < 1.4)] = marking
        if plan.lake is not None:
            middle_u, middle_v, half_u, half_v = plan.lake
            away = ((u - middle_u) / half_u) ** 2 + ((v - middle_v) / half_v) ** 2 + 0.03 * noise("cloud", u * 9, v * 9)
            shade *= np.where(away < 1.12, np.float32(0.7), np.float32(1))  # the bank is wet
            wet = away < 1
            index[wet] = water
            # Seen flatly, water mirrors the bright sky at the horizon; seen steeply, it is darker.
            mirror = 0.55 + 0.45 * np.clip(step * 12, 0, 1)
            ripple = 0.16 * noise("leaf", u * 9, v * 5) * _visible(0.5, step * 3) + 0.1 * noise("clump", u * 2, v * 0.6)
            shade[wet] = (mirror * (1 + ripple))[wet]
        return index, np.maximum(shade, 0.15).astype(np.float32)

    return Surface(materials, paint)


# --------------------------------------------------------------------------------------------------------------- vegetation


def crown(
    rng: np.random.Generator,
    fine: Fine,
    size: tuple[float, float],
    colour: Colour,
    sun: tuple[float, float, float],
    shape: str = "round",
) -> Surface:
    """A crown or a bush: many balls of leaves on a panel of ``size`` = (width, height), lit from ``sun``, ragged at the rim.

    Args:
        sun: the direction to the sun as the panel sees it: to the right, up, towards the viewer; a zero vector under clouds.
        shape: ``"round"``, ``"bush"`` (flat at the bottom) or ``"cone"`` (a conifer).
    """
    offset = _offset(rng)
    width, height = size
    count = {"round": 11, "bush": 7, "cone": 13}[shape]
    if shape == "cone":
        share_y = np.linspace(0.04, 0.93, count)
        share_x = 0.5 + (1 - share_y) * rng.uniform(-0.28, 0.28, count)
        share_r = 0.05 + 0.2 * (1 - share_y)
    else:
        angle, away = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
        middle, tall = (0.5, 0.3) if shape == "round" else (0.35, 0.22)
        share_x, share_y = 0.5 + 0.3 * away * np.cos(angle), middle + tall * away * np.sin(angle)
        share_r = rng.uniform(0.14, 0.24, count)
    unit = width if shape == "cone" else min(width, height)
    x, y, radius = ((share * of).astype(np.float32) for share, of in ((share_x, width), (share_y, height), (share_r, unit)))
    rest = radius**2 - x**2 - y**2
    sun_right, sun_up, sun_near = (np.float32(a) for a in sun)
    ragged = np.float32(0.05 * min(unit, 3.0))

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        coarse = noise("clump", u * 21 + offset[0], v * 21 + offset[1])
        leaves = noise("leaf", u * 23 + offset[1], v * 23 + offset[0])
        pu, pv = u + ragged * coarse, v + ragged * leaves
        # Squared radius minus squared distance: where it is largest, that ball is seen; above 0, it is hit.
        power = pu[:, None] * (2 * x)
        power += pv[:, None] * (2 * y)
        power += rest
        ball = power.argmax(1)
        inside = power[np.arange(len(u)), ball] - pu * pu - pv * pv
        r = radius[ball]
        right, upward, near = (pu - x[ball]) / r, (pv - y[ball]) / r, np.sqrt(np.maximum(inside, 0)) / r
        lit = np.clip(right * sun_right + upward * sun_up + near * sun_near, -0.2, 1)
        open_sky = 0.62 + 0.3 * upward + np.float32(0.12 / height) * v
        texture = 0.22 * leaves * (0.35 + 0.65 * _visible(0.12, step)) + 0.12 * coarse
        shade = (open_sky + 0.75 * lit) * (1 + texture)
        index = np.where(inside > 0, np.uint8(0), np.uint8(HOLE))
        index[(inside > 0) & (leaves + 0.6 * coarse < -2.1)] = VEIL  # a gap between leaves
        return index, np.maximum(shade, np.float32(0.12))

    return Surface((Material(fine, colour),), paint)


def hedge(rng: np.random.Generator, colour: Colour, ragged: float) -> Surface:
    """A clipped hedge as a wall of leaves, its top ``ragged`` metres uneven."""
    offset = _offset(rng)

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        leaves = noise("leaf", u * 29 + offset[0], v * 29 + offset[1])
        coarse = noise("clump", u * 15 + offset[1], v * 15 + offset[0])
        shade = (0.8 + 0.14 * coarse + 0.2 * leaves * (0.3 + 0.7 * _visible(0.12, step))) * (0.7 + 0.3 * np.clip(v, 0, 1))
        index = np.zeros(u.shape, np.uint8)
        if ragged > 0:
            index[v > v.max() - ragged * (1 + 0.5 * coarse)] = HOLE
        return index, np.maximum(shade, 0.1).astype(np.float32)

    return Surface((Material(Fine.BUSH, colour),), paint)


# ------------------------------------------------------------------------------------------------------------------- fences


def fence(rng: np.random.Generator, kind: str, height: float, colour: Colour) -> Surface:
    """A fence: ``"pickets"``, ``"railing"``, ``"mesh"`` or ``"boards"``; its gaps are VEIL."""
    offset = _offset(rng)
    period, share = {"pickets": (0.16, 0.62), "railing": (0.13, 0.3), "mesh": (0.12, 0.2), "boards": (0.2, 0.93)}[kind]

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        tall = height - 0.1 * (np.floor(u / period) % 2) * (kind == "pickets")
        solid = (u / period) % 1.0 < np.maximum(share, np.minimum(step / period * 0.5, 0.5))
        if kind == "mesh":
            solid |= (v / period) % 1.0 < share
        rail = (np.abs(v - 0.2 * height) < 0.05) | (np.abs(v - 0.85 * height) < 0.05)
        post = (u % 2.4) < 0.1
        index = np.where(solid | rail | post, np.uint8(0), np.uint8(VEIL))
        index[v > tall] = HOLE
        shade = 0.9 + 0.3 * (_tone(u // period, np.zeros_like(u), offset) - 0.5) - 0.15 * rail + 0.1 * post
        return index.astype(np.uint8), (shade + 0.06 * noise("clump", u * 22, v * 22)).astype(np.float32)

    return Surface((Material(Fine.FENCE, colour),), paint)


# ------------------------------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Part:
    """A limb, a tube, a ring: all points within a radius of a line; metres on the panel, the middle of its foot is (0, 0)."""

    material: int                  # index into the figure's materials, or VEIL
    start: tuple[float, float]
    end: tuple[float, float]
    radius: tuple[float, float]    # at the start, at the end
    inner: float = 0.0             # a ring leaves this radius open


def figure(materials: Sequence[Material], parts: Sequence[Part], width: float) -> Surface:
    """A person, a bike, a lamp post: parts painted one over another on a panel ``width`` metres wide.

    Parts thinner than a sample are widened to one, so that a far pole is a line and not a row of dots.
    """
    table = np.array([(*p.start, *p.end, *p.radius, p.inner) for p in parts], np.float32).T
    su, sv, eu, ev, r0, r1, inner = table
    au, av = eu - su, ev - sv
    slope = 1 / np.maximum(au * au + av * av, np.float32(1e-9))
    widening = r1 - r0
    rings = bool(inner.any())
    material = np.array([p.material for p in parts], np.uint8)

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        du, dv = (u - np.float32(width / 2))[:, None] - su, v[:, None] - sv  # (N, P): from where each part starts
        t = du * au
        t += dv * av
        t *= slope
        np.clip(t, 0, 1, out=t)
        du -= t * au
        dv -= t * av
        dv *= dv
        dv += du * du  # squared distance
        t *= widening
        t += r0
        r = np.maximum(t, np.float32(0.55) * step[:, None], out=t)
        cover = dv <= r * r
        if rings:
            cover &= dv >= np.minimum(inner, np.maximum(r - step[:, None], 0)) ** 2
        last = len(material) - 1 - cover[:, ::-1].argmax(1)
        n = np.arange(len(u))
        index = material[last]
        index[~cover[n, last]] = HOLE
        round_ = du[n, last] / np.maximum(r[n, last], np.float32(1e-6))  # -1 at the left rim, 1 at the right: limbs are round
        return index, (1.06 - 0.3 * round_ * round_ - 0.1 * round_) * (1 + 0.06 * noise("clump", u * 30, v * 30))

    return Surface(tuple(materials), paint)


# --------------------------------------------------------------------------------------------------------------------- plates

PLATES = ("limit", "warning", "priority", "order", "parking", "direction", "back")


def plate(kind: str, width: float, height: float, colour: Colour = (0.1, 0.25, 0.6)) -> Surface:
    """A traffic sign of one of :data:`PLATES`."""
    white, ring, dark, field, grey = range(5)
    materials = (
        Material(Fine.SIGN, (0.93, 0.93, 0.92)),
        Material(Fine.SIGN, (0.78, 0.08, 0.1)),
        Material(Fine.SIGN, (0.08, 0.08, 0.1)),
        Material(Fine.SIGN, colour),
        Material(Fine.SIGN, (0.5, 0.51, 0.52)),
    )

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        x, y = u / width * 2 - 1, v / height * 2 - 1
        radius = np.hypot(x, y)
        glyph = (np.abs(x) < 0.4) & (np.abs(y) < 0.35) & ((x * 3.1 + 10) % 1.0 < 0.62)
        index = np.full(u.shape, white, np.uint8)
        if kind in ("limit", "back"):
            index[glyph] = dark
            index[radius > 0.72] = ring
            if kind == "back":
                index[:] = grey
            index[radius > 1] = HOLE
        elif kind == "warning":
            low = np.minimum(y + 1, (1 - y) / 2 - np.abs(x))
            index[(np.abs(x) < 0.12) & (np.abs(y + 0.25) < 0.4)] = dark
            index[low < 0.2] = ring
            index[low < 0] = HOLE
        elif kind == "priority":
            rim = 1 - np.abs(x) - np.abs(y)
            index[rim > 0.22] = field
            index[rim < 0] = HOLE
        elif kind == "order":
            index[:] = field
            index[(np.abs(x) < 0.14) & (np.abs(y) < 0.6) | ((np.abs(y - 0.6 + np.abs(x)) < 0.2) & (np.abs(x) < 0.45))] = white
            index[radius > 1] = HOLE
        else:
            rim = np.minimum(1 - np.abs(x), 1 - np.abs(y))
            index[:] = field
            text = (np.abs(x) < 0.8) & ((y * 1.5 + 10) % 1.0 < 0.45) & ((x * 6 + 10) % 1.0 < 0.7)
            index[text if kind == "direction" else glyph] = white
            index[rim < 0.07] = white
        return index, (1.0 + 0.04 * noise("clump", u * 45, v * 45)).astype(np.float32)

    return Surface(materials, paint)


def traffic_light(lamp: int) -> Surface:
    """A black box, 0.34 by 0.95 metres, with three lamps, of which ``lamp`` (0 green, 1 amber, 2 red) is lit."""
    lit = ((0.3, 1.0, 0.55), (1.0, 0.75, 0.2), (1.0, 0.2, 0.15))[lamp]
    materials = tuple(Material(Fine.TRAFFIC_LIGHT, c) for c in ((0.07, 0.08, 0.08), (0.2, 0.15, 0.14), lit))

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        third = np.floor(v / 0.32)
        disc = np.hypot(u - 0.17, v - (third + 0.5) * 0.315) < 0.115
        index = np.where(disc, np.where(third == lamp, 2, 1), 0).astype(np.uint8)
        return index, np.where(index == 2, 2.2, 1.0).astype(np.float32)

    return Surface(materials, paint)


# ------------------------------------------------------------------------------------------------------------------- vehicles


@dataclass(frozen=True)
class VehicleShape:
    """A vehicle from the side; metres from its front bumper, and above the road."""

    fine: Fine
    length: float
    width: float
    bonnet: float                  # height of the front edge
    belt: float                    # height of the lower rim of the windows
    roof: float
    screen: tuple[float, float]    # where the windscreen starts and ends
    back: tuple[float, float]      # where the rear window ends (at the roof) and starts (at the belt)
    boot: float                    # height of the rear edge
    wheel: float                   # radius
    axles: tuple[float, float]
    glazed: float                  # side windows reach this far back


_FITTINGS: tuple[Colour, ...] = (
    (0.13, 0.16, 0.19), (0.07, 0.07, 0.08), (0.55, 0.56, 0.58), (0.14, 0.14, 0.15), (0.95, 0.94, 0.88), (0.72, 0.06, 0.06),
    (0.88, 0.88, 0.84),
)  # fmt: skip


@cache
def _vehicle_materials(fine: Fine, colour: Colour) -> tuple[Material, ...]:
    """Body, glass, tyre, rim, plastic, front light, rear light, number plate."""
    return tuple(Material(fine, c) for c in (colour, *_FITTINGS))


_BODY, _GLASS, _TYRE, _RIM, _PLASTIC, _FRONT_LIGHT, _REAR_LIGHT, _NUMBER = range(8)


def vehicle_flank(shape: VehicleShape, colour: Colour) -> Surface:
    """The lower side: body up to the windows' rim, wheels, the gap of the doors; ``u`` runs from the front bumper."""
    top_u = (0, shape.screen[0], shape.back[1], shape.length)
    top_v = (shape.bonnet, shape.belt, shape.belt, shape.boot)
    doors = (shape.screen[1], (shape.screen[1] + shape.back[0]) / 2, shape.back[0])

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        index = np.full(u.shape, _BODY, np.uint8)
        shade = 0.78 + 0.3 * np.clip(v / shape.belt, 0, 1) + 0.12 * (np.abs(v - 0.72 * shape.belt) < 0.05)
        gap = np.minimum.reduce([np.abs(u - d) for d in doors]) < np.maximum(0.012, step / 2)
        shade -= 0.3 * (gap & (v > 0.3)) * np.minimum(1, 0.024 / step)
        index[v < 0.3] = _PLASTIC
        index[(np.abs(v - 0.6 * shape.belt) < 0.09) & (u > shape.length - 0.14)] = _REAR_LIGHT
        index[(np.abs(v - 0.8 * shape.bonnet) < 0.08) & (u < 0.2)] = _FRONT_LIGHT
        index[(v > np.interp(u, top_u, top_v)) | (v < 0.2)] = HOLE
        for axle in shape.axles:
            distance = np.hypot(u - axle, v - shape.wheel)
            arch = (distance < shape.wheel * 1.18) & (v > 0.2)
            index[arch] = _PLASTIC
            shade[arch] = 0.5
            index[distance < shape.wheel] = _TYRE
            shade[distance < shape.wheel] = 1.0
            spoke = np.abs(np.sin(2.5 * np.arctan2(v - shape.wheel, u - axle))) > 0.3
            index[(distance < shape.wheel * 0.66) & (spoke | (distance < 0.08))] = _RIM
        return index, shade.astype(np.float32)

    return Surface(_vehicle_materials(shape.fine, colour), paint)


def vehicle_windows(shape: VehicleShape, colour: Colour, height: float) -> Surface:
    """The upper side, ``height`` metres from the rim of the windows to the roof; ``u`` = 0 where the windscreen starts."""
    start, end = shape.screen[0], shape.back[1]
    lean_front, lean_back = shape.screen[1] - start, end - shape.back[0]
    middle = (shape.screen[1] + shape.back[0]) / 2 - start

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        t = v / height
        front, back = u - t * lean_front, (end - start) - t * lean_back - u
        index = np.full(u.shape, _BODY, np.uint8)
        glass = (front > 0.14) & (back > 0.16) & (v < height - 0.09) & (v > 0.03) & (u < shape.glazed - start)
        glass &= np.abs(u - middle) > 0.05
        index[glass] = _GLASS
        index[(front < 0) | (back < 0)] = HOLE
        shade = np.where(glass, 0.8 + 1.2 * t + 0.3 * noise("clump", u * 12, v * 12), 0.95)
        return index, shade.astype(np.float32)

    return Surface(_vehicle_materials(shape.fine, colour), paint)


def vehicle_screen(shape: VehicleShape, colour: Colour, width: float, length: float, inset: float, blind: bool) -> Surface:
    """The windscreen or the rear window: a trapezium, ``inset`` metres narrower at the top on each side; ``blind`` has no glass."""

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        rim = width / 2 - inset * v / length - np.abs(u - width / 2)
        index = np.full(u.shape, _BODY, np.uint8)
        glass = (rim > 0.07) & (v > 0.05) & (v < length - 0.06)
        if not blind:
            index[glass] = _GLASS
        index[rim < 0] = HOLE
        shade = np.where(glass & (not blind), 0.9 + 1.8 * (v / length) ** 2 + 0.35 * noise("clump", u * 9, v * 9 + 90), 0.95)
        return index, shade.astype(np.float32)

    return Surface(_vehicle_materials(shape.fine, colour), paint)


def vehicle_end(shape: VehicleShape, colour: Colour, front: bool, height: float) -> Surface:
    """The front or the rear: lights, number plate, bumper, grille."""
    width = shape.width

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        off = np.abs(u - width / 2)
        index = np.full(u.shape, _BODY, np.uint8)
        shade = 0.75 + 0.3 * np.clip(v / height, 0, 1)
        index[v < 0.34] = _PLASTIC
        wheel = (off > width / 2 - 0.24) & (off < width / 2 - 0.03)
        lamp = (off > width / 2 - (0.42 if front else 0.26)) & (off < width / 2 - 0.03)
        level = (0.62, 0.8) if front else (0.55, 0.82)
        index[lamp & (v > level[0] * height) & (v < level[1] * height)] = _FRONT_LIGHT if front else _REAR_LIGHT
        if front:
            index[(off < width / 2 - 0.48) & (v > 0.5 * height) & (v < 0.75 * height)] = _PLASTIC
        index[(off < 0.26) & (np.abs(v - (0.42 if front else 0.55) * height) < 0.07)] = _NUMBER
        index[v < 0.2] = HOLE
        index[wheel & (v < 0.22)] = _TYRE
        return index, shade.astype(np.float32)

    return Surface(_vehicle_materials(shape.fine, colour), paint)


def sheet(material: Material, spread: float = 0.04) -> Surface:
    """One material, a little uneven: bonnets, roofs of cars, the sides of bins."""

    def paint(u: np.ndarray, v: np.ndarray, step: np.ndarray) -> Paint:
        return np.zeros(u.shape, np.uint8), (1 + spread * noise("clump", u * 15, v * 15)).astype(np.float32)

    return Surface((material,), paint)
