"""YOLO's annotations: a text file of boxes and polygons for each image, and a data.yaml of folders and classes."""

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..utils.errors import UserError, printable, shorten
from .box_formats import Annotated, Converted, Folders, describe_unused, make_object, to_coco
from .coco_sets import split_name
from .faults import RAISED, Faults
from .folders import IMAGE_FOLDERS, find_images, pair_folders, read_size, read_text, swap_part
from .image_lists import find_splits

_CLASS_FILES = ('classes.txt', 'obj.names', '_darknet.labels', 'labels.txt', 'names.txt')
_MANY = 0.1  # the part of all boxes that may reach beyond their image


def convert_yolo(root: Path, folders: Folders, faults: Faults = RAISED) -> Converted | None:
    """Convert boxes and polygons of YOLO's text files.

    Their images are those that ``data.yaml`` names; without it, those in folders that have such files in ``labels/`` or
    beside them. An image without a file has no objects.

    Args:
        root: The folder of the data.
        folders: File names by folder below it.
        faults: Gets lines that are no objects, and images that cannot be read.

    Returns:
        None where there are no such files.

    Raises:
        UserError: Something is missing or invalid; the text names the file and the line.
    """
    settings, path = _find_yaml(root, folders)
    labels: dict[str | None, dict[Path, Path | None]] = defaultdict(dict)  # of images, by split
    found: dict[Path, Path | None] = {}  # also of images in no list
    notes: list[str] = []
    if path is not None:
        for split, images in _list_yaml_images(settings, path).items():
            labels[split] = {image: _find_labels(image) for image in images}
    else:
        found, texts = _pair_labels(folders)
        listed, notes = find_splits(found, texts, root, folders, faults)
        for image, label in found.items():
            for split in listed[image]:
                labels[split][image] = label
    if not labels:
        return None
    classes = _list_names(settings.get('names'), path) if path is not None else _read_class_file(root, folders)
    pose = 'kpt_shape' in settings
    splits = {}
    for split, pairs in labels.items():
        read = (_read_image(*pair, split or '', classes, pose, faults) for pair in pairs.items())
        splits[split] = [one for one in read if one]
    for split, annotated in splits.items():
        if split != 'test' and annotated and not any(one.objects for one in annotated):
            raise UserError(
                f'None of the {len(annotated)} images of {split or "the data"} has objects: YOLO has them in a text '
                f'file of the same name in labels/, in the place of images/, or beside the image; the first image is '
                f'{annotated[0].image}.'
            )
    notes += _describe_beyond(
        [one for annotated in splits.values() for image in annotated for one in image.objects], faults
    )
    notes += describe_unused(*_list_labels([*labels.values(), found], folders), faults)
    return Converted('YOLO', {split: to_coco(one, classes, root) for split, one in splits.items()}, notes)


def _pair_labels(folders: Folders) -> tuple[dict[Path, Path | None], list[Path]]:
    """The label file of each image in a folder that has some, and all text files beside these."""
    found: dict[Path, Path | None] = {}
    texts: list[Path] = []
    for folder, other in pair_folders(folders, '.txt', ('labels', 'label', 'annotations')):
        files = {*folders[other]}
        texts += [other / name for name in files if name.endswith('.txt')]
        for name in find_images(folders[folder]):
            label = f'{os.path.splitext(name)[0]}.txt'
            found[folder / name] = other / label if label in files else None
    return found, texts


def _describe_beyond(objects: Sequence[dict], faults: Faults) -> list[str]:
    """Say how many boxes reach beyond their image, where they are cut off; many are no boxes of YOLO."""
    places = [one.pop('beyond') for one in objects if 'beyond' in one]
    if not places:
        return []
    note = f'{len(places)} of {len(objects)} boxes reach beyond their image: {places[0]}'
    remedy = 'write the class, the middle of the box, its width and its height, as parts of those of the image'
    if len(places) > _MANY * len(objects):
        kind = 'boxes that are not [x, y, width, height]'
        faults.add(kind, '', f'{note}; {remedy}, not two corners.', (), len(objects), len(places))
        return []
    return [faults.mention('boxes that reach beyond their image', '', note, remedy, len(objects), len(places))]


