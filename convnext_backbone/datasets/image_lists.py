"""Lists of images in text files, a file for each split, as Pascal VOC and Darknet have them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Set
from pathlib import Path
from typing import TypeAlias

from ..utils.errors import printable, shorten
from .box_formats import Folders
from .coco_sets import split_name
from .faults import Faults
from .folders import find_images, name_split, read_text

_Lists: TypeAlias = tuple[tuple[str, Path], ...]  # splits and their files


def find_splits(
    images: Iterable[Path], annotated: Iterable[Path], root: Path, folders: Folders, faults: Faults
) -> tuple[dict[Path, list[str | None]], list[str]]:
    """Find the splits of images: those of the nearest lists above them, else that which their folder is named by.

    Args:
        images: All that lie in their folders.
        annotated: Annotation files; that their images are missing is told elsewhere.
        root: The folder of the data.
        folders: File names by folder below it.
        faults: Gets names of images that are not there.

    Returns:
        The splits of each image, none for one that no list names; notes on these.

    Raises:
        UserError: An image of a list is missing.
    """
    splits: dict[Path, list[str | None]] = {}
    groups: dict[_Lists, list[Path]] = defaultdict(list)
    lists: dict[Path, _Lists] = {}
    for image in images:
        folder = image.parent
        if folder not in lists:
            lists[folder] = _find_lists(folder, root, folders)
        groups[lists[folder]].append(image)
        splits[image] = [] if lists[folder] else [name_split(folder.relative_to(root))]
    notes, told = [], {path.stem for path in annotated}
    for files, members in groups.items():
        for split, path in files:
            for image in _read_list(path, split, members, told, faults):
                splits[image].append(split)
        if unlisted := [image for image in members if not splits[image]]:
            note = (
                f'{len(unlisted)} of {len(members)} images are in no list ({shorten([path.name for _, path in files])})'
            )
            remedy = 'add them to one, if they are to be used'
            notes.append(
                faults.mention('images in no list', '', f'{note} and are left out', remedy, len(members), len(unlisted))
            )
    return splits, notes


def _find_lists(folder: Path, root: Path, folders: Folders) -> _Lists:
    """The lists that are nearest to a folder of images; ``train`` is a part of ``trainval``."""
    above = [folder, *folder.parents][: len(folder.relative_to(root).parts) + 1]
    for place in (one for base in above for one in (base / 'ImageSets/Main', base)):
        files = folders.get(place, ())
        pictures = {os.path.splitext(name)[0] for name in find_images(files)}  # train.txt may be of train.jpg
        found: dict[str, Path] = {}
        for name in files:
            stem, suffix = os.path.splitext(name)
            split = name_split(Path(stem)) if suffix == '.txt' and stem.isalpha() and stem not in pictures else None
            if split and (split not in found or found[split].stem.lower() == 'trainval'):
                found[split] = place / name
        if 'train' in found:
            return tuple(found.items())
    return ()


def _read_list(path: Path, split: str, images: Iterable[Path], told: Set[str], faults: Faults) -> list[Path]:
    """The images that a list names, with or without folders and file types."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem].append(image)
        by_stem[image.name].append(image)
    chosen: dict[Path, None] = {}
    absent = []
    names = [name for line in read_text(path).splitlines() if split_name(name := line.strip(' \t"'))]
    for name in names:
        parts = split_name(name)
        # VOC's lists of a class have a flag behind the name.
        same = by_stem.get(parts[-1]) or by_stem.get(parts[-1].split()[0]) or []

        def count_shared(image: Path, parts: list[str] = parts) -> int:
            pairs = zip(reversed(image.parts[:-1]), reversed(parts[:-1]), strict=False)
            return next((number for number, (one, other) in enumerate(pairs) if one != other), len(parts))

        most = max(map(count_shared, same), default=0)
        chosen.update((image, None) for image in same if count_shared(image) == most)
        absent += [] if same or told & {parts[-1], os.path.splitext(parts[-1])[0]} else [name]
    if absent and (chosen or split != 'test'):  # the test images of a challenge may be elsewhere
        text = (
            f'{len(absent)} of {len(names)} images of {printable(str(path))} are missing: {shorten(absent)}; put them '
            f'there, or correct the list.'
        )
        faults.add('missing images', split, text, (), len(names), len(absent))
    return [*chosen]
