"""scikit-learn's multilayer perceptrons on fastmlp's kernels: the same parameters, attributes, methods and seeds.

    from fastmlp.sklearn import MLPClassifier, MLPRegressor

or, for programs that stay as they are, `fastmlp.sklearn.patch()`, `python -m fastmlp run script.py` or, in a notebook,
`%load_ext fastmlp`. What the kernels do not cover runs scikit-learn's own code, and the logger "fastmlp.sklearn" says
why. `settings`, or the environment variables FASTMLP_BACKEND, FASTMLP_NUM_THREADS and FASTMLP_DTYPE, control how such
programs run; what our classes offer beyond scikit-learn's stands in their docstrings.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastmlp.sklearn needs scikit-learn, which cannot be imported; `pip install 'fastmlp[sklearn]'` would do."
    ) from error

from .controls import settings
from .estimators import MLPClassifier, MLPRegressor
from .extras import Epoch
from .patching import load_ipython_extension, patch, unload_ipython_extension, unpatch

__all__ = [
    "Epoch",
    "MLPClassifier",
    "MLPRegressor",
    "load_ipython_extension",
    "patch",
    "settings",
    "unload_ipython_extension",
    "unpatch",
]
