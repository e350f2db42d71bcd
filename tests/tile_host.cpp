// AMX's instructions for a processor that has none: each raises SIGILL, whose handler here does it, on tiles in memory.
//
// Preloaded into a process, so that its handler is the first. A thread's tiles are its own, as they are in a processor;
// only whole ones, 16 rows of 64 bytes, are known. What no processor would do, or what costs one twice the time, ends
// the process: a tile that was not configured, one left configured at the end of a thread, a row that is not one cache
// line. Instructions after Intel's Software Developer's Manual, volume 2; a count of each goes to the file that
// FASTMLP_TILE_COUNTS names.

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <immintrin.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

constexpr int TILES = 8, EDGE = 16;

struct Tiles {
    bool configured = false;
    alignas(64) uint32_t data[TILES][EDGE][EDGE];

    ~Tiles();
};

[[noreturn]] void die(const char *why) {
    fprintf(stderr, "tile_host.cpp: %s\n", why);
    fflush(stderr);
    _exit(70);
}

Tiles::~Tiles() {
    if (configured) die("a thread ends with its tiles configured");
}

thread_local Tiles tiles __attribute__((tls_model("initial-exec")));

enum Kind { CONFIGURE, RELEASE, ZERO, LOAD, STORE, MULTIPLY, KINDS };
const char *const NAMES[KINDS] = {"ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps"};
uint64_t counts[KINDS];

const int REGISTERS[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

// An instruction with the VEX prefix of three bytes: its fields, and how long it is.
struct Instruction {
    const uint8_t *at;
    const greg_t *registers;
    int prefix, operation, mode, reg, rm, second, length = 5;
    uint64_t address = 0, stride = 0;

    Instruction(const uint8_t *code, const greg_t *gregs) : at(code), registers(gregs) {
        const bool is_vex = code[0] == 0xC4 && (code[1] & 0x1F) == 2 && (code[2] & 0x84) == 0;
        prefix = code[2] & 3, operation = is_vex ? code[3] : 0, second = ~code[2] >> 3 & 15;
        mode = code[4] >> 6, reg = code[4] >> 3 & 7, rm = code[4] & 7;
        if (mode != 3) read_address();
    }

    uint64_t value(int number) const { return registers[REGISTERS[number]]; }

    void read_address() {
        const int index_high = at[1] & 0x40 ? 0 : 8, base_high = at[1] & 0x20 ? 0 : 8;
        int base = rm;
        bool has_base = true;
        if (rm == 4) {
            const int sib = at[length++], index = (sib >> 3 & 7) | index_high;
            base = sib & 7;
            if (index != 4) stride = value(index) << (sib >> 6);
        }
        const bool is_relative = rm == 5 && mode == 0;
        has_base = !(base == 5 && mode == 0);
        if (has_base) address = value(base | base_high);
        if (mode == 1) {
            address += int8_t(at[length]), length += 1;
        } else if (mode == 2 || !has_base) {
            int32_t displacement;
            memcpy(&displacement, at + length, 4);
            address += int64_t(displacement), length += 4;
        }
        if (is_relative) address += uint64_t(at) + length;
    }
};

void configure(const uint8_t *content) {
    if (content[0] != 1) die("ldtilecfg of another palette than 1");
    for (int tile = 0; tile < TILES; tile++)
        if (content[16 + 2 * tile] != 64 || content[17 + 2 * tile] != 0 || content[48 + tile] != EDGE)
            die("ldtilecfg of tiles that are not whole");
    if (tiles.configured) die("ldtilecfg of tiles that are configured");
    memset(tiles.data, 0, sizeof tiles.data);
    tiles.configured = true;
}

void move(int tile, uint64_t address, uint64_t stride, bool stores) {
    for (int row = 0; row < EDGE; row++) {
        const uint64_t place = address + row * stride;
        if (place % 64) die("a row of a tile is not one cache line");
        if (stores) memcpy(reinterpret_cast<void *>(place), tiles.data[tile][row], 64);
        else memcpy(tiles.data[tile][row], reinterpret_cast<const void *>(place), 64);
    }
}

// Sums of the first and of the second numbers of all pairs, from zero, then their sum; subnormal numbers are zero.
void multiply(int total, int a, int b) {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(0x1F80 | 0x8040);
    for (int row = 0; row < EDGE; row++) {
        __m512 first = _mm512_setzero_ps(), second = first;
        for (int pair = 0; pair < EDGE; pair++) {
            const __m512i high = _mm512_set1_epi32(int(0xFFFF0000));
            const __m512i x = _mm512_set1_epi32(int(tiles.data[a][row][pair]));
            const __m512i y = _mm512_load_si512(tiles.data[b][pair]);
            first = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(y, 16)), first);
            second = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_and_si512(x, high)), _mm512_castsi512_ps(_mm512_and_si512(y, high)), second);
        }
        float *place = reinterpret_cast<float *>(tiles.data[total][row]);
        _mm512_store_ps(place, _mm512_add_ps(_mm512_load_ps(place), _mm512_add_ps(first, second)));
    }
    _mm_setcsr(mode);
}

