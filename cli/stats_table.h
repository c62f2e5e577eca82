// The store's statistics as a table for people. Pure.
#pragma once

#include <string>

#include "tidegate/v1/weight_store.pb.h"

namespace tidegate {

std::string StatsTable(const v1::GetStatsResponse& response);

}  // namespace tidegate