def _list_labels(labels: Sequence[Mapping[Path, Path | None]], folders: Folders) -> tuple[set, set]:
    """All label files in folders of nothing else, and those that are of an image."""
    used = {label for images in labels for label in images.values() if label}
    own = {label.parent for label in used} - {image.parent for images in labels for image in images}
    found = {folder / name for folder in own for name in folders.get(folder, ()) if name.endswith('.txt')}
    return {path for path in found if path.name not in _CLASS_FILES} | used, used


def _find_yaml(root: Path, folders: Folders) -> tuple[dict, Path | None]:
    """The settings of a data.yaml of any name, which has the names of classes and where images are."""
    for folder, names in folders.items():
        for name in sorted(names, key=lambda name: name not in ('data.yaml', 'dataset.yaml')):
            if name.endswith(('.yaml', '.yml')) and len(folder.relative_to(root).parts) <= 1:
                try:
                    settings = yaml.safe_load((folder / name).read_text(encoding='utf-8-sig'))
                except (OSError, ValueError, yaml.YAMLError, RecursionError):  # it is for something else
                    continue
                if isinstance(settings, dict) and 'names' in settings and 'train' in settings:
                    return settings, folder / name
    return {}, None


def _list_names(names: Any, path: Path) -> list[str]:
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[label] for label in range(len(names))]
    # What is wrong is not printed: YAML can make much of little.
    if not isinstance(names, list) or not names or not all(type(name) in (str, int, float) for name in names):
        raise UserError(
            f'{path} has names that are no names of classes: write a list, or a name for each id from 0, and names '
            f'such as no and yes in quotes.'
        )
    return [*map(str, names)]


