# Cascade Mask R-CNN with ConvNeXt-atto from random weights on the drawn shapes of tools/make_shapes.py: what `make demo`
# trains, in some minutes on 2 CPU cores.
#
#   python tools/make_shapes.py data/shapes && python tools/train.py configs/demo/cascade_convnext_atto_shapes.py
_base_ = ['../_base_/cascade_small.py']

classes = ('circle', 'square', 'triangle', 'star', 'cross')
model = dict(
    roi_head=dict(
        bbox_head=[dict(num_classes=len(classes), **head) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(num_classes=len(classes)),
    )
)
