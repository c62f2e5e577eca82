#include "proto/store/v1/shm_layout.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "base/units.h"

namespace tidegate::shm_layout_test {

using absl::StatusCode;

// The golden copy: whoever changes one of these makes layout version 4.
TEST(ShmLayoutTest, LayoutIsGolden) {
  EXPECT_EQ(kRegionMagic, 0x3130474552475431u);
  EXPECT_EQ(kSessionMagic, 0x3130534553475431u);
  EXPECT_EQ(kShmVersion, 5u);
  EXPECT_EQ(kMaxSessions, 2u);
  EXPECT_EQ(kLeasesPerSession, 4u);
  EXPECT_EQ(kRingEntries, 16u);

  EXPECT_EQ(sizeof(RegionKind), 24u);
  EXPECT_EQ(offsetof(RegionKind, slots_per_layer), 20u);
  EXPECT_EQ(sizeof(RegionHeader), 160u);
  EXPECT_EQ(offsetof(RegionHeader, layer_count), 12u);
  EXPECT_EQ(offsetof(RegionHeader, pack_uuid), 16u);
  EXPECT_EQ(offsetof(RegionHeader, region_bytes), 32u);
  EXPECT_EQ(offsetof(RegionHeader, kinds), 40u);
  EXPECT_EQ(offsetof(RegionHeader, static_offset), 104u);
  EXPECT_EQ(offsetof(RegionHeader, residency_offset), 120u);
  EXPECT_EQ(offsetof(RegionHeader, slots_offset), 128u);
  EXPECT_EQ(offsetof(RegionHeader, staging_offset), 136u);
  EXPECT_EQ(offsetof(RegionHeader, engine_reserve_bytes), 152u);

  EXPECT_EQ(sizeof(RingEntry), 32u);
  EXPECT_EQ(offsetof(RingEntry, serial), 24u);
  EXPECT_EQ(sizeof(WantedBlock), 8u);
  EXPECT_EQ(offsetof(WantedBlock, units), 4u);
  EXPECT_EQ(offsetof(WantedBlock, score), 6u);
  EXPECT_EQ(sizeof(LeaseHeader), 256u);
  EXPECT_EQ(offsetof(LeaseHeader, consumed), 8u);
  EXPECT_EQ(offsetof(LeaseHeader, granted_serial), 16u);
  EXPECT_EQ(offsetof(LeaseHeader, flash_bytes), 40u);
  EXPECT_EQ(offsetof(LeaseHeader, arrived), 56u);
  EXPECT_EQ(offsetof(LeaseHeader, error), 60u);

  EXPECT_EQ(sizeof(SessionHeader), 768u);
  EXPECT_EQ(offsetof(SessionHeader, submitted), 64u);
  EXPECT_EQ(offsetof(SessionHeader, taken), 128u);
  EXPECT_EQ(offsetof(SessionHeader, store_waiting), 192u);
  EXPECT_EQ(offsetof(SessionHeader, ring), 256u);

  EXPECT_EQ(kInFlight, 0x80000000u);
  EXPECT_EQ(kLocationReady | kLocationFailed | kLocationStreamed, uint64_t{7} << 61);
  EXPECT_EQ(kLocationOffsetMask, 0x00ffffffffffffffu);
}

PackGeometry Geometry() {
  PackGeometry geometry;
  geometry.layer_count = 3;
  geometry.kinds[0] = {64, 224, 18, 4096, 4, 2, 96};
  geometry.kinds[1] = {96, 80, 50, 8192, 2, 1, 64};
  return geometry;
}

RegionPlan Plan() {
  return {.manifest_bytes = 5000,
          .static_bytes = 10000,
          .staging_bytes = 64 * kKiB,
          .engine_reserve_bytes = 1 << 20,
          .slots_per_layer = {3, 1}};
}

RegionHeader Good() { return MakeRegionHeader(Geometry(), PackUuid{}, Plan()); }

TEST(RegionTest, PartsFollowEachOtherOnPages) {
  const RegionHeader header = Good();
  EXPECT_EQ(header.manifest_offset, 4096u);
  EXPECT_EQ(header.static_offset, 4096u + 8192);
  EXPECT_EQ(header.residency_offset, 12288u + 12288);
  EXPECT_EQ(header.slots_offset, 24576u + 4096);
  EXPECT_EQ(header.staging_offset, 28672u + 3 * (3 * 4096 + 8192));
  EXPECT_EQ(header.region_bytes, header.staging_offset + 8 * 64 * kKiB);
  EXPECT_TRUE(ValidateRegionHeader(header, header.region_bytes).ok());
}

TEST(RegionTest, OffsetsOfSlotsResidencyAndStaging) {
  const RegionHeader header = Good();
  const uint64_t layer = 3 * 4096 + 8192;
  EXPECT_EQ(SlotOffset(header, 0, UnitKind::kInput, 0), header.slots_offset);
  EXPECT_EQ(SlotOffset(header, 0, UnitKind::kInput, 2), header.slots_offset + 8192);
  EXPECT_EQ(SlotOffset(header, 0, UnitKind::kHidden, 0), header.slots_offset + 12288);
  EXPECT_EQ(SlotOffset(header, 2, UnitKind::kHidden, 0), header.slots_offset + 2 * layer + 12288);
  // The last slot ends where staging starts.
  EXPECT_EQ(SlotOffset(header, 2, UnitKind::kHidden, 0) + 8192, header.staging_offset);
  EXPECT_EQ(ResidencyOffset(header, 0, UnitKind::kInput), header.residency_offset);
  EXPECT_EQ(ResidencyOffset(header, 0, UnitKind::kHidden), header.residency_offset + 4 * 4);
  EXPECT_EQ(ResidencyOffset(header, 1, UnitKind::kInput), header.residency_offset + 6 * 4);
  EXPECT_EQ(StagingOffset(header, 0, 0), header.staging_offset);
  EXPECT_EQ(StagingOffset(header, 1, 2), header.staging_offset + 6 * 64 * kKiB);
  EXPECT_EQ(StagingOffset(header, 1, 3) + 64 * kKiB, header.region_bytes);
}

struct BadRegion {
  const char* name;
  std::function<void(RegionHeader&)> damage;
  StatusCode code = StatusCode::kDataLoss;
};

class BadRegionTest : public ::testing::TestWithParam<BadRegion> {};

TEST_P(BadRegionTest, IsRefused) {
  RegionHeader header = Good();
  const uint64_t bytes = header.region_bytes;
  GetParam().damage(header);
  EXPECT_EQ(ValidateRegionHeader(header, bytes).code(), GetParam().code);
}

std::vector<BadRegion> BadRegions() {
  using H = RegionHeader;
  constexpr uint64_t kHuge = uint64_t{1} << 63;
  return {
      {"HalfBuilt", [](H& h) { h.magic = 0; }},
      {"SessionInstead", [](H& h) { h.magic = kSessionMagic; }},
      {"NewerVersion", [](H& h) { h.version = kShmVersion + 1; }, StatusCode::kFailedPrecondition},
      {"NoLayers", [](H& h) { h.layer_count = 0; }},
      {"OneLayerMore", [](H& h) { h.layer_count = 4; }},
      {"TooManyLayers", [](H& h) { h.layer_count = kMaxLayers + 1; }},
      {"OtherSize", [](H& h) { h.region_bytes += 4096; }},
      {"HugeSize", [](H& h) { h.region_bytes = kHuge; }},
      {"NoUnits", [](H& h) { h.kinds[0].unit_count = 0; }},
      {"TooManyUnits", [](H& h) { h.kinds[1].unit_count = kMaxUnits + 1; }},
      {"EmptyUnits", [](H& h) { h.kinds[0].unit_bytes = 0; }},
      {"NoUnitsPerBlock", [](H& h) { h.kinds[0].units_per_block = 0; }},
      {"TooManyUnitsPerBlock", [](H& h) { h.kinds[0].units_per_block = 19; }},
      {"PartialPages", [](H& h) { h.kinds[0].block_bytes = 5000; }},
      {"NoBlocks", [](H& h) { h.kinds[0].block_bytes = 0; }},
      {"HugeBlocks", [](H& h) { h.kinds[1].block_bytes = kMaxBlockBytes + 4096; }},
      {"OtherBlockCount", [](H& h) { h.kinds[0].block_count = 5; }},
      {"MoreSlotsThanBlocks", [](H& h) { h.kinds[0].slots_per_layer = 5; }},
      {"OneSlotMore", [](H& h) { h.kinds[0].slots_per_layer = 4; }},
      {"ManifestMoved", [](H& h) { h.manifest_offset += 4096; }},
      {"ManifestHuge", [](H& h) { h.manifest_bytes = kMaxManifestBytes + 1; }},
      {"ManifestLonger", [](H& h) { h.manifest_bytes += 4096; }},
      {"StaticsMoved", [](H& h) { h.static_offset = 0; }},
      {"StaticsHuge", [](H& h) { h.static_bytes = kHuge; }},
      {"StaticsOverflow", [](H& h) { h.static_bytes = UINT64_MAX; }},
      {"ResidencyMoved", [](H& h) { h.residency_offset += 64; }},
      {"SlotsMoved", [](H& h) { h.slots_offset = kHuge; }},
      {"StagingMoved", [](H& h) { h.staging_offset -= 4096; }},
      {"StagingHuge", [](H& h) { h.staging_bytes = kHuge; }},
      {"StagingBelowABlock", [](H& h) { h.staging_bytes = 4096; }},
      {"StagingPartialPages", [](H& h) { h.staging_bytes += 100; }},
  };
}
INSTANTIATE_TEST_SUITE_P(All, BadRegionTest, ::testing::ValuesIn(BadRegions()),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(RegionTest, AMappingShorterThanItsHeaderSaysIsRefused) {
  const RegionHeader header = Good();
  EXPECT_EQ(ValidateRegionHeader(header, header.region_bytes - 4096).code(), StatusCode::kDataLoss);
  EXPECT_EQ(ValidateRegionHeader(header, 0).code(), StatusCode::kDataLoss);
}

TEST(RegionTest, ARegionOfAnotherModelThanItsManifestIsRefused) {
  const PackGeometry geometry = Geometry();
  EXPECT_TRUE(CheckRegionGeometry(Good(), geometry).ok());
  const std::function<void(PackGeometry&)> kOthers[] = {
      [](auto& g) { g.layer_count = 4; },
      [](auto& g) { g.kinds[0].unit_count = 63; },
      [](auto& g) { g.kinds[0].unit_bytes = 220; },
      [](auto& g) { g.kinds[1].units_per_block = 49; },
      [](auto& g) { g.kinds[1].block_bytes = 4096; },
      [](auto& g) { g.kinds[1].block_count = 3; },
  };
  for (const auto& change : kOthers) {
    PackGeometry other = geometry;
    change(other);
    EXPECT_EQ(CheckRegionGeometry(Good(), other).code(), StatusCode::kDataLoss);
  }
}

TEST(RegionTest, APassUsesEveryUnitOfEveryLayerAtMost) {
  EXPECT_EQ(UnitsOfPass(Geometry()), 3u * (64 + 96) * kRowsOfPass);
}

TEST(RegionTest, NoSlotsAtAllIsARegionToo) {
  RegionPlan plan = Plan();
  plan.slots_per_layer[0] = plan.slots_per_layer[1] = 0;
  const RegionHeader header = MakeRegionHeader(Geometry(), PackUuid{}, plan);
  EXPECT_TRUE(ValidateRegionHeader(header, header.region_bytes).ok());
  EXPECT_EQ(header.slots_offset, header.staging_offset);
}

TEST(SessionTest, SizesFollowFromTheLargestKind) {
  EXPECT_EQ(SessionMaxBlocks(Geometry()), 4u);
  EXPECT_EQ(SessionLeaseStride(3), 256u + 64);
  EXPECT_EQ(SessionLeaseStride(4), 256u + 128);
  EXPECT_EQ(SessionBytes(4), 8192u);
  EXPECT_EQ(SessionBytes(1000) % 4096, 0u);
  EXPECT_GE(SessionBytes(1000), 4096 + 4 * SessionLeaseStride(1000));
}

void FillGood(SessionHeader& header) {
  header.magic = kSessionMagic;
  header.version = kShmVersion;
  header.session_index = kMaxSessions - 1;
  header.max_blocks = 4;
  header.leases_offset = 4096;
  header.lease_stride = SessionLeaseStride(4);
  header.session_bytes = SessionBytes(4);
}

struct BadSession {
  const char* name;
  std::function<void(SessionHeader&)> damage;
};

class BadSessionTest : public ::testing::TestWithParam<BadSession> {};

TEST_P(BadSessionTest, IsRefused) {
  SessionHeader header = {};
  FillGood(header);
  const uint64_t bytes = header.session_bytes;
  ASSERT_TRUE(ValidateSessionHeader(header, bytes).ok());
  GetParam().damage(header);
  EXPECT_EQ(ValidateSessionHeader(header, bytes).code(), StatusCode::kDataLoss);
}

std::vector<BadSession> BadSessions() {
  using H = SessionHeader;
  return {
      {"HalfBuilt", [](H& h) { h.magic = 0; }},
      {"NewerVersion", [](H& h) { h.version = kShmVersion + 1; }},
      {"IndexOutside", [](H& h) { h.session_index = kMaxSessions; }},
      {"NoBlocks", [](H& h) { h.max_blocks = 0; }},
      {"MoreBlocks", [](H& h) { h.max_blocks = 8; }},
      {"TooManyBlocks", [](H& h) { h.max_blocks = kMaxUnits + 1; }},
      {"LeasesMoved", [](H& h) { h.leases_offset = 0; }},
      {"OtherStride", [](H& h) { h.lease_stride += 64; }},
      {"OtherSize", [](H& h) { h.session_bytes += 4096; }},
  };
}
INSTANTIATE_TEST_SUITE_P(All, BadSessionTest, ::testing::ValuesIn(BadSessions()),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(SessionTest, AShortMappingIsRefused) {
  SessionHeader header = {};
  FillGood(header);
  EXPECT_FALSE(ValidateSessionHeader(header, header.session_bytes - 1).ok());
  EXPECT_FALSE(ValidateSessionHeader(header, 100).ok());
}

}  // namespace tidegate::shm_layout_test
