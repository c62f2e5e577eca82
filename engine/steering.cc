#include "engine/steering.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/store/v1/profile.h"

namespace tidegate {
namespace {

bool Inside(const LadderPoint& point, const PruningBounds& bounds) {
  const auto density = static_cast<float>(point.density), gamma = static_cast<float>(point.gamma);
  const bool gamma_fits = point.dense() || (gamma >= bounds.gamma_min && gamma <= bounds.gamma_max);
  // The least is about accuracy, which any layer can spoil; the most is about the work of them all.
  return static_cast<float>(point.least_density) >= bounds.density_min &&
         density <= bounds.density_max && gamma_fits;
}

// What the profile predicts holds for the cache that it was measured with.
void WarnOfOtherCache(const store::v1::Profile& profile, const WeightClient& client) {
  constexpr double kSlack = 0.05;
  double slots = 0;
  for (const RegionKind& kind : client.region().kinds) {
    slots += double(kind.slots_per_layer) * kind.block_bytes * client.geometry().layer_count;
  }
  const double share = slots / static_cast<double>(client.geometry().blocks_bytes());
  const double measured = profile.conditions().cache_share();
  if (std::fabs(share - measured) <= kSlack) return;
  LogWarning("the cache holds ", std::round(100 * share),
             " % of the streamed weights, the profile "
             "was measured with ",
             std::round(100 * measured),
             " %: expect other rates and losses; measure a profile with this memory");
}

// What CheckProfileModel() cannot see: an adapter changes neither name nor sizes of a model.
void WarnOfOtherAdapters(const store::v1::Profile& profile, const EngineOptions& options,
                         const store::v1::Manifest& manifest) {
  const auto sorted = [](const auto& names) {
    std::vector<std::string> list(names.begin(), names.end());
    std::sort(list.begin(), list.end());
    return list.empty() ? std::string("none") : absl::StrJoin(list, ", ");
  };
  google::protobuf::RepeatedPtrField<std::string> names = manifest.source().adapters();
  for (const LoraSource& source : options.adapters) *names.Add() = LoraName(source);
  const std::string measured = sorted(profile.conditions().adapters()), here = sorted(names);
  if (measured == here) return;
  LogWarning("the profile was measured with other LoRA adapters (", measured, ") than are used (",
             here, "): expect other losses; measure a profile with these");
}

std::string Percent(double share) { return absl::StrFormat("%.3g %%", 100 * share); }

}  // namespace

RowPruning LadderPoint::Pruning(double gamma_now) const {
  return {.kept_input = kept.input,
          .kept_hidden = kept.hidden,
          .gamma = gamma_now,
          .protected_share = protected_share,
          .layers = layers};
}

std::vector<LadderPoint> LadderOf(const store::v1::Profile& profile, const ModelConfig& config) {
  const auto kept_at = [&](double density) {
    return KeptAt(density, config.hidden_size, config.intermediate_size);
  };
  std::vector<LadderPoint> ladder;
  for (const store::v1::OperatingPoint& from : profile.ladder()) {
    LadderPoint& point = ladder.emplace_back();
    point.index = static_cast<uint32_t>(ladder.size() - 1);
    point.density = from.density();
    point.gamma = from.gamma();
    point.protected_share = from.protected_share();
    point.perplexity_increase = from.perplexity_increase();
    point.flash_bytes_per_token = from.flash_bytes_per_token();
    point.kept = kept_at(from.density());
    point.least_density = from.density();
    for (const double density : from.layer_densities()) {
      point.least_density = std::min(point.least_density, density);
      point.layers.push_back(kept_at(density));
    }
  }
  return ladder;
}

absl::StatusOr<Steering> Steering::Create(const SteeringOptions& options,
                                          const PruningBounds& bounds,
                                          std::vector<LadderPoint> ladder) {
  std::erase_if(ladder, [&](const LadderPoint& point) { return !Inside(point, bounds); });
  if (ladder.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no point of the profile lies in densities from ", bounds.density_min, " to ",
        bounds.density_max, " and gammas from ", bounds.gamma_min, " to ", bounds.gamma_max,
        "; widen --density-min, --density-max, --gamma-min or "
        "--gamma-max"));
  }
  if (options.max_perplexity_increase.has_value()) {
    const double allowed = *options.max_perplexity_increase;
    const double least = ladder.front().perplexity_increase;
    std::erase_if(ladder,
                  [&](const LadderPoint& point) { return point.perplexity_increase > allowed; });
    if (ladder.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("--max-perplexity-increase ", allowed, " (", Percent(allowed),
                       "): the most accurate point of the profile within the bounds costs ",
                       Percent(least), "; allow that much, or raise --density-max"));
    }
  }
  return Steering(options, std::move(ladder));
}

