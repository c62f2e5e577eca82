// What the end of a request means to others. Errors as gRPC clients get them: absl::Status ->
// grpc::Status with google.rpc details in the trailer grpc-status-details-bin. And for metrics: why
// a request was turned away, or how far it had come when its client left.
//
// Details travel inside absl::Status as payloads (AddDetail), so that whoever finds an error says
// all there is to say about it; ToGrpcStatus adds what follows from the code alone. Thread-safe:
// free functions without state.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/status.h"

namespace tidegate {

struct GenerationAccounts;

// ErrorInfo.domain of every error.
inline constexpr char kErrorDomain[] = "tidegate";

// Attaches a google.rpc message to an error; one of a type.
void AddDetail(const google::protobuf::Message& detail, absl::Status& status);
// Reads the message of the type of `detail` that an error carries. False: it has none.
bool FindDetail(const absl::Status& status, google::protobuf::Message& detail);

// ErrorInfo with this reason; `metadata` is added by the caller where there is any.
absl::Status WithReason(absl::Status status, const std::string& reason);

struct ErrorContext {
  std::string request_id;  // RequestInfo, unless empty
  bool draining = false;   // UNAVAILABLE means "going away" and not "no weight store"
};

// The same code and message, as one line; INTERNAL with a text that says nothing, and a line in the
// log, where the code shows that the text was not written for clients. Details: those of `status`,
// then an ErrorInfo with its ErrorReason(), or else what its code implies:
//   RESOURCE_EXHAUSTED  ErrorInfo QUEUE_FULL, RetryInfo; QuotaFailure where a key's limit is
//   reached UNAVAILABLE         ErrorInfo DRAINING or WEIGHT_STORE_UNAVAILABLE, RetryInfo
//   OUT_OF_RANGE        ErrorInfo CONTEXT_LENGTH_EXCEEDED
//   DATA_LOSS           ErrorInfo WEIGHTS_DAMAGED
grpc::Status ToGrpcStatus(const absl::Status& status, const ErrorContext& context);

// The same as an absl::Status, for other protocols than gRPC; OK stays OK. Its message is not made
// printable.
absl::Status WithImpliedDetails(const absl::Status& status, const ErrorContext& context);

// After which time a client may try again, as the error (RetryAfter()) or its code says; unset
// where trying again does not help. Goes into RetryInfo and into the metadata kRetryPushbackKey, in
// milliseconds (gRPC proposal A6).
std::optional<std::chrono::milliseconds> RetryDelay(const absl::Status& status);
inline constexpr char kRetryPushbackKey[] = "grpc-retry-pushback-ms";

// Why a request was turned away before it entered the queue.
enum class RejectReason {
  kQueueFull,
  kDraining,
  kUnavailable,
  kTooLong,
  kInvalid,
  kTooManyStreams,
  kDenied,   // no key, or one that may not
  kKeyRate,  // the key's requests or tokens per time
  kKeyShare  // the key's streams at a time, or its part of the queue
};

// The reason that an error of Engine::Submit() or of request checking stands for.
// `draining`: UNAVAILABLE means draining and not a missing store.
RejectReason RejectReasonOf(const absl::Status& status, bool draining);

// How far a request had come when its client left.
enum class CancelStage { kQueued, kPrefill, kDecode };

// The stage that the accounts of a cancelled request show: kDecode with a first token, kPrefill
// with time spent in prefill, else kQueued.
CancelStage CancelStageOf(const GenerationAccounts& accounts);

}  // namespace tidegate