// What the instruction is, after doing it; KINDS for one of somebody else's.
Kind perform(const Instruction &it) {
    const bool in_memory = it.mode != 3;
    Kind kind = KINDS;
    if (it.operation == 0x49 && it.prefix == 0 && it.reg == 0) kind = in_memory ? CONFIGURE : RELEASE;
    if (it.operation == 0x49 && it.prefix == 3 && !in_memory) kind = ZERO;
    if (it.operation == 0x4B && in_memory) kind = it.prefix == 2 ? STORE : it.prefix == 3 ? LOAD : KINDS;
    if (it.operation == 0x5C && it.prefix == 2 && !in_memory) kind = MULTIPLY;
    if (kind == KINDS) return kind;
    if (kind != CONFIGURE && kind != RELEASE && !tiles.configured) die("a tile that was not configured");
    if (kind == CONFIGURE) configure(reinterpret_cast<const uint8_t *>(it.address));
    if (kind == RELEASE) tiles.configured = false;
    if (kind == ZERO) memset(tiles.data[it.reg], 0, sizeof tiles.data[it.reg]);
    if (kind == LOAD || kind == STORE) move(it.reg, it.address, it.stride, kind == STORE);
    if (kind == MULTIPLY) {
        if (it.reg == it.rm || it.reg == it.second || it.rm == it.second) die("tdpbf16ps of a tile and itself");
        multiply(it.reg, it.rm, it.second);
    }
    return kind;
}

void handle(int, siginfo_t *, void *context) {
    greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    const Instruction instruction(reinterpret_cast<const uint8_t *>(registers[REG_RIP]), registers);
    const Kind kind = perform(instruction);
    if (kind == KINDS) {
        signal(SIGILL, SIG_DFL);
        return;
    }
    __atomic_fetch_add(&counts[kind], 1, __ATOMIC_RELAXED);
    registers[REG_RIP] += instruction.length;
}

__attribute__((constructor)) void begin() {
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
}

__attribute__((destructor)) void end() {
    const char *path = getenv("FASTMLP_TILE_COUNTS");
    FILE *file = path && counts[CONFIGURE] ? fopen(path, "w") : nullptr;
    if (!file) return;
    for (int kind = 0; kind < KINDS; kind++) fprintf(file, "%s %llu\n", NAMES[kind], (unsigned long long)counts[kind]);
    fclose(file);
}

}  // namespace

// Linux grants the tiles.
extern "C" long syscall(long number, ...) {
    static auto *const original = reinterpret_cast<long (*)(long, ...)>(dlsym(RTLD_NEXT, "syscall"));
    long values[6];
    va_list arguments;
    va_start(arguments, number);
    for (long &value : values) value = va_arg(arguments, long);
    va_end(arguments);
    if (number == 158 && values[0] == 0x1023 && values[1] == 18) return 0;
    return original(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}
