"""tools/export.py: files of every kind of model, run by onnxruntime and by the runner. Exact up to the tolerances."""

import collections
import copy
import json
import os
import subprocess
import sys

import deployed_models as models
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refusal
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample
from PIL import Image
from test_runner import BAR

from convnext_backbone.config.load import load_config
from convnext_backbone.deploy import __main__ as runner
from convnext_backbone.deploy import check, metadata, onnx_file
from convnext_backbone.deploy.detector import suppress
from convnext_backbone.deploy.networks import Network
from convnext_backbone.deploy.supported import build_network
from convnext_backbone.utils.errors import UserError

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
SIZES = ((32, 32), (33, 64), (65, 65), (97, 131), (160, 203), (288, 320))  # none the export's
assert onnx_file.EXAMPLE not in SIZES
KINDS = dict(
    classifier=models.classifier,
    segmentor=models.segmentor,
    slide=lambda: models.segmentor('slide'),
    cascade=models.cascade,
    mask_rcnn=models.mask_rcnn,
    faster_rcnn=models.faster_rcnn,
    v2=lambda: models.classifier(use_grn=True),
)
DEFAULT = ('classifier',)  # the others take 10 to 20 s each
MARKED = [kind if kind in DEFAULT else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope='module')
def export(make_once):
    """The network of a kind of model in eager mode, and the folder with its config, checkpoint and exported file."""

    def once(kind: str, size: tuple[int, int] | None = None):
        cfg = KINDS[kind]()
        model = models.build(cfg)
        network = build_network(model)
        models.enliven(model, network)

        def fill(folder):
            models.export(model, cfg, folder, size=size, licence=metadata.find_licence(cfg))

        return network, make_once(f'export-{kind}-{size}', fill)

    return once


@pytest.fixture
def photos(tmp_path):
    """Of the size that detectors and segmentors take them at: resizing is tested beside OpenCV."""
    random = np.random.default_rng(0)
    (tmp_path / 'photos/sub').mkdir(parents=True)
    for name, size in (('a.jpg', (240, 180)), ('sub/b.png', (130, 240)), ('c.jpg', (240, 133))):
        coarse = Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8))
        coarse.resize(size).save(tmp_path / 'photos' / name)
    return tmp_path / 'photos'


@pytest.mark.parametrize('kind', MARKED)
def test_onnxruntime_gives_what_the_network_gives_at_every_size(export, kind):
    """Scores to 1e-4; 99.99 % of pixels; 99 % of detections to half a pixel and a score of 1e-3."""
    network, folder = export(kind)
    model, random = runner.Model(folder / 'model.onnx'), np.random.default_rng(1)
    inputs = [random.normal(size=(3, *size)).astype(np.float32) for size in SIZES]
    report = check.check_export(network, model, inputs)
    assert report['inputs'] == len(SIZES) and report['of'] > 20


@pytest.mark.parametrize('kind', MARKED)
def test_the_graph_is_plain(export, kind):
    """One LayerNormalization a norm, one Gelu a block, opset 20 alone, nothing beside the file, no path in it."""
    network, folder = export(kind)
    proto = onnx.load(folder / 'model.onnx')
    onnx.checker.check_model(proto, full_check=True)
    assert [(one.domain, one.version) for one in proto.opset_import] == [('', 20)] and not proto.functions
    assert {node.domain for node in proto.graph.node} == {''}
    counts = collections.Counter(node.op_type for node in proto.graph.node)
    layers = [type(one).__name__ for one in network.modules()]
    assert counts['LayerNormalization'] == layers.count('LayerNorm') + layers.count('LayerNorm2d')
    assert counts['Gelu'] == layers.count('ConvNeXtBlock') == sum(models.DEPTHS)
    assert counts['NonMaxSuppression'] == (2 if kind in ('cascade', 'mask_rcnn', 'faster_rcnn') else 0)
    content = (folder / 'model.onnx').read_bytes()
    assert b'site-packages' not in content and str(REPOSITORY).encode() not in content
    assert {path.name for path in folder.iterdir()} == {'config.py', 'model.pth', 'model.onnx', 'filled'}


