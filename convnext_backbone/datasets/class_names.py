"""ImageNet's class names, from timm's tables."""

import functools
from typing import Any


@functools.cache  # reading a table takes 40 ms
def _imagenet(subset: str) -> Any:
    from timm.data import ImageNetInfo

    return ImageNetInfo(subset)


def imagenet_classes(number: int) -> tuple[str, ...]:
    """Class names of the ImageNet subset with this number of classes; without one, the numbers from 0."""
    for subset in ('imagenet-1k', 'imagenet-22k'):
        info = _imagenet(subset)
        if info.num_classes() == number:
            return tuple(info.label_names())
    return tuple(map(str, range(number)))


def describe_class(name: str) -> str:
    """Convert an ImageNet id to its English name, ``'n01440764'`` to ``'tench'``; other names stay unchanged."""
    try:
        return _imagenet('imagenet-22k').label_name_to_description(name).split(',')[0]
    except (KeyError, AssertionError):
        return name
