"""GPU kernels for weights in GGUF blocks: `backend` decides if they are used, `tiles` which one.

The package is optional and so is triton: only `gemm` and `unpackers` import it, and only `backend`
imports those, when a product asks. Checked without a GPU: the numbers in Triton's interpreter, and
that the kernels compile for cards of 8.0 to 12.0. Nothing here was run on a card yet
(`bench/gpu_check.py` does that); so a trial on the card itself (`backend.trial`) comes before the
first use of every type.
"""