@pytest.mark.parametrize('kind', MARKED)
def test_the_tool_writes_the_same_bytes_again(export, kind, tmp_path, call_tool):
    _, folder = export(kind)
    result = call_tool('export.py', folder / 'config.py', folder / 'model.pth', tmp_path / 'model.onnx', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'model.onnx').read_bytes() == (folder / 'model.onnx').read_bytes()


@pytest.fixture
def compare_with_predict(export, tmp_path, call_tool):
    """Runs the runner, in a process without torch and the MM libraries, and the predict tool on the same images."""

    def compare(kind, *arguments, size=None):
        _, folder = export(kind, size)
        (tmp_path / 'sitecustomize.py').write_text(BAR)
        command = ['-m', 'convnext_backbone.deploy', folder / 'model.onnx', *arguments, '--out-dir', 'ours']
        environment = {**os.environ, 'PYTHONPATH': f'{tmp_path}:{REPOSITORY}'}
        result = subprocess.run(
            [sys.executable, *map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        command = [folder / 'config.py', folder / 'model.pth', *arguments, '--work-dir', 'theirs']
        result = call_tool('predict.py', *command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        folders = tmp_path / 'ours', tmp_path / 'theirs/predictions'
        names = [sorted(path.relative_to(one) for path in one.rglob('*')) for one in folders]
        assert names[0] == names[1]
        ours, theirs = (json.loads((one / 'predictions.json').read_text()) for one in folders)
        same = {'classifier': compare_classes, 'v2': compare_classes, 'segmentor': compare_ids, 'slide': compare_ids}
        same.get(kind, compare_annotations)(ours, theirs, tmp_path)

    return compare


@pytest.mark.parametrize('kind', MARKED)
def test_the_runner_writes_the_predictions_of_the_predict_tool(compare_with_predict, kind, photos):
    """The same json: names, ids, keys in their order; numbers within the tolerances. Pictures of the same names."""
    compare_with_predict(kind, photos)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['segmentor', 'slide', 'cascade', 'faster_rcnn'])
@pytest.mark.parametrize('tiles', [(), ('--tile', 180, '--overlap', 0.3)], ids=['whole', 'tiles'])
def test_large_images_are_predicted_as_by_the_predict_tool(compare_with_predict, kind, tiles, tmp_path):
    """In windows, and above 2 megapixels as a whole; of sizes that are resized without rounding."""
    random = np.random.default_rng(2)
    (tmp_path / 'photos').mkdir()
    for name, size in dict(a=(480, 360), b=(360, 480)).items() if tiles else [('c', (1920, 1440))]:
        coarse = Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8))
        coarse.resize(size).save(tmp_path / f'photos/{name}.png')
    compare_with_predict(kind, 'photos', *tiles)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['cascade', 'mask_rcnn'])
def test_masks_are_those_of_mmdet_in_an_image_larger_than_the_input(export, kind):
    """Of 99 % of the detections, IoU of 0.99: mmdet pastes them at the size of the image."""
    network, folder = export(kind)
    model, random = runner.Model(folder / 'model.onnx'), np.random.default_rng(1)
    agreed = total = 0
    for height, width in SIZES[2:]:
        image, size = random.normal(size=(3, height, width)).astype(np.float32), (2 * height, 2 * width)
        padded = torch.from_numpy(image)[None]
        padded = torch.nn.functional.pad(padded, (0, -width % 32, 0, -height % 32))
        meta = dict(img_shape=(height, width), ori_shape=size, scale_factor=(0.5, 0.5))
        sample = DetDataSample(metainfo={**meta, 'batch_input_shape': tuple(padded.shape[2:])})
        with torch.no_grad():
            expected = network.model.predict(padded, [sample], rescale=True)[0].pred_instances.numpy()
        boxes, scores, labels, masks = model(image)
        for i in range(len(expected)):
            away = np.abs(2 * boxes - expected.bboxes[i]).max(1) + 1e6 * (labels != expected.labels[i])
            k = away.argmin()
            pixels, left, top = runner.paste_mask(masks[k], 2 * boxes[k], size, size, 0.5)
            mask = np.zeros(size, bool)
            mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            either = (mask | expected.masks[i]).sum()
            agreed += away[k] <= 1 and (mask & expected.masks[i]).sum() >= 0.99 * either
            total += 1
    assert total > 200 and agreed >= 0.99 * total


