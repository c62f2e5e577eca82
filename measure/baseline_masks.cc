#include "measure/baseline_masks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tidegate {
namespace {

struct MethodRow {
  std::string_view name;
  BaselineMethod method;
  double always;  // share of the weights that are read for every token
};
constexpr MethodRow kMethods[] = {{"glu", BaselineMethod::kGlu, 2.0 / 3},
                                  {"gate", BaselineMethod::kGate, 1.0 / 3},
                                  {"up", BaselineMethod::kUp, 1.0 / 3},
                                  {"cats", BaselineMethod::kCats, 1.0 / 3}};

const MethodRow& RowOf(BaselineMethod method) { return kMethods[static_cast<size_t>(method)]; }

// Bins of the leading bits of a finite float that is not negative: 128 to a power of two. The edge
// after the last one is infinity.
constexpr int kLowBits = 16;
constexpr size_t kBins = 0x7f80;

}  // namespace

const BaselineMethod* FindBaselineMethod(std::string_view name) {
  for (const MethodRow& row : kMethods) {
    if (row.name == name) return &row.method;
  }
  return nullptr;
}

absl::Status BaselineMask::CheckDensity(BaselineMethod method, double density) {
  const MethodRow& row = RowOf(method);
  if (density > row.always && density <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(row.name), " uses ", std::round(1000 * row.always) / 10,
      " % of the MLP weights before it can choose, and 100 % at most: not density ", density));
}

BaselineMask::BaselineMask(BaselineMethod method, double density, const ModelConfig& config)
    : method_(method),
      keep_((density - RowOf(method).always) / (1 - RowOf(method).always)),
      intermediate_size_(config.intermediate_size),
      layer_count_(config.layer_count),
      gelu_(config.activation == Activation::kGeluTanh) {}

float BaselineMask::Activated(float gate) const {
  if (!gelu_) return gate / (1 + std::exp(-gate));
  constexpr float kRootTwoOverPi = 0.7978845608f;
  return 0.5f * gate * (1 + std::tanh(kRootTwoOverPi * (gate + 0.044715f * gate * gate * gate)));
}

void BaselineMask::Observe(uint32_t layer, std::span<const float> gate) {
  if (observed_.empty()) observed_.resize(layer_count_, std::vector<uint64_t>(kBins));
  for (const float g : gate) {
    const float score = std::fabs(Activated(g));
    if (std::isfinite(score)) ++observed_[layer][std::bit_cast<uint32_t>(score) >> kLowBits];
  }
}

void BaselineMask::SetThresholds() {
  CHECK(!observed_.empty());
  for (const std::vector<uint64_t>& bins : observed_) {
    uint64_t total = 0, above = 0;
    for (const uint64_t count : bins) total += count;
    const auto wanted = static_cast<uint64_t>(keep_ * static_cast<double>(total));
    size_t bin = kBins;
    while (bin > 0 && above + bins[bin - 1] <= wanted) above += bins[--bin];
    thresholds_.push_back(std::bit_cast<float>(static_cast<uint32_t>(bin) << kLowBits));
  }
}

void BaselineMask::Apply(uint32_t layer, std::span<const float> gate, std::span<float> up) {
  CHECK(!needs_thresholds() && gate.size() == up.size());
  for (size_t at = 0; at < gate.size(); at += intermediate_size_) {
    ApplyToken(layer, gate.subspan(at, intermediate_size_), up.subspan(at, intermediate_size_));
  }
}

void BaselineMask::ApplyToken(uint32_t layer, std::span<const float> gate, std::span<float> up) {
  scores_.resize(gate.size());
  for (size_t i = 0; i < gate.size(); ++i) {
    scores_[i] = method_ == BaselineMethod::kUp ? std::fabs(up[i]) : std::fabs(Activated(gate[i]));
    if (method_ == BaselineMethod::kGlu) scores_[i] *= std::fabs(up[i]);
    if (std::isnan(scores_[i])) scores_[i] = 0;  // must not reach an ordering
  }
  ++tokens_;
  if (method_ == BaselineMethod::kCats) {
    for (size_t i = 0; i < up.size(); ++i) {
      if (scores_[i] >= thresholds_[layer]) {
        ++kept_;
      } else {
        up[i] = 0;
      }
    }
    return;
  }
  const auto keep = static_cast<uint32_t>(
      std::clamp(std::round(keep_ * intermediate_size_), 1.0, double(intermediate_size_)));
  kept_ += keep;
  sorted_ = scores_;
  std::nth_element(sorted_.begin(), sorted_.begin() + (keep - 1), sorted_.end(), std::greater<>());
  const float threshold = sorted_[keep - 1];
  const auto above =
      std::count_if(scores_.begin(), scores_.end(), [&](float s) { return s > threshold; });
  auto ties = static_cast<int64_t>(keep) - above;
  for (size_t i = 0; i < up.size(); ++i) {
    if (scores_[i] > threshold || (scores_[i] == threshold && ties-- > 0)) continue;
    up[i] = 0;
  }
}

double BaselineMask::kept_per_token() const {
  return tokens_ == 0 ? 0 : static_cast<double>(kept_) / static_cast<double>(tokens_);
}

double BaselineMask::density() const {
  const double always = RowOf(method_).always;
  return always + (1 - always) * kept_per_token() / intermediate_size_;
}

}  // namespace tidegate
