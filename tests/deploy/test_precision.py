"""Files of fewer bits, and OpenVINO as their reader: beside the same arithmetic in torch. Exact up to rounding."""

import collections
import math
from functools import partial

import deployed_models as models
import numpy as np
import pytest
import torch
from conftest import refusal
from torch import nn

from convnext_backbone.deploy import __main__ as runner
from convnext_backbone.deploy import check
from convnext_backbone.deploy.__main__ import prepare
from convnext_backbone.deploy.check import check_export, draw_inputs
from convnext_backbone.deploy.metadata import find_licence
from convnext_backbone.deploy.plain import make_plain
from convnext_backbone.deploy.supported import build_network
from convnext_backbone.utils.errors import UserError

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
KINDS = dict(classifier=models.classifier, segmentor=models.segmentor, cascade=models.cascade)
DEFAULT = ('classifier',)  # the others take 10 to 20 s each
MARKED = [kind if kind in DEFAULT else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
PRECISIONS = ('fp32', 'half', 'int8')


@pytest.fixture(scope='module')
def photos(make_once):
    """Eight, of the size that detectors and segmentors take them at."""
    return make_once('photos-of-int8', lambda folder: models.draw_photos(folder / 'p', [(240, 180), (180, 240)] * 4))


@pytest.fixture(scope='module')
def export(make_once, photos):
    """The network of a kind of model, and the folder with its config, checkpoint and exported file."""

    def once(kind: str, precision: str):
        cfg = KINDS[kind]()
        model = models.build(cfg)
        network = build_network(model)
        models.enliven(model, network)
        calibration = sorted(photos.rglob('*.png')) if precision == 'int8' else ()
        arguments = dict(half=precision == 'half', calibration=calibration, licence=find_licence(cfg))
        fill = partial(models.export, model, cfg, **arguments)
        return network, make_once(f'precision-{kind}-{precision}', fill)

    return once


def initializers(path) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


@pytest.mark.parametrize('kind', MARKED)
def test_half_rounds_the_weights_of_convolutions_and_linear_layers_alone(export, kind):
    """Each of them exactly, and casts it; all else has the bits of the file in fp32, such as anchors and norms."""
    network, whole = export(kind, 'fp32')
    _, folder = export(kind, 'half')
    exact, rounded = (initializers(one / 'model.onnx') for one in (whole, folder))
    graph = onnx.load(folder / 'model.onnx').graph
    casts = {
        node.input[0]: node.output[0] for node in graph.node if node.op_type == 'Cast' and node.input[0] in rounded
    }
    for name, values in rounded.items():
        if values.dtype == np.float16:
            assert np.array_equal(values, exact[casts[name]].astype(np.float16))
        else:
            assert values.dtype == exact[name].dtype and np.array_equal(values, exact[name])
    layers = [one for one in network.modules() if isinstance(one, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d))]
    used = {node.input[1] for node in graph.node if node.op_type in ('Conv', 'ConvTranspose', 'MatMul', 'Gemm')}
    assert used & set(casts.values()) == set(casts.values()) and len(casts) >= len(layers) * 0.9
    assert {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)} <= {1, 7}


def test_half_is_the_network_with_rounded_weights(export):
    """Whose scores are not those of the model."""
    network, folder = export('classifier', 'half')
    model = runner.Model(folder / 'model.onnx')
    inputs = [*draw_inputs(model)]
    exact = [network(torch.from_numpy(one[None])).detach().numpy() for one in inputs]
    with torch.no_grad():
        for one in network.modules():
            if isinstance(one, (nn.Conv2d, nn.Linear)):
                one.weight.copy_(one.weight.half())
    report = check_export(network, model, inputs)
    assert report['worst']['scores'] < 1e-5
    assert max(np.abs(one - model(image)[0]).max() for one, image in zip(exact, inputs, strict=True)) > 5e-5
    assert (folder / 'model.onnx').stat().st_size > 1000


