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

REFUSED, JUDGED, DONE = range(3)
"""What a backend's `direct_operation` says of arrays: the desk has to judge them, and nothing has been written; they
are as a kernel may assume, and the operation is to be run on them; it is done."""

UPDATES, RUNNING, WANTED = range(3)
"""Places in the counts that a backend's `stepper` minds: steps made; not 0 while a call of it runs; not 0 while others
want a turn, and it is to refuse."""

NETWORK_DTYPES = (*DTYPES, "bfloat16")
"""Element types of a network that every backend runs: an array's, or BFLOAT16."""

ALL_NETWORK_DTYPES = (*NETWORK_DTYPES, "float16")
"""Besides them FLOAT16, which the CPU's kernels lack."""

BFLOAT16 = """The dtype of a network whose arrays are all float32, and so are its biases, activations and their
derivatives, loss, gradients and optimiser. Only the operands of its products are rounded, each time they are used:

    forward          z  = round(x) @ round(w) + b        x: the layer's input, the samples included
    input gradient   dx = round(dz) @ round(w).T         w: as it was before the step
    weight gradient  dw = round(x).T @ round(dz)         db = the sum of dz itself over the rows

`round` is to the nearest bfloat16, ties to even: for a float32 with the bits u, the bits (u + 0x7fff + (u >> 16 & 1)) &
0xffff0000. Subnormals follow the same rule, Inf stays Inf, values of at least 2^128 - 2^119 become Inf; a NaN stays
NaN: (u | 0x00400000) & 0xffff0000. A product of two such values is exact in float32 unless it leaves its range, and
sums are float32's, so a product's error bound is OPERATIONS', with eps of float32, against float64 on rounded operands.

Instructions for bfloat16 add two products at once, in any order and with at most one rounding each, take what is
subnormal for zero, before it is rounded too, and give zero for sums that are: over k products the bound is then
SMALLEST_NORMAL * (k + sum |x| + sum |w|) wider, x and w being the operands. EMULATED says that none are at work.
The derivatives of relu and leaky_relu may be taken from their rounded output: at one that this makes zero, at 0.
Through several layers two backends may differ by more: a last bit of float32 can turn the rounding of an element."""


FLOAT16 = """The dtype of a network as BFLOAT16, but the operands of its products are rounded to float16, the nearest,
ties to even: 11 significant bits, but few powers of two. What is at least 65,520 becomes Inf, what is at most 2^-25
becomes 0, and what is below 2^-14 a multiple of 2^-24.

Samples, activations and weights are rounded as they are. Gradients of a mean over n rows would be lost: dz is rounded
times s, the largest power of two that is not greater than n, and what is made of it is divided by s:

    input gradient   dx = round(s dz) @ round(w).T / s        weight gradient  dw = round(x).T @ round(s dz) / s

Nothing else is scaled: a sample's own gradient, s dz nearly, is lost below 2^-25; from 65,520 on it is Inf, and then
the weights are NaN or Inf. Where that happens bfloat16, which has float32's range, is the dtype to take. Backends may
keep dx times s from layer to layer."""

EMULATED = "emulated: rounded operands, float32 arithmetic"
"""How products of bfloat16 run where no instruction multiplies it."""

SMALLEST_NORMAL = 2.0**-126
"""Of float32 and of bfloat16: what is nearer to zero is subnormal."""


PRECISIONS = ("highest", "high")
"""Of the products of float32: HIGHEST, or HIGH."""

HIGHEST = """What precision "highest" is: float32's own multiply-adds, or where a backend's HIGHEST says so BFLOAT16's,
six for one. Each operand is then split in three bfloat16, without a rest,

    high = round(x), middle = round(x - high), low = x - high - middle

where round is towards zero if it would be beyond bfloat16's largest, and Inf and NaN have no other parts. A product is
the sum of those six of parts that can be as large as 2^-16 |x| |w|, the smallest summed first; the other three are
left out, at most HIGHEST_ERROR |x| |w|. So OPERATIONS' bound is HIGHEST_ERROR * magnitude wider, and where operands or
sums are so small that their parts are subnormal 6 SMALLEST_NORMAL (k + sum |x| + sum |w|) more. A sum that is not
finite is taken once more, of float32's own products: Inf and NaN are where float32 has them."""

HIGHEST_ERROR = 2.0**-22
"""Of a product of six, relative to the product of the operands' absolute values: what is left out."""

HIGHEST_IN_FLOAT32 = "float32's own multiply-adds"
"""How a backend says that it does nothing else."""

HIGH = """What precision "high" permits the products of float32, in a network BFLOAT16's three. Each operand is split in
two bfloat16,

    high = round(x)    towards zero where that would be beyond bfloat16's largest
    low = round(x - high), or 0 where high is Inf or NaN

and a product is the sum of three: high(x) high(w) + high(x) low(w) + low(x) high(w). The error against float64 is at
most (HIGH_ERROR + 3 error_factor * length * eps) * magnitude, with OPERATIONS' letters, for |x - high - low| is at
most 2^-17 |x| and |low(x) low(w)| is at most 2^-16 |x| |w|. Where operands or sums are so small that their parts are
subnormal, it may be 3 SMALLEST_NORMAL (k + sum |x| + sum |w|) more. Operands that are small integers give exact sums.
A sum that is not finite is taken once more in float32, of high + low or of the operands: Inf and NaN are where float32
has them.

A backend may do better, and computes in float32 where that is faster; its HIGH says which. What it does depends on the
processor, the environment and the shapes, never on a measurement: the same bits on every run."""

