"""Whether the data of a run are there and fit its model."""

from pathlib import Path

from mmengine.config import Config

from ..datasets.coco_check import find_coco_problem
from ..utils.errors import UserError, printable, shorten
from .check import check_heads, find_classes, reads_coco
from .load import find_datasets


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
                problem = find_coco_problem(dataset, classes) if size <= _QUICKLY_READ else None
                if problem:
                    raise UserError(problem)


_QUICKLY_READ = 32 * 2**20  # bytes of json, a second or two
