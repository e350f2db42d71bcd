// Many whole steps of a small network in one launch: parameters, the optimiser's memory and activations stay in shared
// memory; only samples, targets and their order are read, and one loss a step is written.
//
// Macros settle what the compiler then unrolls: WIDTHS and ACTIVATIONS (with commas), LOSS, LABELS (targets are classes),
// OPTIMIZER by contract.py's codes, ROWS of a batch a block holds, THREADS a block, BLOCKS: 1, or a cluster whose blocks
// share a batch's rows. resident.py chooses them and knows the bytes of shared memory.
//
// A step, each line ended by a barrier:
//   forward    a line a layer: y = activation(x w + b); meanwhile the next step's samples travel
//   loss       dz of the last layer, and the block's terms of J
//   backward   a line a layer: gradients of its parameters, and dz of the layer below
//   update     each parameter by one thread of the cluster, which adds up its gradients block by block, in order
// All sums have one order: the same bits on every run. Rows past the batch's end are zeros throughout.
#include "device.cuh"
#include "elements.cuh"
#include "losses.cuh"
#include "network.cuh"
#include "product.cuh"

#if BLOCKS > 1 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#error "this device has no clusters"
#endif

namespace {
using product::pitch;
using product::whole;

constexpr int activations[] = {ACTIVATIONS};
constexpr int SLOTS = elements::slots(OPTIMIZER), HELD = whole(ROWS);

constexpr int max_pitch() {
    int most = 0;
    for (int i = 1; i <= LAYERS; ++i) most = pitch(widths[i]) > most ? pitch(widths[i]) : most;
    return most;
}
constexpr bool keeps_z(int layer) { return elements::saves_preactivation(activations[layer]); }

// Parameters of layer i that each thread of the cluster owns, and how many threads' worth come before it.
constexpr int owned(int i) { return ((widths[i] + 1) * widths[i + 1] + BLOCKS * THREADS - 1) / (BLOCKS * THREADS); }
constexpr int owned_before(int i) { return i == 0 ? 0 : owned_before(i - 1) + owned(i - 1); }

// Elements of w[k][m] with its pads, the biases its last row; and where it begins among the parameters in shared memory.
constexpr int place_size(int i) { return (whole(widths[i]) + 1) * pitch(widths[i + 1]); }
constexpr int place(int i) { return i == 0 ? 0 : place(i - 1) + place_size(i - 1); }
constexpr int bias(int i) { return place(i) + whole(widths[i]) * pitch(widths[i + 1]); }

// Shared memory, in floats from its beginning; 8-byte things first.
constexpr int TARGET = LABELS ? 2 * HELD : HELD * pitch(OUTPUTS);
constexpr int SUMS = 0, TERMS = SUMS + 8, INDEX = TERMS + 2 * THREADS, TARGETS = INDEX + 4 * HELD;
constexpr int X = TARGETS + 2 * TARGET, W = X + 2 * HELD * pitch(widths[0]), G = W + place(LAYERS);
constexpr int STATE = G + place(LAYERS), SLOT = owned_before(LAYERS) * THREADS, DZ = STATE + whole(SLOTS * SLOT);
constexpr int Y = DZ + 2 * HELD * max_pitch();
constexpr int y_place(int i) { return i == 0 ? Y : y_place(i - 1) + (1 + keeps_z(i - 1)) * HELD * pitch(widths[i]); }
constexpr int z_place(int i) { return y_place(i) + (keeps_z(i) ? HELD * pitch(widths[i + 1]) : 0); }  // y's own without
constexpr int FLOATS = y_place(LAYERS);
constexpr int dz_place(int i) { return DZ + i % 2 * HELD * max_pitch(); }

struct Samples {
    const float* x;
    const void* target;
    const long long* order;
    long long total, start, offset;  // rows in all; where the step's first row lies in `order`, and within its epoch
    int batch;                       // rows of a step, but of the last of an epoch

    __device__ int count() const { return total - offset < batch ? static_cast<int>(total - offset) : batch; }

