"""Train a model of each task for a few steps, in one process or several, each started once.

torchrun --nproc-per-node N tests/train_all_tasks.py DATA OUT [--resume 'RUN/{task}/epoch_1.pth'] [--options K=V ...]
"""

import argparse
import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

from conftest import REPOSITORY, managers

DEMO = REPOSITORY / 'configs/demo'
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
# Steps of four images in batches of one, whatever the number of processes: all random draws are by image.
COMMON = [
    'auto_scale_lr.base_batch_size=4',
    'optim_wrapper.accumulative_counts=auto',
    'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=0',
    'model.backbone.drop_path_rate=0.5',
    'default_hooks.logger.interval=1',
    'randomness.seed=3',
]
CLASSIFIER = [
    'model.data_preprocessor.mixup_alpha=0.0',  # mixes the images of a batch
    'model.data_preprocessor.cutmix_alpha=0.0',
    'train_dataloader.dataset.transform.input_size=32',
    'val_dataloader.dataset.transform.input_size=32',
    'train_cfg.max_epochs=3',
    'train_cfg.val_interval=3',
]
WIDTH = 16  # channels of all layers after the backbone of the detector
NARROW = [
    'neck.out_channels',
    'rpn_head.in_channels',
    'rpn_head.feat_channels',
    'roi_head.bbox_roi_extractor.out_channels',
    'roi_head.mask_roi_extractor.out_channels',
    'roi_head.mask_head.in_channels',
    'roi_head.mask_head.conv_out_channels',
    *(f'roi_head.bbox_head.{stage}.{name}' for stage in range(3) for name in ('in_channels', 'fc_out_channels')),
]
DETECTOR = [
    'model.backbone.fused=True',
    'train_cfg.max_epochs=3',
    'train_cfg.val_interval=9',
    # All proposals are kept and trained on: rounding decides which of those with equal scores are the best.
    'train_dataloader.dataset.pipeline.2.scale=(64,48)',
    'model.train_cfg.rpn_proposal.nms_pre=4096',
    'model.train_cfg.rpn_proposal.max_per_img=4096',
    'model.train_cfg.rpn_proposal.nms.iou_threshold=1.0',
    *(f'model.train_cfg.rcnn.{stage}.sampler.num=4096' for stage in range(3)),
    *(f'model.{name}={WIDTH}' for name in NARROW),
]
# Without averaged weights, which a sharded model does not support.
CLASSIFIER_CONFIG = f"""
_base_ = {str(DEMO / 'pretrain_convnext_atto_shapes.py')!r}
custom_hooks = [dict(type='FiniteCheckHook')]
"""
SEGMENTOR_CONFIG = f"""
_base_ = {str(DEMO / 'upernet_convnext_atto_camvid.py')!r}
head = dict(num_classes=5, channels=16)
# Batch norm needs more than one value per channel, so no pooling to 1 x 1.
model = dict(data_preprocessor=dict(size=(64, 64)), decode_head=dict(pool_scales=(2, 3), **head), auxiliary_head=head)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
small = [dict(type='Resize', scale=(96, 72), keep_ratio=False), dict(type='RandomCrop', crop_size=(64, 64))]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='ade/images/training', seg_map_path='ade/annotations/training'),
        metainfo=dict(_delete_=True, classes={CLASSES}),
        reduce_zero_label=True,
        pipeline=[*load, *small, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')],
    ),
)
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=3)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
"""
AUTOENCODER_CONFIG = f"""
_base_ = {str(DEMO / 'fcmae_convnext_v2_atto_shapes.py')!r}
model = dict(backbone=dict(fused=True), decoder_dim=64)
train_dataloader = dict(
    dataset=dict(ann_file='annotations/instances_train2017.json', transform=dict(input_size=64))
)
train_cfg = dict(max_epochs=3, val_interval=9)
"""


def main() -> None:
    """Train each as a user would; checkpoints are in OUT/<task>."""
    parser = argparse.ArgumentParser()
    parser.add_argument('data', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--resume')
    parser.add_argument('--options', nargs='*', default=[])
    args = parser.parse_args()
    classifier, segmentor, autoencoder = (
        args.out / f'{task}.py' for task in ('classifier', 'segmentor', 'autoencoder')
    )
    classifier.write_text(CLASSIFIER_CONFIG)
    segmentor.write_text(SEGMENTOR_CONFIG)
    autoencoder.write_text(AUTOENCODER_CONFIG)
    detector = DEMO / 'cascade_convnext_atto_shapes.py'
    spec = importlib.util.spec_from_file_location('train', REPOSITORY / 'tools/train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for task, config, root, own in (
        ('classifier', classifier, args.data / 'imagenet', CLASSIFIER),
        ('detector', detector, args.data, DETECTOR),
        ('frozen detector', detector, args.data, [*DETECTOR, 'model.backbone.frozen_stages=2']),
        ('segmentor', segmentor, args.data, []),
        ('autoencoder', autoencoder, args.data, []),
    ):
        for kind in managers():  # a name is good for one run a second
            kind._instance_dict = OrderedDict()
        command = ['train.py', config, '--data-root', root, '--work-dir', args.out / task, '--launcher', 'pytorch']
        if args.resume is not None:
            command += ['--resume', args.resume.format(task=task)]
        sys.argv = [*map(str, command), '--cfg-options', *COMMON, *own, *args.options]
        if tool.main() != 0:
            sys.exit(f'{task}: failed')


if __name__ == '__main__':
    main()
