"""The standard normal distribution, for gelu, and the error function it rests on.

Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23 (1969),
631-637, with the coefficients of his program CALERF (netlib, specfun/erf): three rational functions, each for one range
of |x|, with a relative error below 1e-16 before rounding.
"""

import math

import numpy as np

# |x| <= 0.46875: erf(x) = x P(x^2) / Q(x^2), highest power first.
_SMALL_P = (
    1.85777706184603153e-1,
    3.16112374387056560e00,
    1.13864154151050156e02,
    3.77485237685302021e02,
    3.20937758913846947e03,
)
_SMALL_Q = (1.0, 2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)

# 0.46875 < |x| <= 4: erfc(|x|) = exp(-x^2) P(|x|) / Q(|x|).
_MIDDLE_P = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e00,
    6.61191906371416295e01,
    2.98635138197400131e02,
    8.81952221241769090e02,
    1.71204761263407058e03,
    2.05107837782607147e03,
    1.23033935479799725e03,
)
_MIDDLE_Q = (
    1.0,
    1.57449261107098347e01,
    1.17693950891312499e02,
    5.37181101862009858e02,
    1.62138957456669019e03,
    3.29079923573345963e03,
    4.36261909014324716e03,
    3.43936767414372164e03,
    1.23033935480374942e03,
)

# |x| > 4: erfc(|x|) = exp(-x^2) / |x| (1 / sqrt(pi) - s P(s) / Q(s)) with s = 1 / x^2.
_LARGE_P = (
    1.63153871373020978e-2,
    3.05326634961232344e-1,
    3.60344899949804439e-1,
    1.25781726111229246e-1,
    1.60837851487422766e-2,
    6.58749161529837803e-4,
)
_LARGE_Q = (
    1.0,
    2.56852019228982242e00,
    1.87295284992346047e00,
    5.27905102951428412e-1,
    6.05183413124413191e-2,
    2.33520497626869185e-3,
)


def _ratio(x: np.ndarray, p: tuple[float, ...], q: tuple[float, ...]) -> np.ndarray:
    """P(x) / Q(x) by Horner's rule."""
    above, below = p[0] * x + p[1], q[0] * x + q[1]
    for a in p[2:]:
        above *= x
        above += a
    for a in q[2:]:
        below *= x
        below += a
    above /= below
    return above


def _gauss(a: np.ndarray) -> np.ndarray:
    """exp(-a^2) for a >= 0, the rounding of a^2 made good.

    a = c + (a - c) with c = a rounded down to a sixteenth, so that c^2 is exact (Cody's program does the same).
    """
    c = np.floor(a * 16)
    c /= 16
    return np.exp(-c * c) * np.exp((c - a) * (c + a))


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), elementwise, without cancellation where x is large; x is one flat array of either dtype.

    The middle function is evaluated everywhere, which beats sorting the elements by range, and is all that float32
    needs: at 0 it is off by 5e-12, and at 10, where erfc leaves float32's range, by 4e-10.
    """
    a = np.minimum(np.abs(x), 30)  # exp(-30^2) is 0 in either dtype; keeps Inf out of the formulas
    tail = _gauss(a)
    if x.dtype == np.float64 and (large := a > 4).any():
        s = a[large]
        r = 1 / (s * s)
        far = tail[large] / s * (1 / math.sqrt(math.pi) - r * _ratio(r, _LARGE_P, _LARGE_Q))
        tail *= _ratio(a, _MIDDLE_P, _MIDDLE_Q)
        tail[large] = far
    else:
        tail *= _ratio(a, _MIDDLE_P, _MIDDLE_Q)
    result = np.abs((x < 0) * x.dtype.type(2) - tail)  # tail, or 2 - tail where x is negative
    if x.dtype == np.float64:
        small = a <= 0.46875
        s = x[small]
        result[small] = 1 - s * _ratio(s * s, _SMALL_P, _SMALL_Q)
    return result


def cdf(z: np.ndarray) -> np.ndarray:
    """The distribution function (1 + erf(z / sqrt(2))) / 2, for one flat array."""
    return erfc(z * -math.sqrt(0.5)) * 0.5


def density(z: np.ndarray) -> np.ndarray:
    """The density exp(-z^2 / 2) / sqrt(2 pi)."""
    return np.exp(z * z * -0.5) * (1 / math.sqrt(2 * math.pi))
