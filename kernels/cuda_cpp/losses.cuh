// The losses J of outputs in shared memory, and dJ/dy, by the formulas of kernels/reference/loss.py; contract.py's codes.
//
// J = (sum of the terms) / divisor(n, m), dJ/dy = (what `gradient` forms) / scale(n, m); n rows, m outputs.
#pragma once
#include "elements.cuh"

namespace losses {
enum { MSE, HALF_MSE, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, LOG_LOSS, BINARY_LOG_LOSS };
constexpr float EPS = 1.1920929e-7f;
constexpr float LEAST = 1.1920929665620834e-7f, MOST = 15.942385f;  // -log(1 - eps), -log(eps)

constexpr bool takes_rows(int loss) { return loss == CROSS_ENTROPY || loss == LOG_LOSS; }

// Of a warp, how many threads share one of `held` rows, so that all of a block's have work and few elements each.
constexpr int row_lanes(int outputs, int held, int threads) {
    int lanes = 1;
    while (lanes < 32 && (16 * lanes < outputs || (lanes < outputs && 2 * lanes * held <= threads))) lanes *= 2;
    return lanes;
}

__device__ __forceinline__ float scale(int loss, float n, float m) {
    return loss == MSE ? n * m / 2 : loss == BINARY_CROSS_ENTROPY ? n * m : n;
}
__device__ __forceinline__ double divisor(int loss, double n, double m) {
    return loss == MSE || loss == BINARY_CROSS_ENTROPY ? n * m : loss == HALF_MSE ? 2 * n : n;
}

// The bounds, or a NaN as it is.
__device__ __forceinline__ float clip(float value, float least, float most) {
    return value < least ? least : value > most ? most : value;
}

// One element's term and, to `gradient`, its dJ/dy.
template <int KIND>
__device__ __forceinline__ double element(float y, float t, float scale, float& gradient) {
    if constexpr (KIND == MSE || KIND == HALF_MSE) {
        const float difference = y - t;
        gradient = difference / scale;
        return static_cast<double>(difference) * difference;
    }
    const float p = elements::sigmoid(y);
    gradient = (p - t) / scale;
    if constexpr (KIND == BINARY_LOG_LOSS) {
        const float q = clip(p, EPS, 1.0f - EPS);
        return -(t * logf(q) + (1.0f - t) * logf(1.0f - q));
    }
    return (y < 0.0f ? 0.0f : y) - t * y + log1pf(expf(-fabsf(y)));
}

// One row's term, of which each of LANES neighbouring threads returns its share; store(j, dJ/dy[j]) for each output j.
// t[m] are probabilities; without, `label` is the class.
template <int KIND, int OUTPUTS, int LANES, typename Store>
__device__ __forceinline__ double row(const float* y, const float* t, long long label, float scale, int lane, Store store) {
    constexpr int EACH = (OUTPUTS + LANES - 1) / LANES;
    float shifted[EACH], top = -__int_as_float(0x7f800000);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        shifted[i] = lane + i * LANES < OUTPUTS ? y[lane + i * LANES] : top;
        if (shifted[i] > top || shifted[i] != shifted[i]) top = shifted[i];  // NaN is the largest
    }
#pragma unroll
    for (int bits = 1; bits < LANES; bits *= 2) {
        const float other = __shfl_xor_sync(0xffffffff, top, bits);
        if (other > top || other != other) top = other;
    }
    float e[EACH], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        shifted[i] -= top;
        e[i] = lane + i * LANES < OUTPUTS ? expf(shifted[i]) : 0.0f;
        sum += e[i];
    }
#pragma unroll
    for (int bits = 1; bits < LANES; bits *= 2) sum += __shfl_xor_sync(0xffffffff, sum, bits);
    const float rest = logf(sum);
    double loss = 0.0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int j = lane + i * LANES;
        if (j >= OUTPUTS) continue;
        float surprise = rest - shifted[i];
        if constexpr (KIND == LOG_LOSS) surprise = clip(surprise, LEAST, MOST);
        const float target = t == nullptr ? (label == j ? 1.0f : 0.0f) : t[j];
        if (t != nullptr)
            loss += surprise * target;
        else if (label == j)
            loss += surprise;
        store(j, (e[i] / sum - target) / scale);
    }
    return loss;
}
}  // namespace losses
