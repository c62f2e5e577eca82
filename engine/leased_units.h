// Units by leases of the weight store: the one place of the engine that knows leases. Used by the
// decode thread alone.
#pragma once

#include <memory>
#include <span>

#include "engine/unit_source.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

class LeasedUnits final : public UnitSource {
 public:
  // `client` is not owned and outlives this and its flows.
  explicit LeasedUnits(WeightClient* client) : client_(client) {}

  const PackGeometry& geometry() const override { return client_->geometry(); }
  std::span<const ResidencyEntry> Residency(uint32_t layer, UnitKind kind) const override {
    return client_->Residency(layer, kind);
  }
  absl::StatusOr<std::unique_ptr<UnitFlow>> Open(uint32_t layer, UnitKind kind,
                                                 std::span<const WantedBlock> wanted,
                                                 LeaseMode mode) override;
  const std::byte* CompleteSlots(uint32_t layer, UnitKind kind) override {
    return client_->Complete(layer, kind) ? client_->Slots(layer, kind) : nullptr;
  }
  void CountUses(LeaseMode mode, uint64_t units) override { client_->CountUses(mode, units); }

 private:
  WeightClient* const client_;
};

}  // namespace tidegate
