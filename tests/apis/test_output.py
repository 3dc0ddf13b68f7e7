"""What test.py writes with --out and --show-dir, for each task. Exact."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refusal
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO
from small_runs import CONFIGS, arguments, write_config

from convnext_backbone.apis.test_output import _name_outputs
from convnext_backbone.config.load import load_config

CONFIGS_OF_ZOO = REPOSITORY / 'configs'
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> Path:
    """A config and a checkpoint of random weights of each task."""
    folder = tmp_path_factory.mktemp('models')
    for task in CONFIGS:
        cfg = load_config(write_config(task, folder))
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), folder / f'{task}.pth')
    return folder


@pytest.fixture
def evaluate(models, shapes, tmp_path, call_tool):
    """Run test.py on a task's model; returns its result."""

    def run(task, *flags, data=shapes, options=()):
        config, *rest = arguments(task, models / f'{task}.py', data, options=options)
        return call_tool('test.py', config, models / f'{task}.pth', *flags, *rest, cwd=tmp_path)

    return run


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_a_detectors_json_is_what_coco_evaluates(evaluate, shapes, tmp_path):
    result = evaluate('detector', '--out', 'new/found.json', '--show-dir', 'pictures')
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.endswith('Predictions: new/found.json\nPictures: pictures\n')
    truth = COCO(shapes / 'annotations/instances_val2017.json')
    found = truth.loadRes(str(tmp_path / 'new/found.json'))
    assert set(found.imgs) == set(truth.imgs) and found.anns
    for one in found.anns.values():
        assert one['category_id'] in truth.cats and 0 <= one['score'] <= 1 and len(one['bbox']) == 4
        image = truth.imgs[one['image_id']]
        assert found.annToMask(one).shape == (image['height'], image['width'])
    # As mmdet draws: the annotation on the left, the prediction on the right.
    for image in truth.imgs.values():
        picture = Image.open(tmp_path / 'pictures' / image['file_name'])
        assert picture.size == (2 * image['width'], image['height'])
    assert len(written(tmp_path / 'pictures')) == len(truth.imgs)
    assert [path.name for path in (tmp_path / 'out').rglob('*.png')] == [
        'confusion.png'
    ]  # the run's own visualizer has drawn nothing


def test_a_detectors_pickle_is_that_of_mmdet(evaluate, shapes, tmp_path):
    result = evaluate('detector', '--out', 'found.pkl')
    assert result.returncode == 0, result.stderr[-3000:]
    samples = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    assert len(samples) == len(list((shapes / 'val2017').iterdir()))
    for sample in samples:
        assert {'bboxes', 'labels', 'scores', 'masks'} <= sample[
            'pred_instances'
        ].keys() and 'gt_instances' not in sample
        assert all({'size', 'counts'} == mask.keys() for mask in sample['pred_instances']['masks'])


def test_a_segmentors_masks_have_the_ids_of_the_annotations(evaluate, shapes, tmp_path):
    """With reduce_zero_label from 1, and of the size of the image: those that mmseg's metric writes."""
    options = [f'test_evaluator.output_dir={tmp_path}/theirs']
    result = evaluate('segmentor', '--out', 'masks', '--show-dir', 'pictures', options=options)
    assert result.returncode == 0, result.stderr[-3000:]
    images = sorted((shapes / 'ade/images/validation').iterdir())
    assert written(tmp_path / 'masks') == [f'{path.stem}.png' for path in images]
    assert written(tmp_path / 'pictures') == [path.name for path in images]
    for path in images:
        mask = np.asarray(Image.open(tmp_path / f'masks/{path.stem}.png'))
        assert mask.dtype == np.uint8 and mask.shape == np.asarray(Image.open(path)).shape[:2]
        assert set(np.unique(mask)) <= {1, 2, 3, 4, 5}
        assert np.array_equal(mask, Image.open(tmp_path / f'theirs/{path.stem}.png'))
        assert Image.open(tmp_path / f'pictures/{path.name}').size[0] >= 2 * mask.shape[1]


def test_a_test_reports_each_class_confusions_and_the_worst_images(evaluate, shapes, tmp_path):
    """Without annotated boxes in the samples, whose places the demo's pipeline would scale."""
    for task, data in (('detector', shapes), ('segmentor', shapes)):
        result = evaluate(task, data=data, options=['test_dataloader.batch_size=2'])
        assert result.returncode == 0, result.stderr[-3000:]
        rows = json.loads((tmp_path / 'out/per_class.json').read_text())
        scores = json.loads((tmp_path / 'out/scores.json').read_text())
        assert [row['class'] for row in rows] == list(CLASSES)
        if task == 'detector':
            truth = COCO(shapes / 'annotations/instances_val2017.json')
            counts = [len(truth.getAnnIds(catIds=truth.getCatIds([name]))) for name in CLASSES]
            assert [row['instances'] for row in rows] == counts
            for kind, name in (('', 'bbox_mAP'), ('mask_', 'segm_mAP')):
                means = [row[f'{kind}AP'] for row in rows if row['instances']]
                assert np.mean(means) == pytest.approx(scores[f'coco/{name}'], abs=6e-4)
                assert all((row[f'{kind}AP50'] is None) == (not row['instances']) for row in rows)
        else:
            assert np.mean([row['IoU'] for row in rows if row['IoU'] is not None]) == pytest.approx(
                scores['mIoU'], abs=6e-3
            )
        for name in ('confusion.png', 'worst.jpg'):
            assert Image.open(tmp_path / 'out' / name).size > (400, 200)
            (tmp_path / 'out' / name).unlink()


