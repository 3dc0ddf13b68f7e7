"""`tools/make_shapes.py`: its files, reproducibility, and the files of others that it leaves alone.

Exact: layout, counts, bytes of repeated runs, and polygons against masks, pixel by pixel.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'make_shapes.py'
CLASSES = ['circle', 'square', 'triangle', 'star', 'cross']
COUNTS = {'train': 12, 'val': 6}
ADE = {'train': 'training', 'val': 'validation'}
SMALL = ('--train', '2', '--val', '1')


def make_shapes(cwd: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *args], cwd=cwd, capture_output=True, text=True, timeout=60)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def coco(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f'annotations/instances_{split}2017.json').read_text())


def semantic_mask(folder: Path, split: str, file_name: str) -> np.ndarray:
    path = folder / 'ade/annotations' / ADE[split] / Path(file_name).with_suffix('.png')
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def assert_refused(run: subprocess.CompletedProcess, *said: str) -> None:
    assert run.returncode == 2
    assert run.stdout == ''
    assert run.stderr.count('\n') == 1, run.stderr
    assert all(text in run.stderr for text in said), run.stderr


def assert_polygons_fill_to_the_masks(folder: Path, split: str) -> None:
    """Also: boxes and areas are those of the visible pixels, and no pixel belongs to two shapes."""
    api = pytest.importorskip('pycocotools.coco').COCO(folder / f'annotations/instances_{split}2017.json')
    for image in api.loadImgs(api.getImgIds()):
        painted = np.zeros((image['height'], image['width']), np.uint8)
        for annotation in api.loadAnns(api.getAnnIds(image['id'])):
            mask = api.annToMask(annotation).astype(bool)
            ys, xs = np.nonzero(mask)
            left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            assert annotation['bbox'] == [left, top, right - left, bottom - top]
            assert annotation['area'] == mask.sum()
            assert not painted[mask].any()
            painted[mask] = annotation['category_id']
        np.testing.assert_array_equal(painted, semantic_mask(folder, split, image['file_name']))


@pytest.fixture(scope='module')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A set of 12 and 6 pictures, and the printed summary."""
    cwd = tmp_path_factory.mktemp('drawn')
    run = make_shapes(cwd, 'data/shapes', '--train', '12', '--val', '6', '--json')
    assert run.returncode == 0, run.stderr
    assert run.stderr == ''
    return cwd / 'data/shapes', json.loads(run.stdout)


