"""Legends, bars and grids of pictures. Images are RGB arrays (H, W, 3) of bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..utils.image_io import read_image, write_picture


class Entry(NamedTuple):
    """A line of a legend: a text, and optionally the RGB colour that it explains."""

    text: str
    colour: Sequence[int] | None = None


def add_legend(image: np.ndarray, entries: Sequence[Entry], title: str = '') -> np.ndarray:
    """Add a title and a legend below an image, in as many columns as fit; long texts widen the picture.

    Args:
        image: The image; it stays in the upper left corner. The font grows with its width.
        entries: The legend, column by column.
        title: Lines above the legend.
    """
    size = max(14, image.shape[1] // 40)
    font, line, gap = ImageFont.load_default(size), round(1.5 * size), size // 2
    swatch = line if any(entry.colour is not None for entry in entries) else 0
    titles = title.splitlines()
    cell = 2 * gap + swatch + max((math.ceil(font.getlength(entry.text)) for entry in entries), default=0)
    widest = max([cell, *(2 * gap + math.ceil(font.getlength(text)) for text in titles)])
    height, width = image.shape[0], max(image.shape[1], widest)
    rows = math.ceil(len(entries) / (width // cell))
    canvas = Image.new('RGB', (width, height + (len(titles) + rows) * line + 2 * gap), 'white')
    canvas.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(canvas)
    top = height + gap
    for i, text in enumerate(titles):
        draw.text((gap, top + i * line + line // 2), text, fill='black', font=font, anchor='lm')
    for i, (text, colour) in enumerate(entries):
        x, y = gap + i // rows * cell, top + (len(titles) + i % rows) * line
        if colour is not None:
            box = (x, y + line // 8, x + line - line // 4, y + line - line // 8)
            draw.rectangle(box, fill=tuple(colour), outline='black')
        draw.text((x + swatch, y + line // 2), text, fill='black', font=font, anchor='lm')
    return np.asarray(canvas)


def add_bars(image: np.ndarray, parts: Sequence[tuple[str, float]]) -> np.ndarray:
    """Scale an image to a common width and add a bar chart below it: a name and a share of 1 on each bar."""
    line, font = 22, ImageFont.load_default(16)
    texts = [f'{100 * part:.0f} %  {name}' for name, part in parts]
    width, height = thumbnail_size(image, 360)
    wide = max([width, *(12 + math.ceil(font.getlength(text)) for text in texts)])
    canvas = Image.new('RGB', (wide, height + line * len(parts) + 6), 'white')
    canvas.paste(Image.fromarray(image).resize((width, height)))
    draw = ImageDraw.Draw(canvas)
    for i, (text, (_, part)) in enumerate(zip(texts, parts, strict=True)):
        y = height + 4 + i * line
        draw.rectangle((0, y, wide * part, y + line - 3), fill='#b9d7f5')
        draw.text((6, y), text, fill='black', font=font)
    return np.asarray(canvas)


def thumbnail_scale(image: np.ndarray, width: int) -> float:
    """The factor that brings an image to a common width, or a narrow one to four times that height."""
    return min(width / image.shape[1], 4 * width / image.shape[0])


def thumbnail_size(image: np.ndarray, width: int) -> tuple[int, int]:
    """Width and height of an image by :func:`thumbnail_scale`."""
    scale = thumbnail_scale(image, width)
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def paste_grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Paste images row by row into one; columns are as wide as the widest image, rows as high as their highest."""
    columns = min(columns, len(images))
    width = max(image.shape[1] for image in images)
    rows = []
    for first in range(0, len(images), columns):
        tiles = images[first : first + columns]
        row = np.full((max(tile.shape[0] for tile in tiles), columns * width, 3), 255, np.uint8)
        for i, tile in enumerate(tiles):
            row[: tile.shape[0], i * width : i * width + tile.shape[1]] = tile
        rows.append(row)
    return np.concatenate(rows)


def contact_sheet(pictures: list[Path], path: Path, columns: int = 3, width: int = 360) -> None:
    """Paste thumbnails of up to a dozen pictures into one."""
    tiles = []
    for picture in pictures[:12]:
        image = read_image(picture)
        tiles.append(cv2.resize(image, thumbnail_size(image, width), interpolation=cv2.INTER_AREA))
    write_picture(paste_grid(tiles, columns), path)
