// Profiles (profile.proto) as files, and what a reader checks before it believes one. Thread-safe:
// free functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/profile.pb.h"

namespace tidegate {

inline constexpr uint32_t kProfileVersion = 1;
inline constexpr int kMaxLadderPoints = 64;
// A ladder of the most points and layers, written out, fits.
inline constexpr size_t kMaxProfileBytes = 8u << 20;

// Whether every number is finite, in its range and in its place (profile.proto). INVALID_ARGUMENT
// names the field and its value; FAILED_PRECONDITION: of another version.
absl::Status CheckProfile(const store::v1::Profile& profile);

// Whether `profile`, which has been checked, is of the model of `manifest`. INVALID_ARGUMENT names
// what differs.
absl::Status CheckProfileModel(const store::v1::Profile& profile,
                               const store::v1::Manifest& manifest);

// From JSON text as ProfileText() writes it, checked. Unknown fields are errors.
absl::StatusOr<store::v1::Profile> ParseProfile(std::string_view text);
// The same from a file of at most kMaxProfileBytes. Errors name it.
absl::StatusOr<store::v1::Profile> ReadProfile(const std::string& path);

// JSON with a line for every field.
std::string ProfileText(const store::v1::Profile& profile);

}  // namespace tidegate
