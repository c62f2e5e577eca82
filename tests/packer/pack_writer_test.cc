// Round trips: what a pack holds against what the GGUF file held.
#include "packer/pack_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include "packer/pack_verify.h"
#include "proto/store/v1/mask_trace.h"
#include "proto/store/v1/static_rows.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_writer_test {

using ::testing::HasSubstr;

// A pack opened the way that a store opens it.
struct OpenPack {
  UniqueFd fd;
  PackIndex index;

  // The decoded column `column` of a unit.
  std::vector<float> Column(uint32_t layer, UnitKind kind, uint32_t unit, uint32_t column) const {
    const KindGeometry& geometry = index.geometry.kind(kind);
    const auto encoding = static_cast<UnitEncoding>(index.manifest.unit_encoding());
    std::vector<uint8_t> block(geometry.block_bytes);
    const uint32_t number = unit / geometry.units_per_block;
    EXPECT_TRUE(ReadAt(fd.get(),
                       index.header.blocks_offset + index.geometry.BlockOffset(layer, kind, number),
                       block.data(), block.size())
                    .ok());
    EXPECT_EQ(Checksum(block.data(), block.size()),
              index.block_checksums[index.geometry.BlockIndex(layer, kind, number)]);
    std::vector<float> values(geometry.column_elements);
    const size_t offset = unit % geometry.units_per_block * geometry.unit_bytes +
                          column * ColumnBytes(encoding, geometry.column_elements);
    DecodeColumn(encoding, block.data() + offset, values.size(), values.data());
    return values;
  }

  const store::v1::StaticTensor* FindStatic(const std::string& name) const {
    for (const auto& tensor : index.manifest.static_tensors()) {
      if (tensor.name() == name) return &tensor;
    }
    return nullptr;
  }
};

OpenPack OpenOrDie(const std::string& path) {
  auto fd = UniqueFd::Open(path, O_RDONLY);
  EXPECT_TRUE(fd.ok()) << fd.status();
  auto index = ReadPackIndex(fd->get(), path);
  EXPECT_TRUE(index.ok()) << index.status();
  return {*std::move(fd), *std::move(index)};
}

// A matrix as the GGUF file decodes it, [rows, columns].
std::vector<float> Matrix(const SourceModel& file, const std::string& name) {
  const GgufTensor* tensor = file.FindTensor(name);
  std::vector<float> values(tensor->rows() * tensor->columns());
  EXPECT_TRUE(file.ReadRows(*tensor, 0, tensor->rows(), values.data()).ok());
  return values;
}

std::vector<float> ColumnOf(const std::vector<float>& matrix, size_t columns, size_t column) {
  std::vector<float> values;
  for (size_t i = column; i < matrix.size(); i += columns) values.push_back(matrix[i]);
  return values;
}

double Norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

// Largest error of one element that an encoding may make in a column with this largest element.
double ElementBound(UnitEncoding encoding, double extreme) {
  switch (encoding) {
    case UnitEncoding::kF32:
      return 0;
    case UnitEncoding::kF16:
      return extreme * std::ldexp(1, -11) + std::ldexp(1, -25);
    case UnitEncoding::kQ8:  // Half a step of extreme / 127, and the rounding of the scale to f16.
      return extreme / 127 * 0.5 + extreme * std::ldexp(1, -10);
    case UnitEncoding::kQ4:  // Scales are searched from 0.7 of a step up, and 7 is the last code.
      return extreme * (1 - 0.7 * 7 / 8) * 1.01;
  }
  return 0;
}

struct Case {
  GgmlType type;
  UnitEncoding units;
};

class RoundTripTest : public ::testing::TestWithParam<Case> {};

