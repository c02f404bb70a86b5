/* Packed weights to float32 or bfloat16, the same bits as the torch functions of this package.

   One thread and no state: the caller cuts a matrix into pieces and runs them on threads of its own.
   The compiler makes the vectors of the CPU that it runs on. It must not fuse a product and a sum
   (-ffp-contract=off), which would skip a rounding. Little-endian, as the files.
   The comment above each block is its C struct (ggml-common.h). */

#include <stdint.h>
#include <string.h>

#define WIDEST 256 /* weights of the largest block */
#define INLINE static inline __attribute__((always_inline))

INLINE float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

INLINE uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

/* float16, subnormal numbers too */
INLINE float half(const uint8_t *at) {
  const uint32_t h = (uint32_t)at[0] | (uint32_t)at[1] << 8;
  const uint32_t sign = (h & 0x8000) << 16, rest = h & 0x7fff;
  if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest >= 0x0400) return from_bits(sign | ((rest << 13) + 0x38000000));
  return from_bits(sign | to_bits((float)rest * 0x1p-24f));
}

/* n floats to bfloat16, to the nearest, ties to even; weights are never NaN */
INLINE void round_to_bf16(const float *restrict from, uint16_t *restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, from + i, 4);
    to[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

/* 16 codes at a time, in vectors that GCC and Clang know for every processor */
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef int8_t Codes __attribute__((vector_size(16)));

INLINE Bytes load(const uint8_t *at) {
  Bytes bytes;
  memcpy(&bytes, at, 16);
  return bytes;
}

INLINE void store(Bytes bytes, void *at) { memcpy(at, &bytes, 16); }

/* n codes times a scale; 16 where they were just written by 16, which processors pass on at once. Made from memory: of __builtin_convertvector GCC 12 makes slow code, and so
   it does of a loop that it unrolls whole before it looks for vectors. */
INLINE void scaled(const int8_t *restrict codes, int n, float scale, float *restrict w) {
#pragma GCC unroll 1
  for (int i = 0; i < n; i++) w[i] = (float)codes[i] * scale;
}

/* n codes times a scale, plus a minimum */
INLINE void above(const uint8_t *restrict codes, int n, float scale, float least,
                  float *restrict w) {
#pragma GCC unroll 1
  for (int i = 0; i < n; i++) {
    const float product = (float)codes[i] * scale;
    w[i] = product + least;
  }
}

INLINE void twice(const int8_t *restrict codes, float scale, float *restrict w) {
  scaled(codes, 16, scale, w);
  scaled(codes + 16, 16, scale, w + 16);
}

static const Codes IQ4_LEVELS = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};
static const Codes E2M1_TWICE = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* the entries of a table that 16 nibbles name */
INLINE Codes levels(Codes table, Bytes nibbles) {
#ifdef __clang__
  Codes codes;
  for (int i = 0; i < 16; i++) codes[i] = table[nibbles[i]];
  return codes;
#else
  return __builtin_shuffle(table, (Codes)nibbles);
#endif
}

