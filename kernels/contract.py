"""The contract between the backends: data only, one entry for each operation and each name a user may give.

Letters, once and for all: `x[n, k] @ w[k, m] + b[m] -> y[n, m]`, row-major; weights are (in, out).
A multiply-add counts as two FLOPs; activations and comparisons are not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

DTYPES = ("float32", "float64")
"""Element types of arrays."""

NETWORK_DTYPES = (*DTYPES, "bfloat16")
"""Element types of a network: an array's, or BFLOAT16."""

BFLOAT16 = """The dtype of a network whose arrays are all float32, and so are its biases, activations and their
derivatives, loss, gradients and optimiser. Only the operands of its products are rounded, each time they are used:

    forward          z  = round(x) @ round(w) + b        x: the layer's input, the samples included
    input gradient   dx = round(dz) @ round(w).T         w: as it was before the step
    weight gradient  dw = round(x).T @ round(dz)         db = the sum of dz itself over the rows

`round` is to the nearest bfloat16, ties to even: for a float32 with the bits u, the bits (u + 0x7fff + (u >> 16 & 1)) &
0xffff0000. Subnormals follow the same rule, Inf stays Inf, values of at least 2^128 - 2^119 become Inf; a NaN stays
NaN: (u | 0x00400000) & 0xffff0000. A product of two such values is exact in float32 unless it leaves its range, and
sums are float32's, so a product's error bound is OPERATIONS', with eps of float32, against float64 on rounded operands.
Through several layers two backends may differ by more: a last bit of float32 can turn the rounding of an element."""


def array_dtype(dtype: str) -> str:
    """The element type of the arrays of a network of this dtype."""
    return "float32" if dtype == "bfloat16" else dtype


ALIGNMENT = 64
"""Bytes: every buffer a kernel is given starts on a multiple of this, and so does every weight and bias in it."""


@dataclass(frozen=True)
class Activation:
    """One elementwise non-linearity. `saved` names what its derivative is computed from in the backward pass."""

    code: int
    formula: str
    saved: str = "output"  # or "preactivation"


ACTIVATIONS = {
    "identity": Activation(0, "z"),
    "relu": Activation(1, "max(z, 0)"),
    "leaky_relu": Activation(2, "z if z > 0 else 0.01 z"),
    "tanh": Activation(3, "tanh(z)"),
    "sigmoid": Activation(4, "1 / (1 + exp(-z))"),
    "gelu": Activation(5, "z/2 (1 + erf(z / sqrt(2)))", "preactivation"),
    "silu": Activation(6, "z / (1 + exp(-z))", "preactivation"),
    "softplus": Activation(7, "log(1 + exp(z))", "preactivation"),
    "sine": Activation(8, "sin(z)", "preactivation"),
}

LEAKY_SLOPE = 0.01


@dataclass(frozen=True)
class Loss:
    """One training objective J. `gradient` is dJ/dy, y being the network's output."""

    code: int
    formula: str
    gradient: str
    target: str  # "values" (n, m), "probabilities" (n, m) in [0, 1], or "classes": labels (n,) or probabilities


LOSSES = {
    "mse": Loss(0, "mean over all elements of (y - t)^2", "2 (y - t) / (n m)", "values"),
    "half_mse": Loss(1, "1/(2n) sum of (y - t)^2", "(y - t) / n", "values"),
    "cross_entropy": Loss(2, "-1/n sum of t log softmax(y)", "(softmax(y) - t) / n", "classes"),
    "binary_cross_entropy": Loss(
        3, "mean over all elements of log(1 + exp(y)) - t y", "(sigmoid(y) - t) / (n m)", "probabilities"
    ),
    # As scikit-learn's: a probability counts as at least eps and at most 1 - eps in the value, not in the gradient.
    "log_loss": Loss(4, "-1/n sum of t log clip(softmax(y))", "(softmax(y) - t) / n", "classes"),
    "binary_log_loss": Loss(
        5,
        "-1/n sum of t log p + (1 - t) log(1 - p), p = clip(sigmoid(y))",
        "(sigmoid(y) - t) / n",
        "probabilities",
    ),
}


@dataclass(frozen=True)
class Rule:
    """One optimiser's update of a parameter w from its gradient g.

    `slots` is how many arrays of the parameters' size it remembers. L2 adds `l2 * w` to the gradient of a weight
    (never of a bias); AdamW instead shrinks the weight by `learning_rate * l2 * w`, apart from the gradient.
    """

    code: int
    slots: int
    formula: str
    settings: tuple[str, ...] = ()


