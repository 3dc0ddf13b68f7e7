"""Unreadable images: each is logged and counted, and too many stop a run."""

from collections import defaultdict
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.errors import UserError
from ..utils.validation import PART


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Logs and counts the images that a data set of this package could not read, and names in ``broken``.

    Others may lack that.

    Args:
        max_broken: The fraction of a data set that may be unreadable; one image always may.

    Raises:
        UserError: Too many images are unreadable.
    """

    def __init__(self, max_broken: float = 0.01) -> None:
        PART.check('max_broken', max_broken)
        self._max_broken = max_broken
        self._broken: dict[str, set[str]] = defaultdict(set)  # by mode, as the data sets differ in size

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        """Count the unreadable images."""
        size, broken = len(getattr(runner, f'{mode}_dataloader').dataset), self._broken[mode]
        new = {name for names in data_batch.get('broken', ()) if names for name in names.split('\n')} - broken
        for name in sorted(new):
            broken.add(name)
            runner.logger.warning(f'The image {name} cannot be read and is skipped ({len(broken)} so far).')
        allowed = max(1, int(self._max_broken * size))
        labels = data_batch.get('labels')
        none_instead = mode == 'train' and labels is not None and bool((labels < 0).any())
        if len(broken) > allowed or none_instead:
            raise UserError(
                f'{len(broken)} images cannot be read, the last of them {max(broken)}; {allowed} of {size} may be: fix '
                f'the data (the log names them), or set max_broken of {type(self).__name__}.'
            )
