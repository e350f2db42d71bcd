"""What everything must come to, in a few lines of plain NumPy each, independent of the package.

The formulas work in the precision they are given: in longdouble they are the truth that kernels are measured against,
in float32 and float64 the plain NumPy evaluation that a kernel's error must not exceed twice.
"""

from dataclasses import replace

import numpy as np
import scipy.special

PI = np.arccos(np.longdouble(-1))


def erf(x):
    """The error function; in longdouble by its series 2/sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1))."""
    if x.dtype != np.longdouble:
        return scipy.special.erf(x)
    x = np.clip(x, -6.6, 6.6)  # from there on it is 1 to a longdouble's precision
    term = total = x
    for n in range(1, 250):
        term = term * (2 * x * x / (2 * n + 1))
        total = total + term
    return 2 / np.sqrt(PI) * np.exp(-x * x) * total


def normal_cdf(z):
    return (1 + erf(z / np.sqrt(z.dtype.type(2)))) / 2


def normal_density(z):
    return np.exp(-z * z / 2) / np.sqrt(2 * PI).astype(z.dtype)


def logistic_density(z):
    return 1 / (2 * np.cosh(z / 2)) ** 2


ACTIVATION = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "gelu": lambda z: z * normal_cdf(z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "softplus": lambda z: np.log(1 + np.exp(z)),
    "sine": np.sin,
}

SLOPE = {
    "identity": np.ones_like,
    "relu": lambda z: (z > 0).astype(z.dtype),
    "leaky_relu": lambda z: np.where(z > 0, 1, 0.01).astype(z.dtype),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "sigmoid": logistic_density,
    "gelu": lambda z: normal_cdf(z) + z * normal_density(z),
    "silu": lambda z: 1 / (1 + np.exp(-z)) + z * logistic_density(z),
    "softplus": lambda z: 1 / (1 + np.exp(-z)),
    "sine": np.cos,
}

SLOPE_FROM_SAVED = {
    **SLOPE,
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
}
"""As SLOPE, but from what the backward pass is given: z for gelu, silu, softplus and sine, y for the others."""


def one_hot(target, y):
    return np.eye(y.shape[1], dtype=y.dtype)[target] if target.ndim == 1 else target


def softmax(y):
    e = np.exp(y)
    return e / e.sum(axis=1, keepdims=True)


LOSS = {
    "mse": lambda y, t: np.mean((y - t) ** 2),
    "half_mse": lambda y, t: np.sum((y - t) ** 2) / (2 * len(y)),
    "cross_entropy": lambda y, t: -np.sum(one_hot(t, y) * np.log(softmax(y))) / len(y),
    "binary_cross_entropy": lambda y, t: np.mean(np.log(1 + np.exp(y)) - t * y),
    # These two where no probability is so near to 0 or 1 that it is clipped.
    "log_loss": lambda y, t: -np.sum(one_hot(t, y) * np.log(softmax(y))) / len(y),
    "binary_log_loss": lambda y, t: np.sum(np.log(1 + np.exp(y)) - t * y) / len(y),
}

LOSS_GRADIENT = {
    "mse": lambda y, t: 2 * (y - t) / y.size,
    "half_mse": lambda y, t: (y - t) / len(y),
    "cross_entropy": lambda y, t: (softmax(y) - one_hot(t, y)) / len(y),
    "binary_cross_entropy": lambda y, t: (1 / (1 + np.exp(-y)) - t) / y.size,
    "log_loss": lambda y, t: (softmax(y) - one_hot(t, y)) / len(y),
    "binary_log_loss": lambda y, t: (1 / (1 + np.exp(-y)) - t) / len(y),
}


CLASS_LOSSES, BINARY_LOSSES = ("cross_entropy", "log_loss"), ("binary_cross_entropy", "binary_log_loss")


def target(loss, rng, n, m, labels=True):
    """Random targets of the kind the loss takes, in float64 or as labels."""
    if loss in CLASS_LOSSES:
        return rng.integers(0, m, n) if labels else rng.dirichlet(np.ones(m), n)
    return rng.random((n, m)) if loss in BINARY_LOSSES else rng.normal(size=(n, m))


def stepped(rule, w, g, memory, t):
    """The new w and memory; `rule` has the fields of network.Optimizer, l2 left out."""
    lr, mu, b1, b2, eps = rule.learning_rate, rule.momentum, rule.beta1, rule.beta2, rule.epsilon
    if rule.name == "sgd":
        return w - lr * g, memory
    if rule.name in ("momentum", "nesterov"):
        v = mu * memory[0] - lr * g
        return (w + v if rule.name == "momentum" else w + mu * v - lr * g), [v]
    m, v = b1 * memory[0] + (1 - b1) * g, b2 * memory[1] + (1 - b2) * g**2
    rate = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
    return w - rate * m / (np.sqrt(v) + eps), [m, v]


def updated(rule, w, g, memory, t, decays):
    """One update of one array, with L2 where `decays`, that is for weights."""
    if not decays or rule.l2 == 0:
        return stepped(rule, w, g, memory, t)
    if rule.name == "adamw":
        new, memory = stepped(rule, w, g, memory, t)
        return new - rule.learning_rate * rule.l2 * w, memory
    return stepped(rule, w, g + rule.l2 * w, memory, t)


def forward(activations, weights, biases, x):
    """Preactivations and outputs of every layer."""
    z, y = [], [x]
    for activation, w, b in zip(activations, weights, biases, strict=True):
        z.append(y[-1] @ w + b)
        y.append(ACTIVATION[activation](z[-1]))
    return z, y[1:]


def gradients(activations, loss, weights, biases, x, t):
    """J, [dW...], [db...]."""
    z, y = forward(activations, weights, biases, x)
    value, dy, dw, db = LOSS[loss](y[-1], t), LOSS_GRADIENT[loss](y[-1], t), [], []
    for i in reversed(range(len(weights))):
        dz = dy * SLOPE[activations[i]](z[i])
        dw.insert(0, (y[i - 1] if i else x).T @ dz)
        db.insert(0, dz.sum(axis=0))
        dy = dz @ weights[i].T
    return value, dw, db


def train(activations, loss, rule, weights, biases, x, t, order, start, batch_size, steps, penalties=None):
    """Losses, weights and biases after `steps` steps from update 0.

    With a list of penalties L2 is shared among a batch's rows, and each step adds its share of the objective there.
    """
    p = start
    losses = []
    arrays = [*weights, *biases]
    memory = [[np.zeros_like(a), np.zeros_like(a)] for a in arrays]
    half = len(weights)
    for step in range(steps):
        stop = min(p + batch_size, (p // len(x) + 1) * len(x))
        rows = np.arange(p, stop) % len(x) if order is None else order[p:stop]
        value, dw, db = gradients(activations, loss, arrays[:half], arrays[half:], x[rows], t[rows])
        losses.append(value)
        applied = rule
        if penalties is not None:
            applied = replace(rule, l2=rule.l2 / len(rows))
            penalties.append(applied.l2 / 2 * sum((w**2).sum() for w in arrays[:half]))
        for i, g in enumerate([*dw, *db]):
            arrays[i], memory[i] = updated(applied, arrays[i], g, memory[i], step + 1, decays=i < half)
        p = stop
    return losses, arrays[:half], arrays[half:]
