// The one model that an engine serves, found by the names that requests use.
//
// Thread-safe: it only reads the engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace tidegate {

class ServedModel {
 public:
  // `engine` is not owned. `aliases`: names besides the model's own.
  ServedModel(const Engine& engine, std::vector<std::string> aliases);

  // Facts about the model called `name`; "" is the served one, whatever its name. UNAVAILABLE until
  // the engine has attached; NOT_FOUND with ResourceInfo for any other name.
  absl::StatusOr<ModelInfo> Find(const std::string& name) const;

  const Engine& engine() const { return engine_; }
  const std::vector<std::string>& aliases() const { return aliases_; }

 private:
  const Engine& engine_;
  const std::vector<std::string> aliases_;
};

}  // namespace tidegate