/* the bits from `bit` on of 16 bits, one for each code: 0 or 1 */
INLINE Bytes bits_of(uint32_t bits) {
  const Bytes place = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8_t a = (uint8_t)bits, b = (uint8_t)(bits >> 8);
  const Bytes both = {a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
  return (Bytes)((both & place) != 0) & 1;
}

/* { half d; uint8 qs[16]; } */
INLINE void q4_0(const uint8_t *restrict b, float *restrict w) {
  const Bytes qs = load(b + 2);
  int8_t codes[32];
  store((Bytes)((Codes)(qs & 15) - 8), codes);
  store((Bytes)((Codes)(qs >> 4) - 8), codes + 16);
  twice(codes, half(b), w);
}

/* { half d, m; uint8 qs[16]; } */
INLINE void q4_1(const uint8_t *restrict b, float *restrict w) {
  const Bytes qs = load(b + 4);
  uint8_t codes[32];
  store(qs & 15, codes);
  store(qs >> 4, codes + 16);
  const float d = half(b), m = half(b + 2);
  above(codes, 16, d, m, w);
  above(codes + 16, 16, d, m, w + 16);
}

/* uint8 qh[4], the fifth bits, and uint8 qs[16] */
INLINE void five_bits(const uint8_t *restrict b, Bytes *low, Bytes *high) {
  const Bytes qs = load(b + 4);
  *low = (qs & 15) | bits_of((uint32_t)b[0] | (uint32_t)b[1] << 8) << 4;
  *high = qs >> 4 | bits_of((uint32_t)b[2] | (uint32_t)b[3] << 8) << 4;
}

/* { half d; uint8 qh[4]; uint8 qs[16]; } */
INLINE void q5_0(const uint8_t *restrict b, float *restrict w) {
  Bytes low, high;
  int8_t codes[32];
  five_bits(b + 2, &low, &high);
  store((Bytes)((Codes)low - 16), codes);
  store((Bytes)((Codes)high - 16), codes + 16);
  twice(codes, half(b), w);
}

/* { half d, m; uint8 qh[4]; uint8 qs[16]; } */
INLINE void q5_1(const uint8_t *restrict b, float *restrict w) {
  Bytes low, high;
  uint8_t codes[32];
  five_bits(b + 4, &low, &high);
  store(low, codes);
  store(high, codes + 16);
  const float d = half(b), m = half(b + 2);
  above(codes, 16, d, m, w);
  above(codes + 16, 16, d, m, w + 16);
}

/* { half d; int8 qs[32]; } */
INLINE void q8_0(const uint8_t *restrict b, float *restrict w) {
  scaled((const int8_t *)(b + 2), 32, half(b), w);
}

/* uint8 qs[16] -> 32 entries of a table */
INLINE void looked_up(Codes table, const uint8_t *restrict qs, int8_t *restrict codes) {
  const Bytes both = load(qs);
  store((Bytes)levels(table, both & 15), codes);
  store((Bytes)levels(table, both >> 4), codes + 16);
}

/* { half d; uint8 qs[16]; } */
INLINE void iq4_nl(const uint8_t *restrict b, float *restrict w) {
  int8_t codes[32];
  looked_up(IQ4_LEVELS, b + 2, codes);
  twice(codes, half(b), w);
}

/* { uint8 e; uint8 qs[16]; }, the scale is 2^(e - 128) */
INLINE void mxfp4(const uint8_t *restrict b, float *restrict w) {
  int8_t codes[32];
  looked_up(E2M1_TWICE, b + 1, codes);
  twice(codes, from_bits(b[0] > 1 ? (uint32_t)(b[0] - 1) << 23 : 0x00200000u << b[0]), w);
}

/* { uint8 d[4]; uint8 qs[32]; }, scales are unsigned e4m3, one for 8 bytes of qs */
INLINE void nvfp4(const uint8_t *restrict b, float *restrict w) {
  int8_t codes[2][32]; /* of 16 bytes: their low nibbles, then the high ones */
  looked_up(E2M1_TWICE, b + 4, codes[0]);
  looked_up(E2M1_TWICE, b + 20, codes[1]);
  for (int j = 0; j < 4; j++) {
    const float d = b[j] == 0x7f ? 0.0f : from_bits((uint32_t)(b[j] & 0x7f) << 20) * 0x1p119f;
    int8_t own[16];
    memcpy(own, codes[j / 2] + 8 * (j % 2), 8);
    memcpy(own + 8, codes[j / 2] + 16 + 8 * (j % 2), 8);
    scaled(own, 16, d, w + 16 * j);
  }
}

/* { uint8 scales[16]; uint8 qs[64]; half d, dmin; } */
INLINE void q2_k(const uint8_t *restrict b, float *restrict w) {
  const float d = half(b + 80), least = -half(b + 82);
  uint8_t codes[256];
  for (int j = 0; j < 4; j++) {
    const Bytes qs = load(b + 16 + 16 * j);
    uint8_t *to = codes + 128 * (j / 2) + 16 * (j % 2);
    store(qs & 3, to);
    store(qs >> 2 & 3, to + 32);
    store(qs >> 4 & 3, to + 64);
    store(qs >> 6, to + 96);
  }
  for (int j = 0; j < 16; j++)
    above(codes + 16 * j, 16, (float)(b[j] & 15) * d, (float)(b[j] >> 4) * least, w + 16 * j);
}

/* { uint8 hmask[32]; uint8 qs[64]; uint8 scales[12]; half d; } */
INLINE void q3_k(const uint8_t *restrict b, float *restrict w) {
  const uint8_t *packed = b + 96;
  const float d = half(b + 108);
  int8_t codes[256];
  Bytes both[2] = {load(b), load(b + 16)};
  for (int j = 0; j < 4; j++) {
    const Bytes qs = load(b + 32 + 16 * j), high = both[j % 2];
    int8_t *to = codes + 128 * (j / 2) + 16 * (j % 2);
    both[j % 2] = high >> 4;
    store((Bytes)((Codes)((qs & 3) | (high & 1) << 2) - 4), to);
    store((Bytes)((Codes)((qs >> 2 & 3) | (high & 2) << 1) - 4), to + 32);
    store((Bytes)((Codes)((qs >> 4 & 3) | (high & 4)) - 4), to + 64);
    store((Bytes)((Codes)(qs >> 6 | (high >> 1 & 4)) - 4), to + 96);
  }
  int8_t scales[16];
  for (int j = 0; j < 4; j++) {
    const int high = packed[8 + j];
    scales[j] = (int8_t)(((packed[j] & 15) | (high & 3) << 4) - 32);
    scales[j + 4] = (int8_t)(((packed[j + 4] & 15) | (high >> 2 & 3) << 4) - 32);
    scales[j + 8] = (int8_t)((packed[j] >> 4 | (high >> 4 & 3) << 4) - 32);
    scales[j + 12] = (int8_t)((packed[j + 4] >> 4 | high >> 6 << 4) - 32);
  }
  for (int j = 0; j < 16; j++) scaled(codes + 16 * j, 16, (float)scales[j] * d, w + 16 * j);
}

/* uint8 scales[12] of 6 bits: 8 scales and 8 minimums */
INLINE void six_bits(const uint8_t *packed, uint8_t *scales, uint8_t *least) {
  for (int j = 0; j < 4; j++) {
    scales[j] = packed[j] & 63;
    least[j] = packed[j + 4] & 63;
    scales[j + 4] = (uint8_t)((packed[j + 8] & 15) | packed[j] >> 6 << 4);
    least[j + 4] = (uint8_t)(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
  }
}

/* codes of 8 sub-blocks of 32, each with a scale and a minimum of 6 bits */
INLINE void sub_blocks(const uint8_t *restrict b, const uint8_t *restrict codes,
                       float *restrict w) {
  uint8_t scales[8], least[8];
  const float d = half(b), dmin = half(b + 2);
  six_bits(b + 4, scales, least);
  for (int k = 0; k < 8; k++)
    above(codes + 32 * k, 32, (float)scales[k] * d, -((float)least[k] * dmin), w + 32 * k);
}

/* { half d, dmin; uint8 scales[12]; uint8 qs[128]; } */
INLINE void q4_k(const uint8_t *restrict b, float *restrict w) {
  uint8_t codes[256];
  for (int j = 0; j < 8; j++) {
    const Bytes qs = load(b + 16 + 16 * j);
    uint8_t *to = codes + 64 * (j / 2) + 16 * (j % 2);
    store(qs & 15, to);
    store(qs >> 4, to + 32);
  }
  sub_blocks(b, codes, w);
}

/* { half d, dmin; uint8 scales[12]; uint8 qh[32]; uint8 qs[128]; } */
INLINE void q5_k(const uint8_t *restrict b, float *restrict w) {
  uint8_t codes[256];
  Bytes high[2] = {load(b + 16), load(b + 32)};
  for (int j = 0; j < 8; j++) {
    const Bytes qs = load(b + 48 + 16 * j);
    uint8_t *to = codes + 64 * (j / 2) + 16 * (j % 2);
    store((qs & 15) | (high[j % 2] & 1) << 4, to);
    store(qs >> 4 | (high[j % 2] & 2) << 3, to + 32);
    high[j % 2] = high[j % 2] >> 2;
  }
  sub_blocks(b, codes, w);
}

/* { uint8 ql[128]; uint8 qh[64]; int8 scales[16]; half d; } */
INLINE void q6_k(const uint8_t *restrict b, float *restrict w) {
  const float d = half(b + 208);
  int8_t codes[256];
  for (int j = 0; j < 4; j++) { /* 16 bytes of qh belong to four codes each */
    const int half_block = j / 2, part = 16 * (j % 2);
    const Bytes first = load(b + 64 * half_block + part);
    const Bytes second = load(b + 64 * half_block + 32 + part);
    const Bytes qh = load(b + 128 + 32 * half_block + part);
    int8_t *to = codes + 128 * half_block + part;
    store((Bytes)((Codes)((first & 15) | (qh & 3) << 4) - 32), to);
    store((Bytes)((Codes)((second & 15) | (qh & 12) << 2) - 32), to + 32);
    store((Bytes)((Codes)(first >> 4 | (qh & 48)) - 32), to + 64);
    store((Bytes)((Codes)(second >> 4 | (qh >> 2 & 48)) - 32), to + 96);
  }
  for (int j = 0; j < 16; j++)
    scaled(codes + 16 * j, 16, (float)(int8_t)b[192 + j] * d, w + 16 * j);
}

/* { half d; uint16 scales_h; uint8 scales_l[4]; uint8 qs[128]; } */
INLINE void iq4_xs(const uint8_t *restrict b, float *restrict w) {
  const float d = half(b);
  const unsigned high = (unsigned)b[2] | (unsigned)b[3] << 8;
  for (int j = 0; j < 8; j++) {
    int8_t codes[32];
    const int low = b[4 + j / 2] >> 4 * (j % 2) & 15;
    looked_up(IQ4_LEVELS, b + 8 + 16 * j, codes);
    twice(codes, (float)(low + (int)(high >> 2 * j & 3) * 16 - 32) * d, w + 32 * j);
  }
}

/* { uint8 qs[64]; half d; } */
INLINE void tq2_0(const uint8_t *restrict b, float *restrict w) {
  int8_t codes[256];
  for (int j = 0; j < 4; j++) {
    const Bytes qs = load(b + 16 * j);
    int8_t *to = codes + 128 * (j / 2) + 16 * (j % 2);
    store((Bytes)((Codes)(qs & 3) - 1), to);
    store((Bytes)((Codes)(qs >> 2 & 3) - 1), to + 32);
    store((Bytes)((Codes)(qs >> 4 & 3) - 1), to + 64);
    store((Bytes)((Codes)(qs >> 6) - 1), to + 96);
  }
  scaled(codes, 256, half(b + 64), w);
}

/* n blocks times a factor, as float32 or bfloat16; WIDEST weights at a time */
typedef void (*Unpack)(const uint8_t *restrict, int64_t, float, void *restrict, int);

#define MANY(name, bytes, weights)                                                            \
  static void name##_many(const uint8_t *restrict in, int64_t n, float factor,                \
                          void *restrict out, int bf16) {                                     \
    const int step = WIDEST / (weights);                                                      \
    float work[WIDEST];                                                                       \
    for (int64_t i = 0; i < n; i += step) {                                                   \
      const int count = n - i < step ? (int)(n - i) : step;                                   \
      float *w = bf16 ? work : (float *)out + i * (weights);                                  \
      for (int k = 0; k < count; k++) name(in + (i + k) * (bytes), w + k * (weights));        \
      if (factor != 1.0f)                                                                     \
        for (int k = 0; k < count * (weights); k++) w[k] *= factor;                           \
      if (bf16) round_to_bf16(work, (uint16_t *)out + i * (weights), count * (weights));      \
    }                                                                                         \
  }

MANY(q4_0, 18, 32)
MANY(q4_1, 20, 32)
MANY(q5_0, 22, 32)
MANY(q5_1, 24, 32)
MANY(q8_0, 34, 32)
MANY(iq4_nl, 18, 32)
MANY(mxfp4, 17, 32)
MANY(nvfp4, 36, 64)
MANY(q2_k, 84, 256)
MANY(q3_k, 110, 256)
MANY(q4_k, 144, 256)
MANY(q5_k, 176, 256)
MANY(q6_k, 210, 256)
MANY(iq4_xs, 136, 256)
MANY(tq2_0, 66, 256)

static const Unpack UNPACK[] = {
    q4_0_many, q4_1_many, q5_0_many, q5_1_many, q8_0_many, iq4_nl_many, mxfp4_many, nvfp4_many,
    q2_k_many, q3_k_many, q4_k_many, q5_k_many, q6_k_many, iq4_xs_many, tq2_0_many,
};

void inkstone_blocks(int kind, const uint8_t *in, int64_t n, float factor, void *out, int bf16) {
  UNPACK[kind](in, n, factor, out, bf16);
}

/* n weights from the buffer `work` or in place */
static float *place(void *out, int64_t at, float *work, int bf16) {
  return bf16 ? work : (float *)out + at;
}

/* 8-bit floats [rows, columns] times scales[row * step], as float32 or bfloat16; `mantissa` bits:
   3 of e4m3, 2 of e5m2. Codes are finite. A code's bits, moved to where float32 has them, are its
   value times a power of two, subnormal ones too. */
void inkstone_fp8(const uint8_t *in, int64_t rows, int64_t columns, const float *scales, int step,
                  int mantissa, void *out, int bf16) {
  const float lift = mantissa == 3 ? 0x1p120f : 0x1p112f;
  const int shift = 23 - mantissa;
  float work[WIDEST];
  for (int64_t row = 0; row < rows; row++) {
    const float scale = scales[row * step];
    for (int64_t at = 0; at < columns; at += WIDEST) {
      const int n = columns - at < WIDEST ? (int)(columns - at) : WIDEST;
      const int64_t index = row * columns + at;
      float *restrict w = place(out, index, work, bf16);
      const uint8_t *restrict codes = in + index;
      for (int i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)(codes[i] & 0x7f) << shift | (uint32_t)(codes[i] & 0x80) << 24;
        const float value = from_bits(bits) * lift;
        w[i] = value * scale;
      }
      if (bf16) round_to_bf16(work, (uint16_t *)out + index, n);
    }
  }
}

