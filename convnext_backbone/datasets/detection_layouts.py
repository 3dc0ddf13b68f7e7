"""Layouts of data for detection: COCO json of any exporter, YOLO's text files and Pascal VOC's XML."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..utils.errors import UserError, printable, shorten
from ..utils.files import write_atomically
from .coco_sets import CocoSet, find_coco_files, open_set, write_set
from .faults import OTHER_CLASSES, RAISED, Faults
from .folders import list_folders, name_split
from .layouts import Layout, NoLayoutError
from .val_split import describe_draw, draw_validation
from .voc_format import convert_voc
from .yolo_format import convert_yolo


def find_detection(
    root: Path,
    out_dir: Path,
    train_ann: str | None = None,
    val_ann: str | None = None,
    val_split: float | None = None,
    faults: Faults = RAISED,
) -> Layout:
    """Find out how a folder holds images and boxes.

    Annotation files of COCO's format are used as they are, unless mmdet could not read them, or categories are in
    another order than in training: then a copy is written. Other formats are converted.

    Args:
        root: The folder; nothing is written into it.
        out_dir: Where annotation files are written that the data lacks.
        train_ann: The annotation file to train on, below ``root`` or absolute; by default that whose name or folder
            says so, or the only one.
        val_ann: That to validate on.
        val_split: The part of the training images that is drawn for validation where there are no others; by default
            0.2.
        faults: Gets what is wrong with single files, which are left out then; by default the first is raised.

    Returns:
        Settings of data sets of type ``CocoDataset``.

    Raises:
        UserError: There is no data, it is ambiguous, or annotations are invalid.
    """
    root, out_dir = Path(root), Path(out_dir).absolute()
    given = {
        split: _find_given(name, root, split) for split, name in dict(train=train_ann, val=val_ann).items() if name
    }
    kind, candidates, folders, notes = _find_candidates(root, out_dir, bool(given), faults)
    files = _choose_files(candidates, given, root, drawn=val_split is not None)
    sets = {split: open_set(path, split, root, folders) for split, path in files.items()}
    if 'test' in sets and not sets['test'].numbers:
        del sets['test']  # of a challenge
    unused = {*candidates.get(None, ())} - {one.path for one in sets.values()}
    if unused:
        notes.append(f'not used: {shorten(sorted(os.path.relpath(path, root) for path in unused))}')
    sets = _drop_heading(sets, notes)
    is_drawn = 'val' not in sets
    classes = _match_classes(sets, notes, faults)
    objects = sum(one.numbers.total() for one in sets.values())
    without = objects - sum(one.masks for one in sets.values())
    if without:
        notes.append(f'{without} of {objects} objects have a box and no mask')
    kept: dict[str, Collection] = {split: one.images for split, one in sets.items()}
    if is_drawn:
        kept['val'] = _draw(sets['train'], val_split)
        kept['train'] = sets['train'].images.keys() - kept['val']
        sets['val'] = sets['train']
        notes.append(describe_draw(len(kept['val']), len(sets['train'].images), val_split, out_dir / 'val.json'))
    splits = [split for split in ('train', 'val', 'test') if split in sets]
    paths = {split: {sets[split].locate(image) for image in kept[split]} for split in splits}
    if shared := paths['train'] & paths.get('val', set()):
        notes.append(
            f'{len(shared)} of {len(paths["val"])} images to validate on are trained on, too: scores say nothing about '
            f'others'
        )
    return Layout(
        format=kind,
        classes=tuple(classes),
        splits={
            split: _make_settings(sets[split], split, root, out_dir, classes, kept[split], faults) for split in splits
        },
        numbers={split: len(kept[split]) for split in splits},
        notes=notes,
        without_mask=without / max(1, objects),
    )


def _find_candidates(
    root: Path, out_dir: Path, given: bool, faults: Faults
) -> tuple[str, dict[str | None, list[Path]], list[Path], list[str]]:
    """Find annotation files by the split that their names speak of, or convert those of other formats.

    Returns:
        The name of the format; the files; the folders in which their images may lie; notes.
    """
    folders = list_folders(root, out_dir)
    candidates: dict[str | None, list[Path]] = {}
    for path in find_coco_files(folders):
        candidates.setdefault(name_split(path.relative_to(root)), []).append(path)
    # A file for validation alone may lie beside the files of another format, as in COCO in that of YOLO.
    complete = given or candidates.keys() & {'train', None}
    converted = None if complete else convert_yolo(root, folders, faults) or convert_voc(root, folders, faults)
    if not converted:
        return 'COCO json', candidates, [*folders], []
    prefix = converted.format.split()[-1].lower()
    paths = {split: out_dir / f'{prefix}_{split or "all"}.json' for split in converted.contents}
    for split, path in paths.items():
        write_atomically(msgspec.json.encode(converted.contents[split]), path)
    return converted.format, {split: [path] for split, path in paths.items()}, [root], converted.notes


def _find_given(name: str, root: Path, split: str) -> Path:
    path = root / name
    if not os.path.isfile(path):
        raise UserError(f'--{split}-ann {printable(name)} is no file in {root}: name a json file below it.')
    return path


def _choose_files(
    candidates: Mapping[str | None, Sequence[Path]], given: Mapping[str, Path], root: Path, drawn: bool
) -> dict[str, Path]:
    """Choose the annotation file of each split; where one is drawn, none to validate on is needed."""
    chosen = dict(given)
    for split in ('train', 'val', 'test'):
        files = _prefer_instances(candidates.get(split, ()), chosen)
        if split not in chosen and len(files) == 1:
            chosen[split] = files[0]
        elif split not in chosen and files and split != 'test':
            raise _ambiguous(files, root, split)
    others = _prefer_instances(candidates.get(None, ()), chosen)
    if 'train' not in chosen:
        if len(others) != 1:
            raise _ambiguous(others, root, 'train') if others else _nothing_found(chosen, root)
        chosen['train'] = others[0]
    elif 'val' not in chosen and 'train' not in given and others and not drawn:
        raise _ambiguous(others, root, 'val', ', or draw one by --val-split 0.2')
    if drawn and 'val' in chosen:
        raise UserError(
            f'--val-split would draw images to validate on, but {chosen["val"]} has some: leave one of them out.'
        )
    return chosen


def _prefer_instances(files: Iterable[Path], chosen: Mapping[str, Path]) -> list[Path]:
    """COCO's own files of instances, which lie beside those of keypoints and panoptic segments; else all."""
    files = [path for path in files if path not in chosen.values()]
    return [path for path in files if 'instances' in path.stem.lower()] or files


