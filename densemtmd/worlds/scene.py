"""What stands in a street: a random street with its houses, trees, vehicles and people, in metres.

Street coordinates are ``x`` (metres to the right of the middle of the road), ``s`` (metres along it) and ``y`` (metres above the ground).
A street may bend: :meth:`Site.point` bends street coordinates into the flat world in which the camera works. People drive on the right.
Everything is drawn from one random generator, so a street is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from densemtmd.worlds import textures
from densemtmd.worlds.textures import (
    GABLE_SLOPE,
    VEIL,
    Colour,
    FacadeStyle,
    Fine,
    GroundPlan,
    Material,
    Part,
    Surface,
    VehicleShape,
)

FIRST, LAST = -14.0, 120.0  # where the street begins and ends, metres along it: the camera starts at 0
EYE = 1.6                   # height of the camera, metres


@dataclass(frozen=True)
class Panel:
    """A flat rectangle in the world, and its surface.

    ``turns``: it always turns towards the camera about its upright axis; ``corner`` is then the middle of its foot.
    ``faces``: 1 seen where ``across`` points to the viewer's right, -1 seen from the other side, 0 seen from both.
    """

    corner: np.ndarray  # (3,)
    across: np.ndarray  # (3,) unit vector along the width
    up: np.ndarray      # (3,) unit vector along the height
    width: float
    height: float
    surface: Surface
    faces: int = 1
    turns: bool = False
    shaded: bool = True  # False: the surface knows the sun itself, as crowns do


@dataclass(frozen=True)
class Caster:
    """Something that darkens the ground: a box of the given half sizes, from ``low`` to ``high`` above the ground; a crown is leafy."""

    x: float
    s: float
    half: tuple[float, float]
    low: float
    high: float
    leafy: bool = False


@dataclass(frozen=True)
class Light:
    """Sun, sky and air; colours are linear (R, G, B)."""

    to_sun: np.ndarray     # (3,) unit vector (x, y, s)
    sun: np.ndarray        # (3,) zero under clouds
    sky: np.ndarray        # (3,) light from everywhere
    zenith: np.ndarray     # (3,) colour of the sky above
    horizon: np.ndarray    # (3,) colour of the sky low down, and of haze
    clouds: float          # share of the sky, 0..1
    haze: float            # 1 / metres


@dataclass(frozen=True)
class Optics:
    """The camera itself; by default the one that drives through the streets, a wide lens as KITTI's colour cameras have."""

    eye: float = EYE                             # metres above the ground
    focal: float = 0.58                          # focal length over the picture's width: 81 degrees across
    horizon: float = 0.46                        # where a level camera has the horizon, from the top
    exposure: float = 0.2                        # how light what is not sky becomes, on average
    grain: tuple[float, float] = (0.004, 0.012)  # the sensor's noise: least and most
    balance: Colour = (1.0, 1.0, 1.0)            # what it makes of white


@dataclass(frozen=True)
class Ridge:
    """Hills or mountains at the horizon."""

    seed: int
    height: float     # of the highest peaks, over their distance
    distance: float   # metres
    rock: np.ndarray  # (3,) linear
    snow: float       # the share of the height from which on there is snow


@dataclass(frozen=True)
class Viewpoint:
    """A pinhole: where it is in the world, and how it is turned (radians; yaw to the right, pitch up, roll to the right)."""

    place: np.ndarray  # (3,)
    yaw: float
    pitch: float
    roll: float


Mover = Callable[["Site", float], None]


@dataclass
class Site:
    """A street in which things are put up."""

    bend: float
    sun: tuple[float, float, float]  # direction to the sun as a panel across the street sees it: right, up, towards the viewer
    panels: list[Panel] = field(default_factory=list)
    casters: list[Caster] = field(default_factory=list)

    def point(self, x: float, s: float, y: float = 0.0) -> np.ndarray:
        """Street coordinates to the world, (3,)."""
        return np.array([x + self.bend * s * s, y, s])

    def heading(self, s: float) -> float:
        """Direction of the street, radians to the right of straight ahead at s = 0."""
        return float(np.arctan(2 * self.bend * s))

    def wall(self, x0: float, s0: float, x1: float, s1: float, surface: Surface, height: float, y: float = 0.0, faces: int = 1) -> None:
        """An upright panel from (x0, s0) to (x1, s1), seen by those who have (x1, s1) on their right."""
        start, end = self.point(x0, s0, y), self.point(x1, s1, y)
        width = float(np.hypot(*(end - start)[[0, 2]]))
        self.panels.append(Panel(start, (end - start) / width, np.array([0.0, 1.0, 0.0]), width, height, surface, faces))

    def slope(self, foot0: np.ndarray, foot1: np.ndarray, head0: np.ndarray, surface: Surface, faces: int = 1) -> None:
        """A tilted panel over the edge foot0-foot1 whose other edge starts at head0 (world coordinates)."""
        across, up = foot1 - foot0, head0 - foot0
        width, height = float(np.linalg.norm(across)), float(np.linalg.norm(up))
        self.panels.append(Panel(foot0, across / width, up / height, width, height, surface, faces))

    def stand(self, x: float, s: float, width: float, height: float, surface: Surface, y: float = 0.0, shaded: bool = True) -> None:
        """A panel that always faces the camera."""
        across, up = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
        self.panels.append(Panel(self.point(x, s, y), across, up, width, height, surface, 0, turns=True, shaded=shaded))

    def shadow(self, x: float, s: float, half: tuple[float, float], low: float, high: float, leafy: bool = False) -> None:
        self.casters.append(Caster(x, s, half, low, high, leafy))


@dataclass(frozen=True)
class Side:
    """One side of the street; distances from the middle of the road, metres."""

    sign: int            # 1 right, -1 left
    kind: str            # urban, residential, green
    lane: float          # where the lane ends
    parking: float       # width, 0: none
    cycle: float         # width, 0: none
    verge: float         # width of the grass between kerb and sidewalk, 0: none
    walk: float          # width of the sidewalk
    setback: float       # from the sidewalk to the houses

    @property
    def kerb(self) -> float:
        return self.lane + self.parking + self.cycle

    @property
    def walk_from(self) -> float:
        return self.kerb + 0.18 + self.verge

    @property
    def walk_to(self) -> float:
        return self.walk_from + self.walk

    @property
    def front(self) -> float:
        return self.walk_to + self.setback


@dataclass(frozen=True)
class Row:
    """The houses of one side as the sun sees them: how high they stand every half metre from FIRST on."""

    x: float
    skyline: np.ndarray


