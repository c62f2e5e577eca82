// What `tidegate load` has to know of a server before it sends requests: the model, and the ids of
// which prompts are made. Stateless; blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tidegate/v1/model.pb.h"

namespace grpc {
class Channel;
}

namespace tidegate {

struct LoadTarget {
  v1::Model model;
  std::vector<uint32_t> start;  // special ids that the model wants before a text
  std::vector<uint32_t> text;   // of the prompt file; empty where none was given
};

// Asks the server at `address`, which `channel` leads to. `model`: name or alias, empty: the served
// one. Errors: those of the server, for people; what is wrong with the file.
absl::StatusOr<LoadTarget> AskLoadTarget(const std::shared_ptr<grpc::Channel>& channel,
                                         const std::string& address, const std::string& model,
                                         const std::string& prompt_file);

}  // namespace tidegate
