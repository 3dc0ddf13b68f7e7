"""A report on data for people: tables, a sheet of annotated pictures, and a page to look through them."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

from ..datasets.mask_statistics import MaskStatistics
from ..datasets.object_statistics import ObjectStatistics
from ..datasets.samples import Sample
from ..utils.errors import UserError
from ..utils.files import write_atomically
from ..utils.image_io import read_image, write_picture
from ..visualization.html_report import Figure, Table, make_page
from ..visualization.legend import Entry, add_legend, contact_sheet, thumbnail_scale, thumbnail_size
from ..visualization.objects import Drawn, draw_objects, make_palette
from ..visualization.overlays import draw_classes
from .check_data import DataReport
from .image_files import DATA_REPORT, OVERVIEW, claimed_folder

PAGE = 'index.html'
_WIDTH = 640  # pixels of a picture
_PERCENT = {'share', 'void'}


def make_tables(report: DataReport) -> list[Table]:
    """Lay out the numbers of a report: of the splits, and of their classes."""
    splits = [*report.numbers]
    rows: dict[str, list] = {}
    for split in splits:
        for name, value in _flatten(report.numbers[split]):
            rows.setdefault(name, ['-'] * len(splits))[splits.index(split)] = value
    tables = [Table('Splits', ['', *splits], [[name, *values] for name, values in rows.items()])]
    for split in splits:
        classes: dict[str, dict] = report.numbers[split]['classes']
        if not classes:  # images without labels
            continue
        columns = [*next(iter(classes.values()), {})]
        cells = [[name, *(_show(key, numbers[key]) for key in columns)] for name, numbers in classes.items()]
        tables.append(Table(f'Classes in {split}', ['class', *columns], cells))
    return tables


def _flatten(numbers: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in numbers.items():
        words = name.replace('_', ' ')
        if name == 'sizes':
            yield from ((f'{key} image', _show(key, size)) for key, size in value.items() if key != 'different')
            yield 'different sizes', value['different']
        elif name == 'aspect_ratios':
            yield 'width / height of 90 %', f'{value["low"]:.2f} to {value["high"]:.2f}' if value['low'] else '-'
        elif name != 'classes':
            yield words, _show(name, value)


def _show(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return ' x '.join(map(str, value))
    return f'{100 * value:.2f} %' if name in _PERCENT else value


def print_report(report: DataReport) -> None:
    """Print a report on stdout."""
    print('\n  '.join([report.title, *report.notes]))
    for table in make_tables(report) if report.numbers else ():
        print(f'\n{table}')
    print(f'\nProblems{"" if report.problems else ": none were found"}')
    for problem in report.problems:
        print(f'  {"error" if problem.is_error else "warning"}: {problem}\n    {problem.example}')
    if report.advice:
        print('\n  '.join(['\nRecommendations', *report.advice]))


def write_pages(report: DataReport, out_dir: Path, number: int) -> None:
    """Write the page with its pictures, the sheet and the json of a report.

    Args:
        report: What is written.
        out_dir: Where; earlier pictures of this check are replaced.
        number: The most pictures: first such that have problems, then some of each class, then others.

    Raises:
        UserError: The folder holds pictures of something else, or cannot be written.
    """
    with claimed_folder(out_dir):
        for old in (out_dir / 'pictures').glob('*.jpg'):
            old.unlink()
        samples = choose_samples(report, number)
        palette = report.palette or make_palette(len(report.classes))
        figures, sheet = [], []
        for place, sample in enumerate(track_iter_progress((samples, len(samples)), file=sys.stderr)):
            path = out_dir / 'pictures' / f'{place:05}.jpg'
            picture, lines = _draw(report, sample, palette)
            write_picture(picture, path)
            sheet.append(path)
            found = [i for i, problem in enumerate(report.problems) if sample.path in problem.images]
            caption = [f'{sample.split}: {sample.path}', *lines, *(report.problems[i].kind for i in found)]
            marks = dict(split=[[*report.splits].index(sample.split)], problem=found)
            figures.append(Figure(f'pictures/{path.name}', caption, marks | {'class': report.labels.get(sample, ())}))
        if sheet:
            contact_sheet(sheet, out_dir / OVERVIEW)
        problems = [
            ('error' if problem.is_error else 'warning', str(problem), problem.example) for problem in report.problems
        ]
        filters = dict(split=[*report.splits], problem=[str(problem) for problem in report.problems])
        page = make_page(
            report.title,
            report.notes,
            problems,
            report.advice,
            make_tables(report) if report.numbers else [],
            figures,
            filters | {'class': report.classes},
        )
        write_atomically(page.encode(errors='replace'), out_dir / PAGE)
        write_atomically(json.dumps(report.as_json(), indent=1).encode(), out_dir / DATA_REPORT)


def choose_samples(report: DataReport, number: int) -> list[Sample]:
    """Choose pictures: in turn one of each problem, of each class and of all, spread evenly."""
    samples = [*report.labels]
    by_path = {sample.path: sample for sample in samples}
    queues = [[by_path[path] for path in problem.images if path in by_path] for problem in report.problems]
    by_class: dict[int, list[Sample]] = {}
    for sample in _spread(samples, len(samples)):
        for label in report.labels[sample]:
            by_class.setdefault(label, []).append(sample)
    # Problems first, but not alone.
    half = _take_in_turn(queues, number // 2)
    rest = _take_in_turn([*by_class.values(), _spread(samples, number)], number + len(half))
    return [*dict.fromkeys([*half, *rest])][:number]


def _spread(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Some of all, in an order in which the first few come from everywhere."""
    step = max(1, round(len(samples) * 0.382))
    while np.gcd(step, max(1, len(samples))) != 1:
        step += 1
    return [samples[i * step % len(samples)] for i in range(min(number, len(samples)))]


def _take_in_turn(queues: Sequence[Sequence[Sample]], number: int) -> list[Sample]:
    taken: dict[Sample, None] = {}
    for row in zip_longest(*queues):
        for sample in row:
            if sample is not None and len(taken) < number:
                taken[sample] = None
        if len(taken) >= number:
            break
    return [*taken]


def _draw(report: DataReport, sample: Sample, palette: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[str]]:
    """A picture of a sample with its annotations, and lines for its caption."""
    data = report.splits[sample.split]
    names = [str(name) for name in report.classes]
    try:
        image = read_image(sample.path)
    except UserError:
        return add_legend(np.full((120, _WIDTH, 3), 200, np.uint8), [], 'no picture: it cannot be read'), []
    scale = min(1.0, thumbnail_scale(image, _WIDTH))
    size = thumbnail_size(image, _WIDTH) if scale < 1 else image.shape[1::-1]
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    lines = [f'{image.shape[1]} x {image.shape[0]} pixels']
    if report.task == 'detection':
        found = cast(ObjectStatistics, data).annotations_of(sample)
        objects = [
            Drawn(label, one.bbox, one.segmentation if isinstance(one.segmentation, list) else ())
            for label, one in found
        ]
        return draw_objects(picture, objects, names, palette, scale), [*lines, f'{len(objects)} objects']
    if report.task == 'segmentation':
        try:
            labels = cast(MaskStatistics, data).read_labels(sample)
        except UserError:
            return add_legend(picture, [], 'the mask cannot be read'), lines
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        return draw_classes(picture, labels, names, palette), lines
    if not sample.labels:
        return picture, lines
    label = sample.labels[0]
    return add_legend(picture, [Entry(names[label], palette[label])]), [*lines, names[label]]