@dataclass(frozen=True)
class Scene:
    """One street, seen in a sequence of frames."""

    bend: float
    ground: Surface
    light: Light
    rows: tuple[Row, ...]
    still: Site
    movers: tuple[Mover, ...]
    offset: float      # x of the camera
    advance: float     # metres from frame to frame
    wobble: np.ndarray  # (frames, 3): yaw, pitch, roll beside the street's direction
    backdrop: int      # where in the noise the far tree line is
    tree_line: float = 1.0                    # how high it stands, over that of the streets
    far_trees: Colour = (0.085, 0.11, 0.06)   # its colour, linear
    ridges: tuple[Ridge, ...] = ()            # behind it; far ones first
    optics: Optics = Optics()

    def at(self, frame: int) -> tuple[Viewpoint, list[Panel], list[Caster]]:
        """Camera, panels and shadow casters of one frame."""
        s = frame * self.advance
        now = Site(self.bend, self.still.sun)
        for move in self.movers:
            move(now, frame * self.advance / 8.0)  # the camera drives at 8 m/s
        yaw, pitch, roll = self.wobble[frame]
        camera = Viewpoint(now.point(self.offset, s, self.optics.eye), now.heading(s) + yaw, pitch, roll)
        return camera, self.still.panels + now.panels, self.still.casters + now.casters


# -------------------------------------------------------------------------------------------------------------------- colours

WALLS: tuple[Colour, ...] = (
    (0.86, 0.83, 0.76), (0.9, 0.89, 0.87), (0.62, 0.6, 0.57), (0.5, 0.5, 0.5), (0.86, 0.74, 0.5), (0.78, 0.56, 0.42), (0.6, 0.32, 0.25),
    (0.5, 0.28, 0.24), (0.7, 0.66, 0.55), (0.55, 0.6, 0.64), (0.63, 0.68, 0.58), (0.82, 0.68, 0.62), (0.45, 0.38, 0.33), (0.36, 0.38, 0.4),
)  # fmt: skip
ACCENTS: tuple[Colour, ...] = (
    (0.35, 0.2, 0.12), (0.12, 0.3, 0.2), (0.55, 0.12, 0.12), (0.14, 0.2, 0.42), (0.8, 0.8, 0.78), (0.25, 0.25, 0.27), (0.72, 0.5, 0.12),
)  # fmt: skip
PAINTS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.88), (0.62, 0.63, 0.65), (0.36, 0.37, 0.39), (0.09, 0.09, 0.1), (0.13, 0.19, 0.38), (0.6, 0.08, 0.1), (0.2, 0.36, 0.55),
    (0.15, 0.32, 0.22), (0.74, 0.7, 0.6), (0.8, 0.4, 0.1), (0.4, 0.1, 0.14), (0.5, 0.56, 0.6),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (0.1, 0.1, 0.12), (0.18, 0.22, 0.38), (0.5, 0.5, 0.52), (0.86, 0.85, 0.82), (0.65, 0.12, 0.14), (0.75, 0.6, 0.2), (0.2, 0.42, 0.3),
    (0.45, 0.32, 0.22), (0.8, 0.45, 0.5), (0.25, 0.5, 0.7), (0.4, 0.25, 0.45), (0.7, 0.62, 0.5),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((0.87, 0.69, 0.58), (0.78, 0.58, 0.45), (0.55, 0.38, 0.28), (0.36, 0.24, 0.18))
HAIRS: tuple[Colour, ...] = ((0.12, 0.09, 0.08), (0.35, 0.24, 0.15), (0.7, 0.58, 0.36), (0.6, 0.6, 0.6))
ROOFS: tuple[Colour, ...] = ((0.55, 0.27, 0.2), (0.42, 0.25, 0.2), (0.3, 0.3, 0.32), (0.44, 0.36, 0.3))
BARK: tuple[Colour, ...] = ((0.34, 0.27, 0.21), (0.26, 0.23, 0.2), (0.48, 0.44, 0.38))
STEEL: tuple[Colour, ...] = ((0.56, 0.58, 0.59), (0.3, 0.34, 0.32), (0.22, 0.22, 0.23), (0.45, 0.45, 0.43))


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.04) -> Colour:
    """One of the colours, a little changed."""
    colour = np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread * 0.6) + rng.normal(0, spread * 0.5, 3)
    r, g, b = np.clip(colour, 0.03, 0.97).tolist()
    return r, g, b


def _leaves(rng: np.random.Generator) -> Colour:
    """Mostly greens, some yellow, some reddish brown."""
    base = rng.choice(5, p=[0.4, 0.25, 0.15, 0.12, 0.08])
    return pick(rng, [((0.3, 0.42, 0.16), (0.24, 0.36, 0.2), (0.42, 0.48, 0.2), (0.6, 0.5, 0.2), (0.5, 0.28, 0.18))[base]])


# ------------------------------------------------------------------------------------------------------------------ buildings


def _facade_style(rng: np.random.Generator, urban: bool) -> FacadeStyle:
    kinds = {"plaster": 0.5, "brick": 0.2, "stone": 0.15, "concrete": 0.15} if urban else {"plaster": 0.62, "brick": 0.26, "boards": 0.12}
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    reddish = WALLS[5:8] + WALLS[12:13]
    colour = pick(rng, reddish if kind == "brick" else WALLS)
    modern = urban and rng.random() < 0.22
    return FacadeStyle(
        kind="concrete" if modern else kind,
        colour=colour,
        trim=pick(rng, [(0.85, 0.84, 0.8), (0.7, 0.67, 0.6), (0.35, 0.33, 0.32)]),
        accent=pick(rng, ACCENTS),
        storey=float(rng.uniform(2.8, 3.5)),
        bay=float(rng.uniform(1.5, 1.9) if modern else rng.uniform(2.1, 3.4)),
        window=(1.6, 2.3) if modern else (float(rng.uniform(0.9, 1.5)), float(rng.uniform(1.25, 1.8))),
        sill=0.5 if modern else float(rng.uniform(0.75, 1.0)),
        shop=bool(urban and rng.random() < 0.45),
        shutters=bool(not urban and rng.random() < 0.4),
        balconies=bool(urban and rng.random() < 0.35),
    )


def put_house(site: Site, rng: np.random.Generator, side: Side, s0: float, s1: float, front: float, urban: bool) -> float:
    """A house from s0 to s1, its street side ``front`` metres from the middle; returns how high it stands."""
    style = _facade_style(rng, urban)
    eaves = style.storey * int(rng.integers(3, 6) if urban else rng.integers(1, 4))
    depth = float(rng.uniform(9, 14))
    roof = str(rng.choice(["flat", "along", "across"], p=[0.5, 0.4, 0.1] if urban else [0.1, 0.5, 0.4]))
    tiles = textures.tiles(rng, pick(rng, ROOFS))
    corner = site.point(side.sign * front, s0)  # of the house, nearest to the camera and to the road
    along = site.point(side.sign * front, s1) - corner
    width = float(np.linalg.norm(along))
    along /= width
    rise = {"flat": 0.0, "along": depth / 2 * GABLE_SLOPE, "across": width / 2 * GABLE_SLOPE}[roof]
    away = side.sign * np.array([along[2], 0.0, -along[0]])

    def at(s: float, back: float, y: float) -> np.ndarray:
        """``s`` metres along the front, ``back`` metres behind it, ``y`` above the ground."""
        return corner + along * s + away * back + np.array([0.0, y, 0.0])

    gable = (depth, eaves) if roof == "along" else None
    wall = textures.facade(rng, style, width, eaves, gabled=roof == "across")
    if rng.random() < 0.45:
        plain = replace(style, shop=False, balconies=False, bay=1.6 * style.bay)
        end = textures.facade(rng, plain, depth, eaves, gabled=gable is not None)
    else:
        end = textures.bare_wall(rng, Fine.BUILDING, style.kind, style.colour, gable)
    high = eaves + (rise if roof == "across" else 0)
    site.slope(at(0, 0, 0), at(width, 0, 0), at(0, 0, high), wall, faces=-side.sign)
    high = eaves + (rise if roof == "along" else 0)
    site.slope(at(0, 0, 0), at(0, depth, 0), at(0, 0, high), end, faces=side.sign)
    over = 0.3  # the roof reaches over the wall
    if roof == "along":
        foot = eaves - over * GABLE_SLOPE
        site.slope(at(-over, -over, foot), at(width + over, -over, foot), at(-over, depth / 2, eaves + rise), tiles, -side.sign)
    elif roof == "across":
        foot = eaves - over * GABLE_SLOPE
        site.slope(at(-over, -over, foot), at(-over, depth, foot), at(width / 2, -over, eaves + rise), tiles, side.sign)
    return eaves + 0.6 * rise


