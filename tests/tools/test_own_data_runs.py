"""Data of one's own from the folder to pictures of predictions, as a user types it; all that is named is the folder."""

import json
import shutil
from pathlib import Path

import own_sets_masks
import pytest
from conftest import REPOSITORY, run_tool
from own_sets import DETECTION, NAMES, write_detection

from convnext_backbone import read_checkpoint

CONFIGS = dict(
    detection='cascade_convnext_atto_coco8', segmentation='upernet_convnext_atto_camvid',
    classification='pretrain_convnext_atto_shapes',
)  # fmt: skip
SCENES = [getattr(own_sets_masks, name) for name in ('camvid_in_colors', 'camvid_of_segnet', 'cvat', 'roboflow', 'voc')]


def run(tool: str, *arguments: object, cwd: Path) -> str:
    result = run_tool(tool, *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def train_and_predict(task: str, photos: str, cwd: Path, *flags: str) -> tuple[list[str], object, str]:
    """Train two iterations on ``mine``; predict, test and browse by the config of the run, from another folder, too.

    Returns:
        The classes of the checkpoint, the predictions, and what the training said.
    """
    config = REPOSITORY / f'configs/demo/{CONFIGS[task]}.py'
    said = run('train.py', config, '--data-root', 'mine', '--work-dir', 'out', *flags, cwd=cwd)
    ran, weights = f'out/{config.name}', Path(cwd, 'out/last_checkpoint').read_text()
    classes = read_checkpoint(weights)['meta']['dataset_meta']['classes']
    run('predict.py', ran, weights, photos, '--work-dir', 'found', cwd=cwd)
    assert (cwd / 'found/predictions/overview.png').stat().st_size > 10_000
    (elsewhere := cwd / 'elsewhere').mkdir()
    for tool, *options in (('test.py', cwd / weights), ('browse_data.py', '--number', '2')):
        run(tool, cwd / ran, *options, '--work-dir', '../out', cwd=elsewhere)
    assert (cwd / 'out/browse/overview.png').is_file() and (cwd / 'out/confusion.png').is_file()
    return [*classes], json.loads((cwd / 'found/predictions/predictions.json').read_text()), said


@pytest.mark.slow
@pytest.mark.parametrize('layout', DETECTION)
def test_boxes_in_any_layout(layout, real_data, tmp_path):
    write_detection(layout, real_data, tmp_path / 'mine', train=4, val=3)
    photo = next(path for path in sorted((tmp_path / 'mine').rglob('*.jpg')))
    options = ['--iters', '2', '--batch-size', '1', '--cfg-options', 'train_dataloader.dataset.times=1']
    classes, found, said = train_and_predict('detection', str(photo), tmp_path, *options)
    expected = sorted(NAMES) if layout.startswith('voc') else [*NAMES]
    assert classes == expected == [one['name'] for one in found['categories']]
    assert '3 classes' in said and [Path(one['file_name']).name for one in found['images']] == [photo.name]


@pytest.mark.slow
@pytest.mark.parametrize('write', SCENES, ids=lambda write: write.__name__)
def test_masks_in_any_layout(write, real_data, tmp_path):
    write(real_data / 'camvid', tmp_path / 'mine', 4)
    photo = next(path for path in sorted((tmp_path / 'mine').rglob('*')) if path.suffix == '.jpg')
    classes, found, _ = train_and_predict('segmentation', str(photo), tmp_path, '--iters', '2', '--batch-size', '2')
    assert [name.lower() for name in classes] == [name.lower() for name in own_sets_masks.CAMVID]
    assert len(found) > 0


@pytest.mark.parametrize('table', [pytest.param(False, marks=pytest.mark.slow), True], ids=['folders', 'table'])
def test_labels_in_folders_or_in_a_table(table, real_data, tmp_path):
    rows = []
    for label, name in (('tench', 'n01440764'), ('dog', 'n02102040')):
        for i, path in enumerate(sorted((real_data / 'imagenette/train' / name).iterdir())[:6]):
            place = tmp_path / 'mine' / ('photos' if table else label) / f'{label}_{i}.jpg'
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            rows.append(f'{place.name},{label}')
    if table:
        (tmp_path / 'mine/labels.csv').write_text('\n'.join(['image,label', *rows]))
    photo = str(next((tmp_path / 'mine').rglob('dog_0.jpg')))
    classes, found, _ = train_and_predict('classification', photo, tmp_path, '--iters', '2', '--batch-size', '4')
    assert classes == ['dog', 'tench'] and {one['class'] for one in found[0]['classes']} == {'dog', 'tench'}
