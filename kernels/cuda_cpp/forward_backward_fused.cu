// Loss and gradients of a whole batch in one launch: a block, or a cluster, takes ROWS rows at a time forward and backward,
// weights, activations and deltas in shared memory as bfloat16, the weight gradients' sums in registers to its last rows.
//
// Macros: WIDTHS and ACTIVATIONS (with commas), LOSS and LABELS (targets are classes) by contract.py's codes, ROWS, THREADS
// of a block, BLOCKS: 1, or a cluster whose blocks each compute a share of every layer's columns for the same rows. Each
// has all activations and deltas, for what a block computes of these it writes to all; and of the weights the columns of
// its outputs, and the rows of the deltas below. fused_training.py chooses, and knows the bytes of shared memory.
//
// A tile of rows, each line ended by a barrier:
//   samples    to bfloat16; the next tile's travel to the L2 cache meanwhile
//   forward    a line a layer: y = activation(x w + b), in the last float32
//   loss       dz of the last layer, and each thread's terms of J
//   backward   two lines a layer: the sums of x.T dz and of dz w.T; then the delta of the layer below, in the place of its
//              output, whose column sums are the bias gradient
// All sums have one order: the same bits on every run. Rows past the batch's end are zeros throughout.
#include "elements.cuh"
#include "losses.cuh"
#include "network.cuh"
#include "warp_tiles.cuh"

#if BLOCKS > 1 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#error "this device has no clusters"
#endif

namespace {
using warp_tiles::EDGE;
using warp_tiles::Element;
using warp_tiles::Grid;
using warp_tiles::padded;
using warp_tiles::pitch;

constexpr int activations[] = {ACTIVATIONS};
constexpr int LAST = LAYERS - 1, WARPS = THREADS / 32, HIGH = ROWS / EDGE;  // tiles of rows

constexpr int tiles(int i) { return padded(widths[i]) / EDGE; }

// The product whose rows are the tile's, and columns those of width i: outputs of layer i - 1, and its deltas.
template <int I>
using Rows = warp_tiles::Product<HIGH, tiles(I), BLOCKS, WARPS>;
// Layer I's weight gradient.
template <int I>
using Weights = warp_tiles::Product<tiles(I), tiles(I + 1), BLOCKS, WARPS>;
constexpr Grid rows_grid(int i) { return warp_tiles::grid(HIGH, warp_tiles::ceil_div(tiles(i), BLOCKS), WARPS); }

constexpr bool takes_sign(int a) { return a == elements::RELU || a == elements::LEAKY_RELU; }
// Whether hidden layer i's derivative needs float32, of which each thread keeps those elements that it computes.
constexpr bool keeps(int i) { return i < LAST && activations[i] != elements::IDENTITY && !takes_sign(activations[i]); }
constexpr bool LAST_Z = elements::saves_preactivation(activations[LAST]);

// Shared memory, in bytes: weights; the layers' inputs, and the delta of the last; what is kept in float32; biases and
// the sums of their gradients, a row for each warp down; y of the last layer, and z.
constexpr int share(int i) { return warp_tiles::ceil_div(tiles(i), BLOCKS) * EDGE; }  // columns of a block
constexpr int columns_bytes(int i) { return 2 * padded(widths[i]) * pitch(share(i + 1)); }
constexpr int rows_bytes(int i) { return BLOCKS == 1 || i == 0 ? 0 : 2 * share(i) * pitch(widths[i + 1]); }
constexpr int weights_at(int i) {  // columns; one block's are all
    return i == 0 ? 0 : weights_at(i - 1) + columns_bytes(i - 1) + rows_bytes(i - 1);
}
constexpr int weights_rows_at(int i) { return weights_at(i) + (BLOCKS == 1 ? 0 : columns_bytes(i)); }
constexpr int input_at(int i) { return i == 0 ? weights_at(LAYERS) : input_at(i - 1) + 2 * ROWS * pitch(widths[i - 1]); }
constexpr int kept_bytes(int i) {
    return keeps(i) ? 4 * THREADS * rows_grid(i + 1).tall * rows_grid(i + 1).wide * warp_tiles::FLOATS : 0;
}
constexpr int kept_at(int i) { return i == 0 ? input_at(LAYERS + 1) : kept_at(i - 1) + kept_bytes(i - 1); }
constexpr int bias_at(int i) { return i == 0 ? kept_at(LAYERS) : bias_at(i - 1) + 4 * share(i); }
constexpr int bias_sums(int i) { return i == LAST ? padded(OUTPUTS) : rows_grid(i + 1).down * share(i + 1); }
constexpr int bias_sums_at(int i) { return i == 0 ? bias_at(LAYERS) : bias_sums_at(i - 1) + 4 * bias_sums(i - 1); }
constexpr int Y_PITCH = OUTPUTS | 1, Y_BYTES = 4 * ROWS * Y_PITCH;  // odd: a warp also reads down a column
constexpr int Y = bias_sums_at(LAYERS), Z = Y + Y_BYTES, TERMS = (Z + LAST_Z * Y_BYTES + 7) / 8 * 8;


template <typename T = float>
__device__ __forceinline__ T* shared(int at) {
    return reinterpret_cast<T*>(dynamic_shared() + at);
}

struct Samples {
    const float* x;
    const void* target;
    const long long* order;

