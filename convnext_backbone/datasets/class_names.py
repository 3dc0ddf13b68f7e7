"""What classes are called, by timm's tables of ImageNet."""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timm.data import ImageNetInfo


@functools.cache  # it takes 40 ms to read, and a report asks for each of its classes
def _imagenet(subset: str) -> 'ImageNetInfo':
    from timm.data import ImageNetInfo

    return ImageNetInfo(subset)


def imagenet_classes(number: int) -> tuple[str, ...]:
    """The names of ImageNet's classes, where there are as many; numbers otherwise."""
    for subset in ('imagenet-1k', 'imagenet-22k'):
        info = _imagenet(subset)
        if info.num_classes() == number:
            return tuple(info.label_names())
    return tuple(map(str, range(number)))


def describe_class(name: str) -> str:
    """A class as people call it: ImageNet's ``'n01440764'`` becomes ``'tench'``; other names stay as they are."""
    try:
        return _imagenet('imagenet-22k').label_name_to_description(name).split(',')[0]
    except (KeyError, AssertionError):
        return name
