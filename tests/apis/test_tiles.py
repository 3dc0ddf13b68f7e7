"""Tiles of large images: windows that cover them, one detection for each object, and bounded masks. Exact."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from convnext_backbone import UserError
from convnext_backbone.apis.tiles import Tiles, Window, merge_detections, place_mask

WHOLE = Window(0, 0, 200, 100)
LEFT, RIGHT = Window(0, 0, 110, 100), Window(90, 0, 200, 100)


def detect(window: Window, box: tuple[int, int, int, int], score: float, label: int = 0) -> tuple[int, dict]:
    """What a perfect model detects of an object, given as left, top, right and bottom, in a window, with its mask."""
    left, top = max(box[0], window.left), max(box[1], window.top)
    right, bottom = min(box[2], window.right), min(box[3], window.bottom)
    mask = np.zeros((window.bottom - window.top, window.right - window.left), np.uint8, order='F')
    mask[top - window.top : bottom - window.top, left - window.left : right - window.left] = 1
    box = [left - window.left, top - window.top, right - left, bottom - top]
    rle = coco_mask.encode(mask)
    return label, dict(bbox=box, score=score, segmentation=dict(rle, counts=rle['counts'].decode()))


def merge(*found: tuple[Window, list]) -> list[tuple[list[int], float]]:
    """Boxes as corners, and scores; each has the mask that fills its box."""
    boxes = []
    for _, one in merge_detections(found, (100, 200)):
        left, top, width, height = one['bbox']
        mask = coco_mask.decode(one['segmentation'])
        assert mask.shape == (100, 200) and one['area'] == mask.sum() == width * height
        assert mask[round(top) : round(top + height), round(left) : round(left + width)].all()
        boxes.append(([left, top, left + width, top + height], one['score']))
    return boxes


@pytest.mark.parametrize('size', [(3000, 4000), (1024, 1025), (100, 5000), (700, 900)])
@pytest.mark.parametrize('overlap', [0, 0.2, 0.5])
def test_windows_cover_the_image_at_full_size_and_overlap(size, overlap):
    tiles = Tiles(1024, overlap)
    windows, cores = tiles.windows(*size), tiles.cores(*size)
    count = np.zeros(size, np.uint8)
    for window, core in zip(windows, cores, strict=True):
        assert (window.bottom - window.top, window.right - window.left) == tuple(min(1024, side) for side in size)
        assert window.left <= core.left < core.right <= window.right
        assert window.top <= core.top < core.bottom <= window.bottom
        count[core.top : core.bottom, core.left : core.right] += 1
    assert (count == 1).all()
    for spans in map(tiles.spans, size):
        assert all(end - start >= 1024 * overlap for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    assert len(windows) <= 24 or overlap == 0.5


def test_an_object_in_two_windows_is_found_once_with_the_better_score():
    box = (92, 20, 108, 60)
    assert merge((LEFT, [detect(LEFT, box, 0.6)]), (RIGHT, [detect(RIGHT, box, 0.9)])) == [([92, 20, 108, 60], 0.9)]


def test_of_a_cut_object_the_whole_one_stays_with_the_better_score():
    """Also if the whole one was found in the whole image, or the cut part is thin and was found too wide."""
    box = (60, 20, 106, 60)
    for whole in (LEFT, WHOLE):
        assert merge((whole, [detect(whole, box, 0.5)]), (RIGHT, [detect(RIGHT, box, 0.9)])) == [([*box], 0.9)]
    thin = detect(RIGHT, (60, 22, 97, 48), 0.9)
    found = merge((LEFT, [detect(LEFT, (60, 20, 94, 50), 0.5)]), (RIGHT, [thin]))
    assert found[0] == ([60, 20, 94, 50], 0.9)


def test_the_parts_of_what_is_larger_than_the_overlap_are_joined():
    box = (40, 20, 160, 60)
    assert merge((LEFT, [detect(LEFT, box, 0.8)]), (RIGHT, [detect(RIGHT, box, 0.7)])) == [([*box], 0.8)]
    rows = [Window(x, y, x + 80, y + 60) for y in (0, 40) for x in (0, 60, 120)]
    box = (20, 10, 190, 90)
    assert merge(*((window, [detect(window, box, 0.5)]) for window in rows)) == [([*box], 0.5)]


def test_what_only_one_window_found_stays():
    """A cut box, too: nothing says that it is no object."""
    box = (40, 20, 160, 60)
    assert merge((LEFT, [detect(LEFT, box, 0.8)]), (RIGHT, [])) == [([40, 20, 110, 60], 0.8)]
    assert merge((LEFT, []), (RIGHT, [])) == []


def test_different_objects_stay_apart():
    """Of another class; that one model told apart; a small one in front of a large one, cut or not."""
    box = (92, 20, 108, 60)
    assert len(merge((LEFT, [detect(LEFT, box, 0.6)]), (RIGHT, [detect(RIGHT, box, 0.9, label=1)]))) == 2
    crowd = [(92, 20, 106, 60), (95, 20, 109, 60)]  # IoU 0.65
    found = merge(
        (LEFT, [detect(LEFT, crowd[0], 0.9), detect(LEFT, crowd[1], 0.7)]),
        (RIGHT, [detect(RIGHT, crowd[0], 0.6), detect(RIGHT, crowd[1], 0.8)]),
    )
    assert [box for box, _ in found] == [[*one] for one in crowd]
    large, small = (20, 10, 180, 90), (95, 30, 105, 60)
    found = merge(
        (WHOLE, [detect(WHOLE, large, 0.9)]),
        *((window, [detect(window, large, 0.8), detect(window, small, 0.7)]) for window in (LEFT, RIGHT)),
    )
    assert found == [([*large], 0.9), ([*small], 0.7)]
    found = merge(*((window, [detect(window, large, 0.8), detect(window, small, 0.7)]) for window in (LEFT, RIGHT)))
    assert found == [([*large], 0.8), ([*small], 0.7)]


def test_boxes_without_masks_are_merged_too():
    found = [(window, [(3, dict(bbox=[92 - window.left, 20, 16, 40], score=0.5))]) for window in (LEFT, RIGHT)]
    assert merge_detections(found, (100, 200)) == [(3, dict(bbox=[92, 20, 16, 40], score=0.5))]


@pytest.mark.parametrize('window', [Window(50, 20, 90, 50), Window(0, 0, 40, 100), Window(160, 60, 200, 100), WHOLE])
@pytest.mark.parametrize('share', [0, 0.5, 1])
def test_a_mask_is_moved_to_its_place(window, share):
    """Noise, nothing, and the whole window, also at the borders of the image; as COCO's encoder writes it."""
    left, top, right, bottom = window
    full = np.zeros((100, 200), np.uint8, order='F')
    full[top:bottom, left:right] = np.random.default_rng(0).random((bottom - top, right - left)) < share
    part = coco_mask.encode(np.asfortranarray(full[top:bottom, left:right]))
    moved = place_mask(part, window, (100, 200))
    assert (coco_mask.decode(moved) == full).all() and moved == coco_mask.encode(full)


@pytest.mark.parametrize(('tiles', 'named'), [(Tiles(0, 0.2), '--tile=0'), (Tiles(9, 1.0), r'--overlap 1\.0')])
def test_tiles_that_cover_nothing_are_refused(tiles, named):
    with pytest.raises(UserError, match=named):
        tiles.check()