    __device__ __forceinline__ long long row(long long position) const {
        return order == nullptr ? position : order[position];
    }
};

__device__ __forceinline__ int rank() { return BLOCKS == 1 ? 0 : cluster_rank(); }

__device__ __forceinline__ void everyone() {
    if constexpr (BLOCKS == 1)
        __syncthreads();
    else
        cluster_sync();
}

// Writes to this place in every block of the cluster.
template <typename T>
__device__ __forceinline__ void to_all(T* place, T value) {
    if constexpr (BLOCKS == 1) {
        *place = value;
    } else {
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) *remote(place, block) = value;
    }
}

// Whether this column of whole tiles is one of the WIDTH there are.
template <int WIDTH>
__device__ __forceinline__ bool is_column(int column) {
    return WIDTH % EDGE == 0 || column < WIDTH;
}

__device__ __forceinline__ float widen(unsigned bits) { return __uint_as_float(bits << 16); }

// The four floats from here on, of which `count` are there and the others read as 0; `whole`: rows of such are aligned.
__device__ __forceinline__ float4 load_four(const float* from, int count, bool whole) {
    if (whole && count > 0) return *reinterpret_cast<const float4*>(from);
    return make_float4(count > 0 ? from[0] : 0.0f, count > 1 ? from[1] : 0.0f, count > 2 ? from[2] : 0.0f,
                       count > 3 ? from[3] : 0.0f);
}
__device__ __forceinline__ bool is_aligned(const float* matrix, int columns) {
    return columns % 4 == 0 && reinterpret_cast<unsigned long long>(matrix) % 16 == 0;
}
__device__ __forceinline__ void store_four(int at, float4 four) {
    *shared<uint2>(at) = make_uint2(pack_bfloat16(four.x, four.y), pack_bfloat16(four.z, four.w));
}

// To shared memory w[row..][column..] of layer I, rounded, TALL x WIDE of it with zeros past its ends.
template <int I, int TALL, int WIDE>
__device__ __forceinline__ void load_weights(const float* parameters, int at, int row, int column) {
    constexpr int K = widths[I], M = widths[I + 1], FOURS = WIDE / 4;
    const bool whole = is_aligned(parameters, M);
#pragma unroll 8
    for (int e = threadIdx.x; e < TALL * FOURS; e += THREADS) {
        const int r = e / FOURS, c = e % FOURS * 4, k = row + r, m = column + c;
        store_four(at + 2 * (r * pitch(WIDE) + c), load_four(parameters + flat_w(I) + k * M + m, k < K ? M - m : 0, whole));
    }
}

