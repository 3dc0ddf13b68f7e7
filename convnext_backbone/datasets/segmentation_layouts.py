"""Layouts of segmentation data, recognised from its folders: which hold images, which masks, and of which split."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ..utils.errors import UserError, printable, shorten
from ..utils.files import write_atomically
from .class_files import NamedClass, find_class_files, read_class_file
from .faults import RAISED, Faults
from .folders import find_images, list_folders
from .image_mask_pairs import find_endings, list_stems, pair_files
from .layouts import Layout, NoLayoutError
from .mask_classes import MaskFolder, find_mask_classes
from .mask_content import MaskContent, read_content
from .val_split import describe_draw, draw_validation, refuse_draw

_SPLITS = dict(train='train', training='train', val='val', valid='val', validation='val', test='test', testing='test')
_IMAGES = {'images', 'image', 'imgs', 'img', 'jpegimages', 'leftimg8bit', 'inputs', 'input', 'photos', 'rgb', 'frames'}
_MASKS = {'masks', 'mask', 'anns', 'ann', 'annotations', 'annotation', 'annots', 'annot', 'labels', 'label', 'gt'}
_MASKS |= {'segmentationclass', 'segmentationclasspng', 'gtfine', 'groundtruth', 'segmentations', 'segmentation', 'seg'}
_FILLERS = {'dir', 'set', 'data', 'dataset', 'folder', 'files', 'png', 'jpg', ''}
_JOINED = re.compile(rf'({"|".join(sorted(_SPLITS, key=len, reverse=True))})(.+)')  # CamVid's trainannot
_LISTS = re.compile(r'(train|val|valid|validation|test)\.txt', re.IGNORECASE)


class _Part(NamedTuple):
    """Where a split lies, relative to the data."""

    images: str
    masks: str
    ann_file: str = ''


def find_segmentation(
    root: Path,
    out_dir: Path,
    train_ann: str | None = None,
    val_ann: str | None = None,
    val_split: float | None = None,
    faults: Faults = RAISED,
) -> Layout:
    """Find images and masks in a folder, and their classes.

    Args:
        root: The folder.
        out_dir: Where the lists of a split that is drawn are written.
        train_ann: The folder of the training masks, or a list (``.txt``) of the training images; by default by name.
        val_ann: The same for validation.
        val_split: The part of the images that is drawn for validation, where the folder has none.
        faults: Gets what is wrong with single files, which are left out then; by default the first is raised.

    Returns:
        The layout; its splits are settings of :class:`.ImageMaskPairs`.

    Raises:
        UserError: There are no images and masks, an image has no mask, or the values of the masks have no classes.
    """
    root, out_dir = Path(root), Path(out_dir).absolute()
    folders = {folder.relative_to(root).as_posix(): files for folder, files in list_folders(root, out_dir).items()}
    named = {split: _locate(root, name, split) for split, name in dict(train=train_ann, val=val_ann).items() if name}
    parts = _find_parts(root, folders, named)
    if 'train' not in parts:
        filled = [name for name, files in folders.items() if find_images(files)]
        raise NoLayoutError(
            f'{printable(root)} has no images and masks for training: looked for folders such as images/train '
            f'and masks/train, train/images and train/masks, images and masks, or masks beside their images (x.jpg, '
            f'x_mask.png), and found images in {shorten(filled) or "no folder"}; name the folder of masks with '
            f'--train-ann.'
        )
    endings = _find_endings(root, parts['train'])
    pairs, notes = _pair(root, parts, endings, faults)
    if 'val' not in pairs:
        notes += _draw(parts, pairs, out_dir, val_split)
    elif val_split is not None:
        raise refuse_draw(root, len(pairs['val']))
    masks = [mask for split in pairs.values() for _, mask in split.values()]
    content, classes, file = _read_classes(root, parts, masks, faults)
    found = find_mask_classes(content, classes, file, MaskFolder(parts['train'].masks, endings[1]), faults)
    if 'test' in pairs and found.are_void(read_content([mask for _, mask in pairs['test'].values()], True, faults)):
        del pairs['test']
        notes.append('test is left out, as its masks are void')
    settings = dict(
        data_root=f'{root}/', type='ImageMaskPairs', img_suffix=endings[0], seg_map_suffix=endings[1], **found.settings
    )
    part = parts['train']
    return Layout(
        format=f'masks as {found.kind} ({part.images} + {part.masks})',
        classes=found.names,
        splits={
            split: dict(
                ann_file=parts[split].ann_file,
                data_prefix=dict(img_path=parts[split].images, seg_map_path=parts[split].masks),
                **settings,
            )
            for split in pairs
        },
        numbers={split: len(found) for split, found in pairs.items()},
        notes=[*notes, *found.notes],
        palette=found.palette,
    )


def _locate(root: Path, name: str, split: str) -> str:
    if not (root / name).exists():
        raise UserError(
            f'--{split}-ann {printable(name)} is not in {printable(root)}: name a folder of masks, or a list of '
            f'images (.txt), below it.'
        )
    return name.rstrip('/')


def _find_parts(root: Path, folders: Mapping[str, Sequence[str]], named: Mapping[str, str]) -> dict[str, _Part]:
    """Find the splits by what flags name (folders of masks, lists of images) and by names; else all is for training."""
    masks_of = {split: {path: None} for split, path in named.items() if (root / path).is_dir()}
    lists = {split: path for split, path in named.items() if split not in masks_of}
    places: defaultdict[tuple, dict[str, None]] = defaultdict(dict)
    for folder, files in folders.items():
        if find_images(files):
            role, split, prefix = _read_names(folder)
            places[role, split][prefix] = None
    parts = {}
    for split in ('train', 'val', 'test', None):
        if images := places['images', split] or places[None, split]:
            # Or side by side.
            masks = masks_of.get(split or 'train') or places['masks', split] or places['masks', None] or images
            parts[split or 'all'] = _Part(_the_one(root, images, 'images'), _the_one(root, masks, 'masks'))
    whole = parts.pop('all', None)
    if whole and 'train' not in parts:
        parts['train'] = whole
        lists = lists or _find_lists(folders)
        if 'val' in masks_of:
            parts['val'] = whole._replace(masks=named['val'])
    for split, path in lists.items() if 'train' in parts else ():
        parts[split] = parts.get(split, parts['train'])._replace(ann_file=path)
    return parts


def is_mask_folder(folder: PurePath) -> bool:
    """Whether the name of a folder, relative to the data, says that it holds masks."""
    return _read_names(folder.as_posix())[0] == 'masks'


def _read_names(folder: str) -> tuple[str | None, str | None, str]:
    """What the names of a folder and those around it say: ``'images'`` or ``'masks'``, the split, and up to where."""
    role = split = None
    names = folder.split('/')
    last = 0
    for i, name in enumerate(names, 1):
        words = [re.sub(r'\d+$', '', word) for word in re.split('[^a-z0-9]+', name.lower())]
        joined = [match.groups() for word in words if word not in _SPLITS and (match := _JOINED.fullmatch(word))]
        words += [word for pair in joined if pair[1] in _IMAGES | _MASKS for word in pair]
        roles = ['masks'] * bool(_MASKS & {*words}) or ['images'] * bool(_IMAGES & {*words})
        splits = {_SPLITS[word] for word in words if word in _SPLITS}
        known = {*words} <= {*_SPLITS, *_IMAGES, *_MASKS, *_FILLERS, *map(''.join, joined)}
        if roles:
            role, last = roles[0], i
        if len(splits) == 1 and known:  # train_extra is another set
            split, last = splits.pop(), i
    return role, split, '/'.join(names[:last]) or '.'


def _the_one(root: Path, folders: Mapping[str, None], what: str) -> str:
    if len(folders) > 1:
        raise UserError(
            f'{printable(root)} has several folders that may hold {what}: {shorten([*folders])}; name the data '
            f'more closely with --data-root, the masks with --train-ann and --val-ann, or move the others away.'
        )
    return next(iter(folders))


def _find_lists(folders: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find lists of the images of each split, as VOC has them; of several those for segmentation."""
    found = {}
    for folder, files in folders.items():
        lists = {
            _SPLITS[name[:-4].lower()]: os.path.normpath(f'{folder}/{name}') for name in files if _LISTS.fullmatch(name)
        }
        if 'train' in lists:
            found['segmentation' not in folder.lower(), len(folder), folder] = lists
    return found[min(found)] if found else {}


