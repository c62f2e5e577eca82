// What `tidegate inspect` says about a model or a pack, as JSON; the text form is made from the
// same object, so that the two cannot disagree. Thread-compatible.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "packer/pack_verify.h"
#include "packer/source_model.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

// Keys keep the order in which they are written.
using Json = nlohmann::ordered_json;

// Weights are looked through for numbers that are not finite: all if they take no more than
// `most_bytes`, else the vectors.
Json DescribeGguf(const SourceModel& file, uint64_t most_bytes, const PackProgress& progress);
Json DescribePack(const std::string& path, const PackIndex& index);
Json DescribeVerification(const VerifyReport& report);

// Text for people: "name  value" lines, tables for arrays of objects.
std::string RenderText(const Json& report);

}  // namespace tidegate