def quantized(plain: nn.Module, inputs: list[np.ndarray]) -> nn.Module:
    """The plain form of a network with the linear layers of its blocks in int8, by the definition, in fp64."""
    ranges: dict[nn.Module, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    layers = [one for name, one in plain.named_modules() if name.rpartition('.')[2] in ('pwconv1', 'pwconv2')]

    def observe(layer, arguments):
        low, high = ranges[layer]
        ranges[layer] = [min(low, arguments[0].min().item()), max(high, arguments[0].max().item())]

    hooks = [layer.register_forward_pre_hook(observe) for layer in layers]
    with torch.no_grad():
        for image in inputs:
            plain(torch.from_numpy(image[None]))
    for hook in hooks:
        hook.remove()

    def compute(layer, arguments, output):
        low, high = ranges[layer]
        scale = (high - low) / 255
        zero = round(-low / scale)
        steps = ((arguments[0].double() / scale).round() + zero).clamp(0, 255) - zero
        weight = layer.weight.double()
        unit = weight.abs().amax(1, keepdim=True) / 64
        return nn.functional.linear(steps * scale, (weight / unit).round() * unit, layer.bias.double()).float()

    for layer in layers:
        layer.register_forward_hook(compute)
    return plain


def test_int8_is_what_it_is_defined_as(export, photos):
    """Inputs of linear layers in 8 bits over the range seen, weights in 7 for each output: to a tenth of its error."""
    network, folder = export('classifier', 'int8')
    model = runner.Model(folder / 'model.onnx')
    inputs = [prepare(model.meta, runner.decode(path)) for path in sorted(photos.rglob('*.png'))]
    with torch.no_grad():
        exact = torch.cat([network(torch.from_numpy(one[None])) for one in inputs])
        plain = quantized(make_plain(network), inputs)
        expected = torch.cat([plain(torch.from_numpy(one[None])) for one in inputs]).numpy()
    found = np.concatenate([model(one)[0] for one in inputs])
    error = np.abs(found - exact.numpy()).max()
    assert 1e-4 < error < 0.1 and np.abs(found - expected).max() < error / 10


@pytest.mark.parametrize('kind', MARKED)
def test_int8_is_that_of_the_blocks_linear_layers_alone(export, kind):
    """Two a block, with weights of int8; no custom domain; all other operators as often as in fp32."""
    _, whole = export(kind, 'fp32')
    _, folder = export(kind, 'int8')
    proto, exact = (onnx.load(one / 'model.onnx') for one in (folder, whole))
    onnx.checker.check_model(proto, full_check=True)
    assert [(one.domain, one.version) for one in proto.opset_import] == [('', 20)]
    counts, others = (collections.Counter(node.op_type for node in one.graph.node) for one in (proto, exact))
    assert counts.pop('QuantizeLinear') == 2 * sum(models.DEPTHS) == counts.pop('DequantizeLinear') / 2
    assert counts == others
    kinds = collections.Counter(onnx.TensorProto.DataType.Name(one.data_type) for one in proto.graph.initializer)
    assert kinds['INT8'] >= 2 * sum(models.DEPTHS)


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['half', 'int8'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_tool_writes_the_same_bytes_again_and_says_what_they_cost(
    export, kind, precision, photos, tmp_path, call_tool, caplog
):
    _, folder = export(kind, precision)
    flags = ['--half'] if precision == 'half' else ['--int8', photos]
    result = call_tool('export.py', folder / 'config.py', folder / 'model.pth', 'm.onnx', *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'm.onnx').read_bytes() == (folder / 'model.onnx').read_bytes()
    about = runner.Model(tmp_path / 'm.onnx').meta
    assert about['cost']['inputs'] == (4 if precision == 'half' else 8) and about['cost']['of'] > 0
    assert about['precision'] == ('fp16 weights' if precision == 'half' else 'int8 linear layers, by 8 photographs')
    assert f'With {about["precision"]}: {about["cost"]["agree"]:.2%} of {about["cost"]["of"]}' in result.stdout
    if precision == 'int8':
        assert 'Calibration: 100%' in result.stderr and 'pre-processing' not in caplog.text


def test_a_file_whose_bits_cost_too_much_is_refused(export, photos):
    """Within the export, which leaves no file then."""
    network, folder = export('classifier', 'int8')
    model = runner.Model(folder / 'model.onnx')
    inputs = [prepare(model.meta, runner.decode(path)) for path in sorted(photos.rglob('*.png'))]
    with pytest.raises(UserError, match=r'100.0 % of 8 results .* and 101 % have to be; no file is written: do better'):
        check.measure_cost(network, model, inputs, 1.01, 'do better')


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--int8', '0.png', '1.png'], ('photographs of --int8=2', 'at least 8')),
        (['--int8', 'lost'], ('lost', 'does not exist')),
        (['--int8', '0.png', '--half'], ('--half and --int8', 'name one')),
    ],
)
def test_what_fewer_bits_refuse(export, flags, words, photos, tmp_path, call_tool):
    _, folder = export('classifier', 'fp32')
    flags = [photos / 'p' / one if one.endswith('.png') else one for one in flags]
    sentence = refusal(
        call_tool('export.py', folder / 'config.py', folder / 'model.pth', 'm.onnx', *flags, cwd=tmp_path)
    )
    assert all(word in sentence for word in words), sentence
    assert [*tmp_path.iterdir()] == []


class OpenVINO(runner.Model):
    """The reader of a file by another runtime."""

    def __init__(self, path) -> None:
        super().__init__(path)
        openvino = pytest.importorskip('openvino', reason='openvino is not installed')
        settings = dict(INFERENCE_PRECISION_HINT='f32')  # bf16 by default, where there are instructions
        self._request = openvino.Core().compile_model(path, 'CPU', settings).create_infer_request()

    def __call__(self, image):
        found = self._request.infer([self.pad(image)[None]])
        return [found[i].copy() for i in range(len(found))]


@pytest.mark.parametrize('kind', MARKED)
def test_openvino_gives_what_the_network_gives(export, kind):
    network, folder = export(kind, 'fp32')
    model = OpenVINO(folder / 'model.onnx')
    report = check_export(network, model, draw_inputs(model))
    assert report['inputs'] == 4 and report['of'] >= 20


@pytest.mark.parametrize('kind', MARKED)
def test_openvino_reads_int8(export, kind, photos):
    """As many results are those of the model as by onnxruntime, to a tenth."""
    network, folder = export(kind, 'int8')
    other = runner.Model(folder / 'model.onnx')
    model = OpenVINO(folder / 'model.onnx')
    inputs = [prepare(model.meta, runner.decode(path)) for path in sorted(photos.rglob('*.png'))]
    costs = [check.measure_cost(network, one, inputs, 0, '') for one in (model, other)]
    assert costs[0]['of'] > 0 and math.isclose(costs[0]['agree'], costs[1]['agree'], abs_tol=0.1)
