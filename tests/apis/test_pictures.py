"""The list of configs, and pictures of predictions, data and feature maps. Exact, except for what mmdet draws."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refusal
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as coco_mask

from convnext_backbone import ImagePreprocessor
from convnext_backbone.apis.browse_data import build_loader, feed, label_parts
from convnext_backbone.apis.builders import build_detector, build_segmentor, build_stages
from convnext_backbone.apis.coco_output import find_ids
from convnext_backbone.apis.detection import DetectionTask
from convnext_backbone.apis.image_files import ImageFile
from convnext_backbone.apis.model_inputs import build_input_pipeline, build_preprocessor, denormalize
from convnext_backbone.apis.segmentation import SegmentationTask
from convnext_backbone.config.load import load_config
from convnext_backbone.utils.image_io import read_image

CONFIGS = REPOSITORY / 'configs'
DETECTOR = CONFIGS / 'demo/cascade_convnext_atto_shapes.py'
CLASSIFIER = CONFIGS / 'demo/pretrain_convnext_atto_shapes.py'
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200]]
NORMALISATION = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
SEGMENTOR = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), seg_pad_val=255, **NORMALISATION),
    backbone=dict(type='ConvNeXt', arch='atto', layer_scale_init_value=1.0),
    decode_head=dict(
        type='UPerHead',
        in_channels=[40, 80, 160, 320],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=16,
        num_classes=len(CLASSES),
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(48, 48)),
)
MIXED = ['model.data_preprocessor.mixup_alpha=0.8', 'model.data_preprocessor.cutmix_alpha=1.0']
MIXED += ['model.data_preprocessor.random_erasing=0.5', 'model.label_smoothing=0.1']
MIXED += ['train_dataloader.batch_size=4', 'auto_scale_lr.base_batch_size=4', 'randomness.seed=3']


def write_config(path: Path, **settings: object) -> Path:
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in settings.items()))
    return path


@pytest.fixture(scope='module')
def folder(shapes, tmp_path_factory) -> Path:
    """A config and a checkpoint of each task; without base configs, which take seconds to find."""
    folder = tmp_path_factory.mktemp('pictures')
    load = [dict(type='LoadImageFromFile')]
    resize = [dict(type='Resize', scale=(160, 120), keep_ratio=True)]
    annotations = [dict(type='LoadAnnotations', reduce_zero_label=True)]
    pack = [dict(type='PackSegInputs')]
    test_pipeline = [*load, *resize, *annotations, *pack]
    common = dict(
        type='BaseSegDataset',
        data_root=str(shapes / 'ade'),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        reduce_zero_label=True,
    )
    parts = dict(train='training', val='validation')
    prefixes = {k: dict(img_path=f'images/{v}', seg_map_path=f'annotations/{v}') for k, v in parts.items()}
    crop = [dict(type='RandomCrop', crop_size=(64, 64)), dict(type='RandomFlip', prob=0.5)]
    val = dict(
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(pipeline=test_pipeline, data_prefix=prefixes['val'], **common),
    )
    write_config(
        folder / 'segmentor.py',
        default_scope='mmseg',
        model=SEGMENTOR,
        test_pipeline=test_pipeline,
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dict(
                pipeline=[*load, *annotations, *crop, *pack],
                data_prefix=prefixes['train'],
                **common,
            ),
        ),
        val_dataloader=val,
        test_dataloader=val,
    )
    for name, config, data_root in (
        ('detector', DETECTOR, shapes),
        ('classifier', CLASSIFIER, shapes / 'imagenet'),
        ('segmentor', folder / 'segmentor.py', None),
        ('isotropic', CLASSIFIER, shapes / 'imagenet'),
    ):
        cfg = load_config(config, data_root=data_root)
        if name == 'isotropic':
            cfg.model.backbone = dict(type='ConvNeXtIsotropic', arch=dict(depths=[2], channels=[16]))
        cfg.dump(folder / f'{name}.py')
        torch.manual_seed(0)
        init_default_scope(cfg.default_scope)
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), folder / f'{name}.pth')
    return folder


@pytest.fixture(scope='module')
def photo(shapes) -> Path:
    return sorted((shapes / 'val2017').glob('*.jpg'))[0]


# ---- the list --------------------------------------------------------------------------------------------------------


def test_the_list_has_every_config_once_under_its_task(tmp_path, call_tool, capsys):
    with pytest.raises(SystemExit) as end:
        call_tool('train.py', '--list', cwd=tmp_path)
    assert end.value.code == 0
    tasks, found = [], {}
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(' '):
            tasks.append(line)
            continue
        path, purpose = line.split(maxsplit=1)
        assert (tmp_path / path).resolve() not in found
        found[(tmp_path / path).resolve()] = tasks[-1]
        comment = ' '.join(line.strip('# \n') for line in (tmp_path / path).read_text().splitlines()[:3])
        assert len(purpose) > 20 and purpose.split('. ')[0].rstrip('.') in comment
    assert set(found) == {path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts}
    assert sorted(tasks) == sorted(set(found.values())) and {'detection', 'classification'} <= set(tasks)
    pretraining = CONFIGS / 'fcmae_convnext_v2_t_imagenet.py'
    for config, scope in ((DETECTOR, 'detection'), (CLASSIFIER, 'classification'), (pretraining, 'pretraining')):
        assert found[config] == scope


def test_the_listed_task_is_the_default_scope(tmp_path):
    """For one config of each kind: reading all of them takes a minute."""
    from convnext_backbone.config.recipes import find_scope

    kinds = {path.name.split('_')[0]: path for path in CONFIGS.glob('*.py')}
    assert len(kinds) > 4
    for path in kinds.values():
        assert find_scope(path) == Config.fromfile(path).default_scope


def test_without_a_config_the_usage_is_shown(tmp_path, call_tool, capsys):
    with pytest.raises(SystemExit) as end:
        call_tool('train.py', cwd=tmp_path)
    assert end.value.code == 2 and 'CONFIG' in capsys.readouterr().err


# ---- segmentation ----------------------------------------------------------------------------------------------------


def test_segmentation_equals_that_of_mmseg(folder, shapes, photo, tmp_path, call_tool):
    from mmseg.apis import inference_model

    images = [photo, sorted((shapes / 'val2017').glob('*.jpg'))[1]]
    arguments = [folder / 'segmentor.py', folder / 'segmentor.pth', *images, '--work-dir', 'out']
    result = call_tool('predict.py', *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    out = tmp_path / 'out/predictions'
    assert sorted(path.name for path in out.glob('*.*')) == [
        *(path.name for path in images),
        'overview.png',
        'predictions.json',
    ]
    found = json.loads((out / 'predictions.json').read_text())
    assert [one['image'] for one in found] == [str(path) for path in images]
    assert any(line.startswith(f'{photo}: ') and ' %' in line for line in result.stdout.splitlines())
    model = build_segmentor(Config.fromfile(folder / 'segmentor.py'), str(folder / 'segmentor.pth'))
    present = set()
    for one in found:
        ids = cv2.imread(str(tmp_path / one['class_ids']), cv2.IMREAD_UNCHANGED)
        expected = inference_model(model, cv2.imread(one['image'])).pred_sem_seg.data[0].numpy()
        assert ids.shape == expected.shape and (ids == expected).all()
        assert sum(part['share'] for part in one['classes']) == pytest.approx(1)
        for part in one['classes']:
            assert part['share'] == pytest.approx((expected == part['label']).mean())
            assert part['class'] == CLASSES[part['label']]
        present |= {part['label'] for part in one['classes']}
    assert len(present) > 1


def test_a_large_image_is_scored_small_and_enlarged(folder, photo, tmp_path, monkeypatch):
    model = build_segmentor(Config.fromfile(folder / 'segmentor.py'), str(folder / 'segmentor.pth'))
    monkeypatch.setattr('convnext_backbone.apis.model_inputs.MAX_PIXELS', 48 * 64)
    seen = []
    model.register_forward_hook(lambda _, inputs, result: seen.append(result[0].seg_logits.data.shape))
    (one,) = SegmentationTask(model, tmp_path).predict([ImageFile(photo, tmp_path / photo.name)])
    assert [tuple(shape) for shape in seen] == [(len(CLASSES), 48, 64)]
    assert cv2.imread(str(one['class_ids']), cv2.IMREAD_UNCHANGED).shape == (96, 128)
    assert one['drawn'].shape[0] > 96


def test_an_unusable_segmentor_is_refused(folder, photo, tmp_path, call_tool):
    fewer = ['--cfg-options', "test_dataloader.dataset.metainfo.classes=('a','b')"]
    fewer += ['test_dataloader.dataset.metainfo.palette=[[0,0,0],[9,9,9]]']
    other = ['--cfg-options', 'model.backbone.arch=femto', 'model.decode_head.in_channels=[48,96,192,384]']
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    for image, options, named in (
        (photo, fewer, ['5 classes', '2 are named', 'metainfo']),
        (photo, other, ['segmentor.pth does not fit', 'backbone']),
        ('broken.jpg', [], ['broken.jpg cannot be decoded']),
    ):
        arguments = [folder / 'segmentor.py', folder / 'segmentor.pth', image, *options]
        sentence = refusal(call_tool('predict.py', *arguments, cwd=tmp_path))
        assert all(word in sentence for word in named), sentence


def test_folders_are_predicted_but_for_broken_images(folder, shapes, tmp_path, call_tool):
    """Their pictures mirror the subfolders; what cannot be used is named at the end, and the rest is written."""
    photos = sorted((shapes / 'val2017').glob('*.jpg'))
    for name, source in (('0.jpg', 0), ('a/0.jpg', 1), ('a/b/2.jpg', 2)):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[source], tmp_path / 'in' / name)
    (tmp_path / 'in/a/cut.jpg').write_bytes(photos[3].read_bytes()[:600])
    cv2.imwrite(str(tmp_path / 'in/a/narrow.png'), np.zeros((1, 3000, 3), np.uint8))
    for tool, out in (('predict', 'out/predictions'), ('show_features', 'out/features')):
        arguments = [folder / 'segmentor.py', folder / 'segmentor.pth', 'in', '--work-dir', 'out']
        result = call_tool(f'{tool}.py', *arguments, cwd=tmp_path)
        sentence = refusal(result)
        assert '2 of 5 images' in sentence and 'in/a/cut.jpg' in sentence and 'in/a/narrow.png' in sentence
        assert 'left out: The image in/a/cut.jpg cannot be decoded (' in result.stderr
        assert 'left out: The image in/a/narrow.png of 3000 x 1 pixels cannot be used: Resize of' in result.stderr
        pictures = {str(path.relative_to(tmp_path / out)) for path in (tmp_path / out).rglob('*.jpg')}
        assert pictures == {'0.jpg', 'a/0.jpg', 'a/b/2.jpg'} and (tmp_path / out / 'overview.png').is_file()
    found = json.loads((tmp_path / 'out/predictions/predictions.json').read_text())
    assert [one['image'] for one in found] == ['in/0.jpg', 'in/a/0.jpg', 'in/a/b/2.jpg']
    assert [one['class_ids'] for one in found][2] == 'out/predictions/class_ids/a/b/2.png'


@pytest.mark.parametrize(('name', 'named'), [('detector', 'nowhere.json cannot be read'), ('segmentor', 'detections')])
def test_annotations_that_cannot_be_used_are_named(name, named, folder, photo, tmp_path, call_tool):
    arguments = [folder / f'{name}.py', folder / f'{name}.pth', photo, '--ann', 'nowhere.json', '--work-dir', 'out']
    assert named in refusal(call_tool('predict.py', *arguments, cwd=tmp_path))


@pytest.fixture
def four_bands(folder, shapes, tmp_path) -> Path:
    """Config and checkpoint of a segmentor of RGB and infrared, with its data."""
    for path in (shapes / 'ade').rglob('images/*/*.jpg'):
        image = cv2.imread(str(path))
        target = tmp_path / 'data' / path.relative_to(shapes / 'ade').with_suffix('.png')
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.dstack([image, 255 - image[..., 1]]))
    (tmp_path / 'data/annotations').symlink_to(shapes / 'ade/annotations')
    cfg = Config.fromfile(folder / 'segmentor.py')
    load = dict(type='LoadImageFromFile', color_type='unchanged')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[0] = load
        loader.dataset.update(img_suffix='.png', data_root=str(tmp_path / 'data'))
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline  # where mmseg's own inference looks
    cfg.model.backbone.in_channels = 4
    cfg.model.data_preprocessor.update(mean=[100.0], std=[50.0], bgr_to_rgb=False)  # of all bands
    cfg.dump(tmp_path / 'bands.py')
    torch.manual_seed(0)
    init_default_scope('mmseg')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'bands.pth')
    return tmp_path


def test_images_are_loaded_as_the_config_says(four_bands, call_tool):
    """Of four bands the first three are shown, which OpenCV loads as BGR."""
    from mmseg.apis import inference_model

    photo = sorted(four_bands.rglob('images/validation/*.png'))[0]
    cfg = Config.fromfile(four_bands / 'bands.py')
    arguments = [four_bands / 'bands.py', four_bands / 'bands.pth', photo, '--work-dir', 'out']
    for tool in ('predict', 'show_features'):
        result = call_tool(f'{tool}.py', *arguments, cwd=four_bands)
        assert result.returncode == 0, result.stderr[-2000:]
    (one,) = json.loads((four_bands / 'out/predictions/predictions.json').read_text())
    ids = cv2.imread(str(four_bands / one['class_ids']), cv2.IMREAD_UNCHANGED)
    expected = inference_model(build_segmentor(cfg, str(four_bands / 'bands.pth')), str(photo))
    assert (ids == expected.pred_sem_seg.data[0].numpy()).all() and len(np.unique(ids)) > 1
    shown, painted = cv2.imread(str(photo)), cv2.imread(str(four_bands / 'out/predictions' / photo.name))
    colours = np.array(PALETTE)[ids][..., ::-1]
    assert np.abs(painted[: ids.shape[0], : ids.shape[1]] - (shown + colours) / 2).max() <= 0.5
    assert len(browse(call_tool, four_bands / 'bands.py', '--number', '2', cwd=four_bands)) == 2


def test_masks_of_a_large_image_are_predicted_small_and_enlarged(folder, photo, tmp_path, monkeypatch):
    """Boxes stay those of the full size; below the limit nothing changes, to the bit."""
    cfg = Config.fromfile(folder / 'detector.py')
    cfg.model.test_cfg.rcnn.max_per_img = 8
    model = build_detector(cfg, str(folder / 'detector.pth'))
    seen = []
    model.register_forward_hook(lambda _, inputs, result: seen.append(tuple(result[0].pred_instances.masks.shape)))
    found = []
    for limit in (96 * 128, 96 * 128 - 1, 24 * 32):
        monkeypatch.setattr('convnext_backbone.apis.model_inputs.MAX_PIXELS', limit)
        task = DetectionTask(model, find_ids(cfg, CLASSES), 0)
        (one,) = task.predict([ImageFile(photo, tmp_path / f'{limit}.png')])
        assert (one['height'], one['width']) == (96, 128)
        found.append(one['detections'])
    assert seen == [(8, 96, 128), (8, 96, 128), (8, 24, 32)]
    assert found[0] == found[1] and len(found[0]) == 8
    for (label, exact), (other, small) in zip(found[0], found[2], strict=True):
        assert label == other and exact['score'] == small['score']
        assert small['bbox'] == pytest.approx(exact['bbox'], abs=1e-4)
        masks = [coco_mask.decode(one['segmentation']) for one in (exact, small)]
        assert masks[1].shape == (96, 128) and small['area'] == masks[1].sum()
        assert (masks[0] != masks[1]).mean() < 0.1  # random weights draw fine noise
    assert one['drawn'].shape == (24, 32, 3)


# ---- data ------------------------------------------------------------------------------------------------------------


def browse(call_tool, config: Path, *arguments: object, cwd: Path, split: str = 'train') -> list[np.ndarray]:
    result = call_tool('browse_data.py', config, '--work-dir', 'out', '--split', split, *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr[-2000:]
    pictures = sorted((cwd / 'out/browse').glob(f'{split}_*.png'))
    assert f'{len(pictures)} pictures: ' in result.stdout and (cwd / 'out/browse/overview.png').is_file()
    return [read_image(path) for path in pictures]


PLAIN = ['train_dataloader.sampler.shuffle=False', 'train_dataloader.dataset.pipeline.3.prob=[0.0,0.0]']
PLAIN += ['train_dataloader.dataset.pipeline.2.scale=(128,96)', 'val_dataloader.dataset.pipeline.1.scale=(128,96)']


@pytest.mark.parametrize('split', ['train', 'val'])
def test_objects_are_drawn_at_their_boxes(split, folder, shapes, tmp_path, call_tool):
    """Without augmentation a picture equals the image outside of its objects, and differs inside."""
    pictures = browse(
        call_tool, folder / 'detector.py', '--number', '3', '--cfg-options', *PLAIN, cwd=tmp_path, split=split
    )
    assert len(pictures) == 3
    coco = json.loads((shapes / f'annotations/instances_{split}2017.json').read_text())
    for picture, image in zip(pictures, coco['images'], strict=False):
        photo = read_image(shapes / f'{split}2017' / image['file_name'])
        changed = np.abs(picture[:96, :128].astype(int) - photo).max(axis=2) > 1
        boxes = [a['bbox'] for a in coco['annotations'] if a['image_id'] == image['id']]
        outside = np.ones((96, 128), bool)
        for x, y, width, height in boxes:
            inside = slice(int(y), int(y + height)), slice(int(x), int(x + width))
            assert changed[inside].mean() > 0.3
            # Lines are 3 pixels wide, and a name may be longer than its box.
            outside[max(0, int(y) - 4) : int(y + height) + 5, max(0, int(x) - 4) : int(x + max(width, 50)) + 5] = False
        assert outside.sum() > 500 and not changed[outside].any()
        assert picture.shape[0] > 96  # a legend


def test_denormalized_inputs_of_a_detector_equal_the_image(folder, shapes):
    """To the last bit, without resizing and flipping."""
    cfg = load_config(folder / 'detector.py')
    cfg.merge_from_dict(
        {
            'train_dataloader.sampler.shuffle': False,
            'train_dataloader.dataset.pipeline.3.prob': [0.0, 0.0],
            'train_dataloader.dataset.pipeline.2.scale': (128, 96),
        }
    )
    init_default_scope('mmdet')
    preprocessor = build_preprocessor(cfg)
    batch = next(feed(build_loader(cfg, 'train', 0), preprocessor, 0, training=True))
    for image, sample in zip(denormalize(batch['inputs'], preprocessor), batch['data_samples'], strict=True):
        assert (image == read_image(sample.img_path)).all()


@pytest.mark.parametrize('name', ['detector', 'segmentor', 'classifier'])
def test_the_seed_determines_the_pictures(name, folder, tmp_path, call_tool):
    runs = []
    for cwd, seed in (('one', 5), ('two', 5), ('three', 6)):
        (tmp_path / cwd).mkdir()
        options = ['--number', '4', '--cfg-options', f'randomness.seed={seed}', 'train_dataloader.batch_size=2']
        runs.append(browse(call_tool, folder / f'{name}.py', *options, cwd=tmp_path / cwd))
        assert len(runs[-1]) == 4
    one, two, three = runs
    assert all(a.shape == b.shape and (a == b).all() for a, b in zip(one, two, strict=True))
    assert not all(a.shape == b.shape and (a == b).all() for a, b in zip(one, three, strict=True))


def test_the_drawn_samples_are_those_of_a_run(folder, tmp_path, call_tool, monkeypatch):
    """To the last bit: cropped, mixed and erased images, and their labels."""
    fed = []
    forward = ImagePreprocessor.forward

    def recorded(self, data, training=False):
        result = forward(self, data, training)
        if training:
            fed.append({name: value.clone() for name, value in result.items()})
        return result

    with monkeypatch.context() as patch:
        patch.setattr(ImagePreprocessor, 'forward', recorded)
        options = [*MIXED, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9', 'default_hooks.logger.interval=1']
        result = call_tool(
            'train.py', folder / 'classifier.py', '--work-dir', 'run', '--cfg-options', *options, cwd=tmp_path
        )
    assert result.returncode == 0, result.stderr[-2000:]
    cfg = load_config(folder / 'classifier.py')
    cfg.merge_from_dict({name: json.loads(value) for name, value in (option.split('=') for option in MIXED)})
    preprocessor = build_preprocessor(cfg)
    batches = [*feed(build_loader(cfg, 'train', 3), preprocessor, 3, training=True)]
    assert len(fed) == len(batches) > 2
    for ours, theirs in zip(batches, fed, strict=True):
        assert torch.equal(ours['inputs'], theirs['inputs']) and torch.equal(ours['labels'], theirs['labels'])
        for label in ours['labels']:
            parts = label_parts(label, CLASSES, smoothing=0.1)
            assert sum(part for _, part in parts) == pytest.approx(1, abs=1e-5)
            for name, part in parts[:-1]:
                assert label[CLASSES.index(name)] == pytest.approx(part + 0.1 / 5, abs=1e-6)
            assert parts[-1] == ('spread over all classes', 0.1) and 2 <= len(parts) <= 3
    assert max(len(label_parts(label, CLASSES, 0.1)) for batch in batches for label in batch['labels']) == 3


def test_labels_have_their_shares():
    assert label_parts(torch.tensor(3), CLASSES) == [('star', 1.0)]
    assert label_parts(torch.tensor(-1), CLASSES) == [('unreadable', 1.0)]
    soft = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    assert label_parts(soft, CLASSES) == [('star', 0.75), ('square', 0.25)]


def test_mixed_images_are_drawn_with_their_shares(folder, tmp_path, call_tool):
    pictures = browse(call_tool, folder / 'classifier.py', '--number', '6', '--cfg-options', *MIXED, cwd=tmp_path)
    lines = {(picture.shape[0] - 360 - 6) / 22 for picture in pictures}
    assert len(pictures) == 6 and lines <= {2, 3} and 3 in lines


def test_masks_fit_the_model_input(folder, shapes, tmp_path, call_tool):
    """Also in validation, where masks are loaded at the size of the original image."""
    pictures = browse(call_tool, folder / 'segmentor.py', cwd=tmp_path, split='val')
    photos = sorted((shapes / 'ade/images/validation').glob('*.jpg'))
    assert len(pictures) == len(photos) == 4
    for picture, path in zip(pictures, photos, strict=True):
        mask = cv2.imread(str(shapes / f'ade/annotations/validation/{path.stem}.png'), cv2.IMREAD_UNCHANGED)
        mask = cv2.resize(mask, (160, 120), interpolation=cv2.INTER_NEAREST)
        photo = cv2.resize(read_image(path), (160, 120), interpolation=cv2.INTER_LINEAR)
        assert (picture[:120, :160][mask == 0] == photo[mask == 0]).all()
        for label in set(np.unique(mask)) - {0}:
            expected = (photo[mask == label].astype(float) + PALETTE[label - 1]) / 2
            assert np.abs(picture[:120, :160][mask == label] - expected).max() <= 0.5


def test_invalid_requests_are_named(folder, tmp_path, call_tool):
    for arguments, named in (
        (['--data-root', 'nowhere'], ['train data', 'nowhere', '--data-root']),
        (['--number', '0'], ['--number=0']),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], ['segmentor.py', 'val_dataloader']),
        (['--cfg-options', 'default_scope=mmpretrain'], ["'mmpretrain'", 'mmseg']),
    ):
        sentence = refusal(call_tool('browse_data.py', folder / 'segmentor.py', *arguments, cwd=tmp_path))
        assert all(word in sentence for word in named), sentence


# ---- feature maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('name', 'stages'), [('detector', 4), ('segmentor', 4), ('classifier', 4), ('isotropic', 1)])
def test_feature_maps_are_drawn(name, stages, folder, photo, tmp_path, call_tool):
    """One panel for the image and two for each stage, none of a single colour."""
    arguments = [folder / f'{name}.py', folder / f'{name}.pth', photo, photo, '--work-dir', 'out']
    result = call_tool('show_features.py', *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    out = tmp_path / 'out/features'
    assert sorted(path.name for path in out.iterdir()) == [photo.name, f'{photo.stem}_2.jpg', 'overview.png']
    picture = cv2.imread(str(out / photo.name))
    columns = 1 + stages
    assert picture.shape[1] == columns * 328
    panels = [panel for row in np.split(picture, 2) for panel in np.split(row, columns, axis=1)]
    assert [panel[10:100, 10:200].std() > 5 for panel in panels] == columns * [True] + [False] + stages * [True]


def test_feature_maps_equal_those_of_the_model(folder, photo):
    """With the model's own output norms the stages return the inputs of its neck. Exact."""
    cfg = Config.fromfile(folder / 'detector.py')
    stages = build_stages(cfg, str(folder / 'detector.pth'))
    detector = MODELS.build(cfg.model).eval()
    detector.load_state_dict(torch.load(folder / 'detector.pth')['state_dict'])
    inputs = build_input_pipeline(cfg, build_preprocessor(cfg))(photo)
    with torch.no_grad():
        for i, (own, expected) in enumerate(zip(stages(inputs), detector.backbone(inputs), strict=True)):
            torch.testing.assert_close(getattr(detector.backbone, f'norm{i}')(own), expected)


def test_backbones_without_stages_are_named(folder, photo, tmp_path, call_tool):
    torch.save(dict(other=torch.zeros(3)), tmp_path / 'other.pth')
    for checkpoint, options, named in (
        (folder / 'segmentor.pth', ['--cfg-options', 'model.backbone.type=ResNet'], ["'ResNet'", 'ConvNeXt']),
        ('nowhere.pth', [], ['nowhere.pth', 'does not exist']),
        ('other.pth', [], ['other.pth']),
    ):
        result = call_tool('show_features.py', folder / 'segmentor.py', checkpoint, photo, *options, cwd=tmp_path)
        sentence = refusal(result)
        assert all(word in sentence for word in named), sentence
