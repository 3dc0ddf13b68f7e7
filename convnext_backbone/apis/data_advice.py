"""Recommendations that follow from what data holds: scale, crop, classes to weight."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..datasets.object_statistics import ObjectStatistics
from ..datasets.samples import SplitStatistics
from ..utils.errors import shorten

_SCALE, _CROP, _INPUT = (1333, 800), 512, 224  # of the recipes for detection, segmentation and classification
_TINY = 16  # pixels of a side of an object, of which its finest map, stride 4, keeps four
_RARE = 0.1  # of the median class
_LONG = 4  # aspect ratio


def give_advice(task: str | None, numbers: Mapping[str, dict], splits: Mapping[str, SplitStatistics]) -> list[str]:
    """Recommend settings.

    Args:
        task: One of :data:`.TASKS`.
        numbers: What the splits sum up to.
        splits: Their statistics.
    """
    train = numbers.get('train')
    if not train or not train['sizes'].get('median'):
        return []
    if task == 'detection':
        return [*_scale_objects(train, cast(ObjectStatistics, splits['train'])), *_repeat_classes(train)]
    if task == 'segmentation':
        return [*_crop_masks(train), *_weigh_pixels(train)]
    return [*_resize_images(train), *_name_rare(train)]


def _scale_objects(train: Mapping[str, Any], data: ObjectStatistics) -> list[str]:
    sides, native = data.sides(_SCALE), data.sides((10**9, 10**9))
    if not len(sides):
        return []
    width, height = train['sizes']['median']
    tiny = float((sides < _TINY).mean())
    lines = [
        f"Scale: at the recipe's {_SCALE} an object has sides of {np.median(sides):.0f} pixels (median), and "
        f'{tiny:.0%} are below {_TINY}.'
    ]
    shrunk = max(width, height) > 1.5 * _SCALE[0]
    if tiny > 0.2 and shrunk:
        lines.append(
            f'The images, {width} x {height} in the median, are made smaller for that, and small objects are lost: '
            f'train on crops in full size (RandomCrop of {_SCALE[::-1]} in the place of the resize), and predict with '
            f'--tile {_SCALE[0]}.'
        )
    elif tiny > 0.2:
        factor = min(2.0, max(1.2, _TINY / float(np.percentile(sides, 20))))
        larger = tuple(round(side * factor / 32) * 32 for side in _SCALE)
        lines.append(
            f'Many objects are small: a larger scale, such as {larger}, lets them be seen, at the cost of time.'
        )
    elif max(width, height) < _SCALE[0] / 3 and np.median(native) > 2 * _TINY:
        lines.append(
            f'The images are small, {width} x {height} in the median: a scale of about twice their size, '
            f'{(2 * max(width, height), 2 * min(width, height))}, is enough and much faster.'
        )
    ratios = train['aspect_ratios']
    if ratios['high'] and (ratios['high'] > _LONG or ratios['low'] < 1 / _LONG):
        lines.append(
            f'Anchors: 5 % of the boxes are wider than {ratios["high"]:.1f} or narrower than {ratios["low"]:.2f} times '
            f'their height, and the anchors end at 2 and 0.5: add to model.rpn_head.anchor_generator.ratios.'
        )
    return lines


def _repeat_classes(train: Mapping[str, Any]) -> list[str]:
    images = {name: one['images'] for name, one in train['classes'].items()}
    rare = _find_rare(images)
    if not rare:
        return []
    part = float(f'{2 * images[rare[-1]] / train["images"]:.1g}')
    return [
        f'Rare classes, {shorten(rare)}, are in less than a tenth as many images as the median class: repeat their '
        f'images by type="ClassBalancedDataset", oversample_thr={part} around the training data, or collect more.'
    ]


def _find_rare(counts: Mapping[str, float]) -> list[str]:
    """The classes that are there, but far less often than the median one."""
    present = {name: number for name, number in counts.items() if number}
    median = float(np.median([*present.values()])) if present else 0
    return sorted((name for name in present if present[name] < _RARE * median), key=lambda name: present[name])


def _crop_masks(train: Mapping[str, Any]) -> list[str]:
    width, height = train['sizes']['median']
    short = min(width, height)
    if short < _CROP:
        size = max(32, short // 32 * 32)
        return [
            f'Crop: images of {width} x {height} (median) are enlarged by the recipe, which crops {_CROP} x {_CROP} '
            f'of 2048 x 512: crop_size=({size}, {size}) and a scale of ({max(width, height)}, {short}) keep their '
            f'resolution and are faster.'
        ]
    if short > 3 * _CROP:
        return [
            f'Crop: images of {width} x {height} (median) are made smaller to 2048 x 512: a scale of ({4 * _CROP}, '
            f'{2 * _CROP}) with crop_size=({2 * _CROP}, {2 * _CROP}) keeps more of fine classes.'
        ]
    return [f"Crop: the recipe's {_CROP} x {_CROP} fits images of {width} x {height} (median)."]


def _weigh_pixels(train: Mapping[str, Any]) -> list[str]:
    shares = {name: one['share'] for name, one in train['classes'].items()}
    rare = _find_rare(shares)
    if not rare:
        return []
    median = float(np.median([share for share in shares.values() if share]))
    weights = [round(min(4.0, max(0.5, (median / share) ** 0.5)), 2) if share else 1.0 for share in shares.values()]
    listed = f'class_weight={weights}' if len(weights) <= 40 else 'class_weight'
    return [
        f'Rare classes, {shorten(rare)}, have less than a tenth of the pixels of the median class. If they matter, '
        f'weigh them in loss_decode of both heads by the root of median / share, from 0.5 to 4: {listed}.'
    ]


def _resize_images(train: Mapping[str, Any]) -> list[str]:
    short = min(train['sizes']['median'])
    if short < 0.75 * _INPUT:
        return [
            f'Scale: images have a short side of {short} pixels (median) and are enlarged to {_INPUT}: a smaller '
            f'input_size is faster and loses nothing.'
        ]
    more = ' or 384' if short >= 384 else ''
    return [f'Scale: an input of {_INPUT}{more} fits images with a short side of {short} pixels (median).']


def _name_rare(train: Mapping[str, Any]) -> list[str]:
    rare = _find_rare({name: one['images'] for name, one in train['classes'].items()})
    if not rare:
        return []
    return [
        f'Rare classes, {shorten(rare)}, have less than a tenth of the images of the median class: collect more, and '
        f'look at the recall of each class beside the accuracy.'
    ]
