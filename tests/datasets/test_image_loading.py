"""Loading of images and annotations for every task: the right pixels, or one sentence that names the file. Exact."""

import functools
import io
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refusal
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from convnext_backbone import UserError, read_checkpoint
from convnext_backbone.config.load import load_config
from convnext_backbone.datasets.image_loading import guard_image_loading, read_bgr
from convnext_backbone.utils.image_io import read_image

DETECTOR = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'
CLASSIFIER = REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py'
SEGMENTOR = REPOSITORY / 'configs/demo/upernet_convnext_atto_camvid.py'
HEIGHT, WIDTH = 48, 64
JPEG_LOSS = 8  # of 255, at quality 100

# How an upright image is stored with each EXIF orientation; in words of the standard, the side of the scene that the
# first row and the first column show.
STORED = {
    1: lambda image: image,  # top, left
    2: lambda image: image[:, ::-1],  # top, right
    3: lambda image: image[::-1, ::-1],  # bottom, right
    4: lambda image: image[::-1],  # bottom, left
    5: lambda image: image.swapaxes(0, 1),  # left, top
    6: lambda image: image[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda image: image[::-1].swapaxes(0, 1),  # left, bottom
}


def draw_scene() -> np.ndarray:
    """Draw an image that any rotation, channel order or clipping changes."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    scene = np.stack([x * 3 + 20, y * 4 + 10, 250 - x - y * 2], axis=-1).astype(np.uint8)
    scene[4:20, 6:30] = 240, 20, 30
    return scene


def encode(image: np.ndarray | Image.Image, suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    lossless = dict(jpeg=dict(quality=100, subsampling=0), webp=dict(lossless=True, exact=True)).get(suffix, {})
    picture.save(buffer, suffix, **lossless, **options)
    return buffer.getvalue()


def encode_deep(image: np.ndarray, suffix: str) -> bytes:
    """Encode in 16 bits: 0 is black, 65535 is white."""
    deep = image.astype(np.uint16) * 257
    if image.ndim == 3:
        deep = cv2.cvtColor(deep, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(suffix, deep)[1].tobytes()


def rotated(image: np.ndarray, orientation: int, suffix: str = 'jpeg') -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(STORED[orientation](image), suffix, exif=exif)


def draw_kinds() -> dict[str, tuple[bytes, np.ndarray, int]]:
    """Files of every kind, each with its displayed pixels and the largest difference allowed."""
    scene = draw_scene()
    grey = scene[..., 1]
    greys, dots = np.stack([grey] * 3, axis=-1), np.stack([(grey > 100) * np.uint8(255)] * 3, axis=-1)
    alpha = (np.arange(WIDTH, dtype=np.uint8) * 4)[None].repeat(HEIGHT, axis=0)
    ink = np.dstack([255 - scene, alpha // 2])
    printed = np.rint((255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    indices = Image.fromarray(grey)
    indices.putpalette(colours.tobytes())
    kinds = {
        'jpeg': (encode(scene, 'jpeg'), scene, JPEG_LOSS),
        'png': (encode(scene, 'png'), scene, 0),
        'grey jpeg': (encode(grey, 'jpeg'), greys, JPEG_LOSS),
        'grey png': (encode(grey, 'png'), greys, 0),
        'black and white png': (encode(Image.fromarray(dots[..., 0]).convert('1'), 'png'), dots, 0),
        'palette png': (encode(indices, 'png'), colours[grey], 0),
        'palette png with a transparent colour': (encode(indices, 'png', transparency=130), colours[grey], 0),
        'transparent png': (encode(np.dstack([scene, alpha]), 'png'), scene, 0),
        'transparent webp': (encode(np.dstack([scene, alpha]), 'webp'), scene, 0),
        'transparent grey png': (encode(Image.fromarray(np.dstack([grey, alpha]), 'LA'), 'png'), greys, 0),
        '16-bit png': (encode_deep(scene, '.png'), scene, 0),
        '16-bit tiff': (encode_deep(scene, '.tif'), scene, 0),
        '16-bit transparent png': (encode_deep(np.dstack([scene, alpha]), '.png'), scene, 0),
        '16-bit grey png': (encode_deep(grey, '.png'), greys, 0),
        '16-bit grey tiff': (encode_deep(grey, '.tif'), greys, 0),
        '16-bit grey tiff of a Mac': (encode((grey.astype('>u2') * 257).astype('>u2'), 'tiff'), greys, 0),
        'CMYK jpeg': (encode(Image.fromarray(ink, 'CMYK'), 'jpeg'), printed, JPEG_LOSS),
        'CMYK tiff': (encode(Image.fromarray(ink, 'CMYK'), 'tiff'), printed, 1),
        'jpeg with EXIF data that cannot be read': (
            encode(scene, 'jpeg', exif=b'Exif\0\0MM\0*\0\0\0\x08\xff'),
            scene,
            JPEG_LOSS,
        ),
    }
    for suffix in ('jpeg', 'png', 'tiff', 'webp'):
        loss = JPEG_LOSS if suffix == 'jpeg' else 0
        kinds |= {f'{suffix} of orientation {o}': (rotated(scene, o, suffix), scene, loss) for o in STORED}
    return kinds


KINDS = draw_kinds()
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
JPEG, PNG = encode(NOISE, 'jpeg'), encode(NOISE, 'png')
BROKEN = {
    'truncated jpeg': JPEG[: len(JPEG) // 2],  # OpenCV fills the rest with grey
    'truncated png': PNG[: len(PNG) // 2],
    'png with a wrong byte': PNG[:4000] + bytes([PNG[4000] ^ 1]) + PNG[4001:],
    'no image': b'no image',
    'empty file': b'',
    '32-bit integers': encode(draw_scene()[..., 1].astype(np.int32) * 257, 'tiff'),
    '32-bit floats': encode(draw_scene()[..., 1].astype(np.float32) / 255, 'tiff'),
}


def write_images(folder: Path, contents: dict[str, bytes]) -> Path:
    """Write files of any format, all named .jpg: the name must not matter."""
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / f'{name}.jpg').write_bytes(content)
    return folder


def coco_json(images: Path, annotations: list[dict] = ()) -> str:
    names = sorted(path.name for path in images.iterdir())
    size = dict(height=HEIGHT, width=WIDTH)
    return json.dumps(
        dict(
            images=[dict(id=i, file_name=name, **size) for i, name in enumerate(names)],
            annotations=[*annotations],
            categories=[dict(id=1, name='thing')],
        )
    )


def build_detection(root: Path) -> torch.utils.data.Dataset:
    """A data set of mmdet inside a wrapper, guarded as in a run."""
    init_default_scope('mmdet')
    (root / 'coco.json').write_text(coco_json(root / 'all/images'))
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    settings = dict(type='CocoDataset', data_root=str(root), ann_file='coco.json', metainfo=dict(classes=('thing',)))
    settings.update(data_prefix=dict(img='all/images'), pipeline=[*load, dict(type='PackDetInputs')])
    return guarded(DATASETS.build(dict(type='RepeatDataset', times=1, dataset=settings)))


def build_segmentation(root: Path) -> torch.utils.data.Dataset:
    """A data set of mmseg with test-time augmentation, guarded as in a run."""
    init_default_scope('mmseg')
    masks = root / 'masks'
    if not masks.exists():
        contents = dict.fromkeys((path.stem for path in (root / 'all/images').iterdir()), NOISE[..., 0])
        write_images(masks, {name: encode(mask, 'png') for name, mask in contents.items()})
    parts = [[dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
    pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=parts)]
    settings = dict(type='BaseSegDataset', data_root=str(root), metainfo=dict(classes=('a',)), seg_map_suffix='.jpg')
    settings.update(data_prefix=dict(img_path='all/images', seg_map_path='masks'), pipeline=pipeline)
    return guarded(DATASETS.build(settings))


def guarded(dataset: torch.utils.data.Dataset) -> torch.utils.data.Dataset:
    guard_image_loading(dataset)
    return dataset


# Settings of timm's transform that leave an upright image of that size unchanged.
UNCHANGED = dict(input_size=(3, HEIGHT, WIDTH), crop_pct=1.0, crop_mode='center')


def load_detection(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    dataset = build_detection(root)
    for i in range(len(dataset)):
        sample = dataset[i]
        yield Path(sample['data_samples'].img_path).stem, sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1]


def load_segmentation(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    dataset = build_segmentation(root)
    for i in range(len(dataset)):
        sample = dataset[i]
        image, meta = sample['inputs'][0].permute(1, 2, 0).numpy(), sample['data_samples'][0]
        yield Path(meta.img_path).stem, image[..., ::-1]


def load_folder(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    from convnext_backbone import TimmDataset

    dataset = TimmDataset(str(root), 'all', transform=UNCHANGED)
    for i in range(len(dataset)):
        sample = dataset[i]
        assert sample['broken'] == ''
        yield Path(dataset.reader.filename(i)).stem, sample['inputs'].permute(1, 2, 0).numpy()


def load_shards(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    from convnext_backbone import TimmShards

    names = sorted(path.stem for path in (root / 'all/images').iterdir())
    with tarfile.open(root / 'all-0.tar', 'w') as shard:
        for i, name in enumerate(names):
            shard.add(root / f'all/images/{name}.jpg', arcname=f'{i:04}.jpg')
            label = tarfile.TarInfo(f'{i:04}.cls')
            label.size = 1
            shard.addfile(label, io.BytesIO(b'0'))
    for name, sample in zip(names, TimmShards(str(root), 'all-{0..0}.tar', UNCHANGED), strict=True):
        assert sample['broken'] == ''
        yield name, sample['inputs'].permute(1, 2, 0).numpy()


@pytest.mark.parametrize('load', [load_detection, load_segmentation, load_folder, load_shards])
def test_every_kind_of_image_is_decoded_to_upright_rgb(load, tmp_path):
    write_images(tmp_path / 'all/images', {name: content for name, (content, _, _) in KINDS.items()})
    found = dict(load(tmp_path))
    assert found.keys() == KINDS.keys()
    shapes = {name: image.shape for name, image in found.items() if image.shape != (HEIGHT, WIDTH, 3)}
    assert shapes == {}
    off = {name: np.abs(image.astype(int) - KINDS[name][1]).max() for name, image in found.items()}
    assert {name: most for name, most in off.items() if most > KINDS[name][2]} == {}


def test_corrupt_images_are_refused_or_skipped_by_name(tmp_path):
    from convnext_backbone import TimmDataset

    write_images(tmp_path / 'all/images', BROKEN)
    named = []
    for build in (build_detection, build_segmentation):
        dataset = build(tmp_path)
        for i in range(len(dataset)):
            with pytest.raises(UserError) as refused:
                dataset[i]
            named.append(str(refused.value))
    dataset = TimmDataset(str(tmp_path), 'all', transform=UNCHANGED)
    samples = [dataset[i] for i in range(len(dataset))]
    assert {sample['labels'] for sample in samples} == {-1}
    for name in BROKEN:
        assert sum(f'/{name}.jpg cannot be decoded' in sentence for sentence in named) == 2
        assert sum(f'{name}.jpg' in sample['broken'] for sample in samples) == 1


def test_annotations_that_ignore_the_exif_orientation_are_refused(tmp_path):
    write_images(tmp_path / 'all/images', {'rotated': rotated(draw_scene().swapaxes(0, 1), 6)})
    for build in (build_detection, build_segmentation):
        with pytest.raises(UserError) as refused:
            build(tmp_path)[0]
        sentence = str(refused.value)
        for word in ('rotated.jpg', f'{HEIGHT} x {WIDTH} pixels', f'{WIDTH} x {HEIGHT}', 'EXIF'):
            assert word in sentence


def test_other_loading_transforms_stay_unchanged(tmp_path):
    from mmcv.transforms import LoadImageFromFile

    write_images(tmp_path / 'all/images', {'deep': encode_deep(draw_scene(), '.png')})
    dataset = build_detection(tmp_path).dataset
    dataset.pipeline.transforms[0] = own = LoadImageFromFile(color_type='unchanged')
    guarded(dataset)
    assert dataset.pipeline.transforms[0] is own and dataset[0]['inputs'].dtype == torch.uint16


# ---- the tools -------------------------------------------------------------------------------------------------------

ONE_WORKER = ['train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=False']
DETECTION = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9', 'randomness.seed=3']
DETECTION += ['train_dataloader.dataset.pipeline.2.scale=(64,48)']
SEGMENTATION = ['train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
SEGMENTATION += ['param_scheduler=None', 'default_hooks.logger.interval=1']
CLASSIFICATION = ['train_dataloader.batch_size=2', 'auto_scale_lr.base_batch_size=2', 'train_cfg.max_epochs=1']
TASKS = dict(detection=DETECTOR, segmentation=SEGMENTOR, classification=CLASSIFIER)


@pytest.fixture(scope='module')
def untrained(tmp_path_factory) -> Callable[[str], Path]:
    """A checkpoint of random weights for a task."""

    @functools.cache
    def save(task: str) -> Path:
        cfg = load_config(TASKS[task])
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp('untrained') / f'{task}.pth'
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path)
        return path

    return save


@pytest.fixture
def coco(shapes, tmp_path) -> Path:
    """A copy of the drawn detection data."""
    return shutil.copytree(shapes, tmp_path / 'data', ignore=lambda *_: ['ade', 'imagenet'])


@pytest.fixture
def scenes(shapes, tmp_path) -> Path:
    """A copy of the drawn segmentation data, in CamVid's layout."""
    for part, name in (('training', 'train'), ('validation', 'val')):
        shutil.copytree(shapes / 'ade/images' / part, tmp_path / 'data/img_dir' / name)
        shutil.copytree(shapes / 'ade/annotations' / part, tmp_path / 'data/ann_dir' / name)
    return tmp_path / 'data'


@pytest.mark.parametrize(('tool', 'split'), [('train', 'train'), ('test', 'val'), ('browse_data', 'train')])
def test_an_image_of_another_size_than_annotated_is_refused(tool, split, coco, untrained, tmp_path, call_tool):
    """In training by a data-loading worker."""
    path = sorted((coco / f'{split}2017').iterdir())[2]
    path.write_bytes(rotated(cv2.imread(str(path))[..., ::-1].swapaxes(0, 1), 6))
    arguments = [DETECTOR, *[untrained('detection')] * (tool == 'test'), '--data-root', coco, '--work-dir', 'out']
    arguments += ['--cfg-options', *DETECTION, *ONE_WORKER]
    sentence = refusal(call_tool(f'{tool}.py', *arguments, cwd=tmp_path))
    for word in (str(path), '96 x 128 pixels', '128 x 96', 'EXIF'):
        assert word in sentence


def test_a_truncated_image_ends_a_run_in_one_sentence(coco, tmp_path, call_tool):
    path = sorted((coco / 'train2017').iterdir())[2]
    os.truncate(path, path.stat().st_size * 2 // 3)
    arguments = ['--data-root', coco, '--work-dir', 'out', '--cfg-options', *DETECTION]
    sentence = refusal(call_tool('train.py', DETECTOR, *arguments, cwd=tmp_path))
    assert f'{path} cannot be decoded' in sentence and 'truncated' in sentence


@pytest.mark.parametrize('fault', ['truncated', 'missing', 'of another size'])
def test_an_unusable_mask_ends_a_run_in_one_sentence(fault, scenes, tmp_path, call_tool):
    for path in (scenes / 'ann_dir/train').iterdir():
        if fault == 'missing':
            path.unlink()
        elif fault == 'truncated':
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.write_bytes(encode(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).T, 'png'))
    arguments = ['--data-root', scenes, '--work-dir', 'out', '--cfg-options', *SEGMENTATION]
    sentence = refusal(call_tool('train.py', SEGMENTOR, *arguments, cwd=tmp_path))
    assert str(scenes / 'ann_dir/train/0000000000') in sentence and str(scenes / 'img_dir/train/0000000000') in sentence
    assert {'truncated': 'truncated', 'missing': 'there is no', 'of another size': '96 x 128'}[fault] in sentence


def test_batches_without_labelled_pixels_train_to_finite_weights(scenes, tmp_path, call_tool):
    """At least one of two, as all masks but one are void; if all were, the run would not start."""
    for path in sorted((scenes / 'ann_dir/train').iterdir())[1:]:
        path.write_bytes(encode(np.full((96, 128), 255, np.uint8), 'png'))
    arguments = ['--data-root', scenes, '--work-dir', 'out', '--cfg-options', *SEGMENTATION]
    result = call_tool('train.py', SEGMENTOR, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    state = read_checkpoint(tmp_path / 'out/iter_2.pth')['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.slow
def test_boxes_without_area_do_not_change_the_training(coco, tmp_path, call_tool):
    """To the last bit, also where an image has no other boxes."""
    path = coco / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    images = [image['id'] for image in content['images']]
    kept = [one for one in content['annotations'] if one['image_id'] not in images[:2]]
    corner = dict(segmentation=[[9, 9, 9, 9, 9, 9]], iscrowd=0, category_id=1)
    without = []
    for box in ([9, 9, 0, 5], [9, 9, 5, 0], [9, 9, 0, 0], [500, 9, 5, 5], [9, 9, -5, 5], [9, 9, 0.5, 5]):
        for image in images[1:]:
            without.append(
                {**corner, 'bbox': box, 'area': box[2] * box[3], 'image_id': image, 'id': 10**6 + len(without)}
            )
    states = []
    for name, annotations in (('kept', kept), ('all', [*without, *kept])):
        path.write_text(json.dumps({**content, 'annotations': annotations}))
        arguments = ['--data-root', coco, '--work-dir', name, '--cfg-options', *DETECTION]
        arguments += ['train_dataloader.batch_size=6', 'default_hooks.checkpoint.save_optimizer=False']
        result = call_tool('train.py', DETECTOR, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        states.append(read_checkpoint(tmp_path / name / 'epoch_1.pth')['state_dict'])
    assert all(tensor.isfinite().all() for tensor in states[0].values())
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []


@contextmanager
def worker_killed() -> Iterator[None]:
    """Kill the first child process, as the kernel does when memory runs out."""
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.01):
            for child in multiprocessing.active_children():
                time.sleep(0.2)
                os.kill(child.pid, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join()


@pytest.mark.parametrize('task', ['detection', 'classification'])
def test_a_killed_data_loading_worker_ends_a_run_in_one_sentence(task, shapes, tmp_path, call_tool):
    config, data, options = dict(
        detection=(DETECTOR, shapes, DETECTION), classification=(CLASSIFIER, shapes / 'imagenet', CLASSIFICATION)
    )[task]
    arguments = ['--data-root', data, '--work-dir', 'out', '--cfg-options', *options, *ONE_WORKER]
    with worker_killed():
        sentence = refusal(call_tool('train.py', config, *arguments, 'train_cfg.max_epochs=50', cwd=tmp_path))
    for word in ('killed', 'memory', 'num_workers', '--resume'):
        assert word in sentence


# Files that decode to the same pixels, to the last bit.
SAME = {
    'png': ['16-bit png', '16-bit tiff', 'transparent png', 'png of orientation 3', 'png of orientation 6']
    + ['tiff of orientation 8', 'webp of orientation 5'],
    'grey png': ['16-bit grey png', '16-bit grey tiff', 'transparent grey png'],
}


@pytest.mark.parametrize('task', TASKS)
def test_predictions_do_not_depend_on_the_image_format(task, shapes, untrained, tmp_path, call_tool):
    names = [name for plain, others in SAME.items() for name in (plain, *others)]
    photos = write_images(tmp_path / 'photos', {name: KINDS[name][0] for name in names})
    arguments = [TASKS[task], untrained(task), photos, '--work-dir', 'out']
    if task == 'detection':
        arguments += ['--score-thr', '0', '--cfg-options', 'model.test_cfg.rcnn.max_per_img=5']
    result = call_tool('predict.py', *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    predictions = json.loads((tmp_path / 'out/predictions/predictions.json').read_text())
    found = {}
    if task == 'detection':
        for image in predictions['images']:
            own = [one for one in predictions['annotations'] if one['image_id'] == image['id']]
            found[Path(image['file_name']).stem] = [(one['bbox'], one['score'], one['category_id']) for one in own]
    else:
        for one in predictions:
            ids = cv2.imread(str(tmp_path / one['class_ids']), -1).tolist() if task == 'segmentation' else None
            found[Path(one['image']).stem] = (one['classes'], ids)
    assert found['png'] != found['grey png'] and len(found) == len(names)
    assert [name for plain, others in SAME.items() for name in others if found[name] != found[plain]] == []


@pytest.mark.parametrize('task', TASKS)
def test_predict_names_a_truncated_image(task, untrained, tmp_path, call_tool):
    (tmp_path / 'cut.jpg').write_bytes(BROKEN['truncated jpeg'])
    sentence = refusal(call_tool('predict.py', TASKS[task], untrained(task), 'cut.jpg', cwd=tmp_path))
    assert 'cut.jpg cannot be decoded' in sentence and 'truncated' in sentence


def test_images_of_any_kind_have_the_pixels_of_the_shared_decoder(real_data, tmp_path):
    """OpenCV decodes whole JPEGs, faster; rotated, printed and grey ones, and those cut off, must be as before."""
    photo = sorted((real_data / 'coco/train2017').iterdir())[0]
    image = Image.open(photo).convert('RGB')
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image.save(tmp_path / 'rotated.jpg', exif=rotated)
    image.save(tmp_path / 'progressive.jpg', progressive=True, quality=70)
    image.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    image.convert('L').save(tmp_path / 'grey.jpg')
    image.convert('RGBA').save(tmp_path / 'transparent.png')
    (tmp_path / 'padded.jpg').write_bytes(photo.read_bytes() + b'\0' * 64)
    paths = [*sorted(tmp_path.iterdir()), *sorted((real_data / 'coco/val2017').iterdir())[:30]]
    for path in paths:
        found = read_bgr(str(path))
        assert found.flags.c_contiguous and np.array_equal(found[..., ::-1], read_image(path)), path
    assert read_bgr(str(tmp_path / 'rotated.jpg')).shape[:2] == image.size
    (tmp_path / 'cut.jpg').write_bytes(photo.read_bytes()[:-2000])
    with pytest.raises(UserError, match='cannot be decoded'):
        read_bgr(str(tmp_path / 'cut.jpg'))
    with pytest.raises(UserError, match='is missing'):
        read_bgr(str(tmp_path / 'none.jpg'))
