"""The integer tables by which compiled code finds a network's layers and buffers: the names of their places."""

(
    INPUTS, OUTPUTS, ACTIVATION, DERIVATIVE, WEIGHTS, BIAS, OUTPUT, SAVED, GRADIENT, GRADIENT_ROW, Y_ACROSS, Y_DOWN,
    W_ACROSS, W_DOWN, LAYER_FIELDS,
) = range(15)  # fmt: skip
"""A layer's row: widths, the ways of its activation and of the derivative (activations.py), offsets in the flat buffer,
and where y and what its derivative needs lie (y itself, or z): addresses of [rows, outputs], or offsets in a member's
arena of [outputs, rows]. For a network that runs across the batch also where its gradient lies in a chunk's copy, and
that one's elements a row. The last four, of bfloat16, are the addresses of the pairs of y and w, 0 where no product
reads them; OUTPUT is 0 if nothing reads y."""

(
    LAYERS, LOSS, LOSS_ROUTINE, ROWS, BATCH_X, BATCH_TARGET, BATCH_LABELS, GRADIENT0, GRADIENT1, PARTIAL, SCRATCH,
    ZEROS, PACKED, CAPACITY, ARENAS, ARENA_SIZE, COPIES, COPY_SIZE, JOINED, BLOCK, SHARED_ROWS, SQUARES, X_ACROSS,
    X_DOWN, DZ_ACROSS0, DZ_ACROSS1, DZ_DOWN0, DZ_DOWN1, SUMS0, SUMS1, TOTAL, SUMMING, PLAN_FIELDS,
) = range(33)  # fmt: skip
"""The plan: counts and codes, then addresses. LOSS_ROUTINE is that of losses.py, or of across_losses.py. GRADIENT0 and
GRADIENT1 hold dJ/dz of even and odd layers, in bfloat16 of the last alone. SQUARES is for partial sums of squared
weights. X_ACROSS to SUMS1, of bfloat16, are pairs of the batch's x, and pairs and sums of rows of dJ/dz. TOTAL, in the
flat layout, is for the gradients of a batch's first parts, and SUMMING the settings of the rule that leaves them there.
For a network that runs across the batch the two gradients, SCRATCH and ZEROS are offsets in each member's arena, BLOCK
and SHARED_ROWS say what a batch is cut into, and JOINED, of each chunk, whether its gradients were added to its group's
first copy."""