    __device__ Samples next() const {
        Samples then = *this;
        then.start += count();
        then.offset = offset + count() == total ? 0 : offset + count();
        return then;
    }
};

__device__ __forceinline__ int rank() { return BLOCKS == 1 ? 0 : cluster_rank(); }

__device__ __forceinline__ void everyone() {
    if constexpr (BLOCKS == 1)
        __syncthreads();
    else
        cluster_sync();
}

// Another block's copy of what lies at `mine`.
template <typename T>
__device__ __forceinline__ T* of(T* mine, int block) {
    return BLOCKS == 1 ? mine : remote(mine, block);
}

// How many of a step's n rows are this block's.
__device__ __forceinline__ int own_rows(int n) { return max(0, min(n - rank() * ROWS, ROWS)); }

// Starts copying which rows a step takes.
__device__ __forceinline__ void fetch_index(float* memory, const Samples& samples, int side) {
    if (samples.order == nullptr) return;
    const int rows = own_rows(samples.count());
    const long long* from = samples.order + samples.start + rank() * ROWS;
    long long* to = reinterpret_cast<long long*>(memory + INDEX) + side * HELD;
    for (int r = threadIdx.x; r < rows; r += THREADS) copy_async<8>(to + r, from + r);
}

// Starts copying a step's samples and targets; its index is here. Rows past the batch's end become zeros.
__device__ __forceinline__ void fetch(float* memory, const Samples& samples, int side) {
    constexpr int K = widths[0], UNIT = K % 4 == 0 ? 4 : 1, UNITS = K / UNIT;
    const int rows = own_rows(samples.count());
    const long long first = samples.offset + rank() * ROWS;
    const long long* index = reinterpret_cast<long long*>(memory + INDEX) + side * HELD;
    float* x = memory + X + side * HELD * pitch(K);
    for (int e = threadIdx.x; e < ROWS * UNITS; e += THREADS) {
        const int r = e / UNITS, c = e % UNITS * UNIT;
        float* to = x + r * pitch(K) + c;
        if (r < rows) {
            const long long row = samples.order == nullptr ? first + r : index[r];
            copy_async<4 * UNIT>(to, samples.x + row * K + c);
        } else {
#pragma unroll
            for (int i = 0; i < UNIT; ++i) to[i] = 0.0f;
        }
    }
    constexpr int EACH = LABELS ? 1 : OUTPUTS;
    for (int e = threadIdx.x; e < rows * EACH; e += THREADS) {
        const int r = e / EACH, c = e % EACH;
        const long long row = samples.order == nullptr ? first + r : index[r];
        float* to = memory + TARGETS + side * TARGET;
        if constexpr (LABELS)
            copy_async<8>(to + 2 * r, static_cast<const long long*>(samples.target) + row);
        else
            copy_async<4>(to + r * pitch(OUTPUTS) + c, static_cast<const float*>(samples.target) + row * OUTPUTS + c);
    }
}

template <int I = 0>
__device__ __forceinline__ void forward(float* memory, const float* x, int rows) {
    if constexpr (I < LAYERS) {
        constexpr int K = widths[I], M = widths[I + 1];
        const float* b = memory + W + bias(I);
        float* z = memory + z_place(I);
        product::multiply<product::OUTPUTS, HELD, M, K, THREADS>(
            x, pitch(K), memory + W + place(I), pitch(M), memory + y_place(I), pitch(M),
            [=](float value, int row, int column) {
                const float before = value + b[column];
                if constexpr (keeps_z(I)) z[row * pitch(M) + column] = before;
                return row < rows && column < M ? elements::activate<activations[I]>(before) : 0.0f;
            });
        __syncthreads();
        forward<I + 1>(memory, memory + y_place(I), rows);
    }
}

// dz of the last layer, and each thread's terms of J.
__device__ __forceinline__ void loss(float* memory, int side, int n, int rows) {
    constexpr int LAST = LAYERS - 1, P = pitch(OUTPUTS), ACTIVATION = activations[LAST];
    const float *y = memory + y_place(LAST), *saved = memory + z_place(LAST);
    const float* t = memory + TARGETS + side * TARGET;
    float* dz = memory + dz_place(LAST);
    const float scale = losses::scale(LOSS, n, OUTPUTS);
    double terms = 0.0;
    if constexpr (losses::takes_rows(LOSS)) {
        constexpr int LANES = losses::row_lanes(OUTPUTS, HELD, THREADS), TOGETHER = THREADS / LANES;
        const int lane = threadIdx.x % LANES;
        for (int first = 0; first < HELD; first += TOGETHER) {
            const int row = first + threadIdx.x / LANES, place = min(row, HELD - 1) * P;
            const long long label = LABELS && row < rows ? reinterpret_cast<const long long*>(t)[row] : -1;
            const double term = losses::row<LOSS, OUTPUTS, LANES>(
                y + place, LABELS ? nullptr : t + place, label, scale, lane, [=](int j, float dy) {
                    const float value = elements::differentiate<ACTIVATION>(dy, saved[place + j]);
                    if (row < HELD) dz[place + j] = row < rows ? value : 0.0f;
                });
            if (row < rows) terms += term;
            for (int j = OUTPUTS + lane; j < whole(OUTPUTS) && row < HELD; j += LANES) dz[place + j] = 0.0f;
        }
    } else {
        constexpr int ACROSS = whole(OUTPUTS);
        for (int e = threadIdx.x; e < HELD * ACROSS; e += THREADS) {
            const int place = e / ACROSS * P + e % ACROSS;
            float gradient = 0.0f;
            if (e < rows * ACROSS && e % ACROSS < OUTPUTS) {
                terms += losses::element<LOSS>(y[place], t[place], scale, gradient);
                gradient = elements::differentiate<ACTIVATION>(gradient, saved[place]);
            }
            dz[place] = gradient;
        }
    }
    reinterpret_cast<double*>(memory + TERMS)[threadIdx.x] = terms;
    __syncthreads();
}

// Adds up the threads' terms in one fixed order, by the last warp.
__device__ __forceinline__ void add_terms(const float* memory, double* sum) {
    if (threadIdx.x < THREADS - 32) return;
    const double* terms = reinterpret_cast<const double*>(memory + TERMS);
    const int lane = threadIdx.x % 32;
    double total = 0.0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) total += terms[lane + 32 * i];
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) total += __shfl_xor_sync(0xffffffff, total, bits);
    if (lane == 0) *sum = total;
}

