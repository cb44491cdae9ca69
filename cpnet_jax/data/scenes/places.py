"""Lays out and paints the two kinds of scenes: coasts and rooms.

`layout`, `surface` and `cue` are independent numpy generators for positions, textures and objects.
"""

import numpy as np

from cpnet_jax.data.scenes import textures, things
from cpnet_jax.data.scenes.canvas import Canvas, Frame, Slot, below, polygon

CLASSES = (
    "sky", "sea", "sand", "grass", "boat", "parasol",
    "wall", "floor", "bed", "table", "chair", "cabinet",
)  # fmt: skip

SKY, SEA, SAND, GRASS, BOAT, PARASOL, WALL, FLOOR, BED, TABLE, CHAIR, CABINET = range(12)

KINDS = 2  # coast, room

# The two classes of each scene's hard pair: (label, label of its cue, function that draws the cue).
COAST_PAIR = ((SEA, BOAT, things.boat), (SAND, PARASOL, things.parasol))
ROOM_PAIR = ((BED, CABINET, things.cabinet), (TABLE, CHAIR, things.chair))


def draw(rng, size, member: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws a picture, uint8 (h, w, 3), and its labels, uint8 (h, w).

    `member` (0 or 1) selects the hard pair's first or second class; by default it is drawn. The generators are split,
    so layout, surfaces and film do not depend on it.
    """
    choice, layout, surface, cue, film = rng.spawn(5)
    kind = int(choice.integers(KINDS))
    coin = int(choice.integers(2)) if member is None else member
    canvas = paint(kind, coin, Frame.whole(size), size, layout, surface, cue)
    lit = canvas.image * textures.light(film, size)
    return textures.expose(film, lit), canvas.label


def paint(kind: int, coin: int, frame: Frame, size, layout, surface, cue) -> Canvas:
    """Paints a place of a kind (0: coast, 1: room) on a new canvas of `size`, without light.

    `coin` selects the hard pair's first or second class. Objects stand in `frame`; the surfaces continue beyond it.
    """
    relief = 1 + 0.04 * textures.noise(surface, size, (3, 3), 2)
    canvas = Canvas(size, relief[..., None])
    (_coast, _room)[kind](canvas, frame, layout, surface, cue, coin)
    return canvas


def _coast(canvas, frame, layout, surface, cue, coin):
    """Paints sky, a headland, bright sea, the dusky ground, its objects and a bank of grass."""
    height, width = frame.height, canvas.size[1]
    ground, cue_label, thing = COAST_PAIR[coin]
    horizon = frame.top + height * layout.uniform(0.26, 0.42)
    shore = horizon + height * layout.uniform(0.05, 0.11)
    level = np.full(width, horizon)

    canvas.cover(np.ones(canvas.size, np.float32), textures.sky(surface, canvas.size, horizon), SKY)
    if layout.random() < 0.6:
        hills = horizon - height * _slope(layout, width, (0.05, 0.16), (-0.1, 0.02))
        canvas.cover(below(hills, canvas.size), textures.grass(surface, canvas.size) * 0.8, GRASS)
    canvas.cover(below(level, canvas.size), textures.bright_sea(surface, canvas.size), SEA)
    edge = shore + height * 0.012 * _wander(layout, width)
    dusk = textures.dusky_ground(surface, canvas.size, horizon)
    canvas.cover(below(edge, canvas.size), dusk, ground)
    for slot in _slots(layout, frame, shore + 0.03 * height, (0.15, 0.24), reach=0.3):
        _cast_shadow(canvas, slot)
        canvas.stand(thing(cue), slot, cue_label)
    if layout.random() < 0.6:
        bank = canvas.size[0] - height + height * (1 - _slope(layout, width, (0.18, 0.34), (-0.25, 0.02)))
        tufts = 0.012 * height * layout.standard_normal(width)
        canvas.cover(below(bank + tufts, canvas.size), textures.grass(surface, canvas.size), GRASS)


def _room(canvas, frame, layout, surface, cue, coin):
    """Paints a wall, a floor, and a covered block with objects behind it."""
    height, width = frame.height, canvas.size[1]
    block_label, cue_label, thing = ROOM_PAIR[coin]
    base = frame.top + height * layout.uniform(0.40, 0.52)

    canvas.cover(np.ones(canvas.size, np.float32), textures.wall(surface, canvas.size), WALL)
    _turn_corner(canvas, layout)
    boards = textures.floor(surface, canvas.size, base - 0.3 * height)
    ground = below(np.full(width, base), canvas.size)
    canvas.shade(below(np.full(width, base - 0.03 * height), canvas.size) - ground, 0.75)
    canvas.cover(ground, boards, FLOOR)
    _let_sun_in(canvas, layout)
    top, front = _block_faces(layout, frame, base)
    slots = _slots(layout, frame, base + 0.03 * height, (0.24, 0.36), reach=0.2)
    for slot in slots:
        _cast_shadow(canvas, slot)
        canvas.stand(thing(cue), slot, cue_label)
    _cover_block(canvas, textures.cloth(surface, canvas.size), top, front, block_label)


def _slots(layout, frame, back, heights, reach) -> list[Slot]:
    """Draws slots on the ground, each in its own lane, farthest first.

    The farthest slot is at the very back, so that neither block nor bank can hide it.
    """
    count = int(layout.integers(*frame.counts, endpoint=True))
    depths = np.sort(reach * layout.random(count) ** 2)
    depths[0] = 0
    lanes = (layout.permutation(count) + layout.uniform(0.1, 0.9, count)) / count
    start, length = frame.lanes
    return [
        Slot(
            x=frame.left + frame.width * (start + length * lane),
            foot=back + depth * frame.height,
            height=frame.scale * layout.uniform(*heights) * (1 + 2 * depth),
            mirror=int(layout.choice((-1, 1))),
            rim=layout.random() < 0.6,
        )
        for depth, lane in zip(depths, lanes, strict=True)
    ]


def _cast_shadow(canvas, slot):
    """Paints a flat shadow on the ground; it does not depend on the object in the slot."""
    turn = np.linspace(0, 2 * np.pi, 24)
    ring = np.stack([0.45 * np.cos(turn) + 0.12 * slot.mirror, 0.07 * np.sin(turn)], 1)
    canvas.shade(polygon(ring * slot.height + (slot.x, slot.foot), canvas.size), 0.6)


def _slope(layout, width, high, low) -> np.ndarray:
    """Draws a rugged slope (w,) from a low side to a high side, left or right."""
    ramp = np.linspace(layout.uniform(*low), layout.uniform(*high), width)
    return (ramp + 0.012 * _wander(layout, width))[:: layout.choice((-1, 1))]


def _wander(layout, width) -> np.ndarray:
    """Draws a smooth random line (w,) with zero mean."""
    knots = layout.standard_normal(9)
    return np.interp(np.linspace(0, 8, width), np.arange(9), knots)


def _turn_corner(canvas, layout):
    """Shades one of two walls that meet in a corner."""
    height, width = canvas.size
    x = width * layout.uniform(0.1, 0.9)
    side = width * layout.choice((0, 1))
    corners = np.array([(x, 0), (side, 0), (side, height), (x, height)])
    canvas.shade(polygon(corners, canvas.size), layout.uniform(0.8, 0.95))


def _let_sun_in(canvas, layout):
    """Paints a slanted patch of sunlight, in half of the rooms."""
    height, width = canvas.size
    left, breadth, lean = width * layout.uniform((0, 0.15, -0.4), (0.8, 0.35, 0.4))
    corners = np.array([(0, 0.1), (breadth, 0.1), (breadth + lean, 1), (lean, 1)])
    patch = polygon(corners * (1, height) + (left, 0), canvas.size)
    canvas.shade(patch, layout.choice((1.0, 1.14)))


def _block_faces(layout, frame, base) -> tuple[np.ndarray, np.ndarray]:
    """Draws the pixel corners of a block's top (4, 2) and of its front (N, 2), in perspective."""
    height, width = frame.height, frame.width
    left = frame.left + frame.block[0]
    back = base + frame.block[1] + height * layout.uniform(0.05, 0.16)
    brink = back + height * layout.uniform(0.13, 0.22)
    hem = brink + height * layout.uniform(0.10, 0.20)
    middle, half = left + width * layout.uniform(0.35, 0.65), width * layout.uniform(0.26, 0.42)
    far_half, far_middle = 0.8 * half, middle + 0.2 * (left + width / 2 - middle)
    top = [(far_middle - far_half, back), (far_middle + far_half, back),
           (middle + half, brink), (middle - half, brink)]  # fmt: skip
    across = np.linspace(middle + half, middle - half, 25)
    drape = hem + 0.012 * height * np.sin(np.arange(25) * 1.6)
    front = [(middle - half, brink), (middle + half, brink), *zip(across, drape, strict=True)]
    return np.array(top), np.array(front)


def _cover_block(canvas, cloth, top, front, label):
    """Paints the cloth over a block: its shadow, the lit top, the darker front."""
    whole = np.vstack([top[:2], front[2:]])
    canvas.shade(polygon(whole + (0, 0.03 * canvas.size[0]), canvas.size), 0.55)
    canvas.cover(polygon(whole, canvas.size), cloth * things.LIT, label, rim=True)
    canvas.cover(polygon(front, canvas.size), cloth * things.SHADED, label)
