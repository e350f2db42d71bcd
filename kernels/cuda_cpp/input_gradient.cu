// dz = (dz of the layer above @ w.T) * activation'(saved): a layer's own delta, and its bias gradient in partial sums.
//
// Deltas are elements in PARTS parts, times a power of two where those are float16 (`scale`). `saved` is what the
// derivative is taken from, [n, columns]: y as elements for relu and leaky_relu, whose sign alone counts; float32 y or z
// for the others. partials[ceil(n / 128), columns] receives the sums of dz itself, float32, over 128 rows each, and dx,
// where given, dz in float32. Grid: one block of BLOCK_THREADS a tile of 128 x
// TILE_COLUMNS, THREADS for output_delta.
#include "elements.cuh"
#include "product_of_elements.cuh"

constexpr bool SIGN = ACTIVATION_CODE == elements::RELU || ACTIVATION_CODE == elements::LEAKY_RELU;

struct Delta {
    const void* saved;
    long long saved_stride;
    float* dx;
    Element* elements;
    long long stride, part;
    float* partials;
    int columns;
    float sums[4];

    struct Fetched {
        float saved[4];
    };

    __device__ __forceinline__ void begin(int, int) {
        for (int i = 0; i < 4; ++i) sums[i] = 0.0f;
    }
    __device__ __forceinline__ void ask(int row, int column, int count) const {
        const long long at = row * saved_stride + column;
        if (SIGN) prefetch_run(static_cast<const Element*>(saved) + at, 2 * count);
        else if (ACTIVATION_CODE != elements::IDENTITY) prefetch_run(static_cast<const float*>(saved) + at, 4 * count);
    }
    __device__ __forceinline__ Fetched fetch(int row, int column, int count) {
        Fetched fetched = {};
        const long long at = row * saved_stride + column;
        if (SIGN) load(fetched.saved, static_cast<const Element*>(saved) + at, count);
        else if (ACTIVATION_CODE != elements::IDENTITY) load(fetched.saved, static_cast<const float*>(saved) + at, count);
        return fetched;
    }
    __device__ __forceinline__ void finish(int row, int column, int count, float (&values)[4], const Fetched& fetched) {
        for (int i = 0; i < 4; ++i) {
            values[i] = elements::differentiate<ACTIVATION_CODE>(values[i], fetched.saved[i]);
            sums[i] += values[i];
        }
        if (dx) store(dx + static_cast<long long>(row) * columns + column, values, count);
        if (elements) store_parts(elements + row * stride + column, part, values, count);
    }
    __device__ __forceinline__ void end(char* shared, Tile tile) {
        if (partials) store_column_sums(shared, tile, columns, sums, partials);
    }
};

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK_THREADS, BLOCKS)
input_gradient(const Element* dz, long long dz_stride, long long dz_part, const Element* w, long long w_stride,
               long long w_part, long long n, long long k, long long m, const void* saved, long long saved_stride,
               float* dx, Element* elements, long long stride, long long part, float* partials) {
    char* shared = reinterpret_cast<char*>(dynamic_shared());
    Delta epilogue{saved, saved_stride, dx, elements, stride, part, partials, int(k)};
    gemm<true, true>(shared, {dz, dz_stride, dz_part, int(n)}, {w, w_stride, w_part, int(k)}, 0, int(m), epilogue);
}

// The last layer's delta from the loss's gradient dy[n, m], float32, times `scale`.
extern "C" __global__ void __launch_bounds__(THREADS)
output_delta(const float* dy, float scale, long long n, long long m, const void* saved, long long saved_stride,
             Element* elements, long long stride, long long part, float* partials) {
    char* shared = reinterpret_cast<char*>(dynamic_shared());
    const Tile tile = tile_of(blockIdx.x, int(n), int(m));
    Delta epilogue{saved, saved_stride, nullptr, elements, stride, part, partials, int(m)};
    for_rows(shared, tile, int(n), int(m), epilogue, [&](int row, int column, float (&values)[4]) {
        const int at = tile.column + column;
        load(values, dy + (tile.row + row) * m + at, min(int(m) - at, 4));
        for (int i = 0; i < 4; ++i) values[i] *= scale;
    });
}
