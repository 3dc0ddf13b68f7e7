"""Layouts of images without labels: any folder, split by the names of its folders, by lists, or by a draw."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..utils.errors import printable, shorten
from ..utils.files import write_atomically
from .faults import RAISED, Faults
from .folders import name_split
from .layouts import Layout, NoLayoutError
from .listed_images import ImageNames, read_table
from .segmentation_layouts import is_mask_folder
from .unlabelled_images import list_names, read_names
from .val_split import describe_draw, draw_validation, refuse_draw

_NO_MASKS = ('.jpg', '.jpeg')  # whatever the name of their folder
_PART = 0.05  # to validate on: less than of labelled images, as nothing is chosen by the loss on them


def find_unlabelled(
    root: Path,
    out_dir: Path,
    train_ann: str | None = None,
    val_ann: str | None = None,
    val_split: float | None = None,
    faults: Faults = RAISED,
) -> Layout:
    """Find the images of a folder, whatever else it holds.

    Images in folders named as those of a validation or a test set are not trained on. Masks, which lie in folders named
    so and are no JPEG, are left out.

    Args:
        root: The folder; nothing is written into it.
        out_dir: Where lists of the images are written.
        train_ann: A list of the images to train on, a table or a COCO json, below ``root`` or absolute; by default all.
        val_ann: That of those to validate on, which are not trained on.
        val_split: The part of the images that is drawn for validation where there are no others; by default 0.05.
        faults: Gets images of lists that are missing; by default the first is raised.

    Returns:
        Settings of data sets of type ``UnlabelledImages``.

    Raises:
        UserError: There are no such images.
    """
    root, out_dir = Path(root), Path(out_dir).absolute()
    sets, masks = _divide(list_names(root, out_dir))
    notes = [f'{len(masks)} masks are left out: {shorten(masks)}'] if masks else []
    known = ImageNames(name for names in sets.values() for name in names)
    if train_ann:
        sets = {'train': _read_list(root / train_ann, known, 'train', faults)}
    if val_ann:
        sets['val'] = _read_list(root / val_ann, known, 'val', faults)
        held_out = {*sets['val']}
        sets['train'] = [name for name in sets.get('train', ()) if name not in held_out]
    if not sets.get('train'):
        raise NoLayoutError(f'{printable(root)} has no images to train on: point elsewhere with --data-root.')
    if 'val' not in sets:
        whole, part = sets['train'], _PART if val_split is None else val_split
        drawn = draw_validation(dict.fromkeys(whole, ()), part)
        sets |= {split: [one for one in whole if (one in drawn) == (split == 'val')] for split in ('train', 'val')}
        notes.append(describe_draw(len(drawn), len(whole), part, out_dir / 'val.txt'))
    elif val_split is not None:
        raise refuse_draw(root, len(sets['val']))
    there = [split for split in ('train', 'val', 'test') if split in sets]
    splits: dict[str, dict] = {split: _write(sets[split], root, out_dir / f'{split}.txt') for split in there}
    return Layout('images without labels', (), splits, {split: len(sets[split]) for split in there}, notes)


def _divide(names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Divide images by the split that their folders are named by, those of no name to train on; and masks."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(name.rpartition('/')[0], []).append(name)
    sets: dict[str, list[str]] = {}
    masks: list[str] = []
    for folder, inside in by_folder.items():
        path = PurePosixPath(folder)
        split, of_masks = sets.setdefault(name_split(path) or 'train', []), is_mask_folder(path)
        for name in inside:
            (masks if of_masks and not name.lower().endswith(_NO_MASKS) else split).append(name)
    return {split: inside for split, inside in sets.items() if inside}, masks


def _read_list(path: Path, images: ImageNames, split: str, faults: Faults) -> list[str]:
    """The images that a list names: the lines of a text, the images of a COCO json, or the best column of a table."""
    is_table = path.suffix.lower() in ('.csv', '.tsv')
    columns: Iterable[Sequence[str]] = zip(*read_table(path), strict=False) if is_table else [read_names(path)]
    pairs = [[(name, images.find(name.strip(), split)) for name in column] for column in columns]
    found = max(pairs, key=_count_found, default=[])
    if is_table and found and found[0][1] is None:  # its title
        found = found[1:]
    lost = [name for name, image in found if image is None]
    if lost:
        text = (
            f'{len(lost)} of {len(found)} images of {printable(path)} are not there: {shorten(lost)}; put them there, '
            f'or take them out of the list.'
        )
        faults.add('missing images', split, text, lost, len(found), len(lost))
    return [*dict.fromkeys(image for _, image in found if image is not None)]


def _count_found(column: Sequence[tuple[str, str | None]]) -> int:
    return sum(image is not None for _, image in column)


def _write(names: Sequence[str], root: Path, path: Path) -> dict:
    write_atomically(''.join(f'{name}\n' for name in names).encode(errors='surrogateescape'), path)
    return dict(data_root=f'{root}/', data_prefix='', ann_file=str(path))
