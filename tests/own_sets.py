"""Small data sets in the layouts that people have, made of real photographs: a function each, for several tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

CLASSES = dict(person='Mensch', cup='Tasse', car='Auto')  # of COCO, under other names, with other ids
NAMES = tuple(CLASSES.values())


def take_photos(real_data: Path, split: str, number: int = 6) -> dict:
    """The first photographs of COCO that show some of three classes, as COCO json; ids of categories are 1, 2, 3."""
    source = json.loads((real_data / f'coco/annotations/instances_{split}2017.json').read_text())
    ids = {one['id']: [*CLASSES].index(one['name']) + 1 for one in source['categories'] if one['name'] in CLASSES}
    wanted = [one for one in source['annotations'] if one['category_id'] in ids and not one['iscrowd']]
    # Those with the rarer classes first, so that a handful has all.
    seen = {}
    for one in wanted:
        seen.setdefault(one['image_id'], set()).add(ids[one['category_id']])
    chosen = sorted(seen, key=lambda image: (-len(seen[image]), image))[:number]
    images = {one['id']: one for one in source['images']}
    return dict(
        images=[
            {key: images[image][key] for key in ('id', 'file_name', 'width', 'height')} for image in sorted(chosen)
        ],
        annotations=[
            dict(one, id=number, category_id=ids[one['category_id']])
            for number, one in enumerate((one for one in wanted if one['image_id'] in chosen), 1)
        ],
        categories=[dict(id=number, name=name) for number, name in enumerate(NAMES, 1)],
    )


def merge(one: dict, other: dict) -> dict:
    """Two contents of annotation files as one."""
    merged = {kind: [*one[kind], *other[kind]] for kind in ('images', 'annotations')}
    for number, annotation in enumerate(merged['annotations'], 1):
        merged['annotations'][number - 1] = dict(annotation, id=number)
    return dict(merged, categories=one['categories'])


def copy_photos(content: dict, real_data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in content['images']:
        name = Path(image['file_name']).name
        found = next(path for split in ('train', 'val') if (path := real_data / f'coco/{split}2017' / name).is_file())
        shutil.copyfile(found, folder / name)


def write(path: Path, content: dict | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def without_masks(content: dict) -> dict:
    return dict(content, annotations=[dict(one, segmentation=[]) for one in content['annotations']])


# Each layout fills a folder with photographs to train on and, most of them, to validate on.


def _coco(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """COCO's own, with the other files that lie beside the instances."""
    for split, content in dict(train=train, val=val).items():
        copy_photos(content, real_data, root / f'{split}2017')
        write(root / f'annotations/instances_{split}2017.json', content)
        captions = [dict(id=1, image_id=content['images'][0]['id'], caption='two cups')]
        write(root / f'annotations/captions_{split}2017.json', dict(images=content['images'], annotations=captions))
        people = [dict(content['categories'][0], keypoints=['nose'])]
        write(root / f'annotations/person_keypoints_{split}2017.json', dict(content, categories=people))


