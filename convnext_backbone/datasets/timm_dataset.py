"""Data sets for classification, by timm's readers and transforms: folders, tar files, Hugging Face data and shards.

Images leave the workers as bytes; :class:`.ImagePreprocessor` normalizes, erases and mixes them on the device.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from ..utils.errors import ArgumentError, UserError
from ..utils.image_io import IMAGE_SUFFIXES, decode_image
from .listed_images import ListedImages
from .plain_files import read_class_map
from .shard_stream import ImageStream, black_image

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BROKEN_IN_A_ROW = 20  # then there is no image; the label is -1, at which LabelledImagesHook stops the run


def build_transform(is_training: bool, **settings: Any) -> Callable:
    """Build timm's image transform up to normalization, from a PIL image to bytes, (3, H, W).

    Args:
        is_training: Whether to augment.
        **settings: Of ``timm.data.create_transform``: ``input_size``, ``auto_augment``, ``interpolation``,
            ``crop_pct``, ``crop_mode``, ``scale``, ``hflip``, ...
    """
    from timm.data import create_transform

    unknown = set(settings) - set(inspect.signature(create_transform).parameters)
    late = set(settings) & {'mean', 'std', 're_prob', 're_mode', 're_count', 'normalize', 'use_prefetcher'}
    if unknown or late:
        raise ArgumentError(
            f'transform has {", ".join(sorted(unknown | late))}: it takes the settings of timm.data.create_transform; '
            f'mean, std and random_erasing belong to model.data_preprocessor.'
        )
    return fix_posterize(create_transform(is_training=is_training, normalize=False, **settings))


def fix_posterize(transform: Callable) -> Callable:
    """Let RandAugment in a transform of timm keep 0 bits of a colour, as at full strength, which Pillow 13 refuses."""
    for step in getattr(transform, 'transforms', []):
        for operation in getattr(step, 'ops', []):
            if operation.name.startswith('Posterize'):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: 'Image', bits: int, **settings: Any) -> 'Image':
    """Keep so many bits of each colour; 0 gives black, as in Pillow 12."""
    from timm.data.auto_augment import posterize

    return posterize(image, bits, **settings) if bits else image.point(lambda value: 0)


def _open_reader(path: str, reader: str, split: str, class_map: dict[str, int] | str) -> Any:
    """Open timm's reader of a folder, of tar files, or of a data set of the Hugging Face Hub or a local copy of one."""
    if reader == 'hfds':
        from timm.data.readers.reader_hfds import ReaderHfds

        return ReaderHfds(path, split=split, class_map=class_map)  # type: ignore[arg-type]  # a path, too
    if reader:
        raise ArgumentError(f"reader={reader!r} is unknown: '' reads folders and tar files, 'hfds' Hugging Face's.")
    from timm.data.readers.img_extensions import set_img_extensions
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    place = Path(path)
    if not place.exists():
        raise UserError(f'The images are missing: there is no {place.absolute()}; point elsewhere with --data-root.')
    tars = place.suffix == '.tar' or (any(place.glob('*.tar')) and not any(p.is_dir() for p in place.iterdir()))
    set_img_extensions(sorted(IMAGE_SUFFIXES))  # or only those of .jpg, .jpeg and .png would be found
    if tars:
        return ReaderImageInTar(path, class_map=class_map)
    found = ReaderImageFolder(path, class_map=class_map)
    # Copies that notebooks and macOS make, whose folders would be classes, are left out.
    hidden = ('/.', '/__MACOSX/')
    found.samples = [one for one in found.samples if not any(mark in one[0][len(path) :] for mark in hidden)]
    used = {label: n for n, label in enumerate(sorted({label for _, label in found.samples}))}
    if not used:
        raise RuntimeError('its images are hidden')
    if not class_map:
        found.class_to_idx = {name: used[n] for name, n in found.class_to_idx.items() if n in used}
        found.samples = [(file, used[label]) for file, label in found.samples]
    return found