def _houses(site: Site, rng: np.random.Generator, side: Side, crossing: tuple[float, float] | None) -> Row:
    """All the houses of one side, and the trees in the gaps between them."""
    skyline = np.zeros(int((LAST - FIRST) * 2), np.float32)
    s = FIRST + float(rng.uniform(0, 5))
    urban = side.kind == "urban"
    while s < LAST:
        if side.kind == "green" and rng.random() < 0.75:
            s += float(rng.uniform(12, 30))
            continue
        width = float(rng.uniform(9, 19) if urban else rng.uniform(8, 13))
        if crossing is not None and s < crossing[1] and s + width > crossing[0]:
            if crossing[0] - s > 7:
                width = crossing[0] - s
            else:
                s = crossing[1]
                continue
        front = side.front + (0.0 if urban else float(rng.uniform(0, 1.5)))
        high = put_house(site, rng, side, s, s + width, front, urban)
        skyline[int((s - FIRST) * 2) : int((s + width - FIRST) * 2)] = high
        s += width
        if not urban or rng.random() < 0.2:
            gap = float(rng.uniform(3, 8))
            if rng.random() < 0.8:
                put_tree(site, rng, side.sign * (front + float(rng.uniform(3, 9))), s + gap / 2, float(rng.uniform(5, 9)))
            s += gap
    return Row(side.sign * side.front, skyline)


# -------------------------------------------------------------------------------------------------------- trees and enclosures


NEEDLES: Colour = (0.16, 0.27, 0.17)


def put_tree(
    site: Site, rng: np.random.Generator, x: float, s: float, tall: float, conifers: float = 0.2,
    leaves: Callable[[np.random.Generator], Colour] = _leaves, needles: Colour = NEEDLES,
) -> None:  # fmt: skip
    """A tree: a trunk with two boughs, and a crown; ``conifers`` is the share of conifers."""
    if rng.random() < conifers:
        width, clear = 0.42 * tall, 0.06 * tall
        crown = textures.crown(rng, Fine.TREE, (width, tall - clear), pick(rng, [needles]), site.sun, "cone")
    else:
        width, clear = tall * float(rng.uniform(0.55, 0.85)), tall * float(rng.uniform(0.22, 0.34))
        crown = textures.crown(rng, Fine.TREE, (width, tall - clear), leaves(rng), site.sun)
    thick = 0.018 * tall + 0.05
    bark = Material(Fine.TRUNK, pick(rng, BARK))
    lean = float(rng.normal(0, 0.1))
    top = clear + 0.35 * (tall - clear)
    parts = [Part(0, (0, 0), (lean, top), (thick * 1.25, thick * 0.6))]
    for reach in rng.uniform(0.08, 0.2, 2) * width * (-1, 1):
        parts.append(Part(0, (lean * 0.8, clear * 0.9), (float(reach), top), (thick * 0.5, thick * 0.2)))
    # The boughs go behind the crown's front half: the crown is stood a little nearer to the camera.
    site.stand(x, s, max(1.0, width * 0.7), top, textures.figure([bark], parts, max(1.0, width * 0.7)))
    site.stand(x, s - 0.3, width, tall - clear, crown, y=clear, shaded=False)
    site.shadow(x, s, (thick, thick), 0, top)
    site.shadow(x, s, (width * 0.4, width * 0.4), clear, tall, leafy=True)


def put_bush(
    site: Site, rng: np.random.Generator, x: float, s: float, leaves: Callable[[np.random.Generator], Colour] = _leaves
) -> None:
    width, height = float(rng.uniform(1.0, 2.6)), float(rng.uniform(0.7, 1.9))
    surface = textures.crown(rng, Fine.BUSH, (width, height), leaves(rng), site.sun, "bush")
    site.stand(x, s, width, height, surface, shaded=False)
    site.shadow(x, s, (width * 0.4, width * 0.3), 0, height * 0.8, leafy=True)


def _enclosure(site: Site, rng: np.random.Generator, side: Side, crossing: tuple[float, float] | None) -> None:
    """Fences, walls and hedges between the sidewalk and the gardens."""
    x = side.sign * (side.walk_to + 0.15)
    s = FIRST
    while s < LAST:
        length = float(rng.uniform(7, 16))
        stop = s + length - float(rng.uniform(0.2, 2.5))
        if crossing is None or stop < crossing[0] or s > crossing[1]:
            left, right = (s, stop) if side.sign < 0 else (stop, s)
            what = str(rng.choice(["fence", "wall", "hedge", "none"], p=[0.48, 0.22, 0.2, 0.1]))
            if what == "fence":
                kind = str(rng.choice(["pickets", "railing", "mesh", "boards"]))
                height = float(rng.uniform(0.9, 1.5))
                colour = pick(rng, STEEL if kind in ("railing", "mesh") else [(0.8, 0.78, 0.72), (0.45, 0.3, 0.2), (0.36, 0.32, 0.28)])
                site.wall(x, left, x, right, textures.fence(rng, kind, height, colour), height, faces=0)
            elif what == "wall":
                kind = str(rng.choice(["brick", "stone", "plaster", "concrete"]))
                height, thick = float(rng.uniform(0.7, 1.7)), 0.3 * side.sign
                surface = textures.bare_wall(rng, Fine.WALL, kind, pick(rng, WALLS))
                site.wall(x, left, x, right, surface, height)
                ends = sorted((x, x + thick))
                site.wall(ends[0], s, ends[1], s, surface, height)
            elif what == "hedge":
                height, thick = float(rng.uniform(0.9, 2.1)), 1.0 * side.sign
                surface = textures.hedge(rng, _leaves(rng), 0.12)
                site.wall(x, left, x, right, surface, height)
                ends = sorted((x, x + thick))
                site.wall(ends[0], s, ends[1], s, surface, height)
            if what in ("wall", "hedge"):
                site.shadow(x + 0.3 * side.sign, (s + stop) / 2, (0.3, (stop - s) / 2), 0, height)
        s += length


