"""Which trained models can leave the MM libraries, and the network of each; all others are refused by name."""

from mmengine.model import BaseModel
from torch import nn

from ..utils.errors import UserError
from .detector import DetectorNetwork
from .networks import ClassifierNetwork, Network, SegmentorNetwork

# By attribute of the model, the types that the networks compute exactly; a name is that of the class.
BACKBONES = ('ConvNeXt', 'ConvNeXtIsotropic')
_SEGMENTOR = {
    'backbone': BACKBONES,
    'data_preprocessor': ('SegDataPreProcessor',),
    'neck': (),
    'decode_head': ('UPerHead',),
}
_BOX_HEADS = ('ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead')
_DETECTOR = {
    'backbone': BACKBONES,
    'data_preprocessor': ('DetDataPreprocessor',),
    'neck': ('FPN',),
    'rpn_head': ('RPNHead',),
    'rpn_head.prior_generator': ('AnchorGenerator',),
    'rpn_head.bbox_coder': ('DeltaXYWHBBoxCoder',),
    'roi_head': ('StandardRoIHead', 'CascadeRoIHead'),
    'roi_head.shared_head': (),
    'roi_head.bbox_roi_extractor': ('SingleRoIExtractor',),
    'roi_head.bbox_roi_extractor.roi_layers': ('RoIAlign',),
    'roi_head.bbox_head': _BOX_HEADS,
    'roi_head.bbox_head.bbox_coder': ('DeltaXYWHBBoxCoder',),
    'roi_head.bbox_head.loss_cls': ('CrossEntropyLoss',),
    'roi_head.mask_roi_extractor': ('SingleRoIExtractor',),
    'roi_head.mask_roi_extractor.roi_layers': ('RoIAlign',),
    'roi_head.mask_head': ('FCNMaskHead',),
}
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    'ImageClassifier': {'backbone': BACKBONES, 'data_preprocessor': ('ImagePreprocessor',)},
    'EncoderDecoder': _SEGMENTOR,
    'FasterRCNN': _DETECTOR,
    'MaskRCNN': _DETECTOR,
    'CascadeRCNN': _DETECTOR,
}


def build_network(model: BaseModel) -> Network:
    """The network of a trained model, over its own modules: from normalized images to tensors, without data samples.

    Args:
        model: As of :mod:`.builders`, in eval mode.

    Raises:
        UserError: The model, or a part or a setting of it, is none that is computed exactly; before anything is.
    """
    name = type(model).__name__
    if name not in PARTS:
        raise _refusal(f'type={name}', tuple(PARTS))
    for attribute, known in PARTS[name].items():
        for part in _find_parts(model, attribute):
            if type(part).__name__ not in known:
                raise _refusal(f'{attribute}={type(part).__name__}', known)
    if name == 'ImageClassifier':
        return ClassifierNetwork(model).eval()
    if name == 'EncoderDecoder':
        _check(model, {'align_corners': False, 'decode_head.num_classes': model.out_channels})
        _check(model, {'data_preprocessor.test_cfg': None})
        return SegmentorNetwork(model).eval()
    _check_detector(model)
    return DetectorNetwork(model).eval()


def _check_detector(model: BaseModel) -> None:
    for head in ('rpn_head', 'roi_head.bbox_head'):
        _check(model, {f'{head}.bbox_coder.clip_border': True, f'{head}.bbox_coder.add_ctr_clamp': False})
    _check(model, {'roi_head.bbox_head.with_avg_pool': False, 'roi_head.bbox_head.loss_cls.use_sigmoid': False})
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        _check(model, {f'roi_head.{extractor}.roi_layers.pool_mode': 'avg'})
    for name, settings in (('rpn_head', model.rpn_head.test_cfg), ('roi_head', model.roi_head.test_cfg)):
        nms = {'type': 'nms', **settings.nms}
        if {**nms, 'iou_threshold': 0} != {'type': 'nms', 'iou_threshold': 0}:
            raise _refusal(f'{name}.test_cfg.nms={dict(settings.nms)}', ("dict(type='nms', iou_threshold=...)",))


def _check(model: BaseModel, settings: dict[str, object]) -> None:
    for place, value in settings.items():
        for found in _find_parts(model, place):
            if found != value:
                raise _refusal(f'{place}={found!r}', (repr(value),))


def _find_parts(model: object, place: str) -> list[object]:
    """What is found at a dotted name, in each module of the lists on the way; nothing where one lacks it."""
    found = [model]
    for name in place.split('.'):
        inner = [getattr(one, name, None) for one in found]
        found = [one for part in inner for one in (part if isinstance(part, nn.ModuleList) else [part])]
        found = [one for one in found if one is not None]
    return found


def _refusal(what: str, known: tuple[str, ...]) -> UserError:
    takes = f'there {"is" if len(known) == 1 else "are"} {", ".join(known)}' if known else 'it has to be left out'
    return UserError(f'The model has {what}, which cannot be exported: {takes}; predict with tools/predict.py.')
