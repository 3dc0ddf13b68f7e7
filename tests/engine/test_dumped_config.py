"""The config in the work_dir of a run repeats that run. Exact."""

from mmengine.config import Config
from small_runs import LAST, arguments, check_same, write_config
from test_places import PRETTY_TEXT, forget_runs


def test_the_dumped_config_repeats_the_run(shapes, tmp_path, call_tool, monkeypatch):
    """The first run has flags that change its config, and a random seed."""
    monkeypatch.setattr(Config, 'pretty_text', PRETTY_TEXT)
    config = write_config('classifier', tmp_path, 'randomness = dict(seed=None)')
    config, *flags = arguments('classifier', config, shapes, 'first', ['train_dataloader.num_workers=0'])
    flags.remove('randomness.seed=3')
    for command in ([config, *flags], ['first/classifier.py', '--work-dir', 'second']):
        result = call_tool('train.py', *command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        forget_runs()
    check_same(tmp_path / 'first' / LAST['classifier'], tmp_path / 'second' / LAST['classifier'])