HIGH_ERROR = 2.0**-15
"""Of a product of precision "high", relative to the product of the operands' absolute values."""

HIGH_IN_FLOAT32 = "float32's own multiply-adds, which are faster here than three products of bfloat16 parts"
"""How a backend says that it never splits."""


def array_dtype(dtype: str) -> str:
    """The element type of the arrays of a network of this dtype; "high" stands for float32 of that precision."""
    return "float32" if dtype in ("bfloat16", "float16", "high") else dtype


ALIGNMENT = 64
"""Bytes: every buffer a kernel is given starts on a multiple of this, and so does every weight and bias in it."""


@dataclass(frozen=True)
class Activation:
    """One elementwise non-linearity. `saved` names what its derivative is computed from in the backward pass.

    `by_sign`: of that its sign is enough, so a rounded copy will do.
    """

    code: int
    formula: str
    saved: str = "output"  # or "preactivation"
    by_sign: bool = False


ACTIVATIONS = {
    "identity": Activation(0, "z", by_sign=True),
    "relu": Activation(1, "max(z, 0)", by_sign=True),
    "leaky_relu": Activation(2, "z if z > 0 else 0.01 z", by_sign=True),
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


@dataclass(frozen=True)
class Sizes:
    """One layer in a step on n rows: x[n, k] @ w[k, m].

    `item` is the bytes of an element, `operand` of one that products read, `target` of a row of the network's target.
    `derives` says that the layer's activation has a derivative other than 1, `saves_z` that its argument is kept.
    `slots` is how many arrays the optimiser keeps, `is_first` that no gradient of x is needed.
    """

    n: int
    k: int
    m: int
    item: int
    operand: int
    target: int
    derives: bool
    saves_z: bool
    slots: int
    is_first: bool


@dataclass(frozen=True)
class StepPhase:
    """A kind of work in a training step: what it does, its FLOPs and the bytes that it must move at least.

    The FLOPs of all phases of a step add up to `step_flops`. Bytes count each operand once, wherever it lies; None
    where they depend on how a backend goes about it.
    """

    does: str
    flops: Callable[[Sizes], int] = lambda s: 0
    bytes: Callable[[Sizes], int] | None = None


STEP_PHASES = {
    "gather": StepPhase(
        "the batch's rows and targets brought together",
        bytes=lambda s: 2 * s.n * (s.k * s.item + s.target) if s.is_first else 0,
    ),
    "rounding": StepPhase("operands rounded to bfloat16"),
    "forward": StepPhase(
        "x @ w + b",
        lambda s: 2 * s.n * s.k * s.m + s.n * s.m,
        lambda s: (s.n * s.k + s.k * s.m + s.n * s.m) * s.operand + s.m * s.item,
    ),
    "activation": StepPhase("y = activation(z)", bytes=lambda s: s.n * s.m * s.item if s.saves_z else 0),
    "loss": StepPhase("J and its gradient", bytes=lambda s: 2 * s.n * s.m * s.item + s.n * s.target),
    "input gradient": StepPhase(
        "dz @ w.T",
        lambda s: 0 if s.is_first else 2 * s.n * s.k * s.m,
        lambda s: 0 if s.is_first else (s.n * s.m + s.k * s.m + s.n * s.k) * s.operand,
    ),
    "derivative": StepPhase("dz = dy * activation'(saved)", bytes=lambda s: s.n * s.m * s.operand if s.derives else 0),
    "weight gradient": StepPhase(
        "x.T @ dz, and dz summed",
        lambda s: 2 * s.n * s.k * s.m + s.n * s.m,
        lambda s: (s.n * s.k + s.n * s.m) * s.operand,
    ),
    "optimizer": StepPhase(
        "w, b and the optimiser's memory stepped",
        lambda s: 2 * (s.k + 1) * s.m,
        lambda s: 2 * (1 + s.slots) * (s.k + 1) * s.m * s.item,
    ),
    "packing": StepPhase("operands of products copied to panels: see PACKED"),
    "penalty": StepPhase("L2 of the weights", bytes=lambda s: s.k * s.m * s.item),
}
"""The kinds of work in a training step, as timeline.py tells them apart by their places here."""

PACKED: dict[str, Callable[[Sizes], int]] = {
    "forward": lambda s: 2 * s.k * s.m * s.operand,
    "input gradient": lambda s: 2 * s.k * s.m * s.operand,
    "weight gradient": lambda s: 2 * s.n * s.m * s.operand,
}
"""Bytes that copying the second operand of a product moves, w or dz: each element is read once and written once."""
