"""Segmentation sets in the layouts that users have, out of one in mmsegmentation's: images, masks, and what names them.

Each function takes the folder of the source (``img_dir/{train,val}``, ``ann_dir/{train,val}``), an empty folder to
fill, and how many images of each split to take. Masks of the source hold ids from 0, and 255 for void.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CAMVID = {
    'Sky': (128, 128, 128),
    'Building': (128, 0, 0),
    'Pole': (192, 192, 128),
    'Road': (128, 64, 128),
    'Sidewalk': (0, 0, 192),
    'Tree': (128, 128, 0),
    'Sign': (192, 128, 128),
    'Fence': (64, 64, 128),
    'Car': (64, 0, 128),
    'Pedestrian': (64, 64, 0),
    'Bicyclist': (0, 128, 192),
}
VOID = (0, 0, 0)


def read(source: Path, split: str, number: int | None = None) -> list[tuple[Path, np.ndarray]]:
    """Images of a split and the ids of their masks."""
    images = sorted((source / 'img_dir' / split).iterdir())[:number]
    return [(image, np.array(Image.open(source / 'ann_dir' / split / f'{image.stem}.png'))) for image in images]


def colored(
    ids: np.ndarray, colors: Sequence[Sequence[int]] = tuple(CAMVID.values()), void: Sequence[int] = VOID
) -> Image.Image:
    """A mask in colours."""
    table = np.zeros((256, 3), np.uint8)
    table[:] = void
    table[: len(colors)] = colors
    return Image.fromarray(table[ids])


def copy(image: Path, place: Path) -> None:
    """An image under another name; a hard link would let what is saved over it change the source."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, place)


def save(mask: Image.Image | np.ndarray, place: Path) -> None:
    """A mask as a file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(place)


def write(
    source: Path,
    out: Path,
    number: int | None,
    image_name: str,
    mask_name: str,
    paint: Callable[[np.ndarray], Image.Image | np.ndarray] = lambda ids: ids,
    splits: dict[str, str] | None = None,
) -> dict[str, list[str]]:
    """Any layout: names with ``{split}`` and ``{stem}``; returns the stems of each split by its name there."""
    stems = {}
    for split, named in (splits or {'train': 'train', 'val': 'val'}).items():
        stems[named] = []
        for image, ids in read(source, split, number):
            words = dict(split=named, stem=image.stem)
            copy(image, out / image_name.format(**words))
            save(paint(ids), out / mask_name.format(**words))
            stems[named].append(image.stem)
    return stems


def palette_png(ids: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """A mask of ids with a palette."""
    image = Image.fromarray(ids, 'P')
    image.putpalette(bytes(value for color in colors for value in color))
    return image


def camvid_in_colors(source: Path, out: Path, number: int | None = None) -> None:
    """CamVid as most of its copies come: train, train_labels, ..., masks ``x_L.png`` in colours, ``class_dict.csv``."""
    write(source, out, number, '{split}/{stem}.jpg', '{split}_labels/{stem}_L.png', colored)
    rows = [f'{name},{red},{green},{blue}' for name, (red, green, blue) in {**CAMVID, 'Void': VOID}.items()]
    (out / 'class_dict.csv').write_text('\n'.join(['name,r,g,b', *rows, '']))


def camvid_of_segnet(source: Path, out: Path, number: int | None = None) -> None:
    """CamVid of SegNet's authors: train, trainannot, ..., ids 0 to 10, and 11 for void."""
    write(
        source,
        out,
        number,
        '{split}/{stem}.jpg',
        '{split}annot/{stem}.png',
        lambda ids: np.where(ids == 255, 11, ids).astype(np.uint8),
    )


def cvat(source: Path, out: Path, number: int | None = None) -> None:
    """CVAT's segmentation masks: VOC's folders, masks in colours, ``labelmap.txt``, one list of all images."""
    stems = write(source, out, number, 'JPEGImages/{stem}.jpg', 'SegmentationClass/{stem}.png', colored)
    write(source, out, number, 'SegmentationObject/{stem}.png', 'SegmentationObject/{stem}.png', colored)
    rows = [f'{name}:{",".join(map(str, color))}::' for name, color in {'void': VOID, **CAMVID}.items()]
    (out / 'labelmap.txt').write_text('\n'.join(['# label:color_rgb:parts:actions', *rows, '']))
    lists = out / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    (lists / 'default.txt').write_text('\n'.join(stem for split in stems.values() for stem in split))


