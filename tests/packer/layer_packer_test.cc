#include "packer/layer_packer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

#include "packer/checksum_stream.h"
#include "packer/parallel_for.h"
#include "proto/gguf/gguf_cursor.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::layer_packer_test {

RowReader RowsOf(const SourceModel& source) {
  return [&source, rows = std::vector<float>()](const GgufTensor& matrix, uint64_t first,
                                                uint64_t count) mutable -> absl::StatusOr<RawRows> {
    rows.resize(count * matrix.columns());
    const absl::Status status = source.ReadRows(matrix, first, count, rows.data());
    if (!status.ok()) return status;
    return RawRows{GgmlType::kF32, reinterpret_cast<const uint8_t*>(rows.data())};
  };
}

// Calls `take` with finished blocks.
class CallingSink final : public BlockSink {
 public:
  using Take = std::function<absl::Status(uint32_t first, std::span<const uint8_t> bytes,
                                          std::span<const uint64_t> checksums)>;
  explicit CallingSink(Take take) : take_(std::move(take)) {}
  absl::StatusOr<std::span<uint8_t>> Room(uint32_t first, uint64_t bytes) override {
    first_ = first;
    bytes_.assign(bytes, 0xee);
    return std::span(bytes_);
  }
  absl::Status Put(std::span<const uint64_t> checksums) override {
    return take_(first_, bytes_, checksums);
  }

 private:
  const Take take_;
  uint32_t first_ = 0;
  std::vector<uint8_t> bytes_;
};

KindGeometry Geometry(uint32_t units, uint32_t elements, uint32_t per_block, uint32_t block_bytes) {
  const auto unit_bytes = static_cast<uint32_t>(ColumnBytes(UnitEncoding::kF32, elements));
  return {.unit_count = units,
          .unit_bytes = unit_bytes,
          .units_per_block = per_block,
          .block_bytes = block_bytes,
          .block_count = (units + per_block - 1) / per_block,
          .columns_per_unit = 1,
          .column_elements = elements};
}

TEST(LayerPackerTest, PassesStayWithinTheMemoryGiven) {
  TempDir dir;
  GgufBuilder().WriteTo(dir.File("empty.gguf"));
  const auto source = SourceModel::Open(dir.File("empty.gguf"));
  // A 70B model's down matrix: 28672 hidden units of 8192 floats, one per block.
  const KindGeometry kind = Geometry(28672, 8192, 1, 32768);
  for (const uint64_t memory :
       {uint64_t{1}, uint64_t{100} << 20, uint64_t{512} << 20, uint64_t{1} << 40}) {
    const uint64_t blocks =
        LayerPacker(RowsOf(*source), UnitEncoding::kF32, memory).PassBlocks(kind, false);
    const uint64_t each = 2 * kind.block_bytes;
    EXPECT_GE(blocks, 1u);
    EXPECT_LE(blocks, kind.block_count);
    EXPECT_TRUE(blocks == 1 || blocks * each <= memory) << memory;
    EXPECT_TRUE(blocks == kind.block_count || (blocks + 1) * each > memory) << memory;
  }
}

