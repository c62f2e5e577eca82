// Any bytes as a request: refused exactly where protobuf refuses, and then the field is named.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "proto/wire/parse_message.h"
#include "tidegate/v1/generation.pb.h"

namespace {

template <typename Request>
void Check(std::string_view bytes) {
  Request plain, request;
  const auto fault = tidegate::ParseMessage(bytes, request);
  const bool accepted = plain.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (accepted == fault.has_value()) std::abort();
  if (!fault) return;
  if (fault->field.empty() || fault->description == "is no message of this type") std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Check<tidegate::v1::GenerateRequest>(bytes);
  Check<tidegate::v1::ChatRequest>(bytes);
  Check<tidegate::v1::DetokenizeRequest>(bytes);
  return 0;
}
