// A real store and a real client: what is delivered is what the pack holds, by every way there is.
#include "weightstore/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <thread>

#include "proto/store/v1/profile.h"
#include "tests/support/store_fixture.h"

namespace tidegate::store_test {

using ::testing::HasSubstr;
constexpr UnitKind kIn = UnitKind::kInput;
constexpr UnitKind kHid = UnitKind::kHidden;
constexpr uint64_t kInBytes = 8192, kHidBytes = 4096;  // blocks of the tiny pack

struct Backend {
  const char* name;
  const char* backend;
  bool modelled;
  bool verify;
};

class StoreOnBackend : public StoreFixture, public testing::WithParamInterface<Backend> {
 protected:
  void SetUp() override {
    options_.flash_backend = GetParam().backend;
    options_.verify_checksums = GetParam().verify;
    if (GetParam().modelled) {
      options_.flash_model =
          FlashModel{.bytes_per_second = 4e9, .latency = std::chrono::microseconds(50)};
    }
    if (options_.flash_backend != "io_uring") return;
    FlashOptions options;
    options.path = pack_.path;
    options.backend = "io_uring";
    const auto probe = OpenFlashDevice(options);
    if (!probe.ok()) GTEST_SKIP() << probe.status();
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, StoreOnBackend,
                         testing::Values(Backend{"io_uring", "io_uring", false, true},
                                         Backend{"pread", "pread", false, true},
                                         Backend{"modelled", "auto", true, true},
                                         Backend{"unverified", "pread", false, false}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(StoreOnBackend, StaticWeightsEqualThePacks) {
  StartStore();
  EXPECT_EQ(store_->info().flash.backend, GetParam().modelled ? "modelled" : GetParam().backend);
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(client->pack_uuid(), UuidText(pack_.index.header.uuid));
  EXPECT_GT(client->manifest().static_tensors_size(), 0);
  for (const auto& tensor : client->manifest().static_tensors()) {
    const std::string expected =
        pack_.FileBytes(pack_.index.header.static_offset + tensor.offset(), tensor.bytes());
    EXPECT_EQ(std::memcmp(client->StaticData(tensor), expected.data(), expected.size()), 0)
        << tensor.name();
  }
}

TEST_P(StoreOnBackend, EveryBlockIsTheOneThatWasAskedFor) {
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  for (const LeaseMode mode : {LeaseMode::kSelect, LeaseMode::kStream, LeaseMode::kSelect}) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (const UnitKind kind : {kIn, kHid}) {
        const auto wanted =
            Wanted(0, 64);  // Twice what the cache holds: half passes through staging.
        WeightLease lease = Acquire(*client, layer, kind, wanted, mode);
        ExpectPackBytes(lease, layer, kind, wanted);
      }
    }
  }
  EXPECT_EQ(stats().flash_reads_corrupt, 0u);
  EXPECT_EQ(stats().flash_reads_failed, 0u);
}

TEST_P(StoreOnBackend, MaskAfterMaskWithEvictions) {
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  for (uint32_t step = 0; step < 30; ++step) {
    std::vector<WantedBlock> wanted;
    for (uint32_t block = step % 5; block < 64; block += 2 + step % 4) wanted.push_back({block, 1});
    ExpectServes(*client, step % 2, step % 3 == 0 ? kIn : kHid, wanted);
  }
  EXPECT_GT(stats().evicted_blocks, 0u);
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  EXPECT_LE(stats().used_bytes, stats().capacity_bytes);
}

TEST_P(StoreOnBackend, StreamsALayerThroughLittleStaging) {
  options_.policy = "none";
  options_.cache_fraction = 0;
  options_.staging_bytes = 2 * kInBytes;
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  for (const UnitKind kind : {kIn, kHid, kIn}) {
    const auto wanted = Wanted(0, 64);
    WeightLease lease = Acquire(*client, 1, kind, wanted, LeaseMode::kStream);
    ExpectPackBytes(lease, 1, kind, wanted);
    EXPECT_TRUE(lease.IsStreamed(0) && lease.IsStreamed(63));
    const auto accounts = lease.accounts();
    ASSERT_TRUE(accounts.ok());
    EXPECT_EQ(accounts->flash_bytes, 64 * (kind == kIn ? kInBytes : kHidBytes));
    EXPECT_GE(accounts->flash_reads, 64 * (kind == kIn ? kInBytes : kHidBytes) / (8 * kInBytes))
        << "no read is larger than the session's staging";
    EXPECT_LE(accounts->flash_reads, 64u);
  }
  EXPECT_EQ(stats().flash_read_bytes[0], 0u);
  EXPECT_EQ(stats().flash_read_bytes[1], 64 * (2 * kInBytes + kHidBytes));
  EXPECT_EQ(stats().bypassed_blocks, 3 * 64u);
  EXPECT_EQ(stats().used_bytes, 0u);
}

class StoreTest : public StoreFixture {};

TEST_F(StoreTest, CountsHitsMissesAndBytes) {
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  const auto wanted = Wanted(8, 24, 3);
  for (const bool again : {false, true}) {
    WeightLease lease = Acquire(*client, 1, kHid, wanted);
    ExpectPackBytes(lease, 1, kHid, wanted);
    const auto accounts = lease.accounts();
    ASSERT_TRUE(accounts.ok()) << accounts.status();
    EXPECT_EQ(accounts->hit_units, again ? 48u : 0u);
    EXPECT_EQ(accounts->miss_units, again ? 0u : 48u);
    EXPECT_EQ(accounts->flash_bytes, again ? 0u : 16 * kHidBytes);
    EXPECT_EQ(accounts->flash_reads, again ? 0u : 1u) << "neighbours are one read";
    EXPECT_EQ(stats().pinned_bytes, 16 * kHidBytes);
  }
  EXPECT_TRUE(Becomes(stats().leases_granted[0], 2));  // Counted after the locations are out.
  EXPECT_EQ(stats().hit_units[0], 48u);
  EXPECT_EQ(stats().miss_units[0], 48u);
  EXPECT_EQ(stats().flash_read_bytes[0], 16 * kHidBytes);
  EXPECT_EQ(stats().used_bytes, 16 * kHidBytes);
  EXPECT_EQ(stats().inserted_blocks, 16u);
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
}

TEST_F(StoreTest, TheResidencyTableAgreesWithTheLease) {
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  for (const ResidencyEntry& entry : client->Residency(0, kIn)) EXPECT_EQ(entry, 0u);
  const auto wanted = Wanted(10, 42);
  WeightLease lease = Acquire(*client, 0, kIn, wanted);
  ExpectPackBytes(lease, 0, kIn, wanted);
  const auto residency = client->Residency(0, kIn);
  ASSERT_EQ(residency.size(), 64u);
  const auto offset = [&](uint32_t block) {
    return SlotOffset(client->region(), 0, kIn, residency[block] - 1);
  };
  for (uint32_t block = 0; block < 64; ++block) {
    ASSERT_EQ(residency[block] != 0, block >= 10 && block < 42) << block;
    if (residency[block] == 0) continue;
    EXPECT_EQ(residency[block] & kInFlight, 0u);
    EXPECT_FALSE(lease.IsStreamed(block - 10));
    EXPECT_EQ(lease.TryGet(block - 10) - lease.TryGet(0),
              static_cast<ptrdiff_t>(offset(block) - offset(10)));
  }
}

TEST_F(StoreTest, BlocksAreNamedOnceInTheOrderInWhichTheyArrive) {
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  const auto resident = Wanted(10, 20);
  {
    WeightLease before = Acquire(*client, 0, kIn, resident);
    ExpectPackBytes(before, 0, kIn, resident);
  }
  const auto wanted = Wanted(0, 30);
  for (int round = 0; round < 2; ++round) {  // The second one in the same place of the session.
    WeightLease lease = Acquire(*client, round, kIn, wanted);
    std::vector<bool> seen(wanted.size(), false);
    for (size_t k = 0; k < wanted.size(); ++k) {
      ASSERT_TRUE(lease.WaitArrival(k).ok());
      ASSERT_GT(lease.arrived(), k);
      const size_t i = lease.Arrival(k);
      if (round == 0 && k < resident.size()) {
        EXPECT_EQ(i, 10 + k) << "what is there comes first";
      }
      ASSERT_FALSE(seen[i]) << i;
      seen[i] = true;
      ASSERT_NE(lease.TryGet(i), nullptr);
      EXPECT_EQ(
          std::memcmp(lease.TryGet(i), pack_.Block(round, kIn, wanted[i].block).data(), kInBytes),
          0);
    }
    EXPECT_EQ(lease.arrived(), wanted.size());
  }
}

TEST_F(StoreTest, StagingIsReusedOnlyAfterConsumed) {
  options_.policy = "none";
  options_.staging_bytes = kInBytes;  // One chunk for each lease.
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  WeightLease lease = Acquire(*client, 0, kIn, Wanted(0, 8), LeaseMode::kStream);
  ASSERT_TRUE(lease.Wait(0).ok());
  EXPECT_EQ(stats().flash_read_bytes[1], kInBytes) << "only what has a place is read";
  EXPECT_EQ(lease.TryGet(1), nullptr);
  lease.Consumed(1);
  ASSERT_TRUE(lease.Wait(1).ok());
  EXPECT_EQ(lease.TryGet(1) - lease.TryGet(0), 0) << "the place was reused";
}

TEST_F(StoreTest, LeasesShareTheStagingAndNoneWaitsForAnotherToEnd) {
  options_.policy = "none";
  options_.staging_bytes = 2 * kInBytes;
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  std::vector<WeightLease> leases;
  for (uint32_t i = 0; i < kLeasesPerSession; ++i) {
    leases.push_back(Acquire(*client, i % 2, kIn, Wanted(0, 64), LeaseMode::kStream));
  }
  // The youngest first: the others hold what they read until they end.
  for (uint32_t i = kLeasesPerSession; i > 0; --i) {
    ExpectPackBytes(leases[i - 1], (i - 1) % 2, kIn, Wanted(0, 64));
    leases.pop_back();
  }
}

TEST_F(StoreTest, WithoutCacheEverySelectionIsReadAgain) {
  options_.policy = "none";
  options_.cache_fraction.reset();
  StartStore();
  EXPECT_EQ(store_->info().slot_bytes, 0u);
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  for (uint64_t time = 1; time <= 3; ++time) {
    ExpectServes(*client, 0, kHid, Wanted(5, 15));
    EXPECT_EQ(stats().flash_read_bytes[1], time * 10 * kHidBytes);
  }
  EXPECT_EQ(stats().hit_units[0], 0u);
}

TEST_F(StoreTest, ASecondStoreOnSocketOrRegionIsRefused) {
  StartStore();
  StoreOptions other = options_;
  EXPECT_EQ(Store::Create(other).status().code(), absl::StatusCode::kAlreadyExists);
  other.socket_path = folder_.File("other.sock");
  const auto region_taken = Store::Create(other);
  EXPECT_EQ(region_taken.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(region_taken.status().message()), HasSubstr(options_.region_path));
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  ExpectServes(*client, 0, kIn, Wanted(0, 4));
}

TEST_F(StoreTest, OptionsThatMakeNoSenseAreRefusedByName) {
  StoreOptions bad = options_;
  bad.policy = "fifo";
  EXPECT_THAT(std::string(Store::Create(bad).status().message()), HasSubstr("'fifo'"));
  bad = options_;
  bad.pack_path = folder_.File("absent");
  EXPECT_THAT(std::string(Store::Create(bad).status().message()), HasSubstr("absent"));
  bad = options_;
  bad.pack_path = folder_.File("model.gguf");
  EXPECT_EQ(Store::Create(bad).status().code(), absl::StatusCode::kInvalidArgument);
  bad = options_;
  bad.cache_fraction.reset();
  bad.memory_budget_bytes = 1000;
  EXPECT_EQ(Store::Create(bad).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(StoreTest, SlotsAreDividedAsThePacksProfileSays) {
  store::v1::Profile profile;
  const auto& hp = pack_.index.manifest.hyper_parameters();
  profile.set_version(kProfileVersion);
  profile.mutable_model()->set_name(pack_.index.manifest.model_name());
  profile.mutable_model()->set_layer_count(hp.layer_count());
  profile.mutable_model()->set_hidden_size(hp.hidden_size());
  profile.mutable_model()->set_intermediate_size(hp.intermediate_size());
  profile.mutable_model()->set_embedding_rows(hp.embedding_rows());
  profile.mutable_conditions()->set_input_share(0.9);
  profile.add_ladder()->set_density(1);
  const auto source = SourceModel::Open(folder_.path() + "/model.gguf");
  ASSERT_TRUE(source.ok());
  options_.pack_path = folder_.File("calibrated.tgpack");
  const PackOptions options = {
      .units = UnitEncoding::kF32, .hidden_block_bytes = 4096, .profile = profile};
  ASSERT_TRUE(WritePack(*source, options_.pack_path, options, nullptr).ok());
  options_.cache_fraction.reset();
  options_.staging_bytes = 64 << 10;
  options_.engine_reserve_bytes = 0;
  StartStore();
  options_.memory_budget_bytes =
      store_->info().region_bytes - pack_.index.geometry.blocks_bytes() / 2;
  const auto input_share = [&] {
    store_.reset();
    StartStore();
    return static_cast<double>(2 * kInBytes * store_->info().slots_per_layer[0]) /
           static_cast<double>(store_->info().slot_bytes);
  };
  EXPECT_NEAR(input_share(), 0.9, 0.05);
  options_.input_share = 0.5;
  EXPECT_NEAR(input_share(), 0.5, 0.05);
  options_.input_share.reset();
  options_.follow_profile = false;
  EXPECT_NEAR(input_share(), 2.0 / 3, 0.05);
}

TEST_F(StoreTest, StopWhileAClientWaits) {
  options_.policy = "none";
  options_.staging_bytes = 2 * kInBytes;
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  WeightLease lease = Acquire(*client, 0, kIn, Wanted(0, 64), LeaseMode::kStream);
  ASSERT_TRUE(lease.Wait(0).ok());
  absl::Status waited;
  std::thread waiter([&] { waited = lease.Wait(63).status(); });  // Never: nothing is consumed.
  store_->Stop();
  waiter.join();
  EXPECT_EQ(waited.code(), absl::StatusCode::kUnavailable) << waited;
  EXPECT_FALSE(client->connected());
  EXPECT_EQ(client->Acquire(0, kIn, Wanted(0, 1), LeaseMode::kSelect).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE(FileExists(options_.region_path));
  EXPECT_FALSE(FileExists(options_.socket_path));
}

}  // namespace tidegate::store_test
