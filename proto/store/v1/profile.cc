#include "proto/store/v1/profile.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "google/protobuf/util/json_util.h"
#include "proto/store/v1/manifest_names.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {
namespace {

using store::v1::OperatingPoint;
using store::v1::Profile;
using store::v1::ProfileModel;

constexpr const char* kRemedy = "; make the profile anew with `tidegate profile`";
// Above any model's: e^50 in perplexity.
constexpr double kMaxIncrease = 1e20;
constexpr double kMaxBytes = 1e15;
// How far the mean of the layers' densities may be from the point's.
constexpr double kMeanSlack = 0.01;

absl::Status Wrong(const std::string& field, double value, const std::string& range) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", value, " is not ", range, kRemedy));
}

// False for NaN.
bool Within(double value, double low, double high) { return value >= low && value <= high; }

// (0, 1]. Smaller ones keep a unit at least, but no profile has them.
bool IsDensity(double value) { return Within(value, 1e-3, 1); }

absl::Status CheckPoint(const OperatingPoint& point, const std::string& name, uint32_t layers) {
  if (!IsDensity(point.density())) {
    return Wrong(name + ".density", point.density(), "in [0.001, 1]");
  }
  const std::pair<const char*, double> shares[] = {{".gamma", point.gamma()},
                                                   {".protectedShare", point.protected_share()},
                                                   {".flashShare", point.flash_share()},
                                                   {".hitRate", point.hit_rate()}};
  for (const auto& [field, value] : shares) {
    if (!Within(value, 0, 1)) return Wrong(name + field, value, "in [0, 1]");
  }
  if (!Within(point.perplexity_increase(), 0, kMaxIncrease)) {
    return Wrong(name + ".perplexityIncrease", point.perplexity_increase(), "0 or more");
  }
  if (!Within(point.flash_bytes_per_token(), 0, kMaxBytes)) {
    return Wrong(name + ".flashBytesPerToken", point.flash_bytes_per_token(), "0 or more");
  }
  if (point.layer_densities().empty()) return absl::OkStatus();
  if (static_cast<uint32_t>(point.layer_densities_size()) != layers) {
    return absl::InvalidArgumentError(absl::StrCat(name, ".layerDensities has ",
                                                   point.layer_densities_size(), " entries for ",
                                                   layers, " layers", kRemedy));
  }
  double sum = 0;
  for (const double density : point.layer_densities()) {
    if (!IsDensity(density)) return Wrong(name + ".layerDensities", density, "in [0.001, 1]");
    sum += density;
  }
  if (std::fabs(sum / layers - point.density()) > kMeanSlack) {
    return Wrong(name + ".layerDensities: their mean", sum / layers, "the point's density");
  }
  return absl::OkStatus();
}

absl::Status CheckLadder(const Profile& profile) {
  if (profile.ladder().empty() || profile.ladder_size() > kMaxLadderPoints) {
    return Wrong("ladder: its number of points", profile.ladder_size(),
                 absl::StrCat("from 1 to ", kMaxLadderPoints));
  }
  for (int i = 0; i < profile.ladder_size(); ++i) {
    const OperatingPoint& point = profile.ladder(i);
    const std::string name = absl::StrCat("ladder[", i, "]");
    RETURN_IF_ERROR(CheckPoint(point, name, profile.model().layer_count()));
    if (i == 0) continue;
    const OperatingPoint& before = profile.ladder(i - 1);
    if (point.perplexity_increase() < before.perplexity_increase()) {
      return Wrong(name + ".perplexityIncrease", point.perplexity_increase(),
                   "at least that of the point before it");
    }
    if (point.flash_bytes_per_token() > before.flash_bytes_per_token()) {
      return Wrong(name + ".flashBytesPerToken", point.flash_bytes_per_token(),
                   "at most that of the point before it");
    }
  }
  return absl::OkStatus();
}

// The parser's messages quote the file, line breaks and all, and point at a place with a caret.
std::string OneLine(std::string message) {
  std::replace_if(message.begin(), message.end(), absl::ascii_isspace, ' ');
  absl::RemoveExtraAsciiWhitespace(&message);
  const absl::string_view text = absl::StripSuffix(message, " ^");
  return Printable({text.data(), text.size()});
}

// 0.2 as 0.2, one field a line.
google::protobuf::util::JsonPrintOptions PrintOptions() {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  return options;
}

}  // namespace

absl::Status CheckProfile(const Profile& profile) {
  if (profile.version() != kProfileVersion) {
    return absl::FailedPreconditionError(absl::StrCat("profile version ", profile.version(),
                                                      ", this program reads version ",
                                                      kProfileVersion, kRemedy));
  }
  if (profile.model().layer_count() == 0 || profile.model().layer_count() > kMaxLayers) {
    return Wrong("model.layerCount", profile.model().layer_count(),
                 absl::StrCat("from 1 to ", kMaxLayers));
  }
  if (!Within(profile.conditions().cache_share(), 0, 1)) {
    return Wrong("conditions.cacheShare", profile.conditions().cache_share(), "in [0, 1]");
  }
  if (!Within(profile.conditions().input_share(), 0, 1)) {
    return Wrong("conditions.inputShare", profile.conditions().input_share(), "in [0, 1]");
  }
  if (!Within(profile.conditions().perplexity(), 0, kMaxIncrease)) {
    return Wrong("conditions.perplexity", profile.conditions().perplexity(), "0 or more");
  }
  return CheckLadder(profile);
}

absl::Status CheckProfileModel(const Profile& profile, const store::v1::Manifest& manifest) {
  const ProfileModel& model = profile.model();
  const store::v1::HyperParameters& hp = manifest.hyper_parameters();
  if (model.name() != manifest.model_name()) {
    return absl::InvalidArgumentError(absl::StrCat("the profile is of the model '", model.name(),
                                                   "', this is '", manifest.model_name(), "'",
                                                   kRemedy));
  }
  const struct {
    const char* name;
    uint32_t profile, manifest;
  } sizes[] = {{"layers", model.layer_count(), hp.layer_count()},
               {"hidden size", model.hidden_size(), hp.hidden_size()},
               {"intermediate size", model.intermediate_size(), hp.intermediate_size()},
               {"embedding rows", model.embedding_rows(), hp.embedding_rows()}};
  for (const auto& size : sizes) {
    if (size.profile == size.manifest) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the profile is of another model '", model.name(), "': its ", size.name, " ",
                     size.profile, ", here ", size.manifest, kRemedy));
  }
  return absl::OkStatus();
}

absl::StatusOr<Profile> ParseProfile(std::string_view text) {
  if (text.size() > kMaxProfileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(text.size(), " bytes are no profile: at most ", kMaxProfileBytes));
  }
  Profile profile;
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(text.data(), text.size()), &profile);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no profile: ", OneLine(std::string(parsed.message())), kRemedy));
  }
  RETURN_IF_ERROR(CheckProfile(profile));
  BoundNames(profile);
  return profile;
}

absl::StatusOr<Profile> ReadProfile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxProfileBytes));
  absl::StatusOr<Profile> profile = ParseProfile(text);
  if (!profile.ok()) return Annotate(profile.status(), path);
  return profile;
}

std::string ProfileText(const Profile& profile) {
  std::string text;
  // Fails only for what cannot be in a profile (Any).
  (void)google::protobuf::util::MessageToJsonString(profile, &text, PrintOptions());
  return text;
}

}  // namespace tidegate
