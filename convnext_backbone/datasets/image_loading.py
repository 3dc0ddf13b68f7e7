"""Image and annotation loading of mmdet and mmseg with the shared decoder; annotations of another size are refused."""

import contextlib
import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine import fileio
from mmengine.dataset import Compose

from ..utils.errors import UserError, printable
from ..utils.image_io import FORMATS, read_image
from .mask_values import get_reader
from .masks import to_labels

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'

if TYPE_CHECKING:
    from mmcv.transforms import LoadImageFromFile


def guard_image_loading(dataset: Any) -> None:
    """Replace the loading transforms of a data set of mmdet or mmseg, also inside wrappers, in place.

    Not in the configs, as the inferencers of mmdet and mmseg look for ``LoadImageFromFile``. Transforms that load
    anything else than colour images, or use another decoder, stay.
    """
    for inner in (*getattr(dataset, 'datasets', ()), getattr(dataset, 'dataset', None)):
        if inner is not None:
            guard_image_loading(inner)
    pipeline: Any = getattr(dataset, 'pipeline', None)
    if getattr(pipeline, 'transforms', None):  # classification has none, and needs no mmcv
        _replace_steps(pipeline.transforms)
        if type(pipeline) is Compose:
            dataset.pipeline = _NamingCompose(pipeline.transforms)


class _NamingCompose(Compose):
    """A pipeline that names the image which a transform cannot take."""

    def __call__(self, data: dict) -> dict | None:
        for step in self.transforms:
            data = apply_transform(step, data)
            if data is None:
                return None
        return data


def apply_transform(step: Callable[[dict], Any], results: dict) -> Any:
    """Apply a transform; an image that OpenCV cannot resize, such as a row of pixels, is a :class:`UserError`."""
    import cv2

    try:
        return step(results)
    except cv2.error as error:
        if 'ori_shape' not in results:  # it is not loaded yet
            raise
        height, width = results['ori_shape'][:2]
        raise UserError(
            f'The image {printable(str(results.get("img_path")))} of {width} x {height} pixels cannot be used: '
            f'{type(step).__name__} of the pipeline fails ({printable(str(error).strip())}); crop or pad it, or leave '
            f'it out.'
        ) from error


def _replace_steps(steps: list) -> None:
    from mmcv.transforms import LoadAnnotations, LoadImageFromFile

    for i, step in enumerate(steps):
        if type(step) is LoadImageFromFile:
            if (step.color_type, step.imdecode_backend, step.file_client_args) == ('color', 'cv2', None):
                steps[i] = functools.partial(_load_image, step)
            elif step.imdecode_backend == 'pillow':
                steps[i] = functools.partial(_load_known_format, step)
        elif isinstance(step, LoadAnnotations):
            load: Callable[[dict], dict] = step
            if step.imdecode_backend == 'pillow':
                ours = type(step).__name__ == 'LoadAnnotations' and type(step).__module__.startswith('mmseg.')
                load = functools.partial(_load_mask if ours else _load_known_format, step)
            steps[i] = functools.partial(_load_annotations, load)
        elif type(step).__name__ == 'LoadProposals':
            steps[i] = functools.partial(_load_proposals, step)
        for branch in getattr(step, 'subroutines', ()):  # of TestTimeAug
            _replace_steps(branch.transforms)


def _load_image(replaced: 'LoadImageFromFile', results: dict) -> dict | None:
    path = results['img_path']
    try:
        image = read_bgr(path, replaced.backend_args)
    except UserError:
        if replaced.ignore_empty:
            return None
        raise
    if results.get('height') is not None and results.get('width') is not None:
        check_size(path, image.shape[:2], (results['height'], results['width']), 'in the annotation file')
    results['img'] = image.astype(np.float32) if replaced.to_float32 else image
    results['img_shape'] = results['ori_shape'] = image.shape[:2]
    return results