# ------------------------------------------------------------------------------------------------------ poles, signs, furniture


def put_post(
    site: Site, rng: np.random.Generator, x: float, s: float, tall: float, radius: float, colour: Colour, arm: float = 0.0
) -> None:
    """An upright pole; ``arm`` metres of lamp arm across the street (signed)."""
    shaft = [Part(0, (0, 0), (0, tall), (radius, radius * 0.7)), Part(0, (0, 0), (0, min(1.0, tall / 4)), (radius * 1.5, radius * 1.4))]
    materials = [Material(Fine.POLE, colour), Material(Fine.POLE, (0.75, 0.75, 0.72))]
    site.stand(x, s, 0.5, tall, textures.figure(materials, shaft, 0.5))
    if arm:
        width = 2 * abs(arm) + 0.3
        bracket = [
            Part(0, (0, 0.1), (arm * 0.75, 0.4), (radius * 0.6, radius * 0.5)),
            Part(1, (arm * 0.7, 0.4), (arm, 0.42), (0.09, 0.11)),
        ]
        foot = tall - 0.15
        site.wall(x - width / 2, s, x + width / 2, s, textures.figure(materials, bracket, width), 0.6, y=foot, faces=0)
    site.shadow(x, s, (radius, radius), 0, tall)


def put_sign(site: Site, rng: np.random.Generator, x: float, s: float) -> None:
    """A post with one or two traffic signs, seen from the front, sometimes from behind."""
    kind = str(rng.choice(textures.PLATES, p=[0.2, 0.16, 0.12, 0.12, 0.16, 0.14, 0.1]))
    size = float(rng.uniform(0.55, 0.75))
    width, height = (1.3, 0.5) if kind == "direction" else (size, size)
    colours = {"priority": (0.93, 0.72, 0.12), "direction": pick(rng, [(0.93, 0.75, 0.15), (0.12, 0.22, 0.55), (0.9, 0.9, 0.88)])}
    foot = float(rng.uniform(1.9, 2.5))
    put_post(site, rng, x, s, foot + height + 0.1, 0.04, pick(rng, STEEL[:1]))
    site.stand(x, s - 0.08, width, height, textures.plate(kind, width, height, colours.get(kind, (0.1, 0.25, 0.6))), y=foot)
    if rng.random() < 0.35:
        site.stand(x, s - 0.08, 0.6, 0.35, textures.plate("direction", 0.6, 0.35, (0.88, 0.88, 0.86)), y=foot - 0.45)


def _traffic_light(site: Site, rng: np.random.Generator, x: float, s: float, lamp: int) -> None:
    put_post(site, rng, x, s, 3.3, 0.06, (0.3, 0.32, 0.32))
    site.stand(x, s - 0.12, 0.34, 0.95, textures.traffic_light(lamp), y=2.3)


def _bin(site: Site, rng: np.random.Generator, x: float, s: float) -> None:
    """A litter bin, a wheelie bin or a switch cabinet."""
    width, deep, height = ((0.45, 0.45, 0.9), (0.6, 0.7, 1.1), (1.1, 0.4, 1.2))[rng.integers(3)]
    surface = textures.sheet(Material(Fine.BIN, pick(rng, [(0.24, 0.26, 0.26), (0.2, 0.36, 0.24), (0.62, 0.62, 0.58), (0.7, 0.55, 0.15)])))
    for x0, s0, x1, s1 in ((x, s, x + width, s), (x, s + deep, x, s), (x + width, s, x + width, s + deep)):
        site.wall(x0, s0, x1, s1, surface, height)
    site.shadow(x + width / 2, s + deep / 2, (width / 2, deep / 2), 0, height)


# ---------------------------------------------------------------------------------------------------------------------- bikes

_WHEEL = 0.34
_BIKE = (  # from the side, riding to the right: tyres, spokes, tubes, handlebar, saddle
    Part(VEIL, (-0.53, _WHEEL), (-0.53, _WHEEL), (_WHEEL, _WHEEL)),
    Part(VEIL, (0.53, _WHEEL), (0.53, _WHEEL), (_WHEEL, _WHEEL)),
    Part(0, (-0.53, _WHEEL), (-0.53, _WHEEL), (_WHEEL, _WHEEL), 0.29),
    Part(0, (0.53, _WHEEL), (0.53, _WHEEL), (_WHEEL, _WHEEL), 0.29),
    Part(1, (-0.53, _WHEEL), (-0.06, 0.3), (0.02, 0.02)),
    Part(1, (-0.53, _WHEEL), (-0.18, 0.78), (0.02, 0.02)),
    Part(1, (-0.06, 0.3), (-0.2, 0.92), (0.024, 0.024)),
    Part(1, (-0.06, 0.3), (0.36, 0.72), (0.026, 0.026)),
    Part(1, (-0.18, 0.78), (0.36, 0.8), (0.024, 0.024)),
    Part(1, (0.53, _WHEEL), (0.34, 0.96), (0.024, 0.024)),
    Part(0, (0.28, 1.04), (0.42, 0.98), (0.03, 0.025)),
    Part(0, (-0.34, 0.95), (-0.08, 0.95), (0.05, 0.03)),
)


def _bike_materials(rng: np.random.Generator, fine: Fine) -> list[Material]:
    return [Material(fine, (0.08, 0.08, 0.09)), Material(fine, pick(rng, PAINTS))]


def _rack(site: Site, rng: np.random.Generator, side: Side, s: float) -> None:
    """Parked bikes in a row, across the sidewalk or along the wall."""
    across = rng.random() < 0.6
    for k in range(int(rng.integers(2, 6))):
        surface = textures.figure(_bike_materials(rng, Fine.BIKE_PARKED), _BIKE, 1.8)
        flip = 1 if rng.random() < 0.5 else -1
        if across:
            x, at = side.sign * (side.walk_to - 1.0), s + 0.6 * k
            site.wall(x - 0.9 * flip, at, x + 0.9 * flip, at, surface, 1.1, faces=0)
        else:
            x, at = side.sign * (side.walk_to - 0.35), s + 1.9 * k
            site.wall(x, at - 0.9 * flip, x, at + 0.9 * flip, surface, 1.1, faces=0)
        site.shadow(x, at, (0.7, 0.1) if across else (0.1, 0.7), 0, 0.7, leafy=True)


# --------------------------------------------------------------------------------------------------------------------- people


@dataclass(frozen=True)
class Look:
    """What a person wears."""

    skin: Colour
    hair: Colour
    top: Colour
    legs: Colour
    shoes: Colour
    tall: float
    wide: float
    bag: bool
    skirt: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        return cls(
            pick(rng, SKINS), pick(rng, HAIRS), pick(rng, CLOTHES), pick(rng, CLOTHES), pick(rng, CLOTHES[:4]),
            tall=float(rng.uniform(1.5, 1.92) if rng.random() < 0.85 else rng.uniform(1.05, 1.4)),
            wide=float(rng.uniform(0.9, 1.2)), bag=bool(rng.random() < 0.3), skirt=bool(rng.random() < 0.2),
        )  # fmt: skip

    def materials(self, fine: Fine) -> list[Material]:
        return [Material(fine, c) for c in (self.skin, self.hair, self.top, self.legs, self.shoes)]


