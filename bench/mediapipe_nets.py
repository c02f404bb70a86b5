r"""Makes controlnet/preprocess/pose_net.safetensors from two networks of the mediapipe wheel.

    pip download --no-deps --only-binary=:all: --python-version 312 \
        --platform manylinux_2_28_x86_64 mediapipe==0.10.21
    pip install tflite flatbuffers
    python bench/mediapipe_nets.py mediapipe-0.10.21-*.whl \
        controlnet/preprocess/pose_net.safetensors

What is changed: the containers (TensorFlow Lite -> safetensors), the order of axes (channels
first), paddings folded into convolutions; the person mask, heat map and world landmarks of the
second network are left out. No weight is changed: fp16 stays fp16, and the pruned weights of the
first stay sparse (a bit per weight, and the values of those that are not 0). Every network is a
list of operations in the file's metadata, which pose_net.py goes through.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

try:
    import tflite
    from tflite.Model import Model
except ImportError:  # --help works without it
    tflite = None

FILES = {  # name here -> file of the wheel, and which of its outputs are used
    "detect": ("mediapipe/modules/pose_detection/pose_detection.tflite", (0, 1)),
    "marks": ("mediapipe/modules/pose_landmark/pose_landmark_full.tflite", (0, 1)),
}
METADATA = {
    "source": "MediaPipe 0.10.21: pose_detection.tflite, pose_landmark_full.tflite",
    "licence": "Apache-2.0, Copyright 2019-2025 The MediaPipe Authors",
    "change": "converted from TensorFlow Lite; unused outputs left out; weights unchanged",
}
ACTS = {0: "", 1: "relu", 3: "relu6"}
TYPES = {0: np.float32, 1: np.float16, 2: np.int32}  # of tflite.TensorType


class Graph:
    """One .tflite model, its constants by index of tensor."""

    def __init__(self, data: bytes) -> None:
        self.model = Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.constants: dict[int, np.ndarray] = {}
        self.ops = []
        names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
        for i in range(self.graph.OperatorsLength()):
            op = self.graph.Operators(i)
            code = self.model.OperatorCodes(op.OpcodeIndex())
            kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            ins, outs = ([int(n) for n in f()] for f in (op.InputsAsNumpy, op.OutputsAsNumpy))
            if kind in ("DEQUANTIZE", "DENSIFY"):
                self.constants[outs[0]] = self.constant(ins[0])
            else:
                self.ops.append((kind, op, ins, outs[0]))

    def shape(self, i: int) -> list[int]:
        return [int(n) for n in self.graph.Tensors(i).ShapeAsNumpy()]

    def constant(self, i: int) -> np.ndarray:
        if i not in self.constants:
            tensor = self.graph.Tensors(i)
            data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
            flat = np.frombuffer(data.tobytes(), TYPES[tensor.Type()])
            if tensor.Sparsity() is not None:
                flat = dense(flat, self.shape(i), tensor.Sparsity())
            self.constants[i] = flat.reshape(self.shape(i))
        return self.constants[i]

    def options(self, op, kind):
        reader = getattr(tflite, kind)()
        table = op.BuiltinOptions()
        reader.Init(table.Bytes, table.Pos)
        return reader


def dense(values: np.ndarray, shape: list[int], sparsity) -> np.ndarray:
    """TensorFlow Lite's sparse format: dimensions in an order of its own, some as lists of what
    is there, blocks last.
    """
    order = [int(n) for n in sparsity.TraversalOrderAsNumpy()]
    blocks = sparsity.BlockMapAsNumpy()
    blocks = [int(n) for n in blocks] if sparsity.BlockMapLength() else []
    metas = [sparsity.DimMetadata(i) for i in range(sparsity.DimMetadataLength())]
    sizes = [m.DenseSize() for m in metas]
    rank, out = len(shape), np.zeros(shape, values.dtype)
    block_size = {b: sizes[order.index(rank + k)] for k, b in enumerate(blocks)}
    places = [(0, ())]  # position in this level, indices so far
    for meta in metas:
        if meta.Format() == 0:
            size = meta.DenseSize()
            places = [(p * size + i, (*at, i)) for p, at in places for i in range(size)]
        else:
            ends, names = array(meta, "ArraySegments"), array(meta, "ArrayIndices")
            places = [
                (k, (*at, int(names[k])))
                for p, at in places
                for k in range(int(ends[p]), int(ends[p + 1]))
            ]
    for position, at in places:
        where = dict(zip(order, at))
        index = [where[d] * block_size.get(d, 1) for d in range(rank)]
        for k, b in enumerate(blocks):
            index[b] += where[rank + k]
        out[tuple(index)] = values[position]
    return out


def array(meta, name: str) -> np.ndarray:
    """A vector of any of the three widths."""
    kind = getattr(meta, f"{name}Type")()
    reader = (None, tflite.Int32Vector, tflite.Uint16Vector, tflite.Uint8Vector)[kind]()
    table = getattr(meta, name)()
    reader.Init(table.Bytes, table.Pos)
    return reader.ValuesAsNumpy()


def same(size: int, kernel: int, stride: int) -> list[int]:
    """The padding before and after that SAME stands for."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return [total // 2, total - total // 2]