TEST(LayerPackerTest, DeliversBlocksInOrderWhateverTheMemory) {
  // Element (row r, column c) is 1000 c + r, so that every value says where it came from. Sizes
  // around the tiles of the transposition, rows that no band divides.
  for (const uint64_t rows : {1u, 15u, 17u, 300u}) {
    for (const uint64_t columns : {1u, 16u, 33u, 100u}) {
      std::vector<float> values;
      for (uint64_t r = 0; r < rows; ++r) {
        for (uint64_t c = 0; c < columns; ++c) values.push_back(static_cast<float>(1000 * c + r));
      }
      TempDir dir;
      GgufBuilder gguf;
      gguf.AddTensor("m", GgmlType::kF32, {columns, rows}, values);
      gguf.WriteTo(dir.File("m.gguf"));
      const auto source = SourceModel::Open(dir.File("m.gguf"));
      const KindGeometry kind =
          Geometry(static_cast<uint32_t>(columns), static_cast<uint32_t>(rows), 3, 4096);
      for (const auto& [memory, reversed] :
           {std::pair{1u, false}, {20'000u, false}, {100'000'000u, false}, {20'000u, true}}) {
        LayerPacker packer(RowsOf(*source), UnitEncoding::kF32, memory);
        uint32_t next = 0;
        store::v1::KindUnits units;
        for (uint64_t c = 0; reversed && c < columns; ++c) {
          units.add_positions(static_cast<uint32_t>(columns - 1 - c));
        }
        ErrorSums sums[1];
        CallingSink sink([&, reversed = reversed](uint32_t first, std::span<const uint8_t> bytes,
                                                  std::span<const uint64_t> checksums) {
          EXPECT_EQ(first, next);
          EXPECT_EQ(bytes.size(), checksums.size() * kind.block_bytes);
          next += static_cast<uint32_t>(checksums.size());
          for (size_t b = 0; b < checksums.size(); ++b) {
            EXPECT_EQ(checksums[b], Checksum(&bytes[b * kind.block_bytes], kind.block_bytes));
            for (uint32_t u = 0; u < 3; ++u) {
              const uint64_t position = (first + b) * 3 + u;
              if (position >= columns) continue;
              const uint64_t column = reversed ? columns - 1 - position : position;
              std::vector<float> stored(rows);
              std::memcpy(stored.data(), &bytes[b * kind.block_bytes + u * kind.unit_bytes],
                          rows * 4);
              for (uint64_t r = 0; r < rows; ++r) {
                EXPECT_EQ(stored[r], static_cast<float>(1000 * column + r));
              }
            }
          }
          return absl::OkStatus();
        });
        const absl::Status status =
            packer.PackUnits({source->FindTensor("m")}, kind, sink, units, sums);
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_EQ(next, kind.block_count);
        EXPECT_EQ(static_cast<uint64_t>(units.norms_size()), columns);
        EXPECT_EQ(units.relative_rms_errors(0), 0);
        EXPECT_EQ(sums[0].difference, 0);
      }
    }
  }
}

// What is reported is about the source, not about the columns that feedback made of it.
TEST(LayerPackerTest, MomentsSteerTheRounding) {
  constexpr uint32_t kColumns = 16, kRows = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(kRows * kColumns), x(kColumns * 40);
  for (float& v : values) v = normal(random);
  for (size_t i = 0; i < x.size(); ++i) x[i] = i % kColumns == 0 ? normal(random) : x[i - 1] * 0.9f;
  TempDir dir;
  GgufBuilder gguf;
  gguf.AddTensor("m", GgmlType::kF32, {kColumns, kRows}, values);
  gguf.WriteTo(dir.File("m.gguf"));
  const auto source = SourceModel::Open(dir.File("m.gguf"));
  const auto unit_bytes = static_cast<uint32_t>(ColumnBytes(UnitEncoding::kQ4, kRows));
  const KindGeometry kind = {.unit_count = kColumns,
                             .unit_bytes = unit_bytes,
                             .units_per_block = 1,
                             .block_bytes = 512,
                             .block_count = kColumns,
                             .columns_per_unit = 1,
                             .column_elements = kRows};
  InputMoments moments(kColumns, kColumns);
  moments.Add(x.data(), 40);
  double rms[2], output_error[2];
  for (const bool steered : {false, true}) {
    LayerPacker packer(RowsOf(*source), UnitEncoding::kQ4, 1 << 20);
    std::vector<float> stored(kRows * kColumns);  // column by column
    store::v1::KindUnits units;
    ErrorSums sums[1];
    CallingSink sink(
        [&](uint32_t first, std::span<const uint8_t> bytes, std::span<const uint64_t> checksums) {
          for (uint32_t b = 0; b < checksums.size(); ++b) {
            DecodeColumn(UnitEncoding::kQ4, &bytes[b * 512], kRows, &stored[(first + b) * kRows]);
          }
          return absl::OkStatus();
        });
    ASSERT_TRUE(packer
                    .PackUnits({source->FindTensor("m")}, kind, sink, units, sums,
                               steered ? &moments : nullptr)
                    .ok());
    double difference = 0, total = 0, output = 0;
    for (uint32_t r = 0; r < kRows; ++r) {
      for (uint32_t t = 0; t < 40; ++t) {
        double y = 0;
        for (uint32_t c = 0; c < kColumns; ++c) {
          y += (stored[c * kRows + r] - values[r * kColumns + c]) * x[t * kColumns + c];
        }
        output += y * y;
      }
      for (uint32_t c = 0; c < kColumns; ++c) {
        difference += std::pow(stored[c * kRows + r] - values[r * kColumns + c], 2.0);
        total += std::pow(values[r * kColumns + c], 2.0);
      }
    }
    EXPECT_NEAR(sums[0].RelativeRms(), std::sqrt(difference / total), 1e-9);
    rms[steered] = sums[0].RelativeRms();
    output_error[steered] = output;
  }
  EXPECT_GT(rms[1], rms[0]);
  EXPECT_LT(output_error[1], 0.1 * output_error[0]);
}