def read_bgr(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read an image as :func:`.read_image` does, with its channels in OpenCV's order.

    Most images are whole JPEGs without a rotation, whose pixels OpenCV and Pillow decode by the same library: OpenCV
    takes half of the time.

    Args:
        path: Its file.
        backend_args: Of ``mmengine.fileio``, for remote storage.

    Returns:
        (H, W, 3), BGR.

    Raises:
        UserError: It is missing or cannot be decoded.
    """
    import cv2
    from PIL import ExifTags, Image

    with contextlib.suppress(Exception):  # of any type: of what is wrong read_image tells
        content = fileio.get(path, backend_args=backend_args)
        if content.startswith(_JPEG_START) and content.endswith(_JPEG_END):  # OpenCV would fill up one that is cut off
            with Image.open(io.BytesIO(content), formats=('JPEG',)) as header:
                plain = header.mode in ('RGB', 'L') and header.getexif().get(ExifTags.Base.Orientation, 1) == 1
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if plain else None
            if image is not None:
                return image
    return cv2.cvtColor(read_image(path, backend_args), cv2.COLOR_RGB2BGR)


def _load_proposals(load: Callable[[dict], dict], results: dict) -> dict:
    """Make arrays of the lists of a json file, the only kind of proposals that is read."""
    proposals = {key: np.array(values, np.float32) for key, values in results['proposals'].items()}
    return load({**results, 'proposals': {**proposals, 'bboxes': proposals['bboxes'].reshape(-1, 4)}})


def _load_known_format(load: Callable[[dict], dict], results: dict) -> dict:
    """Refuse other formats before mmcv has Pillow open an image or a mask by its content."""
    from PIL import Image

    path: str = results.get('seg_map_path' if hasattr(load, 'with_seg') else 'img_path', '')
    try:
        if path:
            Image.open(io.BytesIO(fileio.get(path)), formats=FORMATS).close()
    except Exception as error:  # of any type
        raise UserError(f'The image {printable(path)} is none of {", ".join(FORMATS)}: replace it.') from error
    return load(results)


def _load_mask(step: Any, results: dict) -> dict:
    """Load what ``LoadAnnotations`` of mmsegmentation does; files that hold no class ids are refused."""
    reduce_zero_label = results['reduce_zero_label']
    if step.reduce_zero_label not in (None, reduce_zero_label):
        raise UserError(
            f'reduce_zero_label={step.reduce_zero_label} of LoadAnnotations in the pipeline contradicts '
            f'reduce_zero_label={reduce_zero_label} of its data set: set it in the data set alone.'
        )
    read = get_reader(results.get('mask_values'))
    ids = read(results['seg_map_path'], results['img_path'], step.backend_args)
    results['gt_seg_map'] = to_labels(ids, reduce_zero_label, results.get('label_map'))
    results['seg_fields'].append('gt_seg_map')
    return results


def _load_annotations(load: Callable[[dict], dict], results: dict) -> dict:
    path, mask = results['img_path'], results.get('seg_map_path')
    try:
        results = load(results)
    except UserError:
        raise
    except Exception as error:  # decoders and malformed polygons raise anything
        raise UserError(
            f'The annotations of the image {printable(path)} cannot be read{f" from {mask}" if mask else ""} '
            f'({type(error).__name__}: {printable(str(error))}): fix them or leave the image out.'
        ) from error
    if 'gt_seg_map' in results:
        check_size(path, results['ori_shape'], results['gt_seg_map'].shape[:2], f'in the mask {mask}')
    return results


def check_size(path: str, size: tuple[int, ...], annotated: tuple[int, ...], where: str) -> None:
    """Compare the size of an image, (height, width), with that of its annotations.

    Raises:
        UserError: They differ; the text says where the annotations are.
    """
    if tuple(size) != tuple(annotated):
        (height, width), (other_height, other_width) = size, annotated
        raise UserError(
            f'The image {printable(path)} has {width} x {height} pixels, but {other_width} x {other_height} {where}: '
            f'fix the annotations or replace the image; if they were made on the stored pixels, without the EXIF '
            f'orientation, remove that tag.'
        )
