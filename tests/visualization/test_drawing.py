"""Legends, bar charts and segmentation overlays. Exact."""

import cv2
import numpy as np
import pytest
import torch

from convnext_backbone.utils.image_io import read_image, write_picture
from convnext_backbone.visualization.feature_maps import draw_stages
from convnext_backbone.visualization.legend import Entry, add_bars, add_legend, contact_sheet
from convnext_backbone.visualization.overlays import class_shares, draw_classes

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200]]


@pytest.mark.parametrize('width', [20, 300, 3000])
def test_a_legend_is_never_clipped(width):
    """A white margin remains around the text, whatever the width of the image and the length of the text."""
    entries = [Entry('a name of a class that is rather long, as some are', (9, 8, 7)), Entry('short')] * 4
    title = 'and a title that is longer still, so that it takes more than the width of most images'
    picture = add_legend(np.zeros((10, width, 3), np.uint8), entries, title)
    assert (picture[:10, :width] == 0).all() and picture.shape[1] >= width
    legend = picture[10:]
    for edge in (legend[:2], legend[-2:], legend[:, :2], legend[:, -2:]):
        assert (edge == 255).all()
    swatches, _ = cv2.connectedComponents((legend == (9, 8, 7)).all(axis=2).astype(np.uint8))
    assert swatches - 1 == 4


def test_bars_are_as_long_as_their_shares():
    picture = add_bars(np.zeros((100, 200, 3), np.uint8), [('one', 0.75), ('two', 0.25)])
    assert picture.shape[1] == 360
    bars = [int((row == (185, 215, 245)).all(axis=1).sum()) for row in picture[180:]]
    assert max(bars) == pytest.approx(270, abs=1) and bars[-6] == pytest.approx(90, abs=1)


@pytest.mark.parametrize('shape', [(1, 2000), (2000, 1), (1, 1), (3, 60000), (60000, 3)])
def test_narrow_images_have_thumbnails_of_bounded_size(shape, tmp_path):
    image = np.full((*shape, 3), 90, np.uint8)
    picture = add_bars(image, [('one', 1.0)])
    assert picture.shape[0] <= 4 * 360 + 40 and (picture == 90).all(axis=2).any()
    write_picture(image, tmp_path / 'narrow.png')
    contact_sheet([tmp_path / 'narrow.png'] * 4, tmp_path / 'overview.png')
    sheet = read_image(tmp_path / 'overview.png')
    assert sheet.shape[0] <= 2 * 4 * 360 and (sheet == 90).all(axis=2).any()
    maps = [torch.ones(4, *(-(-side // 4) for side in shape))]
    assert draw_stages(image, maps, [4]).shape[0] <= 2 * (4 * 4 * 320 + 80)


def test_the_overlay_has_the_colours_of_the_legend():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 400, 3), dtype=np.uint8)
    ids = np.full((40, 400), 255)
    ids[:, :100], ids[:, 100:130] = 3, 1
    picture = draw_classes(image, ids, CLASSES, PALETTE)
    for columns, label in ((slice(0, 100), 3), (slice(100, 130), 1)):
        expected = (image[:, columns].astype(float) + PALETTE[label]) / 2
        assert np.abs(picture[:40, columns] - expected).max() <= 0.5
    assert (picture[:40, 130:400] == image[:, 130:]).all()
    legend = picture[40:]
    shown = [(legend == colour).all(axis=2).sum() > 50 for colour in PALETTE]
    assert shown == [False, True, False, True, False]
    assert class_shares(ids, CLASSES) == [
        {'label': 255, 'class': 'void', 'share': 270 / 400},
        {'label': 3, 'class': 'star', 'share': 0.25},
        {'label': 1, 'class': 'square', 'share': 30 / 400},
    ]