def person_parts(look: Look, phase: float, sideways: bool) -> list[Part]:
    """A walker; ``phase`` in radians of a double step; ``sideways``: walking to the viewer's right."""
    h, w = look.tall, look.wide
    swing = np.sin(phase) * (0.19 * h if sideways else 0.03 * h)
    apart = 0.0 if sideways else 0.055 * h
    lift = 0.05 * h * abs(np.cos(phase)) if not sideways else 0.03 * h * max(0.0, np.cos(phase))
    hip, shoulder = 0.5 * h, 0.81 * h
    spread = 0.03 * h if sideways else 0.115 * h * w
    deep = (0.075 if sideways else 0.085) * h * w
    parts = []
    for sign, up in ((-1, 0.0), (1, lift)):  # legs, with a knee
        foot = (sign * (swing + apart), 0.05 * h + up)
        knee = (sign * (0.55 * swing + apart) + (0.02 * h if sideways else 0), 0.27 * h + 0.4 * up)
        parts += [
            Part(3, (sign * apart * 0.9, hip), knee, (0.058 * h * w, 0.043 * h)),
            Part(0 if look.skirt else 3, knee, foot, (0.042 * h, 0.032 * h)),
            Part(4, foot, (foot[0] + (0.06 * h if sideways else 0.0), foot[1] - 0.02 * h), (0.03 * h, 0.026 * h)),
        ]
    arm = -0.8 * swing
    for sign in (-1, 1):
        hand = (sign * (spread + 0.05 * h) + (sign * arm if sideways else 0), 0.46 * h)
        elbow = (0.5 * (hand[0] + sign * (spread + 0.03 * h)), 0.63 * h)
        sleeve = [Part(2, (sign * spread, shoulder - 0.02 * h), elbow, (0.04 * h, 0.034 * h)), Part(2, elbow, hand, (0.034 * h, 0.026 * h))]
        parts += [*sleeve, Part(0, hand, (hand[0], hand[1] - 0.03 * h), (0.025 * h, 0.02 * h))]
    parts.append(Part(2, (-0.5 * spread, shoulder - 0.02 * h), (-0.45 * spread, hip + 0.02 * h), (deep, deep * 0.95)))
    parts.append(Part(2, (0.5 * spread, shoulder - 0.02 * h), (0.45 * spread, hip + 0.02 * h), (deep, deep * 0.95)))
    if look.skirt:
        parts.append(Part(2, (0, hip + 0.05 * h), (0, 0.36 * h), (deep, deep * 1.7)))
    if look.bag:
        parts.append(Part(4, (-0.13 * h, 0.62 * h), (-0.13 * h, 0.55 * h), (0.06 * h, 0.07 * h)))
    head = 0.925 * h
    parts.append(Part(0, (0, shoulder), (0, head - 0.02 * h), (0.035 * h, 0.035 * h)))
    parts.append(Part(0, (0.008 * h, head - 0.012 * h), (0.008 * h, head + 0.012 * h), (0.056 * h, 0.058 * h)))
    parts.append(Part(1, (-0.02 * h, head + 0.025 * h), (0.012 * h, head + 0.035 * h), (0.05 * h, 0.048 * h)))
    return parts


def walker(rng: np.random.Generator, x: float, s: float, along: float, across: float) -> Mover:
    """A pedestrian at (x, s) who walks with the given speeds, m/s."""
    look, start = Look.draw(rng), float(rng.uniform(0, 2 * np.pi))
    sideways = abs(across) > abs(along) or (along == 0 and rng.random() < 0.4)
    flip = across < 0 or (across == 0 and rng.random() < 0.5)

    def move(site: Site, time: float) -> None:
        phase = start + time * 5.5 * (along != 0 or across != 0)
        parts = person_parts(look, phase, sideways)
        if flip:
            parts = [_mirrored(part) for part in parts]
        at_x, at_s = x + across * time, s + along * time
        width = (0.62 if sideways else 0.5) * look.tall
        site.stand(at_x, at_s, width, look.tall + 0.05, textures.figure(look.materials(Fine.PEDESTRIAN), parts, width))
        site.shadow(at_x, at_s, (0.2, 0.15), 0, look.tall)

    return move


def _mirrored(part: Part) -> Part:
    return Part(part.material, (-part.start[0], part.start[1]), (-part.end[0], part.end[1]), part.radius, part.inner)


def rider_parts(phase: float, sideways: bool, offset: int = 0) -> list[Part]:
    """A person on a bike (materials from ``offset`` on), riding to the right, or seen from the front or behind."""
    skin, hair, top, legs, shoes = (offset + k for k in range(5))
    parts = []
    if sideways:
        hip, shoulder, hand = (-0.2, 1.02), (0.1, 1.46), (0.36, 1.05)
        for turn in (phase, phase + np.pi):
            foot = (-0.06 + 0.17 * np.cos(turn), 0.33 + 0.17 * np.sin(turn))
            knee = (0.5 * (hip[0] + foot[0]) + 0.24, 0.5 * (hip[1] + foot[1]) + 0.08)
            parts += [Part(legs, hip, knee, (0.1, 0.065)), Part(legs, knee, foot, (0.065, 0.045))]
            parts.append(Part(shoes, foot, (foot[0] + 0.13, foot[1] - 0.01), (0.045, 0.035)))
        elbow = (0.22, 1.18)
        parts += [Part(top, hip, shoulder, (0.13, 0.14)), Part(top, shoulder, elbow, (0.06, 0.05)), Part(top, elbow, hand, (0.05, 0.04))]
        return [*parts, Part(skin, (0.17, 1.64), (0.18, 1.67), (0.1, 0.1)), Part(hair, (0.14, 1.71), (0.18, 1.72), (0.1, 0.09))]
    for sign in (-1, 1):
        up = 0.14 * float(np.sin(phase)) * sign
        knee, foot = (sign * 0.14, 0.66 + up), (sign * 0.12, 0.3 + up)
        parts += [Part(legs, (sign * 0.1, 0.98), knee, (0.1, 0.065)), Part(legs, knee, foot, (0.065, 0.045))]
        parts += [Part(shoes, foot, (foot[0], foot[1] - 0.03), (0.05, 0.05))]
        parts += [Part(top, (sign * 0.17, 1.42), (sign * 0.27, 1.03), (0.07, 0.05))]
    parts += [Part(top, (-0.07, 1.02), (-0.09, 1.42), (0.13, 0.13)), Part(top, (0.07, 1.02), (0.09, 1.42), (0.13, 0.13))]
    return [*parts, Part(skin, (0, 1.63), (0, 1.67), (0.095, 0.1)), Part(hair, (0, 1.7), (0, 1.72), (0.1, 0.095))]


