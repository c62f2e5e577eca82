#include "proto/store/v1/pack_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>

#include "base/unique_fd.h"
#include "base/units.h"
#include "proto/gguf/ggml_type.h"
#include "proto/store/v1/static_tensors.h"
#include "proto/store/v1/unit_codec.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_format_test {

using absl::StatusCode;
using store::v1::Manifest;

// The golden copy: whoever changes one of these changes the file format.
TEST(PackFormatTest, LayoutIsGolden) {
  EXPECT_EQ(sizeof(PackHeader), 128u);
  EXPECT_EQ(offsetof(PackHeader, version), 8u);
  EXPECT_EQ(offsetof(PackHeader, uuid), 16u);
  EXPECT_EQ(offsetof(PackHeader, file_bytes), 32u);
  EXPECT_EQ(offsetof(PackHeader, static_offset), 40u);
  EXPECT_EQ(offsetof(PackHeader, blocks_offset), 56u);
  EXPECT_EQ(offsetof(PackHeader, checksums_offset), 72u);
  EXPECT_EQ(offsetof(PackHeader, checksums_xxh3), 88u);
  EXPECT_EQ(offsetof(PackHeader, manifest_offset), 96u);
  EXPECT_EQ(offsetof(PackHeader, header_xxh3), 120u);
  EXPECT_EQ(std::memcmp(&kPackMagic, "1TGPACK1", 8), 0);
  EXPECT_EQ(Checksum("tidegate", 8), Checksum("tidegate", 8));
  EXPECT_EQ(Checksum("", 0), 0x2d06800538d394c2u);  // XXH3-64 of nothing, from the specification
}

Manifest GoodManifest() {
  Manifest manifest;
  auto& hp = *manifest.mutable_hyper_parameters();
  hp.set_layer_count(2);
  hp.set_hidden_size(64);
  hp.set_intermediate_size(96);
  hp.set_query_heads(4);
  hp.set_kv_heads(2);
  hp.set_head_size(16);
  hp.set_embedding_rows(10);
  hp.set_context_length(32);
  hp.set_rms_epsilon(1e-5f);
  hp.set_rope_base(10000);
  hp.set_rope_dims(16);
  manifest.set_unit_encoding(static_cast<uint32_t>(UnitEncoding::kQ8));
  auto& input = *manifest.mutable_input_units();
  input.set_unit_count(64);
  input.set_columns_per_unit(2);
  input.set_column_elements(96);
  input.set_unit_bytes(224);
  input.set_units_per_block(18);
  input.set_block_bytes(4096);
  auto& hidden = *manifest.mutable_hidden_units();
  hidden.set_unit_count(96);
  hidden.set_columns_per_unit(1);
  hidden.set_column_elements(64);
  hidden.set_unit_bytes(80);
  hidden.set_units_per_block(50);
  hidden.set_block_bytes(8192);
  manifest.add_layers();
  manifest.add_layers();
  auto& tensor = *manifest.add_static_tensors();
  tensor.set_name("t");
  tensor.set_type(static_cast<uint32_t>(GgmlType::kQ8_0));
  tensor.set_rows(2);
  tensor.set_columns(64);
  tensor.set_offset(64);
  tensor.set_bytes(160);
  return manifest;
}

TEST(PackGeometryTest, OffsetsFollowFromTheManifest) {
  const auto geometry = GeometryFromManifest(GoodManifest());
  ASSERT_TRUE(geometry.ok()) << geometry.status();
  EXPECT_EQ(geometry->kinds[0].block_count, 4u);
  EXPECT_EQ(geometry->kinds[1].block_count, 2u);
  EXPECT_EQ(geometry->layer_blocks(), 6u);
  EXPECT_EQ(geometry->layer_bytes(), 4u * 4096 + 2 * 8192);
  EXPECT_EQ(geometry->blocks_bytes(), 2 * geometry->layer_bytes());
  EXPECT_EQ(geometry->BlockOffset(0, UnitKind::kInput, 3), 3u * 4096);
  EXPECT_EQ(geometry->BlockOffset(0, UnitKind::kHidden, 1), 4u * 4096 + 8192);
  EXPECT_EQ(geometry->BlockOffset(1, UnitKind::kInput, 0), geometry->layer_bytes());
  EXPECT_EQ(geometry->BlockIndex(0, UnitKind::kHidden, 0), 4u);
  EXPECT_EQ(geometry->BlockIndex(1, UnitKind::kHidden, 1), 11u);
  EXPECT_STREQ(UnitKindName(UnitKind::kInput), "input");
  EXPECT_STREQ(UnitKindName(UnitKind::kHidden), "hidden");
}

