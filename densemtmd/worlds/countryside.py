"""What stands in the other world: open country with roads, lakes, woods, farms and mountains, in other seasons and another light.

It is made of what the streets are made of (:mod:`densemtmd.worlds.scene`), and seen by another camera: a photographer's, from
the eye's height or from a hill, with a longer lens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densemtmd.worlds import textures
from densemtmd.worlds.scene import (
    BARK,
    NEEDLES,
    STEEL,
    Light,
    Optics,
    Ridge,
    Scene,
    Side,
    Site,
    pick,
    put_bush,
    put_house,
    put_post,
    put_sign,
    put_tree,
    vehicle,
    walker,
)
from densemtmd.worlds.textures import Colour, Land


@dataclass(frozen=True)
class Season:
    """The colours of a time of the year; as displayed."""

    leaves: tuple[Colour, ...]
    needles: Colour
    conifers: float             # share of the trees
    meadow: tuple[Colour, ...]
    field: tuple[Colour, ...]
    snow: tuple[float, float]   # share of the ground that it covers: least and most
    far_trees: Colour           # linear


FOG = 0.006  # haze, 1 / metres: of what is 250 metres away a fifth of the light is left, and less

SEASONS = {
    "autumn": Season(
        leaves=((0.74, 0.42, 0.12), (0.8, 0.62, 0.18), (0.58, 0.2, 0.12), (0.5, 0.34, 0.18), (0.55, 0.5, 0.2)),
        needles=NEEDLES, conifers=0.25, far_trees=(0.16, 0.09, 0.035), snow=(0, 0),
        meadow=((0.5, 0.47, 0.22), (0.56, 0.5, 0.28)), field=((0.4, 0.3, 0.2), (0.7, 0.58, 0.34)),
    ),
    "winter": Season(
        leaves=((0.4, 0.34, 0.31), (0.3, 0.26, 0.25), (0.62, 0.62, 0.66)),
        needles=(0.2, 0.28, 0.26), conifers=0.5, far_trees=(0.06, 0.065, 0.07), snow=(0.25, 0.75),
        meadow=((0.58, 0.56, 0.47), (0.5, 0.5, 0.44)), field=((0.4, 0.34, 0.29),),
    ),
    "drought": Season(
        leaves=((0.48, 0.48, 0.25), (0.42, 0.44, 0.28), (0.6, 0.54, 0.3)),
        needles=(0.24, 0.3, 0.2), conifers=0.15, far_trees=(0.1, 0.1, 0.05), snow=(0, 0),
        meadow=((0.76, 0.68, 0.42), (0.7, 0.58, 0.34)), field=((0.82, 0.72, 0.46), (0.56, 0.4, 0.27)),
    ),
}  # fmt: skip


def _sky(rng: np.random.Generator, weather: str) -> tuple[Light, float, Colour]:
    """The light of one of four hours, how light the picture becomes, and what the camera makes of white."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    height = np.radians({"evening": between(5, 14), "cold": between(10, 24)}.get(weather, 20.0))
    around = rng.uniform(0, 2 * np.pi)
    to_sun = np.array([np.cos(height) * np.sin(around), np.sin(height), np.cos(height) * np.cos(around)])
    dark = np.zeros(3)
    if weather == "evening":  # a low, warm sun
        light = Light(
            to_sun, sun=np.array([1.5, 0.85, 0.42]) * between(2, 3), sky=np.array([0.7, 0.62, 0.72]) * between(0.5, 0.8),
            zenith=np.array([0.42, 0.46, 0.75]) * between(0.7, 1.1), horizon=np.array([1.5, 0.95, 0.55]) * between(0.8, 1.2),
            clouds=between(0, 0.6), haze=between(0.0002, 0.0012),
        )  # fmt: skip
        return light, between(0.11, 0.18), (1.08, 1.0, 0.86)
    if weather == "dusk":  # after sunset
        light = Light(
            to_sun, sun=dark, sky=np.array([0.5, 0.62, 1.0]) * between(0.4, 0.6),
            zenith=np.array([0.1, 0.16, 0.36]), horizon=np.array([0.75, 0.48, 0.5]) * between(0.7, 1.1),
            clouds=between(0.1, 0.7), haze=between(0.0003, 0.002),
        )  # fmt: skip
        return light, between(0.05, 0.09), (0.94, 0.97, 1.12)
    if weather == "fog":
        grey = np.array([0.96, 1.0, 1.02]) * between(0.9, 1.1)
        light = Light(to_sun, sun=dark, sky=grey, zenith=grey * 1.05, horizon=grey * 1.5, clouds=1.0, haze=between(FOG, 2 * FOG))
        return light, between(0.28, 0.4), (1.0, 1.0, 1.0)
    light = Light(  # a cold, clear day
        to_sun, sun=np.array([1.15, 1.05, 0.92]) * between(1.6, 2.4), sky=np.array([0.55, 0.72, 1.1]) * between(0.8, 1.1),
        zenith=np.array([0.16, 0.38, 0.95]) * between(0.9, 1.4), horizon=np.array([0.8, 0.95, 1.2]) * between(1.1, 1.5),
        clouds=between(0, 0.35), haze=between(0.00008, 0.0003),
    )  # fmt: skip
    return light, between(0.15, 0.24), (0.97, 1.0, 1.06)


