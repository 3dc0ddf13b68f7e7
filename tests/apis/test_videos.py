"""Videos, batches and tiles in prediction: the same results as image by image, and files that break off."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refusal
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from test_pictures import CLASSES, PALETTE, SEGMENTOR

from convnext_backbone import UserError
from convnext_backbone.apis.builders import build_detector, build_segmentor
from convnext_backbone.apis.coco_output import find_ids
from convnext_backbone.apis.detection import DetectionTask
from convnext_backbone.apis.image_files import ImageFile
from convnext_backbone.apis.predicting import PredictionTask, predict_files
from convnext_backbone.apis.segmentation import SegmentationTask
from convnext_backbone.apis.tiles import Tiles
from convnext_backbone.apis.videos import Video, VideoWriter
from convnext_backbone.config.load import load_config
from convnext_backbone.utils.errors import WriteError

DETECTOR = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'


def make_video(path: Path, frames: int = 30, code: str = 'mp4v', size: tuple[int, int] = (128, 96)) -> Path:
    """Frame n has the brightness 8 n, up to 255."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), min(255, 8 * number), np.uint8))
    writer.release()
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


class Brightness(PredictionTask):
    """Draws frames darker; fails from a brightness on."""

    def __init__(self, limit: int = 255) -> None:
        self.limit, self.batches = limit, []

    def predict(self, files: list[ImageFile]) -> list[dict]:
        self.batches.append(len(files))
        values = [round(float(file.pixels.mean())) for file in files]
        if max(values) > self.limit:
            raise ValueError('too bright')
        return [dict(file=file, value=value, drawn=file.pixels // 2) for file, value in zip(files, values, strict=True)]


@pytest.mark.parametrize('every', [1, 3])
def test_a_video_is_read_frame_by_frame(every, tmp_path):
    """Colours are RGB, and numbers those of the file."""
    video = Video(make_video(tmp_path / 'clip.mp4'), every)
    assert len(video) == len(range(0, 30, every)) and video.fps == pytest.approx(10 / every)
    for expected, (number, frame) in zip(range(0, 30, every), video, strict=True):
        assert number == expected and frame.shape == (96, 128, 3) and abs(frame.mean() - 8 * number) < 4
    assert video.problem is None
    path = str(tmp_path / 'red.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'MJPG'), 10.0, (32, 32))
    writer.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))
    writer.release()
    assert np.abs(next(iter(Video(Path(path))))[1].mean((0, 1)) - (255, 0, 0)).max() < 9


def test_a_video_that_breaks_off_says_where(tmp_path):
    video = Video(cut(make_video(tmp_path / 'clip.avi', 100, 'MJPG')))
    number = len([*video])
    assert 20 < number < 80
    assert f'clip.avi breaks off after {number} of 100 frames: those before are predicted' in video.problem
    for path in (cut(make_video(tmp_path / 'clip.mp4')), tmp_path / 'text.mp4'):
        path.touch()
        with pytest.raises(UserError, match=rf'{path.name} cannot be decoded'):
            Video(path)


def test_a_drawn_video_has_the_size_of_its_first_picture(tmp_path):
    """Others are cut or filled up with white; what was drawn before an exception is kept."""
    with pytest.raises(KeyError), VideoWriter(tmp_path / 'new/drawn.mp4', 5.0) as writer:
        for height, width in ((64, 96), (80, 96), (40, 120)):
            writer.write(np.zeros((height, width, 3), np.uint8))
        raise KeyError
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['drawn.mp4']
    frames = [frame for _, frame in Video(tmp_path / 'new/drawn.mp4')]
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3
    assert frames[1].max() < 9 and frames[2][:36].max() < 9 and frames[2][44:].min() > 246


def test_a_video_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    """OpenCV is silent about a full disk."""
    monkeypatch.setattr(cv2.VideoWriter, 'write', lambda *_: None)
    with (
        pytest.raises(WriteError, match=r'd\.mp4 cannot be written'),
        VideoWriter(tmp_path / 'd.mp4', 5.0) as writer,
    ):
        writer.write(np.zeros((64, 96, 3), np.uint8))


def test_frames_are_predicted_in_batches_and_drawn(tmp_path):
    files = [ImageFile(make_video(tmp_path / 'clip.mp4', 10), tmp_path / 'out/clip.mp4')]
    files += [ImageFile(cut(make_video(tmp_path / 'no.mp4')), tmp_path / 'out/no.mp4')]
    task, broken = Brightness(), {}
    found = [*predict_files(task, files, broken, 4)]
    assert [(one['file'].frame, one['file'].pixels) for one in found] == [(n, None) for n in range(10)]
    assert all(abs(one['value'] - 8 * n) < 5 and 'drawn' not in one for n, one in enumerate(found))
    assert task.batches == [4, 4, 2] and [*broken] == [tmp_path / 'no.mp4']
    drawn = Video(tmp_path / 'out/clip.mp4')
    assert drawn.fps == 10 and [round(frame.mean() / 4) for _, frame in drawn] == pytest.approx(range(10), abs=1)


def test_a_frame_that_cannot_be_predicted_ends_its_video(tmp_path):
    task, broken = Brightness(limit=36), {}
    files = [ImageFile(make_video(tmp_path / 'clip.mp4', 20), tmp_path / 'out/clip.mp4')]
    assert len([*predict_files(task, files, broken, 4)]) == 5 == len([*Video(tmp_path / 'out/clip.mp4')])
    assert len(task.batches) < 9 and 'Frame 5 of ' in broken[tmp_path / 'clip.mp4']


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def built_detector(shapes) -> torch.nn.Module:
    cfg = load_config(DETECTOR, data_root=shapes)
    cfg.model.test_cfg.rcnn.max_per_img = 10
    return with_random_weights(cfg, shapes.parent / 'random_detector.pth', build_detector)


@pytest.fixture(scope='module')
def built_segmentor(shapes) -> torch.nn.Module:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    dataset = dict(type='BaseSegDataset', metainfo=dict(classes=CLASSES, palette=PALETTE), pipeline=pipeline)
    cfg = Config(dict(default_scope='mmseg', model=SEGMENTOR, test_dataloader=dict(dataset=dataset)))
    return with_random_weights(cfg, shapes.parent / 'random_segmentor.pth', build_segmentor)


def with_random_weights(cfg: Config, path: Path, build: Callable) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path)
    return build(cfg, str(path))


