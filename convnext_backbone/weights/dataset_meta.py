"""Class names and colours in a checkpoint, as training runs store them."""

from collections.abc import Mapping
from typing import Any

from ..utils.errors import CheckpointError, printable
from ..utils.validation import integers

_COLOUR = integers(0, 255)


def dataset_meta(checkpoint: Mapping, source: str) -> dict[str, Any]:
    """The ``classes`` and the ``palette`` that a training run stored; each only if the checkpoint has it.

    Names are as :func:`.printable` has them. A palette that is not one colour for each class is left out: it changes no
    result.

    Args:
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.

    Raises:
        CheckpointError: The classes are no list of texts.
    """
    meta = checkpoint.get('meta') or {}
    # mmcv 1 stored them in capitals, where mmdet 3 still finds them.
    stored = meta.get('dataset_meta') or {key.lower(): meta.get(key) for key in ('CLASSES', 'PALETTE')}
    names = stored.get('classes') if isinstance(stored, Mapping) else stored
    listed = isinstance(stored, Mapping) and isinstance(names, (list, tuple))
    if names is None or (listed and not names):
        return {}
    if not listed or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f'The checkpoint {printable(source)} has meta.dataset_meta.classes={printable(repr(names))}, which is no '
            f'list of names: save it again with the names of its classes, or without meta.'
        )
    classes, palette = tuple(map(printable, names)), stored.get('palette')
    fits = isinstance(palette, (list, tuple)) and len(palette) >= len(classes) and all(map(_is_colour, palette))
    return dict(classes=classes, palette=palette) if fits else dict(classes=classes)


def dataset_classes(checkpoint: Mapping, source: str) -> tuple[str, ...] | None:
    """The classes of :func:`dataset_meta`; None if there are none."""
    return dataset_meta(checkpoint, source).get('classes')


def _is_colour(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_COLOUR.fits, value))
