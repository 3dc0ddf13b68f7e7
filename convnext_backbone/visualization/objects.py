"""Annotated objects drawn over an image: boxes, polygons and the names of their classes."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from .legend import Entry, add_legend

_OPACITY = 90  # of 255


class Drawn(NamedTuple):
    """An object.

    Attributes:
        label: Of its class.
        box: x, y, width and height in pixels.
        polygons: Of its mask, each x1, y1, x2, y2, ...
    """

    label: int
    box: Sequence[float]
    polygons: Sequence[Sequence[float]] = ()


def make_palette(number: int) -> list[tuple[int, ...]]:
    """Colours of classes that have none: hues by the golden angle, so that neighbours differ."""
    return [ImageColor.getrgb(f'hsl({222.5 * i % 360:.0f}, 85%, {50 + 12 * (i % 3 - 1)}%)') for i in range(number)]


def draw_objects(
    image: np.ndarray, objects: Sequence[Drawn], names: Sequence[str], palette: Sequence[Sequence[int]], scale: float
) -> np.ndarray:
    """Draw objects over a picture, and a legend of how many each class has below it.

    Args:
        image: The picture, (H, W, 3), RGB.
        objects: In pixels of the image that the picture is made of.
        names: Of the classes.
        palette: RGB colours of the classes.
        scale: Of the picture to its image.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas, 'RGBA')
    width = max(1, round(image.shape[1] / 320))
    for label, box, polygons in sorted(objects, key=lambda one: -abs(one.box[2] * one.box[3])):  # small ones on top
        colour = tuple(palette[label])
        for polygon in polygons:
            if len(polygon) >= 6:
                draw.polygon([value * scale for value in polygon], fill=(*colour, _OPACITY))
        left, top = box[0] * scale, box[1] * scale
        corners = left, top, max(left, left + box[2] * scale), max(top, top + box[3] * scale)
        draw.rectangle(corners, outline=colour, width=width)
    counts = Counter(one.label for one in objects)
    return add_legend(
        np.asarray(canvas), [Entry(f'{count} {names[label]}', palette[label]) for label, count in counts.most_common()]
    )