def compare_classes(ours, theirs, folder):
    assert [(one['image'], *map(list, one['classes'])) for one in ours] == [
        (one['image'], *map(list, one['classes'])) for one in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        for found, expected in zip(one['classes'], other['classes'], strict=True):
            assert found == {**expected, 'score': pytest.approx(expected['score'], abs=1e-4)}


def compare_ids(ours, theirs, folder):
    assert [one['image'] for one in ours] == [one['image'] for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        ids, expected = (np.asarray(Image.open(folder / found['class_ids'])) for found in (one, other))
        assert ids.dtype == expected.dtype and (ids == expected).mean() > 0.9999
        shares = [{found['class']: found['share'] for found in each['classes']} for each in (one, other)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-3) and list(one) == list(other)


def compare_annotations(ours, theirs, folder):
    from pycocotools import mask as coco_mask

    assert list(ours) == list(theirs)
    assert ours['images'] == theirs['images'] and ours['categories'] == theirs['categories']
    free, matched = list(theirs['annotations']), 0
    for one in ours['annotations']:
        for other in free:
            near = np.abs(np.subtract(one['bbox'], other['bbox'])).max() <= 0.5
            same = one['image_id'] == other['image_id'] and one['category_id'] == other['category_id']
            if near and same and abs(one['score'] - other['score']) <= 1e-3:
                assert list(one) == list(other)
                if 'segmentation' in one:
                    masks = [one['segmentation']], [other['segmentation']]
                    assert masks[0] == masks[1] or coco_mask.iou(*masks, [0]) >= 0.9
                    assert coco_mask.area(one['segmentation']) == one['area']
                free.remove(other)
                matched += 1
                break
    assert len(theirs['annotations']) > 20 and matched >= 0.99 * max(
        map(len, (theirs['annotations'], ours['annotations']))
    )


def test_what_a_file_says_of_itself(export):
    _, folder = export('classifier')
    about = runner.Model(folder / 'model.onnx').meta
    assert about['task'] == 'classification' and about['classes'] == list('abcde') == about['descriptions']
    assert about['resize'] == dict(rule='crop', resized=64, crop=[64, 64]) and about['interpolation'] == 'bicubic'
    assert about['channels'] == 'RGB' and about['size'] is None
    np.testing.assert_allclose(about['mean'], [123.675, 116.28, 103.53], rtol=1e-6)
    np.testing.assert_allclose(about['std'], [58.395, 57.12, 57.375], rtol=1e-6)
    assert about['check'] == dict(inputs=4, agree=1.0, of=20, worst=about['check']['worst'])
    assert about['check']['worst']['scores'] <= 1e-4
    assert len(about['config_sha256']) == len(about['weights_sha256']) == 64


class Regions(Network):
    """The regions that an RPN keeps of those that it finds at the pixels of an image."""

    outputs = ('kept', 'scores')

    def forward(self, image):
        left, top, logits = image.flatten(2)[0]
        scores = logits.sigmoid()
        best = scores.sort(descending=True, stable=True)[1]
        corners = torch.stack([left, top], 1)[best]
        kept = suppress(torch.cat([corners, corners + 20], 1), scores[best], torch.zeros_like(best), 0.5)
        return best[kept], scores[best[kept]]


def test_scores_that_are_rounded_to_1_are_ordered_as_by_torch(tmp_path):
    """Of regions with equal scores the first is kept: the same ones, to the last, whether few or most have 1."""
    network = Regions(torch.nn.Identity())
    onnx_file.export_network(network, tmp_path / 'model.onnx', None)
    onnx_file.write_metadata(tmp_path / 'model.onnx', dict(format=1, size=None, pad_value=0))
    model, random = runner.Model(tmp_path / 'model.onnx'), np.random.default_rng(0)
    for centre, least in ((8, 0), (14, 0.01), (40, 0.9)):
        image = random.uniform(0, 400, (3, 60, 50)).astype(np.float32)
        image[2] = random.normal(centre, 4, (60, 50))
        expected, scores = network(torch.from_numpy(image)[None])
        assert (scores == 1).float().mean() >= least and len(scores.unique()) < len(scores) > 200
        np.testing.assert_array_equal(model(image)[0], expected.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(('factor', 'shift'), [(2.0, 8.0), (1.0, 17.0), (20.0, 120.0)])
def test_a_detector_whose_regions_have_scores_of_1_passes_the_check(export, factor, shift, tmp_path):
    """Few of them, most of them and all of them; every detection is that of the model."""
    network, folder = export('faster_rcnn')
    network = copy.deepcopy(network)
    layer, scores = network.model.rpn_head.rpn_cls, []
    with torch.no_grad():
        layer.weight.mul_(factor)
        layer.bias.mul_(factor).add_(shift)
    proto = onnx.load(folder / 'model.onnx')
    for tensor in proto.graph.initializer:
        if 'rpn_cls' in tensor.name:
            values = getattr(layer, tensor.name.rpartition('.')[2]).detach().numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, tmp_path / 'model.onnx')
    model = runner.Model(tmp_path / 'model.onnx')
    layer.register_forward_hook(lambda _, inputs, output: scores.append(output.sigmoid().flatten()))
    report = check.check_export(network, model, check.draw_inputs(model))
    assert (torch.cat(scores) == 1).float().mean() > 0.02
    assert report['agree'] == 1 and report['of'] > 200


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['segmentor', 'mask_rcnn'])
def test_a_fixed_size(export, kind, photos, tmp_path, monkeypatch):
    """Images fit into it and are padded; nothing is found in the margin."""
    _, folder = export(kind, (128, 160))
    model = runner.Model(folder / 'model.onnx')
    dims = onnx.load(folder / 'model.onnx').graph.input[0].type.tensor_type.shape.dim
    assert [one.dim_value for one in dims] == [1, 3, 128, 160]
    monkeypatch.setattr(
        'sys.argv', ['deploy', str(folder / 'model.onnx'), str(photos), '--out-dir', str(tmp_path / 'o')]
    )
    assert runner.main() == 0
    image = runner.decode(photos / 'a.jpg')
    assert model.pad(runner.prepare(model.meta, image)).shape == (3, 128, 160)
    if kind == 'mask_rcnn':
        found = json.loads((tmp_path / 'o/predictions.json').read_text())
        sizes = {one['id']: (one['width'], one['height']) for one in found['images']}
        for one in found['annotations']:
            left, top, width, height = one['bbox']
            assert left + width <= sizes[one['image_id']][0] + 1e-3 and top + height <= sizes[one['image_id']][1] + 1e-3


@pytest.mark.slow
def test_a_fixed_size_of_windows_is_that_of_the_config(export, compare_with_predict, photos, tmp_path, call_tool):
    """Images are not resized to it but seen window by window, as by mmseg, in a file that takes no other size."""
    _, folder = export('slide', (96, 80))
    proto = onnx.load(folder / 'model.onnx')
    assert [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 80]
    compare_with_predict('slide', photos, size=(96, 80))
    for size in ((80, 96), (192, 160)):
        command = folder / 'config.py', folder / 'model.pth', tmp_path / 'other.onnx', '--size', *size
        sentence = refusal(call_tool('export.py', *command, cwd=tmp_path))
        assert f'--size {size[0]} {size[1]}' in sentence and 'windows or crops of 96 80' in sentence
    assert not (tmp_path / 'other.onnx').exists()


@pytest.mark.slow
def test_an_image_that_is_lower_than_a_window_of_a_fixed_size_is_padded_to_it(export, tmp_path, run):
    """Its classes are those that mmseg gives the padded image; mmseg's own would be of a smaller window."""
    network, folder = export('slide', (96, 80))
    (path,) = models.draw_photos(tmp_path / 'photos', [(240, 60)])
    assert run(folder / 'model.onnx', path, '--out-dir', tmp_path / 'out')[0] == 0
    ids = np.asarray(Image.open(tmp_path / 'out/class_ids/0.png'))
    image = torch.from_numpy(runner.prepare(runner.Model(folder / 'model.onnx').meta, runner.decode(path)))
    padded = torch.nn.functional.pad(image, (0, 0, 0, 36))[None]
    meta = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (96, 240))
    with torch.no_grad():
        found = network.model.predict(padded, [SegDataSample(metainfo=dict(meta, padding_size=[0] * 4))])
    expected = found[0].pred_sem_seg.data[0, :60].numpy()
    assert len(np.unique(ids)) > 2 and ids.shape == (60, 240) and (ids == expected).mean() > 0.9999