// The blocks' sums, added by one thread of the first block.
__device__ __forceinline__ double over_blocks(double* sum) {
    double total = 0.0;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) total += *of(sum, block);
    return total;
}

template <int I = LAYERS - 1>
__device__ __forceinline__ void backward(float* memory, const float* x, int rows) {
    constexpr int K = widths[I], M = widths[I + 1];
    const float *dz = memory + dz_place(I), *w = memory + W + place(I);
    const float* inputs = I > 0 ? memory + y_place(I > 0 ? I - 1 : 0) : x;
    if constexpr (I > 0) {
        const float* saved = memory + z_place(I - 1);
        product::multiply<product::INPUT_GRADIENT, HELD, K, M, THREADS>(
            dz, pitch(M), w, pitch(M), memory + dz_place(I - 1), pitch(K), [=](float value, int row, int column) {
                if (row >= rows || column >= K) return 0.0f;
                return elements::differentiate<activations[I - 1]>(value, saved[row * pitch(K) + column]);
            });
    }
    product::multiply<product::WEIGHT_GRADIENT, whole(K), M, HELD, THREADS>(
        inputs, pitch(K), dz, pitch(M), memory + G + place(I), pitch(M), [](float value, int, int) { return value; });
    product::column_sums<M, HELD, THREADS>(dz, pitch(M), memory + G + bias(I));
    if constexpr (I > 0) {
        __syncthreads();
        backward<I - 1>(memory, x, rows);
    }
}

// One parameter: its places in shared memory's parameters, in the flat buffer and in its owner's memory.
struct Parameter {
    int place, flat, own;
    bool exists, is_weight;
};

// The j-th parameter of layer I that this thread owns.
template <int I>
__device__ __forceinline__ Parameter owned_parameter(int j) {
    constexpr int K = widths[I], M = widths[I + 1];
    const int q = (j * BLOCKS + rank()) * THREADS + threadIdx.x, k = q / M, m = q % M;
    const bool is_weight = k < K;
    return {place(I) + (is_weight ? k : whole(K)) * pitch(M) + m, is_weight ? flat_w(I) + q : flat_b(I) + m,
            (owned_before(I) + j) * THREADS + static_cast<int>(threadIdx.x), q < (K + 1) * M, is_weight};
}

template <int I = 0, typename Visit>
__device__ __forceinline__ void each_owned(Visit visit) {
    if constexpr (I < LAYERS) {
#pragma unroll 1
        for (int j = 0; j < owned(I); ++j) {
            const Parameter each = owned_parameter<I>(j);
            if (each.exists) visit(each);
        }
        each_owned<I + 1>(visit);
    }
}

// Steps the parameters of layer I and on that this thread owns, in every block; with `squares`, adds the squares of the
// weights as they were. Four at a time, so that a cluster's reads of far gradients travel together.
template <int I = 0>
__device__ __forceinline__ void update(float* memory, const elements::Settings& settings, bool squares, double& sum) {
    if constexpr (I < LAYERS) {
        constexpr int COUNT = owned(I), TOGETHER = COUNT < 4 ? COUNT : 4;
#pragma unroll 1
        for (int first = 0; first < COUNT; first += TOGETHER) {
            float g[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
                const Parameter each = owned_parameter<I>(first + i);
                g[i] = 0.0f;
                if (each.exists) {
#pragma unroll
                    for (int block = 0; block < BLOCKS; ++block) g[i] += *of(memory + G + each.place, block);
                }
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
                const Parameter each = owned_parameter<I>(first + i);
                if (!each.exists) continue;
                elements::Settings own = settings;
                if (!each.is_weight) own.l2 = own.shrink = 0.0f;
                const float w = memory[W + each.place];
                if (squares && each.is_weight) sum += static_cast<double>(w) * w;
                float m = SLOTS > 0 ? memory[STATE + each.own] : 0.0f;
                float v = SLOTS > 1 ? memory[STATE + SLOT + each.own] : 0.0f;
                const float stepped = elements::step<OPTIMIZER>(w, g[i], m, v, own);
                if constexpr (SLOTS > 0) memory[STATE + each.own] = m;
                if constexpr (SLOTS > 1) memory[STATE + SLOT + each.own] = v;
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block) *of(memory + W + each.place, block) = stepped;
            }
        }
        update<I + 1>(memory, settings, squares, sum);
    }
}
}  // namespace

