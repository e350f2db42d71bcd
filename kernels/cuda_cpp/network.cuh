// The network of a program that is compiled for it: macro WIDTHS, with commas, and its flat buffer as network.py has it.
#pragma once

namespace {
constexpr int widths[] = {WIDTHS};
constexpr int LAYERS = sizeof(widths) / sizeof(int) - 1, INPUTS = widths[0], OUTPUTS = widths[LAYERS];

constexpr int aligned(int size) { return (size + 15) / 16 * 16; }

// Where layer i's w and b begin; for i = LAYERS, the size of all.
constexpr int flat_w(int i) {
    return i == 0 ? 0 : flat_w(i - 1) + aligned(widths[i - 1] * widths[i]) + aligned(widths[i]);
}
constexpr int flat_b(int i) { return flat_w(i) + aligned(widths[i] * widths[i + 1]); }
}  // namespace
