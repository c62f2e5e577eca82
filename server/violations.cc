#include "server/violations.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/text.h"
#include "google/rpc/error_details.pb.h"
#include "server/status_mapping.h"

namespace tidegate {
namespace {

constexpr size_t kMaxReportedViolations = 16;
// Only what a chat template says is longer than a line.
constexpr size_t kMaxDescriptionBytes = 1000;

}  // namespace

void Violations::Add(std::string field, const std::string& description) {
  ++count_;
  if (violations_.size() < kMaxReportedViolations) {
    violations_.push_back({std::move(field), Printable(description, kMaxDescriptionBytes)});
  }
}

absl::Status Violations::ToStatus() const {
  CHECK(!empty());
  google::rpc::BadRequest bad_request;
  for (const Violation& violation : violations_) {
    auto* field = bad_request.add_field_violations();
    field->set_field(violation.field);
    field->set_description(violation.description);
  }
  std::string message =
      absl::StrCat(violations_.front().field, ": ", violations_.front().description);
  if (count_ > 1) absl::StrAppend(&message, " (and ", count_ - 1, " more)");
  absl::Status status = absl::InvalidArgumentError(message);
  AddDetail(bad_request, status);
  return status;
}

}  // namespace tidegate
