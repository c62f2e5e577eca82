// Other ways to leave hidden units out, to compare DIP with: they need the whole gate or up matrix
// first, so the service does not offer them. Masks only; nothing is saved. Owned by one thread.
// Source: the baselines of Federici et al., arXiv 2412.01380; CATS is Lee et al., arXiv 2404.08763.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/model.h"

namespace tidegate {

enum class BaselineMethod {
  kGlu,   // "glu": the largest |act(g) u| are kept; prunes W_down only
  kGate,  // "gate": the largest |act(g)|; prunes W_up and W_down
  kUp,    // "up": the largest |u|; prunes W_gate and W_down
  kCats,  // "cats": |act(g)| above a threshold of the layer; prunes W_up and W_down
};
// Null for any other name.
const BaselineMethod* FindBaselineMethod(std::string_view name);

class BaselineMask {
 public:
  // INVALID_ARGUMENT if a density, the share of MLP weights used, is above 1 or not above what the
  // method always reads: two thirds for glu, one third for the others.
  static absl::Status CheckDensity(BaselineMethod method, double density);
  // REQUIRES: CheckDensity() is OK.
  BaselineMask(BaselineMethod method, double density, const ModelConfig& config);

  // True while the thresholds of kCats have to be found: then Observe() a text, and end with
  // SetThresholds().
  bool needs_thresholds() const { return method_ == BaselineMethod::kCats && thresholds_.empty(); }
  void Observe(uint32_t layer, std::span<const float> gate);
  void SetThresholds();

  // Zeroes `up` where units are left out. gate, up: W_gate x and W_up x of some tokens,
  // [tokens, intermediate_size].
  void Apply(uint32_t layer, std::span<const float> gate, std::span<float> up);

  // Means over the tokens that Apply() has seen: share of MLP weights used, and hidden units per
  // token.
  double density() const;
  double kept_per_token() const;

 private:
  float Activated(float gate) const;
  void ApplyToken(uint32_t layer, std::span<const float> gate, std::span<float> up);

  BaselineMethod method_;
  double keep_;  // share of hidden units
  uint32_t intermediate_size_, layer_count_;
  bool gelu_;
  std::vector<float> thresholds_;                // by layer
  std::vector<std::vector<uint64_t>> observed_;  // by layer: histogram of |act(g)|
  std::vector<float> scores_, sorted_;           // scratch
  uint64_t kept_ = 0, tokens_ = 0;               // tokens: times layers
};

}  // namespace tidegate
