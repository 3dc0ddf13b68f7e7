"""Data preprocessor for classification: normalization, random erasing, mixup and CutMix on the device."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS

from ..utils.errors import ArgumentError, printable
from ..utils.validation import NOT_NEGATIVE, NUMBER, PART, POSITIVE, Kind

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _per_channel(kind: Kind) -> Kind:
    """Lists of one value for all channels of an image, or of one for each."""
    return Kind(
        lambda value: isinstance(value, (list, tuple)) and len(value) > 0 and all(map(kind.fits, value)),
        f'a list with {kind.words} for each channel',
    )


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Normalize batches of images on the device; in training also erase and mix, by timm's classes.

    Workers send bytes: a quarter of the traffic of normalized images.

    Args:
        num_classes: Length of the soft targets.
        label_smoothing: Smoothing of the soft targets.
        mean, std: Of each channel, or of all, for images from 0 to 1.
        random_erasing: Probability that a rectangle of an image becomes noise (paper, table 5).
        mixup_alpha: Parameter of the beta distribution of mixup; 0 disables it.
        cutmix_alpha: The same for CutMix; with both, each batch takes one of them at random.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        label_smoothing: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        random_erasing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name, values, kind in (('mean', mean, NUMBER), ('std', std, POSITIVE)):
            _per_channel(kind).check(name, values)
            scaled = torch.tensor(values).view(-1, 1, 1) * 255
            self.register_buffer(name, scaled, persistent=False)  # of the data, not of the weights
        PART.check('random_erasing', random_erasing)
        NOT_NEGATIVE.check('mixup_alpha', mixup_alpha)
        NOT_NEGATIVE.check('cutmix_alpha', cutmix_alpha)
        self._erasing, self._mixup = None, None
        if random_erasing:
            from timm.data.random_erasing import RandomErasing  # only training needs timm

            self._erasing = RandomErasing(random_erasing, mode='pixel', device=None)
        if mixup_alpha or cutmix_alpha:
            from timm.data.mixup import Mixup

            self._mixup = Mixup(mixup_alpha, cutmix_alpha, label_smoothing=label_smoothing, num_classes=num_classes)

    def forward(self, data: Mapping, training: bool = False) -> dict:
        """Normalize a batch and, in training, augment it.

        Args:
            data: ``inputs``, images from 0 to 255, (N, C, H, W), and optionally ``labels``, (N,), and ``names``.
            training: Whether to augment.

        Returns:
            ``inputs``, normalized; ``labels`` unchanged, or (N, num_classes) after mixing.

        Raises:
            ArgumentError: A label is out of range, the batch cannot be mixed, or the images have another number of
                channels than ``mean`` and ``std``.
        """
        self._check_labels(data)
        batch = dict(self.cast_data({key: data[key] for key in ('inputs', 'labels') if key in data}))
        images = batch['inputs'].to(torch.float32, copy=True)
        for name, values in (('mean', self.mean), ('std', self.std)):
            if len(values) not in (1, images.shape[1]):
                raise ArgumentError(
                    f'The images have {images.shape[1]} channels, but {name} of model.data_preprocessor has '
                    f'{len(values)} values: give it one for each channel.'
                )
        images.sub_(self.mean).div_(self.std)
        if training and self._erasing is not None:
            self._erasing.device = images.device
            images = self._erasing(images)
        if training and self._mixup is not None:
            if len(images) % 2:
                raise ArgumentError(
                    f'The batch has {len(images)} images, but mixup and CutMix mix them in pairs: set an even '
                    f'train_dataloader.batch_size, and drop_last=True.'
                )
            images, batch['labels'] = self._mixup(images, batch['labels'])
        return {**batch, 'inputs': images}

    def _check_labels(self, data: Mapping) -> None:
        labels = data.get('labels')
        if labels is None or not (labels >= self.num_classes).any():
            return
        i = int((labels >= self.num_classes).nonzero()[0])
        name = f'The image {printable(data["names"][i])}' if 'names' in data else 'An image'
        raise ArgumentError(
            f'{name} has the label {int(labels[i])}, but model.num_classes={self.num_classes}, for labels from 0 to '
            f'{self.num_classes - 1}: fix the labels of the data, or set model.num_classes.'
        )
