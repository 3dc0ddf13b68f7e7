"""Trained models from a config and a checkpoint: detectors, segmentors, classifiers, and backbones alone."""

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.visualization import Visualizer
from torch import nn

from ..datasets.class_names import imagenet_classes
from ..datasets.timm_dataset import build_transform
from ..models.backbone import Backbone
from ..models.classifier import ImageClassifier
from ..utils.errors import UserError
from ..weights.load import fill_backbone, load_backbone, load_model
from ..weights.safe_load import read_state


def build_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Builds the detector or segmentor of a config and fills it, whole, from a checkpoint.

    Returns:
        The model, with ``dataset_meta``, whose ``classes`` and maybe ``palette`` are the checkpoint's or else those of
        the test data, and with ``cfg``.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: The file does not fill the model.
        UserError: Nothing names the classes.
    """
    state = read_state(checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_model(model, state, checkpoint)
    meta = (state.get('meta') or {}).get('dataset_meta') or {}
    if not meta.get('classes'):
        meta = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True)).metainfo
    if not meta.get('classes'):
        raise UserError(
            f'Neither the checkpoint {checkpoint} nor the config names the classes: set '
            f'test_dataloader.dataset.metainfo=dict(classes=(...)).'
        )
    model.dataset_meta = dict(meta)
    model.cfg = cfg  # where mmdet's inference looks for the pipeline
    return model.to(get_device()).eval()


def build_detector(cfg: Config, checkpoint: str) -> nn.Module:
    """Builds a detector as of :func:`build_model`; where nothing names the colours of the classes, they are random."""
    model = build_model(cfg, checkpoint)
    model.dataset_meta.setdefault('palette', 'random')
    return model


def build_visualizer(cfg: Config, dataset_meta: dict) -> Visualizer:
    """What draws boxes and masks, of the classes and the palette in ``dataset_meta``."""
    # mmdet's own opacity of masks, 0.8, hides what lies under them.
    visualizer = VISUALIZERS.build({'alpha': 0.4, **cfg.visualizer, 'vis_backends': None, 'save_dir': None})
    visualizer.dataset_meta = dataset_meta
    return visualizer


def build_segmentor(cfg: Config, checkpoint: str) -> nn.Module:
    """Builds the segmentor of a config and fills it, whole, from a checkpoint.

    Raises:
        UserError: As of :func:`.build_model`, or there are fewer names of classes, or colours, than classes.
    """
    model = build_model(cfg, checkpoint)
    for what in ('classes', 'palette'):
        number = len(model.dataset_meta.get(what) or ())
        if number < model.num_classes:
            raise UserError(
                f'The model tells {model.num_classes} classes apart, but its data set has {number} {what}: set '
                f'test_dataloader.dataset.metainfo=dict(classes=(...), palette=[...]), one for each class.'
            )
    return model


def build_classifier(cfg: Config, checkpoint: str) -> ImageClassifier:
    """Builds the classifier of a config and fills it, head and all, from a checkpoint of any dialect.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: The file does not fill the model.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    state = read_state(checkpoint)
    fill_backbone(model, state, checkpoint, head=True)
    meta = (state.get('meta') or {}).get('dataset_meta') or {}
    model.class_names = meta.get('classes') or imagenet_classes(cfg.model.num_classes)
    model.transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
    return model.to(get_device()).eval()


def build_stages(cfg: Config, checkpoint: str) -> Backbone:
    """Builds the backbone of a config, to return the map of every stage without an output norm.

    Args:
        cfg: Of a detector, a segmentor or a classifier.
        checkpoint: As of :func:`.load_backbone`: of that model, or of any other with such a backbone.

    Raises:
        UserError: The model has no backbone of this package.
        CheckpointError: The file cannot be read.
        CheckpointMismatch: The file does not fill the backbone.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    settings = {**cfg.model.get('backbone', {}), 'out_norm': False, 'init_cfg': None}
    kind = getattr(settings.get('type'), '__name__', settings.get('type'))  # a class in some configs
    if kind not in ('ConvNeXt', 'ConvNeXtIsotropic'):
        raise UserError(
            f'The backbone of the config is {kind!r}: only the stages of ConvNeXt and ConvNeXtIsotropic can be shown.'
        )
    with torch.device('meta'):
        configured = MODELS.build(settings)
    if len(configured.out_indices) < len(configured.depths):
        settings['out_indices'] = range(len(configured.depths))
    backbone = MODELS.build(settings)
    load_backbone(backbone, checkpoint)
    return backbone.to(get_device()).eval()
