#include "packer/layer_packer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "packer/error_feedback.h"
#include "packer/parallel_for.h"
#include "packer/weight_check.h"

namespace tidegate {
namespace {

// Bytes of rows that are read at a time: enough for a drive's full speed, little enough to have
// several.
constexpr uint64_t kBandBytes = 8 << 20;
constexpr uint64_t kEncodeChunk = 32;      // columns handed to a thread at a time
constexpr uint64_t kClearBytes = 1 << 20;  // the same of blocks
constexpr uint32_t kNowhere = UINT32_MAX;

// Calls work(first, count) for the bands of a matrix; all but the last are whole slabs.
template <typename Work>
absl::Status ForEachBand(const GgufTensor& matrix, const Work& work) {
  const uint64_t rows = matrix.rows(), row_bytes = std::max<uint64_t>(1, matrix.bytes / rows);
  const uint64_t band = std::max<uint64_t>(1, kBandBytes / row_bytes / kSlabRows) * kSlabRows;
  for (uint64_t first = 0; first < rows; first += band) {
    RETURN_IF_ERROR(work(first, std::min(band, rows - first)));
  }
  return absl::OkStatus();
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

// Rows of a stripe lie too far apart for the CPU to guess the next one.
void Prefetch(const uint8_t* bytes, uint64_t count) {
  constexpr uint64_t kLine = 64;
  for (uint64_t at = 0; at < count; at += kLine) __builtin_prefetch(bytes + at);
}

void Clear(std::span<uint8_t> bytes, uint32_t threads) {
  const uint64_t pieces = (bytes.size() + kClearBytes - 1) / kClearBytes;
  CHECK(ParallelFor(pieces, threads, [&](uint64_t piece) {
          const uint64_t at = piece * kClearBytes;
          std::memset(bytes.data() + at, 0, std::min(kClearBytes, bytes.size() - at));
          return absl::OkStatus();
        }).ok());
}

}  // namespace

double ErrorSums::RelativeRms() const { return source > 0 ? std::sqrt(difference / source) : 0; }

// The blocks and columns that one walk over the matrices covers.
struct LayerPacker::Pass {
  std::span<const uint32_t> units;      // by position; a unit's index is its column in the matrix
  std::span<const uint32_t> positions;  // the inverse; kNowhere: not in this pass
  std::span<uint8_t> blocks;            // whole ones
  const InputMoments* moments;          // null: every column is rounded for itself
};

// Where stored columns lie in memory.
struct LayerPacker::Columns {
  UnitEncoding encoding;
  uint8_t* begin;
  uint64_t per_block, block_bytes, bytes;  // `bytes`: from one column to the next in a block
  uint64_t elements;

