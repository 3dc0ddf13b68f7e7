"""mmengine's Runner, with a resume that continues exactly where a run was cut off."""

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, CheckpointLoader, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ..datasets.image_loading import guard_image_loading
from ..datasets.seeded_loader import FastForwardIterator, SeededLoader
from ..datasets.shard_stream import ImageStream
from ..models.classifier import ImageClassifier
from ..utils.errors import ArgumentError, CheckpointError
from ..weights.load import REVISE_KEYS, fill_backbone, load_model
from .accumulation import accumulated_batches
from .fsdp import WRAPPER, is_sharded, shard, unwrap_model, use_full_optimizer_state
from .preemption import PreemptionHook, SigtermShield
from .resume import LateValidationHook
from .seed import IterationSeedHook


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """``runner_type='ResumableRunner'``: the Runner, safe to kill at any moment.

    A run that is stopped and resumed gives the weights of an undisturbed one, bit for bit on the CPU, from checkpoints
    in the middle of an epoch too. (mmengine starts the epoch over, forgets every generator's state, and an
    iteration-based loop loads all the images again that it has already seen.)

    ``optim_wrapper.accumulative_counts='auto'`` accumulates as many batches as make a step of
    ``auto_scale_lr.base_batch_size`` images from the processes that there are.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Sets up the environment; where there is no GPU, processes meet by gloo, which mmengine leaves out."""
        if self._launcher == 'pytorch' and get_device() == 'cpu' and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        """Set the seed; one that was drawn stands in the config that the run dumps, which then gives the same run."""
        super().set_randomness(seed, diff_rank_seed, deterministic)
        self.cfg.randomness = {**self._randomness_cfg, 'seed': self.seed}

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps the model for distributed training, or shards it; mmengine's own wrapper takes a GPU for granted."""
        if self.distributed and model_wrapper_cfg == dict(type=WRAPPER):
            if get_device() == 'cpu' and not hasattr(torch.cpu.Stream, 'record_event'):  # as in torch 2.6
                raise ArgumentError(
                    f'model_wrapper_cfg.type={WRAPPER!r} does not work on the CPU with torch {torch.__version__}: take '
                    f'a newer torch, or leave it out.'
                )
            model.init_weights()  # weights that were divided could not be drawn, or read, as they are whole
            return shard(model.to(get_device()))
        if self.distributed and model_wrapper_cfg is None and get_device() == 'cpu':
            unused = self.cfg.get('find_unused_parameters', False)
            model_wrapper_cfg = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=unused)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        if not is_sharded(self.model):
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: BaseOptimWrapper | dict) -> BaseOptimWrapper:
        """Builds the optimizer; that of a sharded model gives and takes whole states."""
        built = super().build_optim_wrapper(optim_wrapper)
        if is_sharded(self.model) and built is not optim_wrapper:
            use_full_optimizer_state(built.optimizer)
        return built

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        meta: dict | None = None,
        **options: object,
    ) -> None:
        """Saves a checkpoint; the first process writes, and all give what they hold of a state that is divided."""
        if not is_main_process():
            self.model.state_dict()
            if save_optimizer:
                self.optim_wrapper.state_dict()
        meta = {**(meta or {}), 'batches_per_epoch': len(self.train_dataloader), 'images_per_batch': self._batch_images}
        super().save_checkpoint(out_dir, filename, file_client_args, save_optimizer, meta=meta, **options)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Builds the training loop around a repeatable data loader."""
        if not isinstance(loop, BaseLoop):
            self._batch_images = self.world_size * self._train_dataloader['batch_size']
            loader = self.build_dataloader(
                self._train_dataloader,
                seed=self.seed,
                diff_rank_seed=self._randomness_cfg.get('diff_rank_seed', False),
            )
            if not isinstance(loader.dataset, IterableDataset):
                loader = SeededLoader.wrap(loader, self.seed, self._accumulation())
            elif isinstance(loader.dataset, ImageStream):
                if not loop.get('by_epoch', loop.get('type') == 'EpochBasedTrainLoop'):
                    raise ArgumentError('A stream of data is trained on by epochs: set train_cfg.by_epoch=True.')
                loader.dataset.set_batch_size(loader.batch_size, loader.drop_last, self._accumulation())
            self._train_dataloader = loader
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Builds a data loader, of photographs as :func:`.guard_image_loading` has them.

        A stream learns its batch size, for it deals out whole batches to the workers.
        """
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        guard_image_loading(loader.dataset)
        loader.worker_init_fn = SigtermShield(loader.worker_init_fn)
        if isinstance(loader.dataset, ImageStream):
            loader.dataset.set_batch_size(loader.batch_size, loader.drop_last)
        return loader

    def _accumulation(self) -> int:
        """Batches of an optimizer step; ``'auto'`` becomes a number. The images of a step are logged."""
        wrapper = self.optim_wrapper
        if not isinstance(wrapper, dict):
            return accumulated_batches(wrapper)
        count, settings = wrapper.get('accumulative_counts', 1), self.auto_scale_lr or {}
        wanted, scaled = settings.get('base_batch_size'), settings.get('enable')
        if wanted is None:
            if count == 'auto':
                raise ArgumentError(
                    "accumulative_counts='auto' takes the images of a step from auto_scale_lr: set its base_batch_size."
                )
            return count
        batch = self._train_dataloader['batch_size']
        together = self.world_size * batch
        fitting = max(1, round(wanted / together))
        remedy = 'choose another train_dataloader.batch_size'
        if count == 'auto':
            count = wrapper['accumulative_counts'] = 1 if scaled else fitting
        elif fitting * together == wanted:
            remedy = (
                f'optim_wrapper.accumulative_counts={fitting} makes as many, --auto-scale-lr fits the rate to these'
            )
        images = together * count
        what = f'{images} images a step = {self.world_size} processes x {batch} images x {count} accumulated batches'
        if images == wanted or scaled:
            self.logger.info(what)
        else:
            self.logger.warning(f'{what}, where the recipe has {wanted}: {remedy}.')
        return count

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Registers the default hooks, with checkpoints that a kill cannot damage and schedules that count steps."""
        hooks = dict(hooks or {})
        checkpoint = dict(hooks.get('checkpoint') or dict(type='CheckpointHook', interval=1))
        scheduler = dict(hooks.get('param_scheduler') or dict(type='ParamSchedulerHook'))
        for hook, theirs, ours in (
            (checkpoint, 'CheckpointHook', 'AtomicCheckpointHook'),
            (scheduler, 'ParamSchedulerHook', 'StepSchedulerHook'),
        ):
            if hook['type'] == theirs:
                hook['type'] = ours
        super().register_default_hooks({**hooks, 'checkpoint': checkpoint, 'param_scheduler': scheduler})

    def build_param_scheduler(self, scheduler: object) -> object:
        """Builds the schedules; by epochs, one that was given in epochs counts the optimizer steps of an epoch."""
        if isinstance(self.train_loop, IterBasedTrainLoop):
            return super().build_param_scheduler(scheduler)
        steps = len(self.train_dataloader) // accumulated_batches(self.optim_wrapper)

        def counted(node: object) -> object:
            if isinstance(node, (list, tuple)):
                return [counted(item) for item in node]
            if not isinstance(node, dict):
                return node
            if 'type' in node:
                return {**node, 'epoch_length': steps}
            return {name: counted(item) for name, item in node.items()}

        return super().build_param_scheduler(counted(scheduler))

    def train(self) -> nn.Module:
        """Trains, each iteration seeded by its number, until it is done or is told to end."""
        self.register_hook(IterationSeedHook(), priority='VERY_HIGH')
        self.register_hook(PreemptionHook())
        self.register_hook(LateValidationHook())
        return super().train()

    def load_checkpoint(
        self, filename: str, map_location: object = 'cpu', strict: bool = False, revise_keys: list = REVISE_KEYS
    ) -> dict:
        """Loads the model's weights.

        For a test or a resume they must fit it to the last tensor. ``load_from`` of a training run may take a part of a
        checkpoint, the other heads of another data set for instance, but never a part of a backbone.

        Raises:
            CheckpointMismatch: They do not fit.
            CheckpointError: There is nothing in it to resume.
        """
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, logger='current')
        model = unwrap_model(self)
        testing = not isinstance(self._train_loop, BaseLoop)
        if isinstance(model, ImageClassifier) and not self._resume:
            fill_backbone(model, checkpoint, filename, head=testing)
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        else:
            if self._resume and not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
                raise CheckpointError(
                    f'The checkpoint {filename} holds weights and no training state to resume: start a new run from '
                    f'them with --cfg-options load_from={filename}.'
                )
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)  # which may exchange the weights
            load_model(model, checkpoint, filename, strict or self._resume or testing, revise_keys)
        self._loaded_meta = checkpoint.get('meta', {})
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, *args: object, **kwargs: object) -> None:
        """Resumes from a checkpoint and tells the data loader where to go on."""
        super().resume(filename, *args, **kwargs)
        loader = self.train_dataloader
        self._renumber(self._loaded_meta)
        if not isinstance(loader, SeededLoader):
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
        self.train_loop.dataloader_iterator = FastForwardIterator(self.train_loop.dataloader_iterator, self.iter)

    def _renumber(self, meta: dict) -> None:
        """Counts the iterations anew where a run goes on with batches of another size, on other processes say."""
        before = meta.get('images_per_batch', self._batch_images)
        if before == self._batch_images or isinstance(self.train_loop, IterBasedTrainLoop):
            return
        images = (self.iter - self.epoch * meta['batches_per_epoch']) * before
        if images and (images % self._batch_images or not isinstance(self.train_dataloader, SeededLoader)):
            raise CheckpointError(
                f'The checkpoint was written in the middle of epoch {self.epoch + 1}, by processes that took {before} '
                f'images together and not {self._batch_images}: resume with as many, or from the end of an epoch.'
            )
        self.train_loop._iter = self.epoch * len(self.train_dataloader) + images // self._batch_images
        self.logger.info(f'Batches of {self._batch_images} images, and not of {before}: this is iteration {self.iter}.')
