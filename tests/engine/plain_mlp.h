// The pruned MLP as method.md writes it, in double, over weights read from a pack file without the
// store; and inputs for it. For tests of what computes the same through the store.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/unique_fd.h"
#include "proto/store/v1/mask_trace.h"
#include "proto/store/v1/pack_format.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {

// Units of one MLP, decoded from the pack file without the store.
struct PlainMlp {
  std::vector<std::vector<float>> gate, up;  // [H][I]
  std::vector<std::vector<float>> down;      // [I][H]
};

// Of expert `expert` of `experts`.
inline PlainMlp LoadPlain(const std::string& path, uint32_t layer, uint32_t expert = 0,
                          uint32_t experts = 1) {
  const auto fd = UniqueFd::Open(path, O_RDONLY);
  const auto pack = ReadPackIndex(fd->get(), path);
  const auto encoding = static_cast<UnitEncoding>(pack->manifest.unit_encoding());
  PlainMlp mlp;
  for (const UnitKind k : {UnitKind::kInput, UnitKind::kHidden}) {
    const KindGeometry& kind = pack->geometry.kind(k);
    std::vector<uint8_t> block(kind.block_bytes);
    const uint32_t count = kind.unit_count / experts;
    for (uint32_t unit = expert * count; unit < (expert + 1) * count; ++unit) {
      const uint64_t offset = pack->header.blocks_offset +
                              pack->geometry.BlockOffset(layer, k, unit / kind.units_per_block);
      CHECK(ReadAt(fd->get(), offset, block.data(), block.size()).ok());
      const uint8_t* at = block.data() + unit % kind.units_per_block * kind.unit_bytes;
      for (uint32_t c = 0; c < kind.columns_per_unit; ++c) {
        std::vector<float> column(kind.column_elements);
        DecodeColumn(encoding, at + c * kind.unit_bytes / kind.columns_per_unit,
                     kind.column_elements, column.data());
        (k == UnitKind::kHidden ? mlp.down : c == 0 ? mlp.gate : mlp.up).push_back(column);
      }
    }
  }
  return mlp;
}

inline std::vector<bool> TopK(const std::vector<double>& values, uint32_t kept) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return std::fabs(values[a]) > std::fabs(values[b]); });
  std::vector<bool> mask(values.size(), false);
  for (uint32_t i = 0; i < kept; ++i) mask[order[i]] = true;
  return mask;
}

// method.md, line by line, in double.
inline std::vector<double> PlainPruned(const PlainMlp& mlp, const std::vector<float>& x,
                                       uint32_t kept_input, uint32_t kept_hidden) {
  const size_t intermediate = mlp.down.size();
  const std::vector<bool> inputs = TopK({x.begin(), x.end()}, kept_input);
  std::vector<double> h(intermediate, 0);
  for (size_t j = 0; j < intermediate; ++j) {
    double gate = 0, up = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      if (!inputs[i]) continue;
      gate += static_cast<double>(x[i]) * mlp.gate[i][j];
      up += static_cast<double>(x[i]) * mlp.up[i][j];
    }
    h[j] = gate / (1 + std::exp(-gate)) * up;
  }
  const std::vector<bool> hidden = TopK(h, kept_hidden);
  std::vector<double> y(x.size(), 0);
  for (size_t j = 0; j < intermediate; ++j) {
    for (size_t i = 0; i < y.size() && hidden[j]; ++i) y[i] += h[j] * mlp.down[j][i];
  }
  return y;
}

inline std::vector<float> RandomInput(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

// A trace of masks that has every unit used a different number of times.
inline void WriteTrace(const std::string& path, uint32_t input_units, uint32_t hidden_units) {
  const auto fd = UniqueFd::Open(path, O_RDWR | O_CREAT, 0600);
  CHECK(fd.ok());
  MaskTraceWriter writer(fd->get(), {.layer_count = 2, .unit_count = {input_units, hidden_units}});
  std::mt19937 rng(9);
  for (uint32_t token = 0; token < 20; ++token) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (const auto& [kind, units] :
           {std::pair{UnitKind::kInput, input_units}, {UnitKind::kHidden, hidden_units}}) {
        std::vector<uint32_t> selected;
        for (uint32_t u = 0; u < units; ++u) {
          if (rng() % 96 < u * 37 % 96) selected.push_back(u);
        }
        writer.Add(kind, selected);
      }
    }
  }
  CHECK(writer.Finish().ok());
}

}  // namespace tidegate