/* Undoes ConvRot in n neighbours: times the regular Hadamard matrix, which is the Kronecker power of
   one with four rows, each the sum of four numbers less twice one of them. Exact on integers. */
static void rotate(float *restrict w, int n) {
  for (int stride = 1; stride < n; stride *= 4)
    for (int base = 0; base < n; base += 4 * stride)
      for (int i = base; i < base + stride; i++) {
        const float a = w[i], b = w[i + stride], c = w[i + 2 * stride], d = w[i + 3 * stride];
        const float sum = a + b + c + d;
        w[i] = sum - 2 * d;
        w[i + stride] = sum - 2 * c;
        w[i + 2 * stride] = sum - 2 * b;
        w[i + 3 * stride] = sum - 2 * a;
      }
}

/* int8 [rows, columns] times scales[row * step], as float32 or bfloat16; of ConvRot rotated back in
   groups of `group` (0: none; at most 256, and columns a multiple of it) */
void inkstone_int8(const int8_t *in, int64_t rows, int64_t columns, const float *scales, int step,
                   int group, void *out, int bf16) {
  const int width = group ? group : WIDEST;
  float work[WIDEST];
  for (int64_t row = 0; row < rows; row++) {
    const float scale = scales[row * step];
    for (int64_t at = 0; at < columns; at += width) {
      const int n = columns - at < width ? (int)(columns - at) : width;
      const int64_t index = row * columns + at;
      float *restrict w = place(out, index, work, bf16);
      const int8_t *restrict codes = in + index;
      for (int i = 0; i < n; i++) w[i] = (float)codes[i];
      if (group) rotate(w, n);
      for (int i = 0; i < n; i++) w[i] *= scale;
      if (bf16) round_to_bf16(work, (uint16_t *)out + index, n);
    }
  }
}