def _find_endings(root: Path, part: _Part) -> tuple[str, str]:
    images = list_stems(str(root / part.images))
    masks = images if part.masks == part.images else list_stems(str(root / part.masks))
    endings = find_endings(images, masks)
    if endings is None:
        kind = NoLayoutError if masks is images else UserError
        raise kind(
            f'No mask in {printable(root / part.masks)} ({shorten([*masks])}) has the name of an image of '
            f'{printable(root / part.images)} ({shorten([*images])}): name masks after their images, as in x.jpg '
            f'and x.png or x_mask.png.'
        )
    return endings


def _pair(
    root: Path, parts: dict[str, _Part], endings: tuple[str, str], faults: Faults
) -> tuple[dict[str, dict], list[str]]:
    """Pair the files of each split; test images may have no masks, and are left out."""
    pairs, notes = {}, []
    for split, part in parts.items():
        images, masks = str(root / part.images), str(root / part.masks)
        try:
            ann_file = str(root / part.ann_file) if part.ann_file else ''
            pairs[split] = pair_files(images, masks, *endings, ann_file, lambda error, _: faults.put_off(error))
            if not part.ann_file and part.masks != part.images:
                total = len(list_stems(masks, endings[1]))
                if unused := total - len(pairs[split]):
                    note = f'{unused} masks of {part.masks} have no image and are left out'
                    remedy = 'put their images there, or remove these masks'
                    notes.append(faults.mention('masks without an image', split, note, remedy, total, unused))
        except UserError:
            if split != 'test':
                raise
        if not pairs.get(split):
            if split == 'train':
                raise UserError(f'{printable(images)} has no images with masks: name another folder by --data-root.')
            pairs.pop(split, None)
            notes.append(f'{split} is left out, as its images have no masks')
    if shared := [stem for stem, pair in pairs.get('val', {}).items() if pairs['train'].get(stem) == pair]:
        notes.append(
            f'{len(shared)} of {len(pairs["val"])} images to validate on are trained on, too: {shorten(shared)}'
        )
    return pairs, notes


