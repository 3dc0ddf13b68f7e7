"""Builders of trained detectors, segmentors, classifiers, autoencoders and backbones from a config and a checkpoint."""

from collections.abc import Sequence

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.visualization import Visualizer

from ..config.heads import find_heads
from ..datasets.class_names import imagenet_classes
from ..datasets.timm_dataset import build_transform
from ..models.backbone import Backbone
from ..models.classifier import ImageClassifier
from ..models.masked_autoencoder import MaskedAutoencoder
from ..utils.errors import UserError, printable, shorten
from ..weights.dataset_meta import dataset_classes, dataset_meta
from ..weights.load import fill_backbone, load_backbone
from ..weights.load_model import load_model
from ..weights.safe_load import read_state


def build_detector(cfg: Config, checkpoint: str) -> BaseModel:
    """Build the detector of a config with the weights of a checkpoint, loaded strictly.

    Returns:
        The model, with ``dataset_meta``: the ``classes`` and the ``palette`` of the checkpoint or else of the test
        data; without a palette, colours are random.

    Raises:
        CheckpointError: The file cannot be read.
        CheckpointMismatch: The file does not fit the model.
        UserError: Neither file names the classes.
    """
    model = _build_model(cfg, checkpoint)
    model.dataset_meta.setdefault('palette', 'random')
    return model


def build_segmentor(cfg: Config, checkpoint: str) -> BaseModel:
    """Build the segmentor of a config with the weights of a checkpoint, loaded strictly.

    Returns:
        The model, with ``dataset_meta`` as of :func:`build_detector`.

    Raises:
        UserError: As of :func:`build_detector`, or a class has no name or no colour.
    """
    model = _build_model(cfg, checkpoint)
    number = len(model.dataset_meta.get('palette') or ())
    if number < model.num_classes:
        raise UserError(
            f'The model predicts {model.num_classes} classes, but its data set has {number} colours: set '
            f'test_dataloader.dataset.metainfo=dict(classes=(...), palette=[...]), one for each class.'
        )
    return model


def _build_model(cfg: Config, checkpoint: str) -> BaseModel:
    state = read_state(checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_model(model, state, checkpoint)
    meta = dataset_meta(state, checkpoint) or DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True)).metainfo
    if not meta.get('classes'):
        raise UserError(
            f'Neither the checkpoint {checkpoint} nor the config names the classes: set '
            f'test_dataloader.dataset.metainfo=dict(classes=(...)).'
        )
    _check_number(meta['classes'], max((number for _, number in find_heads(cfg)), default=0), checkpoint)
    model.dataset_meta = dict(meta)
    model.cfg = cfg  # where mmdet's inference looks for the pipeline
    return model.to(get_device()).eval()


def _check_number(names: Sequence[str], predicted: int, checkpoint: str) -> None:
    if len(names) < predicted:
        raise UserError(
            f'The model predicts {predicted} classes, but only {len(names)} are named ({shorten(list(names))}): name '
            f'all in meta.dataset_meta of the checkpoint {printable(checkpoint)} or, where that has none, in '
            f'test_dataloader.dataset.metainfo=dict(classes=(...)).'
        )


def build_classifier(cfg: Config, checkpoint: str) -> ImageClassifier:
    """Build the classifier of a config with the weights of a checkpoint of any supported format, loaded strictly.

    Returns:
        The model, with ``class_names`` and the test ``transform``.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    state = read_state(checkpoint)
    fill_backbone(model, state, checkpoint, head=True)
    model.class_names = dataset_classes(state, checkpoint) or imagenet_classes(cfg.model.num_classes)
    _check_number(model.class_names, cfg.model.num_classes, checkpoint)
    model.transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
    return model.to(get_device()).eval()


def build_autoencoder(cfg: Config, checkpoint: str) -> MaskedAutoencoder:
    """Build the masked autoencoder of a config with the weights of a checkpoint, loaded strictly.

    Returns:
        The model, with the test ``transform``.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    load_model(model, read_state(checkpoint), checkpoint)
    model.transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
    return model.to(get_device()).eval()


def build_stages(cfg: Config, checkpoint: str) -> Backbone:
    """Build the backbone of a config such that it returns the feature map of every stage, without output norms.

    Args:
        cfg: Config of a detector, a segmentor or a classifier.
        checkpoint: As of :func:`.load_backbone`: of that model, or of any other with such a backbone.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    settings = {**cfg.model.get('backbone', {}), 'out_norm': False, 'init_cfg': None}
    kind = getattr(settings.get('type'), '__name__', settings.get('type'))  # a class in some configs
    if kind not in ('ConvNeXt', 'ConvNeXtIsotropic'):
        raise UserError(
            f'The backbone of the config is {kind!r}: only the stages of ConvNeXt and ConvNeXtIsotropic can be shown.'
        )
    if kind == 'ConvNeXt':  # the other has one stage
        settings['out_indices'] = (0, 1, 2, 3)
    backbone = MODELS.build(settings)
    load_backbone(backbone, checkpoint)
    return backbone.to(get_device()).eval()


def build_visualizer(cfg: Config, dataset_meta: dict) -> Visualizer:
    """Build the config's visualizer of boxes and masks, for the classes and the palette in ``dataset_meta``."""
    # Not that of a run, which has its name; mmdet's own opacity of masks, 0.8, hides what lies under them.
    settings = {'type': 'DetLocalVisualizer', 'alpha': 0.4, **(cfg.get('visualizer') or {})}
    visualizer = VISUALIZERS.build({**settings, 'name': 'pictures', 'vis_backends': None, 'save_dir': None})
    visualizer.dataset_meta = dataset_meta
    return visualizer