// Three experts and a shared one in blocks of 16 and 32 units.
Manifest ManifestOfExperts() {
  Manifest manifest = GoodManifest();
  auto& hp = *manifest.mutable_hyper_parameters();
  hp.set_expert_count(3);
  hp.set_experts_used(2);
  hp.set_shared_experts(1);
  manifest.mutable_input_units()->set_unit_count(4 * 64);
  manifest.mutable_input_units()->set_units_per_block(16);
  manifest.mutable_hidden_units()->set_unit_count(4 * 96);
  manifest.mutable_hidden_units()->set_units_per_block(32);
  return manifest;
}

TEST(PackGeometryTest, ExpertsArePartsOfALayersUnits) {
  const Manifest manifest = ManifestOfExperts();
  EXPECT_EQ(ExpertSlots(manifest.hyper_parameters()), 4u);
  EXPECT_EQ(ExpertSlots(GoodManifest().hyper_parameters()), 1u);
  const auto geometry = GeometryFromManifest(manifest);
  ASSERT_TRUE(geometry.ok()) << geometry.status();
  EXPECT_EQ(geometry->kinds[0].block_count, 16u);
  EXPECT_EQ(geometry->kinds[1].block_count, 12u);
}

TEST(PackGeometryTest, ImpossibleExpertsAreRefused) {
  const auto refusal = [](const std::function<void(Manifest&)>& damage) {
    Manifest manifest = ManifestOfExperts();
    damage(manifest);
    const auto status = GeometryFromManifest(manifest).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    return std::string(status.message());
  };
  const auto hp = [](Manifest& m) { return m.mutable_hyper_parameters(); };
  for (const auto& damage : std::vector<std::function<void(Manifest&)>>{
           [&](Manifest& m) { hp(m)->set_experts_used(0); },
           [&](Manifest& m) { hp(m)->set_experts_used(4); },
           [&](Manifest& m) { hp(m)->set_expert_count(0); },
           [&](Manifest& m) { hp(m)->set_expert_count(kMaxExperts + 1); },
           [&](Manifest& m) { hp(m)->set_shared_experts(UINT32_MAX); }}) {
    EXPECT_THAT(refusal(damage), testing::HasSubstr("hyper-parameters are out of range"));
  }
  EXPECT_THAT(refusal([&](Manifest& m) { hp(m)->set_expert_count(2); }),
              testing::HasSubstr("do not fit the hyper-parameters"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_input_units()->set_units_per_block(18); }),
              testing::HasSubstr("a block holds units of two experts"));
  EXPECT_THAT(refusal([](Manifest& m) {
                auto& positions = *m.mutable_layers(1)->mutable_hidden()->mutable_positions();
                for (uint32_t u = 0; u < 4 * 96; ++u) positions.Add(u);
                std::swap(positions[95], positions[96]);
              }),
              testing::HasSubstr("a permutation mixes experts"));
}

struct BadManifest {
  const char* name;
  std::function<void(Manifest&)> damage;
};

class BadManifestTest : public ::testing::TestWithParam<BadManifest> {};

TEST_P(BadManifestTest, IsRefused) {
  Manifest manifest = GoodManifest();
  GetParam().damage(manifest);
  EXPECT_EQ(GeometryFromManifest(manifest).status().code(), StatusCode::kDataLoss);
}

