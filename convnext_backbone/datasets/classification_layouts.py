"""Layouts of classification data: folders of classes, with or without splits, or tables of image names and labels."""

import contextlib
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from ..utils.errors import UserError, printable, shorten
from ..utils.files import write_atomically
from .faults import NO_LABEL, OTHER_CLASSES, RAISED, UNLISTED, Faults
from .folders import find_images, list_folders, name_split
from .layouts import Layout, NoLayoutError
from .listed_images import ImageNames, read_labels, sort_classes, write_list
from .timm_dataset import TimmDataset
from .val_split import describe_draw, draw_validation, refuse_draw

Folders = Mapping[Path, Sequence[str]]  # names of files, by folder relative to the data
Rows = dict[str, str]  # classes by image, relative to the data


def find_classification(
    root: Path,
    out_dir: Path,
    train_ann: str | None = None,
    val_ann: str | None = None,
    val_split: float | None = None,
    faults: Faults = RAISED,
) -> Layout:
    """Find out how a folder holds labelled images.

    Args:
        root: The folder; nothing is written into it.
        out_dir: Where lists of images and classes are written, unless the data has folders of classes for each split.
        train_ann: The table of images and labels to train on, below ``root`` or absolute; by default that whose name
            says so, or the only one.
        val_ann: That to validate on.
        val_split: The part of the images that is drawn for validation where there are no others; by default 0.2.
        faults: Gets what is wrong with single files, which are left out then; by default the first is raised.

    Returns:
        Settings of data sets of type ``TimmDataset``. Classes are in the order of their sorted names.

    Raises:
        UserError: There are no such images, or the classes of training and validation differ.
    """
    root, out_dir = Path(root), Path(out_dir).absolute()
    folders = {path.relative_to(root): files for path, files in list_folders(root, out_dir).items()}
    given = {split: name for split, name in dict(train=train_ann, val=val_ann).items() if name}
    prefixes = {} if given else _find_splits(root, folders)
    kind, notes = 'folders of classes', []
    if prefixes:
        sets = {split: _read_folder(root, folder) for split, folder in prefixes.items()}
        notes += _compare_tables(root, folders, sets)
    else:
        sets = _read_tables(root, folders, given, faults)
        kind = 'table of labels' if sets else kind
        notes += _tell_unlisted(folders, sets, faults)
        sets = sets or _read_one(root, folders)
    if not sets.get('train'):
        raise NoLayoutError(
            f'{printable(root)} has no labelled images for training: looked for a folder of images for each '
            f'class, in train/ and val/ or together, and for a table of image names and labels (.csv); name one by '
            f'--train-ann.'
        )
    if 'val' not in sets:
        whole = sets['train']
        drawn = draw_validation({image: (label,) for image, label in whole.items()}, val_split)
        sets |= {
            split: {image: whole[image] for image in whole if (image in drawn) == (split == 'val')}
            for split in ('train', 'val')
        }
        notes.append(describe_draw(len(drawn), len(whole), val_split, out_dir / 'val.csv'))
    elif val_split is not None:
        raise refuse_draw(root, len(sets['val']))
    classes = sort_classes(sets['train'].values())
    notes += _compare_classes(sets, classes, faults)
    listed = bool(notes) or not prefixes  # folders that all have the same classes need no lists
    if listed:
        write_atomically(''.join(f'{name}\n' for name in classes).encode(), out_dir / 'classes.txt')
    splits: dict[str, dict] = {}
    for split in [split for split in ('train', 'val', 'test') if split in sets]:
        splits[split] = dict(data_root=f'{root}/', data_prefix='' if listed else prefixes[split])
        if listed:
            path = out_dir / f'{split}.csv'
            write_list(sets[split].items(), path)
            splits[split] |= dict(ann_file=str(path), class_map=str(out_dir / 'classes.txt'))
    return Layout(kind, tuple(classes), splits, {split: len(sets[split]) for split in splits}, notes)


def _find_splits(root: Path, folders: Folders) -> dict[str, str]:
    """Find the folders of splits: those of such names in which all images lie in folders, of classes."""
    filled = [folder for folder, files in folders.items() if find_images(files)]
    found: dict[str, list[Path]] = {}
    for folder in sorted(folders, key=lambda one: len(one.parts)):
        split = name_split(PurePath(folder.name))
        if split and folder not in filled and any(folder in one.parents for one in filled):
            found.setdefault(split, []).append(folder)
    for split, places in found.items():
        places[:] = [place for place in places if len(place.parts) == len(places[0].parts)]
        if len(places) > 1:
            raise UserError(
                f'{printable(root)} has several folders of {split} images, '
                f'{shorten(places)}: name one data set more closely with --data-root.'
            )
    return {split: places[0].as_posix() for split, places in found.items()} if 'train' in found else {}


def _read_folder(root: Path, prefix: str) -> Rows:
    """The images of a split as a run reads them."""
    data = TimmDataset(str(root), prefix)
    names = data.metainfo['classes']
    rows = {os.path.relpath(path, root): names[label] for path, label in data.reader.samples}
    _refuse_nesting(root, rows)
    return rows


