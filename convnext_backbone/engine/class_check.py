"""Whether the classes of a checkpoint are those of the data."""

import itertools
import re
from typing import Any

from ..datasets.class_names import describe_class
from ..utils.errors import CheckpointMismatch, printable
from ..weights.dataset_meta import dataset_classes

_IMAGENET_ID = re.compile(r'n\d{8}')


def check_classes(checkpoint: dict, source: str, dataset: Any) -> None:
    """Compare the classes that a checkpoint names with those of a data set, which it is to be tested or trained on.

    Args:
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.
        dataset: With ``metainfo``, as in mmengine. Where it or the checkpoint names no classes there is no comparison.

    Raises:
        CheckpointMismatch: They are others, or in another order; the text names the first difference.
    """
    theirs = [*(dataset_classes(checkpoint, source) or ())]
    meta = getattr(dataset, 'metainfo', None) or {}
    ours = [printable(str(name)) for name in meta.get('classes') or ()]
    if not theirs or not ours:
        return
    if len({bool(_IMAGENET_ID.fullmatch(names[0])) for names in (theirs, ours)}) > 1:  # ImageNet by ids, and by names
        theirs, ours = ([describe_class(name).split(',')[0] for name in names] for names in (theirs, ours))
    for number, (one, other) in enumerate(itertools.zip_longest(theirs, ours)):
        if one != other:
            raise CheckpointMismatch(
                f'The checkpoint {printable(source)} was trained on other classes than those of the data: number '
                f'{number} is {one!r} in the checkpoint and {other!r} in the data ({len(theirs)} and {len(ours)} in '
                f'all). Name the classes of the data in the order of the checkpoint (metainfo.classes, or a class_map '
                f'for folders), use the data that it was trained on, or train on this data from its weights with '
                f'load_from.'
            )