/* Products in int8: inputs to codes, and the sums of codes back to floats */

INLINE float from_bf16(uint16_t bits) { return from_bits((uint32_t)bits << 16); }

/* n floats times `factor`, to the nearest integer of a byte, ties to even: adding 1.5 * 2^23 leaves
   the integer in the low bits. |w * factor| is at most 127. */
INLINE void to_codes(const float *restrict w, int64_t n, float factor, int8_t *restrict codes) {
  for (int64_t i = 0; i < n; i++) codes[i] = (int8_t)to_bits(w[i] * factor + 0x1.8p23f);
}

/* Rows of float32 or bfloat16, `stride` numbers from each to the next -> int8 codes [rows, columns]
   and the scale of each row, so that code * scale is the number and the largest one has code 127.
   group: rows are turned by ConvRot's matrix first (0: not), divided by the root of group. work:
   room for one row. */
void inkstone_quantize(const void *in, int bf16, int64_t rows, int64_t columns, int64_t stride,
                       int group, float *restrict work, int8_t *restrict codes, float *scales) {
  float root = 1;
  while (root * root < (float)group) root *= 2;
  for (int64_t row = 0; row < rows; row++) {
    if (bf16) {
      const uint16_t *restrict from = (const uint16_t *)in + row * stride;
      for (int64_t i = 0; i < columns; i++) work[i] = from_bf16(from[i]);
    } else {
      memcpy(work, (const float *)in + row * stride, (size_t)columns * 4);
    }
    if (group)
      for (int64_t at = 0; at < columns; at += group) rotate(work + at, group);
    uint32_t most = 0; /* of numbers without a sign the bits have the same order */
    for (int64_t i = 0; i < columns; i++) {
      const uint32_t bits = to_bits(work[i]) & 0x7fffffff;
      most = bits > most ? bits : most;
    }
    const float peak = from_bits(most);
    to_codes(work, columns, peak > 0 ? 127.0f / peak : 0.0f, codes + row * columns);
    scales[row] = peak / 127.0f / root;
  }
}