def test_a_file_that_differs_from_its_model_is_not_kept(export, tmp_path, call_tool, monkeypatch):
    _, folder = export('classifier')
    monkeypatch.setattr(check, 'SCORE', -1.0)
    result = call_tool('export.py', folder / 'config.py', folder / 'model.pth', tmp_path / 'm.onnx', cwd=tmp_path)
    sentence = refusal(result)
    assert 'differs from the model' in sentence and 'scores' in sentence and 'no file is written' in sentence
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['config.py', 'model.pth', 'model.onnx'], ('model.onnx exists', 'name another')),
        (['config.py', 'model.pth', 'm.pt'], ('m.pt', '.onnx')),
        (['config.py', 'lost.pth', 'm.onnx'], ('lost.pth', 'does not exist')),
        (['config.py', 'model.pth', 'm.onnx', '--size', 16, 64], ('--size=16', '32 to 16384')),
        (['config.py', 'model.pth', 'm.onnx', '--size', 96, 96], ('--size 96 96', '64 64')),
        (['config.py', 'model.pth', 'm.onnx', '--score-thr', 2], ('--score-thr 2.0', 'between 0 and 1')),
        (['config.py', 'model.pth', 'm.onnx', '--check', 'lost.jpg'], ('lost.jpg', 'does not exist')),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(export, arguments, words, call_tool):
    _, folder = export('classifier')
    sentence = refusal(call_tool('export.py', *arguments, cwd=folder))
    assert all(word in sentence for word in words), sentence
    assert not (folder / 'm.onnx').exists()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(onnx_file, 'PACKAGES', ('onnx', 'onnx_that_is_missing'))
    with pytest.raises(UserError, match=r"onnx_that_is_missing must be installed: run `pip install '\.\[export\]'`"):
        onnx_file.check_packages()