def voc(source: Path, out: Path, number: int | None = None) -> None:
    """Pascal VOC's folders, as labelme writes them: palette masks, ``class_names.txt``, a list of each split."""
    colors = [*CAMVID.values(), *[VOID] * 244, (224, 224, 192)]
    stems = write(
        source,
        out,
        number,
        'JPEGImages/{stem}.jpg',
        'SegmentationClass/{stem}.png',
        lambda ids: palette_png(ids, colors),
    )
    write(source, out, number, 'JPEGImages/unused_{stem}.jpg', 'SegmentationClassVisualization/{stem}.png', colored)
    (out / 'class_names.txt').write_text('\n'.join(CAMVID))
    (out / 'ImageSets/Segmentation').mkdir(parents=True)
    for split, names in stems.items():
        (out / f'ImageSets/Segmentation/{split}.txt').write_text('\n'.join(names) + '\n')


def roboflow(source: Path, out: Path, number: int | None = None) -> None:
    """Roboflow's semantic masks: beside the images, the ids in a table of each split."""
    splits = {'train': 'train', 'val': 'valid'}
    void_first = lambda ids: (ids + 1).astype(np.uint8)  # noqa: E731  # 255 becomes 0
    write(
        source, out, number, '{split}/{stem}_png.rf.1f0a.jpg', '{split}/{stem}_png.rf.1f0a_mask.png', void_first, splits
    )
    rows = [f'{i}, {name}' for i, name in enumerate(['unlabeled', *CAMVID])]
    for split in splits.values():
        (out / split / '_classes.csv').write_text('\n'.join(['Pixel Value, Class', *rows]))


def ade20k(source: Path, out: Path, number: int | None = None) -> None:
    """ADE20K's folders: 0 is void, 1 the first class."""
    splits = {'train': 'training', 'val': 'validation'}
    write(
        source, out, number, 'images/{split}/{stem}.jpg', 'annotations/{split}/{stem}.png',
        lambda ids: (ids + 1).astype(np.uint8), splits,
    )  # fmt: skip


CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23)  # of its first classes in labelIds


def cityscapes(
    source: Path, out: Path, number: int | None = None, kinds: Sequence[str] = ('labelTrainIds', 'labelIds', 'color')
) -> None:
    """Cityscapes' folders of cities; the source's classes stand for the first ones of its 19."""
    import mmseg.datasets

    colors = mmseg.datasets.CityscapesDataset.METAINFO['palette']
    table = np.zeros(256, np.uint8)
    table[: len(CITY_IDS)] = CITY_IDS
    paint = {
        'labelTrainIds': lambda ids: ids,
        'labelIds': lambda ids: table[ids],
        'color': lambda ids: colored(ids, colors),
    }
    for kind in kinds:
        write(
            source, out, number, 'leftImg8bit/{split}/ulm/ulm_{stem}_leftImg8bit.png',
            'gtFine/{split}/ulm/ulm_{stem}_gtFine_' + kind + '.png', paint[kind],
        )  # fmt: skip
        void = {'labelTrainIds': 255, 'labelIds': 1, 'color': (0, 0, 0)}[kind]  # masks of the test set
        save(np.full((4, 4, 3), 7, np.uint8), out / 'leftImg8bit/test/berlin/berlin_0_leftImg8bit.png')
        mask = np.zeros((4, 4, 3) if kind == 'color' else (4, 4), np.uint8) + np.uint8(void)
        save(mask, out / f'gtFine/test/berlin/berlin_0_gtFine_{kind}.png')
    for split in ('train', 'val'):
        for mask in (out / 'gtFine' / split / 'ulm').glob(f'*{kinds[0]}.png'):
            save(np.full((4, 4), 26001, np.uint16), mask.with_name(mask.name.replace(kinds[0], 'instanceIds')))
