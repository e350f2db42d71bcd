"""The integer tables by which compiled code finds a network's layers and buffers: the names of their places."""

INPUTS, OUTPUTS, ACTIVATION, WEIGHTS, BIAS, OUTPUT, SAVED, FACTOR, GRADIENT, GRADIENT_ROW, LAYER_FIELDS = range(11)
"""A layer's row: widths, activation code, offsets in the flat buffer, and where y and what its derivative needs lie (y
itself, or z): addresses of [rows, outputs], or offsets in a member's arena of [outputs, rows]. FACTOR is the address
where products read y: y itself, or its rounded copy. For a network that runs across the batch also where its gradient
lies in a chunk's copy, and that one's elements a row."""

(
    LAYERS, LOSS, ROWS, BATCH_X, BATCH_TARGET, BATCH_LABELS, GRADIENT0, GRADIENT1, PARTIAL, SCRATCH, ZEROS,
    PACKED, CAPACITY, ARENAS, ARENA_SIZE, COPIES, COPY_SIZE, BLOCK, ROUNDED, SIZE, FACTOR0, FACTOR1, PLAN_FIELDS,
) = range(23)  # fmt: skip
"""The plan: counts and codes, then addresses. GRADIENT0 and GRADIENT1 hold dJ/dz of even and odd layers. ROUNDED
is where a network of dtype bfloat16 keeps its SIZE parameters rounded, and its input at BATCH_X; in others it is 0.
FACTOR0 and FACTOR1 are where products read dJ/dz: the gradients themselves, or their rounded copies. For a network
that runs across the batch the two gradients, SCRATCH and ZEROS are offsets in each member's arena."""