// parameters[size] and state[SLOTS][state_stride] in the flat layout; x[total][inputs], target[total][outputs], or
// [total] int64 labels; order: positions' rows, or null; writes losses[steps] and, if not null, penalties[steps], with
// which l2 is shared among the rows of a batch. power1 and power2 are the betas to the power of the updates so far.
extern "C" __global__ void
#if BLOCKS > 1
    __cluster_dims__(BLOCKS, 1, 1)
#endif
        __launch_bounds__(THREADS, 1) train_resident(float* parameters, float* state, long long state_stride,
                                                     const float* x, const void* target, const long long* order,
                                                     long long total, long long start, int batch, int steps,
                                                     double* losses, double* penalties, double learning_rate, double l2,
                                                     double momentum, double beta1, double beta2, double epsilon,
                                                     double power1, double power2) {
    float* memory = reinterpret_cast<float*>(dynamic_shared());
    double* loss_sum = reinterpret_cast<double*>(memory + SUMS);
    double* square_sum = loss_sum + 1;
    float* rates = memory + SUMS + 4;  // the rate, l2 and shrink of the step
    for (int i = threadIdx.x; i < FLOATS; i += THREADS) memory[i] = 0.0f;
    everyone();
    each_owned([&](Parameter each) {
        for (int block = 0; block < BLOCKS; ++block) *of(memory + W + each.place, block) = parameters[each.flat];
        for (int i = 0; i < SLOTS; ++i) memory[STATE + i * SLOT + each.own] = state[i * state_stride + each.flat];
    });
    Samples samples{x, target, order, total, start, start % total, batch};
    fetch_index(memory, samples, 0);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    fetch(memory, samples, 0);
    if (steps > 1) fetch_index(memory, samples.next(), 1);
    copy_commit();
    copy_wait<0>();
    everyone();

    elements::Settings settings{0.0f, 0.0f, 0.0f, float(momentum), float(beta1), float(1.0 - beta1), float(beta2),
                                float(1.0 - beta2), float(epsilon)};
    const bool squares = penalties != nullptr;
    double shared_l2 = l2;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const int side = step % 2, n = samples.count(), rows = own_rows(n);
        const float* inputs = memory + X + side * HELD * pitch(widths[0]);
        const double last_l2 = shared_l2;
        if (squares) {
            add_terms(memory, square_sum);
            shared_l2 = l2 / n;
        }
        if (threadIdx.x == 0) {
            double rate = learning_rate;
            if constexpr (OPTIMIZER >= elements::ADAM) {
                power1 *= beta1, power2 *= beta2;
                rate *= sqrt(1.0 - power2) / (1.0 - power1);
            }
            rates[0] = float(rate);
            rates[1] = OPTIMIZER == elements::ADAMW ? 0.0f : float(shared_l2);
            rates[2] = OPTIMIZER == elements::ADAMW ? float(learning_rate * shared_l2) : 0.0f;
        }
        samples = samples.next();
        if (step + 1 < steps) {
            fetch(memory, samples, 1 - side);
            if (step + 2 < steps) fetch_index(memory, samples.next(), side);
        }
        copy_commit();

        forward(memory, inputs, rows);
        loss(memory, side, n, rows);
        add_terms(memory, loss_sum);
        backward(memory, inputs, rows);
        copy_wait<0>();
        everyone();

        settings.rate = rates[0], settings.l2 = rates[1], settings.shrink = rates[2];
        double sum = 0.0;
        update(memory, settings, squares, sum);
        if (squares) reinterpret_cast<double*>(memory + TERMS)[threadIdx.x] = sum;
        if (rank() == 0 && threadIdx.x == 0) {
            losses[step] = over_blocks(loss_sum) / losses::divisor(LOSS, n, OUTPUTS);
            if (squares && step > 0) penalties[step - 1] = last_l2 / 2 * over_blocks(square_sum);
        }
        everyone();
    }

    if (squares) {
        add_terms(memory, square_sum);
        everyone();
        if (rank() == 0 && threadIdx.x == 0) penalties[steps - 1] = shared_l2 / 2 * over_blocks(square_sum);
    }
    each_owned([&](Parameter each) {
        parameters[each.flat] = memory[W + each.place];
        for (int i = 0; i < SLOTS; ++i) state[i * state_stride + each.flat] = memory[STATE + i * SLOT + each.own];
    });
    everyone();
}
