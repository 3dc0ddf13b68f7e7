"""Images of any number of channels and any data type as RGB pictures. Exact."""

import numpy as np
import pytest

from convnext_backbone.visualization.bands import show_bands

BYTES = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)


@pytest.mark.parametrize('channels', [3, 4])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.float32, np.float64])
def test_bytes_are_shown_as_they_are(channels, kind):
    image = BYTES[..., :channels].astype(kind)
    assert (show_bands(image) == BYTES[..., :3]).all()
    assert (show_bands(image, bgr=True) == BYTES[..., 2::-1]).all()


@pytest.mark.parametrize('shape', [(40, 50), (40, 50, 1), (40, 50, 2)])
def test_fewer_than_three_channels_are_grey(shape):
    image = BYTES[..., : shape[2] if len(shape) == 3 else 1].reshape(shape)
    assert (show_bands(image) == BYTES[..., :1]).all() and show_bands(image).shape == (40, 50, 3)


@pytest.mark.parametrize('kind', [np.uint16, np.int16, np.float32])
def test_other_values_are_scaled_by_channel(kind):
    """Whatever their range: 12 bits, reflectances, heights below the sea."""
    for low, high in ((0, 4095), (2000, 30000)) if kind == np.uint16 else ((-500, 4000), (0, 9000)):
        ramp = np.linspace(low, high, 2000).reshape(40, 50)
        picture = show_bands(np.dstack([ramp, ramp / 2, ramp]).astype(kind))
        assert picture.dtype == np.uint8 and (picture[..., 0].max(), picture[..., 0].min()) == (255, 0)
        assert (np.diff(picture[..., 0].ravel().astype(int)) >= 0).all()
        assert np.abs(picture[..., 0].astype(int) - picture[..., 1]).max() <= 1


def test_reflectances_below_1_and_pixels_without_data_are_shown():
    image = np.linspace(0, 0.6, 2000, dtype=np.float32).reshape(40, 50)
    image[:5] = np.nan
    picture = show_bands(image)
    assert (picture[:5] == 0).all() and picture.max() == 255 and 100 < picture[20].mean() < 155


def test_a_constant_image_has_a_colour():
    for value in (0, 1000):
        assert show_bands(np.full((4, 5, 3), value, np.uint16)).std() == 0
