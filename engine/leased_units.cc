#include "engine/leased_units.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace tidegate {
namespace {

class LeaseFlow final : public UnitFlow {
 public:
  explicit LeaseFlow(WeightLease lease) : lease_(std::move(lease)), data_(lease_.size()) {}

  size_t size() const override { return lease_.size(); }
  absl::StatusOr<std::span<const uint32_t>> Next(bool wait) override;
  const std::byte* Data(size_t i) const override { return data_[i]; }
  bool IsStreamed(size_t i) const override { return lease_.IsStreamed(i); }
  bool WasResident(size_t i) const override { return lease_.WasResident(i); }
  void UsedUp(size_t count) override { lease_.Consumed(count); }
  absl::StatusOr<Cost> cost() override;

 private:
  WeightLease lease_;
  std::vector<const std::byte*> data_;  // null: has not landed
  std::vector<uint32_t> landed_;        // of the last call
  size_t taken_ = 0;                    // arrivals, so far
};

absl::StatusOr<std::span<const uint32_t>> LeaseFlow::Next(bool wait) {
  landed_.clear();
  if (taken_ == lease_.size()) return landed_;
  if (wait) RETURN_IF_ERROR(lease_.WaitArrival(taken_));
  for (const size_t arrived = lease_.arrived(); taken_ < arrived; ++taken_) {
    const size_t block = lease_.Arrival(taken_);
    const std::byte* data = lease_.TryGet(block);
    if (data == nullptr) {
      ASSIGN_OR_RETURN(data, lease_.Wait(block));  // says why
    }
    data_[block] = data;
    landed_.push_back(static_cast<uint32_t>(block));
  }
  return landed_;
}

absl::StatusOr<UnitFlow::Cost> LeaseFlow::cost() {
  ASSIGN_OR_RETURN(const WeightLease::Accounts accounts, lease_.accounts());
  return Cost{.flash_bytes = accounts.flash_bytes,
              .flash_reads = accounts.flash_reads,
              .stall_seconds = std::chrono::duration<double>(lease_.stall()).count()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<UnitFlow>> LeasedUnits::Open(uint32_t layer, UnitKind kind,
                                                            std::span<const WantedBlock> wanted,
                                                            LeaseMode mode) {
  ASSIGN_OR_RETURN(WeightLease lease, client_->Acquire(layer, kind, wanted, mode));
  return std::make_unique<LeaseFlow>(std::move(lease));
}

}  // namespace tidegate
