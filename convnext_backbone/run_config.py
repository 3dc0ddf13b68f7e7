"""From a config file and command-line flags to a config that runs here: data found, machine considered."""

import contextlib
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from .annotations import coco_problem
from .config_checks import DATALOADERS, building_problem, channels_problem, check_heads, find_classes, reads_coco
from .errors import UserError, printable, shorten
from .image_io import IMAGE_SUFFIXES
from .load import find_datasets

_QUICKLY_READ = 32 * 2**20  # bytes of json, a second or two


def check_data(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> None:
    """Makes sure that the data of a run is there, and fits the model, before anything is built.

    Raises:
        UserError: Something is missing: the text names the folder, the files expected in it and the flag. Or something
            is wrong with it, or the model has other classes.
    """
    scope = cfg.get('default_scope')
    for split in splits:
        for dataset in find_datasets(cfg.get(f'{split}_dataloader')):
            if dataset.get('reader'):  # which fetches or finds what it is told to
                continue
            root = Path(dataset.get('data_root') or '.')
            prefix = dataset.get('data_prefix') or {}
            folders = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
            wanted = [part for part in (dataset.get('ann_file'), *folders) if part]
            try:
                missing = [str(part) for part in wanted if not (root / part).exists()]
            except (TypeError, ValueError, OSError) as error:
                raise UserError(
                    f'The {split} data is not named by paths: data_root={dataset.get("data_root")!r}, '
                    f'ann_file={dataset.get("ann_file")!r}, data_prefix={prefix!r} ({error}).'
                ) from error
            if missing:
                raise UserError(
                    f'The {split} data is missing: looked in {printable(str(root.absolute()))} for '
                    f'{shorten([*map(str, wanted)])}, and did not find {shorten(missing)}; put the data there or point '
                    f'elsewhere with --data-root.'
                )
            classes = find_classes(dataset, scope)
            if split == 'train' and classes is not None:
                check_heads(cfg, classes)
            # What is labelled must be so; a larger file is judged after a failure.
            if split != 'test' and reads_coco(dataset, scope):
                if not isinstance(prefix, dict):
                    raise UserError(f'The {split} data has data_prefix={prefix!r}: it takes a dict with img, a folder.')
                if not dataset.get('ann_file'):
                    raise UserError(f'The {split} data has ann_file={dataset.get("ann_file")!r}: name the annotations.')
                size = (root / dataset['ann_file']).stat().st_size
                problem = coco_problem(dataset, classes) if size <= _QUICKLY_READ else None
                if problem:
                    raise UserError(problem)


@contextlib.contextmanager
def explained_failures(cfg: Config) -> Iterator[None]:
    """Turns a failure that a run's data or config explains into a :class:`UserError`; any other one passes as it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = explain_failure(error, cfg)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _lost_a_worker(error: BaseException) -> bool:
    """Whether a process that loads data is gone: torch says so, or what it was about to hand over cannot be read."""
    if str(error).startswith('DataLoader worker (pid'):
        return True
    waits = any(frame.f_code.co_name == '_try_get_data' for frame, _ in traceback.walk_tb(error.__traceback__))
    return waits and isinstance(error, (OSError, EOFError))


def explain_failure(error: BaseException, cfg: Config) -> str | None:
    """One sentence on a failure that data or the config explain; None for any other failure.

    All of the data is judged only after a failure, as a whole COCO annotation file takes seconds to parse.
    """
    text = str(error)
    if _lost_a_worker(error):
        first = (text.strip() or type(error).__name__).splitlines()[0]
        return (
            f'A process that loads data was killed, as a rule because memory ran out ({first}): '
            f'give the run more memory, and of /dev/shm, or lower num_workers and prefetch_factor of the data loaders, '
            f'and go on with --resume.'
        )
    if text.startswith('Expected more than 1 value per channel when training'):
        return (
            f'A batch norm has one value in a batch to normalise, as with train_dataloader.batch_size=1 where maps are '
            f'pooled to one place ({text}): take at least two images in a batch.'
        )
    # The last match: a worker's message quotes the line of source that raised it first.
    named = re.findall(r"(?:failed to load image: |No such file or directory: ')([^'\n]+)", text)
    if named and Path(named[-1].strip()).suffix.lower() in IMAGE_SUFFIXES:
        return (
            f'The image {named[-1].strip()} cannot be decoded or is missing: replace it, take it out of the data, or '
            f'mend data_root and data_prefix.'
        )
    scope = cfg.get('default_scope')
    for loader in DATALOADERS:
        for dataset in find_datasets(cfg.get(loader)):
            path = Path(dataset.get('data_root') or '.') / (dataset.get('ann_file') or '')
            if path.is_file() and reads_coco(dataset, scope):
                problem = coco_problem(dataset, find_classes(dataset, scope), failed=True)
                if problem:
                    return problem
    return channels_problem(cfg) or building_problem(error, cfg)


def check_work_dir(work_dir: str | os.PathLike) -> None:
    """Makes the folder of a run and tries to write into it.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=work_dir).close()
    except OSError as error:
        raise UserError(
            f'The work_dir {work_dir} cannot be written: {error.strerror}; choose another with --work-dir.'
        ) from error
