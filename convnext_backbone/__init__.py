"""ConvNeXt for the MM libraries.

It needs torch and mmengine; mmcv, mmdet, mmsegmentation and timm only where a config uses them.
Importing this package registers everything in it in mmengine's root registries, and changes mmengine and mmcv so that

- whoever loads a checkpoint through mmengine, no code in it is run (:mod:`.weights.safe_load`);
- nor is that of data files and configs: ``mmengine.load`` reads no pickles, and of YAML plain values only
  (:mod:`.datasets.plain_files`);
- ``init_cfg=dict(type='Pretrained', ...)`` is strict for the models of this package (:mod:`.weights.pretrained_init`),
  and no loader of mmengine leaves out a part of their backbones (:mod:`.weights.load_model`);
- the local file backend writes atomically (:class:`.AtomicLocalBackend`);
- logs and scores are json also where a score is no number: null (:mod:`.engine.validation`);
- mmcv finds its operators, where none are compiled (:mod:`.ops`).
"""

import sys

__version__ = '0.1.0'

# The runner of exported models needs nothing of this package: while Python looks for it, the package stays empty, and
# starts where neither torch nor mmengine is installed.
if not (sys.argv[:1] == ['-m'] and f'{__name__}.deploy' in sys.orig_argv):
    try:
        import mmengine as _mmengine  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != 'mmengine':
            raise
        raise ImportError(
            'convnext_backbone needs mmengine, which is not installed: run '
            "`pip install 'convnext-backbone[openmmlab]'` for the OpenMMLab packages, or "
            "`pip install 'convnext-backbone[onedl]'` for their maintained fork; never both."
        ) from None

    from . import ops as _ops
    from .datasets import image_mask_pairs as _image_mask_pairs  # noqa: F401  # registers
    from .datasets import plain_files as _plain_files  # noqa: F401  # registers
    from .datasets.preprocessor import ImagePreprocessor
    from .datasets.timm_dataset import TimmDataset, TimmShards
    from .datasets.unlabelled_images import UnlabelledImages
    from .engine.accumulation import StepSchedulerHook
    from .engine.broken_images import BrokenImagesHook
    from .engine.checkpoint import AtomicCheckpointHook, AtomicLocalBackend
    from .engine.classification import LabelledImagesHook
    from .engine.curves import CurvesHook
    from .engine.ema import AveragedWeightsHook
    from .engine.finite_check import FiniteCheckHook
    from .engine.heartbeat import HeartbeatHook
    from .engine.layer_decay import LayerDecayOptimWrapperConstructor, lr_scale
    from .engine.reconstructions import ReconstructionsHook
    from .engine.runner import ResumableRunner
    from .evaluation.accuracy import AccuracyMetric
    from .evaluation.reconstruction import ReconstructionMetric
    from .models.archs import ARCHS
    from .models.classifier import ImageClassifier
    from .models.convnext import ConvNeXt, ConvNeXtBlock
    from .models.detection_tta import InstanceTTAModel as _InstanceTTAModel  # noqa: F401  # registers
    from .models.isotropic import ConvNeXtIsotropic
    from .models.masked_autoencoder import MaskedAutoencoder
    from .models.modernized_resnet import ModernizedResNet
    from .utils.errors import ArgumentError, CheckpointError, CheckpointMismatch, NonFiniteError, UserError
    from .weights.load import load_backbone
    from .weights.pretrained_init import StrictPretrainedInit as _StrictPretrainedInit  # noqa: F401  # registers
    from .weights.report import LoadReport
    from .weights.safe_load import read_checkpoint

    _ops.provide()

__all__ = [
    'ARCHS',
    'AccuracyMetric',
    'ArgumentError',
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'AveragedWeightsHook',
    'BrokenImagesHook',
    'CheckpointError',
    'CheckpointMismatch',
    'ConvNeXt',
    'ConvNeXtBlock',
    'ConvNeXtIsotropic',
    'CurvesHook',
    'FiniteCheckHook',
    'HeartbeatHook',
    'ImageClassifier',
    'ImagePreprocessor',
    'LabelledImagesHook',
    'LayerDecayOptimWrapperConstructor',
    'LoadReport',
    'MaskedAutoencoder',
    'ModernizedResNet',
    'NonFiniteError',
    'ReconstructionMetric',
    'ReconstructionsHook',
    'ResumableRunner',
    'StepSchedulerHook',
    'TimmDataset',
    'TimmShards',
    'UnlabelledImages',
    'UserError',
    'load_backbone',
    'lr_scale',
    'read_checkpoint',
]