// Weights, biases, and zeros where sums begin and where deltas have no column.
template <int I = 0>
__device__ __forceinline__ void load_parameters(const float* parameters) {
    if constexpr (I < LAYERS) {
        constexpr int K = widths[I], M = widths[I + 1];
        load_weights<I, padded(K), share(I + 1)>(parameters, weights_at(I), 0, rank() * share(I + 1));
        if constexpr (rows_bytes(I) > 0)
            load_weights<I, share(I), padded(M)>(parameters, weights_rows_at(I), rank() * share(I), 0);
        for (int c = threadIdx.x; c < share(I + 1); c += THREADS) {
            const int m = rank() * share(I + 1) + c;
            shared(bias_at(I))[c] = m < M ? parameters[flat_b(I) + m] : 0.0f;
        }
        for (int e = threadIdx.x; e < bias_sums(I); e += THREADS) shared(bias_sums_at(I))[e] = 0.0f;
        load_parameters<I + 1>(parameters);
    } else {
        for (int e = threadIdx.x; e < ROWS * pitch(OUTPUTS); e += THREADS) shared<Element>(input_at(LAYERS))[e] = 0;
    }
}

// The samples of the `rows` rows from `first` on, four columns at a time, to the first layer's input.
__device__ __forceinline__ void fetch(const Samples& samples, long long first, int rows) {
    constexpr int FOURS = padded(INPUTS) / 4;
    const bool whole = is_aligned(samples.x, INPUTS);
#pragma unroll 4
    for (int e = threadIdx.x; e < ROWS * FOURS; e += THREADS) {
        const int r = e / FOURS, c = e % FOURS * 4, count = r < rows ? INPUTS - c : 0;
        const float* from = count > 0 ? samples.x + samples.row(first + r) * INPUTS + c : nullptr;
        store_four(input_at(0) + 2 * (r * pitch(INPUTS) + c), load_four(from, count, whole));
    }
}

// Asks the L2 cache for the samples of a later tile.
__device__ __forceinline__ void expect(const Samples& samples, long long first, long long n) {
    constexpr int LINE = 32, LINES = warp_tiles::ceil_div(INPUTS, LINE);  // floats
    for (int e = threadIdx.x; e < ROWS * LINES; e += THREADS)
        if (first + e / LINES < n) prefetch(samples.x + samples.row(first + e / LINES) * INPUTS + e % LINES * LINE);
}

template <int I = 0>
__device__ __forceinline__ void forward(int rows) {
    if constexpr (I < LAYERS) {
        constexpr int M = widths[I + 1], ACTIVATION = activations[I];
        const Rows<I + 1> product(rank());
        if (!product.idle()) {
            typename Rows<I + 1>::Sums sums = {};
            product.template accumulate<false, false, tiles(I)>(
                sums, shared<Element>(input_at(I)), pitch(widths[I]),
                shared<Element>(weights_at(I)) - rank() * share(I + 1), pitch(share(I + 1)));
            float biases[Rows<I + 1>::G.wide][4];  // once for all rows
            product.each_column([&](int j, int half, int c) {
                const float* from = shared(bias_at(I)) + c - rank() * share(I + 1);
                biases[j][2 * half] = from[0], biases[j][2 * half + 1] = from[1];
            });
            product.each_pair(sums, [&](int place, int r, int c, const float* pair) {
                float y[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float z = pair[i] + biases[place / 4 % Rows<I + 1>::G.wide][place / 2 % 2 * 2 + i];
                    const float value = r < rows && is_column<M>(c + i) ? elements::activate<ACTIVATION>(z) : 0.0f;
                    if constexpr (keeps(I))
                        shared(kept_at(I))[(2 * place + i) * THREADS + threadIdx.x] =
                            elements::saves_preactivation(ACTIVATION) ? z : value;
                    if constexpr (I == LAST) {
                        if (c + i < M) to_all(shared(Y) + r * Y_PITCH + c + i, value);
                        if (LAST_Z && c + i < M) to_all(shared(Z) + r * Y_PITCH + c + i, z);
                    }
                    y[i] = value;
                }
                if constexpr (I < LAST)
                    to_all(shared<unsigned>(input_at(I + 1) + 2 * (r * pitch(M) + c)), pack_bfloat16(y[0], y[1]));
            });
        }
        everyone();
        forward<I + 1>(rows);
    }
}

