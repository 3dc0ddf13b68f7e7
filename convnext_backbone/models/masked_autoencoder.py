"""Masked autoencoder FCMAE: pre-training of ConvNeXt V2 without labels (arXiv 2301.00808, section 3.1).

The official code needs a library of sparse convolutions to leave out what is masked. Here the visible patches of the
images are taken out, and all layers but the depthwise convolution compute on them alone, as on any other map.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import ArgumentError, printable
from ..utils.validation import SIZE, numbers
from .backbone import init_from_config
from .convnext import ConvNeXtBlock
from .layers import init_truncated_normal
from .visible_patches import VisiblePatches

VARIANCE_EPS = 1e-6  # of the pixels of a patch
Grid = tuple[int, int]  # rows and columns of patches in an image


@MODELS.register_module()
class MaskedAutoencoder(BaseModel):
    """Encoder of the visible patches, and a decoder that predicts the pixels of the others.

    The encoder is the backbone, with its own names below ``backbone.``: a checkpoint is what ``init_cfg`` of a detector
    or classifier takes.

    Args:
        backbone: Config of a :class:`.ConvNeXt`; the paper's have ``use_grn=True``.
        mask_ratio: Share of the patches of an image that are removed; those that stay are rounded down.
        patch_size: Side of a patch in pixels: the stride of the backbone, 32.
        decoder_dim: Channels of the decoder, which is one block.
        data_preprocessor: Arguments of :class:`.ImagePreprocessor`.
        init_cfg: As in mmengine; a pretrained encoder is named in that of the backbone, which knows all names.

    Raises:
        ArgumentError: An argument is out of range.
    """

    def __init__(
        self,
        backbone: dict,
        mask_ratio: float = 0.6,
        patch_size: int = 32,
        decoder_dim: int = 512,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        numbers(lambda value: 0 < value < 1, 'between 0 and 1').check('mask_ratio', mask_ratio)
        SIZE.check('decoder_dim', decoder_dim)
        kind = getattr(backbone.get('type'), '__name__', backbone.get('type'))  # a class in some configs
        if kind != 'ConvNeXt':
            raise ArgumentError(
                f'The backbone is {printable(repr(kind))}, but masked pre-training is for the four stages of a '
                f"ConvNeXt: set backbone=dict(type='ConvNeXt', ...)."
            )
        super().__init__({'type': 'ImagePreprocessor', **(data_preprocessor or {})}, init_cfg)
        self.backbone = MODELS.build({**backbone, 'out_indices': (3,), 'out_norm': False})
        if patch_size != self.backbone.strides[-1]:
            raise ArgumentError(
                f'patch_size={patch_size!r} is not the stride of the backbone: it takes {self.backbone.strides[-1]}.'
            )
        self.mask_ratio, self.patch_size = mask_ratio, patch_size
        self.proj = nn.Linear(self.backbone.channels[-1], decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_dim))
        self.decoder = nn.Sequential(ConvNeXtBlock(decoder_dim, use_grn=True))
        self.pred = nn.Linear(decoder_dim, patch_size**2 * self.backbone.in_channels)
        for part in (self.proj, self.decoder, self.pred):
            part.apply(init_truncated_normal)
        nn.init.normal_(self.mask_token, std=0.02)

    def init_weights(self) -> None:
        """Apply the ``init_cfg`` of the backbone, then its own; raises as :meth:`.Backbone.init_weights`."""
        self.backbone.init_weights()
        init_from_config(self)

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """Features of masked images by the backbone; nothing of a masked pixel is in them.

        Args:
            images: Preprocessed images, (N, in_channels, H, W).
            mask: The patches to remove, True in (N, H / 32 * W / 32), row by row.

        Returns:
            Maps (N, C, H / 32, W / 32), zero where patches are removed.

        Raises:
            ArgumentError: As of :meth:`forward`, or the mask does not fit the images.
        """
        pixels, grid = self._split(images)
        if mask.dtype != torch.bool or mask.shape != pixels.shape[:2]:
            raise ArgumentError(
                f'The mask is {mask.dtype} of the shape {tuple(mask.shape)}, but these images take torch.bool of the '
                f'shape {tuple(pixels.shape[:2])}: pass one value for each patch of {self.patch_size} pixels.'
            )
        features = pixels.new_zeros(*mask.shape, self.backbone.channels[-1], dtype=self.mask_token.dtype)
        counts = mask.shape[1] - mask.sum(1)
        for count in filter(None, counts.unique().tolist()):  # nothing of an image depends on the others
            chosen = (counts == count).nonzero()  # (n, 1)
            visible = (~mask[chosen[:, 0]]).nonzero()[:, 1].view(-1, count)
            encoded = self.encode_patches(pixels[chosen[:, 0]], visible, grid)
            features = features.index_put((chosen, visible), encoded.to(features.dtype))
        return features.mT.unflatten(2, grid)

    def forward(
        self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor', labels: object = None
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Tensor]]:
        """Mask images at random, outside of training each always in the same way, and predict what was removed.

        Args:
            inputs: Preprocessed images, (N, in_channels, H, W); H and W are multiples of 32.
            data_samples: Not used, as are ``labels``: data sets may have them.
            mode: ``'tensor'``: the predicted patches, (N, M, 32 * 32 * in_channels), pixel by pixel and normalized.
                ``'loss'``: the loss. ``'predict'``: for each image a dict of the ``mask``, as of :meth:`encode`, the
                ``loss``, and the ``reconstruction``, (in_channels, H, W), of which the visible patches are the image's.
            labels: Not used.

        Raises:
            ArgumentError: The images have another size or number of channels, or too few patches.
        """
        pixels, grid = self._split(inputs)
        visible, masked = self._draw_masks(inputs, pixels.shape[1])
        features = self.encode_patches(pixels, visible, grid)
        predicted = self._decode(features, visible, masked, grid)
        if mode == 'tensor':
            return predicted
        removed = take(pixels, masked).flatten(2)
        removed = removed.to(torch.promote_types(removed.dtype, torch.float32))
        target, mean, deviation = _normalize(removed)
        if mode == 'loss':
            return dict(loss=F.mse_loss(predicted.to(target.dtype), target))
        losses = (predicted - target).square().mean(dim=(1, 2))
        mask = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device).scatter(1, visible, False)
        filled = (predicted * deviation + mean).to(pixels.dtype).view(*masked.shape, *pixels.shape[2:])
        images = self._join(pixels.index_put((_rows(masked), masked), filled), grid)
        parts = zip(mask, losses, images, strict=True)
        return [dict(mask=mask, loss=loss, reconstruction=image) for mask, loss, image in parts]

    def encode_patches(self, pixels: Tensor, visible: Tensor, grid: Grid) -> Tensor:
        """Features of the visible patches of images by the backbone.

        Equal to those of whole images if the output of each layer is multiplied by the mask, and the statistics of GRN
        are those of the visible positions of an image.

        Args:
            pixels: All patches, (N, L, 32, 32, in_channels).
            visible: Indices of the visible ones, (N, K).
            grid: Rows and columns of patches in an image.

        Returns:
            (N, K, C)
        """
        x = take(pixels, visible).flatten(0, 1).permute(0, 3, 1, 2)
        for downsample, blocks in self.backbone.stage_modules():
            x = downsample(x).permute(0, 2, 3, 1)  # inside a patch: (N * K, side, side, C)
            side, channels = x.shape[2:]
            patches = VisiblePatches(visible, grid, side)
            x = x.reshape(*visible.shape, side**2, channels).permute(0, 3, 1, 2)
            for block in blocks:
                x = self.backbone.run_block(block, x, patches)
            x = x.permute(0, 2, 3, 1).reshape(-1, side, side, channels).permute(0, 3, 1, 2)
        return x.reshape(*visible.shape, channels)

    def _split(self, images: Tensor) -> tuple[Tensor, Grid]:
        """The patches of images, (N, L, 32, 32, in_channels), and how many are above and beside each other."""
        self.backbone.check_input(images)
        (height, width), side = images.shape[2:], self.patch_size
        if height % side or width % side:
            raise ArgumentError(
                f'The images are {height}x{width} pixels, but the mask is drawn in patches of {side}x{side}: crop or '
                f'resize them to multiples of {side}.'
            )
        grid = height // side, width // side
        pixels = images.permute(0, 2, 3, 1).unflatten(2, (grid[1], side)).unflatten(1, (grid[0], side))
        return pixels.transpose(2, 3).flatten(1, 2), grid

    @staticmethod
    def _join(pixels: Tensor, grid: Grid) -> Tensor:
        """Images of patches, as of :meth:`_split`."""
        return pixels.unflatten(1, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _draw_masks(self, images: Tensor, patches: int) -> tuple[Tensor, Tensor]:
        """Draw a random order of the patches of each image: the first of them stay visible, (N, K), the others do not.

        In training by torch's global generator on the device of the images: seeded before each iteration, a resumed run
        draws the masks of an uninterrupted one, and nothing is copied from the host. Otherwise by a generator that the
        values of an image seed: whatever the batches and processes, an evaluation masks it the same way each time.
        """
        number = int(round(patches * (1 - self.mask_ratio), 6))  # 10 * (1 - 0.9) is less than 1
        if not 0 < number < patches:
            raise ArgumentError(
                f'mask_ratio={self.mask_ratio} leaves {number} of {patches} patches of an image visible, but some must '
                f'stay and some be removed: use larger images, or another mask_ratio.'
            )
        if self.training:
            keys = torch.rand(len(images), patches, device=images.device)
        else:
            seeds = images.contiguous().view(torch.int32).sum(dim=(1, 2, 3)).tolist()  # of bits, in any order the same
            drawn = [torch.rand(patches, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            keys = torch.stack(drawn).to(images.device)
        order = keys.argsort(1)
        return order[:, :number].sort(1).values, order[:, number:].sort(1).values

    def _decode(self, features: Tensor, visible: Tensor, masked: Tensor, grid: Grid) -> Tensor:
        """Predict the normalized pixels of masked patches, (N, M, 32 * 32 * in_channels)."""
        tokens = self.mask_token.expand(len(visible), math.prod(grid), -1)
        tokens = tokens.index_put((_rows(visible), visible), self.proj(features).to(tokens.dtype))
        decoded = self.decoder(tokens.mT.unflatten(2, grid))
        return self.pred(take(decoded.flatten(2).mT, masked))


def take(x: Tensor, indices: Tensor) -> Tensor:
    """The patches of each image, (N, L, ...), that its row of (N, K) names: (N, K, ...)."""
    return x[_rows(indices), indices]


def _normalize(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the mean of each patch, the last dimension, and divide by its deviation; also returns these two.

    The variance is unbiased, as in the official code, while that of LayerNorm is not. On a CPU its kernel takes a
    fraction of the time of ``torch.var_mean``.
    """
    number = patches.shape[-1]
    share = (number - 1) / number
    normed, mean, reciprocal = torch.native_layer_norm(patches, [number], None, None, VARIANCE_EPS * share)
    return normed.mul_(share**0.5), mean, 1 / (reciprocal * share**0.5)


def _rows(indices: Tensor) -> Tensor:
    return torch.arange(len(indices), device=indices.device)[:, None]
