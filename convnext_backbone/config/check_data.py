"""Whether the data of a run exists and fits its model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..datasets.coco_check import find_coco_problem
from ..utils.errors import ArgumentError, UserError, printable, shorten
from .check import walk
from .load import find_datasets

_QUICKLY_READ = 32 * 2**20  # bytes of json, a second or two
_HEADS = ('roi_head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def check_data(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> None:
    """Check that the data of a run exists and fits the model, before anything is built.

    Raises:
        UserError: Something is missing (the text names the folder, the files expected in it and the flag) or invalid,
            or the model has other classes.
    """
    scope = cfg.get('default_scope')
    for split in splits:
        for dataset in find_datasets(cfg.get(f'{split}_dataloader')):
            if dataset.get('reader'):  # it downloads or finds what it is told to
                continue
            _check_files(dataset, split)
            classes = find_classes(dataset, scope)
            if split == 'train' and classes is not None:
                check_heads(cfg, classes)
            # What is labelled must be so; a larger file is judged after a failure.
            if split != 'test' and dataset.get('ann_file') and reads_coco(dataset, scope):
                path = Path(dataset.get('data_root') or '.') / dataset['ann_file']
                problem = find_coco_problem(dataset, classes) if path.stat().st_size <= _QUICKLY_READ else None
                if problem:
                    raise UserError(problem)


def _check_files(dataset: Mapping, split: str) -> None:
    root = Path(dataset.get('data_root') or '.')
    prefix = dataset.get('data_prefix') or {}
    folders = prefix.values() if isinstance(prefix, dict) else [prefix]
    wanted = [str(part) for part in (dataset.get('ann_file'), *folders) if part]
    missing = [part for part in wanted if not (root / part).exists()]
    if missing:
        raise UserError(
            f'The {split} data is missing: looked in {printable(str(root.absolute()))} for {shorten(wanted)}, and did '
            f'not find {shorten(missing)}; put the data there or point elsewhere with --data-root.'
        )


def find_classes(dataset: Mapping, scope: str | None) -> Sequence[str] | None:
    """Return the classes that a config gives a data set, or that its type has; None where neither names them."""
    for meta in (dataset.get('metainfo'), getattr(_find_type(dataset, scope), 'METAINFO', None)):
        if isinstance(meta, Mapping) and 'classes' in meta:
            return meta['classes'] if isinstance(meta['classes'], (list, tuple)) else None
    return None


def reads_coco(dataset: Mapping, scope: str | None) -> bool:
    """Whether a data set is mmdet's CocoDataset, or derived from it and reads its file the same way."""
    kind = _find_type(dataset, scope)
    base = next((base for base in getattr(kind, '__mro__', ()) if base.__name__ == 'CocoDataset'), None)
    return base is not None and all(
        getattr(kind, name) is getattr(base, name) for name in ('load_data_list', 'parse_data_info')
    )


def _find_type(dataset: Mapping, scope: str | None) -> type | None:
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            return registry.get(kind)
        except (ValueError, RuntimeError, ImportError):  # no such name
            return None


def check_heads(cfg: Config, classes: Sequence[str]) -> None:
    """Compare the heads of a model with the classes of its data.

    Raises:
        ArgumentError: A head has another number of classes; the text names it.
    """
    for part in _HEADS:
        for name, value in walk((cfg.get('model') or {}).get(part), f'model.{part}'):
            if name.endswith('.num_classes') and 'semantic_head' not in name and value != len(classes):
                raise ArgumentError(
                    f'{name}={printable(repr(value))} does not fit the training data, which has {len(classes)} classes '
                    f'({printable(", ".join(map(str, classes)))}): change it, or metainfo.classes of the data sets.'
                )
