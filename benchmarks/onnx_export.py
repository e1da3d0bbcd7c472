"""Export of our Keras ResNet50 to ONNX, so that ONNX Runtime can be measured on the same weights.

Keras exports to ONNX only through tf2onnx, which needs older packages than ours. The network has a dozen layer types
and ONNX files are protocol buffers, so they are written here; `benchmarks.engine` checks that the scores equal Keras's.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

OPSET, IR_VERSION = 17, 8
FLOAT, INTEGERS = 1, 7  # attribute types; FLOAT is also the tensor type
SCORE = "score"


def write_onnx(model: Any, path: Path) -> None:
    """Write the network: float32 `pixels` (n, size, size, 3) in 0…255 to `score` (n, 1)."""
    graph = Graph()
    for layer in model.layers:
        graph.add(layer)
    size = model.input_shape[1]
    body = b"".join(chunk(1, node) for node in graph.nodes) + chunk(2, b"resnet50")
    body += b"".join(chunk(5, tensor) for tensor in graph.tensors)
    body += chunk(11, value("pixels", ("n", size, size, 3))) + chunk(12, value(SCORE, ("n", 1)))
    opset = chunk(1, b"") + number(2, OPSET)
    path.write_bytes(number(1, IR_VERSION) + chunk(7, body) + chunk(8, opset))


class Graph:
    """Nodes and tensors, added layer by layer; channels first, as in ONNX."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.tensors: list[bytes] = []
        self._names: dict[int, str] = {}  # of Keras's symbolic tensors
        self._pads: dict[str, list[int]] = {}  # pending zero padding of a tensor, for the next node

    def add(self, layer: Any) -> None:
        """Add the nodes of one layer."""
        kind = type(layer).__name__
        inputs = [] if kind == "InputLayer" else [self._names[id(tensor)] for tensor in as_list(layer.input)]
        self._names[id(layer.output)] = name = f"{layer.name}.out"
        weights = [np.asarray(weight) for weight in layer.get_weights()]
        match kind:
            case "InputLayer":
                self._node("Transpose", ["pixels"], name, perm=[0, 3, 1, 2])
            case "Normalization":
                mean, spread = (array.reshape(1, 3, 1, 1) for array in (weights[0], np.sqrt(weights[1])))
                self._node("Sub", [inputs[0], self._tensor(f"{name}.mean", mean)], f"{name}.centred")
                self._node("Div", [f"{name}.centred", self._tensor(f"{name}.spread", spread)], name)
            case "ZeroPadding2D":
                (top, bottom), (left, right) = layer.padding
                self._names[id(layer.output)] = inputs[0]
                self._pads[inputs[0]] = [top, left, bottom, right]
            case "Conv2D":
                kernel = self._tensor(f"{name}.kernel", weights[0].transpose(3, 2, 0, 1))
                biases = [self._tensor(f"{name}.bias", bias) for bias in weights[1:]]
                half = (layer.kernel_size[0] - 1) // 2 if layer.padding == "same" else 0
                pads = self._pads.get(inputs[0], [half] * 4)
                self._node("Conv", [inputs[0], kernel, *biases], name, strides=list(layer.strides), pads=pads)
            case "BatchNormalization":
                tensors = [self._tensor(f"{name}.{at}", array) for at, array in enumerate(weights)]
                self._node("BatchNormalization", [*inputs, *tensors], name, epsilon=float(layer.epsilon))
            case "Activation" if layer.activation.__name__ == "relu":
                self._node("Relu", inputs, name)
            case "MaxPooling2D":  # zero padding is exact: values after ReLU are not negative
                self._node(
                    "MaxPool",
                    inputs,
                    name,
                    kernel_shape=list(layer.pool_size),
                    strides=list(layer.strides),
                    pads=self._pads.get(inputs[0], [0] * 4),
                )
            case "Add":
                self._node("Add", inputs, name)
            case "GlobalAveragePooling2D":
                self._node("GlobalAveragePool", inputs, f"{name}.square")
                self._node("Flatten", [f"{name}.square"], name)
            case "Dropout":
                self._names[id(layer.output)] = inputs[0]
            case "Dense" if layer.activation.__name__ == "sigmoid":
                tensors = [self._tensor(f"{name}.{at}", array) for at, array in enumerate(weights)]
                self._node("Gemm", [*inputs, *tensors], f"{name}.logit")
                self._node("Sigmoid", [f"{name}.logit"], SCORE)
            case _:
                raise ValueError(f"no ONNX for the layer {layer.name} ({kind})")

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: list[int] | float) -> None:
        body = b"".join(text(1, tensor) for tensor in inputs) + text(2, output) + text(3, output) + text(4, kind)
        for name, attribute in attributes.items():
            if isinstance(attribute, float):
                content = b"\x15" + struct.pack("<f", attribute) + number(20, FLOAT)
            else:
                content = b"".join(number(8, integer) for integer in attribute) + number(20, INTEGERS)
            body += chunk(5, text(1, name) + content)
        self.nodes.append(body)

    def _tensor(self, name: str, array: Any) -> str:
        dimensions = b"".join(number(1, length) for length in array.shape)
        content = np.ascontiguousarray(array, np.float32).tobytes()
        self.tensors.append(dimensions + number(2, FLOAT) + text(8, name) + chunk(9, content))
        return name


def value(name: str, shape: tuple[int | str, ...]) -> bytes:
    """ValueInfo of an input or output."""
    dimensions = b"".join(chunk(1, text(2, size) if isinstance(size, str) else number(1, size)) for size in shape)
    return text(1, name) + chunk(2, chunk(1, number(1, FLOAT) + chunk(2, dimensions)))


def number(field: int, integer: int) -> bytes:
    """A protocol buffer field with a non-negative integer."""
    return varint(field << 3) + varint(integer)


def text(field: int, string: str) -> bytes:
    """A field with a string."""
    return chunk(field, string.encode())


def chunk(field: int, content: bytes) -> bytes:
    """A field with bytes or a nested message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(integer: int) -> bytes:
    """Base-128 varint."""
    encoded = bytearray()
    while integer > 0x7F:
        encoded.append(integer & 0x7F | 0x80)
        integer >>= 7
    return bytes([*encoded, integer])


def as_list(value: Any) -> list[Any]:
    """A list of one or several tensors."""
    return list(value) if isinstance(value, list | tuple) else [value]
