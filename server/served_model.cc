#include "server/served_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "google/rpc/error_details.pb.h"
#include "server/status_mapping.h"

namespace tidegate {
namespace {

// Names come from peers: errors repeat at most this many bytes of them.
constexpr size_t kEchoBytes = 128;

}  // namespace

ServedModel::ServedModel(const Engine& engine, std::vector<std::string> aliases)
    : engine_(engine), aliases_(std::move(aliases)) {}

absl::StatusOr<ModelInfo> ServedModel::Find(const std::string& name) const {
  ASSIGN_OR_RETURN(ModelInfo info, engine_.model_info());
  if (name.empty() || name == info.name ||
      std::find(aliases_.begin(), aliases_.end(), name) != aliases_.end()) {
    return info;
  }
  google::rpc::ResourceInfo resource;
  resource.set_resource_type("tidegate.v1.Model");
  resource.set_resource_name(Printable(name, kEchoBytes));
  resource.set_description(absl::StrCat("this server serves ", Quoted(info.name)));
  absl::Status status = absl::NotFoundError(absl::StrCat(
      "no model ", Quoted(name, kEchoBytes), " here; this server serves ", Quoted(info.name)));
  AddDetail(resource, status);
  return status;
}

}  // namespace tidegate
