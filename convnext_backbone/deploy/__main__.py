"""Runner of exported models, by numpy, Pillow and onnxruntime alone: also as a copy elsewhere.

python -m convnext_backbone.deploy model.onnx photos/ --out-dir out
python copy_of_this_file.py model.onnx photo.jpg --out-dir out --json

It imports nothing of the package: all that it needs to know is in the metadata of the file.
"""

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
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
PREDICTIONS = 'predictions.json'


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
    """Resize bytes, (H, W, ...), as cv2 by INTER_LINEAR: in weights of 11 bits, and without Pillow's smoothing."""
    if image.shape[:2] == (height, width):
        return image
    (top, bottom, down), (left, right, across) = neighbours(image.shape[0], height), neighbours(image.shape[1], width)
    columns, lines = (1, -1, *[1] * (image.ndim - 2)), (-1, *[1] * (image.ndim - 1))
    x, y = (np.rint(part * 2048).astype(np.int32) for part in (across.reshape(columns), down.reshape(lines)))
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
    grid = []
    for length, side, step in zip(image.shape[1:], window, stride, strict=True):
        number = max(length - side + step - 1, 0) // step + 1
        grid.append([max(min(i * step + side, length) - side, 0) for i in range(number)])
    total: Any = 0.0
    count = np.zeros(image.shape[1:], np.float32)
    for top in grid[0]:
        for left in grid[1]:
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            found = run(image[:, rows, columns])
            total = total if np.ndim(total) else np.zeros((len(found), *image.shape[1:]), np.float32)
            total[:, rows, columns] += found
            count[rows, columns] += 1
    return total / count


def best_classes(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """The class of the largest of logits, (C, h, w), interpolated to each pixel, (height, width), as by torch."""
    (top, bottom, down), (left, right, across) = neighbours(logits.shape[1], height), neighbours(logits.shape[2], width)
    rows = logits[:, :, left] * (1 - across) + logits[:, :, right] * across
    ids = (
        (rows[:, t] * (1 - part) + rows[:, b] * part).argmax(0) for t, b, part in zip(top, bottom, down, strict=True)
    )
    return np.stack([row.astype(np.uint8 if len(logits) <= 256 else np.uint16) for row in ids])


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
    """The pixels of an object, (height, width), out of its probabilities, (h, w), in its box, as mmdet pastes them."""
    pasted, spans, weights = np.zeros((height, width), bool), [], []
    for low, high, length, cells in ((box[1], box[3], height, mask.shape[0]), (box[0], box[2], width, mask.shape[1])):
        first, last = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, length)
        with np.errstate(divide='ignore', invalid='ignore'):
            place = (np.arange(first, last, dtype=np.float32) + 0.5 - low) / (high - low)
        place = np.where(np.isinf(place), 0.5, place) * cells - 0.5  # the middle of what has no extent
        weights.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells, dtype=np.float32))))
        spans.append(slice(first, last))
    pasted[tuple(spans)] = weights[0] @ mask @ weights[1].T >= threshold
    return pasted


def encode_mask(mask: np.ndarray) -> str:
    """COCO's compressed run-length code of a mask, (H, W)."""
    pixels = np.concatenate([[False], mask.ravel(order='F'), [not mask[-1, -1]]])  # the first run is of zeros, or empty
    runs = np.diff(np.flatnonzero(pixels[1:] != pixels[:-1]), prepend=0)
    code = []
    for i, run in enumerate(runs.tolist()):
        value, more = run - runs.item(i - 2) if i > 2 else run, True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            code.append(chr(48 + bits + 32 * more))
    return ''.join(code)


class Model:
    """An exported model: its metadata, and its network as a function of a normalized image, (3, H, W).

    Raises:
        RunnerError: The file is none, or onnxruntime is missing or too old.
    """

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


