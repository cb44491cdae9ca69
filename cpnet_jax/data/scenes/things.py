"""Draws objects as lists of polygons; the foot is at (0, 0) and the height is 1."""

import numpy as np

from cpnet_jax.data.scenes.canvas import Part
from cpnet_jax.data.scenes.textures import between

LIT, SHADED = 1.12, 0.72  # brightness of faces towards and away from the light


def _quad(x0, y0, x1, y1, colour) -> Part:
    """An upright rectangle."""
    return Part(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), np.asarray(colour))


def boat(rng) -> list[Part]:
    """A sailing boat, or a motor boat with a wheelhouse."""
    paint = np.array([(0.75, 0.16, 0.12), (0.12, 0.16, 0.35), (0.90, 0.90, 0.88)])
    hull = paint[rng.integers(len(paint))]
    half = rng.uniform(0.42, 0.55)
    sheer = np.array([(-0.8, 0), (0.75, 0), (1.1, 0.22), (-1, 0.18)]) * (half, 1)
    afloat = [Part(sheer, hull), _quad(-half, 0.15, half, 0.19, hull * 0.6)]
    return afloat + (_sails(rng) if rng.random() < 0.6 else _wheelhouse())


def _sails(rng) -> list[Part]:
    linen = between(rng, (0.97, 0.97, 0.95), (0.93, 0.85, 0.70))
    return [
        _quad(-0.015, 0.2, 0.025, 1, (0.3, 0.25, 0.2)),
        Part(np.array([(0.03, 0.27), (0.48, 0.27), (0.03, 0.98)]), linen),
        Part(np.array([(-0.04, 0.27), (-0.36, 0.27), (-0.04, 0.86)]), linen * SHADED),
    ]


def _wheelhouse() -> list[Part]:
    white, glass = np.array((0.92, 0.92, 0.9)), (0.16, 0.22, 0.28)
    return [
        _quad(-0.30, 0.19, 0.22, 0.62, white),
        _quad(-0.30, 0.19, -0.16, 0.62, white * SHADED),
        _quad(-0.10, 0.40, 0.04, 0.54, glass),
        _quad(0.08, 0.40, 0.19, 0.54, glass),
        _quad(-0.34, 0.62, 0.27, 0.68, white * LIT),
        _quad(-0.02, 0.68, 0.02, 1, (0.3, 0.3, 0.3)),
    ]


def parasol(rng) -> list[Part]:
    """A striped dome on a slightly slanted pole."""
    gaudy = np.array([(0.88, 0.14, 0.14), (0.95, 0.75, 0.10), (0.92, 0.40, 0.12), (0.85, 0.2, 0.5)])
    colours = gaudy[rng.integers(len(gaudy))], np.array((0.96, 0.94, 0.90))
    lean, half, gores = rng.uniform(-0.12, 0.12), rng.uniform(0.42, 0.55), 6
    top = np.array((lean, 1.0))
    angles = np.linspace(np.pi, 0, 4 * gores + 1)
    dome = np.stack([half * np.cos(angles) + lean, 0.52 + 0.48 * np.sin(angles)], 1)
    parts = [_quad(-0.025, 0, 0.025, 0.7, (0.85, 0.82, 0.78))]
    for gore in range(gores):
        arc = dome[4 * gore : 4 * gore + 5]
        fade = LIT + (SHADED - LIT) * gore / (gores - 1)
        parts.append(Part(np.vstack([arc, (lean, 0.56)]), colours[gore % 2] * fade))
    return [*parts, Part(top + np.array([(-0.02, 0), (0.02, 0), (0, 0.05)]), colours[0])]


def chair(rng) -> list[Part]:
    """Four legs, a seat, and a slatted or solid back."""
    wood = between(rng, (0.20, 0.10, 0.06), (0.50, 0.16, 0.08))
    dark = wood * SHADED
    legs = [_quad(x, 0.09, x + 0.07, 0.46, dark) for x in (-0.19, 0.14)]
    legs += [_quad(x, 0, x + 0.07, 0.46, wood) for x in (-0.25, 0.19)]
    posts = [_quad(x, 0.45, x + 0.07, 1, wood) for x in (-0.21, 0.14)]
    if rng.random() < 0.5:
        back = [_quad(-0.18, y, 0.18, y + 0.09, wood * LIT) for y in (0.62, 0.76, 0.90)]
    else:
        back = [_quad(-0.18, 0.58, 0.18, 0.98, wood * LIT)]
    seat = Part(np.array([(-0.27, 0.42), (0.27, 0.42), (0.21, 0.53), (-0.21, 0.53)]), wood * 1.4)
    return [*legs, *posts, *back, seat, _quad(-0.27, 0.38, 0.27, 0.43, dark)]


def cabinet(rng) -> list[Part]:
    """A wardrobe with doors or a chest with drawers, with one side in view."""
    wood = between(rng, (0.72, 0.58, 0.38), (0.90, 0.86, 0.74))
    half = rng.uniform(0.27, 0.42)
    flank = Part(np.array([(half, 0), (half + 0.12, 0.06), (half + 0.12, 0.97), (half, 1)]), wood * SHADED)
    carcass = [flank, _quad(-half, 0, half, 1, wood), _quad(-half, 0, half, 0.06, wood * 0.5)]
    return carcass + (_doors if rng.random() < 0.5 else _drawers)(wood, half - 0.04)


def _doors(wood, half) -> list[Part]:
    leaves = [_quad(x, 0.11, x + half - 0.03, 0.95, wood * 0.85) for x in (-half, 0.03)]
    knobs = [_quad(x, 0.48, x + 0.04, 0.56, (0.15, 0.12, 0.1)) for x in (-0.09, 0.05)]
    return leaves + knobs


def _drawers(wood, half) -> list[Part]:
    fronts = [_quad(-half, y, half, y + 0.24, wood * 0.85) for y in (0.11, 0.40, 0.69)]
    pulls = [_quad(-0.08, y, 0.08, y + 0.05, (0.15, 0.12, 0.1)) for y in (0.2, 0.49, 0.78)]
    return fronts + pulls