/* e to the power of x within [-87, 87], to 2e-7 of it */
INLINE float exponential(float x) {
  const float turns = x * 0x1.715476p0f + 0x1.8p23f; /* the integer is in its low bits */
  const float n = turns - 0x1.8p23f;
  const float r = (x - n * 0x1.62e4p-1f) - n * -0x1.7f7d1cp-20f;
  float p = 0x1.6c16c2p-10f;
  p = p * r + 0x1.111112p-7f;
  p = p * r + 0x1.555556p-5f;
  p = p * r + 0x1.555556p-3f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * from_bits((to_bits(turns) << 23) + 0x3f800000);
}

/* n numbers through GELU in its tanh form: x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))) */
INLINE void gelu(float *restrict w, int n) {
  for (int i = 0; i < n; i++) {
    const float x = w[i];
    float z = -0x1.988454p0f * (x + 0.044715f * x * x * x);
    z = z > 87.0f ? 87.0f : z;
    z = z < -87.0f ? -87.0f : z;
    w[i] = x / (1.0f + exponential(z));
  }
}

/* sums [rows, columns] of products of codes -> floats times the scales of row and column, plus
   bias[column] where there is one, then GELU where it is wanted, in rows `stride` apart of float32
   or bfloat16 */
void inkstone_dequantize(const int32_t *restrict sums, int64_t rows, int64_t columns,
                         const float *restrict of_rows, const float *restrict of_columns,
                         const float *restrict bias, int with_gelu, void *out, int64_t stride,
                         int bf16) {
  float work[WIDEST];
  for (int64_t row = 0; row < rows; row++) {
    const float own = of_rows[row];
    for (int64_t at = 0; at < columns; at += WIDEST) {
      const int n = columns - at < WIDEST ? (int)(columns - at) : WIDEST;
      const int32_t *restrict s = sums + row * columns + at;
      float *restrict w = place(out, row * stride + at, work, bf16);
      for (int i = 0; i < n; i++) {
        const float product = (float)s[i] * own;
        w[i] = product * of_columns[at + i];
      }
      if (bias)
        for (int i = 0; i < n; i++) w[i] += bias[at + i];
      if (with_gelu) gelu(w, n);
      if (bf16) round_to_bf16(work, (uint16_t *)out + row * stride + at, n);
    }
  }
}