def _roboflow(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Roboflow's export: a heading of the categories has the id 0, and no annotation."""
    for split, content in dict(train=train, valid=val, test=val).items():
        copy_photos(content, real_data, root / split)
        categories = [dict(one, supercategory='things') for one in content['categories']]
        heading = dict(id=0, name='things', supercategory='none')
        write(root / split / '_annotations.coco.json', dict(content, categories=[heading, *categories]))
    write(root / 'README.roboflow.txt', 'Exported.')


def _above(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """A json for each split above a folder of all images."""
    for split, content in dict(train=train, val=val).items():
        copy_photos(content, real_data, root / 'images')
        write(root / f'{split}.json', content)


def _beside(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """A json of any name for each split beside its images, in folders of folders."""
    for split, content in dict(training=train, validation=val).items():
        copy_photos(content, real_data, root / 'export' / split / 'photos')
        write(root / 'export' / split / 'labels_v2.json', content)


def _paths(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """File names with the folders of the split."""
    for split, content in dict(train=train, val=val).items():
        copy_photos(content, real_data, root / 'images' / split)
        images = [dict(image, file_name=f'{split}/{image["file_name"]}') for image in content['images']]
        write(root / f'annotations/{split}.json', dict(content, images=images))


def _cvat(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """CVAT's export of one task."""
    content = merge(train, val)
    copy_photos(content, real_data, root / 'images/default')
    write(root / 'annotations/instances_default.json', dict(content, licenses=[], info={}))


def _label_studio(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Label Studio's export: ids from 0, and its own path of an uploaded file."""
    content = merge(train, val)
    copy_photos(content, real_data, root / 'images')
    images = [dict(image, file_name=f'/data/upload/7/{image["file_name"]}') for image in content['images']]
    annotations = [dict(one, id=one['id'] - 1, ignore=0, segmentation=[]) for one in content['annotations']]
    write(root / 'result.json', dict(content, images=images, annotations=annotations, info=dict(version='1.0')))


def _single(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """A json by hand beside all images: without areas, sizes, and what says that an object is no crowd."""
    content = merge(train, val)
    copy_photos(content, real_data, root)
    images = [{key: image[key] for key in ('id', 'file_name')} for image in content['images']]
    wanted = ('id', 'image_id', 'category_id', 'bbox', 'segmentation')
    annotations = [{key: one[key] for key in wanted} for one in content['annotations']]
    write(root / 'labels.json', dict(content, images=images, annotations=annotations))


def _yolo_lines(content: dict, image: dict, polygons: bool) -> str:
    lines = []
    for one in content['annotations']:
        if one['image_id'] != image['id']:
            continue
        width, height = image['width'], image['height']
        if polygons:
            outline = max(one['segmentation'], key=len)
            values = [value / (height if i % 2 else width) for i, value in enumerate(outline)]
        else:
            x, y, w, h = one['bbox']
            values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        lines.append(' '.join([str(one['category_id'] - 1), *(f'{value:.6f}' for value in values)]))
    return '\n'.join(lines)


def _write_yolo(content: dict, folder: Path, polygons: bool = False) -> None:
    for image in content['images']:
        write(folder / f'{Path(image["file_name"]).stem}.txt', _yolo_lines(content, image, polygons))


def _yolo(train: dict, val: dict, real_data: Path, root: Path, polygons: bool = False) -> None:
    """Ultralytics' layout, with a data.yaml whose path is that of another machine."""
    for split, content in dict(train=train, val=val).items():
        copy_photos(content, real_data, root / 'images' / split)
        _write_yolo(content, root / 'labels' / split, polygons)
    names = '\n'.join(f'  {label}: {name}' for label, name in enumerate(NAMES))
    write(root / 'data.yaml', f'path: /home/me/sets\ntrain: images/train\nval: images/val\ntest:\nnames:\n{names}\n')


def _yolo_polygons(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """The same with polygons."""
    _yolo(train, val, real_data, root, polygons=True)


def _yolo_roboflow(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Roboflow's export for YOLO, whose paths lead out of the folder."""
    for split, content in dict(train=train, valid=val).items():
        copy_photos(content, real_data, root / split / 'images')
        _write_yolo(content, root / split / 'labels')
    write(
        root / 'data.yaml',
        f'train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 3\nnames: {list(NAMES)}\n',
    )


def _yolo_plain(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Label Studio's export for YOLO: no data.yaml, no splits."""
    content = merge(train, val)
    copy_photos(content, real_data, root / 'images')
    _write_yolo(content, root / 'labels')
    write(root / 'classes.txt', '\n'.join(NAMES))
    write(root / 'notes.json', dict(categories=[dict(id=0, name=NAMES[0])]))


def _darknet(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """CVAT's export for YOLO 1.1: labels beside the images."""
    for split, content in dict(train=train, Validation=val).items():
        copy_photos(content, real_data, root / f'obj_{split}_data')
        _write_yolo(content, root / f'obj_{split}_data')
    write(root / 'obj.names', '\n'.join(NAMES) + '\n')


def _write_voc(content: dict, folder: Path) -> None:
    names = {one['id']: one['name'] for one in content['categories']}
    for image in content['images']:
        objects = ''
        for one in content['annotations']:
            if one['image_id'] == image['id']:
                x, y, w, h = one['bbox']
                corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)  # pixels from 1, the last one included
                box = ''.join(f'<{key}>{value:.2f}</{key}>' for key, value in corners.items())
                name = escape(names[one['category_id']])
                objects += f'<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>\n'
        size = f'<size><width>{image["width"]}</width><height>{image["height"]}</height><depth>3</depth></size>'
        text = f'<annotation><filename>{image["file_name"]}</filename>{size}{objects}</annotation>'
        write(folder / f'{Path(image["file_name"]).stem}.xml', text)


def _voc(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Pascal VOC's own layout."""
    root = root / 'VOCdevkit/VOC2012'
    for split, content in dict(train=train, val=val).items():
        copy_photos(content, real_data, root / 'JPEGImages')
        _write_voc(content, root / 'Annotations')
        stems = [Path(image['file_name']).stem for image in content['images']]
        write(root / f'ImageSets/Main/{split}.txt', '\n'.join(stems) + '\n')
        write(root / f'ImageSets/Main/Auto_{split}.txt', ''.join(f'{stem} -1\n' for stem in stems))


def _voc_beside(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Roboflow's export for VOC: XML beside the images."""
    for split, content in dict(train=train, valid=val).items():
        copy_photos(content, real_data, root / split)
        _write_voc(content, root / split)


def _voc_single(train: dict, val: dict, real_data: Path, root: Path) -> None:
    """Folders of images and annotations without splits."""
    content = merge(train, val)
    copy_photos(content, real_data, root / 'images')
    _write_voc(content, root / 'annotations')


DETECTION: dict[str, Callable[[dict, dict, Path, Path], None]] = dict(
    coco=_coco,
    roboflow=_roboflow,
    above=_above,
    beside=_beside,
    paths=_paths,
    cvat=_cvat,
    label_studio=_label_studio,
    single=_single,
    yolo=_yolo,
    yolo_polygons=_yolo_polygons,
    yolo_roboflow=_yolo_roboflow,
    yolo_plain=_yolo_plain,
    darknet=_darknet,
    voc=_voc,
    voc_beside=_voc_beside,
    voc_single=_voc_single,
)


def write_detection(layout: str, real_data: Path, root: Path, train: int = 6, val: int = 4) -> tuple[dict, dict]:
    """Fill a folder with photographs in a layout of :data:`DETECTION`.

    Returns:
        What it holds to train and to validate on, as COCO json.
    """
    contents = take_photos(real_data, 'train', train), take_photos(real_data, 'val', val)
    DETECTION[layout](*contents, real_data, root)
    return contents
