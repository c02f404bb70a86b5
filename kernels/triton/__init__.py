"""GPU kernels for weights in GGUF blocks: `ready` says if they serve here, `tiles` which one.

The package is optional and so is triton: only `gemm` and `unpack` import it, and only `ready`
imports those, when a product asks. Checked without a GPU: the numbers in Triton's interpreter, and
that the kernels compile for cards of 8.0 to 12.0. Nothing here was run on a card yet; that is
why a trial on the card itself (`ready.trial`) comes before the first use of every type.
"""