Steering::Steering(const SteeringOptions& options, std::vector<LadderPoint> ladder)
    : options_(options), ladder_(std::move(ladder)) {
  if (options_.target_tokens_per_second <= 0) return;
  LadderController::Options wanted;
  wanted.target_tokens_per_second = options_.target_tokens_per_second;
  for (const LadderPoint& point : ladder_) {
    wanted.flash_bytes.push_back(point.flash_bytes_per_token);
  }
  controller_.emplace(std::move(wanted));
}

void Steering::OnRound(double seconds) {
  if (!controller_) return;
  const bool before = controller_->out_of_reach();
  controller_->OnToken(seconds);
  if (controller_->out_of_reach() != before) LogReach();
}

void Steering::LogReach() const {
  const std::string target =
      absl::StrCat("--target-tokens-per-second ", options_.target_tokens_per_second);
  const std::string rate = absl::StrFormat("%.3g", controller_->tokens_per_second());
  if (!controller_->out_of_reach()) {
    LogInfo(target, " is reached again: ", rate, " tokens per second");
    return;
  }
  LogWarning(target, " is out of reach: ", rate,
             " tokens per second at the fastest point allowed, density ", point().density,
             "; lower the target",
             options_.max_perplexity_increase ? ", raise --max-perplexity-increase" : "",
             " or give the store more memory");
}

absl::StatusOr<std::optional<Steering>> SteeringFor(const EngineOptions& options,
                                                    const std::optional<store::v1::Profile>& given,
                                                    const WeightClient& client,
                                                    const ModelConfig& config) {
  const store::v1::Manifest& manifest = client.manifest();
  if (!options.steering.wanted()) {
    if (given || manifest.has_profile()) {
      LogInfo(given ? "the profile" : "the pack's profile",
              " steers nothing: neither --target-tokens-per-second nor --max-perplexity-increase "
              "is given");
    }
    return std::optional<Steering>();
  }
  if (!given && !manifest.has_profile()) {
    return absl::FailedPreconditionError(
        "--target-tokens-per-second and --max-perplexity-increase choose from a profile, and the "
        "pack has none; measure one with `tidegate profile` and give it with --profile FILE, or "
        "to `tidegate pack --profile FILE`");
  }
  const store::v1::Profile& profile = given ? *given : manifest.profile();
  absl::Status status = CheckProfile(profile);
  if (status.ok()) status = CheckProfileModel(profile, manifest);
  if (!status.ok()) {
    return Annotate(status, given ? absl::StrCat("--profile ", options.steering.profile)
                                  : std::string("the pack's profile"));
  }
  ASSIGN_OR_RETURN(Steering steering,
                   Steering::Create(options.steering, options.pruning, LadderOf(profile, config)));
  WarnOfOtherCache(profile, client);
  const std::string units(UnitEncodingName(static_cast<UnitEncoding>(manifest.unit_encoding())));
  if (profile.conditions().unit_encoding() != units) {
    LogWarning("the profile was measured with ", profile.conditions().unit_encoding(),
               " units, the pack has ", units,
               ": expect other losses; measure a profile with this pack");
  }
  WarnOfOtherAdapters(profile, options, manifest);
  const SteeringStats stats = steering.stats();
  LogInfo("steering: ", stats.points, " of ", profile.ladder_size(), " points of the profile, at ",
          stats.position, ": density ", stats.density, ", gamma ", stats.gamma,
          ", perplexity foretold +", Percent(stats.predicted_perplexity_increase));
  return std::optional<Steering>(std::move(steering));
}

SteeringStats Steering::stats() const {
  const LadderPoint& now = point();
  return {.points = static_cast<uint32_t>(ladder_.size()),
          .position = now.index,
          .density = now.density,
          .gamma = now.dense() ? 1 : now.gamma,
          .predicted_perplexity_increase = now.perplexity_increase,
          .target_tokens_per_second = options_.target_tokens_per_second,
          .tokens_per_second = controller_ ? controller_->tokens_per_second() : 0,
          .moves = controller_ ? controller_->moves() : 0};
}

}  // namespace tidegate