@pytest.fixture(scope='module')
def folder(drawn: tuple[Path, dict[str, Any]]) -> Path:
    return drawn[0]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A fresh set of three pictures that a test may change."""
    assert make_shapes(tmp_path, 'small', *SMALL).returncode == 0
    return tmp_path / 'small'


class TestLayout:
    def test_nothing_but_the_documented_files(self, folder: Path) -> None:
        top = {
            'train2017',
            'val2017',
            'annotations',
            'ade',
            'imagenet',
            'classes.txt',
            'preview.png',
            'make_shapes.json',
        }
        assert {path.name for path in folder.iterdir()} == top
        assert {path.name for path in folder.parent.iterdir()} == {'shapes'}
        assert (folder / 'classes.txt').read_text().split() == CLASSES

    @pytest.mark.parametrize('split', COUNTS)
    def test_one_picture_for_each_of_coco_and_ade20k(self, folder: Path, split: str) -> None:
        pictures = files(folder / f'{split}2017')
        assert sorted(pictures) == [f'{i:012d}.jpg' for i in range(1, COUNTS[split] + 1)]
        assert files(folder / 'ade/images' / ADE[split]) == pictures
        masks = files(folder / 'ade/annotations' / ADE[split])
        assert sorted(masks) == [f'{i:012d}.png' for i in range(1, COUNTS[split] + 1)]
        for name in pictures:
            assert cv2.imread(str(folder / f'{split}2017' / name)).shape == (192, 256, 3)

    @pytest.mark.parametrize('split', COUNTS)
    def test_one_square_crop_for_each_annotation_of_a_class(self, folder: Path, split: str) -> None:
        for category_id, name in enumerate(CLASSES, start=1):
            crops = list((folder / 'imagenet' / split / name).glob('*.JPEG'))
            assert len(crops) == sum(a['category_id'] == category_id for a in coco(folder, split)['annotations']) > 0
            assert {cv2.imread(str(crop)).shape for crop in crops} == {(96, 96, 3)}
        assert {path.name for path in (folder / 'imagenet' / split).iterdir()} == set(CLASSES)

    def test_preview_shows_twelve_pictures(self, folder: Path) -> None:
        assert cv2.imread(str(folder / 'preview.png')).shape == (3 * 300, 4 * 400, 3)

    def test_json_summary_counts_what_is_there(self, drawn: tuple[Path, dict[str, Any]]) -> None:
        folder, summary = drawn
        assert summary['out'] == str(folder)
        assert summary['drawn'] is True
        assert summary['classes'] == CLASSES
        for split, count in summary['counts'].items():
            assert count['images'] == COUNTS[split]
            assert count['shapes'] == sum(count['by_class'].values()) == len(coco(folder, split)['annotations'])

    def test_text_summary_says_where_and_how_many(self, tmp_path: Path) -> None:
        run = make_shapes(tmp_path, 'out', *SMALL, '--size', '64', '96', '--max-objects', '1')
        assert run.returncode == 0
        assert str(tmp_path / 'out') in run.stdout
        assert 'train 2 pictures, 2 shapes: 1 circle, 1 square, 0 triangle' in run.stdout
        assert cv2.imread(str(tmp_path / 'out/val2017/000000000001.jpg')).shape == (96, 64, 3)


@pytest.mark.parametrize('split', COUNTS)
class TestAnnotations:
    def test_coco_layout(self, folder: Path, split: str) -> None:
        content = coco(folder, split)
        assert set(content) == {'info', 'licenses', 'images', 'annotations', 'categories'}
        assert [(c['id'], c['name']) for c in content['categories']] == list(enumerate(CLASSES, start=1))
        assert [a['id'] for a in content['annotations']] == list(range(1, len(content['annotations']) + 1))
        shapes_per_image = [
            sum(a['image_id'] == image['id'] for a in content['annotations']) for image in content['images']
        ]
        assert min(shapes_per_image) >= 1
        assert max(shapes_per_image) in range(2, 7)

    def test_polygons_fill_to_the_masks_exactly(self, folder: Path, split: str) -> None:
        assert_polygons_fill_to_the_masks(folder, split)

    def test_semantic_ids_are_the_ground_and_the_classes(self, folder: Path, split: str) -> None:
        masks = [semantic_mask(folder, split, image['file_name']) for image in coco(folder, split)['images']]
        assert {(mask.dtype, mask.shape) for mask in masks} == {(np.dtype(np.uint8), (192, 256))}
        assert set(np.unique(masks)) == set(range(len(CLASSES) + 1))

    def test_shapes_are_neither_tiny_nor_slivers(self, folder: Path, split: str) -> None:
        for annotation in coco(folder, split)['annotations']:
            assert annotation['area'] >= 400
            for polygon in annotation['segmentation']:
                assert cv2.contourArea(np.reshape(polygon, (-1, 2)).astype(np.float32)) >= 40

    def test_shapes_stand_out_from_the_ground(self, folder: Path, split: str) -> None:
        for image in coco(folder, split)['images']:
            picture = cv2.imread(str(folder / f'{split}2017' / image['file_name'])).astype(float)
            mask = semantic_mask(folder, split, image['file_name'])
            ground = picture[mask == 0].mean(axis=0)
            for category_id in set(np.unique(mask)) - {0}:
                assert np.linalg.norm(picture[mask == category_id] - ground, axis=1).mean() > 60


def test_crowded_shapes_have_no_holes_that_polygons_cannot_tell(tmp_path: Path) -> None:
    """With this seed a small shape would be inside a larger one if nothing prevented it."""
    run = make_shapes(tmp_path, 'out', *SMALL, '--seed', '3', '--max-objects', '20')
    assert run.returncode == 0, run.stderr
    assert_polygons_fill_to_the_masks(tmp_path / 'out', 'train')


class TestRepetition:
    def test_same_arguments_same_bytes(self, tmp_path: Path) -> None:
        for name in ('one', 'two'):
            assert make_shapes(tmp_path, name, *SMALL).returncode == 0
        assert files(tmp_path / 'one') == files(tmp_path / 'two')

    def test_another_seed_another_set(self, small: Path) -> None:
        assert make_shapes(small.parent, 'other', *SMALL, '--seed', '1').returncode == 0
        ours, theirs = files(small), files(small.parent / 'other')
        jpgs = [name for name in ours if name.endswith('.jpg')]
        assert jpgs and not any(ours[name] == theirs[name] for name in jpgs)

    def test_train_and_val_differ(self, folder: Path) -> None:
        assert not set(files(folder / 'train2017').values()) & set(files(folder / 'val2017').values())

    def test_more_pictures_keep_the_first_ones(self, folder: Path, small: Path) -> None:
        more = files(folder)
        for name, content in files(small).items():
            if name.endswith(('.jpg', '.png', '.JPEG')) and name != 'preview.png':
                assert more[name] == content, name
        for split in COUNTS:
            few = coco(small, split)['annotations']
            assert coco(folder, split)['annotations'][: len(few)] == few

    def test_second_run_touches_nothing(self, small: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in [small, *small.rglob('*')]}
        run = make_shapes(small.parent, 'small', *SMALL)
        assert run.returncode == 0
        assert 'nothing to draw' in run.stdout
        assert {path: path.stat().st_mtime_ns for path in [small, *small.rglob('*')]} == before


class TestFilesOfOthers:
    @pytest.mark.parametrize('flags', [(), ('--overwrite',)], ids=['plain', 'overwrite'])
    def test_foreign_folder_is_refused_and_kept(self, tmp_path: Path, flags: tuple[str, ...]) -> None:
        photo = tmp_path / 'photos/train2017/000000000001.jpg'
        photo.parent.mkdir(parents=True)
        photo.write_bytes(b'irreplaceable')
        assert_refused(make_shapes(tmp_path, 'photos', *SMALL, *flags), str(tmp_path / 'photos'), 'another folder')
        assert files(tmp_path) == {'photos/train2017/000000000001.jpg': b'irreplaceable'}

    def test_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / 'empty').mkdir()
        run = make_shapes(tmp_path / 'empty', '.', *SMALL)
        assert run.returncode == 0, run.stderr
        assert (tmp_path / 'empty/make_shapes.json').is_file()
        assert [path.name for path in tmp_path.iterdir()] == ['empty']

    def test_other_arguments_need_overwrite(self, small: Path) -> None:
        before = files(small)
        run = make_shapes(small.parent, 'small', '--train', '2', '--val', '1', '--seed', '7')
        assert_refused(run, str(small), 'seed 0, now 7', '--overwrite')
        assert files(small) == before

    def test_overwrite_replaces_the_set_and_nothing_else(self, small: Path) -> None:
        (small / 'train2017/notes.txt').write_text('mine')
        (small / 'checkpoints').mkdir()
        (small / 'checkpoints/000000000001.jpg').write_text('mine too')
        run = make_shapes(small.parent, 'small', '--train', '1', '--val', '1', '--seed', '7', '--overwrite')
        assert run.returncode == 0, run.stderr
        assert make_shapes(small.parent, 'fresh', '--train', '1', '--val', '1', '--seed', '7').returncode == 0
        expected = files(small.parent / 'fresh')
        expected.update({'train2017/notes.txt': b'mine', 'checkpoints/000000000001.jpg': b'mine too'})
        assert files(small) == expected

    def test_stopped_run_leaves_nothing(self, tmp_path: Path) -> None:
        command = [sys.executable, str(TOOL), 'out', '--train', '5000']
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while not list(tmp_path.rglob('*.JPEG')) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.rglob('*.JPEG'))
        process.send_signal(signal.SIGTERM)
        assert 'Traceback' not in process.communicate(timeout=30)[1]
        assert process.returncode == 130
        assert list(tmp_path.iterdir()) == []


class TestBadArguments:
    @pytest.mark.parametrize(
        ('args', 'said'),
        [
            (('out', '--train', '-1'), ('--train', "'-1'", 'from 1')),
            (('out', '--val', '0'), ('--val', "'0'", 'from 1')),
            (('out', '--train', 'many'), ('--train', "'many'", 'whole number')),
            (('out', '--size', '63', '192'), ('--size', "'63'", 'from 64')),
            (('out', '--size', '256'), ('--size', '2 arguments')),
            (('out', '--seed', '-1'), ('--seed', "'-1'", 'from 0')),
            (('out', '--max-objects', '0'), ('--max-objects', "'0'", 'from 1')),
            (('out', '--colour', 'red'), ('--colour', '--help')),
            ((), ('OUT', '--help')),
        ],
        ids=' '.join,
    )
    def test_one_sentence_names_argument_value_and_remedy(
        self, tmp_path: Path, args: tuple[str, ...], said: tuple[str, ...]
    ) -> None:
        assert_refused(make_shapes(tmp_path, *args), *said)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize('out', ['file', 'file/below'])
    def test_out_that_cannot_be_a_folder(self, tmp_path: Path, out: str) -> None:
        (tmp_path / 'file').write_text('mine')
        assert_refused(make_shapes(tmp_path, out, *SMALL), out, 'name a')
        assert files(tmp_path) == {'file': b'mine'}
