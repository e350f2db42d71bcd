// The activations y = f(z), their derivatives and the optimisers for one element, by the formulas of kernels/reference;
// the numbers that choose one are contract.py's codes.
#pragma once

namespace elements {
enum { IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, GELU, SILU, SOFTPLUS, SINE };
enum { SGD, MOMENTUM, NESTEROV, ADAM, ADAMW };

constexpr float LEAK = 0.01f, ROOT_HALF = 0.70710678118654752f, DENSITY = 0.39894228040143268f;

// Whether the derivative is taken from z, not from y.
constexpr bool saves_preactivation(int activation) { return activation >= GELU; }

__device__ __forceinline__ float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

template <int ACTIVATION>
__device__ __forceinline__ float activate(float z) {
    if constexpr (ACTIVATION == RELU) return z > 0.0f || z != z ? z : 0.0f;  // NaN stays NaN
    if constexpr (ACTIVATION == LEAKY_RELU) return z > 0.0f ? z : LEAK * z;
    if constexpr (ACTIVATION == TANH) return tanhf(z);
    if constexpr (ACTIVATION == SIGMOID) return sigmoid(z);
    if constexpr (ACTIVATION == GELU) return z * (0.5f * erfcf(z * -ROOT_HALF));
    if constexpr (ACTIVATION == SILU) return z / (1.0f + expf(-z));
    if constexpr (ACTIVATION == SOFTPLUS) {
        const float small = log1pf(expf(-fabsf(z)));
        return z > 0.0f ? small + z : small;
    }
    if constexpr (ACTIVATION == SINE) return sinf(z);
    return z;
}

// dy * f', from what is saved: y, or z.
template <int ACTIVATION>
__device__ __forceinline__ float differentiate(float dy, float saved) {
    if constexpr (ACTIVATION == RELU) return saved > 0.0f ? dy : 0.0f;
    if constexpr (ACTIVATION == LEAKY_RELU) return saved > 0.0f ? dy : dy * LEAK;
    if constexpr (ACTIVATION == TANH) return dy * (1.0f - saved * saved);
    if constexpr (ACTIVATION == SIGMOID) return dy * (saved * (1.0f - saved));
    if constexpr (ACTIVATION == GELU)
        return dy * (0.5f * erfcf(saved * -ROOT_HALF) + saved * (expf(saved * saved * -0.5f) * DENSITY));
    if constexpr (ACTIVATION == SILU)  // 1 - sigmoid(z) as sigmoid(-z), which keeps its digits
        return dy * (sigmoid(saved) * (1.0f + saved * sigmoid(-saved)));
    if constexpr (ACTIVATION == SOFTPLUS) return dy * sigmoid(saved);
    if constexpr (ACTIVATION == SINE) return dy * cosf(saved);
    return dy;
}

constexpr int slots(int optimizer) { return optimizer == SGD ? 0 : optimizer >= ADAM ? 2 : 1; }

// `rate` holds Adam's bias corrections; `l2` is added to a gradient, `shrink` is AdamW's; both are 0 for a bias.
struct Settings {
    float rate, l2, shrink, momentum, beta1, rest1, beta2, rest2, epsilon;
};

// The new w; m and v are its memory.
template <int RULE>
__device__ __forceinline__ float step(float w, float g, float& m, float& v, const Settings& s) {
    if (s.l2 != 0.0f) g += s.l2 * w;
    if constexpr (RULE == SGD) return w - s.rate * g;
    if constexpr (RULE == MOMENTUM || RULE == NESTEROV) {
        m = s.momentum * m - s.rate * g;
        return RULE == NESTEROV ? w + (s.momentum * m - s.rate * g) : w + m;
    }
    if (s.shrink != 0.0f) w -= s.shrink * w;
    m = s.beta1 * m + s.rest1 * g;
    v = s.beta2 * v + s.rest2 * (g * g);
    return w - s.rate * (m / (sqrtf(v) + s.epsilon));
}
}  // namespace elements
