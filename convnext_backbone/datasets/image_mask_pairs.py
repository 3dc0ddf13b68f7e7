"""A data set of images and segmentation masks in folders, paired by the stems of their names."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..utils.errors import UserError, printable, shorten
from ..utils.image_io import IMAGE_SUFFIXES
from .folders import find_images, is_hidden, read_text
from .image_loading import guard_image_loading
from .mask_values import MaskValues

Refuse: TypeAlias = Callable[[UserError, Sequence[str]], None]  # gets an error, and the images that have it

_BEST_ENDINGS = (r'train_?ids?$', r'label_?ids?$', r'mask|label|seg|gt', '')  # Cityscapes has several masks an image
_LAST_WORD = re.compile(r'[-_. ][^-_. /]+$')
_MASK_NAME = re.compile(r'(?:^|/)(mask|label|seg|gt)[^/]*$|[-_. ](mask|label|seg|gt)[^-_. /]*$', re.IGNORECASE)


def list_stems(folder: str, ending: str = '') -> dict[str, str]:
    """List the images below a folder whose names have this ending before the file type.

    Args:
        folder: With its subfolders; hidden files and folders are left out.
        ending: Such as ``'_mask'``; or ``'mask_*'`` for what stands before the stem.

    Returns:
        Paths by stem: the path below the folder without ending and type, with ``/``, in the order of the paths.

    Raises:
        UserError: Two files have one stem.
    """
    found: dict[str, str] = {}
    folder = os.path.abspath(folder)
    before, after = _split(ending)
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inner = '' if place == folder else f'{os.path.relpath(place, folder)}/'.replace(os.sep, '/')
        for name in find_images(files):
            stem = os.path.splitext(name)[0]
            if not (stem.startswith(before) and stem.endswith(after)) or len(stem) < len(before) + len(after):
                continue
            path = os.path.join(place, name)
            key = inner + stem[len(before) : len(stem) - len(after)]
            if key in found:
                raise UserError(
                    f'{printable(found[key])} and {printable(path)} have one name, by which images and masks are '
                    f'paired: rename or remove one.'
                )
            found[key] = path
    return dict(sorted(found.items(), key=lambda item: item[1]))  # as mmsegmentation does


def _split(ending: str) -> tuple[str, str]:
    """What stands before and after the stem: ``'mask_*'`` is before it."""
    before, _, after = ending.rpartition('*')
    return before, after


def find_endings(images: Collection[str], masks: Collection[str]) -> tuple[str, str] | None:
    """Find what follows the common stem in the names of images and of masks, such as ``('', '_mask')``.

    If nothing does, what all names of each begin with is tried: ``('img_*', 'mask_*')``.

    Args:
        images: Paths without file types, those of masks left out or not.
        masks: As many or more, of masks, too.

    Returns:
        The two endings; None where no image and mask share a stem.
    """
    if images is masks and set() < (named := {key for key in images if _MASK_NAME.search(key)}) < {*images}:
        images, masks = {*images} - named, named  # of one folder
    shared = {match[0] for match in map(_LAST_WORD.search, images) if match}
    candidates = ['', *shared] if len(shared) == 1 else ['']
    best: tuple = (0,)
    for ending in candidates:
        stems = {key[: len(key) - len(ending)] for key in images if key.endswith(ending)}
        numbers = Counter(
            mask[cut:] for mask in masks for cut in range(mask.rfind('/') + 2, len(mask) + 1) if mask[:cut] in stems
        )
        if images is masks:
            del numbers['']
        for other, number in numbers.items():
            rank = next(i for i, like in enumerate(_BEST_ENDINGS) if re.search(like, other, re.IGNORECASE))
            best = max(best, (number, -rank, -len(other), ending, other))
    return best[3:] if best[0] else _find_beginnings(images, masks)


def _find_beginnings(images: Collection[str], masks: Collection[str]) -> tuple[str, str] | None:
    names = [[PurePosixPath(key).name for key in keys] for keys in (images, masks)]
    before = [os.path.commonprefix(one).rstrip('0123456789') for one in names]
    if images is masks or not any(before):
        return None
    stems = [
        {key.removesuffix(name) + name[len(start) :] for key, name in zip(keys, one, strict=True)}
        for keys, one, start in zip((images, masks), names, before, strict=True)
    ]
    return (f'{before[0]}*', f'{before[1]}*') if stems[0] & stems[1] else None


def _raise(error: UserError, images: Sequence[str]) -> None:
    raise error


def pair_files(
    folder: str,
    mask_folder: str,
    ending: str = '',
    mask_ending: str = '',
    ann_file: str = '',
    refuse: Refuse = _raise,
) -> dict[str, tuple[str, str]]:
    """Pair images and masks.

    Args:
        folder: Of the images.
        mask_folder: Of the masks; it may be the same.
        ending: Of the stems of images.
        mask_ending: Of the stems of masks.
        ann_file: A text file with the stems, or the names, of the images that belong to the set; by default all.
        refuse: Gets images without a mask, which are left out if it returns.

    Returns:
        The paths of image and mask by stem.

    Raises:
        UserError: An image has no mask, or is not there; the text names some.
    """
    masks = list_stems(mask_folder, mask_ending)
    taken = {*masks.values()}
    images = {stem: path for stem, path in list_stems(folder, ending).items() if path not in taken}
    if ann_file:
        wanted = [_drop_folders(stem, images) for stem in read_stems(ann_file, ending)]
        if absent := [stem for stem in wanted if stem not in images]:
            raise UserError(
                f'{len(absent)} of {len(wanted)} images of {printable(ann_file)} are not in {printable(folder)}: '
                f'{shorten(absent)}; put them there, or correct the list.'
            )
        images = {stem: images[stem] for stem in wanted}
    if lost := [images[stem] for stem in images if stem not in masks]:
        error = UserError(
            f'{len(lost)} of {len(images)} images have no mask in {printable(mask_folder)}: {shorten(lost)}; the mask '
            f'of {"x".join(_split(ending))}.jpg is {"x".join(_split(mask_ending))}.png, or of another type: put them '
            f'there, or leave the images out.'
        )
        refuse(error, lost)
    return {stem: (path, masks[stem]) for stem, path in images.items() if stem in masks}


def _drop_folders(stem: str, images: Mapping[str, str]) -> str:
    """A stem without leading folders, in which the images of a list may lie elsewhere."""
    parts = stem.split('/')
    tails = ('/'.join(parts[skipped:]) for skipped in range(len(parts)))
    return next((tail for tail in tails if tail in images), stem)


def read_stems(ann_file: str, ending: str = '') -> list[str]:
    """Read the stems of a list of images, which may name file types.

    Raises:
        UserError: It is missing or no text.
    """
    stems = []
    before, after = _split(ending)
    for name in filter(None, map(str.strip, read_text(Path(ann_file)).splitlines())):
        stem, suffix = os.path.splitext(name)
        stem = stem if suffix.lower() in IMAGE_SUFFIXES else name
        folder, name = os.path.split(stem)
        stems.append(os.path.join(folder, name.removeprefix(before).removesuffix(after)))
    return [*dict.fromkeys(stems)]


@DATASETS.register_module()
class ImageMaskPairs(BaseDataset):
    """Images and their masks, for the pipelines of mmsegmentation.

    A mask belongs to the image with the same path below its folder, but for endings and file types, which may be mixed.

    Args:
        img_suffix: What follows the common stem in the names of images, without the file type; or, with a ``*``, what
            stands before it.
        seg_map_suffix: The same of masks, such as ``'_mask'`` or ``'mask_*'``; after the first images and masks may lie
            in one folder.
        values: The value that each class has in the masks, an id or a colour ``[R, G, B]``; by default its place.
        void: Values of pixels without a class; of ids 255 always is one, unless a class has it. ``[0]`` says that
            ``reduce_zero_label`` is no guess.
        reduce_zero_label: Whether 0 is void and 1 the first class, as in :class:`mmseg.datasets.BaseSegDataset`.
        **settings: Of :class:`mmengine.dataset.BaseDataset`. ``data_prefix`` has ``img_path`` and ``seg_map_path``;
            ``ann_file`` is a text file with the stems of the images that belong to the set, by default all.

    Raises:
        UserError: An image has no mask, or one of ``ann_file`` is missing; the text names some.
    """

    def __init__(
        self,
        img_suffix: str = '',
        seg_map_suffix: str = '',
        values: Sequence | None = None,
        void: Sequence = (),
        reduce_zero_label: bool = False,
        **settings: Any,
    ) -> None:
        self.img_suffix, self.seg_map_suffix = img_suffix, seg_map_suffix
        self.reduce_zero_label, self.label_map, self.void = reduce_zero_label, None, void
        self.mask_values = MaskValues(values, void) if values is not None else None
        super().__init__(**settings)
        self._metainfo.update(reduce_zero_label=reduce_zero_label, label_map=None)
        guard_image_loading(self)  # whoever runs it: mmsegmentation's transforms know no table of values

    def load_data_list(self, refuse: Refuse = _raise) -> list[dict]:
        """Pair the files, as of :func:`pair_files`."""
        prefix = self.data_prefix
        pairs = pair_files(
            prefix['img_path'], prefix['seg_map_path'], self.img_suffix, self.seg_map_suffix, self.ann_file, refuse
        )
        info: dict[str, Any] = dict(label_map=None, reduce_zero_label=self.reduce_zero_label, seg_fields=[])
        return [{'img_path': image, 'seg_map_path': mask, **info} for image, mask in pairs.values()]

    def get_data_info(self, idx: int) -> dict:
        """Return what is known of an image, and the table of values that its mask is read by."""
        return {**super().get_data_info(idx), 'mask_values': self.mask_values}
