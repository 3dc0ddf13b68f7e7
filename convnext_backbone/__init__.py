"""ConvNeXt for the MM libraries. Importing this package registers everything in it.

It needs torch and mmengine; mmcv, mmdet, mmsegmentation and timm only where a config uses them.
"""

__version__ = '0.1.0'

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
from .accumulation import StepSchedulerHook
from .archs import ARCHS
from .averaging import AveragedWeightsHook
from .checkpoint import load_backbone
from .classifier import ImageClassifier
from .convnext import ConvNeXt, ConvNeXtBlock
from .curves import CurvesHook
from .errors import ArgumentError, CheckpointError, CheckpointMismatch, NonFiniteError, UserError
from .finite_check import FiniteCheckHook
from .image_hooks import LabelledImagesHook
from .imagenet import TimmDataset, TimmShards
from .isotropic import ConvNeXtIsotropic
from .layer_decay import LayerDecayOptimWrapperConstructor, lr_scale
from .metrics import AccuracyMetric
from .preprocessor import ImagePreprocessor
from .pretrained_init import StrictPretrainedInit as _StrictPretrainedInit  # noqa: F401  # registers
from .reader import read_checkpoint
from .report import LoadReport
from .roadmap import ModernizedResNet
from .runner import ResumableRunner
from .saving import AtomicCheckpointHook, AtomicLocalBackend

_ops.provide()

__all__ = [
    'ARCHS',
    'AccuracyMetric',
    'ArgumentError',
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'AveragedWeightsHook',
    'CheckpointError',
    'CheckpointMismatch',
    'ConvNeXt',
    'ConvNeXtBlock',
    'ConvNeXtIsotropic',
    'CurvesHook',
    'FiniteCheckHook',
    'ImageClassifier',
    'ImagePreprocessor',
    'LabelledImagesHook',
    'LayerDecayOptimWrapperConstructor',
    'LoadReport',
    'ModernizedResNet',
    'NonFiniteError',
    'ResumableRunner',
    'StepSchedulerHook',
    'TimmDataset',
    'TimmShards',
    'UserError',
    'load_backbone',
    'lr_scale',
    'read_checkpoint',
]
