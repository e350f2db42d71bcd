// A whole network forward in one launch: a block takes ROWS rows through all layers, the activations in shared memory.
//
// Macros: WIDTHS and ACTIVATIONS (with commas; contract.py's codes), ROWS and THREADS of a block, DEPTH rows of a weight
// matrix in a slab, STAGES slabs under way. fused.py chooses them and knows the bytes of shared memory.
//
// The weights of all layers, one after the other, are a sequence of slabs, which every block reads from the L2 cache: the
// next STAGES - 1 travel while one is used, across the ends of layers and of tiles of rows. One barrier a slab.
#include "device.cuh"
#include "elements.cuh"
#include "network.cuh"
#include "product.cuh"

namespace {
using product::pitch;
using product::whole;

constexpr int activations[] = {ACTIVATIONS};
constexpr int SUMMED = 256;  // steps of a sum after which it is added to a total, which keeps its rounding error small

constexpr int widest(int first, int step) {
    int most = 0;
    for (int i = first; i <= LAYERS; i += step) most = pitch(widths[i]) > most ? pitch(widths[i]) : most;
    return most;
}
constexpr int slabs(int i) { return (widths[i] + DEPTH - 1) / DEPTH; }
constexpr int slabs_before(int i) { return i == 0 ? 0 : slabs_before(i - 1) + slabs(i - 1); }
constexpr int SLABS = slabs_before(LAYERS);

// Where layer i's biases begin among those in shared memory.
constexpr int bias(int i) { return i == 0 ? 0 : bias(i - 1) + whole(widths[i]); }

// Shared memory, in floats: what odd layers write, what even ones do and the samples, the slabs, the biases.
constexpr int STAGE = DEPTH * widest(1, 1);
constexpr int EVEN = 0, ODD = EVEN + ROWS * widest(0, 2), WEIGHTS = ODD + ROWS * widest(1, 2);
constexpr int BIASES = WEIGHTS + STAGES * STAGE, FLOATS = BIASES + bias(LAYERS);
constexpr int values(int i) { return i % 2 ? ODD : EVEN; }

template <int I = 0>
__device__ __forceinline__ void load_biases(float* memory, const float* parameters) {
    if constexpr (I < LAYERS) {
        constexpr int M = widths[I + 1];
        for (int m = threadIdx.x; m < whole(M); m += THREADS)
            memory[BIASES + bias(I) + m] = m < M ? parameters[flat_b(I) + m] : 0.0f;
        load_biases<I + 1>(memory, parameters);
    }
}

// Starts copying slab `slab` of the sequence, with zeros around it, to its stage.
template <int I = 0>
__device__ __forceinline__ void fetch(float* memory, const float* parameters, int slab, int stage) {
    if constexpr (I < LAYERS) {
        if (slab >= slabs(I)) return fetch<I + 1>(memory, parameters, slab - slabs(I), stage);
        constexpr int K = widths[I], M = widths[I + 1], UNIT = M % 4 == 0 ? 4 : 1, UNITS = whole(M) / UNIT;
        float* to = memory + WEIGHTS + stage * STAGE;
        const float* from = parameters + flat_w(I);
        for (int e = threadIdx.x; e < DEPTH * UNITS; e += THREADS) {
            const int d = e / UNITS, m = e % UNITS * UNIT, k = slab * DEPTH + d;
            float* place = to + d * pitch(M) + m;
            if (k < K && m < M) {
                copy_async<4 * UNIT>(place, from + k * M + m);
            } else {
#pragma unroll
                for (int i = 0; i < UNIT; ++i) place[i] = 0.0f;
            }
        }
    }
}

// The rows of a tile, zeros where there are none and up to a multiple of 4 columns.
__device__ __forceinline__ void fetch_rows(float* memory, const float* x, int rows) {
    for (int e = threadIdx.x; e < ROWS * whole(INPUTS); e += THREADS) {
        const int r = e / whole(INPUTS), c = e % whole(INPUTS);
        float* place = memory + EVEN + r * pitch(INPUTS) + c;
        if (r < rows && c < INPUTS)
            copy_async<4>(place, x + static_cast<long long>(r) * INPUTS + c);
        else
            *place = 0.0f;
    }
}

// Layer I and on; `stage` holds its first slab, or will.
template <int I = 0>
__device__ __forceinline__ void layer(float* memory, const float* parameters, float* out, int rows, int& stage) {
    if constexpr (I < LAYERS) {
        constexpr int K = widths[I], M = widths[I + 1], ACROSS = whole(M) / 4;
        constexpr product::Tile TILE = product::best(product::OUTPUTS, ROWS, M, DEPTH, THREADS);
        constexpr int LANES = TILE.lanes, TALL = TILE.rows, TILES = (ROWS + TALL - 1) / TALL * ACROSS;
        constexpr int EACH = (TILES * LANES + THREADS - 1) / THREADS;
        const int lane = threadIdx.x % LANES;
        const float* input = memory + values(I);
        float sums[EACH][TALL][4] = {}, total[EACH][TALL][4] = {};
#pragma unroll 1
        for (int slab = 0; slab < slabs(I); ++slab, stage = (stage + 1) % STAGES) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            fetch(memory, parameters, (slabs_before(I) + slab + STAGES - 1) % SLABS, (stage + STAGES - 1) % STAGES);
            copy_commit();
            const float* weights = memory + WEIGHTS + stage * STAGE;
            const int length = min(DEPTH, whole(K) - slab * DEPTH);
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
                const int tile = (e * THREADS + threadIdx.x) / LANES;
                if (tile < TILES)
                    product::accumulate<product::OUTPUTS, TALL, LANES>(sums[e], input + slab * DEPTH, pitch(K), weights,
                                                                       pitch(M), length, tile / ACROSS * TALL,
                                                                       tile % ACROSS * 4, 1, lane);
            }
            if constexpr (K > SUMMED) {
                if ((slab + 1) * DEPTH % SUMMED == 0) {
#pragma unroll
                    for (int e = 0; e < EACH; ++e)
#pragma unroll
                        for (int i = 0; i < TALL; ++i)
#pragma unroll
                            for (int j = 0; j < 4; ++j) total[e][i][j] += sums[e][i][j], sums[e][i][j] = 0.0f;
                }
            }
        }
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            const int tile = (e * THREADS + threadIdx.x) / LANES;
            const int row = tile / ACROSS * TALL, column = tile % ACROSS * 4;
#pragma unroll
            for (int i = 0; i < TALL; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float value = sums[e][i][j];
                    if constexpr (K > SUMMED) value += total[e][i][j];
#pragma unroll
                    for (int bits = 1; bits < LANES; bits *= 2) value += __shfl_xor_sync(0xffffffff, value, bits);
                    const int r = row + i, c = column + j;
                    if (tile >= TILES || lane != (i * 4 + j) % LANES) continue;
                    const float y = elements::activate<activations[I]>(value + memory[BIASES + bias(I) + c]);
                    if constexpr (I + 1 < LAYERS)
                        memory[values(I + 1) + r * pitch(M) + c] = c < M ? y : 0.0f;
                    else if (r < rows && c < M)
                        out[static_cast<long long>(r) * M + c] = y;
                }
        }
        layer<I + 1>(memory, parameters, out, rows, stage);
    }
}
}  // namespace

// out[n][outputs] from x[n][inputs] and the parameters in the flat layout. Any grid.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward_fused(const float* parameters, const float* x, float* out,
                                                                    long long n) {
    float* memory = reinterpret_cast<float*>(dynamic_shared());
    load_biases(memory, parameters);
    int stage = 0;
    for (int slab = 0; slab < STAGES - 1; ++slab) {
        fetch(memory, parameters, slab % SLABS, slab);
        copy_commit();
    }
    const long long stride = static_cast<long long>(gridDim.x) * ROWS;
    for (long long first = static_cast<long long>(blockIdx.x) * ROWS; first < n; first += stride) {
        const int rows = static_cast<int>(min(n - first, static_cast<long long>(ROWS)));
        __syncthreads();  // the tile before has been used
        fetch_rows(memory, x + first * INPUTS, rows);
        copy_commit();
        copy_wait<0>();
        layer(memory, parameters, out + first * OUTPUTS, rows, stage);
    }
    copy_wait<0>();
}
