// Units from memory in an order of landing that a test decides, block by block, with staging that
// runs out and blocks that fail.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "base/check.h"
#include "engine/unit_source.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

// How the blocks of one flow behave. Unset: all are resident.
struct LandingScript {
  std::vector<uint32_t> order;    // in which the indices land; the others land at once, before
  std::set<uint32_t> streamed;    // come through staging
  uint32_t staging_blocks = 0;    // places in it; 0: as many as wanted
  std::optional<uint32_t> fails;  // is lost when it should land
};

class ScriptedUnits final : public UnitSource {
 public:
  using ScriptFor = std::function<LandingScript(uint32_t layer, UnitKind kind, size_t blocks)>;

  // The bytes are those of a model that is wholly resident in `client`'s store.
  ScriptedUnits(WeightClient* client, ScriptFor script)
      : client_(client), script_(std::move(script)) {}

  const PackGeometry& geometry() const override { return client_->geometry(); }
  std::span<const ResidencyEntry> Residency(uint32_t layer, UnitKind kind) const override {
    return client_->Residency(layer, kind);
  }
  const std::byte* CompleteSlots(uint32_t, UnitKind) override { return nullptr; }
  void CountUses(LeaseMode, uint64_t) override {}
  absl::StatusOr<std::unique_ptr<UnitFlow>> Open(uint32_t layer, UnitKind kind,
                                                 std::span<const WantedBlock> wanted,
                                                 LeaseMode mode) override {
    asked.push_back({layer, kind, mode, {wanted.begin(), wanted.end()}});
    return std::make_unique<Flow>(*this, asked.back(), script_(layer, kind, wanted.size()));
  }

  struct Asked {
    uint32_t layer;
    UnitKind kind;
    LeaseMode mode;
    std::vector<WantedBlock> wanted;
  };
  std::vector<Asked> asked;

 private:
  class Flow final : public UnitFlow {
   public:
    Flow(ScriptedUnits& source, const Asked& asked, LandingScript script)
        : source_(source), asked_(asked), script_(std::move(script)) {
      const std::set<uint32_t> late(script_.order.begin(), script_.order.end());
      for (uint32_t i = 0; i < asked_.wanted.size(); ++i) {
        if (!late.contains(i)) at_once_.push_back(i);
      }
    }

    size_t size() const override { return asked_.wanted.size(); }
    absl::StatusOr<std::span<const uint32_t>> Next(bool wait) override {
      landed_.clear();
      if (!std::exchange(began_, true)) landed_ = at_once_;
      // Another look finds nothing new; whoever waits gets one block more.
      if (landed_.empty() && wait && next_ < script_.order.size()) {
        const uint32_t block = script_.order[next_];
        if (script_.fails == block) return absl::DataLossError("a scripted block is lost");
        if (script_.streamed.contains(block) && !StagingFor(block)) {
          return absl::InternalError("it waits for a block that has no place in staging");
        }
        ++next_;
        landed_.push_back(block);
      }
      for (const uint32_t block : landed_) Copy(block);
      return landed_;
    }
    const std::byte* Data(size_t i) const override {
      CHECK(!bytes_[i].empty());
      return bytes_[i].data();
    }
    bool IsStreamed(size_t i) const override {
      return script_.streamed.contains(static_cast<uint32_t>(i));
    }
    bool WasResident(size_t i) const override {
      return std::ranges::find(at_once_, i) != at_once_.end();
    }
    // What is used up may be overwritten.
    void UsedUp(size_t count) override {
      for (size_t i = used_up_; i < count; ++i) {
        if (IsStreamed(i)) std::ranges::fill(bytes_[i], std::byte{0x5a});
      }
      used_up_ = std::max(used_up_, count);
    }
    absl::StatusOr<Cost> cost() override {
      const uint64_t read = script_.order.size();
      return Cost{.flash_bytes = read * Kind().block_bytes, .flash_reads = read};
    }

   private:
    const KindGeometry& Kind() const { return source_.geometry().kind(asked_.kind); }
    // Streamed blocks take places in list order, and leave them in that order.
    bool StagingFor(uint32_t block) const {
      if (script_.staging_blocks == 0) return true;
      uint32_t before = 0;
      for (const uint32_t streamed : script_.streamed) {
        before += streamed >= used_up_ && streamed < block;
      }
      return before < script_.staging_blocks;
    }
    void Copy(uint32_t i) {
      bytes_.resize(size());
      const size_t bytes = Kind().block_bytes;
      const auto residency = source_.Residency(asked_.layer, asked_.kind);
      const uint32_t slot = residency[asked_.wanted[i].block].load() - 1;
      const std::byte* from = source_.client_->Slots(asked_.layer, asked_.kind) + slot * bytes;
      bytes_[i].assign(from, from + bytes);
    }

    ScriptedUnits& source_;
    const Asked asked_;
    const LandingScript script_;
    std::vector<uint32_t> at_once_, landed_;
    std::vector<std::vector<std::byte>> bytes_;
    bool began_ = false;
    size_t next_ = 0, used_up_ = 0;
  };

  WeightClient* const client_;
  const ScriptFor script_;
};

}  // namespace tidegate
