"""Draws textured shapes on textured, cluttered ground, some behind others: pictures and exact masks for make_shapes.py.

Only the outline tells a class from another. A picture depends on the seed, its split, its number and its size alone.
"""

from typing import NamedTuple

import cv2
import numpy as np

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
SPLITS = ('train', 'val')
MIN_RADIUS = 20  # pixels: the narrowest shape, a square, is then 28 wide
MIN_VISIBLE = 0.6  # of a shape's whole area, after occlusion and the picture's border
MIN_PIXELS = 40  # of each visible part
SUPERSAMPLING = 4
CROP_SIZE = 96  # pixels


class Shape(NamedTuple):
    """A shape as it is placed: `label` indexes CLASSES, `coverage` (H, W) is its anti-aliased opacity from 0 to 1."""

    label: int
    coverage: np.ndarray
    area: float


class Scene(NamedTuple):
    """A picture (H, W, 3) of uint8, the labels of its shapes, and the map (H, W): 0 the ground, k the k-th shape."""

    picture: np.ndarray
    labels: list[int]
    seen: np.ndarray


def unit_outline(name: str) -> np.ndarray:
    """Returns the class's outline (N, 2) around the origin; radii are chosen so that all look about equally large."""
    if name == 'cross':
        a, b = 1.0, 0.36  # half its length, half an arm's width
        right, top = [(b, -b), (a, -b), (a, b)], [(b, b), (b, a), (-b, a)]
        return np.array(right + top + [(-x, -y) for x, y in right + top])
    corners, radius = {'circle': (64, 0.85), 'square': (4, 1.0), 'triangle': (3, 1.15), 'star': (10, 1.2)}[name]
    radii = np.full(corners, radius)
    if name == 'star':
        radii[1::2] *= 0.45
    angles = 2 * np.pi * np.arange(corners) / corners
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def random_shape(rng: np.random.Generator, label: int, width: int, height: int) -> Shape:
    """Places a shape of the given class at random; up to a part of it may lie outside of the picture."""
    radius = MIN_RADIUS * (0.32 * min(width, height) / MIN_RADIUS) ** rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    center = rng.uniform((0.6 * radius, 0.6 * radius), (width - 0.6 * radius, height - 0.6 * radius))
    outline = radius * unit_outline(CLASSES[label]) @ rotation + center
    canvas = np.zeros((SUPERSAMPLING * height, SUPERSAMPLING * width), np.uint8)
    points = SUPERSAMPLING * outline - 0.5  # OpenCV's whole numbers are pixel centers
    cv2.fillPoly(canvas, [np.rint(16 * points).astype(np.int32)], 255, shift=4)
    coverage = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return Shape(label, coverage, cv2.contourArea(outline.astype(np.float32)))


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the outer borders of a mask's parts as polygons (N, 2) along pixel edges: they fill to the mask exactly.

    Each pixel becomes 3 x 3: of these, OpenCV's border follows the outer ones, which tell the left edge from the right.
    """
    enlarged = cv2.resize(mask.astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    borders = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    polygons = [(border[:, 0] + 1) // 3 for border in borders]
    return [polygon[np.any(polygon != np.roll(polygon, 1, axis=0), axis=1)] for polygon in polygons]


def well_visible(mask: np.ndarray, area: float) -> bool:
    """Tells whether enough of a shape shows, in parts that are not slivers and have no holes (polygons have none)."""
    parts = [cv2.contourArea(polygon.astype(np.float32)) for polygon in trace(mask)]
    return bool(parts and min(parts) >= MIN_PIXELS and sum(parts) == mask.sum() >= MIN_VISIBLE * area)


def place_shapes(
    rng: np.random.Generator, labels: np.ndarray, width: int, height: int
) -> tuple[list[Shape], np.ndarray]:
    """Places shapes from back to front so that each stays well visible (one that finds no place is left out).

    Returns:
        The shapes, and the map (H, W) of what is seen: 0 the ground, k the k-th shape.
    """
    shapes: list[Shape] = []
    seen = np.zeros((height, width), np.uint8)
    for label in labels:
        for _ in range(30):
            shape = random_shape(rng, int(label), width, height)
            trial = np.where(shape.coverage >= 0.5, np.uint8(len(shapes) + 1), seen)
            if all(well_visible(trial == k, s.area) for k, s in enumerate([*shapes, shape], start=1)):
                shapes.append(shape)
                seen = trial
                break
    return shapes, seen


def texture(rng: np.random.Generator, first: np.ndarray, second: np.ndarray, width: int, height: int) -> np.ndarray:
    """Fills a picture (H, W, 3) with noise, stripes, checks or a gradient between two colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(7, 22)
    across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.choice(['noise', 'stripes', 'checks', 'gradient'])
    if kind == 'noise':
        grains = [(int(height / grain) + 2, int(width / grain) + 2) for grain in (period, 3)]
        layers = [cv2.resize(rng.random(g, np.float32), (width, height), interpolation=cv2.INTER_CUBIC) for g in grains]
        mix = 0.65 * layers[0] + 0.35 * layers[1]
    elif kind == 'gradient':
        mix = (across - across.min()) / np.ptp(across)
    else:
        wave = np.sin(2 * np.pi * across / period)
        if kind == 'checks':
            wave *= np.sin(2 * np.pi * along / period)
        mix = 0.5 + 2 * wave
    return first + np.clip(mix, 0, 1)[..., None] * (second - first)