TEST(LayerPackerTest, AFailingSinkEndsTheRun) {
  TempDir dir;
  GgufBuilder gguf;
  gguf.AddTensor("m", GgmlType::kF32, {8, 8}, std::vector<float>(64, 1));
  gguf.WriteTo(dir.File("m.gguf"));
  const auto source = SourceModel::Open(dir.File("m.gguf"));
  LayerPacker packer(RowsOf(*source), UnitEncoding::kF32, 1);
  store::v1::KindUnits units;
  ErrorSums sums[1];
  int calls = 0;
  CallingSink sink([&](auto...) {
    ++calls;
    return absl::ResourceExhaustedError("full");
  });
  const absl::Status status =
      packer.PackUnits({source->FindTensor("m")}, Geometry(8, 8, 1, 4096), sink, units, sums);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(calls, 1);
}

TEST(ParallelForTest, EveryPieceRunsOnce) {
  for (const uint32_t threads : {1u, 2u, 4u}) {
    std::vector<std::atomic<int>> counts(1000);
    ASSERT_TRUE(ParallelFor(counts.size(), threads, [&](uint64_t i) {
                  ++counts[i];
                  return absl::OkStatus();
                }).ok());
    for (const auto& count : counts) EXPECT_EQ(count, 1);
  }
  EXPECT_TRUE(ParallelFor(0, 4, [](uint64_t) { return absl::InternalError("called"); }).ok());
}

TEST(ParallelForTest, AnErrorStopsTheRest) {
  for (const uint32_t threads : {1u, 2u}) {
    std::atomic<int> calls{0};
    const absl::Status status = ParallelFor(1000, threads, [&](uint64_t i) {
      ++calls;
      return i >= 7 ? absl::DataLossError(std::to_string(i)) : absl::OkStatus();
    });
    EXPECT_EQ(status, absl::DataLossError("7"));  // The smallest index that failed.
    EXPECT_LE(calls, 7 + static_cast<int>(threads));
  }
}

TEST(ChecksumStreamTest, EqualsTheOneShotForm) {
  std::string data;
  for (int i = 0; i < 100'000; ++i) data += static_cast<char>(i * 7 + i / 251);
  for (const size_t step : {1u, 100u, 4096u, 99'999u}) {
    ChecksumStream stream;
    for (size_t at = 0; at < data.size(); at += step) {
      stream.Add(data.data() + at, std::min(step, data.size() - at));
    }
    EXPECT_EQ(stream.Value(), Checksum(data.data(), data.size()));
  }
}

TEST(GgufCursorTest, ReadsAcrossItsBufferAndStopsAtTheEnd) {
  TempDir dir;
  std::string content(600'000, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i % 253);
  WriteFileOrDie(dir.File("f"), content);
  const auto fd = UniqueFd::Open(dir.File("f"), O_RDONLY);
  GgufCursor in(fd->get(), content.size());
  std::string read(content.size() - 5, '\0');
  ASSERT_TRUE(in.Read(read.data(), 3, "x").ok());
  ASSERT_TRUE(in.Read(read.data() + 3, read.size() - 3, "x").ok());
  EXPECT_EQ(read, content.substr(0, read.size()));
  EXPECT_EQ(in.remaining(), 5u);
  EXPECT_EQ(in.Take<uint64_t>("the last word").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(in.Take<uint32_t>("x").ok());
  EXPECT_EQ(in.position(), content.size() - 1);
}

}  // namespace tidegate::layer_packer_test
