"""onnxruntime, which predicts."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..workloads import Workload
from .base import Calls, Peer


class OnnxRuntime(Peer):
    """onnxruntime, predictions alone: one thread, or all of them."""

    name = "onnxruntime"
    package = "onnxruntime"
    cure = "onnxruntime onnx"
    trains = False

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnx
        import onnxruntime

        self.onnx, self.runtime = onnx, onnxruntime

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """One `run` of a session; small networks are quicker on one thread."""
        model = self.model(workload, weights, biases)

        def call(threads: int) -> Callable[[], Any]:
            options = self.runtime.SessionOptions()
            options.intra_op_num_threads = threads
            session = self.runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            return lambda: session.run(None, {"x": x})[0]

        return {f"{threads} thread(s)": call(threads) for threads in sorted({1, self.threads})}

    def model(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray]) -> bytes:
        """The network as ONNX: a Gemm and an activation a layer. Opset 13 holds all that is used here."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        kind = helper.np_dtype_to_tensor_dtype(weights[0].dtype)
        nodes, constants, name = [], [], "x"
        for index, (w, b) in enumerate(zip(weights, biases, strict=True)):
            constants += [numpy_helper.from_array(w, f"w{index}"), numpy_helper.from_array(b, f"b{index}")]
            nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [f"z{index}"]))
            name = f"z{index}"
            if index < len(weights) - 1 and workload.activation != "identity":
                nodes.append(helper.make_node(workload.activation.capitalize(), [name], [f"y{index}"]))
                name = f"y{index}"
        ends = (
            [helper.make_tensor_value_info(label, kind, [None, width])]
            for label, width in (("x", workload.widths[0]), (name, workload.widths[-1]))
        )
        graph = helper.make_graph(nodes, "mlp", *ends, constants)
        opset = helper.make_opsetid("", 13)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        return model.SerializeToString()