  uint8_t* At(uint64_t position) const {
    return begin + position / per_block * block_bytes + position % per_block * bytes;
  }
};

LayerPacker::LayerPacker(RowReader reader, UnitEncoding encoding, uint64_t memory_bytes)
    : reader_(std::move(reader)),
      encoding_(encoding),
      memory_bytes_(memory_bytes),
      threads_(PackThreads()),
      kernels_(BestPackKernels()) {}

uint32_t LayerPacker::PassBlocks(const KindGeometry& kind, bool moments) const {
  const uint64_t column_bytes =
      uint64_t{kind.units_per_block} * kind.column_elements * sizeof(float);
  const uint64_t bytes_per_block =
      uint64_t{kind.block_bytes} + (moments ? column_bytes : kind.block_bytes);
  return static_cast<uint32_t>(
      std::clamp<uint64_t>(memory_bytes_ / bytes_per_block, 1, kind.block_count));
}

void LayerPacker::Announce(const Matrices& matrices, const KindGeometry& kind, bool moments,
                           const RowsCallback& expect) const {
  moments = moments && IsGrouped(encoding_);
  for (uint32_t first = 0; first < kind.block_count; first += PassBlocks(kind, moments)) {
    for (const GgufTensor* matrix : matrices) {
      for (int reading = 0; reading < (moments ? 2 : 1); ++reading) {
        CHECK(ForEachBand(*matrix, [&](uint64_t row, uint64_t count) {
                expect(*matrix, row, count);
                return absl::OkStatus();
              }).ok());
      }
    }
  }
}

SlabSums LayerPacker::SumsFrom(uint64_t column) {
  return {&sums_[0][column], &sums_[1][column], &sums_[2][column]};
}

// The matrix is read once more to find the place: a failure may take its time.
absl::Status LayerPacker::CheckColumn(const GgufTensor& matrix, uint64_t column,
                                      const ColumnRecord& record) {
  if (std::isfinite(record.sums[column].difference) && std::isfinite(record.norms[column])) {
    return absl::OkStatus();
  }
  uint64_t row = 0;
  float largest = 0;
  std::vector<float> values(matrix.columns());
  const auto find = [&](uint64_t first, uint64_t count) -> absl::Status {
    ASSIGN_OR_RETURN(const RawRows rows, reader_(matrix, first, count));
    RETURN_IF_ERROR(CheckRows(matrix, first, count, rows.type, rows.bytes));
    for (uint64_t r = 0; r < count; ++r) {
      DecodeGgmlRow(rows.type, rows.bytes + r * GgmlRowBytes(rows.type, values.size()),
                    values.size(), values.data());
      if (std::fabs(values[column]) <= std::fabs(largest)) continue;
      largest = values[column];
      row = first + r;
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ForEachBand(matrix, find));
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", matrix.name, ": row ", matrix.first_row + row, ", column ", column, " is ",
      largest, ", too large for ", std::string(UnitEncodingName(encoding_)), " units; use ",
      encoding_ == UnitEncoding::kF32 ? "another model" : "--units f32"));
}

absl::Status LayerPacker::StoreBand(const GgufTensor& matrix, const RawRows& rows,
                                    uint64_t first_row, uint64_t count, const Pass& pass,
                                    const Columns& out) {
  const uint64_t width = matrix.columns();
  const uint64_t row_bytes = GgmlRowBytes(rows.type, width);
  const uint64_t stripe_bytes = GgmlRowBytes(rows.type, kSlabColumns);
  const size_t scale_bytes = ColumnScaleBytes(out.encoding, out.elements);
  const size_t slab_chunks = SlabChunks(out.encoding);
  // A stripe is a slab wide.
  return ParallelFor((width + kSlabColumns - 1) / kSlabColumns, threads_, [&](uint64_t stripe) {
    const uint64_t first = stripe * kSlabColumns;
    const uint64_t columns = std::min<uint64_t>(kSlabColumns, width - first);
    const uint8_t* from = rows.bytes + GgmlRowBytes(rows.type, first);
    uint8_t* to[kSlabColumns];
    bool any = false;
    for (uint64_t c = 0; c < columns; ++c) {
      const uint32_t position = pass.positions[first + c];
      to[c] = position == kNowhere ? nullptr : out.At(position);
      any = any || to[c] != nullptr;
    }
    if (!any) return absl::OkStatus();
    alignas(64) float slab[kSlabRows * kSlabColumns] = {};
    EncodedSlab encoded;
    for (uint64_t r = 0; r < count; r += kSlabRows) {
      const uint64_t n = std::min<uint64_t>(kSlabRows, count - r);
      for (uint64_t i = 0; i < n; ++i) {
        const uint8_t* row = from + (r + i) * row_bytes;
        if (r + i + kSlabRows < count) Prefetch(row + kSlabRows * row_bytes, stripe_bytes);
        kernels_.decode(rows.type, row, columns, slab + i * kSlabColumns);
      }
      std::fill(slab + n * kSlabColumns, std::end(slab), 0.0f);
      kernels_.encode(out.encoding, slab, kSlabColumns, RoundUp(columns, kSlabLanes),
                      SumsFrom(first), encoded);
      const uint64_t slab_index = (first_row + r) / kSlabRows;
      const size_t chunks = (n * slab_chunks + kSlabRows - 1) / kSlabRows;
      for (uint64_t c = 0; c < columns; ++c) {
        if (to[c] == nullptr) continue;
        if (scale_bytes > 0) std::memcpy(to[c] + 2 * slab_index, &encoded.scales[c], 2);
        uint8_t* codes = to[c] + scale_bytes + slab_index * slab_chunks * kChunkBytes;
        for (size_t k = 0; k < chunks; ++k) {
          std::memcpy(codes + k * kChunkBytes, encoded.chunks[k][c], kChunkBytes);
        }
      }
    }
    return absl::OkStatus();
  });
}

absl::Status LayerPacker::StoreColumns(const GgufTensor& matrix, const Pass& pass,
                                       const Columns& out) {
  for (auto& sums : sums_) sums.assign(RoundUp(matrix.columns(), kSlabColumns), 0);
  return ForEachBand(matrix, [&](uint64_t first, uint64_t count) -> absl::Status {
    ASSIGN_OR_RETURN(const RawRows rows, reader_(matrix, first, count));
    return StoreBand(matrix, rows, first, count, pass, out);
  });
}

absl::Status LayerPacker::PackColumns(const GgufTensor& matrix, const Pass& pass,
                                      const Columns& out, ColumnRecord& record) {
  RETURN_IF_ERROR(StoreColumns(matrix, pass, out));
  for (const uint32_t unit : pass.units) {
    const SlabSums sums = SumsFrom(unit);
    record.sums[unit] = {.difference = *sums.difference, .source = *sums.source};
    record.norms[unit] = static_cast<float>(std::sqrt(*sums.stored));
    RETURN_IF_ERROR(CheckColumn(matrix, unit, record));
  }
  return absl::OkStatus();
}

absl::Status LayerPacker::PackWithFeedback(const GgufTensor& matrix, const Pass& pass,
                                           const Columns& out, ColumnRecord& record) {
  const uint64_t elements = out.elements;
  float* const columns = scratch_.data();
  const Columns floats = {UnitEncoding::kF32,
                          reinterpret_cast<uint8_t*>(columns),
                          1,
                          elements * sizeof(float),
                          0,
                          elements};
  const auto for_each_column = [&](const auto& work) {
    const uint64_t chunks = (pass.units.size() + kEncodeChunk - 1) / kEncodeChunk;
    return ParallelFor(chunks, threads_, [&](uint64_t chunk) -> absl::Status {
      const uint64_t end = std::min<uint64_t>((chunk + 1) * kEncodeChunk, pass.units.size());
      for (uint64_t c = chunk * kEncodeChunk; c < end; ++c) RETURN_IF_ERROR(work(c));
      return absl::OkStatus();
    });
  };
  RETURN_IF_ERROR(StoreColumns(matrix, pass, floats));
  RETURN_IF_ERROR(
      AdjustForRounding(encoding_, *pass.moments, pass.units, elements, threads_, columns));
  RETURN_IF_ERROR(for_each_column([&](uint64_t c) {
    EncodeColumn(encoding_, columns + c * elements, elements, out.At(c));
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(StoreColumns(matrix, pass, floats));  // The source again, to compare with.
  RETURN_IF_ERROR(for_each_column([&](uint64_t c) {
    std::vector<float> decoded(elements);
    DecodeColumn(encoding_, out.At(c), elements, decoded.data());
    const ColumnSums sums = CompareColumn(columns + c * elements, decoded.data(), elements);
    const uint32_t unit = pass.units[c];
    record.norms[unit] = static_cast<float>(std::sqrt(sums.stored));
    record.sums[unit] = sums.error;
    return absl::OkStatus();
  }));
  for (const uint32_t unit : pass.units) RETURN_IF_ERROR(CheckColumn(matrix, unit, record));
  return absl::OkStatus();
}

absl::Status LayerPacker::RunPass(const Matrices& matrices, const KindGeometry& kind,
                                  const Pass& pass, std::vector<ColumnRecord>& records) {
  Clear(pass.blocks, threads_);  // Padding is zero.
  for (size_t m = 0; m < matrices.size(); ++m) {
    const Columns out = {
        .encoding = encoding_,
        .begin = pass.blocks.data() + m * ColumnBytes(encoding_, kind.column_elements),
        .per_block = kind.units_per_block,
        .block_bytes = kind.block_bytes,
        .bytes = kind.unit_bytes,
        .elements = kind.column_elements};
    RETURN_IF_ERROR(pass.moments == nullptr
                        ? PackColumns(*matrices[m], pass, out, records[m])
                        : PackWithFeedback(*matrices[m], pass, out, records[m]));
  }
  return absl::OkStatus();
}

absl::Status LayerPacker::PackUnits(const Matrices& matrices, const KindGeometry& kind,
                                    BlockSink& sink, store::v1::KindUnits& units,
                                    std::span<ErrorSums> sums, const InputMoments* moments) {
  if (!IsGrouped(encoding_)) moments = nullptr;
  const uint32_t pass_blocks = PassBlocks(kind, moments != nullptr);
  const uint64_t pass_columns =
      std::min<uint64_t>(uint64_t{pass_blocks} * kind.units_per_block, kind.unit_count);
  if (moments != nullptr) {
    scratch_.resize(std::max<uint64_t>(scratch_.size(), pass_columns * kind.column_elements));
  }
  std::vector<ColumnRecord> records(matrices.size(), {std::vector<float>(kind.unit_count),
                                                      std::vector<ErrorSums>(kind.unit_count)});
  const std::vector<uint32_t> order = UnitsInOrder(units, kind.unit_count);
  std::vector<uint64_t> checksums;
  for (uint32_t first = 0; first < kind.block_count; first += pass_blocks) {
    const uint32_t count = std::min(pass_blocks, kind.block_count - first);
    const uint64_t first_column = uint64_t{first} * kind.units_per_block;
    const uint64_t columns = std::min<uint64_t>(pass_columns, kind.unit_count - first_column);
    const auto pass_units = std::span(order).subspan(first_column, columns);
    std::vector<uint32_t> positions(kind.unit_count, kNowhere);
    for (uint32_t p = 0; p < columns; ++p) positions[pass_units[p]] = p;
    ASSIGN_OR_RETURN(const std::span<uint8_t> blocks,
                     sink.Room(first, uint64_t{count} * kind.block_bytes));
    RETURN_IF_ERROR(RunPass(matrices, kind, {pass_units, positions, blocks, moments}, records));
    checksums.resize(count);
    RETURN_IF_ERROR(ParallelFor(count, threads_, [&](uint64_t b) {
      checksums[b] = Checksum(&blocks[b * kind.block_bytes], kind.block_bytes);
      return absl::OkStatus();
    }));
    RETURN_IF_ERROR(sink.Put(checksums));
  }
  Summarise(records, units, sums);
  return absl::OkStatus();
}

}  // namespace tidegate
