"""What an exported file says of itself: everything that its runner needs to know of config, data set and weights."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torchvision.transforms import CenterCrop, Compose, Resize

from ..apis.coco_output import find_ids
from ..apis.model_inputs import dataset_with_pipeline, loads_annotations
from ..config.recipes import task_of
from ..datasets.class_names import describe_class
from ..utils.errors import UserError, printable
from ..visualization.objects import make_palette
from .__main__ import FORMAT

Size = tuple[int, int]  # height and width
# Of the pre-trained weights that a config starts from, by what their address holds: a fine-tuned model has it, too.
_LICENCES = {
    'fbaipublicfiles.com/convnext/convnextv2': 'CC BY-NC 4.0',
    'fbaipublicfiles.com/convnext/': 'MIT',
    'dinov3': 'DINOv3 License',
}


def describe(model: BaseModel, cfg: Config, size: Size | None, score_thr: float) -> dict[str, Any]:
    """Make the metadata of a model's file.

    Args:
        model: As of :mod:`.builders`.
        cfg: Of it, with the test pipeline.
        size: Fixed height and width of the network's input.
        score_thr: Least score of a detection that the runner reports.

    Raises:
        UserError: A step of the test pipeline is none that the runner repeats exactly.
    """
    task = task_of(cfg)
    classes = [*(model.class_names if task == 'classification' else model.dataset_meta['classes'])]
    palette = None if task == 'classification' else model.dataset_meta['palette']
    about: dict[str, Any] = dict(
        format=FORMAT,
        task=task,
        classes=classes,
        palette=make_palette(len(classes)) if palette in (None, 'random') else [[*colour] for colour in palette],
        **describe_pixels(model.data_preprocessor),
        **(describe_crop(model.transform) if task == 'classification' else describe_resize(cfg)),
        size=size,
        window=None,
        stride=None,
    )
    if task == 'classification':
        about['descriptions'] = [describe_class(name) for name in classes]
    elif task == 'segmentation' and model.test_cfg.mode == 'slide':
        about.update(window=[*model.test_cfg.crop_size], stride=[*model.test_cfg.stride])
    elif task == 'detection':
        about.update(score_thr=score_thr, mask_thr=model.roi_head.test_cfg.get('mask_thr_binary', 0.5))
        about['category_ids'] = find_ids(cfg, classes).categories
    _fix_size(about)
    about['config'] = Path(cfg.filename).name
    about['config_sha256'] = hashlib.sha256(repr(cfg.model.to_dict()).encode()).hexdigest()
    about['weights_sha256'] = _digest(model)
    return about


def _digest(model: BaseModel) -> str:
    """The sha256 of the names and the values of a model's weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def find_licence(cfg: Config) -> str:
    """The licence of the weights that a config starts from, or that it is not known here."""
    sources = [cfg.model.get('init_cfg'), (cfg.model.get('backbone') or {}).get('init_cfg'), cfg.get('load_from')]
    return next((name for part, name in _LICENCES.items() if part in str(sources)), 'that of your own weights and data')


def describe_pixels(preprocessor: Any) -> dict[str, Any]:
    """Mean and deviation for bytes, in the order of the network's channels, and what an image is padded with."""
    kept = {name: getattr(preprocessor, name, torch.tensor(value)) for name, value in (('mean', 0.0), ('std', 1.0))}
    values = {name: value.flatten().expand(3).tolist() for name, value in kept.items()}
    swapped = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', None))
    pad_value = float(getattr(preprocessor, 'pad_value', 0))
    return dict(**values, channels='RGB' if swapped in (True, None) else 'BGR', pad_value=pad_value)


def describe_crop(transform: Compose) -> dict[str, Any]:
    """The resize and the crop of timm's evaluation transform."""
    steps: list[Any] = transform.transforms
    resize, crop = (*steps, None, None)[:2]
    if type(resize) is not Resize or type(crop) is not CenterCrop:
        raise _unknown_step(' -> '.join(type(step).__name__ for step in steps), 'Resize -> CenterCrop')
    # A size of one number is that of the shorter side; one of two is the whole size, and bends the picture.
    rule = dict(
        rule='crop',
        resized=[*resize.size] if isinstance(resize.size, (list, tuple)) else resize.size,
        crop=[*crop.size],
    )
    return dict(resize=rule, interpolation=resize.interpolation.value)


def describe_resize(cfg: Config) -> dict[str, Any]:
    """The one resize of a test pipeline."""
    found: dict[str, Any] = {}
    for step in dataset_with_pipeline(cfg.test_dataloader.dataset)['pipeline']:
        name = getattr(step['type'], '__name__', step['type']).rpartition('.')[2]
        given = {key: value for key, value in step.items() if key not in ('type', 'backend_args', 'meta_keys')}
        if name == 'Resize' and not found and {*given} <= {'scale', 'keep_ratio'} and len(given.get('scale', ())) == 2:
            found = dict(rule='ratio' if given.get('keep_ratio') else 'exact', scale=[*given['scale']])
        elif not (loads_annotations(step) or (name.startswith(('Pack', 'LoadImageFromFile')) and not given)):
            raise _unknown_step(f'{name}({given})' if given else name, 'LoadImageFromFile, one Resize of a scale')
    if not found:
        raise _unknown_step('one without Resize', 'Resize of a scale')
    return dict(resize=found, interpolation='cv2 bilinear')


def _fix_size(about: dict[str, Any]) -> None:
    """Let images fit into the fixed size; a crop and a sliding window have one already."""
    size, own = about['size'], about['resize'].get('crop') or about['window']
    if not size:
        return
    if own and [*size] != own:
        raise UserError(
            f'--size {size[0]} {size[1]} is out of range: the test pipeline has windows or crops of {own[0]} {own[1]}, '
            f'which is the only size that such a model is fixed to.'
        )
    if not own:
        about['resize'] = dict(rule='fit' if about['resize']['rule'] == 'ratio' else 'exact', scale=[size[1], size[0]])


def _unknown_step(what: str, known: str) -> UserError:
    return UserError(f'The test pipeline has {printable(what)}, which the runner cannot repeat: it takes {known}.')
