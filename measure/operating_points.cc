#include "measure/operating_points.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

// A loss this far above the limit on the tokens of the search is above it on others too.
constexpr double kBeyond = 1.3;

class Search {
 public:
  Search(const PointSearch& search, const MeasurePoint& measure) : s_(search), measure_(measure) {}

  absl::Status Descend(double gamma) {
    for (const double density : s_.densities) {
      ASSIGN_OR_RETURN(const bool within, Try({density, gamma, s_.protected_shares.front(), {}}));
      if (!within) break;
    }
    return absl::OkStatus();
  }

  absl::Status TryOtherShares() {
    for (const MeasuredPoint& point : Best()) {
      for (size_t i = 1; i < s_.protected_shares.size(); ++i) {
        Candidate other = point.candidate;
        other.protected_share = s_.protected_shares[i];
        RETURN_IF_ERROR(Try(other).status());
      }
    }
    return absl::OkStatus();
  }

  absl::Status TryLayers(std::vector<LayerTrial>& trials) {
    for (const MeasuredPoint& point : Best()) {
      Candidate other = point.candidate;
      other.layer_densities = s_.layer_densities(other.density);
      RETURN_IF_ERROR(Try(other).status());
      trials.push_back({point, all_.back()});
    }
    return absl::OkStatus();
  }

  // Within the limit.
  std::vector<MeasuredPoint> Best() const {
    std::vector<MeasuredPoint> best = ParetoPoints(all_);
    std::erase_if(best, [&](const MeasuredPoint& point) {
      return point.perplexity_increase > s_.max_increase;
    });
    ThinPoints(best, s_.points);
    return best;
  }

  size_t calls() const { return all_.size(); }

 private:
  // False if the loss is well above the limit.
  absl::StatusOr<bool> Try(const Candidate& candidate) {
    ASSIGN_OR_RETURN(MeasuredPoint point, measure_(candidate));
    all_.push_back(std::move(point));
    return all_.back().perplexity_increase <= kBeyond * s_.max_increase;
  }

  const PointSearch& s_;
  const MeasurePoint& measure_;
  std::vector<MeasuredPoint> all_;
};

}  // namespace

std::vector<MeasuredPoint> ParetoPoints(std::span<const MeasuredPoint> points) {
  std::vector<MeasuredPoint> order(points.begin(), points.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.perplexity_increase != b.perplexity_increase
               ? a.perplexity_increase < b.perplexity_increase
               : a.flash_bytes < b.flash_bytes;
  });
  std::vector<MeasuredPoint> front;
  for (MeasuredPoint& point : order) {
    if (front.empty() || point.flash_bytes < front.back().flash_bytes) {
      front.push_back(std::move(point));
    }
  }
  return front;
}

void ThinPoints(std::vector<MeasuredPoint>& points, size_t count) {
  CHECK(count >= 2);
  const auto weight = [&points](size_t i) {
    const double more = std::log(points[i - 1].flash_bytes / std::max(points[i].flash_bytes, 1.0));
    return more * (points[i + 1].perplexity_increase - points[i].perplexity_increase);
  };
  while (points.size() > count) {
    size_t least = 1;
    for (size_t i = 2; i + 1 < points.size(); ++i) {
      if (weight(i) < weight(least)) least = i;
    }
    points.erase(points.begin() + static_cast<ptrdiff_t>(least));
  }
}

double MeanLogBytes(std::span<const MeasuredPoint> points, std::span<const MeasuredPoint> front) {
  CHECK(!front.empty());
  const std::vector<MeasuredPoint> best = ParetoPoints(points);
  const auto log_bytes = [](const MeasuredPoint& point) {
    return std::log(std::max(point.flash_bytes, 1.0));
  };
  double sum = 0;
  for (const MeasuredPoint& at : front) {
    const double loss = std::max(at.perplexity_increase, 0.0);
    const auto above = std::find_if(best.begin(), best.end(), [&](const MeasuredPoint& point) {
      return point.perplexity_increase > loss;
    });
    CHECK(above != best.begin());
    const MeasuredPoint& left = *(above - 1);
    sum += log_bytes(left);
    if (above == best.end()) continue;
    const double part =
        (loss - left.perplexity_increase) / (above->perplexity_increase - left.perplexity_increase);
    sum += part * (log_bytes(*above) - log_bytes(left));
  }
  return sum / static_cast<double>(front.size());
}

size_t SearchCalls(const PointSearch& search) {
  const size_t layers = search.layer_densities == nullptr ? 0 : 1;
  return search.gammas.size() * search.densities.size() +
         search.points * (search.protected_shares.size() - 1 + layers);
}

absl::StatusOr<FoundPoints> SearchPoints(const PointSearch& search, const MeasurePoint& measure,
                                         const std::function<void(size_t)>& on_skipped) {
  CHECK(!search.densities.empty() && !search.gammas.empty() && !search.protected_shares.empty());
  Search run(search, measure);
  FoundPoints found;
  size_t planned = 0;
  // What the step that ended had been given and did not use.
  const auto ended = [&](size_t calls) {
    planned += calls;
    on_skipped(planned - run.calls());
    planned = run.calls();
  };
  for (const double gamma : search.gammas) {
    RETURN_IF_ERROR(run.Descend(gamma));
    ended(search.densities.size());
  }
  RETURN_IF_ERROR(run.TryOtherShares());
  ended(search.points * (search.protected_shares.size() - 1));
  if (search.layer_densities != nullptr) {
    RETURN_IF_ERROR(run.TryLayers(found.trials));
    ended(search.points);
  }
  found.front = run.Best();
  return found;
}

}  // namespace tidegate
