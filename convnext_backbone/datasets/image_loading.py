"""Photographs as people see them, for every task by one decoder: upright, RGB of 8 bits, whole or not at all."""

from typing import TYPE_CHECKING

import numpy as np

from ..utils.errors import UserError, printable
from ..utils.image_io import read_image

if TYPE_CHECKING:
    from mmcv.transforms import LoadAnnotations, LoadImageFromFile
    from torch.utils.data import Dataset


class LoadRGBImage:
    """What mmcv's ``LoadImageFromFile`` does, with :func:`read_image`; refuses what does not fit the annotations.

    Args:
        load: The transform in whose place it is.
    """

    def __init__(self, load: 'LoadImageFromFile') -> None:
        self._load = load

    def __call__(self, results: dict) -> dict | None:
        """Loads.

        Raises:
            UserError: As of :func:`read_image`, or the image has another size than in the annotation file.
        """
        path = results['img_path']
        try:
            image = read_image(path, self._load.backend_args)
        except UserError:
            if self._load.ignore_empty:
                return None
            raise
        annotated = results.get('height'), results.get('width')
        if None not in annotated:
            _check_size(path, image.shape[:2], annotated, 'in the annotation file')
        image = np.ascontiguousarray(image[..., ::-1])  # mmcv's BGR
        results['img'] = image.astype(np.float32) if self._load.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class LoadMatchingAnnotations:
    """Loads annotations; names the file where they cannot be read, and refuses a mask of another size than its image.

    Args:
        load: The transform that loads them, of mmdet or mmseg.
    """

    def __init__(self, load: 'LoadAnnotations') -> None:
        self._load = load

    def __call__(self, results: dict) -> dict:
        """Loads.

        Raises:
            UserError: They cannot be read, or do not fit.
        """
        path, mask = results['img_path'], results.get('seg_map_path')
        try:
            results = self._load(results)
        except Exception as error:  # what decoders raise, and what polygons of any form lead to
            raise UserError(
                f'The annotations of the image {printable(path)} cannot be read{f" from {mask}" if mask else ""} '
                f'({type(error).__name__}: {printable(str(error))}): mend them or leave the image out.'
            ) from error
        if 'gt_seg_map' in results:
            _check_size(path, results['ori_shape'], results['gt_seg_map'].shape[:2], f'in the mask {mask}')
        return results


def _check_size(path: str, size: tuple[int, int], annotated: tuple[int, int], where: str) -> None:
    if tuple(size) != tuple(annotated):
        (height, width), (other_height, other_width) = size, annotated
        raise UserError(
            f'The image {printable(path)} is {width} x {height} pixels large, but {other_width} x {other_height} '
            f'{where}, so that its annotations do not fit: mend them or replace the image; if it was annotated as it '
            f'is stored, before its EXIF data turned it upright, take the orientation out of these.'
        )


def guard_image_loading(dataset: 'Dataset') -> None:
    """Makes a data set of mmdet or mmseg, below wrappers too, load by the two classes above, in place.

    The pipelines of configs stay those of mmdet and mmseg, whose inferencers look for ``LoadImageFromFile``. A
    transform that loads something else than colour images, or by another decoder, stays as it is.
    """
    for inner in (*getattr(dataset, 'datasets', ()), getattr(dataset, 'dataset', None)):
        if inner is not None:
            guard_image_loading(inner)
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    if steps:  # of classification there are none, nor is mmcv needed
        _guard(steps)


def _guard(steps: list) -> None:
    from mmcv.transforms import LoadAnnotations, LoadImageFromFile

    for place, step in enumerate(steps):
        if type(step) is LoadImageFromFile:
            if (step.color_type, step.imdecode_backend, step.file_client_args) == ('color', 'cv2', None):
                steps[place] = LoadRGBImage(step)
        elif isinstance(step, LoadAnnotations):
            steps[place] = LoadMatchingAnnotations(step)
        for part in getattr(step, 'subroutines', ()):  # of TestTimeAug
            _guard(part.transforms)