TEST_P(RoundTripTest, UnitsHoldTheColumnsOfTheSource) {
  TempDir dir;
  LlamaGguf({.matrices = GetParam().type}).WriteTo(dir.File("m.gguf"));
  const auto source = SourceModel::Open(dir.File("m.gguf"));
  ASSERT_TRUE(source.ok()) << source.status();
  const auto report =
      WritePack(*source, dir.File("m.tgpack"), {.units = GetParam().units}, nullptr);
  ASSERT_TRUE(report.ok()) << report.status();
  const OpenPack pack = OpenOrDie(dir.File("m.tgpack"));

  struct Row {
    const char* name;
    UnitKind kind;
    uint32_t column;
  };
  for (const Row& row : {Row{"ffn_gate", UnitKind::kInput, 0}, Row{"ffn_up", UnitKind::kInput, 1},
                         Row{"ffn_down", UnitKind::kHidden, 0}}) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const std::string name = "blk." + std::to_string(layer) + "." + row.name + ".weight";
      const std::vector<float> matrix = Matrix(*source, name);
      const KindGeometry& kind = pack.index.geometry.kind(row.kind);
      const auto& units = row.kind == UnitKind::kInput ? pack.index.manifest.layers(layer).input()
                                                       : pack.index.manifest.layers(layer).hidden();
      const auto& norms = row.column == 0 ? units.norms() : units.second_norms();
      ASSERT_EQ(static_cast<uint32_t>(norms.size()), kind.unit_count);
      double difference = 0;
      for (uint32_t unit = 0; unit < kind.unit_count; ++unit) {
        const auto expected = ColumnOf(matrix, kind.unit_count, unit);
        const auto stored = pack.Column(layer, row.kind, unit, row.column);
        ASSERT_EQ(stored.size(), expected.size());
        double extreme = 0;
        for (const float v : expected) extreme = std::max<double>(extreme, std::fabs(v));
        for (size_t i = 0; i < stored.size(); ++i) {
          ASSERT_NEAR(stored[i], expected[i], ElementBound(GetParam().units, extreme))
              << name << " unit " << unit << " element " << i;
          difference += std::pow(stored[i] - expected[i], 2.0);
        }
        ASSERT_NEAR(norms[static_cast<int>(unit)], Norm(stored), 1e-5 * Norm(stored));
      }
      ASSERT_NEAR(units.relative_rms_errors(static_cast<int>(row.column)),
                  std::sqrt(difference) / Norm(matrix), 1e-6)
          << name;
    }
  }
}

