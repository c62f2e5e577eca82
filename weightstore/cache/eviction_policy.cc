#include "weightstore/cache/eviction_policy.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tidegate {
namespace {

// Moves the `count` blocks that `before` puts first to the front, in no particular order.
template <typename Before>
void PartitionFirst(std::span<uint32_t> blocks, size_t count, Before before) {
  CHECK(count <= blocks.size());
  if (count == 0 || count == blocks.size()) return;
  std::nth_element(blocks.begin(), blocks.begin() + static_cast<ptrdiff_t>(count), blocks.end(),
                   before);
}

class Lfu final : public EvictionPolicy {
 public:
  explicit Lfu(uint32_t block_count) : uses_(block_count, 0) {}

  void Touch(uint32_t block, uint32_t units) override { uses_[block] += units; }

  void ChooseVictims(std::span<uint32_t> candidates, size_t count) const override {
    PartitionFirst(candidates, count, [this](uint32_t a, uint32_t b) {
      return uses_[a] != uses_[b] ? uses_[a] < uses_[b] : a < b;
    });
  }
  void ChooseAdmissions(std::span<uint32_t> missing, size_t count) const override {
    PartitionFirst(missing, count, [this](uint32_t a, uint32_t b) {
      return uses_[a] != uses_[b] ? uses_[a] > uses_[b] : a < b;
    });
  }

 private:
  std::vector<uint64_t> uses_;
};

class Lru final : public EvictionPolicy {
 public:
  explicit Lru(uint32_t block_count) : last_use_(block_count, 0) {}

  void BeginMask() override { ++mask_; }
  void Touch(uint32_t block, uint32_t) override { last_use_[block] = mask_; }

  void ChooseVictims(std::span<uint32_t> candidates, size_t count) const override {
    PartitionFirst(candidates, count, [this](uint32_t a, uint32_t b) {
      return last_use_[a] != last_use_[b] ? last_use_[a] < last_use_[b] : a < b;
    });
  }
  void ChooseAdmissions(std::span<uint32_t> missing, size_t count) const override {
    PartitionFirst(missing, count, std::less<>());
  }

 private:
  std::vector<uint64_t> last_use_;
  uint64_t mask_ = 0;
};

class None final : public EvictionPolicy {
 public:
  bool admits() const override { return false; }
  void Touch(uint32_t, uint32_t) override {}
  void ChooseVictims(std::span<uint32_t>, size_t) const override {}
  void ChooseAdmissions(std::span<uint32_t>, size_t) const override {}
};

}  // namespace

absl::StatusOr<std::unique_ptr<EvictionPolicy>> MakeEvictionPolicy(std::string_view name,
                                                                   uint32_t block_count) {
  if (name == "lfu") return std::make_unique<Lfu>(block_count);
  if (name == "lru") return std::make_unique<Lru>(block_count);
  if (name == "none") return std::make_unique<None>();
  return absl::InvalidArgumentError(
      absl::StrCat("unknown eviction policy '", std::string(name), "'; use lfu, lru or none"));
}

}  // namespace tidegate