def _water(light: Light) -> Colour:
    """The colour of a lake: it mirrors the sky, more of it the lower one looks over it."""
    received = 0.5 * light.sky + max(0.0, float(light.to_sun[1])) * light.sun
    mirrored = np.clip((0.25 * light.horizon + 0.25 * light.zenith) / received, 0.02, 0.9) ** (1 / 2.2)
    r, g, b = mirrored.tolist()
    return r, g, b


def _ridges(rng: np.random.Generator, season: str, light: Light) -> tuple[Ridge, ...]:
    """Up to two rows of mountains, hills before them; none in fog, which would hide them."""
    count = int(rng.choice(3, p=[0.2, 0.4, 0.4])) if light.haze < FOG else 0
    found = []
    for depth in range(count):
        near = depth == count - 1 and rng.random() < 0.5
        height = float(rng.uniform(0.06, 0.12) if near else rng.uniform(0.12, 0.3))
        rock = np.array([0.12, 0.11, 0.075] if near else [0.17, 0.16, 0.16]) * rng.uniform(0.7, 1.3)
        snow = float(rng.uniform(0.25, 0.6) if season == "winter" else rng.uniform(0.6, 1.1))
        found.append(Ridge(int(rng.integers(1, 500)), height, 2500.0 if near else 9000.0 - 2000 * depth, rock, snow))
    return tuple(found)


def _land(rng: np.random.Generator, season: Season, light: Light) -> Land:
    road = float(rng.uniform(1.6, 3.2)) if rng.random() < 0.8 else 0.0
    lake = None
    if rng.random() < 0.7:
        wide, long = float(rng.uniform(14, 120)), float(rng.uniform(12, 90))
        side = float(rng.choice([-1, 1]))
        middle = long * 1.1 + float(rng.uniform(4, 25)) if not road and rng.random() < 0.7 else float(rng.uniform(20, 70))
        x = side * (road + float(rng.uniform(2, 9)) + 1.12 * wide) if road or middle < long else float(rng.normal(0, 10))
        lake = (x, middle, wide, long)
    return Land(
        road, gravel=bool(rng.random() < 0.4), lake=lake, meadow=pick(rng, season.meadow), field=pick(rng, season.field),
        snow=float(rng.uniform(*season.snow)), water=_water(light),
    )  # fmt: skip


def _grow(site: Site, rng: np.random.Generator, land: Land, season: Season, free: float) -> None:
    """Woods, single trees and bushes, none on the road, in the lake or nearer than ``free`` metres before the camera."""

    def leaves(rng: np.random.Generator) -> Colour:
        return pick(rng, season.leaves)

    woods = [(float(rng.uniform(-70, 70)), float(rng.uniform(25, 110)), int(rng.integers(6, 26))) for _ in range(int(rng.integers(1, 5)))]
    places = [(x + float(rng.normal(0, 10)), s + float(rng.normal(0, 7)), True) for x, s, count in woods for _ in range(count)]
    places += [(float(rng.uniform(-45, 45)), float(rng.uniform(7, 110)), bool(rng.random() < 0.5)) for _ in range(int(rng.integers(4, 22)))]
    if land.road and rng.random() < 0.35:  # an avenue
        beside, every = land.road + float(rng.uniform(1.5, 3)), float(rng.uniform(8, 14))
        places += [(side * beside, float(s), True) for s in np.arange(float(rng.uniform(9, 18)), 110, every) for side in (-1, 1)]
    for x, s, tall in places:
        if abs(x) < land.road + 1.2 or s < 6 or land.in_lake(x, s, 2.0) or (abs(x) < 4 and s < free):
            continue
        if tall:
            put_tree(site, rng, x, s, float(rng.uniform(4, 14)), season.conifers, leaves, season.needles)
        else:
            put_bush(site, rng, x, s, leaves)


