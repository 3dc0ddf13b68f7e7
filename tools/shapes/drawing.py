"""Draws textured shapes on textured, cluttered ground, some behind others: pictures and exact masks.

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


class Shape(NamedTuple):
    """A shape in its place: `label` indexes CLASSES, `coverage` (H, W) is its anti-aliased opacity from 0 to 1."""

    label: int
    coverage: np.ndarray
    area: float


class Scene(NamedTuple):
    """A picture (H, W, 3) of uint8, the labels of its shapes, and the map (H, W): 0 the ground, k the k-th shape."""

    picture: np.ndarray
    labels: list[int]
    seen: np.ndarray


def _polar(radii: np.ndarray | float, angles: np.ndarray) -> np.ndarray:
    """Points (N, 2) around the origin."""
    return radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _unit_outline(name: str) -> np.ndarray:
    """The outline (N, 2) of a class around the origin; with these radii all look about equally large."""
    if name == 'cross':
        a, b = 1.0, 0.36  # half its length, half an arm's width
        right, top = [(b, -b), (a, -b), (a, b)], [(b, b), (b, a), (-b, a)]
        return np.array(right + top + [(-x, -y) for x, y in right + top])
    corners, radius = {'circle': (64, 0.85), 'square': (4, 1.0), 'triangle': (3, 1.15), 'star': (10, 1.2)}[name]
    radii = np.full((corners, 1), radius)
    if name == 'star':
        radii[1::2] *= 0.45
    return _polar(radii, 2 * np.pi * np.arange(corners) / corners)


def _random_shape(rng: np.random.Generator, label: int, width: int, height: int) -> Shape:
    """A shape of a class at a random place; part of it may lie outside of the picture."""
    radius = MIN_RADIUS * (0.32 * min(width, height) / MIN_RADIUS) ** rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    center = rng.uniform((0.6 * radius, 0.6 * radius), (width - 0.6 * radius, height - 0.6 * radius))
    outline = radius * _unit_outline(CLASSES[label]) @ rotation + center
    canvas = np.zeros((SUPERSAMPLING * height, SUPERSAMPLING * width), np.uint8)
    points = SUPERSAMPLING * outline - 0.5  # OpenCV's whole numbers are pixel centers
    cv2.fillPoly(canvas, [np.rint(16 * points).astype(np.int32)], 255, shift=4)
    coverage = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return Shape(label, coverage, cv2.contourArea(outline.astype(np.float32)))


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the outer borders of a mask's parts as polygons (N, 2) along pixel edges, which fill to the mask exactly.

    Each pixel becomes 3 x 3: of these, OpenCV's border follows the outer ones, which tell the left edge from the right.
    """
    enlarged = cv2.resize(mask.astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    borders = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    polygons = [(border[:, 0] + 1) // 3 for border in borders]
    return [polygon[np.any(polygon != np.roll(polygon, 1, axis=0), axis=1)] for polygon in polygons]


def _well_visible(mask: np.ndarray, area: float) -> bool:
    """Whether enough of a shape shows, in parts that are not slivers and have no holes (polygons have none)."""
    parts = [cv2.contourArea(polygon.astype(np.float32)) for polygon in trace(mask)]
    return bool(parts and min(parts) >= MIN_PIXELS and sum(parts) == mask.sum() >= MIN_VISIBLE * area)


def _place(rng: np.random.Generator, labels: np.ndarray, width: int, height: int) -> tuple[list[Shape], np.ndarray]:
    """Shapes from back to front, each well visible or left out, and the map of what is seen (see Scene)."""
    shapes: list[Shape] = []
    seen = np.zeros((height, width), np.uint8)
    for label in labels:
        for _ in range(30):
            shape = _random_shape(rng, int(label), width, height)
            trial = np.where(shape.coverage >= 0.5, np.uint8(len(shapes) + 1), seen)
            if all(_well_visible(trial == k, s.area) for k, s in enumerate([*shapes, shape], start=1)):
                shapes.append(shape)
                seen = trial
                break
    return shapes, seen


def _texture(rng: np.random.Generator, first: np.ndarray, second: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture (H, W, 3) of noise, stripes, checks or a gradient between two colors."""
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


def _add_clutter(rng: np.random.Generator, picture: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Strokes, arcs and pebbles over a picture, in shades of its ground and smaller than any shape."""
    height, width = picture.shape[:2]
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(6, 15)):
        color = np.clip(ground + rng.uniform(-60, 60, 3), 0, 255).tolist()
        center = rng.uniform((0, 0), (width, height))
        kind = rng.choice(['stroke', 'arc', 'pebble'])
        if kind == 'stroke':
            points = np.rint(center + np.cumsum(rng.uniform(-30, 30, (3, 2)), axis=0)).astype(np.int32)
            cv2.polylines(picture, [points], False, color, int(rng.integers(1, 3)), cv2.LINE_AA)
        elif kind == 'arc':
            axes, start = rng.integers(5, 16, 2).tolist(), float(rng.uniform(0, 360))
            cv2.ellipse(picture, np.rint(center).astype(int).tolist(), axes, start, 0, 200, color, 1, cv2.LINE_AA)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            rim = _polar(rng.uniform(2, 9, (7, 1)), angles)
            cv2.fillPoly(picture, [np.rint(center + rim).astype(np.int32)], color, cv2.LINE_AA)
    return picture.astype(np.float32)


def draw(seed: int, split: str, index: int, size: tuple[int, int], max_objects: int) -> Scene:
    """Draw the picture of a split with this index."""
    width, height = size
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    labels = rng.integers(len(CLASSES), size=rng.integers(1, max_objects + 1))
    labels[0] = index % len(CLASSES)  # so that small splits too hold every class
    shapes, seen = _place(rng, labels, width, height)
    ground = rng.uniform(60, 195) + rng.uniform(-30, 30, 3)
    picture = _texture(rng, ground - 20, ground + rng.uniform(-5, 25, 3), width, height)
    picture = _add_clutter(rng, picture, ground)
    colors = [ground]
    for shape in shapes:
        candidates = rng.uniform(20, 235, (8, 3))  # the one that is farthest from its nearest neighbor is taken
        colors.append(max(candidates, key=lambda one: min(np.linalg.norm(one - other) for other in colors)))
        fill = _texture(rng, colors[-1], colors[-1] + rng.choice([-1, 1]) * rng.uniform(20, 50), width, height)
        picture += shape.coverage[..., None] * (fill - picture)
    picture += rng.normal(0, 3, picture.shape)
    return Scene(np.clip(np.rint(picture), 0, 255).astype(np.uint8), [shape.label for shape in shapes], seen)
