"""Model inputs: images through a config's own test pipeline and preprocessor, and denormalized back to images."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor

from ..datasets.image_loading import apply_transform, guard_image_loading
from ..datasets.timm_dataset import build_transform
from ..utils.image_io import read_image
from ..visualization.bands import show_bands

MAX_PIXELS = 2**21  # of a mask or a score map: with 150 classes the latter takes 1.2 GiB


def dataset_with_pipeline(dataset: dict) -> dict:
    """Find the part of a data set's config that holds its pipeline, inside wrappers such as RepeatDataset."""
    while 'pipeline' not in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def _name_of(step: dict) -> str:
    return getattr(step['type'], '__name__', step['type'])  # a class in some configs


def loads_annotations(step: dict) -> bool:
    """Whether a step of a pipeline loads boxes or masks."""
    return 'Load' in _name_of(step) and 'Annotation' in _name_of(step)


def build_test_pipeline(cfg: Config, number: int | None = None) -> Callable[[Path], tuple[dict, np.ndarray]]:
    """Build the function from an image file to a sample of the test pipeline of mmdet or mmseg, without labels.

    It also returns the image as an RGB picture, (H, W, 3). The image is loaded as the config says, from the local disk.

    Args:
        cfg: Of a detector or a segmentor.
        number: How many steps of the pipeline to apply, if not all; the first loads the image.
    """
    remote = ('backend_args', 'file_client_args')
    steps = [
        {key: value for key, value in step.items() if key not in remote}
        for step in dataset_with_pipeline(cfg.test_dataloader.dataset)['pipeline'][:number]
        if not loads_annotations(step)
    ]
    # mmcv's decoders give blue first; others keep the order of the file.
    bgr = any(
        _name_of(step).endswith('LoadImageFromFile') and step.get('imdecode_backend') != 'tifffile' for step in steps
    )
    pipeline = Compose(steps)
    guard_image_loading(cast(Any, SimpleNamespace(pipeline=pipeline)))  # which looks for no more of a data set

    def prepare(path: Path) -> tuple[dict, np.ndarray]:
        results: dict[str, Any] = dict(img_path=str(path), img_id=0)
        picture = None
        for step in pipeline.transforms:
            results = apply_transform(step, results)
            if picture is None and 'img' in results:
                picture = show_bands(results['img'], bgr)
        assert picture is not None, 'the test pipeline loads no image'
        return results, picture

    return prepare


def limit_size(sample: dict) -> tuple[float, float]:
    """Let the masks of a sample of a large image be predicted at 2 megapixels, to bound the memory they take.

    Returns:
        The width and the height of the image divided by those of its masks.
    """
    data: BaseDataElement = sample['data_samples']
    height, width = data.ori_shape[:2]
    shrink = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
    if shrink == 1:
        return 1.0, 1.0
    small = max(1, round(height * shrink)), max(1, round(width * shrink))
    ratio = width / small[1], height / small[0]
    scale = data.get('scale_factor', (1.0, 1.0))
    data.set_metainfo(dict(ori_shape=small, scale_factor=(scale[0] * ratio[0], scale[1] * ratio[1])))
    return ratio


def build_input_pipeline(cfg: Config, preprocessor: BaseDataPreprocessor) -> Callable[[Path], Tensor]:
    """Build the function from an image file to the normalized input of a config's model, (1, C, h, w)."""
    if cfg.model.type == 'ImageClassifier':
        transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
        return lambda path: preprocessor(dict(inputs=transform(Image.fromarray(read_image(path)))[None]))['inputs']
    prepare = build_test_pipeline(cfg)
    return lambda path: preprocessor({name: [value] for name, value in prepare(path)[0].items()})['inputs']


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
    return np.stack([show_bands(image) for image in values.float().permute(0, 2, 3, 1).cpu().numpy()])