@pytest.fixture
def detector(built_detector) -> torch.nn.Module:
    init_default_scope('mmdet')
    return built_detector


@pytest.fixture
def segmentor(built_segmentor) -> torch.nn.Module:
    init_default_scope('mmseg')
    return built_segmentor


@pytest.fixture
def photos(shapes, tmp_path) -> list[ImageFile]:
    """Three of one size, one upright, and one that is padded to the size of the three."""
    paths = sorted((shapes / 'val2017').glob('*.jpg'))[:3]
    images = [cv2.imread(str(path)) for path in paths]
    for name, image in (('upright.png', images[0].transpose(1, 0, 2)), ('lower.png', images[1][:94])):
        cv2.imwrite(str(tmp_path / name), np.ascontiguousarray(image))
        paths.insert(1, tmp_path / name)
    return [ImageFile(path, tmp_path / 'out' / path.with_suffix('.png').name) for path in paths]


def test_detections_in_batches_are_those_image_by_image(detector, photos):
    """Images of one padded size go through the model together; more padding would change what is found."""
    seen = []
    handle = detector.register_forward_hook(lambda _, inputs, result: seen.append(len(result)))
    task = DetectionTask(detector, find_ids(detector.cfg, CLASSES), 0)
    alone = [one for file in photos for one in task.predict([file])]
    together = task.predict(photos)
    handle.remove()
    assert seen == [1] * 5 + [4, 1]
    for one, other in zip(alone, together, strict=True):
        assert one['file'] == other['file'] and len(one['detections']) == len(other['detections']) == 10
        for (label, exact), (same, near) in zip(one['detections'], other['detections'], strict=True):
            assert label == same and near['score'] == pytest.approx(exact['score'], abs=1e-5)
            assert near['bbox'] == pytest.approx(exact['bbox'], abs=1e-2)


def test_segments_in_batches_are_those_image_by_image(segmentor, photos):
    task = SegmentationTask(segmentor, photos[0].picture.parent)
    results = []
    for batches in ([[photo] for photo in photos], [photos]):
        found = [one for batch in batches for one in task.predict(batch)]
        results.append([cv2.imread(str(one['class_ids']), cv2.IMREAD_UNCHANGED) for one in found])
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape and (one != other).mean() < 1e-3