def test_too_old_a_runtime_is_refused_before_anything_is_computed(export, run, tmp_path, call_tool, monkeypatch):
    _, folder = export('classifier')
    monkeypatch.setattr('onnxruntime.__version__', '1.16.3')
    sentence = refusal(call_tool('export.py', folder / 'config.py', folder / 'model.pth', 'm.onnx', cwd=tmp_path))
    assert 'onnxruntime 1.16.3 is too old: run `pip install -U onnxruntime`' in sentence
    code, printed, said = run(folder / 'model.onnx', tmp_path)
    assert (code, printed) == (2, '')
    assert said == 'error: onnxruntime 1.16.3 is too old: install 1.17 or a newer one.\n'
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ('pipeline', 'words'),
    [
        ([dict(type='LoadImageFromFile'), dict(type='Pad', size_divisor=32)], 'Pad'),
        ([dict(type='LoadImageFromFile', to_float32=True)], 'to_float32'),
        ([dict(type='LoadImageFromFile'), dict(type='Resize', scale_factor=2.0)], 'scale_factor'),
        ([dict(type='LoadImageFromFile')], 'without Resize'),
    ],
)
def test_steps_of_a_pipeline_that_the_runner_cannot_repeat_are_refused(pipeline, words):
    cfg = models.segmentor()
    cfg.test_dataloader.dataset.pipeline = pipeline
    with pytest.raises(UserError, match=words):
        metadata.describe_resize(cfg)


@pytest.mark.parametrize(
    ('change', 'words'),
    [(None, 'not written by tools/export.py'), (dict(format=99), 'newer version'), (b'no model', 'cannot be read')],
)
def test_files_that_the_runner_cannot_use(export, change, words, tmp_path):
    _, folder = export('classifier')
    path = tmp_path / 'other.onnx'
    proto = onnx.load(folder / 'model.onnx')
    del proto.metadata_props[:]
    path.write_bytes(change if isinstance(change, bytes) else proto.SerializeToString())
    if isinstance(change, dict):
        onnx_file.write_metadata(path, change)
    with pytest.raises(runner.RunnerError, match=words):
        runner.Model(path)


