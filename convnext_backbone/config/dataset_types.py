"""What a config says of its data sets: their places in it, types and classes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS

from .check import walk

SPLITS = ('train', 'val', 'test')


def name_datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Iterate over the data sets of a split that name files, with their dotted names; also inside of wrappers."""
    loader = f'{split}_dataloader'
    for name, node in walk(cfg.get(loader), loader):
        if isinstance(node, dict) and re.fullmatch(rf'{loader}(\.datasets?(\.\d+)?)+', name):
            if {'data_root', 'ann_file', 'data_prefix'} & node.keys():
                yield name, node


def all_datasets(cfg: Config) -> list[dict]:
    """The data sets of all splits that name files, as of :func:`name_datasets`."""
    return [dataset for split in SPLITS for _, dataset in name_datasets(cfg, split)]


def find_classes(dataset: Mapping, scope: str | None) -> Sequence[str] | None:
    """Return the classes that a config gives a data set, or that its type has; None where neither names them."""
    for meta in (dataset.get('metainfo'), getattr(_find_type(dataset, scope), 'METAINFO', None)):
        if isinstance(meta, Mapping) and 'classes' in meta:
            classes = meta['classes']
            if isinstance(classes, str):  # a file, a name a line
                return Path(classes).read_text(encoding='utf-8').splitlines()
            return classes if isinstance(classes, (list, tuple)) else None
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