def test_segments_of_tiles_are_those_of_each_window(segmentor, photos, monkeypatch):
    """A small image is one window, with the result of the whole; in a larger one each pixel is of its nearest."""
    photo = photos[0]
    out = photo.picture.parent
    whole, same = (SegmentationTask(segmentor, out, tiles).predict([photo])[0] for tiles in (None, Tiles(128, 0.2)))
    assert whole['classes'] == same['classes']
    tiled = SegmentationTask(segmentor, out, Tiles(64, 0.25), batch_size=3)
    windows = []
    monkeypatch.setattr(
        SegmentationTask,
        '_predict_ids',
        lambda self, loaded: [
            np.full(one['img'].shape[:2], len(windows), np.uint8) for one in loaded if windows.append(one) is None
        ],
    )
    tiled.predict([photo])
    ids = cv2.imread(str(out / 'class_ids' / photo.picture.name), cv2.IMREAD_UNCHANGED)
    cores = Tiles(64, 0.25).cores(96, 128)
    assert len(windows) == len(cores) == 6
    for number, core in enumerate(cores, 1):
        assert (ids[core.top : core.bottom, core.left : core.right] == number).all()


def test_detections_of_tiles_are_in_pixels_of_the_image(detector, photos):
    """And their masks have its size; an image no larger than a tile is not divided."""
    ids = find_ids(detector.cfg, CLASSES)
    whole, same = (DetectionTask(detector, ids, 0, tiles).predict(photos[:1])[0] for tiles in (None, Tiles(128, 0.2)))
    assert whole['detections'] == same['detections']
    (tiled,) = DetectionTask(detector, ids, 0, Tiles(64, 0.25), batch_size=4).predict(photos[:1])
    assert len(tiled['detections']) > 10 and tiled['drawn'].shape == (96, 128, 3)
    assert any(one['bbox'][0] > 64 and one['bbox'][1] > 32 for _, one in tiled['detections'])
    for _, one in tiled['detections']:
        assert one['segmentation']['size'] == [96, 128]
        left, top, width, height = one['bbox']
        assert left >= 0 and top >= 0 and left + width < 128.01 and top + height < 96.01


# ---- the tool --------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_and_videos_is_predicted(detector, shapes, photos, tmp_path, call_tool):
    (tmp_path / 'in').mkdir()
    make_video(tmp_path / 'in/clip.mp4', 4)
    cut(make_video(tmp_path / 'in/cut.avi', code='MJPG'))
    weights = shapes.parent / 'random_detector.pth'
    flags = ['--work-dir', 'out', '--batch-size', '3', '--every', '2', '--score-thr', '0']
    result = call_tool('predict.py', DETECTOR, weights, photos[0].image, 'in', *flags, cwd=tmp_path)
    assert 'in/cut.avi' in refusal(result) and 'breaks off after' in result.stderr
    out = tmp_path / 'out/predictions'
    assert {path.name for path in out.iterdir()} == {
        photos[0].image.name, 'clip.mp4', 'cut.mp4', 'overview.png', 'predictions.json'
    }  # fmt: skip
    found = json.loads((out / 'predictions.json').read_text())
    assert [one['name'] for one in found['videos']] == ['in/clip.mp4', 'in/cut.avi']
    assert [one.get('frame_id') for one in found['images']][:4] == [None, 0, 2, 0]
    assert len([*Video(out / 'clip.mp4')]) == 2 and 'in/clip.mp4: frames up to 2\n' in result.stdout
    assert {one['image_id'] for one in found['annotations']} == {one['id'] for one in found['images']}


@pytest.mark.parametrize(
    ('flags', 'named'),
    [
        (['--overlap', '0.3'], '--overlap 0.3 is that of windows: set their size with --tile'),
        (['--tile', '0'], '--tile=0'),
        (['--batch-size', '0'], '--batch-size=0'),
        (['--every', '-1'], '--every=-1'),
    ],
)
def test_flags_out_of_range_are_refused(flags, named, photos, tmp_path, call_tool):
    assert named in refusal(call_tool('predict.py', DETECTOR, 'no.pth', photos[0].image, *flags, cwd=tmp_path))


def test_tiles_are_refused_for_classification(photos, tmp_path, call_tool):
    config = REPOSITORY / 'configs/demo/pretrain_convnext_atto_shapes.py'
    sentence = refusal(call_tool('predict.py', config, 'no.pth', photos[0].image, '--tile', 64, cwd=tmp_path))
    assert '--tile 64 is not for classification' in sentence
