"""Time and memory of checking an annotation file of COCO's full size, made up: before a run, and by check_data.py."""

import argparse
import json
import random
import tempfile
from functools import partial
from pathlib import Path

from tqdm import tqdm

from convnext_backbone.datasets.coco_check import check_coco
from convnext_backbone.datasets.faults import Faults
from convnext_backbone.datasets.object_statistics import ObjectStatistics

from .measuring import measure_alone, medians, memory_mib, time_and_peak
from .report import Benchmark

_CLASSES = [f'class {i}' for i in range(80)]
_WIDTH, _HEIGHT = 640, 480


def write_annotations(path: Path, images: int, annotations: int) -> None:
    """Write as many as COCO has, with polygons of up to 44 points."""
    numbers = random.Random(0)
    objects = [_make_object(numbers) for _ in range(1000)]
    with path.open('w') as file:
        file.write('{"images": [')
        for i in range(images):
            file.write(f'{", " if i else ""}{{"file_name": "{i:012d}.jpg", "coco_url": "http://images.cocodataset.org/')
            file.write(f'train2017/{i:012d}.jpg", "height": {_HEIGHT}, "width": {_WIDTH}, "id": {i}}}')
        file.write('], "annotations": [')
        for i in range(annotations):
            place = f'"image_id": {i * images // annotations}, "category_id": {i % len(_CLASSES)}, "id": {i}'
            file.write(f'{", " if i else ""}{{{place}, {objects[i % len(objects)]}}}')
        categories = [dict(id=i, name=name) for i, name in enumerate(_CLASSES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _make_object(numbers: random.Random) -> str:
    x, y, width, height = numbers.uniform(0, 400), numbers.uniform(0, 300), numbers.uniform(9, 200), 150
    points = [
        (round(x + width * numbers.random(), 2), round(y + height * numbers.random(), 2))
        for _ in range(numbers.randint(6, 44))
    ]
    xs, ys = zip(*points, strict=True)
    box = [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]
    outline = [value for point in points for value in point]
    return json.dumps(dict(segmentation=[outline], area=box[2] * box[3] / 2, iscrowd=0, bbox=box))[1:-1]


def check(path: Path, contender: str) -> dict[str, float]:
    """Check once; the peak is on top of what the process had before, with the pages of the file that it mapped."""
    dataset = dict(ann_file=path, pipeline=[dict(with_mask=True)], filter_cfg=dict(filter_empty_gt=True, min_size=32))
    return time_and_peak(partial(_CONTENDERS[contender], dataset), memory_mib('VmRSS'))


def _check_before_run(dataset: dict) -> None:
    check_coco(dataset, _CLASSES)


def _count_objects(dataset: dict) -> None:
    ObjectStatistics('train', dataset, _CLASSES, Faults()).summary()


_CONTENDERS = {'before a run': _check_before_run, 'check_data.py, without images': _count_objects}


def _measure(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'annotations.json'
        write_annotations(path, args.images, args.annotations)
        file_mib = path.stat().st_size / 2**20
        rows = []
        for name in _CONTENDERS:
            row = medians([measure_alone(check, path, name) for _ in tqdm(range(args.repeat), desc='Rounds')])
            rows.append(dict(contender=name, **row, peak_mib_beside_file=row['peak_mib'] - file_mib))
    return dict(images=args.images, annotations=args.annotations, file_mib=file_mib, repeat=args.repeat, rows=rows)


ANNOTATIONS = Benchmark(
    "checking an annotation file of COCO's size, before a run and by check_data.py",
    {'--images': dict(type=int, default=118_000), '--annotations': dict(type=int, default=860_000)},
    _measure,
)
