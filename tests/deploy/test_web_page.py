"""The page that predicts in the browser: its script, run by node, beside the runner. Exact."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_export import export  # noqa: F401 a fixture

from convnext_backbone.datasets.timm_dataset import build_transform
from convnext_backbone.deploy import __main__ as runner
from convnext_backbone.deploy.metadata import describe_crop

PAGE = REPOSITORY / 'tools/web/index.html'
RUNTIME = PAGE.parent / 'node_modules/onnxruntime-web/dist/ort.node.min.mjs'
pytestmark = pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')
# Calls functions of the page; images come as files of RGB bytes, and numbers go as such.
SCRIPT = """
import fs from 'node:fs';
const code = fs.readFileSync(process.argv[2], 'utf8').match(/<script id="runner">([^]*?)<[/]script>/)[1];
const page = new Function(code + 'return {readMetadata, prepare, bestClasses, predict};')();
const {width, height, meta, model, runtime} = JSON.parse(fs.readFileSync('request.json'));
const image = {width, height, data: new Uint8Array(fs.readFileSync('image'))};
if (!runtime) {
  fs.writeFileSync('input', page.prepare(meta, image).data);
} else {
  const ort = await import(runtime), bytes = new Uint8Array(fs.readFileSync(model));
  const session = await ort.InferenceSession.create(bytes);
  const run = async (data, dims) => {
    const found = await session.run({image: new ort.Tensor('float32', data, dims)});
    return found[session.outputNames[0]].data;
  };
  const {ids, classes} = await page.predict(run, page.readMetadata(bytes), image);
  if (ids) fs.writeFileSync('ids', ids);
  console.log(JSON.stringify(classes));
}
"""


@pytest.fixture
def run_page(tmp_path):
    """Runs the page's script on an image; returns what it printed."""

    def run(image, **request):
        (tmp_path / 'script.mjs').write_text(SCRIPT)
        (tmp_path / 'image').write_bytes(image.tobytes())
        request = dict(request, width=image.width, height=image.height)
        (tmp_path / 'request.json').write_text(json.dumps(request))
        result = subprocess.run(
            ['node', 'script.mjs', str(PAGE)], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def image():
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 121))
    noise = random.integers(-20, 20, (121, 160, 3))
    return Image.fromarray(np.clip(np.asarray(coarse, int) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    'meta',
    [
        *(dict(crop_pct=0.875, interpolation=name) for name in ('bicubic', 'bilinear', 'lanczos')),
        dict(crop_mode='squash', input_size=200),
        dict(resize=dict(rule='ratio', scale=[240, 180])),
        dict(resize=dict(rule='fit', scale=[96, 64])),
        dict(resize=dict(rule='exact', scale=[77, 200])),
    ],
    ids=str,
)
def test_the_input_of_the_network_is_the_runners(meta, image, run_page, tmp_path):
    """To the bit; sine, of lanczos, may be rounded otherwise."""
    if 'resize' not in meta:
        meta = describe_crop(build_transform(False, **{'input_size': 64, **meta}))
    meta = dict(meta, channels='RGB' if meta['resize']['rule'] == 'crop' else 'BGR')
    meta.update(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    run_page(image, meta=meta)
    expected = runner.prepare(meta, image)
    found = np.fromfile(tmp_path / 'input', np.float32).reshape(expected.shape)
    different = (found != expected).mean()
    assert different == 0 or (meta.get('interpolation') == 'lanczos' and different < 1e-3)


@pytest.mark.skipif(not RUNTIME.exists(), reason='run `npm install --prefix tools/web onnxruntime-web`')
@pytest.mark.parametrize(
    'kind', ['classifier', *(pytest.param(one, marks=pytest.mark.slow) for one in ('segmentor', 'slide'))]
)
def test_what_it_finds_is_what_the_runner_finds(export, kind, image, run_page, tmp_path):  # noqa: F811
    """Scores to 1e-4; 99.99 % of the pixels."""
    _, folder = export(kind)
    found = json.loads(run_page(image, model=str(folder / 'model.onnx'), runtime=str(RUNTIME)))
    model = runner.Model(folder / 'model.onnx')
    if kind == 'classifier':
        (expected,), _ = runner.classify(model, image, (None, 0.2))
        assert found == [{**one, 'score': pytest.approx(one['score'], abs=1e-4)} for one in expected['classes']]
        return
    ids = runner.find_classes(model, image)
    assert (np.fromfile(tmp_path / 'ids', np.uint16).reshape(ids.shape) == ids).mean() > 0.9999
    (expected,), _ = runner.segment(model, image, (None, 0.2))
    shares = [{one['class']: one['share'] for one in classes} for classes in (found, expected['classes'])]
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


def test_files_that_the_page_cannot_use_are_named(tmp_path):
    script = (
        SCRIPT.partition('const {width')[0]
        + """
for (const bytes of [[], [1, 2, 3], [0x72, 0xff, 0xff, 0xff], [0x0a, 1, 7], [...Buffer.from('GIF89a')]]) {
  try {
    page.readMetadata(Uint8Array.from(bytes));
  } catch (error) {
    console.log(error.message);
  }
}
"""
    )
    (tmp_path / 'script.mjs').write_text(script)
    result = subprocess.run(['node', 'script.mjs', str(PAGE)], cwd=tmp_path, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 5, result.stderr
    assert {*lines} == {'is no ONNX file', 'was not written by tools/export.py'}