TEST_P(RoundTripTest, StaticTensorsAreTheSourceBytes) {
  TempDir dir;
  LlamaGguf({.matrices = GetParam().type, .norms = GgmlType::kF16, .rope_freqs = true})
      .WriteTo(dir.File("m.gguf"));
  const auto source = SourceModel::Open(dir.File("m.gguf"));
  ASSERT_TRUE(WritePack(*source, dir.File("m.tgpack"), {.units = GetParam().units}, nullptr).ok());
  const OpenPack pack = OpenOrDie(dir.File("m.tgpack"));
  ASSERT_EQ(pack.index.manifest.static_tensors_size(), 1 + 2 * 6 + 3);
  for (const auto& tensor : pack.index.manifest.static_tensors()) {
    const GgufTensor* from = source->FindTensor(tensor.name());
    ASSERT_NE(from, nullptr) << tensor.name();
    EXPECT_EQ(tensor.offset() % 64, 0u);
    std::string stored(tensor.bytes(), '\0');
    ASSERT_TRUE(ReadAt(pack.fd.get(), pack.index.header.static_offset + tensor.offset(),
                       stored.data(), stored.size())
                    .ok());
    EXPECT_EQ(Checksum(stored.data(), stored.size()), tensor.xxh3()) << tensor.name();
    if (tensor.rows() > 1) {
      const auto type = static_cast<GgmlType>(from->type);
      const size_t row_bytes = GgmlRowBytes(type, tensor.columns());
      std::string rows(from->bytes, '\0'), expected(tensor.bytes(), '\0');
      ASSERT_TRUE(source->ReadBytes(*from, 0, from->bytes, rows.data()).ok());
      for (size_t r = 0; r < tensor.rows(); ++r) {
        StoreStaticRow(type, reinterpret_cast<const uint8_t*>(rows.data()) + r * row_bytes,
                       tensor.columns(),
                       reinterpret_cast<uint8_t*>(expected.data()) +
                           r * StaticRowBytes(type, tensor.columns()));
      }
      EXPECT_EQ(tensor.type(), from->type);
      EXPECT_EQ(stored, expected) << tensor.name();
    } else {  // Vectors become floats.
      EXPECT_EQ(tensor.type(), static_cast<uint32_t>(GgmlType::kF32));
      const std::vector<float> expected = Matrix(*source, tensor.name());
      EXPECT_EQ(std::memcmp(stored.data(), expected.data(), stored.size()), 0) << tensor.name();
    }
  }
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const GgmlType type :
       {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8_0, GgmlType::kQ4_0}) {
    for (const UnitEncoding units :
         {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8, UnitEncoding::kQ4}) {
      cases.push_back({type, units});
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, RoundTripTest, ::testing::ValuesIn(AllCases()), [](const auto& row) {
  return GgmlTypeName(static_cast<uint32_t>(row.param.type)) + "_as_" +
         std::string(UnitEncodingName(row.param.units));
});

class WriterTest : public ::testing::Test {
 protected:
  SourceModel Source(const TestModel& model = {}) {
    LlamaGguf(model).WriteTo(dir_.File("m.gguf"));
    return *SourceModel::Open(dir_.File("m.gguf"));
  }
  // Two tokens of the usual model: input units 5, 9 and 63 of layer 0 and hidden unit 95 of
  // layer 1.
  static void WriteTrace(const std::string& path) {
    const auto fd = UniqueFd::Open(path, O_RDWR | O_CREAT, 0600);
    MaskTraceWriter writer(fd->get(), {.layer_count = 2, .unit_count = {64, 96}});
    for (const uint32_t unit : {5u, 9u}) {
      writer.Add(UnitKind::kInput, std::vector<uint32_t>{unit, 63});
      writer.Add(UnitKind::kHidden, {});
      writer.Add(UnitKind::kInput, {});
      writer.Add(UnitKind::kHidden, std::vector<uint32_t>{95});
    }
    ASSERT_TRUE(writer.Finish().ok());
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  TempDir dir_;
};

TEST_F(WriterTest, MomentsMustBeOfTheModel) {
  const SourceModel source = Source();
  const LayerMoments fitting = {InputMoments(64, 64), InputMoments(96, 64)};
  const LayerMoments other = {InputMoments(64, 64), InputMoments(64, 64)};
  for (const std::vector<LayerMoments>& moments :
       {std::vector{fitting}, std::vector{fitting, other}}) {
    const auto report = WritePack(source, dir_.File("p"), {.moments = moments}, nullptr);
    EXPECT_THAT(std::string(report.status().message()), HasSubstr("another model's shape"));
  }
  // Moments of no tokens steer nothing.
  const std::vector<LayerMoments> silent = {fitting, fitting};
  const PackOptions steered = {.units = UnitEncoding::kQ4, .moments = silent};
  ASSERT_TRUE(WritePack(source, dir_.File("a"), steered, nullptr).ok());
  ASSERT_TRUE(WritePack(source, dir_.File("b"), {.units = UnitEncoding::kQ4}, nullptr).ok());
  EXPECT_EQ(OpenOrDie(dir_.File("a")).index.block_checksums,
            OpenOrDie(dir_.File("b")).index.block_checksums);
}

TEST_F(WriterTest, ReportAndProgressAddUp) {
  const SourceModel source = Source();
  uint64_t last_done = 0, last_total = 0;
  const auto report =
      WritePack(source, dir_.File("m.tgpack"), {}, [&](uint64_t done, uint64_t total) {
        EXPECT_GT(done, last_done);
        last_done = done;
        last_total = total;
      });
  ASSERT_TRUE(report.ok()) << report.status();
  const OpenPack pack = OpenOrDie(dir_.File("m.tgpack"));
  EXPECT_EQ(report->file_bytes, std::filesystem::file_size(dir_.File("m.tgpack")));
  EXPECT_EQ(report->static_bytes, pack.index.header.static_bytes);
  EXPECT_EQ(report->block_bytes, pack.index.header.blocks_bytes);
  EXPECT_EQ(report->uuid, pack.index.header.uuid);
  EXPECT_EQ(last_total, report->static_bytes + report->block_bytes);
  EXPECT_LE(last_done, last_total);  // Gaps between static tensors are not written.
  EXPECT_GT(last_done, last_total - 64 * 20);
  for (const double error : report->relative_rms_error) {
    EXPECT_GT(error, 1e-4);
    EXPECT_LT(error, 0.01);  // q8
  }
  EXPECT_FALSE(report->requantised);
  EXPECT_EQ(pack.index.manifest.source().file_name(), "m.gguf");
  EXPECT_EQ(pack.index.manifest.source().matrix_types(), "F32");
  EXPECT_TRUE(pack.index.manifest.layers(0).input().positions().empty());  // identity
}

TEST_F(WriterTest, TwoPacksOfOneModelDifferInTheirUuidOnly) {
  const SourceModel source = Source();
  const auto a = WritePack(source, dir_.File("a"), {}, nullptr);
  const auto b = WritePack(source, dir_.File("b"), {}, nullptr);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(a->uuid, b->uuid);
  EXPECT_EQ(ReadFileOrDie(dir_.File("a")).substr(kPageBytes),
            ReadFileOrDie(dir_.File("b")).substr(kPageBytes));
}

TEST_F(WriterTest, LittleMemoryChangesNothingButTheNumberOfPasses) {
  const SourceModel source = Source({.intermediate = 512});
  ASSERT_TRUE(WritePack(source, dir_.File("one"), {}, nullptr).ok());
  ASSERT_TRUE(WritePack(source, dir_.File("many"), {.memory_bytes = 1}, nullptr).ok());
  EXPECT_EQ(ReadFileOrDie(dir_.File("one")).substr(kPageBytes),
            ReadFileOrDie(dir_.File("many")).substr(kPageBytes));
}

TEST_F(WriterTest, OneUnitPerBlockPadsWithZeros) {
  const SourceModel source = Source();
  ASSERT_TRUE(WritePack(source, dir_.File("p"), {.one_unit_per_block = true}, nullptr).ok());
  const OpenPack pack = OpenOrDie(dir_.File("p"));
  const KindGeometry& kind = pack.index.geometry.kinds[0];
  std::vector<uint8_t> block(kind.block_bytes);
  ASSERT_TRUE(ReadAt(pack.fd.get(), pack.index.header.blocks_offset + kind.block_bytes,
                     block.data(), block.size())
                  .ok());
  EXPECT_TRUE(std::any_of(block.begin(), block.begin() + kind.unit_bytes,
                          [](uint8_t b) { return b != 0; }));
  EXPECT_TRUE(
      std::all_of(block.begin() + kind.unit_bytes, block.end(), [](uint8_t b) { return b == 0; }));
}

TEST_F(WriterTest, WeightsThatAreNotNumbersAreRefused) {
  GgufBuilder gguf = LlamaGguf({});
  std::vector<float> values(64 * 96, 0.5f);
  values[64 * 3 + 5] = std::nanf("");
  gguf.AddTensor("blk.1.ffn_up.weight", GgmlType::kF32, {64, 96}, values);
  gguf.WriteTo(dir_.File("m.gguf"));
  const auto source = SourceModel::Open(dir_.File("m.gguf"));
  for (const UnitEncoding units : {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8}) {
    const auto report = WritePack(*source, dir_.File("p"), {.units = units}, nullptr);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(report.status().message()),
                HasSubstr("blk.1.ffn_up.weight: row 3, column 5 is nan"));
  }
  EXPECT_THAT(Names(), ::testing::ElementsAre("m.gguf"));  // Nothing is left behind.
}

TEST_F(WriterTest, ValuesBeyondTheEncodingAreRefused) {
  GgufBuilder gguf = LlamaGguf({});
  std::vector<float> values(64 * 96, 0.5f);
  values[0] = 70000;
  gguf.AddTensor("blk.0.ffn_gate.weight", GgmlType::kF32, {64, 96}, values);
  gguf.WriteTo(dir_.File("m.gguf"));
  const auto source = SourceModel::Open(dir_.File("m.gguf"));
  const auto report = WritePack(*source, dir_.File("p"), {.units = UnitEncoding::kF16}, nullptr);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("blk.0.ffn_gate.weight: row 0, column 0 is 70000, too large for f16 units; "
                        "use --units f32"));
  EXPECT_TRUE(WritePack(*source, dir_.File("p"), {.units = UnitEncoding::kF32}, nullptr).ok());
}

