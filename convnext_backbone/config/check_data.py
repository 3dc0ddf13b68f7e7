"""Whether the data of a run exists and fits its model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from ..datasets.mask_check import check_masks
from ..datasets.masks import VOID
from ..datasets.plain_files import refuse_pickles
from ..utils.errors import ArgumentError, UserError, printable, shorten
from .check import walk
from .check_annotations import check_annotations
from .dataset_types import find_classes, name_datasets
from .heads import find_heads


def check_data(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> None:
    """Check that the data of a run exists and fits the model, before anything is built.

    Raises:
        UserError: Something is missing (the text names the folder, the files expected in it and the flag) or invalid,
            or the model has other classes.
    """
    for split in splits:
        refuse_pickles(walk(cfg.get(f'{split}_dataloader'), f'{split}_dataloader'))
        for _, dataset in name_datasets(cfg, split):
            if not dataset.get('reader'):  # which downloads or finds what it is told to
                _check_files(dataset, split)
        check_classes(cfg, split)
        check_annotations(cfg, split)
        _check_masks(cfg, split)


def _check_masks(cfg: Config, split: str) -> None:
    owner = cfg.get('model' if split == 'train' else f'{split}_evaluator')  # of what is ignored
    ignored = {value for name, value in walk(owner) if name.endswith('ignore_index') and isinstance(value, int)}
    for _, dataset in name_datasets(cfg, split):
        check_masks(dataset, cfg.get('default_scope'), split, {VOID, *ignored})


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


def check_classes(cfg: Config, split: str) -> None:
    """Compare the classes that a config gives a split with the heads of the model and with the training data.

    Raises:
        ArgumentError: They differ; the text names them.
    """
    scope = cfg.get('default_scope')
    trained = [names for _, dataset in name_datasets(cfg, 'train') if (names := find_classes(dataset, scope))]
    for name, dataset in name_datasets(cfg, split):
        classes = find_classes(dataset, scope)
        if classes is None:
            continue
        if split == 'train':
            check_heads(cfg, classes)
        # Data for tracking may name more classes after those that are trained.
        elif split == 'val' and trained and all([*one[: len(classes)]] != [*classes[: len(one)]] for one in trained):
            raise ArgumentError(
                f'{name} has the classes {printable(repr([*classes]))}, but the training data '
                f'{printable(repr([*trained[0]]))}: labels are places in this list, so give both the same '
                f'metainfo.classes.'
            )


def check_heads(cfg: Config, classes: Sequence[str]) -> None:
    """Compare the heads of a model with the classes of its data.

    Raises:
        ArgumentError: A head has another number of classes; the text names it.
    """
    for name, value in find_heads(cfg):
        if value != len(classes):
            raise ArgumentError(
                f'{name}={printable(repr(value))} does not fit the training data, which has {len(classes)} classes '
                f'({printable(", ".join(map(str, classes)))}): change it, or metainfo.classes of the data sets.'
            )