// The last layer's dz in the place of y, and as bfloat16; returns this thread's terms of J of a batch of n rows.
__device__ __forceinline__ double loss(const Samples& samples, long long first, int rows, float n) {
    const float* saved = shared(LAST_Z ? Z : Y);
    const float scale = losses::scale(LOSS, n, OUTPUTS);
    const auto store = [=](int row, int j, float dy) {
        const int at = row * Y_PITCH + j;
        const float dz = row < rows ? elements::differentiate<activations[LAST]>(dy, saved[at]) : 0.0f;
        shared(Y)[at] = dz;
        shared<Element>(input_at(LAYERS))[row * pitch(OUTPUTS) + j] = static_cast<Element>(pack_bfloat16(dz, 0.0f));
    };
    double terms = 0.0;
    if constexpr (losses::takes_rows(LOSS)) {
        constexpr int LANES = losses::row_lanes(OUTPUTS, ROWS, THREADS), TOGETHER = THREADS / LANES;
        const int lane = threadIdx.x % LANES;
        for (int begin = 0; begin < ROWS; begin += TOGETHER) {
            const int row = begin + threadIdx.x / LANES;
            if (row >= ROWS) break;  // whole warps, or threads that share with no other
            const long long from = samples.row(first + min(row, rows - 1));
            const float* t = LABELS ? nullptr : static_cast<const float*>(samples.target) + from * OUTPUTS;
            const long long label = LABELS ? static_cast<const long long*>(samples.target)[from] : -1;
            const double term = losses::row<LOSS, OUTPUTS, LANES>(shared(Y) + row * Y_PITCH, t, label, scale, lane,
                                                                  [=](int j, float dy) { store(row, j, dy); });
            if (row < rows) terms += term;
        }
    } else {
        for (int e = threadIdx.x; e < ROWS * OUTPUTS; e += THREADS) {
            const int row = e / OUTPUTS, j = e % OUTPUTS;
            float gradient = 0.0f;
            if (row < rows) {
                const float t = static_cast<const float*>(samples.target)[samples.row(first + row) * OUTPUTS + j];
                terms += losses::element<LOSS>(shared(Y)[row * Y_PITCH + j], t, scale, gradient);
            }
            store(row, j, gradient);
        }
    }
    __syncthreads();
    return terms;
}

// The last layer's bias gradient: a warp a column, its lanes in a fixed order.
__device__ __forceinline__ void add_last_columns() {
    const int lane = threadIdx.x % 32;
    for (int m = threadIdx.x / 32; m < OUTPUTS; m += WARPS) {
        float sum = 0.0f;
        for (int r = lane; r < ROWS; r += 32) sum += shared(Y)[r * Y_PITCH + m];
#pragma unroll
        for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffff, sum, bits);
        if (lane == 0) shared(bias_sums_at(LAST))[m] += sum;
    }
}

// Adds a warp's column sums of the delta of width widths[I], over its rows, to the warps' of the same rows.
template <int I>
__device__ __forceinline__ void add_columns(const float (&columns)[Rows<I>::G.wide][4], const Rows<I>& product) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float* to = shared(bias_sums_at(I - 1)) + warp / Rows<I>::G.across * share(I) - rank() * share(I);
    product.each_column([&](int j, int half, int c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = columns[j][2 * half + i];
#pragma unroll
            for (int bits = 4; bits < 32; bits *= 2) sum += __shfl_xor_sync(0xffffffff, sum, bits);
            if (lane < 4) to[c + i] += sum;
        }
    });
}

// The sums of the weight gradients of layer I and those below it, as far as this thread holds them.
template <int I>
struct Gradients {
    typename Weights<I>::Sums sums = {};
    Gradients<I - 1> below;
};
template <>
struct Gradients<-1> {};