TEST_F(WriterTest, ReplacesAnOldPackButNeverTheSource) {
  const SourceModel source = Source();
  WriteFileOrDie(dir_.File("p"), "an older pack");
  ASSERT_TRUE(WritePack(source, dir_.File("p"), {}, nullptr).ok());
  OpenOrDie(dir_.File("p"));

  const std::string before = ReadFileOrDie(dir_.File("m.gguf"));
  std::filesystem::create_symlink(dir_.File("m.gguf"), dir_.File("link"));
  for (const char* name : {"m.gguf", "link", "./m.gguf"}) {
    const auto report = WritePack(source, dir_.File(name), {}, nullptr);
    EXPECT_THAT(std::string(report.status().message()), HasSubstr("is one of the files to read"))
        << name;
  }
  EXPECT_EQ(ReadFileOrDie(dir_.File("m.gguf")), before);
}

TEST_F(WriterTest, ATraceIsNeverReplacedEither) {
  const SourceModel source = Source();
  WriteTrace(dir_.File("trace"));
  const std::string before = ReadFileOrDie(dir_.File("trace"));
  const auto report =
      WritePack(source, dir_.File("trace"), {.trace_path = dir_.File("trace")}, nullptr);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("is one of the files to read"));
  EXPECT_EQ(ReadFileOrDie(dir_.File("trace")), before);
}

