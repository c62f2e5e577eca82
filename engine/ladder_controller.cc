#include "engine/ladder_controller.h"

#include <algorithm>

#include "base/check.h"

namespace tidegate {
namespace {

// A measured ratio below what the bytes say comes from a drive that changed meanwhile.
constexpr double kMeasuredSlack = 0.8;
// What is left, after a window, of what is known to stand against a more accurate point.
constexpr double kFading = 0.995;
// Weight of a new window in the smoothed rate.
constexpr double kNewWindow = 0.4;
// After so many windows a rate is trusted to give accuracy back, and two points are compared.
constexpr uint32_t kSteadyWindows = 4;
// So many at the last point, one after the other and all too slow, say that there is no help.
constexpr uint32_t kHopelessWindows = 8;

}  // namespace

LadderController::LadderController(Options options)
    : options_(std::move(options)), skip_(options_.fill_tokens) {
  const std::vector<double>& bytes = options_.flash_bytes;
  CHECK(!bytes.empty() && options_.target_tokens_per_second > 0 && options_.window_tokens > 0);
  least_ratios_.assign(bytes.size(), 1);
  for (size_t p = 1; p < bytes.size(); ++p) {
    least_ratios_[p] = bytes[p - 1] > 0 ? std::clamp(bytes[p] / bytes[p - 1], 0.05, 1.0) : 1;
  }
  ratios_ = least_ratios_;
}

void LadderController::OnToken(double seconds) {
  if (!(seconds > 0)) return;
  if (skip_ > 0) {
    --skip_;
    return;
  }
  seconds_ += seconds;
  if (++counted_ < options_.window_tokens) return;
  const double rate = counted_ / seconds_;
  counted_ = 0;
  seconds_ = 0;
  ++windows_;
  rate_ = windows_ == 1 ? rate : (1 - kNewWindow) * rate_ + kNewWindow * rate;
  JudgeReach();
  Decide(rate);
}

void LadderController::JudgeReach() {
  const double target = options_.target_tokens_per_second;
  const bool slow = point_ + 1 == ratios_.size() && rate_ < target * (1 - options_.below);
  slow_windows_ = slow ? slow_windows_ + 1 : 0;
  if (slow_windows_ >= kHopelessWindows) out_of_reach_ = true;
  if (rate_ >= target) out_of_reach_ = false;
}

// What the first windows after a move say of the two points.
void LadderController::Learn() {
  if (came_from_ == point_ || windows_ > kSteadyWindows) return;
  const size_t faster = std::max(came_from_, point_);
  const double ratio = faster == point_ ? rate_before_ / rate_ : rate_ / rate_before_;
  ratios_[faster] = std::clamp(ratio, kMeasuredSlack * least_ratios_[faster], 1.0);
}

void LadderController::Decide(double window_rate) {
  Learn();
  const double target = options_.target_tokens_per_second;
  if (rate_ < target * (1 - options_.below)) {
    // One slow window may be behind us already.
    if (window_rate < target && point_ + 1 < ratios_.size()) MoveTo(point_ + 1);
  } else if (point_ > 0) {
    double& ratio = ratios_[point_];
    if (windows_ >= kSteadyWindows && rate_ * ratio > target * (1 + options_.above)) {
      MoveTo(point_ - 1);
    } else {
      ratio = 1 - kFading * (1 - ratio);
    }
  }
}

void LadderController::MoveTo(size_t point) {
  came_from_ = point_;
  rate_before_ = rate_;
  point_ = point;
  windows_ = 0;
  skip_ = options_.settle_tokens;
  ++moves_;
}

}  // namespace tidegate
