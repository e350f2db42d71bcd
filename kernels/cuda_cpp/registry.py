"""Programs with the macros that may be asked for: what CI compiles and weighs.

train_resident, forward_fused and forward_backward_fused are compiled for each network anew; here are networks of the
bench, and every formula.
"""

import numpy as np

from ..contract import ACTIVATIONS, LOSSES, OPTIMIZERS
from ..network import Network, Optimizer
from . import fused, fused_training, layers
from .compile import Program
from .resident import resident


def _network(widths: tuple[int, ...], hidden: str, loss: str = "mse") -> Network:
    return Network(widths, (*[hidden] * (len(widths) - 2), "identity"), loss, np.dtype(np.float32))


def _resident() -> list[Program]:
    """(network, optimiser, rows, labels, blocks) of each."""
    found: list[tuple[Network, str, int, bool, int]] = [
        (_network((10, 5, 2), "sigmoid", "half_mse"), "sgd", 100, False, 1),
        (_network((64, 64, 64, 1), "relu"), "adam", 256, False, 8),
        (_network((64, 128, 10), "relu", "cross_entropy"), "adam", 128, True, 8),
    ]
    optimizers, losses = list(OPTIMIZERS), list(LOSSES)
    for i, activation in enumerate(ACTIVATIONS):
        loss = losses[i % len(losses)]
        network = _network((24, 20, 16, 6), activation, loss)
        found.append((network, optimizers[i % len(optimizers)], 64, LOSSES[loss].target == "classes", 1 + i % 2))
    return [
        resident(network, Optimizer(rule), rows, labels, blocks).program
        for network, rule, rows, labels, blocks in found
    ]


def _fused() -> list[Program]:
    """(network, rows of a block) of each."""
    found = [
        (_network((64, 64, 64, 64, 1), "relu"), 64),
        (_network((64, 64, 64, 64, 1), "relu"), 4),
        (_network((784, 256, 128, 10), "relu"), 16),
        (_network((784, 256, 128, 10), "relu"), 32),
        (_network((256, 256, 256), "relu"), 32),
        (_network((256, 256, 256), "relu"), 64),
    ]
    found += [(_network((24, 20, 16, 6), activation), 16) for activation in ACTIVATIONS]
    return [fused.program(*each) for each in found]


def _fused_training() -> list[Program]:
    """(network, labels, rows of a tile, threads, blocks) of each; and apply_gradients for every optimiser."""
    deep = {width: _network((*[width] * 5, 1), "relu") for width in (64, 128)}
    found: list[tuple[Network, bool, int, int, int]] = [
        (deep[64], False, 64, 128, 1),
        (deep[64], False, 16, 256, 1),
        (deep[128], False, 64, 256, 2),
        (deep[128], False, 64, 256, 8),
        (_network((128, 128, 128, 10), "gelu", "cross_entropy"), True, 32, 256, 2),
        (_network((100, 127, 45, 5), "tanh"), False, 48, 256, 1),
    ]
    losses = list(LOSSES)
    for i, activation in enumerate(ACTIVATIONS):
        loss = losses[i % len(losses)]
        network = _network((64, 64, 64, 6), activation, loss)
        found.append((network, LOSSES[loss].target == "classes", 64, 128, 1))
    applied = [fused_training.applying(_network((64, 64, 10), "relu"), rule) for rule in OPTIMIZERS]
    return [fused_training.program(*each) for each in found] + applied


PROGRAMS = (*_resident(), *_fused(), *_fused_training(), *layers.programs())
