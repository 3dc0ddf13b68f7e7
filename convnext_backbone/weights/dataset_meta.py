"""Class names in a checkpoint, as training runs store them."""

from collections.abc import Mapping

from ..utils.errors import CheckpointError, printable


def dataset_classes(checkpoint: Mapping, source: str) -> tuple[str, ...] | None:
    """The class names that a training run stored, each as :func:`.printable` has it; None if there are none.

    Args:
        checkpoint: What :func:`.read_state` returned.
        source: Path or address, for errors.

    Raises:
        CheckpointError: They are no list of texts.
    """
    meta = checkpoint.get('meta') or {}
    # mmcv 1 stored them in capitals, where mmdet 3 still finds them.
    stored = meta.get('dataset_meta') or {'classes': meta.get('CLASSES')}
    names = stored.get('classes') if isinstance(stored, Mapping) else stored
    if names is None or (isinstance(names, (list, tuple)) and not names):
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f'The checkpoint {printable(source)} has meta.dataset_meta.classes={printable(repr(names))}, which is no '
            f'list of names: save it again with the names of its classes, or without meta.'
        )
    return tuple(map(printable, names))
