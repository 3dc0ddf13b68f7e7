"""Model inputs: images through a config's own test pipeline and preprocessor, and denormalized back to images."""

from collections.abc import Callable

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from PIL import Image
from torch import Tensor

from ..datasets.timm_dataset import build_transform
from ..utils.image_io import swap_colours


def dataset_with_pipeline(dataset: dict) -> dict:
    """Find the part of a data set's config that holds its pipeline, inside wrappers such as RepeatDataset."""
    while 'pipeline' not in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def loads_annotations(step: dict) -> bool:
    """Whether a step of a pipeline loads boxes or masks."""
    return str(step['type']).endswith('LoadAnnotations')


def build_test_pipeline(cfg: Config) -> Compose:
    """Build the test pipeline of mmdet or mmseg for an image ``img`` in memory, (H, W, 3) in BGR, without labels."""
    load, *steps = dataset_with_pipeline(cfg.test_dataloader.dataset)['pipeline']
    steps = [step for step in steps if not loads_annotations(step)]
    return Compose([{**load, 'type': 'LoadImageFromNDArray'}, *steps])


def build_input_pipeline(cfg: Config, preprocessor: BaseDataPreprocessor) -> Callable[[np.ndarray], Tensor]:
    """Build the function from an RGB image, (H, W, 3), to the normalized input of a config's model, (1, C, h, w)."""
    if cfg.model.type == 'ImageClassifier':
        transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
        return lambda image: preprocessor(dict(inputs=transform(Image.fromarray(image))[None]))['inputs']
    pipeline = build_test_pipeline(cfg)

    def prepare(image: np.ndarray) -> Tensor:
        sample = pipeline(dict(img=swap_colours(image), img_id=0))
        return preprocessor({name: [value] for name, value in sample.items()})['inputs']

    return prepare


def build_preprocessor(cfg: Config) -> BaseDataPreprocessor:
    """Build the data preprocessor of a config's model, on the device, without the model."""
    settings = dict(cfg.model.get('data_preprocessor') or {})
    if cfg.model.type == 'ImageClassifier':  # which passes two of its own arguments on
        own = {name: cfg.model[name] for name in ('num_classes', 'label_smoothing') if name in cfg.model}
        settings = {'type': 'ImagePreprocessor', **own, **settings}
    return MODELS.build(settings).to(get_device())


def denormalize(inputs: Tensor, preprocessor: BaseDataPreprocessor) -> np.ndarray:
    """Convert model inputs back to images, bytes (N, H, W, 3): the first three channels, or thrice the only one.

    They are shown as RGB, as all published weights of ConvNeXt expect: wrong colours reveal a missing ``bgr_to_rgb``.
    """
    values = inputs * getattr(preprocessor, 'std', 1) + getattr(preprocessor, 'mean', 0)
    values = values[:, :3] if values.shape[1] >= 3 else values[:, :1].expand(-1, 3, -1, -1)
    return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
