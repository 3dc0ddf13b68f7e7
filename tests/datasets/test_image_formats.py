"""Formats of image files: OpenCV, by which mmdet and mmseg read, is the reference; nothing is interpreted. Exact."""

import io
import itertools
import os
import struct
import tarfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile, RandomResize
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image, UnidentifiedImageError

from convnext_backbone import TimmDataset, TimmShards, UserError
from convnext_backbone.datasets.image_loading import guard_image_loading
from convnext_backbone.utils.image_io import FORMATS, decode_image, read_image

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
SCENE = np.stack([X * 3 + 20, Y * 4 + 10, 250 - X - Y * 2], axis=-1).astype(np.uint8)
GREY, ALPHA = SCENE[..., 1], (X * 4).astype(np.uint8)
DEEP = (X * 1000 + Y * 20).astype(np.uint16)
DEEP_COLOURS = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=-1)


def encode(image: np.ndarray | Image.Image, name: str, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image, mode)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a mode that Pillow could guess
        picture.save(buffer, name, **options)
    return buffer.getvalue()


def encode_by_opencv(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def tiff(bits: int, white_is_zero: bool, order: str, data: bytes) -> bytes:
    """A TIFF of one grey strip that is not compressed."""
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, int(not white_is_zero))]
    tags += [(273, 8), (277, 1), (278, HEIGHT), (279, len(data))]
    entries = b''.join(struct.pack(f'{order}HHII', tag, 4, 1, value) for tag, value in tags)
    head = {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(f'{order}I', 8 + len(data))
    return head + data + struct.pack(f'{order}H', len(tags)) + entries + bytes(4)


def pack_12_bits(values: np.ndarray) -> bytes:
    one, two = (values >> 4).astype(np.uint32).reshape(-1, 2).T
    return np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], axis=-1).astype(np.uint8).tobytes()


