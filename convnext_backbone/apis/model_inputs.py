"""What a model is fed: through the config's own pipelines and preprocessor, and back to pictures."""

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
    """The part of a data set's config that holds its pipeline, below wrappers such as RepeatDataset."""
    while 'pipeline' not in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def loads_annotations(step: dict) -> bool:
    """Whether a step of a pipeline reads boxes, masks or classes of pixels."""
    return str(step['type']).endswith('LoadAnnotations')


def build_test_pipeline(cfg: Config) -> Compose:
    """The test pipeline of a config of mmdet or mmseg, from ``img``, (H, W, 3) in BGR, and without annotations."""
    load, *steps = dataset_with_pipeline(cfg.test_dataloader.dataset)['pipeline']
    steps = [step for step in steps if not loads_annotations(step)]
    return Compose([{**load, 'type': 'LoadImageFromNDArray'}, *steps])


def build_input_pipeline(cfg: Config, preprocessor: BaseDataPreprocessor) -> Callable[[np.ndarray], Tensor]:
    """What turns an image into what the model of a config is fed in a test.

    Args:
        cfg: The config.
        preprocessor: As of :func:`build_preprocessor`.

    Returns:
        A function from an image, (H, W, 3) in RGB, to normalised values, (1, C, h, w).
    """
    if cfg.model.type == 'ImageClassifier':
        transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
        return lambda image: preprocessor(dict(inputs=transform(Image.fromarray(image))[None]))['inputs']
    pipeline = build_test_pipeline(cfg)

    def feed(image: np.ndarray) -> Tensor:
        sample = pipeline(dict(img=swap_colours(image), img_id=0))
        return preprocessor({name: [value] for name, value in sample.items()})['inputs']

    return feed


def build_preprocessor(cfg: Config) -> BaseDataPreprocessor:
    """The data preprocessor of a config's model, on the device, without the model."""
    settings = dict(cfg.model.get('data_preprocessor') or {})
    if cfg.model.type == 'ImageClassifier':  # which hands on two of its own arguments
        own = {name: cfg.model[name] for name in ('num_classes', 'label_smoothing') if name in cfg.model}
        settings = {'type': 'ImagePreprocessor', **own, **settings}
    return MODELS.build(settings).to(get_device())


def denormalize(inputs: Tensor, preprocessor: BaseDataPreprocessor) -> np.ndarray:
    """Undoes the normalisation.

    Args:
        inputs: (N, C, H, W), as a model is fed. They are taken for RGB, as all published weights of ConvNeXt take them:
            a picture of the wrong colours shows that ``bgr_to_rgb`` is missing.
        preprocessor: What made them.

    Returns:
        Bytes, (N, H, W, 3): the first three channels, or three times the only one.
    """
    values = inputs * getattr(preprocessor, 'std', 1) + getattr(preprocessor, 'mean', 0)
    values = values[:, :3] if values.shape[1] >= 3 else values[:, :1].expand(-1, 3, -1, -1)
    return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