def _read_class_file(root: Path, folders: Folders) -> list[str]:
    """The names of the classes; labelImg writes a file into each folder, with the classes that it has seen there."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for folder, files in folders.items():
        for name in (*_CLASS_FILES, *(name for name in files if name.endswith('.names'))):
            if name in files:
                path = folder / name
                lines = [*filter(None, map(str.strip, read_text(path).splitlines()))]
                other, known = found.setdefault(name, (path, lines))
                if any(map(str.__ne__, lines, known)):
                    raise UserError(
                        f'{other} and {path} have other classes, or another order of them, and labels are their places '
                        f'there: write all labels for one list of classes, and remove the other file.'
                    )
                found[name] = max(found[name], (path, lines), key=lambda one: len(one[1]))
    if found:
        return next(iter(found.values()))[1]
    raise UserError(
        f'The labels in {root} are those of YOLO, but the names of their classes are missing: write them into '
        f'{root / "classes.txt"}, one a line, or into a data.yaml.'
    )


def _list_yaml_images(settings: dict, path: Path) -> dict[str | None, list[Path]]:
    """The images of each split that a data.yaml names."""
    base = settings.get('path')
    bases = [path.parent / base, path.parent] if isinstance(base, str) else [path.parent]
    found: dict[str | None, list[Path]] = {}
    named = {}
    for split, keys in dict(train=('train',), val=('val', 'valid'), test=('test',)).items():
        values: Any = next((settings[key] for key in keys if settings.get(key)), [])
        values = values if isinstance(values, list) else [values]
        if not all(isinstance(value, str) for value in values):
            raise UserError(f'{path} has {split} that is no path and no list of paths: correct it.')
        places = [_find_place(value, bases) for value in values]
        if not values or (split == 'test' and not any(places)):  # often named, and seldom there
            continue
        if not all(places):
            raise UserError(
                f'{path} has {split}={printable(repr(values))}, which is not there: it is sought in '
                f'{shorten([*map(str, bases)])}; correct it'
                f'{", or remove the line to draw a fifth of the images" * (split == "val")}.'
            )
        found[split] = [image for place in places if place is not None for image in _list_images(place, bases)]
        named[split] = [[part for part in split_name(value) if part != '.'] for value in values]
        if not found[split]:
            raise UserError(f'{path} has {split}={printable(repr(values))}, in which there are no images: correct it.')
    if found.get('train') == found.get('val') and named.get('train') != named.get('val'):
        raise UserError(
            f'{path} has train={printable(repr(settings["train"]))} and another val, but the same images are found for '
            f'both: correct the paths.'
        )
    return found


def _find_place(value: str, bases: Sequence[Path]) -> Path | None:
    """What a path leads to from one of some folders, without its first parts if it is of another machine."""
    parts = split_name(value)
    short = (os.path.join(*parts[dropped:]) for dropped in range(len(parts)))
    return next((base / name for name in [value, *short] for base in bases if os.path.exists(base / name)), None)


def _list_images(place: Path, bases: Sequence[Path]) -> list[Path]:
    """The images in a folder, or those that a text file lists."""
    if place.is_dir():
        walk = sorted(os.walk(place, followlinks=True))
        return [Path(folder) / name for folder, _, files in walk for name in sorted(find_images(files))]
    lines = filter(None, map(str.strip, read_text(place).splitlines()))
    return [_find_place(line, [place.parent, *bases]) or place.parent / line for line in lines]


def _find_labels(image: Path) -> Path | None:
    folders = [*swap_part(image.parent, IMAGE_FOLDERS, ('labels',)), image.parent]
    return next((path for folder in folders if (path := folder / f'{image.stem}.txt').is_file()), None)


def _read_image(
    image: Path, path: Path | None, split: str, classes: Sequence[str], pose: bool, faults: Faults
) -> Annotated | None:
    width, height = read_size(image, split, faults)
    if not width:
        return None
    objects = []
    for number, line in enumerate(_read_lines(path, image, split, faults) if path else (), 1):
        if not line.strip():
            continue
        numbers = _parse_numbers(line.split()[: 5 if pose else None])
        label, values = numbers[0], numbers[1:]
        problem = _find_problem(label, values, classes)
        if problem:
            text = f'{path} has {printable(repr(line))} in line {number}, {problem}.'
            faults.add('lines that are no objects', split, text, [str(image)])
            continue
        if len(values) == 4:
            x, y, w, h = values
            xs, ys = [x - w / 2, x + w / 2], [y - h / 2, y + h / 2]
        else:
            xs, ys = values[::2], values[1::2]
        is_beyond = not all(-0.01 <= value <= 1.01 for value in (*xs, *ys))
        xs = [round(min(max(x, 0), 1) * width, 3) for x in xs]
        ys = [round(min(max(y, 0), 1) * height, 3) for y in ys]
        outline = [] if len(values) == 4 else [[value for point in zip(xs, ys, strict=True) for value in point]]
        one = make_object(int(label), min(xs), min(ys), max(xs), max(ys), outline)
        objects.append(dict(one, beyond=f'{path} has {printable(repr(line))} in line {number}') if is_beyond else one)
    return Annotated(image, (width, height), objects)


def _read_lines(path: Path, image: Path, split: str, faults: Faults) -> list[str]:
    try:
        return read_text(path).splitlines()
    except UserError as error:
        faults.add('invalid annotation files', split, str(error), [str(image)])
        return []


def _parse_numbers(words: Sequence[str]) -> list[float]:
    try:
        return [*map(float, words)]
    except ValueError:
        return [math.nan]


def _find_problem(label: float, values: list[float], classes: Sequence[str]) -> str | None:
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return 'which is no box (class x y width height) and no polygon (class x1 y1 x2 y2 x3 y3 ...)'
    if label not in range(len(classes)):
        return f'whose class is none of the {len(classes)} from 0 to {len(classes) - 1}'
    if not all(-0.01 <= value <= 1.01 for value in values):
        return 'whose coordinates are not all between 0 and 1: they are parts of the width and height of the image'
    return None
