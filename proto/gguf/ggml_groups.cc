#include "proto/gguf/ggml_groups.h"

#include <cstring>

#include "base/check.h"

namespace tidegate {
namespace {

constexpr size_t kHalfBlock = 16;  // bytes of nibbles of 32 elements

// The 16 values of IQ4_NL and IQ4_XS (ggml: kvalues_iq4nl).
constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

float HalfAt(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof(half));
  return HalfToFloat(half);
}

uint32_t WordAt(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

// Groups [2 * run, 2 * run + 2): the 32 elements of one run.
void SetRun(GgmlGroups& out, size_t run, float scale, float offset) {
  for (size_t i = 0; i < 2; ++i) {
    out.scales[2 * run + i] = scale;
    out.offsets[2 * run + i] = offset;
  }
}

// Nibbles of 16 bytes -> 32 codes.
void SplitNibbles(const uint8_t* __restrict bytes, int8_t minus, int8_t* __restrict codes) {
  for (size_t j = 0; j < kHalfBlock; ++j) {
    codes[j] = static_cast<int8_t>((bytes[j] & 15) - minus);
    codes[kHalfBlock + j] = static_cast<int8_t>((bytes[j] >> 4) - minus);
  }
}

void LookUpNibbles(const uint8_t* __restrict bytes, int8_t* __restrict codes) {
  for (size_t j = 0; j < kHalfBlock; ++j) {
    codes[j] = kNonLinear[bytes[j] & 15];
    codes[kHalfBlock + j] = kNonLinear[bytes[j] >> 4];
  }
}

// Bit j of the word is worth 16 in code j.
void AddFifthBits(uint32_t word, int8_t* __restrict codes) {
  for (uint32_t j = 0; j < 32; ++j) {
    codes[j] = static_cast<int8_t>(codes[j] + static_cast<int8_t>((word >> j & 1) << 4));
  }
}

// codes[32 * run + j] += weight for every bit `first + run` of bytes[j], for `runs` runs.
void AddBits(const uint8_t* __restrict bytes, uint32_t first, uint32_t runs, int weight,
             int8_t* __restrict codes) {
  for (uint32_t run = 0; run < runs; ++run) {
    for (size_t j = 0; j < 32; ++j) {
      const int bit = bytes[j] >> (first + run) & 1;
      codes[32 * run + j] = static_cast<int8_t>(codes[32 * run + j] + bit * weight);
    }
  }
}

// codes[32 * run + j] = two bits at 2 * run of bytes[j], for four runs.
void SplitPairs(const uint8_t* __restrict bytes, int8_t* __restrict codes) {
  for (uint32_t run = 0; run < 4; ++run) {
    for (size_t j = 0; j < 32; ++j) {
      codes[32 * run + j] = static_cast<int8_t>(bytes[j] >> (2 * run) & 3);
    }
  }
}

void UnpackQ8_0(const uint8_t* block, size_t run, GgmlGroups& out) {
  std::memcpy(out.codes + 32 * run, block + 2, 32);
  SetRun(out, run, HalfAt(block), 0);
}

void UnpackQ4_0(const uint8_t* block, size_t run, GgmlGroups& out) {
  SplitNibbles(block + 2, 8, out.codes + 32 * run);
  SetRun(out, run, HalfAt(block), 0);
}

void UnpackQ4_1(const uint8_t* block, size_t run, GgmlGroups& out) {
  SplitNibbles(block + 4, 0, out.codes + 32 * run);
  SetRun(out, run, HalfAt(block), HalfAt(block + 2));
}

void UnpackQ5_0(const uint8_t* block, size_t run, GgmlGroups& out) {
  SplitNibbles(block + 6, 16, out.codes + 32 * run);
  AddFifthBits(WordAt(block + 2), out.codes + 32 * run);
  SetRun(out, run, HalfAt(block), 0);
}

void UnpackQ5_1(const uint8_t* block, size_t run, GgmlGroups& out) {
  SplitNibbles(block + 8, 0, out.codes + 32 * run);
  AddFifthBits(WordAt(block + 4), out.codes + 32 * run);
  SetRun(out, run, HalfAt(block), HalfAt(block + 2));
}

void UnpackIq4Nl(const uint8_t* block, size_t run, GgmlGroups& out) {
  LookUpNibbles(block + 2, out.codes + 32 * run);
  SetRun(out, run, HalfAt(block), 0);
}

// scales [16] (scale in the low, minimum in the high nibble), codes [64], d, dmin.
void UnpackQ2_K(const uint8_t* block, GgmlGroups& out) {
  const float d = HalfAt(block + 80), minimum = HalfAt(block + 82);
  for (size_t half = 0; half < 2; ++half) {
    SplitPairs(block + 16 + 32 * half, out.codes + 128 * half);
  }
  for (size_t g = 0; g < 16; ++g) {
    out.scales[g] = d * static_cast<float>(block[g] & 15);
    out.offsets[g] = -minimum * static_cast<float>(block[g] >> 4);
  }
}

// third bits [32], codes [64], scales [12], d. A third bit that is not set means minus 4.
void UnpackQ3_K(const uint8_t* block, GgmlGroups& out) {
  const uint8_t* packed = block + 96;
  const float d = HalfAt(block + 108);
  for (uint32_t half = 0; half < 2; ++half) {
    int8_t* codes = out.codes + 128 * half;
    SplitPairs(block + 32 + 32 * half, codes);
    AddBits(block, 4 * half, 4, 4, codes);
    for (size_t i = 0; i < 128; ++i) codes[i] = static_cast<int8_t>(codes[i] - 4);
  }
  for (size_t g = 0; g < 16; ++g) {  // Six bits: four in bytes 0..7, two in bytes 8..11.
    const int low = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4;
    const int high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
    out.scales[g] = d * static_cast<float>((low | high << 4) - 32);
    out.offsets[g] = 0;
  }
}

// Scales and minima of Q4_K and Q5_K: d, dmin, then 8 pairs of six bits in 12 bytes. The first four
// pairs have bytes of their own; the others are nibbles, with their upper bits on top of those.
void UnpackPairs(const uint8_t* block, GgmlGroups& out) {
  const float d = HalfAt(block), minimum = HalfAt(block + 2);
  const uint8_t* packed = block + 4;
  for (size_t run = 0; run < 8; ++run) {
    const size_t i = run % 4;
    const int scale = run < 4 ? packed[i] & 63 : (packed[8 + i] & 15) | packed[i] >> 6 << 4;
    const int offset = run < 4 ? packed[4 + i] & 63 : packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4;
    SetRun(out, run, d * static_cast<float>(scale), -minimum * static_cast<float>(offset));
  }
}

// Runs of 64 elements: 32 bytes, low nibbles first.
void SplitLongRuns(const uint8_t* __restrict bytes, int8_t* __restrict codes) {
  for (size_t run = 0; run < 4; ++run) {
    for (size_t j = 0; j < 32; ++j) {
      codes[64 * run + j] = static_cast<int8_t>(bytes[32 * run + j] & 15);
      codes[64 * run + 32 + j] = static_cast<int8_t>(bytes[32 * run + j] >> 4);
    }
  }
}

// d, dmin, scales [12], codes [128].
void UnpackQ4_K(const uint8_t* block, GgmlGroups& out) {
  UnpackPairs(block, out);
  SplitLongRuns(block + 16, out.codes);
}

// d, dmin, scales [12], fifth bits [32], codes [128].
void UnpackQ5_K(const uint8_t* block, GgmlGroups& out) {
  UnpackPairs(block, out);
  SplitLongRuns(block + 48, out.codes);
  AddBits(block + 16, 0, 8, 16, out.codes);
}

// low nibbles [128], upper pairs of bits [64], scales [16] (signed), d.
void UnpackQ6_K(const uint8_t* block, GgmlGroups& out) {
  for (size_t half = 0; half < 2; ++half) {
    const uint8_t* low = block + 64 * half;
    int8_t* codes = out.codes + 128 * half;
    SplitPairs(block + 128 + 32 * half, codes);
    for (size_t j = 0; j < 64; ++j) {
      codes[j] = static_cast<int8_t>((codes[j] << 4 | (low[j] & 15)) - 32);
      codes[64 + j] = static_cast<int8_t>((codes[64 + j] << 4 | low[j] >> 4) - 32);
    }
  }
  const float d = HalfAt(block + 208);
  for (size_t g = 0; g < 16; ++g) {
    out.scales[g] = d * static_cast<float>(static_cast<int8_t>(block[192 + g]));
    out.offsets[g] = 0;
  }
}

// d (a float), codes [256], sums that only products of quantised numbers need.
void UnpackQ8_K(const uint8_t* block, GgmlGroups& out) {
  float d;
  std::memcpy(&d, block, sizeof(d));
  std::memcpy(out.codes, block + 4, kGgmlSuperblock);
  for (size_t run = 0; run < 8; ++run) SetRun(out, run, d, 0);
}

// d, upper pairs of scale bits in 16 bits, their nibbles [4], codes [128].
void UnpackIq4Xs(const uint8_t* block, GgmlGroups& out) {
  const float d = HalfAt(block);
  const int high = block[2] | block[3] << 8;
  for (size_t run = 0; run < 8; ++run) {
    LookUpNibbles(block + 8 + kHalfBlock * run, out.codes + 32 * run);
    const int nibble = block[4 + run / 2] >> (4 * (run % 2)) & 15;
    SetRun(out, run, d * static_cast<float>((nibble | (high >> (2 * run) & 3) << 4) - 32), 0);
  }
}

using UnpackRun = void (*)(const uint8_t* block, size_t run, GgmlGroups& out);

UnpackRun RunUnpacker(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_0:
      return UnpackQ4_0;
    case GgmlType::kQ4_1:
      return UnpackQ4_1;
    case GgmlType::kQ5_0:
      return UnpackQ5_0;
    case GgmlType::kQ5_1:
      return UnpackQ5_1;
    case GgmlType::kQ8_0:
      return UnpackQ8_0;
    case GgmlType::kIQ4_NL:
      return UnpackIq4Nl;
    default:
      return nullptr;
  }
}

}  // namespace

void UnpackGgmlGroups(GgmlType type, const void* blocks, size_t elements, GgmlGroups& out) {
  DCHECK(elements > 0 && elements <= kGgmlSuperblock && elements % GgmlBlockElements(type) == 0);
  const auto* in = static_cast<const uint8_t*>(blocks);
  switch (type) {
    case GgmlType::kQ2_K:
      return UnpackQ2_K(in, out);
    case GgmlType::kQ3_K:
      return UnpackQ3_K(in, out);
    case GgmlType::kQ4_K:
      return UnpackQ4_K(in, out);
    case GgmlType::kQ5_K:
      return UnpackQ5_K(in, out);
    case GgmlType::kQ6_K:
      return UnpackQ6_K(in, out);
    case GgmlType::kQ8_K:
      return UnpackQ8_K(in, out);
    case GgmlType::kIQ4_XS:
      return UnpackIq4Xs(in, out);
    default:
      break;
  }
  const UnpackRun unpack = RunUnpacker(type);
  CHECK(unpack != nullptr);
  const size_t block_bytes = GgmlBlockBytes(type);
  for (size_t run = 0; run < elements / 32; ++run) unpack(in + run * block_bytes, run, out);
}

}  // namespace tidegate