std::vector<BadManifest> BadManifests() {
  using M = Manifest;
  return {
      {"NoLayers", [](M& m) { m.mutable_hyper_parameters()->set_layer_count(0); }},
      {"TooManyLayers",
       [](M& m) { m.mutable_hyper_parameters()->set_layer_count(kMaxLayers + 1); }},
      {"LayersMissing", [](M& m) { m.mutable_layers()->RemoveLast(); }},
      {"HugeHidden", [](M& m) { m.mutable_hyper_parameters()->set_hidden_size(kMaxUnits + 1); }},
      {"OtherHidden", [](M& m) { m.mutable_hyper_parameters()->set_hidden_size(32); }},
      {"OtherIntermediate", [](M& m) { m.mutable_hyper_parameters()->set_intermediate_size(64); }},
      {"NoHeads", [](M& m) { m.mutable_hyper_parameters()->set_query_heads(0); }},
      {"NoKvHeads", [](M& m) { m.mutable_hyper_parameters()->set_kv_heads(0); }},
      {"UnevenHeads", [](M& m) { m.mutable_hyper_parameters()->set_kv_heads(3); }},
      {"HugeHead", [](M& m) { m.mutable_hyper_parameters()->set_head_size(5000); }},
      {"NoVocabulary", [](M& m) { m.mutable_hyper_parameters()->set_embedding_rows(0); }},
      {"NoContext", [](M& m) { m.mutable_hyper_parameters()->set_context_length(0); }},
      {"WideRope", [](M& m) { m.mutable_hyper_parameters()->set_rope_dims(18); }},
      {"OddRope", [](M& m) { m.mutable_hyper_parameters()->set_rope_dims(5); }},
      {"EpsilonNotANumber", [](M& m) { m.mutable_hyper_parameters()->set_rms_epsilon(NAN); }},
      {"NegativeRopeBase", [](M& m) { m.mutable_hyper_parameters()->set_rope_base(-1); }},
      {"NoEncoding", [](M& m) { m.set_unit_encoding(0); }},
      {"NewEncoding", [](M& m) { m.set_unit_encoding(9); }},
      {"NoUnits", [](M& m) { m.mutable_input_units()->set_unit_count(0); }},
      {"TooManyUnits", [](M& m) { m.mutable_hidden_units()->set_unit_count(kMaxUnits + 1); }},
      {"ThreeColumns", [](M& m) { m.mutable_input_units()->set_columns_per_unit(3); }},
      {"OneInputColumn",
       [](M& m) {
         m.mutable_input_units()->set_columns_per_unit(1);
         m.mutable_input_units()->set_unit_bytes(112);
       }},
      {"PartialGroups", [](M& m) { m.mutable_input_units()->set_column_elements(97); }},
      {"OtherUnitBytes", [](M& m) { m.mutable_input_units()->set_unit_bytes(240); }},
      {"NoUnitsPerBlock", [](M& m) { m.mutable_input_units()->set_units_per_block(0); }},
      {"TooManyUnitsPerBlock", [](M& m) { m.mutable_input_units()->set_units_per_block(19); }},
      {"UnitsPerBlockOverflow",
       [](M& m) { m.mutable_input_units()->set_units_per_block(1u << 31); }},
      {"PartialPages", [](M& m) { m.mutable_input_units()->set_block_bytes(6000); }},
      {"NoBlock", [](M& m) { m.mutable_input_units()->set_block_bytes(0); }},
      {"HugeBlock", [](M& m) { m.mutable_input_units()->set_block_bytes(2 * kMaxBlockBytes); }},
      {"ShortPermutation", [](M& m) { m.mutable_layers(0)->mutable_input()->add_positions(0); }},
      {"PermutationRepeats",
       [](M& m) {
         for (int i = 0; i < 64; ++i)
           m.mutable_layers(1)->mutable_input()->add_positions(i == 9 ? 8 : i);
       }},
      {"PermutationOutside",
       [](M& m) {
         for (int i = 0; i < 96; ++i) m.mutable_layers(1)->mutable_hidden()->add_positions(i + 1);
       }},
  };
}
INSTANTIATE_TEST_SUITE_P(All, BadManifestTest, ::testing::ValuesIn(BadManifests()),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(PackGeometryTest, PermutationsThatCoverEveryUnitAreFine) {
  Manifest manifest = GoodManifest();
  for (int i = 0; i < 64; ++i) manifest.mutable_layers(0)->mutable_input()->add_positions(63 - i);
  EXPECT_TRUE(GeometryFromManifest(manifest).ok());
}

constexpr uint64_t kFileBytes = 1 << 20;

PackHeader GoodHeader() {
  PackHeader header = {};
  header.magic = kPackMagic;
  header.version = kPackVersion;
  header.header_bytes = kPageBytes;
  header.file_bytes = kFileBytes;
  header.static_offset = 4096;
  header.static_bytes = 4096;
  header.blocks_offset = 8192;
  header.blocks_bytes = 65536;
  header.checksums_offset = 8192 + 65536;
  header.checksum_count = 12;
  header.manifest_offset = 8192 + 65536 + 96;
  header.manifest_bytes = 100;
  header.header_xxh3 = Checksum(&header, offsetof(PackHeader, header_xxh3));
  return header;
}

struct BadHeader {
  const char* name;
  std::function<void(PackHeader&)> damage;
  StatusCode code;
  bool resign = true;  // with a fresh checksum, so that the check behind it is reached
};

class BadHeaderTest : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefused) {
  PackHeader header = GoodHeader();
  ASSERT_TRUE(ValidatePackHeader(header, kFileBytes).ok());
  GetParam().damage(header);
  if (GetParam().resign) header.header_xxh3 = Checksum(&header, offsetof(PackHeader, header_xxh3));
  EXPECT_EQ(ValidatePackHeader(header, kFileBytes).code(), GetParam().code);
}