@pytest.mark.parametrize(
    ('recipe', 'licence'),
    [
        ('cascade_convnext_t_coco', 'MIT'),
        ('cascade_convnext_v2_t_coco', 'CC BY-NC 4.0'),
        ('upernet_dinov3_convnext_t_ade20k', 'DINOv3 License'),
        ('demo/pretrain_convnext_atto_shapes', 'that of your own weights and data'),
    ],
)
def test_the_licence_is_that_of_the_weights_a_config_starts_from(recipe, licence):
    assert metadata.find_licence(load_config(REPOSITORY / f'configs/{recipe}.py')) == licence


def test_weights_beyond_two_gibibytes_are_refused(tmp_path):
    with torch.device('meta'):
        network = torch.nn.Linear(2**15, 2**15)
    with pytest.raises(UserError, match='4.0 GiB of weights, but one ONNX file holds at most 2'):
        onnx_file.export_network(network, tmp_path / 'model.onnx', None)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the runner's `main` in this process: its exit code, what it printed, and what it said."""

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['deploy', *map(str, arguments)])
        return runner.main(), *capsys.readouterr()

    return run


def test_the_runner_goes_on_after_an_image_that_cannot_be_used(export, photos, tmp_path, run):
    """And its json is alone on stdout."""
    _, folder = export('classifier')
    (photos / 'a.jpg').write_bytes(b'no image')
    code, printed, said = run(folder / 'model.onnx', photos, '--out-dir', tmp_path / 'out', '--json')
    assert code == 2 and 'a.jpg: left out' in said and said.splitlines()[-1].startswith('error: 1 of 3 images')
    rows = json.loads(printed)
    assert [one['image'] for one in rows] == [str(photos / 'c.jpg'), str(photos / 'sub/b.png')]
    assert json.loads((tmp_path / 'out/predictions.json').read_text()) == rows
    written = {str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*.*')}
    assert written == {'c.jpg', 'sub/b.png', 'overview.png', 'predictions.json'}


def test_an_interrupted_run_leaves_what_it_has_predicted(export, photos, tmp_path, run, monkeypatch):
    _, folder = export('classifier')
    decode = runner.decode

    def decode_or_stop(path):
        if path.name == 'c.jpg':
            raise KeyboardInterrupt  # as Python does at Ctrl-C, unless it was started to ignore it
        return decode(path)

    monkeypatch.setattr(runner, 'decode', decode_or_stop)
    code, _, said = run(folder / 'model.onnx', photos, '--out-dir', tmp_path / 'out')
    assert code == 130 and said == 'interrupted\n'
    rows = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [one['image'] for one in rows] == [str(photos / 'a.jpg')]


def test_what_the_runner_refuses(export, photos, tmp_path, run):
    _, folder = export('classifier')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/thesis.txt').touch()
    (tmp_path / 'empty').mkdir()
    model = folder / 'model.onnx'
    for arguments, words in (
        ((model, photos, '--out-dir', tmp_path / 'full'), 'holds other files than predictions'),
        ((model, photos / 'lost.jpg', '--out-dir', tmp_path / 'out'), 'lost.jpg does not exist'),
        ((model, tmp_path / 'empty', '--out-dir', tmp_path / 'out'), 'empty holds no image'),
        ((model, photos / 'a.jpg', '--out-dir', photos), 'a.jpg lies in'),
        ((model, photos, '--tile', 100), '--tile 100 is out of range'),
        ((model, photos, '--tile', 0), '--tile 0 is out of range'),
        ((model, photos, '--overlap', 0.5), '--overlap 0.5 is out of range: set --tile'),
        ((model, photos, '--tile', 100, '--overlap', 'nan'), '--overlap nan is out of range'),
        ((tmp_path / 'lost.onnx', photos), 'lost.onnx does not exist'),
    ):
        code, _, said = run(*arguments)
        assert code == 2 and words in said and len(said.splitlines()) == 1
    assert not (tmp_path / 'out').exists() and [*(tmp_path / 'full').iterdir()] == [tmp_path / 'full/thesis.txt']
