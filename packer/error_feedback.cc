#include "packer/error_feedback.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "packer/parallel_for.h"

namespace tidegate {
namespace {

// Added to every input's own moment, as a share of their mean: inputs that the text hardly moved
// are then not asked to make anything good.
constexpr double kDamping = 0.01;

// A column of the pass and the input it belongs to.
struct Member {
  uint32_t unit;
  uint32_t column;
};

// Columns that correct one another.
struct Block {
  std::vector<Member> members;  // by unit
  // Row k holds r_jk / r_kk for j < k, [size, size]; empty: nothing to correct.
  std::vector<float> feedback;
};

std::vector<Block> GroupByBlock(const InputMoments& moments, std::span<const uint32_t> units) {
  std::vector<Member> members;
  for (uint32_t c = 0; c < units.size(); ++c) {
    CHECK(units[c] < moments.inputs());
    members.push_back({units[c], c});
  }
  std::sort(members.begin(), members.end(), [](Member a, Member b) { return a.unit < b.unit; });
  std::vector<Block> blocks;
  for (const Member member : members) {
    if (blocks.empty() ||
        blocks.back().members.back().unit / moments.block() != member.unit / moments.block()) {
      blocks.emplace_back();
    }
    blocks.back().members.push_back(member);
  }
  return blocks;
}

double Dot(const double* a, const double* b, size_t n) {
  double sums[4] = {};
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (size_t k = 0; k < 4; ++k) sums[k] += a[i + k] * b[i + k];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The upper triangular R with R R^T = h, [n, n], in its place; what lies below is left over.
void FactorUpper(std::vector<double>& h, size_t n, double smallest_pivot) {
  for (size_t k = n; k-- > 0;) {
    const double* row = &h[k * n];
    const size_t tail = n - k - 1;
    const double pivot = row[k] - Dot(row + k + 1, row + k + 1, tail);
    h[k * n + k] = std::sqrt(std::max(pivot, smallest_pivot));
    for (size_t j = 0; j < k; ++j) {
      double& at = h[j * n + k];
      at = (at - Dot(&h[j * n + k + 1], row + k + 1, tail)) / h[k * n + k];
    }
  }
}

absl::Status PrepareFeedback(const InputMoments& moments, Block& block) {
  const size_t n = block.members.size();
  std::vector<double> h(n * n);
  double mean = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      h[i * n + j] = moments.At(block.members[i].unit, block.members[j].unit);
      if (!std::isfinite(h[i * n + j])) {
        return absl::DataLossError(absl::StrCat("the calibration text drives input ",
                                                block.members[i].unit,
                                                " to values that are not finite numbers"));
      }
    }
    mean += h[i * n + i] / static_cast<double>(n);
  }
  if (mean <= 0) return absl::OkStatus();
  const double damping = kDamping * mean;
  for (size_t i = 0; i < n; ++i) h[i * n + i] += damping;
  FactorUpper(h, n, damping / 2);
  block.feedback.resize(n * n);
  for (size_t k = 0; k < n; ++k) {
    for (size_t j = 0; j < k; ++j) {
      block.feedback[k * n + j] = static_cast<float>(h[j * n + k] / h[k * n + k]);
    }
  }
  return absl::OkStatus();
}

// Takes one group of outputs, those from `first` on, through the columns of a block.
void AdjustGroup(UnitEncoding encoding, const Block& block, uint64_t elements, uint64_t first,
                 float* columns) {
  using Group = std::array<float, kQuantGroup>;
  const size_t n = block.members.size();
  std::vector<Group> errors(n);  // e_j, source minus stored
  std::vector<uint8_t> stored(ColumnBytes(encoding, kQuantGroup));
  for (size_t k = 0; k < n; ++k) {
    float* column = columns + block.members[k].column * elements + first;
    const float* feedback = &block.feedback[k * n];
    Group carried = {};
    for (size_t j = 0; j < k; ++j) {
      for (size_t i = 0; i < kQuantGroup; ++i) carried[i] += feedback[j] * errors[j][i];
    }
    Group decoded;
    std::copy_n(column, kQuantGroup, errors[k].begin());
    for (size_t i = 0; i < kQuantGroup; ++i) column[i] += carried[i];
    EncodeColumn(encoding, column, kQuantGroup, stored.data());
    DecodeColumn(encoding, stored.data(), kQuantGroup, decoded.data());
    for (size_t i = 0; i < kQuantGroup; ++i) errors[k][i] -= decoded[i];
  }
}

}  // namespace

absl::Status AdjustForRounding(UnitEncoding encoding, const InputMoments& moments,
                               std::span<const uint32_t> units, uint64_t elements, uint32_t threads,
                               float* columns) {
  CHECK(IsGrouped(encoding) && elements % kQuantGroup == 0);
  if (moments.tokens() == 0) return absl::OkStatus();
  std::vector<Block> blocks = GroupByBlock(moments, units);
  RETURN_IF_ERROR(ParallelFor(blocks.size(), threads,
                              [&](uint64_t b) { return PrepareFeedback(moments, blocks[b]); }));
  const uint64_t groups = elements / kQuantGroup;
  return ParallelFor(blocks.size() * groups, threads, [&](uint64_t piece) {
    const Block& block = blocks[piece / groups];
    if (!block.feedback.empty()) {
      AdjustGroup(encoding, block, elements, piece % groups * kQuantGroup, columns);
    }
    return absl::OkStatus();
  });
}

}  // namespace tidegate