def _draw(parts: dict[str, _Part], pairs: dict[str, dict], out_dir: Path, val_split: float | None) -> list[str]:
    """Draw images to validate on."""
    whole = pairs['train']
    drawn = draw_validation(dict.fromkeys(whole, ()), val_split)
    for split in ('train', 'val'):
        pairs[split] = {stem: pair for stem, pair in whole.items() if (stem in drawn) == (split == 'val')}
        path = out_dir / f'{split}.txt'
        write_atomically(''.join(f'{stem}\n' for stem in pairs[split]).encode(errors='surrogateescape'), path)
        parts[split] = parts['train']._replace(ann_file=str(path))
    return [describe_draw(len(drawn), len(whole), val_split, out_dir / 'val.txt')]


def _read_classes(
    root: Path, parts: Mapping[str, _Part], masks: Sequence[str], faults: Faults
) -> tuple[MaskContent, list[NamedClass], Path]:
    """Look at the masks, and read the file that names their classes; all such files must tell the same."""
    places = [Path(folder) for part in parts.values() for folder in (part.masks, part.images)]
    folders = [root / folder for place in places for folder in reversed([place, *place.parents])]
    named = {file: read_class_file(file) for file in find_class_files(folders)}
    content = read_content(masks, bool(named), faults)
    if len(content.colors) < 2:  # objects are rare
        content = read_content(masks, False, faults)
    colored = {file: classes for file, classes in named.items() if all(one.color for one in classes)}
    if colored and not content.modes.isdisjoint({'RGB', 'RGBA', 'P'}):
        named = colored
    file, classes = next(iter(named.items()), (root / 'classes.txt', []))
    for other, theirs in named.items():
        if [one.name for one in theirs] != [one.name for one in classes]:
            raise UserError(
                f'{printable(file)} and {printable(other)} name other classes: '
                f'{shorten([one.name for one in classes])}, and {shorten([one.name for one in theirs])}; remove one.'
            )
    return content, classes, file
