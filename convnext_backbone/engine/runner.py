"""mmengine's Runner with deterministic resume."""

from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process, master_only
from mmengine.model import BaseModule
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, CheckpointLoader, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ..datasets.image_loading import guard_image_loading
from ..datasets.seeded_loader import SeededLoader
from ..datasets.shard_stream import ImageStream
from ..models.classifier import ImageClassifier
from ..utils.errors import ArgumentError
from ..utils.files import write_atomically
from ..weights.load import fill_backbone
from ..weights.load_model import REVISE_KEYS, load_model
from .accumulation import batches_per_step, set_accumulation, set_epoch_length
from .class_check import check_classes
from .class_weight import ClassWeightHook
from .ema import refuse_average
from .fsdp import WRAPPER, is_sharded, shard, unwrap_model, use_full_optimizer_state
from .label_check import LabelCheckHook
from .preemption import PreemptionHook, SigtermShield, postponed_interrupt
from .resume import LateValidationHook, count_images, set_place, skip_seen_batches
from .schedules import refuse_endless_warm_ups, resume_schedules
from .seed import IterationSeedHook
from .training_state import check_training_state, load_optimizer_state
from .transfer import start_from
from .validation import ValidationCheckHook


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """``runner_type='ResumableRunner'``: mmengine's Runner, safe to kill at any moment.

    A resumed run ends with the weights of an uninterrupted one, bit for bit on the CPU, also from a checkpoint within
    an epoch. (mmengine repeats that epoch, draws other random numbers, and loads images only to skip them.)

    ``optim_wrapper.accumulative_counts='auto'`` accumulates gradients over as many batches as make an optimizer step
    of ``auto_scale_lr.base_batch_size`` images, whatever the number of processes.
    """

    _train_dataloader: Any
    optim_wrapper: Any
    param_schedulers: Any

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment, with gloo between processes that have no GPU, which mmengine does not support.

        ``env_cfg.float32_matmul_precision`` is that of torch: ``'high'`` computes products of fp32 in TF32 on a GPU.

        Raises:
            ArgumentError: It is none of torch's.
        """
        precision = env_cfg.get('float32_matmul_precision', torch.get_float32_matmul_precision())
        if precision not in ('highest', 'high', 'medium'):
            raise ArgumentError(
                f"env_cfg.float32_matmul_precision={precision!r} is not known: choose 'highest', 'high' or 'medium'."
            )
        torch.set_float32_matmul_precision(precision)
        if self._launcher == 'pytorch' and get_device() == 'cpu' and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        """Set the seed, and store a random one in the config, so that the dumped config repeats the run."""
        super().set_randomness(seed, diff_rank_seed, deterministic)
        self.cfg.randomness = {**self._randomness_cfg, 'seed': self.seed}

    @master_only
    def dump_config(self) -> None:
        """Write the config to the work_dir, atomically; a link there is replaced."""
        name = Path(self.cfg.filename or f'{self.timestamp}.py').name
        write_atomically(self.cfg.dump().encode('utf-8', 'backslashreplace'), Path(self.work_dir) / name)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: BaseModule) -> nn.Module:
        """Wrap the model for distributed training, or shard it; mmengine's default wrapper needs a GPU."""
        if self.distributed and model_wrapper_cfg == dict(type=WRAPPER):
            if get_device() == 'cpu' and not hasattr(torch.cpu.Stream, 'record_event'):  # as in torch 2.6
                raise ArgumentError(
                    f'model_wrapper_cfg.type={WRAPPER!r} does not work on the CPU with torch {torch.__version__}: take '
                    f'a newer torch, or leave it out.'
                )
            model.init_weights()  # before sharding: initializers and checkpoints need full tensors
            return shard(model.to(get_device()))
        if self.distributed and model_wrapper_cfg is None and get_device() == 'cpu':
            unused = self.cfg.get('find_unused_parameters', False)
            model_wrapper_cfg = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=unused)
        return super().wrap_model(model_wrapper_cfg, model)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register the default hooks, with atomic checkpoints and schedules that count optimizer steps."""
        hooks = dict(hooks or {})
        for name, default, replacement in (
            ('checkpoint', dict(type='CheckpointHook', interval=1), 'AtomicCheckpointHook'),
            ('param_scheduler', dict(type='ParamSchedulerHook'), 'StepSchedulerHook'),
        ):
            hook = dict(hooks.get(name) or default)
            hooks[name] = {**hook, 'type': replacement} if hook['type'] == default['type'] else hook
        super().register_default_hooks(hooks)
        for check in (LabelCheckHook(), ClassWeightHook(), ValidationCheckHook()):
            self.register_hook(check)

    def train(self) -> nn.Module:
        """Train until the end, or until SIGTERM."""
        for hook in (IterationSeedHook(), PreemptionHook(), LateValidationHook()):
            self.register_hook(hook)
        return super().train()

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop around a data loader that can resume at any batch."""
        if isinstance(loop, BaseLoop):
            return loop
        batch_size = self._train_dataloader['batch_size']
        self._images_per_batch = self.world_size * batch_size
        if isinstance(self.optim_wrapper, dict):
            scaling = self.auto_scale_lr or {}
            step = set_accumulation(self.optim_wrapper, scaling, batch_size, self.world_size, self.logger)
        else:
            step = batches_per_step(self.optim_wrapper)
        diff_rank_seed = self._randomness_cfg.get('diff_rank_seed', False)
        loader = self.build_dataloader(self._train_dataloader, self.seed, diff_rank_seed)
        if not isinstance(loader.dataset, IterableDataset):
            loader = SeededLoader.wrap(loader, self.seed, step)
        elif isinstance(loader.dataset, ImageStream):
            if not loop.get('by_epoch', loop.get('type') == 'EpochBasedTrainLoop'):
                raise ArgumentError('A stream of data is trained on by epochs: set train_cfg.by_epoch=True.')
            loader.dataset.set_batch_size(batch_size, loader.drop_last, step)
        self._train_dataloader = loader
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a data loader that decodes images as :func:`.guard_image_loading` has it."""
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        guard_image_loading(loader.dataset)
        loader.worker_init_fn = SigtermShield(loader.worker_init_fn)
        if isinstance(loader.dataset, ImageStream):
            loader.dataset.set_batch_size(loader.batch_size, loader.drop_last)
        return loader

    def build_optim_wrapper(self, optim_wrapper: BaseOptimWrapper | dict) -> BaseOptimWrapper:
        """Build the optimizer; that of a sharded model has full state dicts."""
        built = super().build_optim_wrapper(optim_wrapper)
        if is_sharded(self.model) and built is not optim_wrapper:
            use_full_optimizer_state(built.optimizer)
        return built

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules; in training by epochs, an epoch has as many steps as the optimizer makes.

        Raises:
            ArgumentError: A warm-up would never end.
        """
        if not isinstance(self.train_loop, IterBasedTrainLoop):
            steps = len(self.train_dataloader) // batches_per_step(self.optim_wrapper)
            scheduler = set_epoch_length(scheduler, steps)
        built = super().build_param_scheduler(scheduler)
        refuse_endless_warm_ups(built)
        return built

    def _init_model_weights(self) -> None:
        if not is_sharded(self.model):
            super()._init_model_weights()

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool = False, revise_keys: list = REVISE_KEYS
    ) -> dict:
        """Load the model's weights: strictly for a test or a resume.

        ``load_from`` of a training run may be of other classes than the data, as of :func:`.start_from`.

        Raises:
            CheckpointMismatch: The weights do not fit, or the classes are others than those of the data.
            CheckpointError: There is no training state to resume.
        """
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, logger='current')
        model = unwrap_model(self)
        testing = not isinstance(self._train_loop, BaseLoop)
        if self._resume:
            check_training_state(checkpoint, filename)
            refuse_average(checkpoint, self.hooks, filename)
            self._training_state = {name: checkpoint.get(name) for name in ('meta', 'optimizer', 'param_schedulers')}
        loops = [self._train_loop] if self._resume else [self._test_loop, self._val_loop] if testing else []
        for loop in [loop for loop in loops if isinstance(loop, BaseLoop)][:1]:
            check_classes(checkpoint, filename, loop.dataloader.dataset)
        if isinstance(model, ImageClassifier) and not self._resume:
            fill_backbone(model, checkpoint, filename, head=testing)
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        else:
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)  # which may exchange the weights
            if strict or self._resume or testing:
                load_model(model, checkpoint, filename, revise_keys=revise_keys)
            else:
                dataset, settings = self.train_dataloader.dataset, self.cfg.get('model')
                for sentence in start_from(model, settings, checkpoint, filename, dataset, revise_keys):
                    self.logger.info(sentence)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Resume from a checkpoint, at the batch after the last one that it was trained on.

        Its state is taken over: weights, what the optimizer knows of each parameter, counters, seed, history. All
        settings are those of the config, which may have changed; what differs is logged.

        Raises:
            CheckpointMismatch: The weights or the classes do not fit.
            CheckpointError: There is no valid training state, or it cannot go on with this config.
        """
        seed, self._resume = self.seed, True
        super().resume(filename, False, False, map_location)
        state, self._training_state = self._training_state, {}
        if self.seed != seed:  # it is the checkpoint's
            self.dump_config()
        set_place(self, state['meta'], filename)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if resume_optimizer:
            load_optimizer_state(self.optim_wrapper, state['optimizer'], filename)
        if resume_param_scheduler:
            if self.param_schedulers is not None:
                self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            resume_schedules(self, state, filename)
        skip_seen_batches(self)

    def save_checkpoint(self, *args: Any, save_optimizer: bool = True, meta: dict | None = None, **kwargs: Any) -> None:
        """Save a checkpoint: the main process writes, and all take part in gathering a sharded state."""
        if not is_main_process():
            self.model.state_dict()
            if save_optimizer:
                self.optim_wrapper.state_dict()
        loader = self.train_dataloader
        batches = dict(
            batches_per_epoch=len(loader), images_per_batch=self._images_per_batch, images=count_images(loader.dataset)
        )
        with postponed_interrupt():
            super().save_checkpoint(*args, save_optimizer=save_optimizer, meta={**(meta or {}), **batches}, **kwargs)