_BIKE_END = (  # from the front or behind
    Part(0, (0, 0.03), (0, 0.66), (0.035, 0.035)),
    Part(1, (0, 0.6), (0, 1.0), (0.03, 0.03)),
    Part(0, (-0.28, 1.02), (0.28, 1.02), (0.025, 0.025)),
    Part(0, (-0.08, 0.95), (0.08, 0.95), (0.05, 0.05)),
)


def cyclist(rng: np.random.Generator, x: float, s: float, along: float, across: float) -> Mover:
    """Someone who rides a bike, from (x, s) with the given speeds, m/s."""
    look, start = Look.draw(rng), float(rng.uniform(0, 2 * np.pi))
    materials = _bike_materials(rng, Fine.BIKE_RIDDEN) + look.materials(Fine.RIDER)
    sideways = abs(across) > abs(along)

    def move(site: Site, time: float) -> None:
        parts = [*(_BIKE if sideways else _BIKE_END), *rider_parts(start + 5 * time, sideways, offset=2)]
        if across < 0:
            parts = [_mirrored(part) for part in parts]
        at_x, at_s = x + across * time, s + along * time
        site.stand(at_x, at_s, 1.9 if sideways else 0.8, 1.85, textures.figure(materials, parts, 1.9 if sideways else 0.8))
        site.shadow(at_x, at_s, (0.7, 0.15) if sideways else (0.15, 0.7), 0.2, 1.7)

    return move


# -------------------------------------------------------------------------------------------------------------------- vehicles

SHAPES = {
    "hatchback": VehicleShape(Fine.CAR, 3.9, 1.7, 0.72, 0.92, 1.47, (0.9, 1.6), (3.35, 3.82), 0.88, 0.3, (0.72, 3.2), 3.6),
    "saloon": VehicleShape(Fine.CAR, 4.5, 1.78, 0.7, 0.93, 1.43, (1.2, 1.95), (3.3, 3.85), 0.94, 0.31, (0.85, 3.55), 3.6),
    "estate": VehicleShape(Fine.CAR, 4.6, 1.78, 0.72, 0.94, 1.48, (1.15, 1.85), (4.2, 4.5), 0.9, 0.31, (0.85, 3.55), 4.3),
    "suv": VehicleShape(Fine.CAR, 4.4, 1.85, 0.92, 1.1, 1.72, (1.0, 1.6), (4.0, 4.3), 1.06, 0.36, (0.85, 3.45), 4.1),
    "minibus": VehicleShape(Fine.CAR, 4.8, 1.9, 0.95, 1.15, 1.95, (0.5, 1.15), (4.68, 4.76), 1.12, 0.34, (0.9, 3.8), 4.5),
    "van": VehicleShape(Fine.TRUCK, 5.6, 2.0, 1.05, 1.25, 2.5, (0.55, 1.25), (5.5, 5.56), 1.2, 0.36, (1.0, 4.5), 1.9),
    "lorry": VehicleShape(Fine.TRUCK, 7.2, 2.3, 1.2, 1.45, 3.1, (0.1, 0.3), (7.15, 7.18), 1.4, 0.45, (1.1, 5.6), 1.5),
}


def _vehicle_surfaces(shape: VehicleShape, colour: Colour, inset: float) -> dict[str, Surface]:
    body = textures.sheet(Material(shape.fine, colour))
    slant = float(np.hypot(shape.roof - shape.belt, inset))
    front = float(np.hypot(shape.screen[1] - shape.screen[0], shape.roof - shape.belt))
    back = float(np.hypot(shape.back[1] - shape.back[0], shape.roof - shape.belt))
    blind = shape.fine is Fine.TRUCK
    return {
        "flank": textures.vehicle_flank(shape, colour),
        "windows": textures.vehicle_windows(shape, colour, slant),
        "front": textures.vehicle_end(shape, colour, True, shape.bonnet),
        "rear": textures.vehicle_end(shape, colour, False, shape.boot),
        "screen": textures.vehicle_screen(shape, colour, shape.width, front, inset, False),
        "back": textures.vehicle_screen(shape, colour, shape.width, back, inset, blind),
        "sheet": body,
    }


def _put_vehicle(site: Site, shape: VehicleShape, surfaces: dict[str, Surface], x: float, s: float, turned: float, inset: float) -> None:
    """A vehicle in the middle of (x, s); ``turned`` radians to the right of the street's direction."""
    angle = site.heading(s) + turned
    ahead = np.array([np.sin(angle), 0.0, np.cos(angle)])
    right = np.array([np.cos(angle), 0.0, -np.sin(angle)])
    middle = site.point(x, s)
    half = shape.width / 2

    def at(back: float, side: float, y: float) -> np.ndarray:
        """``back`` metres behind the front bumper, ``side`` metres to the vehicle's right, ``y`` above the road."""
        return middle + ahead * (shape.length / 2 - back) + right * side + np.array([0, y, 0])

    belt, roof, (screen0, screen1), (back0, back1) = shape.belt, shape.roof, shape.screen, shape.back
    for side, faces in ((-1, 1), (1, -1)):
        site.slope(at(0, side * half, 0), at(shape.length, side * half, 0), at(0, side * half, belt), surfaces["flank"], faces)
        foot0, foot1 = at(screen0, side * half, belt), at(back1, side * half, belt)
        site.slope(foot0, foot1, at(screen0, side * (half - inset), roof), surfaces["windows"], faces)
    for back_a, y_a, back_b, y_b, name, faces in (  # from an edge across the vehicle to the next
        (0, 0, 0, shape.bonnet, "front", -1),
        (0, shape.bonnet, screen0, belt, "sheet", -1),
        (screen0, belt, screen1, roof, "screen", -1),
        (screen1, roof, back0, roof, "sheet", -1),
        (back1, belt, back0, roof, "back", 1),
        (shape.length, shape.boot, back1, belt, "sheet", 1),
        (shape.length, 0, shape.length, shape.boot, "rear", 1),
    ):
        edge = half - inset if y_a == roof else half
        site.slope(at(back_a, -edge, y_a), at(back_a, edge, y_a), at(back_b, -edge, y_b), surfaces[name], faces)
    lying = abs(np.sin(turned)) > 0.7
    extent = (shape.length / 2, half) if lying else (half, shape.length / 2)
    site.shadow(x, s, extent, 0.15, belt)
    site.shadow(x, s, (extent[0] * 0.9, extent[1] * 0.55) if not lying else (extent[0] * 0.55, extent[1] * 0.9), belt, roof)


def vehicle(rng: np.random.Generator, x: float, s: float, turned: float, along: float = 0.0, across: float = 0.0) -> Mover:
    """A vehicle of a random make, parked or driving with the given speeds, m/s."""
    name = str(rng.choice(list(SHAPES), p=[0.3, 0.2, 0.17, 0.13, 0.07, 0.09, 0.04]))
    shape = SHAPES[name]
    colour = pick(rng, PAINTS[:2] + PAINTS[4:6] if shape.fine is Fine.TRUCK else PAINTS)
    inset = 0.06 if shape.fine is Fine.TRUCK else 0.2
    surfaces = _vehicle_surfaces(shape, colour, inset)

    def move(site: Site, time: float) -> None:
        _put_vehicle(site, shape, surfaces, x + across * time, s + along * time, turned, inset)

    return move


