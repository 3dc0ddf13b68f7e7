"""Segmentation masks: the right class ids from every kind of file, or one sentence that names it. Exact."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from convnext_backbone import UserError
from convnext_backbone.datasets.image_loading import guard_image_loading
from convnext_backbone.datasets.mask_check import MaskReport, check_masks
from convnext_backbone.datasets.masks import read_ids, to_labels

IDS = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
IDS[0, :3] = 0, 1, 255


def encode(ids: np.ndarray | Image.Image, suffix: str = 'png') -> bytes:
    buffer = io.BytesIO()
    (ids if isinstance(ids, Image.Image) else Image.fromarray(ids)).save(buffer, suffix)
    return buffer.getvalue()


def with_palette(ids: np.ndarray) -> Image.Image:
    """A palette of which no colour equals its index."""
    image = Image.fromarray(ids, 'P')
    image.putpalette(np.random.default_rng(1).permutation(768).astype(np.uint8).tobytes())
    return image


KINDS = {
    'grey': (encode(IDS), IDS),
    'palette': (encode(with_palette(IDS)), IDS),
    'one bit': (encode(Image.fromarray(IDS > 99)), IDS > 99),
    '16 bits': (encode(IDS.astype(np.uint16)), IDS),
    '16 bits of a Mac': (encode(IDS.astype('>u2'), 'tiff'), IDS),
    '32 bits': (encode(IDS.astype(np.int32), 'tiff'), IDS),
    'tiff': (encode(IDS, 'tiff'), IDS),
    'bmp': (encode(IDS, 'bmp'), IDS),
}


@pytest.mark.parametrize('kind', KINDS)
def test_ids_are_read_from_every_kind_of_file(kind, tmp_path):
    """Whatever the name: also ids of 16 and 32 bits, as long as 8 bits hold them."""
    content, expected = KINDS[kind]
    (tmp_path / 'a.png').write_bytes(content)
    ids = read_ids(str(tmp_path / 'a.png'), 'a.jpg')
    assert ids.dtype == np.uint8 and np.array_equal(ids, expected)


COLOURS = 'colours and not class ids: write the id of each pixel to a grey or palette PNG'
REFUSED = {
    'rgb': (encode(np.stack([IDS] * 3, -1)), f'holds RGB {COLOURS}'),
    'rgba': (encode(np.stack([IDS] * 4, -1)), f'holds RGBA {COLOURS}'),
    'transparency': (encode(Image.fromarray(np.stack([IDS] * 2, -1), 'LA')), f'holds LA {COLOURS}'),
    'fractions': (encode(IDS.astype(np.float32), 'tiff'), f'holds F {COLOURS}'),
    'jpeg': (encode(IDS, 'jpeg'), 'is a JPEG, whose compression changes class ids'),
    '256': (encode(IDS.astype(np.uint16) + 1), 'holds the id 256, which mmsegmentation would take for 0'),
    'city': (encode(np.full((4, 4), 26001, np.uint16)), 'holds the id 26001, which mmsegmentation would take for 145'),
    'negative': (encode(np.full((4, 4), -1, np.int32), 'tiff'), 'holds the id -1, which mmsegmentation would take'),
    'postscript': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'cannot be read (UnidentifiedImageError'),
    'truncated': (encode(IDS)[:400], 'cannot be read (OSError: image file is truncated'),
    'missing': (None, 'cannot be read (FileNotFoundError'),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_a_file_without_class_ids_is_refused(kind, tmp_path):
    content, named = REFUSED[kind]
    path = tmp_path / 'a.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_ids(str(path), 'img/a.jpg')
    sentence = str(refused.value)
    assert sentence.startswith(f'The mask {path} ') and named in sentence and '\n' not in sentence
    assert 'cannot be read' not in named or 'of the image img/a.jpg' in sentence


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 0, 2: 255}, {i: (i * 7) % 150 for i in range(150)}])
def test_labels_are_those_of_mmsegmentation(reduce_zero_label, label_map, tmp_path):
    """Exact, for all 256 ids."""
    init_default_scope('mmseg')
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / 'a.png').write_bytes(encode(every))
    results = dict(seg_map_path=str(tmp_path / 'a.png'), label_map=label_map, reduce_zero_label=reduce_zero_label)
    theirs = TRANSFORMS.build(dict(type='LoadAnnotations'))(results | dict(seg_fields=[]))['gt_seg_map']
    ours = to_labels(every, reduce_zero_label, label_map)
    assert ours.dtype == theirs.dtype == np.uint8 and np.array_equal(ours, theirs)


def test_a_label_map_may_write_void_as_minus_one():
    assert to_labels(np.array([0, 1, 255], np.uint8), False, {0: -1, 1: 0}).tolist() == [255, 0, 255]


# ---- data sets -------------------------------------------------------------------------------------------------------

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


def write_data(folder: Path, masks: list[np.ndarray | bytes | None]) -> Path:
    """Images, and a mask for each; None for an image that has none."""
    for part in ('img', 'ann'):
        (folder / part).mkdir(parents=True)
    for i, mask in enumerate(masks):
        size = (8, 8) if mask is None or isinstance(mask, bytes) else np.shape(mask)[:2]
        (folder / f'img/{i}.jpg').write_bytes(encode(np.zeros((*size, 3), np.uint8), 'jpeg'))
        if mask is not None:
            content = mask if isinstance(mask, bytes) else encode(np.asarray(mask, np.uint8))
            (folder / f'ann/{i}.png').write_bytes(content)
    return folder


def ids(*values: int) -> np.ndarray:
    """A mask of 8 x 8 pixels with these ids."""
    return np.resize(np.array(values, np.uint8), (8, 8))


def settings(folder: Path, number: int = 3, **changes: object) -> dict:
    prefix = dict(img_path='img', seg_map_path='ann')
    classes = tuple(f'class {i}' for i in range(number))
    fixed = dict(type='BaseSegDataset', data_root=str(folder), data_prefix=prefix, pipeline=LOAD)
    return {**fixed, 'metainfo': dict(classes=classes), **changes}


def find_problem(config: dict, split: str = 'train', **options: object) -> str:
    with pytest.raises(UserError) as refused:
        check_masks(config, 'mmseg', split, **options)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def test_masks_that_fit_are_summed_up(tmp_path):
    """Void pixels, and classes that the sample lacks, are no problem."""
    write_data(tmp_path, [ids(0, 1), ids(0, 255)] * 100)
    report = check_masks(settings(tmp_path), 'mmseg', 'train')
    assert report == MaskReport(masks=200, sampled=64, void=report.void, unseen=('class 2',))
    assert 0.1 < report.void < 0.4


UNLABELLED = 'set reduce_zero_label=True if 0 is unlabelled and 1 the first class'
WRONG = {
    'an id too many': ([ids(0, 1, 2), ids(1, 2, 3)], {}, ['ann/1.png holds the id 3', '0, 1, 2, 3', UNLABELLED]),
    'other ids': ([ids(0, 1), ids(128, 200)], {}, ['ann/1.png holds the id 128', '0, 1, 128, 200', 'there are 3']),
    'too many with reduce_zero_label': (
        [ids(0, 1, 2, 3, 4)],
        dict(reduce_zero_label=True),
        ['holds the id 4', 'of which reduce_zero_label=True makes 1 the first', 'metainfo.classes'],
    ),
    'one class': ([ids(0, 1)], dict(number=1), ['hold the ids 0, 1', 'names class 0 alone', 'num_classes=2']),
    'one class and void': ([ids(0, 1)], dict(number=1, reduce_zero_label=True), ['names class 0 alone', 'background']),
    '0 and 255': ([ids(0, 255)], dict(number=2), ['hold the ids 0, 255 alone', 'only class 0 is left', 'objects as 1']),
    'void': ([ids(255)], {}, ['No pixel of the train masks has a class', '1 of 1', 'hold the ids 255']),
    'void by reduce_zero_label': (
        [ids(0, 255)],
        dict(reduce_zero_label=True),
        ['hold the ids 0, 255', 'by reduce_zero_label'],
    ),
    'counting from zero': (
        [ids(0, 1), ids(1, 2)],
        dict(reduce_zero_label=True),
        ['hold the ids 0 to 2 and never 3', 'set reduce_zero_label=False'],
    ),
    'coloured': ([encode(np.zeros((8, 8, 3), np.uint8))], {}, ['ann/0.png holds RGB colours']),
}


@pytest.mark.parametrize('case', WRONG)
def test_masks_that_do_not_fit_are_described_before_a_run(case, tmp_path):
    masks, changes, named = WRONG[case]
    sentence = find_problem(settings(write_data(tmp_path, masks), **changes))
    assert str(tmp_path / 'ann') in sentence
    for words in named:
        assert words in sentence, sentence


def test_a_rare_last_class_is_looked_for_before_masks_are_said_to_count_from_zero(tmp_path):
    masks = [ids(0, 1, 2)] * 300
    masks[150] = ids(3)
    check_masks(settings(write_data(tmp_path, masks), reduce_zero_label=True), 'mmseg', 'train')


@pytest.mark.parametrize('common', [(0, 255), (255,), (0,)])
def test_rare_objects_are_looked_for_before_masks_are_said_to_have_none(common, tmp_path):
    masks = [ids(*common)] * 300
    masks[150] = ids(1)
    check_masks(settings(write_data(tmp_path, masks), number=2), 'mmseg', 'train')


def test_rare_objects_are_not_taken_for_all_classes(tmp_path):
    """One of the first class, found first, does not mean that ids count from 0."""
    masks = [ids(0, 255)] * 300
    masks[101], masks[202] = ids(0, 1), ids(0, 2)
    config = settings(write_data(tmp_path, masks), number=2, reduce_zero_label=True)
    check_masks(config, 'mmseg', 'train')


def test_masks_of_an_evaluation_may_lack_the_last_class(tmp_path, capsys):
    write_data(tmp_path, [ids(0, 1, 2)] * 20)
    config = settings(tmp_path, reduce_zero_label=True)
    check_masks(config, 'mmseg', 'val')
    warning = capsys.readouterr().err
    assert warning.startswith('warning: The val masks, such as') and 'count the 3 classes from 0' in warning
    for path in sorted((tmp_path / 'img').iterdir())[4:]:
        path.unlink()
    check_masks(config, 'mmseg', 'val')
    assert not capsys.readouterr().err


def test_ids_that_the_config_ignores_are_no_problem(tmp_path):
    config = settings(write_data(tmp_path, [ids(0, 1, 2, 11)]))
    check_masks(config, 'mmseg', 'train', ignored={255, 11})
    assert 'holds the id 11' in find_problem(config)


def test_a_selection_of_the_classes_of_a_data_set_is_right(tmp_path):
    """Cityscapes has 19 classes, of which all but two are void here."""
    write_data(tmp_path, [ids(*range(19), 255)])
    config = settings(tmp_path, type='CityscapesDataset', metainfo=dict(classes=('car', 'road')))
    config.update(img_suffix='.jpg', seg_map_suffix='.png')
    report = check_masks(config, 'mmseg', 'train')
    assert report.unseen == () and report.void > 0.8
    write_data(tmp_path / 'more', [ids(*range(20))])
    assert 'holds the id 19' in find_problem({**config, 'data_root': str(tmp_path / 'more')})


def test_images_with_a_suffix_in_another_case_are_named(tmp_path):
    """mmsegmentation leaves them out, without a word."""
    config = settings(write_data(tmp_path, [ids(0, 1, 2)] * 3))
    (tmp_path / 'img/1.jpg').rename(tmp_path / 'img/1.JPG')
    sentence = find_problem(config)
    assert f"would leave out {tmp_path}/img/1.JPG, as img_suffix='.jpg' is written in another case" in sentence
    (tmp_path / 'list.txt').write_text('0\n2\n')
    check_masks({**config, 'ann_file': 'list.txt'}, 'mmseg', 'train')


def test_an_image_without_its_mask_is_named_wherever_it_is(tmp_path):
    masks = [ids(0, 1, 2)] * 200
    masks[101] = None
    sentence = find_problem(settings(write_data(tmp_path, masks)))
    for words in (
        'lacks 1 of 200 masks',
        f'no {tmp_path}/ann/101.png for the image {tmp_path}/img/101.jpg',
        '199 files .png',
    ):
        assert words in sentence


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        (dict(img_suffix='.png'), ['has no image', "img_suffix='.png'", '2 files .jpg']),
        (dict(seg_map_suffix='_id.png'), ['lacks 2 of 2 masks', 'ann/0_id.png', '2 files .png', 'suffixes']),
        (dict(ann_file='list.txt'), ['lacks 1 of 3 images', 'img/7.jpg', '2 files .jpg']),
    ],
)
def test_suffixes_and_lists_that_find_nothing_are_named(changes, named, tmp_path):
    write_data(tmp_path, [ids(0, 1, 2)] * 2)
    (tmp_path / 'list.txt').write_text('0\n1\n7\n')
    sentence = find_problem(settings(tmp_path, **changes))
    for words in named:
        assert words in sentence, sentence


@pytest.mark.parametrize(
    'changes',
    [
        dict(pipeline=LOAD[:1]),  # nothing loads the masks
        dict(pipeline=[dict(type='LoadAnnotations', imdecode_backend='cv2')]),
        dict(pipeline=[dict(type='LoadBiomedicalAnnotation'), dict(type='MyLoadAnnotations')]),
        dict(data_prefix=dict(img_path='img')),
        dict(type='CocoPanopticDataset'),
        dict(data_prefix=dict(img_path='nowhere', seg_map_path='ann')),  # which fails as the run will
        dict(metainfo=dict(classes=('a',)), type='CityscapesDataset'),  # which cannot be built
    ],
)
def test_what_is_loaded_otherwise_is_not_judged(changes, tmp_path):
    write_data(tmp_path, [ids(0, 1, 200)])
    assert check_masks(settings(tmp_path, **changes), 'mmseg', 'train') is None


def test_the_masks_of_test_time_augmentation_are_checked(tmp_path):
    write_data(tmp_path, [ids(0, 1, 200)])
    pipeline = [LOAD[0], dict(type='TestTimeAug', transforms=[[LOAD[1]], [dict(type='PackSegInputs')]])]
    assert 'holds the id 200' in find_problem(settings(tmp_path, pipeline=pipeline), 'test')


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_first(config: dict) -> dict:
    init_default_scope('mmseg')
    dataset = DATASETS.build(config)
    guard_image_loading(dataset)
    return dataset[0]


def test_a_mask_is_loaded_as_mmsegmentation_loads_it(tmp_path):
    write_data(tmp_path, [ids(0, 1, 2, 255)])
    for reduce_zero_label in (False, True):
        config = settings(tmp_path, reduce_zero_label=reduce_zero_label)
        init_default_scope('mmseg')
        theirs, ours = DATASETS.build(config)[0], load_first(config)
        assert theirs.keys() == ours.keys() and theirs['seg_fields'] == ours['seg_fields'] == ['gt_seg_map']
        assert np.array_equal(theirs['gt_seg_map'], ours['gt_seg_map'])


@pytest.mark.parametrize('kind', ['rgb', 'jpeg', '256', 'postscript'])
def test_each_mask_is_looked_at_when_it_is_loaded(kind, tmp_path):
    content, named = REFUSED[kind]
    write_data(tmp_path, [content])
    with pytest.raises(UserError, match=re.escape(f'{tmp_path}/ann/0.png')) as refused:
        load_first(settings(tmp_path))
    assert named in str(refused.value)


def test_reduce_zero_label_of_the_pipeline_must_be_that_of_the_data_set(tmp_path):
    write_data(tmp_path, [ids(0, 1, 2)])
    pipeline = [LOAD[0], dict(type='LoadAnnotations', reduce_zero_label=True)]
    with pytest.raises(UserError, match='^reduce_zero_label=True of LoadAnnotations.*=False of its data set'):
        load_first(settings(tmp_path, pipeline=pipeline))


@pytest.mark.parametrize('step', ['mmcv.LoadImageFromFile', 'mmdet.LoadAnnotations'])
def test_no_other_transform_hands_postscript_to_pillow(step, tmp_path):
    """Which would run it by Ghostscript."""
    write_data(tmp_path, [REFUSED['postscript'][0]])
    if 'Image' in step:
        (tmp_path / 'img/0.jpg').write_bytes(REFUSED['postscript'][0])
        pipeline = [dict(type=step, imdecode_backend='pillow')]
    else:
        flags = dict(with_bbox=False, with_label=False, with_seg=True)
        pipeline = [LOAD[0], dict(type=step, imdecode_backend='pillow', **flags)]
    with pytest.raises(UserError, match='is none of JPEG, PNG'):
        load_first(settings(tmp_path, pipeline=pipeline))