class Picture:
    """A picture of what was found, with lines of text and their colours below it."""

    def __init__(self, image: Image.Image) -> None:
        self.pixels, self.boxes, self.lines = np.array(image), [], []  # type: ignore[var-annotated]

    def paint(self, mask: np.ndarray, colour: Sequence[int]) -> None:
        """Blend a colour over the pixels of a mask."""
        self.pixels[mask] = self.pixels[mask] // 2 + np.array(colour, np.uint8) // 2

    def save(self, path: Path) -> None:
        """Write it."""
        height, width = self.pixels.shape[:2]
        size = max(14, width // 40)
        canvas = Image.new('RGB', (width, height + round(1.5 * size) * len(self.lines) + size), 'white')
        canvas.paste(Image.fromarray(self.pixels))
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size)
        for box, colour in self.boxes:
            pen.rectangle(box, outline=tuple(colour), width=max(1, width // 320))
        for i, (text, colour) in enumerate(self.lines):
            top = height + size // 2 + round(1.5 * size) * i
            pen.rectangle((size // 2, top, 3 * size // 2, top + size), fill=tuple(colour))
            pen.text((2 * size, top), text, fill='black', font=font)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(path)


def classify(model: Model, image: Image.Image, picture: Picture) -> dict[str, Any]:
    """The five best classes of an image."""
    scores, meta = model(prepare(model.meta, image))[0][0], model.meta
    classes = []
    for i in np.argsort(-scores, kind='stable')[:5].tolist():
        names = {'label': i, 'class': meta['classes'][i], 'description': meta['descriptions'][i]}
        classes.append({**names, 'score': scores.item(i)})
        picture.lines.append((f'{100 * scores[i]:.0f} %  {names["description"]}', meta['palette'][i]))
    return dict(classes=classes)


def segment(model: Model, image: Image.Image, picture: Picture, path: Path) -> dict[str, Any]:
    """The classes of an image by their shares; the class of each pixel is written as a png."""
    pixels, meta = prepare(model.meta, image), model.meta
    run = lambda part: model(part)[0][0][:, : part.shape[1], : part.shape[2]]  # noqa: E731
    logits = slide(run, pixels, meta['window'] or pixels.shape[1:], meta['stride'] or pixels.shape[1:])
    size, small = (image.height, image.width), limited_size(image.height, image.width)
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, small, strict=True))
    ids = best_classes(logits, *small)[rows[:, None], columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)
    labels, counts = np.unique(ids, return_counts=True)
    classes = []
    for i in np.argsort(-counts, kind='stable'):
        label, share = labels.item(i), counts.item(i) / ids.size
        classes.append({'label': label, 'class': meta['classes'][label], 'share': share})
        picture.paint(ids == label, meta['palette'][label])
        picture.lines.append((f'{meta["classes"][label]} {100 * share:.1f} %', meta['palette'][label]))
    return dict(class_ids=str(path), classes=classes)


def detect(model: Model, image: Image.Image, picture: Picture) -> list[tuple[int, dict[str, Any]]]:
    """The label of each object in an image and its COCO annotation, the best first."""
    pixels, meta, size = prepare(model.meta, image), model.meta, (image.height, image.width)
    boxes, scores, labels, *masks = model(pixels)
    small, found = limited_size(*size), []
    boxes = np.minimum(boxes, np.array([*pixels.shape[:0:-1]] * 2, np.float32))  # of a fixed size, which has a margin
    boxes /= np.array([pixels.shape[2] / small[1], pixels.shape[1] / small[0]] * 2, np.float32)
    for i in range(int((scores >= meta['score_thr']).sum())):  # they fall
        left, top, right, bottom = (boxes[i] * np.array([size[1] / small[1], size[0] / small[0]] * 2)).tolist()
        one: dict[str, Any] = dict(bbox=[left, top, right - left, bottom - top], score=scores.item(i))
        if masks:
            mask = paste_mask(masks[0][i], boxes[i], *small, meta['mask_thr'])
            mask = mask if small == size else resize_like_cv2(mask.astype(np.uint8) * 255, *size) > 127
            one.update(area=float(mask.sum()), segmentation=dict(size=[*size], counts=encode_mask(mask)))
            picture.paint(mask, meta['palette'][labels[i]])
        found.append((labels.item(i), one))
        picture.boxes.append(((left, top, max(left, right), max(top, bottom)), meta['palette'][labels[i]]))
    counts = Counter(label for label, _ in found).most_common()
    picture.lines += [(f'{number} {meta["classes"][label]}', meta['palette'][label]) for label, number in counts]
    return found


def find_images(sources: Sequence[str], out_dir: Path) -> dict[Path, Path]:
    """The images that are named, or lie in folders, by the picture of each below a folder."""
    found: dict[Path, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise RunnerError(f'The image {shown(source)} does not exist: name image files or folders of them.')
        inside = (path for path in source.rglob('[!.]*') if path.suffix.lower() in SUFFIXES)
        for path in sorted(inside) if source.is_dir() else [source]:
            name = path.relative_to(source if source.is_dir() else source.parent).with_suffix('.png')
            while name in found:
                name = name.with_stem(f'{name.stem}_2')
            if out_dir.resolve() not in path.resolve().parents:
                found[name] = path
    if not found:
        raise RunnerError(f'There is no image in {", ".join(map(shown, sources))}.')
    return found


def run(model: Model, files: dict[Path, Path], out_dir: Path, log: Any) -> tuple[Any, int]:
    """Predict images and write their pictures; returns the json of tools/predict.py, and how many cannot be used."""
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    broken, meta = 0, model.meta
    for number, (name, path) in enumerate(files.items(), 1):
        try:
            image = decode(path)
            picture = Picture(image)
            if meta['task'] == 'classification':
                rows.append(dict(image=str(path), **classify(model, image, picture)))
            elif meta['task'] == 'segmentation':
                rows.append(dict(image=str(path), **segment(model, image, picture, out_dir / 'class_ids' / name)))
            else:
                found, image_id = detect(model, image, picture), len(images) + 1
                images.append(dict(id=image_id, file_name=str(path), height=image.height, width=image.width))
                for label, one in found:
                    ids = dict(id=len(rows) + 1, image_id=image_id, iscrowd=0, category_id=meta['category_ids'][label])
                    rows.append({**ids, **one})
            picture.save(out_dir / name)
            said = ', '.join(text for text, _ in picture.lines[:5]) or 'nothing'
        except Exception as error:  # decoders raise anything
            broken, said = broken + 1, f'left out, it cannot be used ({shown(error)})'
        print(f'{number}/{len(files)} {shown(path)}: {said}', file=log, flush=True)
    if meta['task'] != 'detection':
        return rows, broken
    categories = [dict(id=i, name=name) for i, name in zip(meta['category_ids'], meta['classes'], strict=True)]
    return dict(images=images, categories=categories, annotations=rows), broken


def main() -> int:
    """Predict; returns the exit code."""
    parser = argparse.ArgumentParser(description='Predict images by a model that tools/export.py has written.')
    parser.add_argument('model', metavar='MODEL', help='file of tools/export.py')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, or folders of them')
    parser.add_argument('--out-dir', default='predictions', help='folder of pictures and json (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print the json on stdout, all else on stderr')
    args = parser.parse_args()
    out_dir = Path(args.out_dir)
    try:
        model, files = Model(args.model), find_images(args.images, out_dir)
        if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / PREDICTIONS).is_file():
            raise RunnerError(
                f'The folder {shown(out_dir)} holds other files than predictions: choose another --out-dir.'
            )
        predictions, broken = run(model, files, out_dir, sys.stderr if args.json else sys.stdout)
        if broken < len(files):
            (out_dir / PREDICTIONS).write_text(json.dumps(predictions))
            print(json.dumps(predictions) if args.json else f'Pictures and json: {out_dir}')
        if broken:
            raise RunnerError(f'{broken} of {len(files)} images could not be used: replace them or leave them out.')
    except (RunnerError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
