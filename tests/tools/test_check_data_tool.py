"""tools/check_data.py: exit codes, json alone on stdout, nothing written beside the data. Exact."""

import json
import shutil

from conftest import REPOSITORY, refusal


def test_data_without_errors_ends_in_0_and_writes_a_page(call_tool, shapes, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob('*')}
    result = call_tool('check_data.py', shapes, '--task', 'detection', '--number', 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'COCO json, 5 classes' in result.stdout and 'Classes in train' in result.stdout
    out = tmp_path / 'work_dirs/check_data/data'
    assert f'To look through: {out / "index.html"}' in result.stdout
    assert {'index.html', 'overview.png', 'check_data.json', 'pictures'} <= {path.name for path in out.iterdir()}
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob('*')} == before


def test_errors_end_in_2_and_json_is_alone_on_stdout(call_tool, shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / 'mine')
    min((tmp_path / 'mine/train2017').iterdir()).unlink()
    arguments = ['--task', 'detection', '--json', '--number', 0]
    result = call_tool('check_data.py', tmp_path / 'mine', *arguments, cwd=tmp_path)
    report = json.loads(result.stdout)
    (problem,) = [one for one in report['problems'] if one['severity'] == 'error']
    assert result.returncode == 2
    assert (problem['kind'], problem['split'], problem['number'], problem['total']) == ('missing images', 'train', 1, 6)
    assert not (tmp_path / 'work_dirs/check_data/mine/index.html').exists()


def test_a_folder_without_data_is_told_for_each_task(call_tool, tmp_path):
    (tmp_path / 'empty').mkdir()
    result = call_tool('check_data.py', tmp_path / 'empty', cwd=tmp_path)
    assert result.returncode == 2 and result.stdout.count(f'{tmp_path / "empty"} has no') == 3
    assert 'is no folder' in refusal(call_tool('check_data.py', tmp_path / 'nowhere', cwd=tmp_path))


def test_a_config_reads_the_data_as_it_trains(call_tool, shapes, tmp_path):
    config = REPOSITORY / 'configs/demo/cascade_convnext_atto_shapes.py'
    arguments = [shapes, '--config', config, '--number', 0, '--out', tmp_path / 'out']
    result = call_tool('check_data.py', *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-2000:]
    assert 'Classes in val' in result.stdout


def test_images_without_labels_are_looked_at_as_files(call_tool, shapes, tmp_path):
    shutil.copytree(shapes / 'train2017', tmp_path / 'mine/deep/train')
    shutil.copytree(shapes / 'val2017', tmp_path / 'mine/val')
    result = call_tool('check_data.py', tmp_path / 'mine', '--task', 'pretraining', '--number', 3, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-2000:]
    assert 'images without labels, 6 train + 4 val images' in result.stdout and 'Classes' not in result.stdout
    assert len([*(tmp_path / 'work_dirs/check_data/mine/pictures').iterdir()]) == 3
    first = min((tmp_path / 'mine/deep/train').iterdir())
    shutil.copyfile(first, tmp_path / 'mine/val' / first.name)
    first.with_name('empty.png').touch()
    arguments = [tmp_path / 'mine', '--task', 'pretraining', '--json', '--number', 0]
    report = json.loads(call_tool('check_data.py', *arguments, cwd=tmp_path).stdout)
    kinds = {one['kind']: one['severity'] for one in report['problems']}
    assert kinds == {'unreadable images': 'error', 'pictures that another split has, too': 'error'}
    assert report['splits']['train'].keys() == {'images', 'sizes', 'classes'}
