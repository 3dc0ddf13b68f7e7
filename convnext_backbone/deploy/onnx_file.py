"""Export of a network to ONNX: one file that says what it is, and is the same each time."""

import contextlib
import importlib
import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from ..utils.errors import UserError
from ..utils.validation import integers
from .__main__ import KEY, LEAST_RUNTIME
from .detector import DetectorNetwork
from .networks import Network
from .plain import make_plain

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
OPSET, IR_VERSION = 20, 9  # of ONNX 1.15: what onnxruntime 1.17 reads
MOST_BYTES = 2**31 - 2**24  # of weights: a protobuf file ends at 2 GiB
SIDE = integers(32, 2**14)
EXAMPLE = (208, 272)  # the height and the width with which a network of any size is exported


def check_packages() -> None:
    """Raise UserError unless everything that an export needs is installed, and the runtime reads what is written."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"To export, {', '.join(missing)} must be installed: run `pip install '.[export]'`.")
    version = importlib.import_module('onnxruntime').__version__
    if tuple(map(int, version.split('.')[:2])) < LEAST_RUNTIME:
        raise UserError(f'To export, onnxruntime {version} is too old: run `pip install -U onnxruntime`.')


def export_network(network: Network, path: Path, size: tuple[int, int] | None) -> None:
    """Write a network as ONNX.

    Args:
        network: As of :func:`.build_network`.
        path: Of the file.
        size: Fixed height and width of the input; by default both are free, and the number of images, except of a
            detector, which takes one.

    Raises:
        UserError: It has more than 2 GiB of weights.
    """
    held = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if held > MOST_BYTES:
        raise UserError(
            f'The model has {held / 2**30:.1f} GiB of weights, but one ONNX file holds at most 2: export a smaller one.'
        )
    images = 1 if size or isinstance(network, DetectorNetwork) else 2
    axes = {0: 'batch'} if images > 1 else {}
    axes = {} if size else {**axes, 2: 'height', 3: 'width'}
    example = torch.zeros(images, 3, *(size or EXAMPLE))
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')  # of torch's own use of what is deprecated in it
        program = torch.onnx.export(
            make_plain(network),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in axes},),
            input_names=['image'],
            output_names=[*network.outputs],
            verbose=False,
            custom_translation_table=_translations(),
        )
    assert program is not None
    _name_axes(program.model_proto, axes)
    save(program.model_proto, path)


def _translations() -> dict[Any, Any]:
    """What torch.onnx translates such that scores near 1 are rounded, and equal ones ordered, as by torch.

    onnxruntime's own Sigmoid is off by some units in the last place and does not rise everywhere: regions whose scores
    are almost 1 would change places in the NMS, and another one of an object would be kept.
    """
    from onnxscript import opset18 as op

    def sigmoid(self: Any) -> Any:
        one = op.Constant(value_float=1.0)
        return op.Div(one, op.Add(one, op.Exp(op.Neg(self))))

    def sort(self: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        return op.TopK(self, op.Shape(self), axis=dim, largest=descending)

    return {torch.ops.aten.sigmoid.default: sigmoid, torch.ops.aten.sort.stable: sort}


def write_metadata(path: Path, about: dict[str, Any]) -> None:
    """Add metadata to a file of :func:`export_network`."""
    import onnx

    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {KEY: json.dumps(about)})
    path.write_bytes(proto.SerializeToString(deterministic=True))


def save(proto: Any, path: Path) -> None:
    """Write a graph alone, for the oldest runtime that can run it: the same bytes each time, on every machine."""
    _forget_places(proto)
    proto.ir_version = IR_VERSION
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _name_axes(proto: Any, axes: dict[int, str]) -> None:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in axes.items()}
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)


def _forget_places(proto: Any) -> None:
    """Remove what the exporter says of source files on this machine."""
    del proto.graph.value_info[:]
    for part in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        part.doc_string = ''
        del part.metadata_props[:]
