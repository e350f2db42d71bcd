"""The multilayer perceptron: its settings, its training and its predictions."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .buffers import Buffers
from .callbacks import ProgressBar, begin, tell
from .errors import ArgumentError, ShapeError, require_name
from .fitting import Fitting, announce_divergence
from .history import Epoch, History
from .initialisation import initialise
from .interrupt import Pace
from .kernels import arrays
from .kernels.contract import LOSSES, PRECISIONS, array_dtype, step_flops
from .kernels.gpu_arrays import home_of
from .kernels.network import Network, new_array
from .settings import as_activations, as_callbacks, as_widths
from .turns import Turns

if TYPE_CHECKING:
    from .plan import Plan
    from .profile import Profile

POSITIONS_A_CALL = 8192
"""How many shuffled positions or losses one call may span beyond its first epoch."""


class MLP(Fitting):
    """A multilayer perceptron: y = x, then y = activation(y @ w + b) for each layer.

    layers: widths, input first, such as (784, 256, 10).
    activation: one name for all hidden layers; or a sequence, one a hidden layer or one a layer, the last included.
    output_activation: of the last layer, unless `activation` names it. Must be "identity" for the losses that take
        logits, which is all but mse and half_mse: softmax or sigmoid is part of them.
    loss: "mse", "half_mse", "cross_entropy", "binary_cross_entropy", or scikit-learn's "log_loss", "binary_log_loss".
    optimizer: "sgd", "momentum", "nesterov", "adam" or "adamw"; `learning_rate`, `l2`, `momentum`, `beta1`, `beta2` and
        `epsilon` are the letters of their formulas in `fastmlp.kernels.contract`.
    dtype: "float32" or "float64": of the parameters and of all arithmetic. "bfloat16": all arrays are float32, and so
        is all arithmetic, but the operands of every product are rounded to bfloat16, as contract.BFLOAT16 says: about
        twice as fast as float32 where the processor has an instruction for it, else emulated, which a warning says.
        "float16" on "cuda", and emulated on "numpy": the same with float16, which has three bits more, but overflows to
        Inf above 65,504 and loses what is below 2^-25, gradients of single samples included (contract.FLOAT16).
    precision: "highest", or for dtype "float32" also "high": products may be off by 2^-15 of those of their operands'
        absolute values, as contract.HIGH says, where the processor is faster so (AMX); elsewhere it is as "highest",
        whose products are float32's own or as exact (contract.HIGHEST). `net.plan()` says which.
    backend: "numpy", "cpu", "cuda", or "auto", which `net.backend` then resolves: "cpu", unless it was measured on this
        machine (fastmlp bench --suite crossover) that another is sooner; no other name ever falls back.
    seed: of initialisation and shuffling, 0 or more; None draws one from the system.

    Biases begin at zero, weights as `fastmlp.initialisation.initialise` says. One seed gives the same bits on every run
    and for any number of threads, and the same first weights, rounded, in all dtypes. Backends round differently, so
    name one where "auto" must not choose by measurements.

    Threads may share a network: predictions and losses are taken side by side, and what trains or takes gradients waits
    for its turn, a step or a call of several. Ctrl-C comes between two steps, whoever makes them.

    Raises ArgumentError or DTypeError for a setting that cannot be used, BackendUnavailable for a backend that cannot
    run here.
    """

    def __init__(
        self,
        layers: Sequence[int],
        activation: str | Sequence[str] = "relu",
        output_activation: str = "identity",
        loss: str = "mse",
        optimizer: str = "sgd",
        learning_rate: float = 1e-2,
        dtype: str = "float32",
        backend: str = "auto",
        seed: int | None = 0,
        *,
        l2: float = 0.0,
        momentum: float = 0.9,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        precision: str = "highest",
    ) -> None:
        widths = as_widths(layers)
        activations = as_activations(activation, output_activation, len(widths) - 1)
        require_name("loss", loss, LOSSES)
        if LOSSES[loss].target != "values" and activations[-1] != "identity":
            raise ArgumentError(
                f"output_activation must be 'identity' with loss {loss!r}, which takes logits; got {activations[-1]!r}."
            )
        dtype = arrays.as_network_dtype("dtype", dtype)
        high = require_name("precision", precision, PRECISIONS) == "high"
        if high and dtype != "float32":
            raise ArgumentError(f"precision 'high' is of dtype 'float32' alone; got dtype {dtype!r}.")
        self._structure = Network(
            widths,
            activations,
            loss,
            np.dtype(array_dtype(dtype)),
            bfloat16=dtype == "bfloat16",
            high=high,
            float16=dtype == "float16",
        )
        learning_rate = _as_rate(learning_rate)
        self._optimizer = arrays.as_optimizer(optimizer, learning_rate, l2, momentum, beta1, beta2, epsilon)
        self._random = np.random.Generator(
            np.random.PCG64(None if seed is None else arrays.as_integer("seed", seed, 0))
        )
        name, module = self._chosen(backend)
        self._buffers = Buffers(self._structure, self._optimizer)
        self._turns = Turns()
        self._use(backend, name, module)
        initialise(self._structure, self.parameters, self._random)
        self.epochs = 0
        """Epochs that `fit` has completed so far."""
        self._own = frozenset((*vars(self), "_own"))

    @property
    def layers(self) -> tuple[int, ...]:
        """The widths, input first."""
        return self._structure.widths

    @property
    def dtype(self) -> np.dtype:
        """Element type of the arrays: parameters, inputs and outputs; float32 where products take 16-bit operands."""
        return self._structure.dtype

    @property
    def backend(self) -> str:
        """Name of the backend that runs; where "auto" was asked for, the one chosen."""
        return self._backend_name

    @property
    def structure(self) -> Network:
        """The network as a kernel sees it: layers, and their places in the flat buffer."""
        return self._structure

    @property
    def parameters(self) -> np.ndarray:
        """The flat buffer, live, that weights and biases are views of; the gaps between them are zero and stay so."""
        return self._buffers.parameters

    @property
    def optimizer_state(self) -> np.ndarray:
        """The optimiser's memory[slots, size], live, each slot laid out as `parameters`."""
        return self._buffers.state

    @property
    def weights(self) -> list[np.ndarray]:
        """Live views w[in, out], one a layer; assigning to one, as `net.weights[0] = w` does, writes through it."""
        return _Views(self._structure.weights(self.parameters))

    @property
    def biases(self) -> list[np.ndarray]:
        """Live views b[out], one a layer; assigning to one writes through it."""
        return _Views(self._structure.biases(self.parameters))

    @property
    def learning_rate(self) -> float:
        """The step size; may be set between two steps to any finite number greater than 0."""
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._optimizer = replace(self._optimizer, learning_rate=_as_rate(value))

    @property
    def updates(self) -> int:
        """Steps made so far; an optimiser whose rule counts them goes on from there."""
        return self._turns.updates

    @updates.setter
    def updates(self, value: int) -> None:
        self._turns.updates = arrays.as_integer("updates", value, 0)

    @property
    def random_state(self) -> dict[str, Any]:
        """State of the PCG64 that shuffles, in NumPy's form; setting it raises ArgumentError for anything else."""
        return dict(self._random.bit_generator.state)

    @random_state.setter
    def random_state(self, value: Any) -> None:
        generator = np.random.PCG64(0)
        try:
            generator.state = value
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(f"random_state must be the state of a PCG64; got {value!r}: {error!r}.") from error
        if generator.state != value:
            raise ArgumentError(f"random_state must be the state of a PCG64; got {value!r}.")
        self._random = np.random.Generator(generator)

    @property
    def configuration(self) -> dict[str, Any]:
        """The constructor's arguments but backend and seed, as plain Python values."""
        structure, optimizer = self._structure, asdict(self._optimizer)
        return {
            "layers": list(structure.widths),
            "activation": list(structure.activations),
            "loss": structure.loss,
            "dtype": structure.dtype_name,
            "optimizer": optimizer.pop("name"),
            **optimizer,
            "precision": structure.precision,
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.configuration.items())
        return (
            f"<MLP({arguments}) on backend {self.backend!r}: "
            f"{self._structure.parameter_count} parameters, {self.updates} updates>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made of a checkpoint's content, so that weights stay views of one aligned buffer."""
        from . import checkpoint

        more = {name: value for name, value in vars(self).items() if name not in self._own}
        state = {"_backend_asked": self._backend_asked, **more}
        return checkpoint.restore, (type(self), *checkpoint.snapshot(self), self.backend), state

    def to(self, backend: str) -> "MLP":
        """Compute with another backend, "auto" among them, from now on; returns the network itself.

        Parameters, the optimiser's memory and the random state stay as they are, bit for bit, and so do views of them.
        "cuda" means the device that is CuPy's current one at this moment.

        Raises ArgumentError or BackendUnavailable, and changes nothing then.
        """
        self._use(backend, *self._chosen(backend))
        return self

    def train_step(self, x: Any, y: Any) -> float:
        """One update from the batch x[n, in] and its targets y[n, out] (or labels y[n]); the loss before the update.

        Raises ShapeError, DTypeError or ArgumentError, before anything is written, for arrays that do not fit.
        """
        direct, workspace = self._direct_step
        if workspace is self._training and type(loss := direct(x, y, self._optimizer.learning_rate)) is float:
            return loss
        x, y = self._samples(x, y)
        losses = np.empty(1)
        self._train(x, y, None, 0, len(x), losses)
        self._direct_step = self._step_directly()
        return losses.item()

    def fit(
        self,
        x: Any,
        y: Any,
        epochs: int = 10,
        batch_size: int | None = 128,
        shuffle: bool = True,
        validation_data: tuple[Any, Any] | None = None,
        callbacks: Sequence[Callable[[Epoch], object]] = (),
        progress: bool | None = None,
    ) -> History:
        """Pass `epochs` times over x[n, in] and its targets y[n, out] (or labels y[n]), one update a batch.

        batch_size: rows a batch; None for all. The last batch of an epoch takes what is left.
        shuffle: in a new random order each epoch. A full batch is not shuffled, since its order cannot matter.
        validation_data: (x, y), whose loss is taken after every epoch.
        callbacks: each is called with an `Epoch` after every epoch; the fit ends where one returns True, and nothing
            else. Those that are to know of its end derive from `fastmlp.callbacks.Callback`.
        progress: a bar on stderr; None shows it on a terminal, for a fit of more than two seconds.

        A fit begins with a new epoch. Ctrl-C ends it between two steps, with just the steps that `updates` counts in
        the weights: the network can be used, saved and fitted on. Where a loss becomes NaN or infinite, training goes
        on as IEEE arithmetic says, and one RuntimeWarning names the epoch.

        Raises ShapeError, DTypeError or ArgumentError, before anything is written, for arguments that do not fit.
        """
        started = time.perf_counter()
        x, y = self._samples(x, y)
        validation = None if validation_data is None else self._validation(validation_data)
        callbacks = as_callbacks(callbacks)
        x, y = self._buffers.near(x), self._buffers.near(y)
        n = len(x)
        epochs = arrays.as_integer("epochs", epochs, 0)
        batch_size = n if batch_size is None else min(n, arrays.as_integer("batch_size", batch_size))
        steps = -(-n // batch_size)
        shuffle = arrays.as_flag("shuffle", shuffle) and steps > 1
        watched = bool(callbacks) or validation is not None
        together = 1 if watched else max(1, POSITIONS_A_CALL // (n if shuffle else steps))
        share = np.full(steps, batch_size / n)
        share[-1] = (n - (steps - 1) * batch_size) / n
        if self._training is not None and self._training.rows > batch_size:
            self._training = None
        begin(callbacks, validation is not None)
        pace = Pace(step_flops(self.layers, batch_size))
        history, diverged = History(), False
        with ProgressBar(epochs, steps, progress) as bar:
            for first in range(0, epochs, together):
                losses = np.empty((min(together, epochs - first), steps))
                self._train_epochs(x, y, batch_size, shuffle, losses, pace, bar)
                means = (losses * share).sum(axis=1)
                history.loss += means.tolist()
                if validation is not None:
                    history.validation_loss.append(self._mean_loss(*validation))
                history.seconds = time.perf_counter() - started
                diverged = diverged or announce_divergence(means, first)
                if callbacks and tell(callbacks, self._epoch(history, epochs)):
                    break
        return history

    def _epoch(self, history: History, epochs: int) -> Epoch:
        """The last epoch of the history, as callbacks see it."""
        validation_loss = history.validation_loss[-1] if history.validation_loss else None
        return Epoch(self, history.epochs - 1, epochs, history.loss[-1], validation_loss, history)

    def predict(self, x: Any) -> np.ndarray:
        """The outputs y[n, out] for x[n, in], in the network's dtype; logits where the loss takes those.

        Threads may predict at the same time, with one network too.

        Raises ShapeError or DTypeError for an array that does not fit.
        """
        direct, most_rows, shared, width, dtype = self._direct_prediction()
        if type(x) is np.ndarray and x.ndim == 2:
            out = new_array((len(x), width), dtype)
            if direct(x, out) if len(x) <= most_rows else shared(x, out):
                return out
        if self._buffers.gpu is not None:
            return self._predict_on_gpu(x)
        structure = self._structure
        x = arrays.as_samples("x", x, structure.widths[0], dtype)
        out = new_array((len(x), width), dtype)
        self._backend.forward(structure, self._buffers.here[0], x, out, self._inference_workspace())
        return out

    def predict_proba(self, x: Any) -> np.ndarray:
        """Probabilities p[n, out] for x[n, in]: softmax of the outputs, or sigmoid for the binary losses.

        Raises ArgumentError for another loss, and as `predict`.
        """
        loss = self._structure.loss
        target = LOSSES[loss].target
        if target == "values":
            raise ArgumentError(f"predict_proba needs a loss on classes or probabilities; this network's is {loss!r}.")
        home = home_of("x", x)
        y = home.take(self.predict(x))
        with np.errstate(over="ignore", invalid="ignore"), self._buffers.device():
            if target == "probabilities":
                return home.give(1 / (1 + np.exp(-y)))
            e = np.exp(y - y.max(axis=1, keepdims=True))
            return home.give(e / e.sum(axis=1, keepdims=True))

    def loss(self, x: Any, y: Any) -> float:
        """The loss J of x[n, in] against the targets y[n, out] (or labels y[n]); raises as `train_step`."""
        return self._mean_loss(*self._samples(x, y))

    def gradients(self, x: Any, y: Any) -> tuple[float, list[np.ndarray], list[np.ndarray]]:
        """(J, [dJ/dw, ...], [dJ/db, ...]) of one batch, without the L2 term; fresh arrays. Raises as `train_step`."""
        direct, workspace = self._direct_gradients
        if workspace is self._training and (found := direct(x, y)):
            return found
        structure = self._structure
        home = home_of("x", x)
        gradient = home.new((structure.size,), structure.dtype)
        samples, target = self._samples(x, y)
        with self._turns.taken():
            workspace = self._training_workspace(len(samples))
            parameters = self._buffers.operands()[0]
            loss = self._backend.gradients(structure, parameters, samples, target, gradient, workspace)
        self._direct_gradients = self._gradients_directly()
        dw, db = structure.weights(gradient), structure.biases(gradient)
        return float(loss), [home.give(array) for array in dw], [home.give(array) for array in db]

    def plan(self, batch_size: int = 128) -> "Plan":
        """What a step on `batch_size` rows will run, how much memory it takes, and the time the machine allows."""
        from .plan import Plan

        rows = arrays.as_integer("batch_size", batch_size)
        return Plan(self._structure, self._optimizer, self._backend_name, self._backend_asked, rows)

    def profile(self, x: Any, y: Any, batch_size: int | None = 128, shuffle: bool = True, **options: Any) -> "Profile":
        """One step of `fit` taken apart: the time, work and roofs of every part, and what holds it back, in words.

        The network stays as it is. `options` are those of `fastmlp.profile.profile`, which says what is raised.
        """
        from .profile import profile

        return profile(self, x, y, batch_size, shuffle, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint (safetensors), completely or not at all; a file that stood there gives its permissions.

        Raises OSError where it cannot be written.
        """
        from . import checkpoint

        checkpoint.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "auto") -> Self:
        """The network that `save` wrote; it trains on bit for bit as the saved one would have.

        Of a class derived from MLP the constructor is not called, and attributes of its own are not in the file; copies
        and pickles have them.

        Raises CheckpointError for any file that is no checkpoint, whatever it holds; OSError where it cannot be opened.
        """
        from . import checkpoint

        return checkpoint.load(cls, path, backend)


def _as_rate(value: Any) -> float:
    return arrays.as_real("learning_rate", value, above=True)


class _Views(list[np.ndarray]):
    """Live views of one buffer: to assign to one is to write its elements, so that it stays a view."""

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            views, values = self[index], list(value)
            if len(views) != len(values):
                raise ShapeError(f"{len(views)} arrays of a network take as many values; got {len(values)}.")
            values = [np.broadcast_to(np.asarray(each), view.shape) for view, each in zip(views, values, strict=True)]
            for view, each in zip(views, values, strict=True):
                view[...] = each
        else:
            self[index][...] = value

    def _stays(self, *_: Any, **__: Any) -> Any:
        raise ArgumentError("a network has one weight and one bias a layer; write to their elements instead.")

    append = extend = insert = pop = remove = clear = sort = reverse = _stays
    __delitem__ = __iadd__ = __imul__ = _stays