OPTIMIZERS = {
    "sgd": Rule(0, 0, "w -= lr g"),
    "momentum": Rule(1, 1, "v = mu v - lr g; w += v", ("momentum",)),
    "nesterov": Rule(2, 1, "v = mu v - lr g; w += mu v - lr g", ("momentum",)),
    "adam": Rule(
        3,
        2,
        "m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)",
        ("beta1", "beta2", "epsilon"),
    ),
    "adamw": Rule(4, 2, "adam, then w -= lr l2 w (the w before the step)", ("beta1", "beta2", "epsilon")),
}

GRADIENT_CODE = 5
"""The rule that leaves the parameters alone and writes g to slot 0: how `gradients` shares the training code."""


@dataclass(frozen=True)
class Operand:
    """One array of an operation. `access` is "read", "write" (its old content is ignored) or "update"."""

    name: str
    shape: tuple[str, ...]
    access: str
    optional: bool = False


@dataclass(frozen=True)
class Operation:
    """What every backend must do under one name.

    Error bound, elementwise against float64: |y - y64| <= error_factor * length * eps * magnitude, where `length`
    names the summed dimension and the magnitude is the same formula over absolute values.
    """

    formula: str
    operands: tuple[Operand, ...]
    flops: Callable[[int, int, int], int]  # of n, k, m
    error_factor: float
    error_length: str

    def bytes(self, n: int, k: int, m: int, itemsize: int, absent: tuple[str, ...] = ()) -> int:
        """Bytes that must move at least once: each operand read or written counts once, each update twice.

        `absent` names the optional operands that are None.
        """
        size = {"n": n, "k": k, "m": m}
        total = 0
        for operand in self.operands:
            if operand.name in absent:
                continue
            count = 1
            for letter in operand.shape:
                count *= size[letter]
            total += count * (2 if operand.access == "update" else 1)
        return total * itemsize


OPERATIONS = {
    "matmul": Operation(
        "out = a @ b (or a.T @ b, a @ b.T)",
        (Operand("a", ("n", "k"), "read"), Operand("b", ("k", "m"), "read"), Operand("out", ("n", "m"), "write")),
        flops=lambda n, k, m: 2 * n * k * m,
        error_factor=1.0,
        error_length="k",
    ),
    "bias_add": Operation(
        "out = x + b",
        (Operand("x", ("n", "m"), "read"), Operand("b", ("m",), "read"), Operand("out", ("n", "m"), "write")),
        flops=lambda n, k, m: n * m,
        error_factor=1.0,
        error_length="1",
    ),
    "mse": Operation(
        "J = mean((y - t)^2); gradient = 2 (y - t) / (n m)",
        (
            Operand("y", ("n", "m"), "read"),
            Operand("t", ("n", "m"), "read"),
            Operand("gradient", ("n", "m"), "write", optional=True),
        ),
        flops=lambda n, k, m: 4 * n * m,
        error_factor=1.0,
        error_length="nm",
    ),
    "linear_forward": Operation(
        "z = x @ w + b; y = activation(z)",
        (
            Operand("x", ("n", "k"), "read"),
            Operand("w", ("k", "m"), "read"),
            Operand("b", ("m",), "read"),
            Operand("y", ("n", "m"), "write"),
            Operand("z", ("n", "m"), "write", optional=True),
        ),
        flops=lambda n, k, m: 2 * n * k * m + n * m,
        error_factor=2.0,
        error_length="k",
    ),
    "linear_backward_update": Operation(
        "dz = dy * activation'(saved); dx = dz @ w.T; w, b stepped by the optimiser along (x.T @ dz, sum of dz)",
        (
            Operand("x", ("n", "k"), "read"),
            Operand("w", ("k", "m"), "update"),
            Operand("b", ("m",), "update"),
            Operand("saved", ("n", "m"), "read"),
            Operand("dy", ("n", "m"), "read"),
            Operand("dz", ("n", "m"), "write"),
            Operand("dx", ("n", "k"), "write", optional=True),
        ),
        flops=lambda n, k, m: 4 * n * k * m + n * m + 2 * (k + 1) * m,
        error_factor=2.0,
        error_length="n",
    ),
}


@cache
def step_flops(widths: tuple[int, ...], n: int) -> int:
    """FLOPs of one training step on n rows: every layer forward and backward, no input gradient for the first."""
    forward, backward = OPERATIONS["linear_forward"].flops, OPERATIONS["linear_backward_update"].flops
    pairs = list(pairwise(widths))
    total = sum(forward(n, k, m) + backward(n, k, m) for k, m in pairs)
    return total - 2 * n * pairs[0][0] * pairs[0][1]


@cache
def forward_flops(widths: tuple[int, ...], n: int) -> int:
    """FLOPs of one forward pass on n rows."""
    flops = OPERATIONS["linear_forward"].flops
    return sum(flops(n, k, m) for k, m in pairwise(widths))
