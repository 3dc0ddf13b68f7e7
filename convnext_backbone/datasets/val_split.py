"""Validation images drawn from a set that has none: reproducible, by image, each class in proportion."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

from ..utils.errors import UserError, printable
from ..utils.validation import numbers

DEFAULT_PART = 0.2
_PART = numbers(lambda value: 0 < value < 1, 'between 0 and 1')
_SEED = 0
_NONE = frozenset([object()])  # the class of images without one; the id of a class may be None


def draw_validation(classes: Mapping[str, Collection[Hashable]], part: float | None = None) -> set[str]:
    """Draw the images that a set is validated on.

    The order in which images are drawn is that of a hash of their names, so that neither the order of the files nor
    the machine matters. Classes come in turn, the rarest first, as in iterative stratification (Sechidis et al., 2011):
    an image with several classes counts for all of them. What rounding leaves over or short is made up for by the next
    class, and the last image of a class is trained on. Roboflow's augmented copies of one image stay together.

    Args:
        classes: The classes that are seen in each image, by its name; none where that is unknown.
        part: The part of the images that is drawn; by default :data:`DEFAULT_PART`.

    Returns:
        Their names: one at least, not all.

    Raises:
        ArgumentError: ``part`` is not between 0 and 1.
        UserError: There are fewer than two images.
    """
    part = DEFAULT_PART if part is None else part
    _PART.check('--val-split', part)
    copies = defaultdict(list)
    for name in classes:
        copies[re.sub(r'\.rf\.\w+(?=\.\w+$)', '', name)].append(name)
    if len(copies) < 2:
        raise UserError(f'{len(copies)} image cannot be split into training and validation: add images.')
    order = sorted(copies, key=lambda name: hashlib.sha256(f'{_SEED}/{name}'.encode(errors='replace')).digest())
    seen = {name: frozenset(label for copy in copies[name] for label in classes[copy]) for name in order}
    drawn = _draw(seen, part) or {order[0]}
    return {copy for name in drawn for copy in copies[name]}


def describe_draw(drawn: int, total: int, part: float | None, path: Path) -> str:
    """Say that so many images were drawn, and where they are listed."""
    return (
        f'there are no images to validate on: {drawn} of {total} are drawn (--val-split '
        f'{DEFAULT_PART if part is None else part}) and listed in {path}'
    )


def refuse_draw(root: Path, number: int) -> UserError:
    """The error for a folder with images to validate on, where a draw was asked for."""
    return UserError(
        f'--val-split would draw images to validate on, but {printable(root)} has {number}: leave one of them out.'
    )


def _draw(classes: dict[str, frozenset[Hashable]], part: float) -> set[str]:
    """The images to validate on, of those in the order of drawing, with their classes."""
    classes = {name: seen or _NONE for name, seen in classes.items()}
    images = defaultdict(list)  # by class
    for name, seen in classes.items():
        for label in seen:
            images[label].append(name)
    drawn: set[str] = set()
    decided: set[str] = set()
    left = Counter({label: len(names) for label, names in images.items()})
    while len(decided) < len(classes):
        # Images without a class come last. Ties go by the first image, as labels have no order.
        label = min(filter(left.get, left), key=lambda one: (one in _NONE, left[one], images[one]))
        open_images = [name for name in images[label] if name not in decided]
        trained = any(name in decided and name not in drawn for name in images[label])
        lacking = part * len(images[label]) - sum(name in drawn for name in images[label])
        lacking += min(0.5, max(-0.5, part * len(decided) - len(drawn)))  # what rounding did before
        number = round(min(max(lacking, 0), len(open_images) - (not trained)))
        drawn.update(open_images[:number])
        decided.update(open_images)
        for name in open_images:
            left.subtract(classes[name])
    return drawn