def _ambiguous(files: Sequence[Path], root: Path, split: str, more: str = '') -> UserError:
    purpose = dict(train='train', val='validate')[split]
    names = shorten([os.path.relpath(path, root) for path in files])
    return UserError(
        f'{root} has {len(files)} annotation file{"s" * (len(files) > 1)} that may be meant to {purpose} on, {names}: '
        f'name one by --{split}-ann{more}.'
    )


def _nothing_found(chosen: Mapping[str, Path], root: Path) -> UserError:
    if chosen:
        split, path = next(iter(chosen.items()))
        return UserError(f'{root} has {path} for {split}, but no annotations to train on: name a file by --train-ann.')
    return NoLayoutError(
        f"{root} has no annotations of boxes: a json file in COCO's format, YOLO's text files in labels/ or beside "
        f'the images, or XML files of Pascal VOC are looked for; export the data as one of these, or point elsewhere '
        f'with --data-root.'
    )


def _match_classes(sets: dict[str, CocoSet], notes: list[str], faults: Faults) -> list[str]:
    """The classes in the order of the training file, which all files have; adds notes on those without annotations."""
    train = sets['train']
    classes = train.names
    for split, one in [*sets.items()]:
        doubles = [name for name, number in Counter(one.names).items() if number > 1]
        if doubles:
            raise UserError(f'{one.path} has several categories with the name {shorten(doubles)}: give each its own.')
        if differing := set(one.names) ^ set(classes):
            text = (
                f'The classes of {train.path} and {one.path} differ: only the first has '
                f'{shorten(sorted(set(classes) - set(one.names))) or "none"}, only the second '
                f'{shorten(sorted(set(one.names) - set(classes))) or "none"}; list the same categories in both.'
            )
            faults.add(OTHER_CLASSES, split, text, number=len(differing))
            del sets[split]
    empty = [category['name'] for category in train.categories if not train.numbers[category['id']]]
    if empty:
        notes.append(f'no annotation to train on has the class{"es" * (len(empty) > 1)} {shorten(empty)}')
    return classes


def _drop_heading(sets: Mapping[str, CocoSet], notes: list[str]) -> dict[str, CocoSet]:
    """Leave out the category without annotations that Roboflow writes above all others; its name may be that of one."""
    headings = {split: _find_heading(one) for split, one in sets.items()}
    if None in headings.values():
        return dict(sets)
    notes.append(f'the category {printable(headings["train"]["name"])} heads the others, without annotations: no class')
    return {
        split: one._replace(categories=[category for category in one.categories if category is not headings[split]])
        for split, one in sets.items()
    }


def _find_heading(one: CocoSet) -> Any:
    for heading in one.categories:
        others = [category for category in one.categories if category is not heading]
        above = others and all(category.get('supercategory') == heading['name'] for category in others)
        if above and not one.numbers[heading['id']]:
            return heading
    return None


def _draw(one: CocoSet, part: float | None) -> set:
    """The ids of images that are drawn for validation."""
    seen: dict[str, set] = {name: set() for name in one.images.values()}
    for image, category in one.pairs:
        if image in one.images:
            seen[one.images[image]].add(category)
    drawn = draw_validation(seen, part)
    return {key for key, name in one.images.items() if name in drawn}


def _make_settings(
    one: CocoSet, split: str, root: Path, out_dir: Path, classes: Sequence[str], kept: Collection, faults: Faults
) -> dict:
    """The settings of a data set that reads a split, for which a copy of its file is written if need be."""
    path, listed = one.path, [category.name for category in one.coco.entries('categories')]
    if not one.complete or [name for name in listed if name in classes] != [*classes] or len(kept) < len(one.images):
        path = out_dir / f'{split}.json'
        write_set(one, path, classes, kept, split, faults)
    folder = os.path.relpath(one.folder, root)
    return dict(
        data_root=f'{root}/',
        ann_file=os.path.relpath(path, root) if path.is_relative_to(root) else str(path),
        data_prefix=dict(img='' if folder == '.' else f'{folder}/'),
    )
