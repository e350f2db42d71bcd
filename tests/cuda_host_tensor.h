// The instructions of tensor.cuh on a processor, for cuda_host.h.
//
// Harsh where the hardware leaves room: the sum that a product instruction makes is exact and then cut off to float32, as
// tensor cores cut off what they add; the place of an asynchronous copy is NaN until the wait for it; addresses that are
// misaligned or outside of what the block has end the process.
#pragma once
#define FASTMLP_TENSOR_CUH

namespace host {
inline void demand(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "cuda_host: %s, thread %u of block %u\n", what, now->index, now->block->index.x);
    std::abort();
}
inline void demand_shared(const void* place, size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(place);
    demand(at >= now->block->shared && at + bytes <= now->block->shared + now->block->shared_bytes, "not in shared memory");
    demand(reinterpret_cast<uintptr_t>(place) % bytes == 0, "misaligned in shared memory");
}
inline float cut(double exact) {
    const float nearest = static_cast<float>(exact);
    const bool beyond = std::isfinite(exact) && std::fabs(static_cast<double>(nearest)) > std::fabs(exact);
    return beyond ? std::nextafterf(nearest, 0.0f) : nearest;
}
}  // namespace host

inline unsigned bfloat16_of(float value) {
    if (value != value) return 0x7fff;
    const unsigned bits = __float_as_uint(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline unsigned float16_of(float value) {
    if (value != value) return 0x7fff;
    const unsigned sign = __float_as_uint(value) >> 16 & 0x8000;
    const double size = std::fabs(static_cast<double>(value));
    if (size == 0) return sign;
    if (size >= 65520) return sign | 0x7c00;  // half a step beyond the largest
    int exponent;
    std::frexp(size, &exponent);                      // size < 2^exponent
    const int lowest = std::max(exponent - 11, -24);  // of 11 significant bits, or a subnormal's
    const unsigned steps = static_cast<unsigned>(std::nearbyint(std::ldexp(size, -lowest)));
    return sign | (((lowest + 24) << 10) + steps);  // a normal's leading bit counts in the exponent
}

inline unsigned pack_bfloat16(float low, float high) { return bfloat16_of(low) | bfloat16_of(high) << 16; }
inline unsigned pack_float16(float low, float high) { return float16_of(low) | float16_of(high) << 16; }

inline float widen_float16(unsigned short bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                       : std::ldexp(float(mantissa + 1024), exponent - 25);
    return bits & 0x8000 ? -size : size;
}

inline void copy_part(void* shared, const void* global, int bytes) {
    host::demand_shared(shared, 16);
    host::demand(reinterpret_cast<uintptr_t>(global) % 16 == 0, "misaligned in global memory");
    host::demand(bytes >= 0 && bytes <= 16, "a copy of more than 16 bytes");
    static const unsigned char zeros[16] = {};
    std::memset(shared, 0xff, 16);
    host::now->open.push_back({shared, global, bytes});
    host::now->open.push_back({static_cast<char*>(shared) + bytes, zeros, 16 - bytes});
}

template <bool TRANSPOSED>
void load_matrices_of_warp(unsigned (&to)[4], const void* row) {
    host::demand_shared(row, 16);
    const unsigned short* rows[32];
    host::from_all_lanes(static_cast<const unsigned short*>(row), rows);
    const int down = host::now->lane / 4, along = host::now->lane % 4 * 2;
    for (int j = 0; j < 4; ++j) {
        const auto element = [&](int r, int c) { return unsigned(rows[8 * j + r][c]); };
        to[j] = TRANSPOSED ? element(along, down) | element(along + 1, down) << 16
                           : element(down, along) | element(down, along + 1) << 16;
    }
}
inline void load_matrices(unsigned (&to)[4], const void* row) { load_matrices_of_warp<false>(to, row); }
inline void load_matrices_transposed(unsigned (&to)[4], const void* row) { load_matrices_of_warp<true>(to, row); }

template <typename Widen>
void multiply_in_warp(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Widen widen) {
    struct Fragments {
        unsigned a[4], b[2];
    } all[32];
    host::from_all_lanes(Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all);
    const auto half = [&](unsigned pair, int which) { return double(widen(static_cast<unsigned short>(pair >> 16 * which))); };
    const int g = host::now->lane / 4, t = host::now->lane % 4;
    for (int e = 0; e < 4; ++e) {
        double sum = c[e];
        for (int k = 0; k < 16; ++k) {
            const int holder = k % 8 / 2, late = k / 8;
            sum += half(all[4 * g + holder].a[2 * late + e / 2], k % 2) *
                   half(all[4 * (2 * t + e % 2) + holder].b[late], k % 2);
        }
        c[e] = host::cut(sum);
    }
}
inline void multiply_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_in_warp(c, a, b, [](unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); });
}
inline void multiply_float16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_in_warp(c, a, b, widen_float16);
}