def test_a_detectors_views_are_merged_with_their_masks(evaluate, models, shapes, tmp_path):
    """By the settings of the zoo's configs, at the scale of the drawings."""
    cfg = load_config(CONFIGS_OF_ZOO / 'cascade_convnext_t_coco.py')
    (loading, views) = cfg.tta_pipeline
    views['transforms'][0] = [dict(type='Resize', scale=scale, keep_ratio=True) for scale in ((128, 96), (160, 120))]
    more = f'tta_pipeline = {[loading.to_dict(), views.to_dict()]!r}\ntta_model = {cfg.tta_model.to_dict()!r}\n'
    write_config('detector', models, more)
    result = evaluate('detector', '--tta', '--out', 'found.json', '--show-dir', 'pictures')
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads((tmp_path / 'out/scores.json').read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= scores.keys()
    found = json.loads((tmp_path / 'found.json').read_text())
    assert found and all('segmentation' in one for one in found)
    assert len(written(tmp_path / 'pictures')) == len(list((shapes / 'val2017').iterdir()))


@pytest.mark.parametrize('suffix', ['.json', '.pkl'])
def test_a_classifiers_file_has_all_scores_of_each_image(suffix, evaluate, shapes, tmp_path):
    result = evaluate('classifier', '--out', f'scores{suffix}', '--show-dir', 'pictures')
    assert result.returncode == 0, result.stderr[-3000:]
    data = (tmp_path / f'scores{suffix}').read_bytes()
    found = json.loads(data) if suffix == '.json' else pickle.loads(data)
    assert list(found) == ['classes', 'images'] and sorted(CLASSES) == [*found['classes']]
    names = written(shapes / 'imagenet/val')
    assert [one['image'] for one in found['images']] == names
    top1 = []
    for one in found['images']:
        assert len(one['scores']) == 5 and sum(one['scores']) == pytest.approx(1, abs=1e-5)
        assert found['classes'][one['label']] == one['image'].split('/')[0]
        top1.append(np.argmax(one['scores']) == one['label'])
    scores = json.loads((tmp_path / 'out/scores.json').read_text())
    assert np.mean(top1) == pytest.approx(scores['accuracy/top1'])
    assert written(tmp_path / 'pictures') == names


@pytest.mark.parametrize(
    ('task', 'flags', 'said'),
    [
        (
            'detector',
            ['--out', 'found.txt'],
            '--out found.txt does not fit: it is to name a file that ends with .json, ',
        ),
        ('classifier', ['--out', 'folder'], '--out folder does not fit: it is to name a file'),
        ('segmentor', ['--out', 'masks.pkl'], '--out masks.pkl does not fit: it is to name a folder.'),
        ('detector', ['--show-dir', 'a.json'], '--show-dir a.json does not fit: it is to name a folder.'),
        ('detector', ['--show-dir', '/proc/x'], 'choose another with --show-dir.'),
        ('detector', ['--out', 'DATA/annotations/instances_val2017.json'], 'would overwrite test data'),
        ('detector', ['--show-dir', 'DATA/val2017'], 'would overwrite test data'),
        ('segmentor', ['--out', 'DATA/ade/annotations/validation'], 'would overwrite test data'),
        ('classifier', ['--show-dir', 'DATA/imagenet/val/circle'], 'would overwrite test data'),
        ('classifier', ['--show-dir', 'DATA'], 'would overwrite test data'),
    ],
)
def test_a_place_that_does_not_fit_is_refused_before_the_test(task, flags, said, evaluate, shapes, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(shapes, data)
    before = {path: path.read_bytes() for path in data.rglob('*') if path.is_file()}
    result = evaluate(task, *(flag.replace('DATA', str(data)) for flag in flags), data=data)
    sentence = refusal(result)
    assert said in sentence and (flags[0] in sentence)
    assert {path: path.read_bytes() for path in data.rglob('*') if path.is_file()} == before
    assert 'Load checkpoint' not in result.stdout


@pytest.mark.parametrize(
    ('images', 'expected'),
    [
        (['/d/a/1.jpg', '/d/b/2.jpg'], ['1.jpg', '2.jpg']),
        (['/d/a/1.jpg', '/d/b/1.jpg'], ['a/1.jpg', 'b/1.jpg']),
        (['/d/a/1.jpg', '/d/a/1.png'], ['1.jpg', '1.png']),
        (['/d/1.jpg'], ['1.jpg']),
    ],
)
def test_outputs_lie_in_one_folder_unless_two_would_have_the_same_name(images, expected):
    assert [str(path) for path in _name_outputs(images).values()] == expected