std::vector<BadHeader> BadHeaders() {
  using H = PackHeader;
  constexpr auto kLoss = StatusCode::kDataLoss;
  constexpr uint64_t kHuge = UINT64_MAX - 100;
  return {
      {"HalfWritten", [](H& h) { h.magic = 0; }, StatusCode::kInvalidArgument},
      {"NewerVersion", [](H& h) { h.version = 3; }, StatusCode::kFailedPrecondition},
      {"BitFlip", [](H& h) { h.static_bytes ^= 64; }, kLoss, false},
      {"UuidFlip", [](H& h) { h.uuid[3] ^= 1; }, kLoss, false},
      {"Truncated", [](H& h) { h.file_bytes = 2 * kFileBytes; }, kLoss},
      {"StaticsInTheHeader", [](H& h) { h.static_offset = 0; }, kLoss},
      {"StaticsOutside", [](H& h) { h.static_bytes = kFileBytes; }, kLoss},
      {"StaticsOverflow", [](H& h) { h.static_bytes = kHuge; }, kLoss},
      {"StaticsUnaligned", [](H& h) { h.static_offset += 8; }, kLoss},
      {"BlocksOutside", [](H& h) { h.blocks_offset = kHuge & ~uint64_t{4095}; }, kLoss},
      {"BlocksTooLong", [](H& h) { h.blocks_bytes = kFileBytes; }, kLoss},
      {"BlocksUnaligned", [](H& h) { h.blocks_offset += 512; }, kLoss},
      {"ChecksumsOutside", [](H& h) { h.checksums_offset = kFileBytes; }, kLoss},
      {"ChecksumCountOverflow", [](H& h) { h.checksum_count = uint64_t{1} << 61; }, kLoss},
      {"ManifestOutside", [](H& h) { h.manifest_offset = kFileBytes - 10; }, kLoss},
      {"ManifestHuge", [](H& h) { h.manifest_bytes = kMaxManifestBytes + 1; }, kLoss},
  };
}
INSTANTIATE_TEST_SUITE_P(All, BadHeaderTest, ::testing::ValuesIn(BadHeaders()),
                         [](const auto& row) { return std::string(row.param.name); });

// A whole small pack, put together by hand.
struct RawPack {
  PackHeader header = {};
  Manifest manifest = GoodManifest();
  std::string statics = std::string(256, 's');
  std::string blocks;
  std::vector<uint64_t> checksums;

  RawPack() {
    const auto geometry = *GeometryFromManifest(manifest);
    blocks.resize(geometry.blocks_bytes(), 'b');
    checksums.resize(12, 7);
  }
  std::string Bytes() {
    const std::string encoded = manifest.SerializeAsString();
    header.magic = kPackMagic;
    header.version = kPackVersion;
    header.header_bytes = kPageBytes;
    header.static_offset = 4096;
    header.static_bytes = statics.size();
    header.blocks_offset = 8192;
    header.blocks_bytes = blocks.size();
    header.checksums_offset = 8192 + blocks.size();
    header.checksum_count = checksums.size();
    header.checksums_xxh3 = Checksum(checksums.data(), checksums.size() * 8);
    header.manifest_offset = header.checksums_offset + checksums.size() * 8;
    header.manifest_bytes = encoded.size();
    header.manifest_xxh3 = Checksum(encoded.data(), encoded.size());
    header.file_bytes = header.manifest_offset + encoded.size();
    header.header_xxh3 = Checksum(&header, offsetof(PackHeader, header_xxh3));
    std::string out(reinterpret_cast<const char*>(&header), sizeof(header));
    out.resize(4096);
    out += statics;
    out.resize(8192);
    out += blocks;
    out.append(reinterpret_cast<const char*>(checksums.data()), checksums.size() * 8);
    return out + encoded;
  }
};

