#include "proto/store/v1/manifest_names.h"

#include <string>

#include "base/text.h"

namespace tidegate {
namespace {

void Bound(std::string* name) { *name = Printable(*name, kMaxModelNameBytes); }

}  // namespace

void BoundNames(store::v1::Profile& profile) {
  if (profile.has_model()) Bound(profile.mutable_model()->mutable_name());
  if (!profile.has_conditions()) return;
  auto& conditions = *profile.mutable_conditions();
  Bound(conditions.mutable_text());
  Bound(conditions.mutable_unit_encoding());
  Bound(conditions.mutable_policy());
  for (std::string& adapter : *conditions.mutable_adapters()) Bound(&adapter);
}

void BoundNames(store::v1::Manifest& manifest) {
  Bound(manifest.mutable_model_name());
  Bound(manifest.mutable_architecture());
  if (manifest.has_source()) {
    auto& source = *manifest.mutable_source();
    Bound(source.mutable_file_name());
    Bound(source.mutable_packed_by());
    Bound(source.mutable_matrix_types());
    for (std::string& adapter : *source.mutable_adapters()) Bound(&adapter);
  }
  if (manifest.has_profile()) BoundNames(*manifest.mutable_profile());
}

}  // namespace tidegate
