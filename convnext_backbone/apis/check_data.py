"""What a folder of data holds, for any task, and what is wrong with it."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..config.check_data import check_data
from ..config.dataset_types import SPLITS, find_classes, name_datasets
from ..config.own_data import FINDERS, Annotations
from ..config.recipes import task_of
from ..datasets.faults import Faults, Problem
from ..datasets.folders import list_folders
from ..datasets.label_statistics import ImageStatistics, LabelStatistics
from ..datasets.layouts import Layout, NoLayoutError
from ..datasets.mask_statistics import MaskStatistics
from ..datasets.object_statistics import ObjectStatistics
from ..datasets.samples import Sample, SplitStatistics, look_at_all
from ..datasets.segmentation_layouts import is_mask_folder
from ..utils.errors import UserError, shorten
from .data_advice import give_advice

_SCOPES = dict(detection='mmdet', segmentation='mmseg', classification='mmengine', pretraining='mmengine')


@dataclass
class DataReport:
    """What data holds.

    Attributes:
        title: Where it is, and its layout.
        task: One of :data:`.TASKS`; None for data that is of no known layout.
        notes: What a person should know.
        classes: Their names, in the order of the labels.
        palette: Their colours; empty where the data has none.
        splits: The statistics of each split.
        numbers: What they sum up to, by split, ready for json.
        labels: The classes that are seen in each sample.
        problems: Errors first.
        advice: Sentences.
    """

    title: str
    task: str | None = None
    notes: Sequence[str] = ()
    classes: Sequence[str] = ()
    palette: Sequence[Sequence[int]] = ()
    splits: dict[str, SplitStatistics] = field(default_factory=dict)
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[Sample, tuple[int, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        """Whether a problem would end a run, or spoil its result."""
        return any(problem.is_error for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """What a program reads."""
        return dict(
            title=self.title,
            task=self.task,
            notes=[*self.notes],
            classes=[*self.classes],
            splits=self.numbers,
            problems=[problem.as_json() for problem in self.problems],
            recommendations=self.advice,
        )


def inspect_folder(root: Path, out_dir: Path, annotations: Annotations, task: str | None = None) -> DataReport:
    """Recognise the layout of a folder, and look at all of its data.

    Args:
        root: The folder; nothing is written into it.
        out_dir: Where files are written that the layout needs.
        annotations: What the user chose.
        task: By default it is recognised, too, if it is one with annotations.

    Raises:
        UserError: The folder does not exist.
    """
    if not root.is_dir():
        raise UserError(f'{root} is no folder: name the folder of the data.')
    faults = Faults()
    try:
        task, layout = _recognise(root, out_dir, annotations, task, faults)
    except UserError as error:
        faults.add('unusable data', '', str(error))
        return DataReport(str(root), problems=faults.list())
    report = DataReport(f'{root}: {layout}', task, layout.notes, layout.classes, layout.palette)
    settings = layout.splits
    if task == 'detection':
        load = [dict(type='LoadAnnotations', with_mask=not layout.without_mask)]
        settings = {split: {**one, 'pipeline': load} for split, one in settings.items()}
    return _inspect(report, settings, _SCOPES[task], faults)


def inspect_config(cfg: Config) -> DataReport:
    """Look at all the data of a config.

    Raises:
        UserError: Its data sets are not of the kinds that can be looked at.
    """
    report = DataReport(f'{cfg.filename}', task_of(cfg))
    settings: dict[str, dict] = {}
    for split in SPLITS:
        found = [*name_datasets(cfg, split)]
        if len(found) > 1:
            raise UserError(
                f'{cfg.filename} has {len(found)} data sets for {split}: check each with a config of its own.'
            )
        if found and found[0][1] not in settings.values():  # the test data often is that of validation
            settings[split] = found[0][1]
    scope = cfg.get('default_scope')
    report.classes = next((names for one in settings.values() if (names := find_classes(one, scope))), ())
    report = _inspect(report, settings, scope, Faults())
    if not report.has_errors:
        try:
            check_data(cfg, tuple(settings))
        except UserError as error:
            report.problems.insert(0, Problem('unusable data', '', str(error), number=1))
    return report


def _recognise(
    root: Path, out_dir: Path, annotations: Annotations, task: str | None, faults: Faults
) -> tuple[str, Layout]:
    """Find the task that a folder has data for: boxes tell more than masks, and masks more than folders of images."""
    masks = any(is_mask_folder(folder.relative_to(root)) for folder in list_folders(root, out_dir))
    rest = ['segmentation', 'classification'] if masks else ['classification', 'segmentation']
    tasks = [task] if task else ['detection', *rest]
    refused = []
    for name in tasks:
        try:
            return name, FINDERS[name](root, out_dir, *annotations, faults)
        except NoLayoutError as error:
            refused.append(str(error))
    raise UserError(' '.join(refused))


def _inspect(report: DataReport, settings: Mapping[str, Mapping], scope: str | None, faults: Faults) -> DataReport:
    try:
        for split, dataset in settings.items():
            report.splits[split] = one = _open(report, split, dataset, scope, faults)
            report.classes = report.classes or getattr(one, 'classes', ())
    except UserError as error:
        faults.add('unusable data', '', str(error))
        report.splits.clear()
    sizes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for sample, look in look_at_all(report.splits, faults):
        report.labels[sample] = report.splits[sample.split].take(sample, look.more)
        if look.size:
            sizes[sample.split].append(look.size)
    for split, one in report.splits.items():
        unlabelled = sum(not report.labels[sample] for sample in one.samples)
        report.numbers[split] = dict(
            images=len(one.samples),
            **(dict(without_annotations=unlabelled) if report.task != 'pretraining' else {}),
            sizes=_describe_sizes(sizes[split]),
            **one.summary(),
        )
        _check_classes(report, split, faults)
    report.problems = faults.list()
    if report.splits:
        report.advice = give_advice(report.task, report.numbers, report.splits)
    return report


def _open(report: DataReport, split: str, dataset: Mapping, scope: str | None, faults: Faults) -> SplitStatistics:
    if report.task == 'detection':
        return ObjectStatistics(split, dataset, report.classes, faults)
    if report.task == 'segmentation':
        return MaskStatistics(split, dataset, scope, report.classes, faults)
    if report.task == 'pretraining':
        return ImageStatistics(split, dataset)
    return LabelStatistics(split, dataset)


def _describe_sizes(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The smallest, the median and the largest size, by area, and how many there are."""
    if not sizes:
        return dict(different=0)
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    names = dict(smallest=0, median=len(ordered) // 2, largest=-1)
    return dict(different=len({*sizes}), **{name: [*ordered[place]] for name, place in names.items()})


def _check_classes(report: DataReport, split: str, faults: Faults) -> None:
    """Add classes that nothing is labelled with, and names that a person may have meant to be one."""
    classes: Mapping[str, Mapping] = report.numbers[split]['classes']
    empty = [name for name, numbers in classes.items() if not numbers['images']]
    if empty and len(empty) < len(classes):
        text = f'{split} has nothing labelled {shorten(empty)}: what is not seen is not {_DONE[split]}.'
        faults.add('classes without annotations', split, text, (), len(classes), len(empty))
    if split == 'train':
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in classes:
            alike[re.sub(r'[\W_]+', '', str(name).casefold())].append(name)
        for names in alike.values():
            if len(names) > 1:
                text = f'{shorten(names)} differ only in case or spaces: give them one name if they are one class.'
                faults.add('class names that are almost the same', '', text, (), len(classes), len(names))


_DONE = dict(train='learnt', val='evaluated', test='evaluated')