def add_clutter(rng: np.random.Generator, picture: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Scatters strokes, arcs and pebbles over a picture, in shades of its ground and smaller than any shape."""
    height, width = picture.shape[:2]
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(6, 15)):
        colour = np.clip(ground + rng.uniform(-60, 60, 3), 0, 255).tolist()
        center = rng.uniform((0, 0), (width, height))
        kind = rng.choice(['stroke', 'arc', 'pebble'])
        if kind == 'stroke':
            points = np.rint(center + np.cumsum(rng.uniform(-30, 30, (3, 2)), axis=0)).astype(np.int32)
            cv2.polylines(picture, [points], False, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
        elif kind == 'arc':
            axes, start = rng.integers(5, 16, 2).tolist(), float(rng.uniform(0, 360))
            cv2.ellipse(picture, np.rint(center).astype(int).tolist(), axes, start, 0, 200, colour, 1, cv2.LINE_AA)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            rim = rng.uniform(2, 9, (7, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cv2.fillPoly(picture, [np.rint(center + rim).astype(np.int32)], colour, cv2.LINE_AA)
    return picture.astype(np.float32)


def draw(seed: int, split: str, index: int, size: tuple[int, int], max_objects: int) -> Scene:
    """Draws picture `index` of a split."""
    width, height = size
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    labels = rng.integers(len(CLASSES), size=rng.integers(1, max_objects + 1))
    labels[0] = index % len(CLASSES)  # so that small splits too hold every class
    shapes, seen = place_shapes(rng, labels, width, height)
    ground = rng.uniform(60, 195) + rng.uniform(-30, 30, 3)
    picture = texture(rng, ground - 20, ground + rng.uniform(-5, 25, 3), width, height)
    picture = add_clutter(rng, picture, ground)
    colours = [ground]
    for shape in shapes:
        candidates = rng.uniform(20, 235, (8, 3))  # the one is taken that its nearest neighbour is farthest from
        colours.append(max(candidates, key=lambda one: min(np.linalg.norm(one - other) for other in colours)))
        fill = texture(rng, colours[-1], colours[-1] + rng.choice([-1, 1]) * rng.uniform(20, 50), width, height)
        picture += shape.coverage[..., None] * (fill - picture)
    picture += rng.normal(0, 3, picture.shape)
    picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return Scene(picture, [shape.label for shape in shapes], seen)


def square_crop(picture: np.ndarray, bbox: list[float]) -> np.ndarray:
    """Crops a square around a box (x, y, w, h) with some context, moved inside the picture where it would stick out."""
    height, width = picture.shape[:2]
    x, y, w, h = bbox
    side = min(round(1.3 * max(w, h)), width, height)
    left, top = (int(np.clip(c - side / 2, 0, room - side)) for c, room in ((x + w / 2, width), (y + h / 2, height)))
    method = cv2.INTER_AREA if side > CROP_SIZE else cv2.INTER_CUBIC
    return cv2.resize(picture[top : top + side, left : left + side], (CROP_SIZE, CROP_SIZE), interpolation=method)
