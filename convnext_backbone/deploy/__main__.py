"""Runner of exported models, by numpy, Pillow and onnxruntime alone: also as a copy elsewhere.

python -m convnext_backbone.deploy model.onnx photos/ --out-dir out
python copy_of_this_file.py model.onnx aerial.tif --tile 1024 --json
"""

import argparse
import contextlib
import glob
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, features
from PIL.TiffImagePlugin import II, MM, OPEN_INFO

FORMAT, KEY = 1, 'convnext_backbone'  # of the metadata: its version, and where the file has it
LEAST_RUNTIME = (1, 17)  # the first onnxruntime with opset 20
FORMATS = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM', 'JPEG2000', *['AVIF'] * bool(features.check('avif')))
SUFFIXES = set('.jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .jp2 .ppm .pgm .pbm .pnm .avif'.split())
MAX_PIXELS = 2**21  # of a mask or a score map
OVERVIEW, PREDICTIONS, CLASS_IDS = 'overview.png', 'predictions.json', Path('class_ids')
Size = tuple[int, int]  # height and width
Tiles = tuple[int | None, float]  # side and overlap of windows
Found = tuple[list[dict[str, Any]], list[tuple[str, Sequence[int]]]]  # entries of the json, and a legend
Mask = tuple[np.ndarray, int, int]  # pixels, (h, w), and the column and row of the first


class RunnerError(Exception):
    """What a user can fix, in one sentence."""


def shown(text: object) -> str:
    """A text or a path of bounded length, without line breaks and control characters."""
    line = ' '.join(str(text).split())[:300]
    return line if line.isprintable() else ascii(line)


def decode(path: Path) -> Image.Image:
    """An image of any mode as 8-bit RGB, in its EXIF orientation, as by utils/image_io.py; raises anything."""
    for order, zero in ((II, 0), (II, 1), (MM, 0), (MM, 1)):  # grey TIFFs that Pillow lacks
        OPEN_INFO.setdefault((order, zero, (1,), 1, (12,), ()), ('I;16', 'I;12'))
    OPEN_INFO.setdefault((MM, 0, (1,), 1, (16,), ()), ('I;16B', 'I;16B'))
    with Image.open(path, formats=FORMATS) as image:
        deep = image.mode.startswith('I;16') or (image.mode, image.format) == ('I', 'PPM')
        if image.mode in ('I', 'F') and not deep:
            raise ValueError('its pixels are numbers of 32 bits, or with a sign, whose range is not known')
        tags = getattr(image, 'tag_v2', {})
        bits, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
        image.load()
        with contextlib.suppress(Exception):  # of any type: unreadable EXIF data is ignored
            ImageOps.exif_transpose(image, in_place=True)
        if not deep:
            return image.convert('RGB')
        grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)  # Pillow would clip it to white
        return Image.fromarray(255 - grey if white_is_zero else grey).convert('RGB')


def neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``new`` pixel centres the two of ``old`` around it, and the weight of the second."""
    place = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1).astype(np.float32)
    low = place.astype(int)
    return low, np.minimum(low + 1, old - 1), place - low.astype(np.float32)


def resize_like_cv2(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize bytes, (H, W, C), as cv2 by INTER_LINEAR: in weights of 11 bits, and without Pillow's smoothing."""
    if image.shape[:2] == (height, width):
        return image
    (top, bottom, down), (left, right, across) = neighbours(image.shape[0], height), neighbours(image.shape[1], width)
    x, y = (np.rint(part * 2048).astype(np.int32) for part in (across[:, None], down[:, None, None]))
    rows = (image[:, left] * (2048 - x) + image[:, right] * x) >> 4
    return (((rows[top] * (2048 - y) >> 16) + (rows[bottom] * y >> 16) + 2) >> 2).astype(np.uint8)


def limited_size(height: int, width: int) -> tuple[int, int]:
    """The size of an image of the same shape with at most MAX_PIXELS."""
    shrink = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
    return (height, width) if shrink == 1 else (max(1, round(height * shrink)), max(1, round(width * shrink)))