template <int I = LAST>
__device__ __forceinline__ void backward(Gradients<I>& gradients, int rows) {
    constexpr int K = widths[I], M = widths[I + 1];
    Element* inputs = shared<Element>(input_at(I));
    const Element* dz = shared<Element>(input_at(I + 1));
    const Weights<I> weights(rank());
    if (!weights.idle())
        weights.template accumulate<true, false, HIGH>(gradients.sums, inputs, pitch(K), dz, pitch(M));
    if constexpr (I > 0) {
        constexpr int ACTIVATION = activations[I - 1];
        const Rows<I> product(rank());
        typename Rows<I>::Sums sums = {};
        if (!product.idle())
            product.template accumulate<false, true, tiles(I + 1)>(
                sums, dz, pitch(M),
                shared<Element>(weights_rows_at(I)) - (BLOCKS == 1 ? 0 : rank() * share(I) * pitch(M)), pitch(M));
        everyone();  // the inputs have been read
        if (!product.idle()) {
            float columns[Rows<I>::G.wide][4] = {};
            product.each_pair(sums, [&](int place, int r, int c, const float* pair) {
                unsigned* at = shared<unsigned>(input_at(I) + 2 * (r * pitch(K) + c));
                float delta[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float saved = 0.0f;
                    if constexpr (takes_sign(ACTIVATION)) saved = widen(*at >> 16 * i & 0xffff);
                    if constexpr (keeps(I - 1)) saved = shared(kept_at(I - 1))[(2 * place + i) * THREADS + threadIdx.x];
                    const float value = elements::differentiate<ACTIVATION>(pair[i], saved);
                    delta[i] = r < rows && is_column<K>(c + i) ? value : 0.0f;
                    columns[place / 4 % Rows<I>::G.wide][place / 2 % 2 * 2 + i] += delta[i];
                }
                to_all(at, pack_bfloat16(delta[0], delta[1]));
            });
            add_columns<I>(columns, product);
        }
        everyone();
        backward<I - 1>(gradients.below, rows);
    }
}

// This block's share of the sums to the flat layout.
template <int I = LAST>
__device__ __forceinline__ void store(Gradients<I>& gradients, float* partials) {
    constexpr int K = widths[I], M = widths[I + 1];
    const Weights<I> weights(rank());
    if (!weights.idle())
        weights.each_pair(gradients.sums, [=](int, int k, int m, const float* pair) {
            float* to = partials + flat_w(I) + k * M + m;
            if (k < K && m < M) to[0] = pair[0];
            if (k < K && m + 1 < M) to[1] = pair[1];
        });
    constexpr int COLUMNS = I == LAST ? padded(M) : share(I + 1);  // of the last layer each block has summed all
    for (int c = threadIdx.x; c < COLUMNS; c += THREADS) {
        const int m = (I == LAST ? 0 : rank() * COLUMNS) + c;
        float sum = 0.0f;
#pragma unroll
        for (int down = 0; down < bias_sums(I) / COLUMNS; ++down) sum += shared(bias_sums_at(I))[down * COLUMNS + c];
        if (m < M && (I < LAST || rank() == 0)) partials[flat_b(I) + m] = sum;
    }
    if constexpr (I > 0) store<I - 1>(gradients.below, partials);
}
}  // namespace

// To partials[cluster] the gradients of its rows in the flat layout of parameters[size], to terms[cluster] what they add
// to J; x[][inputs] and target[][outputs], or [] int64 labels, from the first of n rows on, or the rows that order[n] names.
extern "C" __global__ void
#if BLOCKS > 1
    __cluster_dims__(BLOCKS, 1, 1)
#endif
        __launch_bounds__(THREADS, 1) forward_backward_fused(const float* parameters, const float* x, const void* target,
                                                            const long long* order, long long n, float* partials,
                                                            double* terms) {
    const Samples samples{x, target, order};
    const int cluster = blockIdx.x / BLOCKS;
    const long long stride = static_cast<long long>(gridDim.x / BLOCKS) * ROWS;
    load_parameters(parameters);
    Gradients<LAST> gradients;
    double mine = 0.0;
#pragma unroll 1
    for (long long first = static_cast<long long>(cluster) * ROWS; first < n; first += stride) {
        const int rows = static_cast<int>(min(n - first, static_cast<long long>(ROWS)));
        __syncthreads();  // the samples before have been used
        fetch(samples, first, rows);
        expect(samples, first + stride, n);
        everyone();
        forward(rows);
        mine += loss(samples, first, rows, static_cast<float>(n));
        add_last_columns();
        backward(gradients, rows);
    }
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) mine += __shfl_xor_sync(0xffffffff, mine, bits);
    if (threadIdx.x % 32 == 0) shared<double>(TERMS)[threadIdx.x / 32] = mine;
    everyone();
    store(gradients, partials + static_cast<long long>(cluster) * flat_w(LAYERS));
    if (rank() == 0 && threadIdx.x == 0) {
        double sum = 0.0;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) sum += shared<double>(TERMS)[warp];
        terms[cluster] = sum;
    }
}
