// Parameters stepped along the sums of forward_backward_fused's gradients, and J: both added up in one fixed order.
//
// Macros: WIDTHS, LOSS and OPTIMIZER by contract.py's codes. A block steps 32 parameters: each warp adds the gradients of
// every WARPS-th cluster, and the warps' sums are added in order. Grid: SIZE / 32 blocks, SIZE being a multiple of 16.
#include "device.cuh"
#include "elements.cuh"
#include "losses.cuh"
#include "network.cuh"

namespace {
constexpr int WARPS = 8, SIZE = flat_w(LAYERS), SLOTS = elements::slots(OPTIMIZER);
enum Kind { GAP, WEIGHT, BIAS };

__device__ __forceinline__ Kind kind_of(int place) {
#pragma unroll
    for (int i = LAYERS - 1; i >= 0; --i) {
        if (place >= flat_b(i)) return place - flat_b(i) < widths[i + 1] ? BIAS : GAP;
        if (place >= flat_w(i)) return place - flat_w(i) < widths[i] * widths[i + 1] ? WEIGHT : GAP;
    }
    return GAP;
}
}  // namespace

// parameters[SIZE], first[SIZE] and second[SIZE], the optimiser's memory; partials[clusters][SIZE]; terms[clusters], whose
// sum gives J of n rows to `value`. `l2` and `shrink` are the weights' alone.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
apply_gradients(float* parameters, float* first, float* second, const float* partials, const double* terms,
                long long clusters, long long n, double* value, float rate, float l2, float shrink, float mu, float beta1,
                float rest1, float beta2, float rest2, float epsilon) {
    float(*sums)[32] = reinterpret_cast<float(*)[32]>(dynamic_shared());
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, place = blockIdx.x * 32 + lane;
    const Kind kind = place < SIZE ? kind_of(place) : GAP;
    float sum = 0.0f;
    if (kind != GAP) {
#pragma unroll 8
        for (long long i = warp; i < clusters; i += WARPS) sum += partials[i * SIZE + place];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && kind != GAP) {
        float g = sums[0][lane];
#pragma unroll
        for (int i = 1; i < WARPS; ++i) g += sums[i][lane];
        elements::Settings settings{rate, l2, shrink, mu, beta1, rest1, beta2, rest2, epsilon};
        if (kind == BIAS) settings.l2 = settings.shrink = 0.0f;
        float one = SLOTS > 0 ? first[place] : 0.0f, two = SLOTS > 1 ? second[place] : 0.0f;
        parameters[place] = elements::step<OPTIMIZER>(parameters[place], g, one, two, settings);
        if (SLOTS > 0) first[place] = one;
        if (SLOTS > 1) second[place] = two;
    }
    if (warp == 1 && blockIdx.x == 0) {
        double total = 0.0;
        for (long long i = lane; i < clusters; i += 32) total += terms[i];
#pragma unroll
        for (int bits = 16; bits > 0; bits /= 2) total += __shfl_xor_sync(0xffffffff, total, bits);
        if (lane == 0) *value = total / losses::divisor(LOSS, static_cast<double>(n), OUTPUTS);
    }
}
