#include "weightstore/pack/layer_packer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "weightstore/pack/error_feedback.h"
#include "weightstore/pack/parallel_for.h"

namespace tidegate {
namespace {

// A band of rows is read and decoded at a time, per thread; 16 rows fill a cache line of the
// result.
constexpr uint64_t kBandBytes = 4 << 20;
constexpr uint64_t kMaxBandRows = 256;
constexpr uint64_t kEncodeChunk = 32;  // columns handed to a thread at a time

uint64_t BandRows(const GgufTensor& matrix) {
  const uint64_t fitting = kBandBytes / (matrix.columns() * sizeof(float));
  return std::clamp<uint64_t>(fitting, 1, std::min(kMaxBandRows, matrix.rows()));
}

// A column of the matrix and where it goes.
struct Move {
  uint32_t from;
  uint32_t to;
};

// In rising order of the source: columns that follow one another share cache lines.
std::vector<Move> MovesOf(std::span<const uint32_t> units) {
  std::vector<Move> moves(units.size());
  for (uint32_t c = 0; c < units.size(); ++c) moves[c] = {units[c], c};
  std::sort(moves.begin(), moves.end(), [](Move a, Move b) { return a.from < b.from; });
  return moves;
}

// out[to * out_stride + r] = band[r * band_stride + from] for r < rows.
void TransposeBand(const float* band, uint64_t band_stride, uint64_t rows,
                   std::span<const Move> moves, float* out, uint64_t out_stride) {
  for (const Move move : moves) {
    const float* from = band + move.from;
    float* column = out + move.to * out_stride;
    for (uint64_t r = 0; r < rows; ++r) column[r] = from[r * band_stride];
  }
}

// Units by position in the pack.
std::vector<uint32_t> UnitsInOrder(const store::v1::KindUnits& units, uint32_t unit_count) {
  std::vector<uint32_t> order(unit_count);
  if (units.positions().empty()) {
    std::iota(order.begin(), order.end(), 0u);
  } else {
    CHECK(static_cast<uint32_t>(units.positions_size()) == unit_count);
    for (uint32_t unit = 0; unit < unit_count; ++unit) {
      order[units.positions(static_cast<int>(unit))] = unit;
    }
  }
  return order;
}

// Blames the source or the encoding for a column whose error is not a finite number.
absl::Status NotFinite(const GgufTensor& matrix, uint64_t column, bool source_is_finite,
                       UnitEncoding encoding) {
  if (!source_is_finite) {
    return absl::DataLossError(absl::StrCat("tensor ", matrix.name, ": column ", column,
                                            " holds values that are not finite numbers"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", matrix.name, ": column ", column, " holds values too large for ",
                   std::string(UnitEncodingName(encoding)), "; use --units f32"));
}

struct ColumnSums {
  ErrorSums error;
  double stored = 0;  // sum of squares of the decoded column
};

ColumnSums CompareColumn(const float* source, const float* stored, uint64_t elements) {
  ColumnSums sums;
  for (uint64_t e = 0; e < elements; ++e) {
    const double delta = static_cast<double>(stored[e]) - source[e];
    sums.error.difference += delta * delta;
    sums.error.source += static_cast<double>(source[e]) * source[e];
    sums.stored += static_cast<double>(stored[e]) * stored[e];
  }
  return sums;
}

void Summarise(const std::vector<ColumnRecord>& records, store::v1::KindUnits& units,
               std::span<ErrorSums> totals) {
  for (size_t m = 0; m < records.size(); ++m) {
    ErrorSums matrix;
    for (const ErrorSums& unit :
         records[m].sums) {  // In unit order: the same sum on every machine.
      matrix.difference += unit.difference;
      matrix.source += unit.source;
    }
    units.add_relative_rms_errors(static_cast<float>(matrix.RelativeRms()));
    totals[m].difference += matrix.difference;
    totals[m].source += matrix.source;
    auto& norms = m == 0 ? *units.mutable_norms() : *units.mutable_second_norms();
    norms.Add(records[m].norms.begin(), records[m].norms.end());
  }
}

}  // namespace

double ErrorSums::RelativeRms() const { return source > 0 ? std::sqrt(difference / source) : 0; }

// The blocks and columns that one walk over the matrices covers, and where they are put together.
struct LayerPacker::Pass {
  std::span<const uint32_t> units;  // by position; a unit's index is its column in the matrix
  std::span<const Move> moves;      // the same, for the transposition
  float* columns;                   // [units.size(), column_elements]
  std::span<uint8_t> blocks;        // whole ones
  const InputMoments* moments;      // null: every column is rounded for itself
};

LayerPacker::LayerPacker(RowReader reader, UnitEncoding encoding, uint64_t memory_bytes)
    : reader_(std::move(reader)),
      encoding_(encoding),
      memory_bytes_(memory_bytes),
      threads_(PackThreads()) {}

uint32_t LayerPacker::PassBlocks(const KindGeometry& kind) const {
  const uint64_t bytes_per_block =
      kind.block_bytes + uint64_t{kind.units_per_block} * kind.column_elements * sizeof(float);
  return static_cast<uint32_t>(
      std::clamp<uint64_t>(memory_bytes_ / bytes_per_block, 1, kind.block_count));
}

absl::Status LayerPacker::GatherColumns(const GgufTensor& matrix, const Pass& pass) {
  const uint64_t rows = matrix.rows(), width = matrix.columns();
  const uint64_t band_rows = BandRows(matrix);
  const uint64_t bands = (rows + band_rows - 1) / band_rows;
  return ParallelFor(bands, threads_, [&](uint64_t band) -> absl::Status {
    thread_local std::vector<float> decoded;
    const uint64_t first = band * band_rows;
    const uint64_t count = std::min(band_rows, rows - first);
    decoded.resize(band_rows * width);
    RETURN_IF_ERROR(reader_(matrix, first, count, decoded.data()));
    TransposeBand(decoded.data(), width, count, pass.moves, pass.columns + first, rows);
    return absl::OkStatus();
  });
}

absl::Status LayerPacker::EncodeColumns(Step step, const GgufTensor& matrix,
                                        const KindGeometry& kind, const Pass& pass,
                                        uint32_t column_in_unit, ColumnRecord& record) {
  const uint64_t elements = kind.column_elements;
  const uint64_t offset_in_unit = column_in_unit * ColumnBytes(encoding_, elements);
  const uint64_t chunks = (pass.units.size() + kEncodeChunk - 1) / kEncodeChunk;
  return ParallelFor(chunks, threads_, [&](uint64_t chunk) -> absl::Status {
    std::vector<float> decoded(elements);
    const uint64_t end = std::min<uint64_t>((chunk + 1) * kEncodeChunk, pass.units.size());
    for (uint64_t c = chunk * kEncodeChunk; c < end; ++c) {
      const float* values = pass.columns + c * elements;
      uint8_t* stored = pass.blocks.data() + c / kind.units_per_block * kind.block_bytes +
                        c % kind.units_per_block * kind.unit_bytes + offset_in_unit;
      if (step != Step::kCompare) EncodeColumn(encoding_, values, elements, stored);
      if (step == Step::kEncode) continue;
      DecodeColumn(encoding_, stored, elements, decoded.data());
      const ColumnSums sums = CompareColumn(values, decoded.data(), elements);
      const uint32_t unit = pass.units[c];
      if (!std::isfinite(sums.error.difference)) {
        return NotFinite(matrix, unit, std::isfinite(sums.error.source), encoding_);
      }
      record.norms[unit] = static_cast<float>(std::sqrt(sums.stored));
      record.sums[unit] = sums.error;
    }
    return absl::OkStatus();
  });
}

absl::Status LayerPacker::RunPass(const std::vector<const GgufTensor*>& matrices,
                                  const KindGeometry& kind, const Pass& pass,
                                  std::vector<ColumnRecord>& records) {
  std::fill(pass.blocks.begin(), pass.blocks.end(), 0);  // Padding is zero.
  for (uint32_t m = 0; m < matrices.size(); ++m) {
    const auto encode = [&](Step step) {
      return EncodeColumns(step, *matrices[m], kind, pass, m, records[m]);
    };
    RETURN_IF_ERROR(GatherColumns(*matrices[m], pass));
    if (pass.moments == nullptr) {
      RETURN_IF_ERROR(encode(Step::kEncodeAndCompare));
      continue;
    }
    RETURN_IF_ERROR(AdjustForRounding(encoding_, *pass.moments, pass.units, kind.column_elements,
                                      threads_, pass.columns));
    RETURN_IF_ERROR(encode(Step::kEncode));
    RETURN_IF_ERROR(GatherColumns(*matrices[m], pass));  // The source again, to compare with.
    RETURN_IF_ERROR(encode(Step::kCompare));
  }
  return absl::OkStatus();
}

absl::Status LayerPacker::PackUnits(const std::vector<const GgufTensor*>& matrices,
                                    const KindGeometry& kind, const BlockSink& sink,
                                    store::v1::KindUnits& units, std::span<ErrorSums> sums,
                                    const InputMoments* moments) {
  if (!IsGrouped(encoding_)) moments = nullptr;
  const uint32_t pass_blocks = PassBlocks(kind);
  const uint64_t pass_columns =
      std::min<uint64_t>(uint64_t{pass_blocks} * kind.units_per_block, kind.unit_count);
  const uint64_t column_floats = pass_columns * kind.column_elements;
  const uint64_t pass_bytes = uint64_t{pass_blocks} * kind.block_bytes;
  scratch_.resize(std::max<uint64_t>(scratch_.size(), column_floats + pass_bytes / sizeof(float)));
  auto* blocks = reinterpret_cast<uint8_t*>(scratch_.data() + column_floats);

  std::vector<ColumnRecord> records(matrices.size(), {std::vector<float>(kind.unit_count),
                                                      std::vector<ErrorSums>(kind.unit_count)});
  const std::vector<uint32_t> order = UnitsInOrder(units, kind.unit_count);
  std::vector<uint64_t> checksums;
  for (uint32_t first = 0; first < kind.block_count; first += pass_blocks) {
    const uint32_t count = std::min(pass_blocks, kind.block_count - first);
    const uint64_t first_column = uint64_t{first} * kind.units_per_block;
    const uint64_t columns = std::min<uint64_t>(pass_columns, kind.unit_count - first_column);
    const auto pass_units = std::span(order).subspan(first_column, columns);
    const std::vector<Move> moves = MovesOf(pass_units);
    const Pass pass = {
        pass_units, moves, scratch_.data(), {blocks, uint64_t{count} * kind.block_bytes}, moments};
    RETURN_IF_ERROR(RunPass(matrices, kind, pass, records));
    checksums.resize(count);
    for (uint32_t b = 0; b < count; ++b) {
      checksums[b] = Checksum(blocks + uint64_t{b} * kind.block_bytes, kind.block_bytes);
    }
    RETURN_IF_ERROR(sink(first, pass.blocks, checksums));
  }
  Summarise(records, units, sums);
  return absl::OkStatus();
}

}  // namespace tidegate
