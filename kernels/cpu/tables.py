"""The integer tables by which compiled code finds a network's layers and buffers: the names of their places."""

INPUTS, OUTPUTS, ACTIVATION, WEIGHTS, BIAS, OUTPUT, SAVED, GRADIENT, GRADIENT_ROW, LAYER_FIELDS = range(10)
"""A layer's row: widths, activation code, offsets in the flat buffer, and where y and what its derivative needs lie (y
itself, or z): addresses of [rows, outputs], or offsets in a member's arena of [outputs, rows]. For a network that runs
across the batch also where its gradient lies in a chunk's copy, and that one's elements a row."""

(
    LAYERS, LOSS, ROWS, BATCH_X, BATCH_TARGET, BATCH_LABELS, GRADIENT0, GRADIENT1, PARTIAL, SCRATCH, ZEROS,
    PACKED, CAPACITY, ARENAS, ARENA_SIZE, COPIES, COPY_SIZE, BLOCK, PLAN_FIELDS,
) = range(19)  # fmt: skip
"""The plan: counts and codes, then addresses. GRADIENT0 and GRADIENT1 hold dJ/dz of even and odd layers. For a network
that runs across the batch these two, SCRATCH and ZEROS are offsets in each member's arena."""
