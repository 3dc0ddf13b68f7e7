"""Model inputs: images through a config's own test pipeline and preprocessor, and denormalized back to images."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import BaseDataPreprocessor, BaseModel
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


class InputPipeline:
    """The test pipeline of a detector's or a segmentor's config, without labels: from image files to samples.

    Images are loaded as the config says, from the local disk; their parts, and frames of videos, can take their place.

    Args:
        cfg: Of a detector or a segmentor.
        number: How many steps to build, if not all; the first loads the image.
    """

    def __init__(self, cfg: Config, number: int | None = None) -> None:
        remote = ('backend_args', 'file_client_args')
        steps = [
            {key: value for key, value in step.items() if key not in remote}
            for step in dataset_with_pipeline(cfg.test_dataloader.dataset)['pipeline'][:number]
            if not loads_annotations(step)
        ]
        # mmcv's decoders give blue first; others keep the order of the file.
        self._bgr = any(
            _name_of(step).endswith('LoadImageFromFile') and step.get('imdecode_backend') != 'tifffile'
            for step in steps
        )
        self._floats = any(step.get('to_float32') for step in steps)
        self._loaders = sum(1 for _ in itertools.takewhile(lambda step: _name_of(step).startswith('Load'), steps))
        pipeline = Compose(steps)
        guard_image_loading(cast(Any, SimpleNamespace(pipeline=pipeline)))  # which looks for no more of a data set
        self._steps = pipeline.transforms

    def load(self, path: Path, pixels: np.ndarray | None = None) -> dict[str, Any]:
        """Load an image for :meth:`prepare`.

        Args:
            path: Its file.
            pixels: RGB, (H, W, 3), in place of the content of the file.
        """
        loaded: dict[str, Any] = dict(img_path=str(path), img_id=0)
        if pixels is None:
            return self._apply(loaded, self._steps[: self._loaders])
        image = np.ascontiguousarray(pixels[..., ::-1]) if self._bgr else pixels
        return self._replace(loaded, image.astype(np.float32) if self._floats else image)

    def crop(self, loaded: dict[str, Any], left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
        """Cut a part out of a loaded image."""
        return self._replace(loaded, np.ascontiguousarray(loaded['img'][top:bottom, left:right]))

    def prepare(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Make a sample of a loaded image: ``inputs`` and ``data_samples``."""
        return self._apply(loaded.copy(), self._steps[self._loaders :])

    def show(self, loaded: dict[str, Any]) -> np.ndarray:
        """The picture of a loaded image, RGB bytes (H, W, 3)."""
        return show_bands(loaded['img'], self._bgr)

    def read(self, path: Path) -> np.ndarray:
        """The picture of an image file."""
        return self.show(self.load(path))

    @staticmethod
    def _replace(loaded: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        return {**loaded, 'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}

    @staticmethod
    def _apply(results: dict[str, Any], steps: list[Callable]) -> dict[str, Any]:
        for step in steps:
            results = apply_transform(step, results)
        return results


def limited_size(height: int, width: int) -> tuple[int, int]:
    """The size of an image of the same shape with at most :data:`MAX_PIXELS`."""
    shrink = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
    return (height, width) if shrink == 1 else (max(1, round(height * shrink)), max(1, round(width * shrink)))


def limit_size(sample: dict) -> tuple[float, float]:
    """Let the masks of a sample of a large image be predicted at 2 megapixels, to bound the memory they take.

    Returns:
        The width and the height of the image divided by those of its masks.
    """
    data: BaseDataElement = sample['data_samples']
    height, width = data.ori_shape[:2]
    small = limited_size(height, width)
    if small == (height, width):
        return 1.0, 1.0
    ratio = width / small[1], height / small[0]
    scale = data.get('scale_factor', (1.0, 1.0))
    data.set_metainfo(dict(ori_shape=small, scale_factor=(scale[0] * ratio[0], scale[1] * ratio[1])))
    return ratio


def run_samples(model: BaseModel, samples: Sequence[dict[str, Any]]) -> list[Any]:
    """Predict samples of :class:`InputPipeline`, together those that the preprocessor pads to one size.

    More padding than alone would change the features near it, and so what is found.

    Returns:
        The model's results, in the order of the samples.
    """
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(tuple(-(-side // divisor) for side in sample['inputs'].shape), []).append(i)
    results: dict[int, Any] = {}
    for group in groups.values():
        with torch.no_grad():
            found = model.test_step({name: [samples[i][name] for i in group] for name in samples[0]})
        results.update(zip(group, found, strict=True))
    return [results[i] for i in range(len(samples))]


def build_input_pipeline(cfg: Config, preprocessor: BaseDataPreprocessor) -> Callable[[Path], Tensor]:
    """Build the function from an image file to the normalized input of a config's model, (1, C, h, w)."""
    if cfg.model.type == 'ImageClassifier':
        transform = build_transform(False, **cfg.test_dataloader.dataset.transform)
        return lambda path: preprocessor(dict(inputs=transform(Image.fromarray(read_image(path)))[None]))['inputs']
    pipeline = InputPipeline(cfg)

    def prepare(path: Path) -> Tensor:
        sample = pipeline.prepare(pipeline.load(path))
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
    return np.stack([show_bands(image) for image in values.float().permute(0, 2, 3, 1).cpu().numpy()])
