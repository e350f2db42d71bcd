"""exp, tanh, sigmoid, erf, softplus, sin and cos of whole vectors, float32 and float64.

Each reduces its argument to a short interval (W. J. Cody and W. Waite, "Software Manual for the Elementary Functions",
1980) and evaluates a minimax polynomial there; the coefficients were found with Remez' algorithm in 60-digit arithmetic
and are good to a tenth of a rounding error. Errors are at most 2 units in the last place; tests/test_elementary.py
measures them. NaN gives NaN, infinities give the limits, and results below the smallest normal number are rounded
gradually.
"""

from .compile import jit
from .simd import (
    absolute,
    binary_exponent,
    constant,
    copysign,
    floor,
    fma,
    polynomial,
    power_of_two,
    round_to_even,
    select,
)

LN2, LOG2_E = 0.6931471805599453, 1.4426950408889634
_LN2_HIGH = constant(0.693359375, 0.6931471803691238)
_LN2_LOW = constant(-2.12194440e-4, 1.9082149292705877e-10)
_EXP_LEAST = constant(-104.0, -746.0)
_EXP_MOST = constant(89.0, 710.0)
_EXP = polynomial(
    float32=(0.001395046478137374, 0.00836888886988163, 0.04166620597243309, 0.166665181517601, 0.5),
    float64=(
        2.5117861484884393e-08, 2.7631280036096294e-07, 2.7557216300814266e-06, 2.4801489943141625e-05,
        0.00019841269917381351, 0.0013888888947014943, 0.008333333333307207, 0.041666666666515424,
        0.166666666666667, 0.5000000000000012,
    ),
)  # fmt: skip


@jit
def exp(x):
    """e**x: x = n ln 2 + r, e**r = 1 + r + r^2 P(r), times 2^n in two factors, which reach the ends of the range.

    What rounding takes from r and from 1 + r is added back.
    """
    x = select(x < _EXP_LEAST(x), _EXP_LEAST(x), x)
    x = select(x > _EXP_MOST(x), _EXP_MOST(x), x)
    n = round_to_even(x * LOG2_E)
    high, low = fma(-n, _LN2_HIGH(x), x), n * _LN2_LOW(x)
    r = high - low
    lost = (high - r) - low
    sum_ = r + 1.0
    result = sum_ + (fma(r * r, _EXP(r), lost) + (r - (sum_ - 1.0)))
    half = round_to_even(n * 0.5)
    return result * power_of_two(half) * power_of_two(n - half)


_TANH_END = constant(9.5, 19.5)
"""From here on the result is 1 to the last bit."""


@jit
def tanh(x):
    """With the sign of x, d / (d + 2), d = e^2|x| - 1 = 2^n (e^r - 1) + (2^n - 1) where 2|x| = n ln 2 + r.

    The quotient q is corrected by d - d q - 2 q, which knows nothing of what rounding took from d + 2: d - 2 q is exact
    for d up to 2. What rounding takes from ln 2 changes r by n times less than half a rounding error of 1, and
    d / (d + 2) by less and less as n grows.
    """
    size = absolute(x)
    size = select(size > _TANH_END(x), _TANH_END(x), size)
    n = round_to_even(size * (2.0 * LOG2_E))
    r = fma(-n, LN2, size + size)
    scale = power_of_two(n)
    d = fma(fma(r * r, _EXP(r), r), scale, scale - 1.0)
    inverse = 1.0 / (d + 2.0)
    quotient = d * inverse
    return copysign(fma(fma(-quotient, d, fma(quotient, -2.0, d)), inverse, quotient), x)


@jit
def _quotient(a, small, most):
    """A / (most + small), 0 <= small <= most, and what rounding took from it."""
    divisor = small + most
    lost = small - (divisor - most)
    inverse = 1.0 / divisor
    high = a * inverse
    low = (fma(-high, divisor, a) - high * lost) * inverse
    return high + low, low - ((high + low) - high)


@jit
def sigmoid(x):
    """1 / (1 + e^-x), by e^-|x|, which cannot overflow."""
    small = exp(-absolute(x))
    return _quotient(select(x < 0.0, small, small * 0.0 + 1.0), small, 1.0)[0]


_LOG1P = polynomial(
    float32=(0.2802450358867645, 0.2799913287162781, 0.4002169966697693, 0.6666641235351562),
    float64=(
        0.17018585128906447, 0.08340096287277605, 0.12106087419212869, 0.1330097344537586, 0.15386559932925525,
        0.18181743924531116, 0.22222223969739185, 0.28571428547853833, 0.40000000000157243, 0.6666666666666631,
    ),
)  # fmt: skip


@jit
def log1p_exp_minus(x):
    """log(1 + e), e = e^-|x|, as 2 artanh(s), s = e / (2 + e), an odd series."""
    small = exp(-absolute(x))
    s, lost = _quotient(small, small, 2.0)
    square = s * s
    return fma(s * square, _LOG1P(square), lost + lost) + (s + s)


@jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    return select(x < 0.0, 0.0, x) + log1p_exp_minus(x)