def read_first(reader: Any, index: int, tries: int, channels: int = 3) -> tuple['Image | None', Any, list[str]]:
    """Decode an image of a reader, in the place of an unreadable one the next that can be read.

    Args:
        reader: As those of timm: its items are open files and labels, and ``filename`` names them.
        index: Of the image.
        tries: How many images to try.
        channels: As of :func:`.decode_image`.

    Returns:
        The image and its label, None and None if all fail; and the unreadable images, each with the reason.
    """
    broken: list[str] = []
    for i in range(index, index + min(tries, len(reader))):
        i %= len(reader)
        try:
            file, label = reader[i]
            with file:
                return decode_image(file, channels), label, broken
        except Exception as error:  # decoders raise anything: OSError, SyntaxError, zlib.error, struct.error
            broken.append(f'{reader.filename(i)} ({type(error).__name__}: {error})'.replace('\n', ' '))
    return None, None, broken


@DATASETS.register_module()
class TimmDataset(Dataset):
    """Map-style data set of labelled images: a folder with a folder for each class, tar files, or Hugging Face data.

    Args:
        data_root: The folder of the data set; for ``reader='hfds'`` its name on the Hub or the folder of a copy.
        data_prefix: The part of it: a folder or a tar file of images in folders, a folder of tar files; for
            ``reader='hfds'`` the split.
        transform: Settings of :func:`build_transform`.
        is_training: Whether to augment, and to replace unreadable images by the next one.
        reader: ``''`` or ``'hfds'``.
        class_map: A file of class names, the first for label 0, or json; by default the sorted names of the folders.
        ann_file: A list of images and classes, as :class:`.ListedImages` reads it, in the place of folders of classes;
            below ``data_root`` or absolute. The images are relative to ``data_prefix``.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: str = '',
        transform: dict | None = None,
        is_training: bool = False,
        reader: str = '',
        class_map: str = '',
        ann_file: str = '',
    ) -> None:
        path = data_root.rstrip('/') if reader == 'hfds' else str(Path(data_root) / data_prefix)
        try:
            names = read_class_map(class_map, path) if class_map else {}  # timm would unpickle some
            self.reader: Any
            if ann_file:
                self.reader = ListedImages(Path(data_root) / ann_file, Path(path), names)
            else:
                self.reader = _open_reader(path, reader, data_prefix, names or '')
        except (RuntimeError, AssertionError, ValueError, ImportError, OSError) as error:
            raise UserError(f'The images in {path} cannot be read: {error}') from error
        self.transform = build_transform(is_training, **(transform or {}))
        self.is_training = is_training
        labels = getattr(self.reader, 'class_to_idx', None) or self.reader.class_name_to_idx  # of tar files
        self.metainfo = dict(classes=tuple(sorted(labels, key=labels.get)))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict:
        """Read an image and its label.

        Returns:
            ``inputs``, bytes of (3, H, W); ``labels``, an int; ``broken``, the names of unreadable images, one a line;
            except in training ``names``, that of the image. An unreadable image is replaced by the next one in
            training; otherwise by a black one with the label -1, which metrics leave out.
        """
        image, label, broken = read_first(self.reader, index, MAX_BROKEN_IN_A_ROW if self.is_training else 1)
        if image is None:
            image, label = black_image(), -1
        names = {} if self.is_training else dict(names=str(self.reader.filename(index) or index))
        return dict(inputs=self.transform(image), labels=label, broken='\n'.join(broken), **names)


@DATASETS.register_module()
def TimmShards(  # noqa: N802  # a type in a config
    data_root: str,
    shards: str,
    transform: dict | None = None,
    is_training: bool = False,
    class_map: str = '',
    **settings: Any,
) -> ImageStream:
    """Sequential data set of images in webdataset shards, for data that does not fit a folder (ImageNet-22K).

    Args:
        data_root: The folder or URL that all shards lie below.
        shards: Their names, such as ``'imagenet22k-train-{0000..4095}.tar'``.
        transform: Settings of :func:`build_transform`.
        is_training: Whether to augment and shuffle.
        class_map: A file of class names, the first for label 0, for reports.
        **settings: Of :class:`.ImageStream`: ``shard_lengths``, ``shuffle_buffer``, ``labelled``.
    """
    stream = ImageStream(
        f'{str(data_root).rstrip("/")}/{shards}',
        build_transform(is_training, **(transform or {})),
        shuffle=is_training,
        **settings,
    )
    if class_map:
        labels = read_class_map(class_map)
        stream.metainfo['classes'] = tuple(sorted(labels, key=labels.__getitem__))
    return stream