def program(graph: Graph, outputs_used: tuple[int, ...]) -> tuple[list, dict[str, np.ndarray]]:
    """(operations, weights): each operation is [kind, output, inputs, options]."""
    steps, weights, pads = [], {}, {}
    for kind, op, ins, out in graph.ops:
        if kind == "PAD":
            rows, columns = graph.constant(ins[1])[1:3].tolist()
            pads[out] = (ins[0], [*columns, *rows])
        elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            steps.append(convolution(graph, kind, op, ins, out, pads, weights))
        elif kind == "ADD":
            act = ACTS[graph.options(op, "AddOptions").FusedActivationFunction()]
            steps.append(["add", out, ins, {"act": act}])
        elif kind == "MAX_POOL_2D":
            options = graph.options(op, "Pool2DOptions")
            assert options.FilterWidth() == options.StrideW() == 2, "pools are 2 x 2"
            steps.append(["pool", out, ins, {}])
        elif kind == "RESIZE_BILINEAR":
            options = graph.options(op, "ResizeBilinearOptions")
            size = graph.constant(ins[1]).tolist()
            assert options.HalfPixelCenters() and not options.AlignCorners()
            steps.append(["resize", out, ins[:1], {"size": size}])
        elif kind == "DEPTH_TO_SPACE":
            steps.append(["shuffle", out, ins, {}])
        elif kind == "RESHAPE":
            steps.append(["rows", out, ins[:1], {"width": graph.shape(out)[-1]}])
        elif kind == "CONCATENATION":
            steps.append(["join", out, ins, {}])
        elif kind == "LOGISTIC":
            steps.append(["sigmoid", out, ins, {}])
        else:
            raise SystemExit(f"operation {kind} is not known")
    outputs = [int(graph.graph.OutputsAsNumpy()[i]) for i in outputs_used]
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if step[1] in needed:
            needed.update(step[2])
            kept.append(step)
    names = {step[3].get("weight") for step in kept}
    weights = {n: x for n, x in weights.items() if n.rsplit(".", 1)[0] in names}
    kept.append(["output", 0, outputs, {}])
    return sorted(kept[:-1], key=steps.index) + kept[-1:], weights


def convolution(graph, kind, op, ins, out, pads, weights) -> list:
    wide = kind == "CONV_2D"
    options = graph.options(op, "Conv2DOptions" if wide else "DepthwiseConv2DOptions")
    x = graph.constant(ins[1])
    x = x.transpose(0, 3, 1, 2) if wide else x.transpose(3, 0, 1, 2)
    source, pad = pads.get(ins[0], (ins[0], [0, 0, 0, 0]))
    stride = options.StrideW()
    assert options.DilationWFactor() == 1 and options.StrideH() == stride
    if options.Padding() == 0:
        height, width = graph.shape(ins[0])[1:3]
        more = same(width, x.shape[3], stride) + same(height, x.shape[2], stride)
        pad = [a + b for a, b in zip(pad, more)]
    name = str(out)
    weights[f"{name}.weight"], weights[f"{name}.bias"] = x, graph.constant(ins[2])
    groups = 1 if wide else x.shape[0]
    act = ACTS[options.FusedActivationFunction()]
    settings = {"weight": name, "stride": stride, "pad": pad, "groups": groups, "act": act}
    return ["conv", out, [source], settings]


def stored(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """The tensor as fp16, sparse where more than half is 0; nothing may be lost."""
    half = np.ascontiguousarray(x.astype(np.float16))
    assert np.array_equal(half.astype(x.dtype), x), f"{name} does not fit fp16"
    there = half != 0
    if there.mean() > 0.5:
        return {name: half}
    bits = np.packbits(there.reshape(x.shape[0], -1), axis=1)
    return {f"{name}.bits": bits, f"{name}.values": half[there]}


def convert(wheel: Path, target: Path) -> None:
    """Writes `target` from the networks of a wheel."""
    tensors, metadata = {}, dict(METADATA)
    with zipfile.ZipFile(wheel) as archive:
        for name, (path, outputs_used) in FILES.items():
            graph = Graph(archive.read(path))
            steps, weights = program(graph, outputs_used)
            metadata[name] = json.dumps(steps, separators=(",", ":"))
            metadata[f"{name}.shapes"] = json.dumps({n: x.shape for n, x in weights.items()})
            for n, x in weights.items():
                tensors |= stored(f"{name}.{n}", x)
            total = sum(x.size for x in weights.values())
            print(f"{name}: {len(steps)} operations, {total} weights")
    save_file(tensors, target, metadata)
    print(f"{target}: {target.stat().st_size} bytes, {len(tensors)} tensors")


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("wheel", type=Path, help="the mediapipe wheel")
    p.add_argument("target", type=Path, help="the file to write")
    args = p.parse_args()
    if tflite is None:
        p.error("this needs the packages tflite and flatbuffers: pip install tflite flatbuffers")
    convert(args.wheel, args.target)


if __name__ == "__main__":
    main()