# ------------------------------------------------------------------------------------------------------------- the whole street


def _light(rng: np.random.Generator) -> Light:
    """Weather and the time of day."""
    weather = rng.choice(3, p=[0.55, 0.2, 0.25])  # clear, hazy, overcast
    height, around = np.radians(rng.uniform(22, 58)), rng.uniform(0, 2 * np.pi)
    to_sun = np.array([np.cos(height) * np.sin(around), np.sin(height), np.cos(height) * np.cos(around)])
    warm = float(rng.uniform(-0.06, 0.14)) + 0.1 * float(np.cos(height) > 0.85)
    tint = np.array([1 + warm, 1.0, 1 - 1.2 * warm])
    strength = (float(rng.uniform(2.2, 3.2)), float(rng.uniform(0.9, 1.5)), 0.0)[weather]
    sky = np.array([0.62, 0.74, 0.95]) if weather == 0 else np.array([0.86, 0.92, 1.0]) if weather == 1 else np.array([1.0, 1.02, 1.05])
    blue = float(rng.uniform(0.7, 1.1))
    zenith = np.array([0.24, 0.46, 0.9]) * blue if weather < 2 else np.array([0.8, 0.84, 0.9])
    horizon = np.array([0.82, 0.92, 1.05]) if weather < 2 else np.array([1.05, 1.07, 1.1])
    return Light(
        to_sun=to_sun,
        sun=strength * tint,
        sky=sky * float(rng.uniform(0.75, 1.05)),
        zenith=zenith * 1.5,
        horizon=horizon * 1.6,
        clouds=(float(rng.uniform(0, 0.55)), float(rng.uniform(0.4, 0.8)), 1.0)[weather],
        haze=(float(rng.uniform(0.0008, 0.002)), float(rng.uniform(0.003, 0.007)), float(rng.uniform(0.0006, 0.0025)))[weather],
    )


def _side(rng: np.random.Generator, sign: int, kind: str) -> Side:
    parking = 2.1 if rng.random() < {"urban": 0.75, "residential": 0.6, "green": 0.25}[kind] else 0.0
    cycle = float(rng.uniform(1.2, 1.6)) if rng.random() < 0.3 else 0.0
    verge = float(rng.uniform(1.0, 2.6)) if rng.random() < {"urban": 0.25, "residential": 0.45, "green": 0.8}[kind] else 0.0
    return Side(
        sign, kind,
        lane=float(rng.uniform(2.9, 3.5)), parking=parking, cycle=cycle, verge=verge,
        walk=float(rng.uniform(2.2, 3.8) if kind == "urban" else rng.uniform(1.5, 2.4)),
        setback={"urban": 0.0, "residential": float(rng.uniform(2.5, 6)), "green": float(rng.uniform(12, 22))}[kind],
    )  # fmt: skip


def _strips(left: Side, right: Side) -> tuple[tuple[float, ...], tuple[Fine, ...]]:
    """The ground's strips from left to right."""

    def outward(side: Side) -> list[tuple[float, Fine]]:
        """(where it begins, what it is), from the road outwards."""
        beyond = Fine.SIDEWALK if side.kind == "urban" else Fine.GRASS
        return [
            (side.lane + side.parking, Fine.CYCLE_LANE),
            (side.kerb, Fine.KERB),
            (side.kerb + 0.18, Fine.GRASS),
            (side.walk_from, Fine.SIDEWALK),
            (side.walk_to, beyond),
        ]

    edges: list[float] = []
    strips: list[Fine] = []
    for begin, fine in reversed(outward(left)):
        strips.append(fine)
        edges.append(-begin)
    strips.append(Fine.ROAD)
    for begin, fine in outward(right):
        edges.append(begin)
        strips.append(fine)
    return tuple(edges), tuple(strips)


def _lines(rng: np.random.Generator, left: Side, right: Side) -> tuple[tuple[float, float, float, float], ...]:
    """Lane markings: a middle line, and lines along parking and cycle lanes."""
    lines = []
    middle = str(rng.choice(["dashed", "solid", "double", "none"], p=[0.62, 0.14, 0.1, 0.14]))
    if middle == "dashed":
        lines.append((0.0, 0.15, 3.0, float(rng.uniform(3, 6))))
    elif middle == "solid":
        lines.append((0.0, 0.15, 1.0, 0.0))
    elif middle == "double":
        lines += [(-0.14, 0.13, 1.0, 0.0), (0.14, 0.13, 1.0, 0.0)]
    for side in (left, right):
        if side.parking and rng.random() < 0.7:
            lines.append((side.sign * side.lane, 0.12, 1.0, float(rng.choice([0.0, 1.0]))))
        if side.cycle:
            lines.append((side.sign * (side.lane + side.parking), 0.14, 1.0, 0.0))
        elif rng.random() < 0.4:
            lines.append((side.sign * (side.kerb - 0.25), 0.12, 1.0, 0.0))
    return tuple(lines)


def _line_up(site: Site, rng: np.random.Generator, side: Side, crossing: tuple[float, float] | None) -> None:
    """Whatever stands still along one side: parked vehicles, trees, lamps, signs, bikes, bins, bushes."""

    def free(s: float, margin: float = 1.0) -> bool:
        return crossing is None or not crossing[0] - margin < s < crossing[1] + margin

    if side.parking:
        s = FIRST + float(rng.uniform(0, 6))
        density = float(rng.uniform(0.45, 0.9))
        while s < LAST - 20:
            if rng.random() < density and free(s, 9.0):
                turned = (0.0 if side.sign > 0 else np.pi) + float(rng.normal(0, 0.02)) + (np.pi if rng.random() < 0.12 else 0)
                x = side.sign * (side.lane + side.parking / 2 + float(rng.normal(0, 0.06)))
                vehicle(rng, x, s, turned)(site, 0.0)
            s += float(rng.uniform(5.6, 7.6))
    if side.verge or rng.random() < 0.35:
        x = side.kerb + 0.18 + (side.verge / 2 if side.verge else 0.5)
        tall, s = float(rng.uniform(4.5, 9)), FIRST + float(rng.uniform(0, 9))
        while s < LAST:
            if rng.random() < 0.75 and free(s, 2.0):
                put_tree(site, rng, side.sign * (x + float(rng.normal(0, 0.15))), s, tall * float(rng.uniform(0.85, 1.15)), 0.03)
            s += float(rng.uniform(8, 13))
    if side.verge:
        for s in rng.uniform(4, LAST, 7):
            if free(s) and rng.random() < 0.6:
                put_bush(site, rng, side.sign * (side.kerb + 0.2 + side.verge / 2), float(s))
    if side.kind != "urban":
        for s in rng.uniform(3, LAST, 26 if side.kind == "green" else 12):
            if free(s, 3.0):
                x = side.sign * (side.walk_to + float(rng.uniform(1.0, 2.2 if side.kind == "residential" else 11)))
                if side.kind == "green" and rng.random() < 0.65:
                    put_tree(site, rng, x + 2 * side.sign, float(s), float(rng.uniform(4, 11)))
                else:
                    put_bush(site, rng, x, float(s))
    if side.kind == "residential" or (side.kind == "green" and rng.random() < 0.75):
        _enclosure(site, rng, side, crossing)
    if side.kind == "urban" and rng.random() < 0.65:  # a railing between sidewalk and road
        s = float(rng.uniform(5, 22))
        length = float(rng.uniform(8, 25))
        if free(s) and free(s + length) and not (crossing and s < crossing[0] < s + length):
            x = side.sign * (side.kerb + 0.4)
            surface = textures.fence(rng, str(rng.choice(["railing", "mesh"])), 1.0, pick(rng, STEEL))
            site.wall(x, s, x, s + length, surface, 1.0, faces=0)

    kerbside = side.sign * (side.kerb + 0.5)
    if rng.random() < 0.75:
        colour, tall = pick(rng, STEEL), float(rng.uniform(5, 8.5))
        wooden = rng.random() < 0.2
        spacing = float(rng.uniform(18, 28))
        for s in np.arange(float(rng.uniform(3, spacing)), LAST, spacing):
            arm = 0.0 if wooden else -side.sign * 1.6
            put_post(site, rng, kerbside, float(s), tall, 0.14 if wooden else 0.085, (0.36, 0.29, 0.22) if wooden else colour, arm)
    for s in np.concatenate([rng.uniform(6, 22, 1), rng.uniform(10, 70, 3)]):
        put_sign(site, rng, kerbside + side.sign * float(rng.uniform(-0.1, 0.3)), float(s))
    for s in (float(rng.uniform(6, 22)), float(rng.uniform(15, 70)))[: 1 + int(rng.random() < 0.6)]:
        if free(s, 4.0):
            _rack(site, rng, side, s)
    for s in rng.uniform(4, 60, 3):
        if rng.random() < 0.6 and free(s):
            _bin(site, rng, side.sign * (side.walk_to - 0.9), float(s))


