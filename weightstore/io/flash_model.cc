#include "weightstore/io/flash_model.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {
namespace {

// Limits that keep every sum of FlashSchedule far from overflow.
constexpr double kMinBandwidth = 1e6, kMaxBandwidth = 1e15;  // bytes per second
constexpr double kMinReadRate = 1, kMaxReadRate = 1e12;      // reads per second
constexpr std::chrono::nanoseconds kMaxLatency = std::chrono::seconds(10);
constexpr std::chrono::nanoseconds kMaxStall = std::chrono::hours(1);

constexpr char kExample[] = "bandwidth=1GB/s,latency=80us,iops=200k";

std::chrono::nanoseconds Cost(double amount, double per_second) {
  if (per_second <= 0) return std::chrono::nanoseconds(0);
  return std::chrono::nanoseconds(std::llround(amount * 1e9 / per_second));
}

absl::Status CheckRate(std::string_view what, double value, double lowest, double highest) {
  if (value == 0 || (value >= lowest && value <= highest)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("flash model: ", std::string(what), " ", value,
                                                 " per second is not in [", lowest, ", ", highest,
                                                 "]"));
}

absl::Status RefuseZero(std::string_view key, double value) {
  if (value != 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("flash model: ", std::string(key),
                                                 " must be above 0; leave it out for no limit"));
}

absl::Status ParsePart(std::string_view key, std::string_view value, FlashModel& model) {
  if (key == "bandwidth") {
    if (value.ends_with("/s")) value.remove_suffix(2);
    ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes(value));
    model.bytes_per_second = static_cast<double>(bytes);
    return RefuseZero(key, model.bytes_per_second);
  }
  if (key == "latency") {
    ASSIGN_OR_RETURN(model.latency, ParseDuration(value));
    return absl::OkStatus();
  }
  if (key == "iops") {
    ASSIGN_OR_RETURN(model.reads_per_second, ParseCount(value));
    return RefuseZero(key, model.reads_per_second);
  }
  if (key == "bad-from") {
    ASSIGN_OR_RETURN(model.bad_from, ParseBytes(value));
    return absl::OkStatus();
  }
  if (key == "stall-after") {
    ASSIGN_OR_RETURN(const double reads, ParseCount(value));
    if (!(reads >= 1 && reads <= kMaxReadRate)) {
      return absl::InvalidArgumentError(
          absl::StrCat("flash model: stall-after ", reads, " is not in [1, ", kMaxReadRate, "]"));
    }
    model.stall_after = static_cast<uint64_t>(reads);
    return absl::OkStatus();
  }
  if (key == "stall") {
    ASSIGN_OR_RETURN(model.stall, ParseDuration(value));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "flash model: unknown key '", std::string(key),
      "'; the keys are bandwidth, latency, iops, bad-from, stall-after and stall, for example ",
      kExample));
}

}  // namespace

FlashSchedule::Nanoseconds FlashSchedule::Submit(Nanoseconds now, uint64_t bytes) {
  if (model_.stall_after > 0 && reads_++ == model_.stall_after) {
    next_start_ = model_.stall ? std::max(now, next_start_) + *model_.stall : kNever;
  }
  if (next_start_ >= kNever) return kNever;
  const Nanoseconds start = std::max(now, next_start_);
  next_start_ = start + Cost(1, model_.reads_per_second);
  last_moved_ =
      std::max(start, last_moved_) + Cost(static_cast<double>(bytes), model_.bytes_per_second);
  return last_moved_ + model_.latency;
}

absl::Status ValidateFlashModel(const FlashModel& model) {
  RETURN_IF_ERROR(CheckRate("bandwidth", model.bytes_per_second, kMinBandwidth, kMaxBandwidth));
  RETURN_IF_ERROR(CheckRate("iops", model.reads_per_second, kMinReadRate, kMaxReadRate));
  if (model.latency.count() < 0 || model.latency > kMaxLatency) {
    return absl::InvalidArgumentError(absl::StrCat("flash model: latency ", model.latency.count(),
                                                   " ns is not between 0 and 10 s"));
  }
  if (!model.stall) return absl::OkStatus();
  if (model.stall_after == 0) {
    return absl::InvalidArgumentError("flash model: stall needs stall-after, a number of reads");
  }
  if (model.stall->count() >= 0 && *model.stall <= kMaxStall) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("flash model: stall ", model.stall->count(),
                                                 " ns is not between 0 and one hour"));
}

std::string DescribeFlashModel(const FlashModel& model) {
  const auto rate = [](double value, const char* unit) {
    return value > 0 ? absl::StrCat(value, unit) : std::string("unlimited");
  };
  return absl::StrCat(
      "bandwidth=", rate(model.bytes_per_second, " B/s"), ", latency=", model.latency.count(),
      " ns, iops=", rate(model.reads_per_second, ""),
      model.bad_from ? absl::StrCat(", unreadable from byte ", *model.bad_from) : "",
      model.stall_after > 0
          ? absl::StrCat(
                ", hangs after ", model.stall_after, " reads ",
                model.stall ? absl::StrCat("for ", model.stall->count(), " ns") : "for ever")
          : "");
}

absl::StatusOr<FlashModel> ParseFlashModel(std::string_view text) {
  FlashModel model;
  std::set<std::string> seen;
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), ',');
  for (const std::string& part : parts) {
    const size_t equals = part.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("flash model: '", part, "' is not key=value; write for example ", kExample));
    }
    const std::string key = part.substr(0, equals);
    if (!seen.insert(key).second) {
      return absl::InvalidArgumentError(absl::StrCat("flash model: '", key, "' is given twice"));
    }
    const absl::Status parsed = ParsePart(key, std::string_view(part).substr(equals + 1), model);
    if (!parsed.ok()) return Annotate(parsed, absl::StrCat("in '", part, "'"));
  }
  RETURN_IF_ERROR(ValidateFlashModel(model));
  return model;
}

}  // namespace tidegate