absl::Status ReadBytes(const std::string& bytes) {
  TempDir dir;
  WriteFileOrDie(dir.File("p"), bytes);
  const auto fd = UniqueFd::Open(dir.File("p"), O_RDONLY);
  return ReadPackIndex(fd->get(), "the.tgpack").status();
}

TEST(ReadPackIndexTest, AcceptsAGoodPackAndNamesTheFileOtherwise) {
  RawPack pack;
  const std::string bytes = pack.Bytes();
  ASSERT_TRUE(ReadBytes(bytes).ok()) << ReadBytes(bytes);
  EXPECT_EQ(ReadBytes("short").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadBytes("").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadBytes("GGUF" + std::string(500, 'x')).code(), StatusCode::kInvalidArgument);
  const absl::Status cut = ReadBytes(bytes.substr(0, bytes.size() - 1));
  EXPECT_EQ(cut.code(), StatusCode::kDataLoss);
  EXPECT_THAT(std::string(cut.message()), ::testing::HasSubstr("the.tgpack: truncated"));
}

TEST(ReadPackIndexTest, EveryByteOutsideWeightsIsCovered) {
  RawPack pack;
  const std::string good = pack.Bytes();
  for (const uint64_t at : {uint64_t{0}, uint64_t{9}, uint64_t{20}, uint64_t{100},
                            pack.header.checksums_offset, pack.header.checksums_offset + 95,
                            pack.header.manifest_offset, uint64_t{good.size() - 1}}) {
    std::string bytes = good;
    bytes[at] ^= 4;
    EXPECT_FALSE(ReadBytes(bytes).ok()) << at;
  }
}

TEST(ReadPackIndexTest, SectionsMustFitTheManifest) {
  RawPack few;
  few.checksums.pop_back();
  EXPECT_EQ(ReadBytes(few.Bytes()).code(), StatusCode::kDataLoss);
  RawPack short_blocks;
  short_blocks.blocks.resize(short_blocks.blocks.size() - 4096);
  EXPECT_EQ(ReadBytes(short_blocks.Bytes()).code(), StatusCode::kDataLoss);
  const std::function<void(store::v1::StaticTensor&)> kRows[] = {
      [](auto& t) { t.set_offset(32); },
      [](auto& t) { t.set_offset(128); },
      [](auto& t) { t.set_offset(UINT64_MAX & ~uint64_t{63}); },
      [](auto& t) { t.set_bytes(UINT64_MAX); },
      [](auto& t) { t.set_rows(3); },
      [](auto& t) { t.set_columns(40); },
      [](auto& t) { t.set_rows(uint64_t{1} << 60); },
  };
  for (const auto& damage : kRows) {
    RawPack pack;
    damage(*pack.manifest.mutable_static_tensors(0));
    EXPECT_EQ(ReadBytes(pack.Bytes()).code(), StatusCode::kDataLoss);
  }
  RawPack type;
  type.manifest.mutable_static_tensors(0)->set_type(12);
  EXPECT_FALSE(ReadBytes(type.Bytes()).ok());
}

// A header may promise a table of any size that the file has room for, and files may have holes.
TEST(ReadPackIndexTest, ATableThatDoesNotFitTheModelIsRefusedBeforeItIsRead) {
  constexpr uint64_t kTableBytes = uint64_t{1} << 40;
  RawPack pack;
  std::string bytes = pack.Bytes();
  PackHeader header = pack.header;
  header.checksum_count = kTableBytes / 8;
  header.checksums_offset = RoundUp(bytes.size(), kPageBytes);
  header.file_bytes = header.checksums_offset + kTableBytes;
  header.header_xxh3 = Checksum(&header, offsetof(PackHeader, header_xxh3));
  std::memcpy(bytes.data(), &header, sizeof(header));
  TempDir dir;
  WriteFileOrDie(dir.File("p"), bytes);
  const auto fd = UniqueFd::Open(dir.File("p"), O_RDWR);
  ASSERT_TRUE(fd.ok());
  ASSERT_EQ(::ftruncate(fd->get(), static_cast<off_t>(header.file_bytes)), 0) << strerror(errno);
  const absl::Status status = ReadPackIndex(fd->get(), "the.tgpack").status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("wrong size"));
}

TEST(UuidTest, CanonicalText) {
  PackUuid uuid;
  for (size_t i = 0; i < uuid.size(); ++i) uuid[i] = static_cast<uint8_t>(17 * i);
  EXPECT_EQ(UuidText(uuid), "00112233-4455-6677-8899-aabbccddeeff");
}

}  // namespace tidegate::pack_format_test