def _farm(site: Site, rng: np.random.Generator, land: Land) -> None:
    """One to three houses on one side of the road."""
    sign = 1 if rng.random() < 0.5 else -1
    side = Side(sign, "residential", lane=land.road, parking=0, cycle=0, verge=0, walk=0, setback=0)
    s = float(rng.uniform(12, 40))
    for _ in range(int(rng.integers(1, 4))):
        width, front = float(rng.uniform(8, 15)), land.road + float(rng.uniform(4, 16))
        if not any(land.in_lake(sign * (front + back), s + along, 3.0) for back in (0, 7, 14) for along in (0, width / 2, width)):
            put_house(site, rng, side, s, s + width, front, urban=False)
        s += width + float(rng.uniform(3, 18))


def _put_things(site: Site, rng: np.random.Generator, land: Land) -> None:
    """A fence, telegraph poles, signs, people and vehicles: what is in the foreground."""
    beside = float(rng.choice([-1, 1])) * (land.road + float(rng.uniform(1.5, 3.5)))
    if rng.random() < 0.4:
        kind, height = str(rng.choice(["pickets", "railing", "boards"])), float(rng.uniform(0.9, 1.3))
        start, stop = float(rng.uniform(4, 15)), float(rng.uniform(25, 80))
        if not any(land.in_lake(beside, float(s), 0.5) for s in np.linspace(start, stop, 9)):
            site.wall(beside, start, beside, stop, textures.fence(rng, kind, height, pick(rng, BARK)), height, faces=0)
    if rng.random() < 0.4:
        for s in np.arange(float(rng.uniform(6, 25)), 110, float(rng.uniform(25, 40))):
            if not land.in_lake(-beside, float(s), 0.5):
                put_post(site, rng, -beside, float(s), 6.5, 0.13, (0.36, 0.29, 0.22))
    if land.road and rng.random() < 0.45:
        put_sign(site, rng, land.road + 0.8, float(rng.uniform(7, 25)))
    if rng.random() < 0.2:
        put_post(site, rng, -beside * 1.1, float(rng.uniform(8, 30)), 3.0, 0.06, pick(rng, STEEL))
    for _ in range(int(rng.choice(4, p=[0.45, 0.3, 0.15, 0.1]))):
        s = float(np.exp(rng.uniform(np.log(6), np.log(35))))
        x = float(rng.uniform(-6, 6))
        if not land.in_lake(x, s, 0.5):
            walker(rng, x, s, float(rng.choice([-1.3, 0.0, 1.3])), 0.0)(site, 0.0)
    for _ in range(int(rng.choice(3, p=[0.45, 0.35, 0.2])) if land.road else 0):
        right = rng.random() < 0.5
        x, turned = (1 if right else -1) * land.road / 2, 0.0 if right else float(np.pi)
        vehicle(rng, x, float(np.exp(rng.uniform(np.log(9), np.log(50)))), turned)(site, 0.0)


def build(rng: np.random.Generator) -> Scene:
    """A random place in open country, for one picture of it."""
    season_name = str(rng.choice(list(SEASONS), p=[0.45, 0.3, 0.25]))
    season = SEASONS[season_name]
    light, exposure, balance = _sky(rng, str(rng.choice(["evening", "dusk", "fog", "cold"], p=[0.45, 0.25, 0.15, 0.15])))
    land = _land(rng, season, light)
    strong = float(light.sun.mean()) / 2.5
    sun = (float(light.to_sun[0]) * strong, float(light.to_sun[1]) * strong, -float(light.to_sun[2]) * strong)
    site = Site(float(rng.uniform(-1, 1) * 0.004) if rng.random() < 0.6 else 0.0, sun)
    eye = float(rng.uniform(1.4, 2.2) if rng.random() < 0.55 else rng.uniform(3, 8))

    _grow(site, rng, land, season, free=14.0)
    if rng.random() < 0.5:
        _farm(site, rng, land)
    _put_things(site, rng, land)
    grain = (0.012, 0.02) if exposure > 0.1 else (0.02, 0.035)  # in little light the sensor's noise shows
    optics = Optics(eye, focal=float(rng.uniform(0.9, 1.3)), horizon=0.5, exposure=exposure, grain=grain, balance=balance)
    down = np.arctan(eye / rng.uniform(20, 60))  # it looks at a place on the ground before it
    turned = np.array([[rng.normal(0, 14), 0.0, rng.normal(0, 1)]])
    return Scene(
        bend=site.bend, ground=textures.land(rng, land), light=light, rows=(), still=site, movers=(), offset=float(rng.uniform(-2.5, 2.5)),
        advance=0.0, wobble=np.radians(turned) - np.array([[0.0, down, 0.0]]), backdrop=int(rng.integers(0, 512)),
        tree_line=float(rng.uniform(0.15, 1.1)), far_trees=season.far_trees, ridges=_ridges(rng, season_name, light), optics=optics,
    )  # fmt: skip
