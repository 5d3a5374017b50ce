# Instruction sets, best first: name | processors | features to probe | flags | floats in a vector | `whole`, or `part`
# for a set that adds a few kernels to the next. AArch64 keeps no whole vector across a call, so there a loop must not become
# one of memcpy.
set(TCONV_ISAS
    "avx512bf16|x86_64|avx512bf16 avx512f avx512dq avx512bw avx512vl avx2 fma f16c|-mavx512bf16 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512|16|part"
    "avx512|x86_64|avx512f avx512dq avx512bw avx512vl avx2 fma f16c|-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512|16|whole"
    "avx2|x86_64|avx2 fma f16c|-mavx2 -mfma -mf16c|8|whole"
    "neon|aarch64||-march=armv8-a -fno-tree-loop-distribute-patterns|4|whole"
    "portable|.*|||4|whole")
