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

// How many blocks can change places if every missing block is welcome.
size_t MaskFirst(std::span<uint32_t> candidates, std::span<uint32_t> missing, size_t room) {
  CHECK(room < missing.size());
  return std::min(candidates.size(), missing.size() - room);
}

class Lfu final : public EvictionPolicy {
 public:
  explicit Lfu(uint32_t block_count) : uses_(block_count, 0) {}

  void Touch(const WantedBlock& wanted) override { uses_[wanted.block] += wanted.units; }

  size_t Exchange(std::span<uint32_t> candidates, std::span<uint32_t> missing,
                  size_t room) override {
    const size_t count = MaskFirst(candidates, missing, room);
    PartitionFirst(candidates, count, [this](uint32_t a, uint32_t b) {
      return uses_[a] != uses_[b] ? uses_[a] < uses_[b] : a < b;
    });
    PartitionFirst(missing, room + count, [this](uint32_t a, uint32_t b) {
      return uses_[a] != uses_[b] ? uses_[a] > uses_[b] : a < b;
    });
    return count;
  }

 private:
  std::vector<uint64_t> uses_;
};

class Lru final : public EvictionPolicy {
 public:
  explicit Lru(uint32_t block_count) : last_use_(block_count, 0) {}

  void BeginMask() override { ++mask_; }
  void Touch(const WantedBlock& wanted) override { last_use_[wanted.block] = mask_; }

  size_t Exchange(std::span<uint32_t> candidates, std::span<uint32_t> missing,
                  size_t room) override {
    const size_t count = MaskFirst(candidates, missing, room);
    PartitionFirst(candidates, count, [this](uint32_t a, uint32_t b) {
      return last_use_[a] != last_use_[b] ? last_use_[a] < last_use_[b] : a < b;
    });
    PartitionFirst(missing, room + count, std::less<>());
    return count;
  }

 private:
  std::vector<uint64_t> last_use_;
  uint64_t mask_ = 0;
};

class Value final : public EvictionPolicy {
 public:
  explicit Value(uint32_t block_count) : values_(block_count, 0) {}

  // Instead of all values shrinking, what is added grows.
  void BeginMask() override {
    constexpr double kDecay = 0.998, kLargest = 1e100;
    weight_ /= kDecay;
    if (weight_ < kLargest) return;
    for (double& value : values_) value /= weight_;
    weight_ = 1;
  }
  void Touch(const WantedBlock& wanted) override {
    const double score = static_cast<double>(wanted.score) / kScoreMax;
    values_[wanted.block] += weight_ * score * score;
  }

  // Keeps the most valuable of both lists; between equals, what is there already.
  size_t Exchange(std::span<uint32_t> candidates, std::span<uint32_t> missing,
                  size_t room) override {
    CHECK(room < missing.size());
    std::vector<Ranked> ranked;
    ranked.reserve(candidates.size() + missing.size());
    for (const uint32_t block : candidates) ranked.push_back({values_[block], true, block});
    for (const uint32_t block : missing) ranked.push_back({values_[block], false, block});
    const size_t kept = candidates.size() + room;  // < ranked.size()
    std::nth_element(ranked.begin(), ranked.begin() + static_cast<ptrdiff_t>(kept), ranked.end());
    const Ranked first_out = ranked[kept];
    const auto stays = [&](uint32_t block, bool resident) {
      return Ranked{values_[block], resident, block} < first_out;
    };
    const auto end = std::partition(candidates.begin(), candidates.end(),
                                    [&](uint32_t block) { return !stays(block, true); });
    std::partition(missing.begin(), missing.end(),
                   [&](uint32_t block) { return stays(block, false); });
    return static_cast<size_t>(end - candidates.begin());
  }

 private:
  struct Ranked {
    double value;
    bool resident;
    uint32_t block;
    bool operator<(const Ranked& other) const {
      if (value != other.value) return value > other.value;
      return resident != other.resident ? resident : block < other.block;
    }
  };
  std::vector<double> values_;
  double weight_ = 1;
};

class None final : public EvictionPolicy {
 public:
  bool admits() const override { return false; }
  void Touch(const WantedBlock&) override {}
  size_t Exchange(std::span<uint32_t>, std::span<uint32_t>, size_t) override { return 0; }
};

}  // namespace

absl::StatusOr<std::unique_ptr<EvictionPolicy>> MakeEvictionPolicy(std::string_view name,
                                                                   uint32_t block_count) {
  if (name == "value") return std::make_unique<Value>(block_count);
  if (name == "lfu") return std::make_unique<Lfu>(block_count);
  if (name == "lru") return std::make_unique<Lru>(block_count);
  if (name == "none") return std::make_unique<None>();
  return absl::InvalidArgumentError(absl::StrCat("unknown eviction policy '", std::string(name),
                                                 "'; use value, lfu, lru or none"));
}

}  // namespace tidegate
