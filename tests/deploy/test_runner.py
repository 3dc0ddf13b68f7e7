"""The runner of exported models without torch: each part beside the library whose numbers it gives. Exact."""

import subprocess
import sys
from pathlib import Path

import cv2
import deployed_models as models
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmcv.image import rescale_size
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask
from torch.nn import functional

from convnext_backbone.apis.image_files import find_images
from convnext_backbone.apis.model_inputs import build_input_pipeline, build_preprocessor
from convnext_backbone.apis.tiles import Tiles, Window, merge_detections
from convnext_backbone.datasets.timm_dataset import build_transform
from convnext_backbone.deploy import __main__ as runner
from convnext_backbone.deploy.metadata import describe_crop, describe_pixels, describe_resize
from convnext_backbone.utils import image_io

RUNNER = REPOSITORY / 'convnext_backbone/deploy/__main__.py'
BARRED = ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'pycocotools', 'tqdm')
BAR = f"""
import sys
for name in {BARRED}: sys.modules[name] = None
"""


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def photo(random):
    """A picture with smooth and with noisy parts."""
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 121))
    return np.clip(np.asarray(coarse, int) + random.integers(-20, 20, (121, 160, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    'size', [(121, 160), (75, 99), (60, 80), (242, 320), (200, 333), (31, 400), (1, 1), (121, 159), (500, 17)]
)
def test_images_are_resized_as_by_opencv(photo, size):
    """To one level, in 0.5 % of the values at most."""
    expected = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR)
    away = np.abs(runner.resize_like_cv2(photo, *size).astype(int) - expected)
    assert away.max() <= 1 and (away > 0).mean() <= 0.005


def test_pillow_would_not_resize_as_opencv(photo):
    """So that the test above can fail."""
    expected = cv2.resize(photo, (80, 60), interpolation=cv2.INTER_LINEAR)
    other = np.asarray(Image.fromarray(photo).resize((80, 60), Image.Resampling.BILINEAR))
    assert (np.abs(other.astype(int) - expected) > 1).mean() > 0.1


@pytest.mark.parametrize('size', [(480, 640), (640, 427), (500, 375), (37, 1200), (800, 1333)])
@pytest.mark.parametrize('scale', [(1333, 800), (320, 320), (2048, 512)])
def test_the_size_of_the_input_is_that_of_mmcv(size, scale):
    meta = dict(size=None, resize=dict(rule='ratio', scale=[*scale]))
    assert runner.input_size(meta, *size) == rescale_size(size[::-1], scale)[::-1]


@pytest.mark.parametrize(
    'settings',
    [
        dict(input_size=64),
        dict(input_size=64, crop_pct=1.0, interpolation='bilinear'),
        dict(input_size=64, crop_mode='squash'),
    ],
)
@pytest.mark.parametrize('size', [(121, 160), (90, 50), (64, 64), (73, 73)])
def test_the_crop_is_that_of_timm(photo, settings, size):
    transform = build_transform(False, **settings)
    image = Image.fromarray(photo).resize(size[::-1])
    meta = dict(describe_crop(transform), channels='RGB', mean=[0] * 3, std=[1] * 3)
    assert np.array_equal(runner.prepare(meta, image), transform(image).numpy())


def test_normalization_is_in_the_order_of_the_networks_channels(photo):
    settings = dict(resize=dict(rule='exact', scale=[160, 121]), mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    found = {order: runner.prepare({**settings, 'channels': order}, Image.fromarray(photo)) for order in ('RGB', 'BGR')}
    for order, pixels in (('RGB', photo), ('BGR', photo[..., ::-1])):
        expected = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() - torch.tensor([1.0, 2, 3])[:, None, None]
        assert np.array_equal(found[order], (expected / torch.tensor([4.0, 5, 6])[:, None, None]).numpy())


@pytest.mark.parametrize('make', [models.segmentor, models.mask_rcnn])
@pytest.mark.parametrize('size', [(121, 160), (300, 200), (180, 240), (90, 40)])
def test_the_input_is_that_of_the_test_pipeline_and_the_preprocessor(make, size, tmp_path, photo):
    """To one level, in 0.5 % of the values at most; exactly where nothing is resized."""
    cfg = make()
    path = tmp_path / 'photo.png'
    Image.fromarray(photo).resize(size[::-1]).save(path)
    init_default_scope(cfg.default_scope)
    preprocessor = build_preprocessor(cfg)
    expected = build_input_pipeline(cfg, preprocessor)(path)[0].numpy()
    meta = {**describe_pixels(preprocessor), **describe_resize(cfg)}
    found = runner.prepare(meta, runner.decode(path))
    away = np.abs(found - expected[:, : found.shape[1], : found.shape[2]])  # the rest is padding
    level = 1 / np.array(meta['std'], np.float32).min() * 1.001
    assert away.max() <= level and (away > 0).mean() <= (0.005 if size != (180, 240) else 0)
    assert max(found.shape[1:]) == 240 or min(found.shape[1:]) == 180


def images(folder, photo):
    """Files of the kinds that decoders treat differently."""
    image, grey = Image.fromarray(photo), Image.fromarray(photo[..., 0])
    exif = Image.Exif()
    exif[274] = 6
    image.save(folder / 'turned.jpg', exif=exif)
    image.convert('CMYK').save(folder / 'cmyk.jpg')
    image.convert('P').save(folder / 'palette.png')
    Image.fromarray(np.dstack([photo, photo[..., 0]])).save(folder / 'alpha.png')
    Image.fromarray(photo[..., 0].astype(np.uint16) * 257).save(folder / 'deep.png')
    Image.fromarray(photo[..., 0].astype(np.uint16) * 257).save(folder / 'deep.tif')
    grey.convert('1').save(folder / 'bits.png')
    grey.save(folder / 'grey.jpg')
    return sorted(folder.iterdir())


def test_images_are_decoded_as_everywhere(tmp_path, photo):
    files = images(tmp_path, photo)
    assert len(files) == 8
    for path in files:
        assert np.array_equal(np.asarray(runner.decode(path)), image_io.read_image(path)), path
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'grey.jpg').read_bytes()[:500])
    with pytest.raises(OSError):
        runner.decode(tmp_path / 'cut.jpg')
    assert set(image_io.FORMATS) == set(runner.FORMATS) and image_io.IMAGE_SUFFIXES <= runner.SUFFIXES