@jit
def log(x):
    """The natural logarithm of normal x = 2^n f, at most half the largest: n ln 2 + 2 artanh((f - 1) / (f + 1))."""
    n = binary_exponent(x)
    f = x * power_of_two(-n)
    high = f > 1.4142135
    n, f = select(high, n + 1.0, n), select(high, f * 0.5, f)
    s = (f - 1.0) / (f + 1.0)
    square = s * s
    return fma(n, _LN2_HIGH(x), fma(n, _LN2_LOW(x), fma(s * square, _LOG1P(square), s + s)))


_ERF_NEAR = polynomial(
    float32=(
        7.853851275285706e-05, -0.0008010190795175731, 0.00518832728266716, -0.026853810995817184, 0.1128358542919159,
        -0.3761262595653534, 0.12837916612625122,
    ),
    float64=(
        -4.2228995768756654e-12, 8.70379212117948e-11, -1.2163042596350363e-09, 1.4792145870927415e-08,
        -1.6364614434805423e-07, 1.6462043408811492e-06, -1.4925647465171315e-05, 0.00012055332899359869,
        -0.0008548327021853247, 0.005223977625422087, -0.026866170645129733, 0.11283791670955119,
        -0.37612638903183754, 0.1283791670955126,
    ),
)  # fmt: skip
_ERF_FAR = polynomial(
    float32=(
        3.6430649288377026e-06, -2.9505337806767784e-05, -0.00013317879347596318, 0.003166266018524766,
        -0.02306552045047283, 0.105643630027771, 0.6354236006736755, 1.128596544265747,
    ),
    float64=(
        2.0144683981351076e-13, -9.966577953144147e-12, 2.3234496609708625e-10, -3.393017790090067e-09,
        3.4783068397265907e-08, -2.65533518896246e-07, 1.5593529992817944e-06, -7.146730989341487e-06,
        2.544812831099671e-05, -6.778329018557201e-05, 0.00011709304107709077, -3.2635428266042836e-05,
        -0.0005379763558960614, 0.0016594548944035242, -0.0001891740173504849, -0.019136574273739534,
        0.1027749158645775, 0.6366193612454062, 1.1283792014237892,
    ),
)  # fmt: skip
_ERF_END = constant(4.0, 6.0)


@jit
def erf(x):
    """The error function: x + x P(x^2) up to 1, then 1 - e^(-t Q(t)), t = |x|, which is 1 to the last bit."""
    size = absolute(x)
    near = fma(x, _ERF_NEAR(x * x), x)
    t = select(size > _ERF_END(x), _ERF_END(x), size)
    far = copysign(1.0 - exp(-t * _ERF_FAR(t)), x)
    return select(size < 1.0, near, far)


TWO_OVER_PI = 0.6366197723675814
_HALF_PI_HIGH = constant(1.5707963705062866, 1.5707963267948966)
_HALF_PI_MIDDLE = constant(-4.371139000186241e-08, 6.123233995736766e-17)
_HALF_PI_LOW = constant(-1.7151245100059025e-15, -1.4973849048591833e-33)
SINE_END = constant(1e4, 1e8)
"""Above this the three parts of pi/2 no longer hold enough digits; the C library's reduction takes over."""
_SIN = polynomial(
    float32=(-0.00019517265900503844, 0.008332177996635437, -0.16666655242443085),
    float64=(
        1.589681205297704e-10, -2.50507583895832e-08, 2.755731369361365e-06, -0.00019841269829812535,
        0.00833333333332242, -0.16666666666666632,
    ),
)  # fmt: skip
_COS = polynomial(
    float32=(2.4438415493932553e-05, -0.001388736767694354, 0.04166664555668831),
    float64=(
        -1.1359658618969276e-11, 2.087572347604875e-09, -2.755731435378006e-07, 2.480158728948704e-05,
        -0.0013888888888874131, 0.0416666666666666,
    ),
)  # fmt: skip


@jit
def _sine_from(x, quarter_turns):
    """sin(x + quarter_turns pi/2), |x| at most SINE_END."""
    n = round_to_even(x * TWO_OVER_PI)
    high, middle = fma(-n, _HALF_PI_HIGH(x), x), n * _HALF_PI_MIDDLE(x)
    r = high - middle
    lost = ((high - r) - middle) - fma(n, _HALF_PI_LOW(x), fma(n, _HALF_PI_MIDDLE(x), -middle))
    square = r * r
    sine = r + fma(r * square, _SIN(square), lost)
    most = 1.0 - square * 0.5
    cosine = most + fma(square * square, _COS(square), fma(-r, lost, (1.0 - most) - square * 0.5))
    turns = n + quarter_turns
    half_turns = floor(turns * 0.5)
    odd = turns - half_turns * 2.0 > 0.5
    negative = half_turns - floor(half_turns * 0.5) * 2.0 > 0.5
    value = select(odd, cosine, sine)
    return select(negative, -value, value)


@jit
def sin(x):
    """The sine of x, |x| at most SINE_END."""
    return select(x == 0.0, x, _sine_from(x, 0.0))


@jit
def cos(x):
    """The cosine of x, |x| at most SINE_END."""
    return _sine_from(x, 1.0)
