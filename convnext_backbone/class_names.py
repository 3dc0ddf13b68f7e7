"""What classes are called, by timm's tables of ImageNet."""


def imagenet_classes(number: int) -> tuple[str, ...]:
    """The names of ImageNet's classes, where there are as many; numbers otherwise."""
    from timm.data import ImageNetInfo

    for subset in ('imagenet-1k', 'imagenet-22k'):
        info = ImageNetInfo(subset)
        if info.num_classes() == number:
            return tuple(info.label_names())
    return tuple(map(str, range(number)))


def describe_class(name: str) -> str:
    """A class as people call it: ImageNet's ``'n01440764'`` becomes ``'tench'``; other names stay as they are."""
    from timm.data import ImageNetInfo

    try:
        return ImageNetInfo('imagenet-22k').label_name_to_description(name).split(',')[0]
    except (KeyError, AssertionError):
        return name
