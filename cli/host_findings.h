// What `tidegate doctor` makes of a host: for each check what was found and, where something is not
// as it should be, why that matters and what to do. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/host_facts.h"

namespace tidegate {

enum class FindingLevel {
  kOk,
  kWarning,  // it works, but slower or with less than could be had
  kProblem,  // the daemons would refuse to start, or be ended by the kernel
};

struct Finding {
  std::string check;  // "io_uring", "memlock", ...: stable, scripts may look for it
  FindingLevel level = FindingLevel::kOk;
  std::string found;
  std::string why, remedy;  // empty at kOk
};

// One for each check that could be made, in a fixed order.
std::vector<Finding> Diagnose(const HostFacts& facts);

// No kProblem among them.
bool Usable(const std::vector<Finding>& findings);

// {"usable": ..., "findings": [{"check", "level", "found", "why", "remedy"}]}; the text form has
// the same content.
nlohmann::ordered_json FindingsJson(const std::vector<Finding>& findings);
std::string FindingsText(const std::vector<Finding>& findings);

}  // namespace tidegate
