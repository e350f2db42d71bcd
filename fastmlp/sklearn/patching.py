"""Put our estimators in the place of scikit-learn's: programs that import those run on our kernels, unchanged."""

import logging
from typing import Any

from sklearn import neural_network

from .estimators import MLPClassifier, MLPRegressor

_OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
_THEIRS = {name: getattr(neural_network, name) for name in _OURS}


def patch(verbose: bool = False) -> None:
    """Let `sklearn.neural_network` offer our MLPClassifier and MLPRegressor from now on.

    Names that a module has imported from there already stay what they are, so patch first. With `verbose` each fit says
    on stderr whether it was accelerated, or why not. Calling it again changes nothing else.
    """
    for name, ours in _OURS.items():
        setattr(neural_network, name, ours)
    log = logging.getLogger("fastmlp.sklearn")
    if verbose and not any(isinstance(handler, _Teller) for handler in log.handlers):
        log.addHandler(_Teller())
        log.setLevel(logging.INFO)


def unpatch() -> None:
    """Give `sklearn.neural_network` its own classes back; estimators made in between stay ours, and work."""
    for name, theirs in _THEIRS.items():
        setattr(neural_network, name, theirs)
    log = logging.getLogger("fastmlp.sklearn")
    for handler in [handler for handler in log.handlers if isinstance(handler, _Teller)]:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


class _Teller(logging.StreamHandler):
    """Writes the lines to stderr, told from the program's own by a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("fastmlp: %(message)s"))


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext fastmlp` in IPython or Jupyter patches scikit-learn."""
    patch()


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext fastmlp` unpatches it."""
    unpatch()
