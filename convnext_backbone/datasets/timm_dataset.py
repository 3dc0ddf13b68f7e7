"""Images and their classes by timm's readers and transforms: folders, tar files, Hugging Face data sets and shards.

Pictures leave the workers as bytes; :class:`.ImagePreprocessor` normalises, erases and mixes them on the device.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from ..utils.errors import ArgumentError, UserError
from ..utils.image_io import decode_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from timm.data.readers.reader import Reader

    from .shard_stream import ImageStream

_MAX_BROKEN_IN_A_ROW = 20  # then the label is -1, at which ClassificationHook stops the run


def build_transform(is_training: bool, **settings: object) -> Callable:
    """The transform of images by timm, up to normalisation.

    Args:
        is_training: Augment.
        **settings: Of ``timm.data.create_transform``: ``input_size``, ``auto_augment``, ``interpolation``,
            ``crop_pct``, ``crop_mode``, ``scale``, ``hflip``, ...

    Returns:
        From a PIL image to bytes, (3, H, W).

    Raises:
        ArgumentError: timm has no such setting.
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
    """Lets timm's RandAugment keep 0 bits of a colour, as at its full strength; Pillow 13 refuses that.

    Args:
        transform: What ``timm.data.create_transform`` made; it is changed in place.

    Returns:
        The same.
    """
    for step in getattr(transform, 'transforms', []):
        for operation in getattr(step, 'ops', []):
            if operation.name.startswith('Posterize'):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: 'Image', bits: int, **settings: object) -> 'Image':
    """Keeps so many bits of each colour; none leaves black, as it did in Pillow 12."""
    from timm.data.auto_augment import posterize

    return posterize(image, bits, **settings) if bits else image.point(lambda value: 0)


def _open_reader(path: str, reader: str, split: str, class_map: str) -> 'Reader':
    """The reader by timm of a folder, of tar files, or of a data set of the Hugging Face Hub or of a local copy."""
    if reader == 'hfds':
        from timm.data.readers.reader_hfds import ReaderHfds

        return ReaderHfds(path, split=split, class_map=class_map)
    if reader:
        raise ArgumentError(f"reader={reader!r} is unknown: '' reads folders and tar files, 'hfds' Hugging Face's.")
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    place = Path(path)
    if not place.exists():
        raise UserError(f'The images are missing: there is no {place.absolute()}; point elsewhere with --data-root.')
    tars = place.suffix == '.tar' or (any(place.glob('*.tar')) and not any(p.is_dir() for p in place.iterdir()))
    return (ReaderImageInTar if tars else ReaderImageFolder)(path, class_map=class_map)


@DATASETS.register_module()
class TimmDataset(Dataset):
    """Labelled images in any order: a folder with a folder for each class, tar files, or a Hugging Face data set.

    Args:
        data_root: The folder of the data set; for ``reader='hfds'`` its name on the Hub or the folder of a copy.
        data_prefix: The part of it: a folder or a tar file of images in folders, a folder of tar files; for
            ``reader='hfds'`` the split.
        transform: Settings of :func:`build_transform`.
        is_training: Augment; take the next image for one that cannot be read.
        reader: ``''`` or ``'hfds'``.
        class_map: A file of class names, the first for label 0; otherwise the sorted names of the folders.

    Raises:
        UserError: There is no such folder, or no image in it.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: str = '',
        transform: dict | None = None,
        is_training: bool = False,
        reader: str = '',
        class_map: str = '',
    ) -> None:
        path = data_root.rstrip('/') if reader == 'hfds' else str(Path(data_root) / data_prefix)
        try:
            self.reader = _open_reader(path, reader, data_prefix, class_map)
        except (RuntimeError, AssertionError, ValueError, ImportError, OSError) as error:
            raise UserError(f'The images in {path} cannot be read: {error}') from error
        self.transform = build_transform(is_training, **(transform or {}))
        self.is_training = is_training
        labels = getattr(self.reader, 'class_to_idx', None) or self.reader.class_name_to_idx  # that of tar files
        names = sorted(labels, key=labels.get)
        self.metainfo = dict(classes=tuple(names))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict:
        """Reads one image.

        Returns:
            ``inputs``, bytes of (3, H, W); ``labels``, an int; ``broken``, the names of images that could not be read,
            one a line. In their place comes the next one in training; else a black one with the label -1, which the
            metrics leave out.
        """
        broken = []
        for place in range(index, index + (min(_MAX_BROKEN_IN_A_ROW, len(self)) if self.is_training else 1)):
            place %= len(self)
            try:
                image, label = self._read(place)
                break
            except Exception as error:  # decoders raise anything: OSError, SyntaxError, zlib.error, struct.error
                broken.append(f'{self.reader.filename(place)} ({type(error).__name__}: {error})'.replace('\n', ' '))
        else:
            image, label = _black(), -1
        return dict(inputs=self.transform(image), labels=label, broken='\n'.join(broken))

    def _read(self, index: int) -> tuple:
        file, label = self.reader[index]
        with file:
            return decode_image(file), label


def _black() -> 'Image':
    from PIL import Image

    return Image.new('RGB', (256, 256))


@DATASETS.register_module()
def TimmShards(  # noqa: N802  # a type in a config
    data_root: str,
    shards: str,
    transform: dict | None = None,
    is_training: bool = False,
    class_map: str = '',
    **settings: object,
) -> 'ImageStream':
    """Labelled images in order, out of webdataset shards: what does not fit a folder, such as ImageNet-22K.

    Args:
        data_root: The folder or the address that all shards lie below.
        shards: Their names, as ``'imagenet22k-train-{0000..4095}.tar'``.
        transform: Settings of :func:`build_transform`.
        is_training: Augment and shuffle.
        class_map: A file of class names, the first for label 0, for reports.
        **settings: Of :class:`.ImageStream`: ``shard_lengths``, ``shuffle_buffer``.
    """
    from .shard_stream import ImageStream

    stream = ImageStream(
        f'{str(data_root).rstrip("/")}/{shards}',
        build_transform(is_training, **(transform or {})),
        shuffle=is_training,
        **settings,
    )
    names = Path(class_map).read_text().splitlines() if class_map else []
    stream.metainfo = dict(classes=tuple(names))
    return stream