TEST_F(WriterTest, PlacedUnitsAreTheSameUnits) {
  const SourceModel source = Source();
  WriteTrace(dir_.File("trace"));
  const auto report =
      WritePack(source, dir_.File("p"),
                {.units = UnitEncoding::kF32, .trace_path = dir_.File("trace")}, nullptr);
  ASSERT_TRUE(report.ok()) << report.status();
  const OpenPack placed = OpenOrDie(dir_.File("p"));
  const auto& input = placed.index.manifest.layers(0).input().positions();
  EXPECT_EQ(input[63], 0u);
  ASSERT_TRUE(WritePack(source, dir_.File("q"), {.units = UnitEncoding::kF32}, nullptr).ok());
  const OpenPack plain = OpenOrDie(dir_.File("q"));
  for (const uint32_t unit : {63u, 5u, 9u, 0u, 62u}) {
    EXPECT_EQ(placed.Column(0, UnitKind::kInput, input[static_cast<int>(unit)], 1),
              plain.Column(0, UnitKind::kInput, unit, 1));
    EXPECT_EQ(placed.index.manifest.layers(0).input().norms(static_cast<int>(unit)),
              plain.index.manifest.layers(0).input().norms(static_cast<int>(unit)));
  }
}

TEST_F(WriterTest, LittleMemoryPlacesUnitsTheSameWay) {
  const SourceModel source = Source();
  WriteTrace(dir_.File("trace"));
  PackOptions options = {.trace_path = dir_.File("trace")};
  ASSERT_TRUE(WritePack(source, dir_.File("one"), options, nullptr).ok());
  options.memory_bytes = 1;
  ASSERT_TRUE(WritePack(source, dir_.File("many"), options, nullptr).ok());
  EXPECT_EQ(ReadFileOrDie(dir_.File("one")).substr(kPageBytes),
            ReadFileOrDie(dir_.File("many")).substr(kPageBytes));
}

TEST_F(WriterTest, AFailedRunLeavesTheOldPack) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.AddTensor("blk.1.ffn_down.weight", GgmlType::kF32, {96, 64},
                 std::vector<float>(64 * 96, INFINITY));
  gguf.WriteTo(dir_.File("m.gguf"));
  const auto source = SourceModel::Open(dir_.File("m.gguf"));
  WriteFileOrDie(dir_.File("p"), "an older pack");
  EXPECT_FALSE(WritePack(*source, dir_.File("p"), {}, nullptr).ok());
  EXPECT_EQ(ReadFileOrDie(dir_.File("p")), "an older pack");
  EXPECT_EQ(Names().size(), 2u);
}