def _people(rng: np.random.Generator, side: Side) -> list[Mover]:
    movers = []
    distances = np.concatenate([rng.uniform(6, 18, 2), np.exp(rng.uniform(np.log(7), np.log(80), int(rng.integers(2, 6))))])
    for s in distances:
        x = side.sign * float(rng.uniform(side.walk_from + 0.3, side.walk_to - 0.4))
        along = float(rng.choice([-1.3, 0.0, 1.3], p=[0.4, 0.2, 0.4]))
        movers.append(walker(rng, x, float(s), along, 0.0))
        if rng.random() < 0.3:  # two walk together
            movers.append(walker(rng, x + 0.55 * side.sign, float(s) + float(rng.uniform(-0.3, 0.3)), along, 0.0))
    return movers


def build(rng: np.random.Generator, frames: int) -> Scene:
    """A random street, seen in ``frames`` frames as the camera moves on."""
    light = _light(rng)
    bend = float(rng.uniform(-1, 1) * 0.0028) if rng.random() < 0.6 else 0.0
    kinds = [str(rng.choice(["urban", "residential", "green"], p=[0.45, 0.38, 0.17])) for _ in range(2)]
    if rng.random() < 0.5:
        kinds[1] = kinds[0]
    left, right = _side(rng, -1, kinds[0]), _side(rng, 1, kinds[1])
    half = float(rng.uniform(2.8, 4.0))
    middle = float(rng.uniform(14, 60)) if rng.random() < 0.6 else None
    crossing = None if middle is None else (middle - half - 2.4, middle + half + 2.4)

    edges, strips = _strips(left, right)
    paving = str(rng.choice(["slabs", "bricks", "asphalt"], p=[0.45, 0.35, 0.2]))
    plan = GroundPlan(edges, strips, (-left.kerb, right.kerb), _lines(rng, left, right), middle, half, paving, bool(rng.random() < 0.12))
    strong = float(light.sun.mean()) / 2.5
    sun = (float(light.to_sun[0]) * strong, float(light.to_sun[1]) * strong, -float(light.to_sun[2]) * strong)
    site = Site(bend, sun)

    rows = (_houses(site, rng, left, crossing), _houses(site, rng, right, crossing))
    for side in (left, right):
        _line_up(site, rng, side, crossing)
    advance = float(rng.uniform(1.5, 5.0))
    pause = advance / 8.0
    movers = _people(rng, left) + _people(rng, right)
    if crossing is not None and middle is not None and rng.random() < 0.75:
        for dx, dy in ((-left.kerb - 0.8, -2.2), (right.kerb + 0.8, -2.2), (right.kerb + 0.8, 2.2 + 2 * half)):
            _traffic_light(site, rng, float(dx), middle - half + dy, int(rng.integers(3)))
    if rng.random() < 0.55:  # someone crosses the road
        direction = float(rng.choice([-1.2, 1.2]))
        s = middle - half - 4.0 if middle is not None else float(rng.uniform(12, 30))
        movers.append(walker(rng, -direction * float(rng.uniform(0.5, 3)), s, 0.0, direction))

    # Cyclists: one ahead who is not overtaken before the last frame, others anywhere.
    ahead = float(rng.uniform(6.5, 15)) + max(0.0, (advance - 4.0 * pause) * (frames - 1) * 0.6)
    movers.append(cyclist(rng, right.kerb - (right.cycle / 2 or 0.6) - (0 if right.cycle else right.parking), ahead, 4.0, 0.0))
    if rng.random() < 0.6:
        movers.append(cyclist(rng, -left.lane + 0.5, float(rng.uniform(9, 45)), -4.0, 0.0))
    if rng.random() < 0.45:
        direction = float(rng.choice([-3.0, 3.0]))
        s = middle if middle is not None else float(rng.uniform(14, 34))
        movers.append(cyclist(rng, -direction * float(rng.uniform(0.2, 1.5)), s, 0.0, direction))

    lane = right.lane / 2
    if rng.random() < 0.6:
        movers.append(vehicle(rng, lane, float(rng.uniform(13, 34)), 0.0, along=8.0 * float(rng.uniform(0.8, 1.1))))
    for _ in range(int(rng.integers(0, 4))):
        movers.append(vehicle(rng, -left.lane / 2, float(rng.uniform(14, 90)), np.pi, along=-8.0))
    if middle is not None and rng.random() < 0.4:
        turned = float(rng.choice([-0.5, 0.5])) * np.pi
        x = float(rng.uniform(4, 12)) * -np.sign(turned)
        movers.append(vehicle(rng, x, middle + np.sign(turned) * -half / 2, turned, across=5.0 * np.sign(turned)))

    wobble = np.radians(rng.normal(0, [2.0, 0.5, 0.4], (1, 3)) + rng.normal(0, [0.5, 0.25, 0.2], (frames, 3)))
    return Scene(
        bend=bend, ground=textures.ground(rng, plan), light=light, rows=rows, still=site, movers=tuple(movers),
        offset=lane + float(rng.normal(0, 0.25)), advance=advance, wobble=wobble, backdrop=int(rng.integers(0, 512)),
    )  # fmt: skip
