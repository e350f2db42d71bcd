// w[k, m] and b[m] stepped along x.T @ dz and the sums of dz: the weight gradient reaches memory only where it must.
//
// x[n, k] and dz[n, m] are elements in PARTS parts; the gradients are theirs times `unscale`. `first` and `second` are the
// optimiser's memory of w, [k, m], and after them of b. Its numbers of this update are read from memory: the arguments of
// a launch in a CUDA graph cannot change. Written beside them: w as elements for the next step's products, where given.
// The tile row 0 sums the bias gradient from `partials`[blocks, m], in order.
//
// weight_update: grid of tiles of w. Where they are too few to fill a device, weight_partials sums each of `splits` shares
// of the rows (grid.y) to sums[splits, k, m], and apply_update, on the first grid, adds those in order and steps.
#include "elements.cuh"
#include "product_of_elements.cuh"

constexpr int GRADIENT = 5;  // no optimiser: the gradient is kept in the parameter's place
constexpr int SLOTS = OPTIMIZER_CODE == GRADIENT ? 0 : elements::slots(OPTIMIZER_CODE);

__device__ __forceinline__ float stepped(float w, float g, float& first, float& second, const elements::Settings& settings) {
    if constexpr (OPTIMIZER_CODE == GRADIENT) return g;
    else return elements::step<OPTIMIZER_CODE>(w, g, first, second, settings);
}

struct Update {
    float *w, *first, *second;
    Element* elements;
    long long stride, part;
    const float* partials;
    int blocks;
    float *b, *b_first, *b_second;
    float unscale;
    const elements::Settings* numbers;
    int columns;
    elements::Settings settings;

    struct Fetched {
        float w[4], first[4], second[4];
    };

    __device__ __forceinline__ void begin(int, int) {
        if (OPTIMIZER_CODE != GRADIENT) settings = *numbers;
    }
    __device__ __forceinline__ void ask(int row, int column, int count) const {
        const long long at = static_cast<long long>(row) * columns + column;
        if (OPTIMIZER_CODE != GRADIENT) prefetch_run(w + at, 4 * count);
        if (SLOTS > 0) prefetch_run(first + at, 4 * count);
        if (SLOTS > 1) prefetch_run(second + at, 4 * count);
    }
    __device__ __forceinline__ Fetched fetch(int row, int column, int count) {
        Fetched fetched = {};
        const long long at = static_cast<long long>(row) * columns + column;
        if (OPTIMIZER_CODE != GRADIENT) load(fetched.w, w + at, count);
        if (SLOTS > 0) load(fetched.first, first + at, count);
        if (SLOTS > 1) load(fetched.second, second + at, count);
        return fetched;
    }
    __device__ __forceinline__ void finish(int row, int column, int count, float (&values)[4], Fetched fetched) {
        const long long at = static_cast<long long>(row) * columns + column;
        for (int i = 0; i < 4; ++i)
            values[i] = stepped(fetched.w[i], values[i] * unscale, fetched.first[i], fetched.second[i], settings);
        store(w + at, values, count);
        if (SLOTS > 0) store(first + at, fetched.first, count);
        if (SLOTS > 1) store(second + at, fetched.second, count);
        if (elements) store_parts(elements + row * stride + column, part, values, count);
    }
    __device__ __forceinline__ void end(char*, Tile tile) {
        const int column = tile.column + threadIdx.x;
        if (tile.row > 0 || threadIdx.x >= EDGE || column >= columns) return;
        float sum = 0.0f;
        for (int block = 0; block < blocks; ++block) sum += partials[static_cast<long long>(block) * columns + column];
        float one = SLOTS > 0 ? b_first[column] : 0.0f, two = SLOTS > 1 ? b_second[column] : 0.0f;
        const float before = OPTIMIZER_CODE == GRADIENT ? 0.0f : b[column];
        elements::Settings undecayed = settings;
        undecayed.l2 = undecayed.shrink = 0.0f;
        b[column] = stepped(before, sum * unscale, one, two, undecayed);
        if (SLOTS > 0) b_first[column] = one;
        if (SLOTS > 1) b_second[column] = two;
    }
};

#define UPDATE_PARAMETERS                                                                                              \
    float *w, float *first, float *second, Element *elements, long long stride, long long part, const float *partials,   \
        float *b, float *b_first, float *b_second, float unscale, const elements::Settings *numbers

#define UPDATE_EPILOGUE(N, M)                                                                                          \
    Update{w, first, second, elements, stride, part, partials, int(((N) + EDGE - 1) / EDGE), b, b_first, b_second,       \
           unscale, numbers, int(M)}

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK_THREADS, BLOCKS)
weight_update(const Element* x, long long x_stride, long long x_part, const Element* dz, long long dz_stride,
              long long dz_part, long long n, long long k, long long m, UPDATE_PARAMETERS) {
    char* shared = reinterpret_cast<char*>(dynamic_shared());
    Update epilogue = UPDATE_EPILOGUE(n, m);
    gemm<false, false>(shared, {x, x_stride, x_part, int(k)}, {dz, dz_stride, dz_part, int(m)}, 0, int(n), epilogue);
}

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK_THREADS, BLOCKS)
weight_partials(const Element* x, long long x_stride, long long x_part, const Element* dz, long long dz_stride,
                long long dz_part, long long n, long long k, long long m, long long share, float* sums) {
    char* shared = reinterpret_cast<char*>(dynamic_shared());
    const int begin = int(blockIdx.y * share), end = int(min(n, begin + share));
    Keep epilogue{sums + blockIdx.y * k * m, int(m)};
    gemm<false, false>(shared, {x, x_stride, x_part, int(k)}, {dz, dz_stride, dz_part, int(m)}, begin, end, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS)
apply_update(const float* sums, long long splits, long long n, long long k, long long m, UPDATE_PARAMETERS) {
    char* shared = reinterpret_cast<char*>(dynamic_shared());
    const Tile tile = tile_of(blockIdx.x, int(k), int(m));
    Update epilogue = UPDATE_EPILOGUE(n, m);
    for_rows(shared, tile, int(k), int(m), epilogue, [&](int row, int column, float (&values)[4]) {
        const int count = min(int(m) - tile.column - column, 4);
        const float* from = sums + (tile.row + row) * m + tile.column + column;
        load(values, from, count);
        for (int split = 1; split < splits; ++split) {
            float more[4];
            load(more, from + split * k * m, count);
            for (int i = 0; i < 4; ++i) values[i] += more[i];
        }
    });
}