def draw_files() -> dict[str, tuple[bytes, int]]:
    """Files of every kind that both read, each with the largest difference allowed."""
    palette = Image.fromarray(SCENE).convert('P', palette=Image.Palette.ADAPTIVE)
    dots, transparent = Image.fromarray(GREY).convert('1'), np.dstack([SCENE, ALPHA])
    two = dict(save_all=True, append_images=[Image.fromarray(255 - SCENE)])
    files = {}
    for order, white_is_zero in itertools.product('<>', (False, True)):
        name = f'{"little" if order == "<" else "big"}-endian tiff{", white is 0" * white_is_zero}'
        for bits, data in (
            (16, DEEP.astype(f'{order}u2').tobytes()),
            (8, GREY.tobytes()),
            (1, np.packbits(GREY > 100, axis=1).tobytes()),
        ):
            files[f'{name}, {bits} bits'] = tiff(bits, white_is_zero, order, data), 0
    for compression in ('tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg'):
        files[f'tiff, {compression}'] = encode(SCENE, 'TIFF', compression=compression), 0
    files |= {
        '16-bit tiff, compressed': (encode(DEEP, 'TIFF', compression='tiff_lzw'), 0),
        '16-bit tiff, colours': (encode_by_opencv(DEEP_COLOURS, '.tif'), 1),
        '16-bit png': (encode_by_opencv(DEEP, '.png'), 0),
        '16-bit png, colours': (encode_by_opencv(DEEP_COLOURS, '.png'), 0),
        '16-bit png, transparent': (encode_by_opencv(np.dstack([DEEP_COLOURS, DEEP]), '.png'), 0),
        '16-bit pgm': (encode_by_opencv(DEEP, '.pgm'), 0),
        '16-bit ppm': (encode_by_opencv(DEEP_COLOURS, '.ppm'), 1),
        '16-bit jp2': (encode_by_opencv(DEEP, '.jp2'), 0),
        'fax tiff': (encode(dots, 'TIFF', compression='group4'), 0),
        'CMYK tiff': (encode(np.dstack([255 - SCENE, ALPHA // 2]), 'TIFF', 'CMYK'), 1),
        'CMYK jpeg': (encode(np.dstack([255 - SCENE, ALPHA // 2]), 'JPEG', 'CMYK', quality=100), 2),
        'tiff of two pages': (encode(SCENE, 'TIFF', **two), 0),
        'animated gif': (encode(SCENE, 'GIF', **two), 0),
        'animated webp': (encode(SCENE, 'WEBP', lossless=True, **two), 0),
        'animated png': (encode(SCENE, 'PNG', **two), 0),
        'jpeg of two pictures': (encode(SCENE, 'MPO', **two), 0),
        'progressive jpeg': (encode(SCENE, 'JPEG', progressive=True), 0),
        'transparent png': (encode(transparent, 'PNG'), 0),
        'transparent grey png': (encode(np.dstack([GREY, ALPHA]), 'PNG', 'LA'), 0),
        'png with a transparent colour': (encode(SCENE, 'PNG', transparency=tuple(SCENE[4, 4].tolist())), 0),
        'transparent webp': (encode(transparent, 'WEBP', lossless=True, exact=True), 0),
    }
    for name in ('PNG', 'BMP', 'TIFF'):
        files[f'palette {name}'], files[f'black and white {name}'] = (encode(palette, name), 0), (encode(dots, name), 0)
    for name in ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM', 'JPEG2000'):
        files[f'{name}, colours'], files[f'{name}, grey'] = (encode(SCENE, name), 0), (encode(GREY, name), 0)
    return files


FILES = draw_files()


@pytest.mark.parametrize('name', FILES)
def test_images_are_decoded_as_by_opencv(name):
    """Where this is meant to differ, in transparent TIFFs and GIFs and in EXIF data, other tests say how."""
    content, most = FILES[name]
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = np.asarray(decode_image(io.BytesIO(content)))
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= most


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('white_is_zero', [False, True])
def test_of_12_bits_the_upper_8_stay(order, white_is_zero):
    """OpenCV does not read them."""
    grey = np.asarray(decode_image(io.BytesIO(tiff(12, white_is_zero, order, pack_12_bits(DEEP)))))
    assert (grey == np.where(white_is_zero, 255 - (DEEP >> 8), DEEP >> 8)[..., None]).all()
    white = tiff(12, white_is_zero, order, bytes([0 if white_is_zero else 255]) * (HEIGHT * WIDTH * 3 // 2))
    assert (np.asarray(decode_image(io.BytesIO(white))) == 255).all()


@pytest.mark.parametrize('name', ['TIFF', 'GIF'])
def test_transparent_pixels_keep_their_colour(name):
    """As in a PNG; OpenCV darkens those of a TIFF and empties those of a GIF."""
    if name == 'TIFF':
        image = Image.fromarray(np.dstack([SCENE, ALPHA]))
        content = encode(image, name)
    else:
        image = Image.fromarray(SCENE).convert('P', palette=Image.Palette.ADAPTIVE)
        content = encode(image, name, transparency=image.getpixel((4, 4)))
    assert (np.asarray(decode_image(io.BytesIO(content))) == np.asarray(image.convert('RGB'))).all()


# ---- what is no image ------------------------------------------------------------------------------------------------

POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(program) print\nshowpage\n%%EOF\n'
POSTSCRIPTS = {
    'postscript': POSTSCRIPT,
    'postscript behind a preview': struct.pack('<4sIIIIIIH', b'\xc5\xd0\xd3\xc6', 30, len(POSTSCRIPT), *[0] * 5)
    + POSTSCRIPT,
}


@pytest.fixture
def interpreted(tmp_path, monkeypatch) -> Path:
    """A file with the arguments with which Ghostscript was called."""
    (tmp_path / 'bin').mkdir()
    program, calls = tmp_path / 'bin/gs', tmp_path / 'calls'
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr('PIL.EpsImagePlugin.gs_binary', None)  # which it looks for once
    return calls


@pytest.mark.parametrize('kind', POSTSCRIPTS)
def test_postscript_is_refused_by_every_reader(kind, interpreted, tmp_path):
    folder = tmp_path / 'data/images'
    folder.mkdir(parents=True)
    path = folder / 'photo.jpg'
    path.write_bytes(POSTSCRIPTS[kind])
    with pytest.raises(UserError, match=r'photo\.jpg cannot be decoded \(no JPEG, PNG'):
        read_image(path)
    (folder / 'photo.cls').write_text('0')
    for name in ('images.tar', 'x-0.tar'):
        with tarfile.open(tmp_path / name, 'w') as tar:
            tar.add(folder, arcname='images')
    small = dict(input_size=32)
    for data in (
        TimmDataset(str(tmp_path), 'data', small),
        TimmDataset(str(tmp_path), 'images.tar', small),
        TimmShards(str(tmp_path), 'x-{0..0}.tar', small),
    ):
        sample = next(iter(data))
        assert sample['labels'] == -1 and 'photo' in sample['broken']
    assert not interpreted.exists()


def test_no_other_format_is_opened():
    """Whatever Pillow could open more, now or later; all that it can write and read again is tried."""
    Image.init()
    refused = []
    for name in sorted(Image.SAVE.keys() & Image.OPEN.keys() - {*FORMATS}):
        for mode in ('RGB', 'L', '1', 'P', 'F'):
            try:
                content = encode(Image.new(mode, (64, 64)), name)
                Image.open(io.BytesIO(content)).close()
            except Exception:  # it has no such mode, or needs a library
                continue
            with pytest.raises(UnidentifiedImageError):
                decode_image(io.BytesIO(content))
            refused.append(name)
            break
    assert {'EPS', 'PCX', 'TGA', 'ICO'} <= {*refused}


@pytest.mark.parametrize('shape', [(1, 3000), (3000, 1)])
def test_an_image_that_cannot_be_resized_is_named_with_its_size(shape, tmp_path):
    """By mmcv, which would make it less than a pixel high or wide."""
    path = tmp_path / 'narrow.png'
    path.write_bytes(encode(np.zeros(shape, np.uint8), 'PNG'))
    init_default_scope('mmdet')
    steps = [LoadImageFromFile(), RandomResize(scale=(96, 96), ratio_range=(0.5, 2.0), keep_ratio=True)]
    dataset = SimpleNamespace(pipeline=Compose(steps))
    guard_image_loading(dataset)
    with pytest.raises(
        UserError, match=rf'narrow\.png of {shape[1]} x {shape[0]} pixels .* RandomResize .*crop or pad'
    ):
        dataset.pipeline(dict(img_path=str(path)))
