// A real store over a tiny pack, with its socket and its region, and clients of it. For tests that
// link tg_store, tg_packer and tg_weight_client.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/tiny_pack.h"
#include "weightstore/client/weight_client.h"
#include "weightstore/store.h"

namespace tidegate {

class StoreFixture : public testing::Test {
 protected:
  StoreFixture() : pack_(MakeTinyPack(folder_.path())) {
    options_.pack_path = pack_.path;
    options_.socket_path = folder_.File("attach.sock");
    options_.region_path = shm_.File("region");
    options_.memory_budget_bytes = 64 << 20;
    options_.cache_fraction = 0.5;
    options_.policy = "lfu";  // The requests of these tests carry no scores.
  }

  // Creates and starts store_ with options_; the one before must have been reset.
  void StartStore() {
    auto store = Store::Create(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ASSERT_TRUE(store_->Start().ok());
  }

  std::unique_ptr<WeightClient> Attach(const std::string& name = "test") const {
    auto client = WeightClient::Attach(options_.socket_path, name);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  static WeightLease Acquire(WeightClient& client, uint32_t layer, UnitKind kind,
                             const std::vector<WantedBlock>& wanted,
                             LeaseMode mode = LeaseMode::kSelect) {
    auto lease = client.Acquire(layer, kind, wanted, mode);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *std::move(lease) : WeightLease();
  }

  // Waits for every block of the lease, compares it with the pack's and hands it back.
  void ExpectPackBytes(WeightLease& lease, uint32_t layer, UnitKind kind,
                       const std::vector<WantedBlock>& wanted) const {
    for (size_t i = 0; i < wanted.size(); ++i) {
      const auto data = lease.Wait(i);
      ASSERT_TRUE(data.ok()) << "block " << wanted[i].block << ": " << data.status();
      const std::string expected = pack_.Block(layer, kind, wanted[i].block);
      ASSERT_EQ(std::string(reinterpret_cast<const char*>(*data), expected.size()) == expected,
                true)
          << "layer " << layer << ", " << UnitKindName(kind) << " block " << wanted[i].block;
      lease.Consumed(i + 1);
    }
  }
  void ExpectServes(WeightClient& client, uint32_t layer, UnitKind kind,
                    const std::vector<WantedBlock>& wanted) const {
    WeightLease lease = Acquire(client, layer, kind, wanted);
    ASSERT_EQ(lease.size(), wanted.size());
    ExpectPackBytes(lease, layer, kind, wanted);
  }

  // Gauges follow a little behind: the store's thread moves them.
  bool Becomes(const StoreStats::Counter& counter, uint64_t value) const {
    return WaitUntil([&] { return counter == value; }, std::chrono::seconds(20));
  }

  const StoreStats& stats() const { return store_->stats(); }

  TempDir folder_;
  ShmDir shm_;
  TinyPack pack_;
  StoreOptions options_;
  std::unique_ptr<Store> store_;
};

}  // namespace tidegate
