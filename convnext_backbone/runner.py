"""mmengine's Runner, with a resume that continues exactly where a run was cut off."""

import re
from collections.abc import Iterator

from mmengine.dataset import InfiniteSampler
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import nn

from .checkpoint import mismatch_sentence
from .convnext import ConvNeXt
from .errors import CheckpointError, CheckpointMismatch
from .replay import IterationSeedHook, ReplayLoader

_REVISE_KEYS = [(r'^module\.', '')]  # as in mmengine: the prefix of data-parallel wrappers


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """``runner_type='ResumableRunner'``: the Runner, safe to kill at any moment.

    A run that is stopped and resumed gives the weights of an undisturbed one, bit for bit on the CPU, from checkpoints
    in the middle of an epoch too. (mmengine starts the epoch over, forgets every generator's state, and an
    iteration-based loop loads all the images again that it has already seen.)
    """

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Builds the training loop around a repeatable data loader."""
        if not isinstance(loop, BaseLoop):
            loader = self.build_dataloader(
                self._train_dataloader,
                seed=self.seed,
                diff_rank_seed=self._randomness_cfg.get('diff_rank_seed', False),
            )
            # Iterable datasets have no positions to seed by.
            self._train_dataloader = (
                ReplayLoader.wrap(loader, self.seed) if loader.batch_sampler is not None else loader
            )
        return super().build_train_loop(loop)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Registers the default hooks, with checkpoints that a kill cannot damage."""
        hooks = dict(hooks or {})
        checkpoint = dict(hooks.get('checkpoint') or dict(type='CheckpointHook', interval=1))
        if checkpoint['type'] == 'CheckpointHook':
            checkpoint['type'] = 'AtomicCheckpointHook'
        super().register_default_hooks({**hooks, 'checkpoint': checkpoint})

    def train(self) -> nn.Module:
        """Trains, each iteration seeded by its number."""
        self.register_hook(IterationSeedHook(), priority='VERY_HIGH')
        return super().train()

    def load_checkpoint(
        self, filename: str, map_location: object = 'cpu', strict: bool = False, revise_keys: list = _REVISE_KEYS
    ) -> dict:
        """Loads the model's weights.

        For a test or a resume they must fit it to the last tensor. ``load_from`` of a training run may take a part of a
        checkpoint, the other heads of another data set for instance, but never a part of a backbone.

        Raises:
            CheckpointMismatch: They do not fit.
            CheckpointError: There is nothing in it to resume.
        """
        strict = strict or self._resume or not isinstance(self._train_loop, BaseLoop)
        try:
            checkpoint = super().load_checkpoint(filename, map_location, strict, revise_keys)
        except RuntimeError as error:
            if not strict:
                raise
            raise CheckpointMismatch(mismatch_sentence(filename, error)) from error
        if self._resume and not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
            raise CheckpointError(
                f'The checkpoint {filename} holds weights and no training state to resume: start a new run from them '
                f'with --cfg-options load_from={filename}.'
            )
        if not strict:
            self._check_backbones(checkpoint.get('state_dict', checkpoint), filename, revise_keys)
        return checkpoint

    def _check_backbones(self, state: dict, filename: str, revise_keys: list) -> None:
        """Makes sure that a checkpoint holds the backbones of the model whole."""
        shapes = {}
        for name, value in state.items():
            for pattern, replacement in revise_keys:
                name = re.sub(pattern, replacement, name)
            shapes[name] = getattr(value, 'shape', None)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        for where, backbone in model.named_modules():
            if not isinstance(backbone, ConvNeXt):
                continue
            own = backbone.state_dict(prefix=f'{where}.' if where else '')
            lacking = [name for name, tensor in own.items() if shapes.get(name) != tensor.shape]
            if lacking:
                raise CheckpointMismatch(
                    f'The checkpoint {filename} does not fill the backbone of the config, {len(lacking)} of its '
                    f'{len(own)} tensors are missing or of another shape ({", ".join(lacking[:3])}, ...): use the '
                    f'config that it was trained with, or name it in init_cfg of the backbone, which knows all names.'
                )

    def resume(self, filename: str, *args: object, **kwargs: object) -> None:
        """Resumes from a checkpoint and tells the data loader where to go on."""
        super().resume(filename, *args, **kwargs)
        loader = self.train_dataloader
        if not isinstance(loader, ReplayLoader):
            return
        batches = loader.batch_sampler
        batches.seed = self.seed  # of the checkpoint, where the config names none
        if hasattr(batches.sampler, 'seed'):
            batches.sampler.seed = self.seed
        if not isinstance(self.train_loop, IterBasedTrainLoop):
            batches.start_at(self.iter - self.epoch * len(loader))
            return
        if isinstance(batches.sampler, InfiniteSampler):
            batches.start_at(self.iter)
        else:
            epoch, batch = divmod(self.iter, len(loader))
            batches.start_at(batch, epoch)
            self.train_loop.dataloader_iterator._epoch = epoch
        self.train_loop.dataloader_iterator = _Advanced(self.train_loop.dataloader_iterator, self.iter)


class _Advanced:
    """The iterator of an iteration-based loop, at the place already to which the loop will advance it.

    mmengine advances it by taking batches, onedl-mmengine by ``skip_iter``.
    """

    def __init__(self, iterator: Iterator, steps: int) -> None:
        self._iterator, self._idle = iterator, steps

    def __next__(self) -> object:
        if self._idle:
            self._idle -= 1
            return None
        return next(self._iterator)

    def skip_iter(self, steps: int) -> None:
        self._idle -= steps
