#include "server/status_mapping.h"

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error_reason.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/engine.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/access/key_limits.h"

namespace tidegate {
namespace {

constexpr size_t kMaxStatusTextBytes = 2000;  // twice in the metadata, of which clients take 8 KiB
constexpr char kTypePrefix[] = "type.googleapis.com/";

std::string TypeUrl(const google::protobuf::Message& message) {
  return absl::StrCat(kTypePrefix, message.GetDescriptor()->full_name());
}

bool HasDetail(const absl::Status& status, const google::protobuf::Message& prototype) {
  return status.GetPayload(TypeUrl(prototype)).has_value();
}

// Reason that a code stands for, "" if none.
std::string ReasonOf(absl::StatusCode code, bool draining) {
  switch (code) {
    case absl::StatusCode::kResourceExhausted:
      return "QUEUE_FULL";
    case absl::StatusCode::kUnavailable:
      return draining ? "DRAINING" : "WEIGHT_STORE_UNAVAILABLE";
    case absl::StatusCode::kOutOfRange:
      return "CONTEXT_LENGTH_EXCEEDED";
    case absl::StatusCode::kDataLoss:
      return "WEIGHTS_DAMAGED";
    default:
      return "";
  }
}

// Whether the text was written for clients. Errors of ours that nobody foresaw have texts for us:
// of paths, of errno, of functions. What was foreseen carries a reason.
bool IsForClients(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
      return true;
    default:
      return HasDetail(status, google::rpc::ErrorInfo()) || !ErrorReason(status).empty();
  }
}

absl::Status Foreseen(const absl::Status& status, const ErrorContext& context) {
  if (IsForClients(status)) return status;
  const LogField fields[] = {{"request_id", context.request_id}};
  Log(LogLevel::kError,
      absl::StrCat("a request failed: ", absl::StatusCodeToString(status.code()), ": ",
                   Printable(std::string(status.message()), kMaxStatusTextBytes)),
      fields);
  return absl::InternalError("the server has made an error, which its log describes");
}

// Of errors that a key's own limits make.
bool IsKeyLimit(const std::string& reason) {
  return reason == kRequestRateLimit || reason == kTokenRateLimit || reason == kConcurrencyLimit ||
         reason == kQueueShareLimit;
}

void AddImpliedDetails(const ErrorContext& context, absl::Status& status) {
  std::string reason = ErrorReason(status);
  if (reason.empty()) reason = ReasonOf(status.code(), context.draining);
  if (!reason.empty() && !HasDetail(status, google::rpc::ErrorInfo())) {
    status = WithReason(std::move(status), reason);
  }
  if (IsKeyLimit(reason)) {
    google::rpc::QuotaFailure quota;
    google::rpc::QuotaFailure::Violation& violation = *quota.add_violations();
    violation.set_subject("key");
    violation.set_description(std::string(status.message()));
    AddDetail(quota, status);
  }
  const std::optional<std::chrono::milliseconds> delay = RetryDelay(status);
  if (delay.has_value()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(delay->count() / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay->count() % 1000 * 1000000));
    AddDetail(retry, status);
  }
  if (!context.request_id.empty()) {
    google::rpc::RequestInfo request;
    request.set_request_id(context.request_id);
    AddDetail(request, status);
  }
}

}  // namespace

void AddDetail(const google::protobuf::Message& detail, absl::Status& status) {
  status.SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
}

bool FindDetail(const absl::Status& status, google::protobuf::Message& detail) {
  const auto payload = status.GetPayload(TypeUrl(detail));
  return payload.has_value() && detail.ParseFromString(std::string(*payload));
}

absl::Status WithReason(absl::Status status, const std::string& reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain(kErrorDomain);
  AddDetail(info, status);
  return status;
}

std::optional<std::chrono::milliseconds> RetryDelay(const absl::Status& status) {
  if (const auto delay = RetryAfter(status); delay.has_value()) return delay;
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:  // a stream lasts seconds: a place is free soon
      return std::chrono::milliseconds(1000);
    case absl::StatusCode::kUnavailable:  // the engine's longest back-off between attach attempts
      return std::chrono::milliseconds(2000);
    default:
      return std::nullopt;
  }
}

absl::Status WithImpliedDetails(const absl::Status& status, const ErrorContext& context) {
  if (status.ok()) return status;
  absl::Status full = Foreseen(status, context);
  AddImpliedDetails(context, full);
  return full;
}

grpc::Status ToGrpcStatus(const absl::Status& status, const ErrorContext& context) {
  if (status.ok()) return grpc::Status::OK;
  const absl::Status full = WithImpliedDetails(status, context);
  google::rpc::Status proto;
  proto.set_code(static_cast<int>(full.code()));
  // Not every client can read a status whose text is no UTF-8.
  const std::string message =
      PrintableLines({full.message().data(), full.message().size()}, kMaxStatusTextBytes);
  proto.set_message(message);
  full.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    if (!absl::StartsWith(type_url, kTypePrefix)) return;
    google::protobuf::Any* any = proto.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
  });
  return grpc::Status(static_cast<grpc::StatusCode>(full.code()), message,
                      proto.SerializeAsString());
}

RejectReason RejectReasonOf(const absl::Status& status, bool draining) {
  const std::string reason = ErrorReason(status);
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return RejectReason::kDenied;
    case absl::StatusCode::kResourceExhausted:
      if (!IsKeyLimit(reason)) return RejectReason::kQueueFull;
      return reason == kConcurrencyLimit || reason == kQueueShareLimit ? RejectReason::kKeyShare
                                                                       : RejectReason::kKeyRate;
    case absl::StatusCode::kOutOfRange:
      return RejectReason::kTooLong;
    case absl::StatusCode::kUnavailable:
      return draining ? RejectReason::kDraining : RejectReason::kUnavailable;
    default:
      return RejectReason::kInvalid;
  }
}

CancelStage CancelStageOf(const GenerationAccounts& accounts) {
  if (accounts.first_token_seconds > 0) return CancelStage::kDecode;
  return accounts.prefill_seconds > 0 ? CancelStage::kPrefill : CancelStage::kQueued;
}

}  // namespace tidegate
