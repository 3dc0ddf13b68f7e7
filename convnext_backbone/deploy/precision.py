"""Files of fewer bits: weights of 16, or linear layers of 8, whose range is found on photographs."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.validation import integers
from .onnx_file import save

PHOTOS = integers(8)  # that int8 is calibrated with
_WEIGHTED = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm')


def store_half(path: Path) -> None:
    """Round the weights of the convolutions and linear layers of a file to fp16, which halves it.

    A Cast follows each, so that every runtime computes in the precision that is its own choice: onnxruntime casts once,
    when it loads the file, as it has no arithmetic of 16 bits on most CPUs. Norms, biases, anchors and all that makes
    boxes of maps stay as they are.
    """
    import onnx

    proto = onnx.load(path)
    weights = {node.input[1] for node in proto.graph.node if node.op_type in _WEIGHTED}
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.name in weights and tensor.data_type == onnx.TensorProto.FLOAT:
            name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
            with np.errstate(over='ignore'):  # what is infinite then fails the check
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f'{name}.half'))
            casts.append(onnx.helper.make_node('Cast', [f'{name}.half'], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    save(proto, path)


def quantize(path: Path, inputs: Iterable[np.ndarray]) -> None:
    """Let the linear layers of a file's blocks compute in int8, by onnxruntime's static quantization.

    Their inputs have one scale each, from the least to the largest value seen, and their weights one for each output.
    Weights take 7 bits: on CPUs without VNNI the sums of two products of 8 bits leave the range of 16, without notice.
    Depthwise convolutions, norms, heads and all that makes boxes of maps stay as they are.

    Args:
        path: Of a file in fp32.
        inputs: Network inputs of photographs, (3, H, W).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._inputs: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> Any:
            image = next(self._inputs, None)
            return None if image is None else {'image': image[None]}

    proto = onnx.load(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    layers = [node.name for node in proto.graph.node if node.op_type == 'MatMul' and node.input[1] in constants]
    # Or it asks for a preparation of graphs, which here have nothing to be prepared.
    onnx.helper.set_model_props(proto, {'onnx.quant.pre_process': 'onnxruntime.quant'})
    with tempfile.TemporaryDirectory() as folder:  # of files that onnxruntime writes beside those that it is given
        source, target = Path(folder, 'fp32.onnx'), Path(folder, 'int8.onnx')
        onnx.save(proto, source)
        quantize_static(
            source,
            target,
            Reader(),
            nodes_to_quantize=layers,
            op_types_to_quantize=['MatMul'],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=dict(OpTypesToExcludeOutputQuantization=['MatMul']),
        )
        proto = onnx.load(target)
    own = [one for one in proto.opset_import if not one.domain]
    del proto.opset_import[:]
    proto.opset_import.extend(own)
    save(proto, path)