@pytest.mark.parametrize('size', [(30, 41), (33, 17), (61, 90)])
def test_logits_are_enlarged_as_by_torch(random, size):
    logits = random.normal(size=(7, 20, 27)).astype(np.float32)
    enlarged = functional.interpolate(torch.from_numpy(logits)[None], size, mode='bilinear', align_corners=False)
    assert np.array_equal(runner.best_classes(logits, *size), enlarged[0].argmax(0).numpy())


def draw_boxes(random, number, height, width):
    corners = random.uniform(-5, width + 5, (number, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    return boxes.clip(0, [width, height, width, height]).astype(np.float32)


def draw_mask(random):
    return np.asarray(Image.fromarray(random.random((4, 4), np.float32)).resize((28, 28)), np.float32)


def place(masks, size):
    """The pixels of masks of the runner, in the whole image."""
    image = np.zeros(size, bool)
    for pixels, left, top in masks:
        image[top : top + pixels.shape[0], left : left + pixels.shape[1]] |= pixels
    return image


def test_masks_are_pasted_as_by_mmdet(random):
    size = (90, 120)
    for box in draw_boxes(random, 60, *size):
        mask = draw_mask(random)
        part, where = _do_paste_mask(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], *size)
        expected = np.zeros(size, bool)
        expected[where] = (part >= 0.5)[0].numpy()
        found = place([runner.paste_mask(mask, box, size, size, 0.5)], size)
        assert (found != expected).sum() <= 1  # rounding, at 0.5 itself


def test_masks_of_large_images_are_enlarged_as_by_opencv(random):
    """Of the pixels of all masks, to 1 in 10,000, where none lies in the very middle between two."""
    small, size = (90, 120), (220, 296)
    wrong = total = 0
    for box in draw_boxes(random, 60, *small):
        mask = draw_mask(random)
        pasted = place([runner.paste_mask(mask, box, small, small, 0.5)], small)
        expected = cv2.resize(pasted.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_LINEAR) > 127
        wrong += (place([runner.paste_mask(mask, box, small, size, 0.5)], size) != expected).sum()
        total += expected.sum()
    assert total > 100_000 and wrong <= 1e-4 * total


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.99, 1.0])
def test_masks_are_coded_as_by_pycocotools(random, share):
    """One that fills the image; several parts of one, which overlap."""
    for size in ((1, 1), (5, 7), (40, 33)):
        whole = [(random.random(size) < share, 0, 0)]
        corners = [(int(random.integers(size[1])), int(random.integers(size[0]))) for _ in range(5)]
        parts = [(random.random((size[0] - y, (size[1] - x + 1) // 2)) < share, x, y) for x, y in corners]
        for masks in (whole, parts):
            mask = place(masks, size)
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))['counts'].decode()
            assert runner.encode_mask(masks, *size) == (expected, mask.sum())


@pytest.mark.parametrize('size', [(300, 400), (100, 101), (10, 500), (70, 90)])
@pytest.mark.parametrize('tiles', [(100, 0.2), (100, 0.0), (33, 0.5), (50, 0.9), (None, 0.2)])
def test_tiles_are_those_of_the_predict_tool(size, tiles):
    """And where one begins to be the nearest, up to which it is written over by the next."""
    windows = Tiles(tiles[0] or max(size), tiles[1])
    found = runner.tile(size[1], size[0], *tiles)
    assert [window for window, _ in found] == windows.windows(*size)
    assert [corner for _, corner in found] == [(core.left, core.top) for core in windows.cores(*size)]


def draw_detections(random, windows, number):
    """Of objects in each window, cut by its border and a little off: the window, corners in the image, score, label."""
    height, width = windows[0].bottom, windows[0].right
    objects = [(box, int(random.integers(2))) for box in draw_boxes(random, number, height, width)]
    for source, window in enumerate(windows):
        for box, label in objects:
            seen = (box + random.normal(0, 1, 4)).clip([*window[:2]] * 2, [*window[2:]] * 2)
            if (seen[2:] - seen[:2]).min() > 3 and random.random() < 0.8:
                yield source, seen, float(np.float32(random.random())), label


@pytest.mark.parametrize('seed', range(20))
def test_detections_of_windows_are_merged_as_by_the_predict_tool(seed):
    size = (100, 160)
    windows = [Window(0, 0, 160, 100), *Tiles(60, 0.3).windows(*size)]
    rows = [*draw_detections(np.random.default_rng(seed), windows, 12)]
    found = [(window, []) for window in windows]
    for source, (left, top, right, bottom), score, label in rows:
        box = [left - windows[source].left, top - windows[source].top, right - left, bottom - top]
        found[source][1].append((label, dict(bbox=box, score=score)))
    columns = (np.array(column, np.float32 if i == 2 else None) for i, column in enumerate(zip(*rows, strict=True)))
    merged = runner.merge(np.array(windows, float), *columns)
    expected = merge_detections(found, size)
    assert len(merged) == len(expected) < len(rows)
    for (box, score, parts), (label, one) in zip(merged, expected, strict=True):
        np.testing.assert_allclose([*box[:2], *(box[2:] - box[:2])], one['bbox'], atol=1e-9)
        assert (score, rows[parts[0]][3]) == (one['score'], label)


def test_images_are_found_and_their_pictures_named_as_by_the_predict_tool(tmp_path, photo, monkeypatch):
    """In their order; without hidden files and earlier predictions; none is written over another."""
    monkeypatch.chdir(tmp_path)
    names = (
        'z.JPG a.jpg a.png a_2.jpg b/c.tif b/a/d.jpeg b/.e.png .f/g.png overview.bmp class_ids/z.png z/y.gif note.txt'
    )
    written = 'b/out/predictions.json b/out/h.png b/out/i/j.png'
    for path in map(Path, f'{names} {written}'.split()):
        Path('photos', path).parent.mkdir(parents=True, exist_ok=True)
        Path('photos', path).touch()
    for sources in (['photos'], ['photos/z.JPG', 'photos/b', 'photos/z.JPG']):
        expected = {file.picture: file.image for file in find_images(sources, Path('out'))}
        found = runner.find_images(sources, Path('out'))
        assert [*found.items()] == [(one.relative_to('out'), path) for one, path in expected.items()] and len(found) > 2


def test_windows_cover_an_image_of_any_size(random):
    for size in ((50, 60), (96, 80), (97, 81), (200, 333)):
        image = random.normal(size=(3, *size)).astype(np.float32)
        np.testing.assert_allclose(runner.slide(lambda part: part, image, (96, 80), (64, 50)), image, rtol=1e-6)


@pytest.mark.parametrize('form', ['copy', 'module'])
def test_it_starts_without_torch_and_the_mm_libraries(tmp_path, form):
    """As a copy, and as a module of the package, which otherwise cannot be imported without them."""
    (tmp_path / 'copy.py').write_bytes(RUNNER.read_bytes())
    arguments = ['-m', 'convnext_backbone.deploy', 'lost.onnx', 'lost.jpg']
    (tmp_path / 'sitecustomize.py').write_text(BAR)
    command = [sys.executable, *(arguments if form == 'module' else ['copy.py', *arguments[2:]])]
    environment = {'PYTHONPATH': f'{tmp_path}:{REPOSITORY}', 'PATH': ''}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith('error: '), result.stderr
    assert len(result.stderr.splitlines()) == 1