def input_size(meta: dict[str, Any], height: int, width: int) -> tuple[int, int]:
    """Height and width of an image after the resize of the test pipeline."""
    first, second = meta['resize']['scale']
    if meta['resize']['rule'] == 'exact':
        return second, first
    scale = min(max(first, second) / max(height, width), min(first, second) / min(height, width))
    if meta['resize']['rule'] == 'fit':  # into a fixed size
        scale = min(second / height, first / width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def prepare(meta: dict[str, Any], image: Image.Image) -> np.ndarray:
    """The network's input, (3, h, w), out of a picture, as the test pipeline makes it."""
    if meta['resize']['rule'] == 'crop':  # of the middle, by Pillow as in torchvision
        resized, crop = meta['resize']['resized'], meta['resize']['crop']
        if isinstance(resized, int):  # the shorter side
            side = min(image.size)
            resized = [resized if n == side else int(resized * n / side) for n in (image.height, image.width)]
        image = image.resize((resized[1], resized[0]), Image.Resampling[meta['interpolation'].upper()])
        left, top = (round((have - want) / 2) for have, want in zip(image.size, crop[::-1], strict=True))
        pixels = np.asarray(image.crop((left, top, left + crop[1], top + crop[0])))
    else:
        pixels = resize_like_cv2(np.asarray(image), *input_size(meta, image.height, image.width))
    pixels = pixels[..., :: 1 if meta['channels'] == 'RGB' else -1].astype(np.float32)
    return ((pixels - np.float32(meta['mean'])) / np.float32(meta['std'])).transpose(2, 0, 1)


def slide(run: Callable, image: np.ndarray, window: Sequence[int], stride: Sequence[int]) -> np.ndarray:
    """The mean of what a function makes of (3, h, w), (C, h, w), over windows that overlap, as mmseg slides."""
    grid = [
        [max(min(i * step + side, length) - side, 0) for i in range(max(length - side + step - 1, 0) // step + 1)]
        for length, side, step in zip(image.shape[1:], window, stride, strict=True)
    ]
    total, count = None, np.zeros((1, *image.shape[1:]), np.float32)
    for top, left in itertools.product(*grid):
        part = slice(None), slice(top, top + window[0]), slice(left, left + window[1])
        found = run(image[part])
        total = np.zeros((len(found), *image.shape[1:]), np.float32) if total is None else total
        total[part] += found
        count[part] += 1
    return total / count


def best_classes(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """The class of the largest of logits, (C, h, w), interpolated to each pixel, (height, width), as by torch."""
    (top, bottom, down), (left, right, across) = neighbours(logits.shape[1], height), neighbours(logits.shape[2], width)
    rows = logits[:, :, left] * (1 - across) + logits[:, :, right] * across
    lines = zip(top, bottom, down, strict=True)
    return np.stack([(rows[:, t] * (1 - y) + rows[:, b] * y).argmax(0).astype(np.uint16) for t, b, y in lines])


def tile(width: int, height: int, side: int | None, overlap: float) -> list[tuple[Any, Size]]:
    """Corners of windows over an image, row by row, as by apis/tiles.py, and where each begins to be the nearest."""
    axes = []
    for length in (height, width):
        window = min(side or length, length)
        steps = -(-(length - window) // max(1, int(window * (1 - overlap))))
        starts = [(length - window) * i // max(1, steps) for i in range(steps + 1)]
        middles = [0, *((one + window + other) // 2 for one, other in itertools.pairwise(starts))]
        axes.append([(start, start + window, middle) for start, middle in zip(starts, middles, strict=True)])
    return [((left, top, right, low), (x, y)) for (top, low, y), (left, right, x) in itertools.product(*axes)]


def merge(windows: np.ndarray, sources: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> list:
    """Box, score and detections of each object in windows, the first of which is the image, as by apis/tiles.py."""
    signs = np.array([1, 1, -1, -1])  # so that the larger of two corners is that of what the boxes share
    views, boxes, scores, free, objects = signs * windows[sources], signs * boxes, scores.copy(), labels >= 0, []
    margin = np.maximum(2, -(views[:, :2] + views[:, 2:]).min(1, keepdims=True) / 100)
    cut = ((np.abs(boxes - views) < margin) & (views != signs * windows[0])).any(1)
    for i in np.lexsort((-scores, cut)).tolist():
        parts, grows, free[i] = [i], bool(free[i]), False
        objects += [parts] * grows
        while grows:
            others = np.flatnonzero(free & (labels == labels[i]) & ~np.isin(sources, sources[parts]))
            shared = np.maximum(views[i], views[others])
            one, other = np.maximum(boxes[i], shared), np.maximum(boxes[others], shared)
            sides = (-corners[..., :2] - corners[..., 2:] for corners in (np.maximum(one, other), one, other))
            common, area, areas = (np.clip(side, 0, None).prod(-1) for side in sides)
            same = others[common / np.maximum(area + areas - common, 1e-9) >= 0.5]
            inside = others[common / np.maximum(areas, 1e-9) >= 0.5]
            scores[i] = max([scores[i], *scores[same]])
            free[[*same, *inside[cut[inside] & ~cut[i]]]] = False
            grows = bool(cut[i]) and len(same) > 0
            if grows:
                parts += same.tolist()
                boxes[i], views[i] = boxes[[i, *same]].min(0), views[[i, *same]].min(0)
    return sorted(((signs * boxes[one[0]], scores.item(one[0]), one) for one in objects), key=lambda one: -one[1])


def paste_mask(mask: np.ndarray, box: np.ndarray, small: Size, size: Size, threshold: float) -> Mask:
    """The pixels of an object, out of its probabilities, (h, w), in its box in a small image, as mmdet pastes them."""
    starts, weights = [], []
    for low, high, length, cells in zip(box[1::-1], box[:1:-1], small, mask.shape, strict=True):
        first, last = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, length)
        with np.errstate(divide='ignore', invalid='ignore'):
            place = (np.arange(first, last, dtype=np.float32) + 0.5 - low) / (high - low)
        place = np.where(np.isinf(place), 0.5, place) * cells - 0.5  # the middle of what has no extent
        weights.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells, dtype=np.float32))))
        starts.append(first)
    pixels = weights[0] @ mask @ weights[1].T >= threshold
    if small == size:
        return pixels, starts[1], starts[0]
    canvas = Image.new('L', small[::-1])  # enlarged linearly, as by OpenCV
    canvas.paste(Image.fromarray(pixels), (starts[1], starts[0]))
    canvas = canvas.resize(size[::-1], Image.Resampling.BILINEAR)
    inside = canvas.getbbox() or (0, 0, 1, 1)
    return np.asarray(canvas.crop(inside)) > 127, *inside[:2]


def encode_mask(masks: Sequence[Mask], height: int, width: int) -> tuple[str, int]:
    """COCO's compressed run-length code of the pixels of masks in an image, and their number."""
    parts = [
        np.arange(x * height, (x + mask.shape[1]) * height).reshape(-1, height)[:, y : y + mask.shape[0]][mask.T]
        for mask, x, y in masks
    ]
    places = np.sort(np.concatenate(parts), kind='stable')  # column by column
    first, last = np.diff(places, prepend=-2) > 1, np.diff(places, append=height * width + 1) > 1
    ends = np.stack([places[first], places[last] + 1], 1).ravel()
    runs = np.diff(ends[ends < height * width], prepend=0, append=height * width)
    code = []
    for i, run in enumerate(runs.tolist()):
        value, more = run - runs.item(i - 2) if i > 2 else run, True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            code.append(chr(48 + bits + 32 * more))
    return ''.join(code), runs[1::2].sum().item()


class Model:
    """An exported model: its metadata, and its network as a function of a normalized image, (3, H, W)."""

    def __init__(self, path: str | Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise RunnerError('onnxruntime is not installed: run `pip install onnxruntime numpy pillow`.') from None
        if tuple(map(int, onnxruntime.__version__.split('.')[:2])) < LEAST_RUNTIME:
            raise RunnerError(f'onnxruntime {onnxruntime.__version__} is too old: install 1.17 or a newer one.')
        if not Path(path).is_file():
            raise RunnerError(f'The model {shown(path)} does not exist: check the path.')
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        except Exception as error:  # of the runtime's own types
            raise RunnerError(f'The model {shown(path)} cannot be read ({shown(error)}): export it again.') from error
        self.meta: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map.get(KEY, '{}'))
        if self.meta.get('format', 0) not in range(1, FORMAT + 1):
            reason = 'is of a newer version than this runner' if self.meta else 'was not written by tools/export.py'
            raise RunnerError(f'The model {shown(path)} {reason} of {KEY}: take the two of one version.')

    def pad(self, image: np.ndarray) -> np.ndarray:
        """A normalized image of the fixed size, if there is one."""
        sides = zip(self.meta['size'] or image.shape[1:], image.shape[1:], strict=True)
        margins = [(0, 0), *((0, fixed - side) for fixed, side in sides)]
        return np.pad(image, margins, constant_values=self.meta['pad_value'])

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """The outputs for a normalized image."""
        return self._session.run(None, {'image': self.pad(image)[None]})


def classify(model: Model, image: Image.Image, tiles: Tiles) -> Found:
    """The five best classes of an image."""
    scores, meta = model(prepare(model.meta, image))[0][0], model.meta
    classes, legend, names, words = [], [], meta['classes'], meta['descriptions']
    for i in np.argsort(-scores, kind='stable')[:5].tolist():
        classes.append({'label': i, 'class': names[i], 'description': words[i], 'score': scores.item(i)})
        legend.append((f'{100 * scores[i]:.0f} %  {words[i]}', meta['palette'][i]))
    return [dict(classes=classes)], legend


def segment(model: Model, image: Image.Image, tiles: Tiles) -> Found:
    """The class of each pixel, painted over the image, and the classes by their shares."""
    meta, classes, legend = model.meta, [], []
    ids = np.zeros((image.height, image.width), np.uint8 if len(meta['classes']) <= 256 else np.uint16)
    for window, (left, top) in tile(*image.size, *tiles):  # each is written over those before, from its own part on
        found = find_classes(model, image.crop(window))
        ids[top : window[3], left : window[2]] = found[top - window[1] :, left - window[0] :]
    labels, counts = np.unique(ids, return_counts=True)
    for i in np.argsort(-counts, kind='stable'):
        label, share = labels.item(i), counts.item(i) / ids.size
        classes.append({'label': label, 'class': meta['classes'][label], 'share': share})
        legend.append((f'{meta["classes"][label]} {100 * share:.1f} %', meta['palette'][label]))
        image.paste(tuple(meta['palette'][label]), (0, 0), Image.fromarray((ids == label) * np.uint8(128)))
    return [dict(class_ids=Image.fromarray(ids), classes=classes)], legend


def find_classes(model: Model, image: Image.Image) -> np.ndarray:
    """The class of each pixel, (H, W)."""
    pixels, meta = prepare(model.meta, image), model.meta
    run = lambda part: model(part)[0][0][:, : part.shape[1], : part.shape[2]]  # noqa: E731
    logits = slide(run, pixels, meta['window'] or pixels.shape[1:], meta['stride'] or pixels.shape[1:])
    size, small = (image.height, image.width), limited_size(image.height, image.width)
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, small, strict=True))
    return best_classes(logits, *small)[rows[:, None], columns]


def detect(model: Model, image: Image.Image, tiles: Tiles) -> Found:
    """The COCO annotations of the objects in an image, the best first; they are painted over it."""
    meta, found, counts, whole = model.meta, [], Counter[int](), (0, 0, *image.size)
    windows = [whole, *(window for window, _ in tile(*image.size, *tiles) if window != whole)]
    parts = [find_objects(model, image.crop(window), *window[:2]) for window in windows]
    boxes, scores, labels = (np.concatenate([part[k] for part in parts]) for k in range(3))
    sources = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    masks, pen = [mask for part in parts for mask in part[3]], ImageDraw.Draw(image)
    for box, score, same in merge(np.array(windows, float), sources, boxes, scores, labels):
        (left, top, right, bottom), label = box.tolist(), labels.item(same[0])
        one = dict(category_id=meta['category_ids'][label], bbox=[left, top, right - left, bottom - top], score=score)
        colour = tuple(meta['palette'][label])
        if masks:
            code, pixels = encode_mask([masks[i] for i in same], image.height, image.width)
            one.update(area=float(pixels), segmentation=dict(size=[image.height, image.width], counts=code))
            for mask, *corner in (masks[i] for i in same):
                image.paste(colour, tuple(corner), Image.fromarray(mask * np.uint8(128)))
        pen.rectangle((left, top, max(left, right), max(top, bottom)), None, colour, max(1, image.width // 320))
        found.append(one)
        counts[label] += 1
    return found, [(f'{number} {meta["classes"][i]}', meta['palette'][i]) for i, number in counts.most_common()]


def find_objects(model: Model, image: Image.Image, left: int, top: int) -> tuple[Any, ...]:
    """Boxes as corners, scores, labels and masks of the objects in a window, whose corner in the image is given."""
    pixels, meta, size = prepare(model.meta, image), model.meta, (image.height, image.width)
    boxes, scores, labels, *masks = model(pixels)
    number, small = int((scores >= meta['score_thr']).sum()), limited_size(*size)  # scores fall
    boxes = np.minimum(boxes[:number], np.array([*pixels.shape[:0:-1]] * 2, np.float32))  # of a fixed size: a margin
    boxes /= np.array([pixels.shape[2] / small[1], pixels.shape[1] / small[0]] * 2, np.float32)
    pairs = zip(masks[0] if masks else (), boxes, strict=False)
    pasted = [paste_mask(mask, box, small, size, meta['mask_thr']) for mask, box in pairs]
    boxes = boxes * np.array([size[1] / small[1], size[0] / small[0]] * 2) + [left, top, left, top]
    return boxes, scores[:number], labels[:number], [(mask, x + left, y + top) for mask, x, y in pasted]


def draw_legend(image: Image.Image, legend: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """An image with lines of text and their colours below it."""
    size = max(14, image.width // 40)
    canvas = ImageOps.expand(image, (0, 0, 0, round(1.5 * size) * len(legend) + size), 'white')
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size)
    for i, (text, colour) in enumerate(legend):
        top = image.height + size // 2 + round(1.5 * size) * i
        pen.rectangle((size // 2, top, 3 * size // 2, top + size), fill=tuple(colour))
        pen.text((2 * size, top), text, fill='black', font=font)
    return canvas


def find_images(sources: Sequence[str], out_dir: Path) -> dict[Path, Path]:
    """The images that are named, or lie in folders, by the names of their pictures, which are tools/predict.py's."""
    found, taken = dict[Path, Path](), {Path(OVERVIEW).with_suffix('')}
    for source in map(Path, sources):
        inside = list_folder(source) if source.is_dir() else [source] * source.exists()
        if not inside:
            kind, reason = ('folder', 'holds no image') if source.exists() else ('image', 'does not exist')
            raise RunnerError(f'The {kind} {shown(source)} {reason}: name image files or folders of them.')
        for path in inside:
            if out_dir.resolve() in path.resolve().parents:
                raise RunnerError(f'The image {shown(path)} lies in {shown(out_dir)}: choose another --out-dir.')
            name = path.relative_to(source if source.is_dir() else source.parent)
            stem, number = name.with_suffix(''), 2
            while taken & {stem, CLASS_IDS / stem}:
                stem, number = name.with_name(f'{name.stem}_{number}'), number + 1
            taken |= {stem, CLASS_IDS / stem}
            suffix = name.suffix.lower() if name.suffix.lower() in ('.jpg', '.jpeg', '.png') else '.png'
            found[stem.with_name(stem.name + suffix)] = path
    return found


def list_folder(folder: Path) -> list[Path]:
    """The images of a folder, then those of its subfolders, without hidden ones and earlier predictions."""
    names = map(Path, glob.glob(f'{glob.escape(str(folder))}/**/*', recursive=True))
    paths = sorted(names, key=lambda path: (path.parent.parts, path.name))
    written = {path.parent for path in paths if path.name == PREDICTIONS} - {folder}
    return [one for one in paths if one.suffix.lower() in SUFFIXES and one.is_file() and not written & {*one.parents}]


def run(model: Model, files: dict[Path, Path], tiles: Tiles, out_dir: Path, log: Any) -> Iterator[tuple]:
    """Predict images and write their pictures; yields each image, its size, its picture, and entries of the json."""
    task, start = dict(classification=classify, segmentation=segment, detection=detect)[model.meta['task']], time.time()
    for number, (name, path) in enumerate(files.items(), 1):
        try:
            image = decode(path)
            found, legend = task(model, image, tiles)
        except Exception as error:  # decoders raise anything
            said = f'left out, it cannot be used ({shown(error)})'
        else:
            picture = save(draw_legend(image, legend), out_dir / name)
            png = out_dir / CLASS_IDS / name.with_suffix('.png')
            found = [{**one, 'class_ids': save(one['class_ids'], png)} if 'class_ids' in one else one for one in found]
            yield path, image.size, picture, found
            said = ', '.join(text for text, _ in legend[:5]) or 'nothing'
        left = round((time.time() - start) / number * (len(files) - number))
        print(f'{number}/{len(files)}, eta {left // 60} min {left % 60} s, {shown(path)}: {said}', file=log, flush=True)


def save(picture: Image.Image, path: Path) -> str:
    """Write a picture; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=95)
    return str(path)


def draw_overview(pictures: Sequence[str]) -> Image.Image:
    """The first dozen pictures in one."""
    small = [ImageOps.pad(Image.open(path), (360, 360), Image.Resampling.BOX, 'white') for path in pictures[:12]]
    sheet = Image.new('RGB', (360 * min(3, len(small)), 360 * -(-len(small) // 3)))
    for i, one in enumerate(small):
        sheet.paste(one, (i % 3 * 360, i // 3 * 360))
    return sheet


def make_json(meta: dict[str, Any], done: Sequence[tuple]) -> str:
    """The json of tools/predict.py."""
    if meta['task'] != 'detection':
        return json.dumps([dict(image=str(path), **one) for path, _, _, found in done for one in found])
    images, rows = [], []  # type: ignore[var-annotated]
    for i, (path, (width, height), _, found) in enumerate(done, 1):
        images.append(dict(id=i, file_name=str(path), height=height, width=width))
        rows += [dict(id=len(rows) + k, image_id=i, iscrowd=0, **one) for k, one in enumerate(found, 1)]
    categories = [dict(id=i, name=name) for i, name in zip(meta['category_ids'], meta['classes'], strict=True)]
    return json.dumps(dict(images=images, categories=categories, annotations=rows))


def check_tiles(side: int | None, overlap: float | None, task: str) -> Tiles:
    """Side and overlap of windows, in range."""
    if overlap is not None and (side is None or not 0 <= overlap <= 0.9):
        raise RunnerError(f'--overlap {overlap} is out of range: set --tile, and a share of it from 0 to 0.9.')
    if side is not None and (side < 1 or task == 'classification'):
        raise RunnerError(f'--tile {side} is out of range: it takes at least 1, and no classifier takes it.')
    return side, 0.2 if overlap is None else overlap


def main() -> int:
    """Predict; returns the exit code."""
    parser = argparse.ArgumentParser(description='Predict images by a model that tools/export.py has written.')
    parser.add_argument('model', metavar='MODEL', help='file of tools/export.py')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, or folders of them')
    parser.add_argument('--out-dir', default='predictions', help='folder of pictures and json (default: %(default)s)')
    parser.add_argument('--tile', type=int, metavar='SIZE', help='predict large images in windows of SIZE pixels')
    parser.add_argument('--overlap', type=float, help='share of a window that the next one has too (default 0.2)')
    parser.add_argument('--json', action='store_true', help='print the json on stdout, all else on stderr')
    args = parser.parse_args()
    log, out_dir, done = sys.stderr if args.json else sys.stdout, Path(args.out_dir), list[tuple]()
    try:
        model, files = Model(args.model), find_images(args.images, out_dir)
        tiles = check_tiles(args.tile, args.overlap, model.meta['task'])
        if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / PREDICTIONS).is_file():
            raise RunnerError(f'The folder {shown(out_dir)} holds other files than predictions: choose another.')
        try:
            done.extend(run(model, files, tiles, out_dir, log))
        finally:  # also of a run that is interrupted
            if done:
                (out_dir / PREDICTIONS).write_text(make_json(model.meta, done))
                save(draw_overview([picture for _, _, picture, _ in done]), out_dir / OVERVIEW)
                print((out_dir / PREDICTIONS).read_text() if args.json else f'Pictures and json: {out_dir}')
        if broken := len(files) - len(done):
            raise RunnerError(f'{broken} of {len(files)} images could not be used: replace them or leave them out.')
    except (RunnerError, OSError, KeyboardInterrupt) as error:
        print('interrupted' if isinstance(error, KeyboardInterrupt) else f'error: {error}', file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