def _refuse_nesting(root: Path, images: Iterable[str]) -> None:
    """Refuse folders within those of classes, unless all images lie below the outer one."""
    folders = {os.path.dirname(image) for image in images}
    common = os.path.commonpath(folders) if folders else ''
    for folder in sorted(folders):
        outer, *inner = Path(folder).relative_to(common).parts or ('',)
        if inner:
            raise UserError(
                f'{printable(root / folder)} lies in the folder {printable(outer)}, and either may be the class: move '
                f'images up or down, so that each class has one folder, or list images and labels in tables (.csv) '
                f'for --train-ann and --val-ann.'
            )


def _read_one(root: Path, folders: Folders) -> dict[str, Rows]:
    """The images of folders of classes without splits."""
    rows = {
        (folder / name).as_posix(): folder.name
        for folder, files in folders.items()
        for name in find_images(files)
        if folder.parts
    }
    several = len({*rows.values()}) > 1 and not all(name_split(PurePath(name)) for name in rows.values())
    if several:
        _refuse_nesting(root, rows)
    return {'train': rows} if several else {}


def _compare_tables(root: Path, folders: Folders, sets: Mapping[str, Rows]) -> list[str]:
    """Notes on tables that give images of one folder several labels."""
    with contextlib.suppress(UserError):  # of tables that nobody asked for
        tables = _read_tables(root, folders, {}, Faults())
        found = {**tables.get('train', {}), **tables.get('val', {})}
        pairs = {(rows[image], found[image]) for rows in sets.values() for image in rows if image in found}
        if len(pairs) > len({folder for folder, _ in pairs}):
            return ['a table gives images of one folder several labels: to learn these, name it with --train-ann']
    return []


def _read_tables(root: Path, folders: Folders, given: Mapping[str, str], faults: Faults) -> dict[str, Rows]:
    """The images of tables of labels, by split."""
    images = ImageNames((folder / name).as_posix() for folder, files in folders.items() for name in find_images(files))
    tables: dict[Path, str | None] = {
        folder / name: name_split(folder / name)
        for folder, files in folders.items()
        for name in files
        if PurePath(name).suffix.lower() in ('.csv', '.tsv') and 'submission' not in name.lower()  # Kaggle's samples
    }
    named: dict[Path, str | None] = {Path(name): split for split, name in given.items()}
    tables = named if 'train' in given else {**tables, **named}
    found: dict[str | None, list[tuple[Path, list]]] = {}
    for path, split in tables.items():
        rows = read_labels(root / path, images, split, faults)
        if rows is not None:
            found.setdefault(split, []).append((path, rows))
        elif str(path) in given.values():
            raise UserError(
                f'{printable(root / path)} is no table of images and labels: none of its columns names '
                f'images below {printable(root)}.'
            )
    if 'train' not in found:
        found['train'] = found.pop(None, [])
    sets: dict[str, Rows] = {}
    for split, several in found.items():
        if split and len(several) > 1:
            raise UserError(
                f'{printable(root)} has several tables of {split} labels, '
                f'{shorten([path for path, _ in several])}: name one by --{split}-ann.'
            )
        for _, rows in several:
            for image, label, own in rows if split else ():
                sets.setdefault(own or split or 'train', {})[image] = label
    return sets


def _tell_unlisted(folders: Folders, sets: Mapping[str, Rows], faults: Faults) -> list[str]:
    """Notes on images that no table names, in the folders of those that one does."""
    listed = {image for rows in sets.values() for image in rows}
    places = {os.path.dirname(image) for image in listed}
    images = [folder / name for folder, files in folders.items() for name in find_images(files)]
    beside = [image.as_posix() for image in images if image.parent.as_posix() in places]
    left = [image for image in beside if image not in listed]
    if not left or any(faults.has(NO_LABEL, split) for split in ('', *sets)):
        return []
    note = f'{len(left)} images that no table lists are left out: {shorten(left)}'
    return [faults.mention(UNLISTED, '', note, 'list them, or move them away', len(beside), len(left))]


def _compare_classes(sets: dict[str, Rows], classes: Sequence[str], faults: Faults) -> list[str]:
    """Compare the classes of splits with those of training; returns notes on such as a split lacks."""
    notes = []
    for split, rows in [*sets.items()]:
        theirs = sort_classes(rows.values())
        if strange := [name for name in theirs if name not in classes]:
            lower = {name.lower(): name for name in classes}
            near = [lower[name] for name in difflib.get_close_matches(strange[0].lower(), lower, n=1)]
            text = (
                f'The {split} images have the class{"es" * (len(strange) > 1)} {shorten(strange)}, which the training '
                f'images have not{f"; is {printable(strange[0])} the class {printable(near[0])}?" if near else ":"} '
                f'give both the same names, or leave such images out.'
            )
            faults.add(OTHER_CLASSES, split, text, number=len(strange))
            del sets[split]
            continue
        if lacking := [name for name in classes if name not in theirs]:
            notes.append(f'{split} has no image of {shorten(lacking)}')
    return notes
