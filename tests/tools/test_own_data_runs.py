"""Data of one's own from the folder to pictures of predictions, as a user types it; all that is named is the folder."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import own_sets_masks
import pytest
from conftest import REPOSITORY, refusal, run_tool
from own_sets import DETECTION, NAMES, write_detection
from PIL import Image

from convnext_backbone import ConvNeXt, load_backbone, read_checkpoint

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


@pytest.mark.slow
@pytest.mark.parametrize('table', [False, True], ids=['folders', 'table'])
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


def test_images_without_labels(real_data, call_tool, tmp_path):
    """Photographs in folders and in a tar file: pre-trained on, validated, tested, drawn; and the backbone is used."""
    photos = sorted((real_data / 'imagenette/train').rglob('*.JPEG'))[::20][:24]
    for i, path in enumerate(photos[:16]):
        place = tmp_path / f'mine/{i % 3}/deep/{path.name}'
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    with tarfile.open(tmp_path / 'mine/more.tar', 'w') as archive:
        for path in photos[16:]:
            archive.add(path, arcname=path.name)
    (tmp_path / 'mine/broken.jpg').write_bytes(photos[0].read_bytes()[:5000])

    def call(tool: str, *arguments: object) -> str:
        result = call_tool(tool, *arguments, cwd=tmp_path)
        assert not result.returncode, result.stderr[-3000:]
        return result.stdout + result.stderr

    config, data = REPOSITORY / 'configs/demo/fcmae_convnext_v2_atto_shapes.py', ['--data-root', 'mine']
    schedule = ['--epochs', 2, '--batch-size', 4, '--val-split', 0.2]
    options = ['train_dataloader.num_workers=1', 'default_hooks.logger.interval=1', 'train_cfg.val_interval=1']
    said = call('train.py', config, *data, '--work-dir', 'out', *schedule, '--cfg-options', *options)
    assert 'images without labels, 20 train + 5 val images' in said and 'broken.jpg (OSError: ' in said
    assert said.count('reconstruction/loss: ') == 2 and (tmp_path / 'out/curves.png').is_file()
    call('test.py', config, 'out/epoch_2.pth', *data, '--work-dir', 'out')
    scores = json.loads((tmp_path / 'out/scores.json').read_text())
    assert [*scores] == ['reconstruction/loss'] and 0 < scores['reconstruction/loss'] < 10
    call('browse_data.py', config, *data, '--number', 2, '--work-dir', 'out')
    assert (tmp_path / 'out/browse/train_0002.png').is_file()
    assert (tmp_path / 'out/reconstructions.png').is_file()  # of each evaluation
    call('predict.py', config, 'out/epoch_2.pth', *photos[:2], '--work-dir', 'out')
    assert len([*(tmp_path / 'out/predictions').glob('*.jpeg')]) == 2
    report = load_backbone(ConvNeXt('atto', use_grn=True, out_norm=False), tmp_path / 'out/epoch_2.pth')
    assert report.complete and not report.new


def test_images_of_four_channels_without_labels(call_tool, tmp_path):
    """Say, with near infrared: pre-trained on, and drawn; or what must be set is said in one sentence."""
    (tmp_path / 'mine').mkdir()
    for i, values in enumerate(np.random.default_rng(0).integers(0, 256, (12, 64, 64, 4), dtype=np.uint8)):
        Image.fromarray(values).save(tmp_path / f'mine/{i}.tif')
    config = REPOSITORY / 'configs/demo/fcmae_convnext_v2_atto_shapes.py'
    more = ['model.backbone.in_channels=4', 'train_dataloader.dataset.transform.input_size=64']
    sets = [f'{split}_dataloader.dataset.channels=4' for split in ('train', 'val', 'test')]
    normalization = [f'model.data_preprocessor.{name}=[0.5,0.5,0.5,0.5]' for name in ('mean', 'std')]
    command = ['train.py', config, '--data-root', 'mine', '--work-dir', 'out', '--iters', 1, '--batch-size', 2]
    command += ['--val-split', 0.2, '--cfg-options', *more]
    said = refusal(call_tool(*command, cwd=tmp_path))
    assert '(2, 3, 128, 128)' in said and '(N, 4, H, W)' in said
    assert 'The images have 4 channels, but mean' in refusal(call_tool(*command, *sets, cwd=tmp_path))
    result = call_tool(*command, *sets, *normalization, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    (weights,) = (tmp_path / 'out').glob('*.pth')
    options = ['--work-dir', 'out', '--cfg-options', *more, *sets, *normalization]
    result = call_tool('predict.py', config, weights, 'mine/0.tif', *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    (drawn,) = (tmp_path / 'out/predictions').glob('0.*')
    assert Image.open(drawn).size[0] > 3 * 64


def test_what_a_pretrained_model_cannot_do_is_one_sentence(call_tool, shapes, tmp_path):
    config = REPOSITORY / 'configs/demo/fcmae_convnext_v2_atto_shapes.py'
    arguments = [config, 'weights.pth', '--data-root', shapes]
    assert '--show-dir' in refusal(call_tool('test.py', *arguments, '--show-dir', 'pictures', cwd=tmp_path))
    assert 'is for pre-training' in refusal(call_tool('export.py', config, 'weights.pth', 'x.onnx', cwd=tmp_path))