TEST_F(WriterTest, AMissingFolderIsNamed) {
  const SourceModel source = Source();
  const auto report = WritePack(source, dir_.File("no/such/p.tgpack"), {}, nullptr);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("no/such"));
  EXPECT_FALSE(WritePack(source, dir_.path(), {}, nullptr).ok());  // a folder
}

// The source is cut while it is read: an error, no pack.
TEST_F(WriterTest, ASourceThatShrinksIsDataLoss) {
  const SourceModel source = Source();
  std::filesystem::resize_file(dir_.File("m.gguf"), source.file_bytes() / 2);
  const auto report = WritePack(source, dir_.File("p"), {}, nullptr);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss) << report.status();
  EXPECT_FALSE(FileExists(dir_.File("p")));
}

// Layers and static tensors are packed side by side: what fails in the one ends the other.
TEST_F(WriterTest, AFailureOfOneHalfStopsTheOther) {
  const TestModel many = {.layers = 32, .tied = true};  // its embedding is the first static tensor
  for (const bool of_layers : {true, false}) {
    GgufBuilder gguf = LlamaGguf(many);
    if (of_layers) {
      gguf.AddTensor("blk.0.ffn_gate.weight", GgmlType::kF32, {64, 96},
                     std::vector<float>(64 * 96, NAN));
    } else {
      gguf.RemoveTensor("token_embd.weight");  // to the file's end
      gguf.AddTensor("token_embd.weight", GgmlType::kF32, {64, 320}, std::vector<float>(64 * 320));
    }
    gguf.WriteTo(dir_.File("m.gguf"));
    const auto source = SourceModel::Open(dir_.File("m.gguf"));
    if (!of_layers) std::filesystem::resize_file(dir_.File("m.gguf"), source->file_bytes() - 4096);
    // Slow enough for the failure to come amid the other half, which has 64 steps or more.
    int steps = 0;
    const auto report = WritePack(*source, dir_.File("p"), {}, [&](uint64_t, uint64_t) {
      ++steps;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    });
    EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss) << report.status();
    EXPECT_THAT(std::string(report.status().message()),
                HasSubstr(of_layers ? "blk.0.ffn_gate.weight" : "token_embd.weight"));
    EXPECT_LT(steps, 48);
  }
}

TEST(GoldenPackTest, PacksVerify) {
  TG_REQUIRE_SHARED("data/golden/arch");
  TempDir dir;
  for (const char* name : {"golden/arch/llama", "golden/arch/llama-f16", "golden/arch/llama-bf16",
                           "golden/arch/llama-q8_0", "golden/arch/llama-q4_0",
                           "golden/arch/llama-linear", "golden/arch/llama-tied-llama3",
                           "models/tinystories-6M.f16", "models/tinystories-6M.q8_0"}) {
    for (const UnitEncoding units :
         {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8, UnitEncoding::kQ4}) {
      const auto source = SourceModel::Open(SharedPath("data/" + std::string(name) + ".gguf"));
      ASSERT_TRUE(source.ok()) << source.status();
      const auto report = WritePack(*source, dir.File("p"), {.units = units}, nullptr);
      ASSERT_TRUE(report.ok()) << name << ": " << report.status();
      const OpenPack pack = OpenOrDie(dir.File("p"));
      const auto verified = VerifyPack(pack.fd.get(), pack.index, nullptr);
      ASSERT_TRUE(verified.ok()) << verified.status();
      EXPECT_TRUE(verified->ok()) << name;
      EXPECT_EQ(verified->blocks, pack.index.block_checksums.size());
      const double limits[] = {0, 0, 3e-4, 0.009, 0.15};  // by encoding
      for (const double error : report->relative_rms_error) {
        EXPECT_LE(error, limits[static_cast<int>(units)]) << name << " " << UnitEncodingName(units);
      }
    }
  }
}

}  // namespace tidegate::pack_writer_test
