// Sends the requests of `tidegate load` and reads their streams: any number at once on the calling
// thread, over gRPC's completion queue. What it measures, load_meter.h says. Owned by one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/load_meter.h"
#include "cli/load_schedule.h"
#include "tidegate/v1/generation.pb.h"

namespace grpc {
class Channel;
}

namespace tidegate {

// One run: closed loop without a rate (as many streams as allowed are always open), open loop with
// one (requests are due whatever the server does).
struct LoadPlan {
  Workload workload = {};
  uint64_t first_index = 0;          // of the workload's requests
  v1::GenerateRequest request = {};  // what all have in common
  uint32_t streams = 1;              // open at once at most
  std::optional<double> rate = {};   // requests per second
  ArrivalProcess arrivals = ArrivalProcess::kPoisson;
  std::optional<uint64_t> requests = {};  // begun at most
  std::optional<double> seconds = {};     // after which what is open is cut off
  std::chrono::nanoseconds deadline{0};   // of a request; 0: none
  LatencyGoals goals = {};
};

class LoadGenerator {
 public:
  // Of requests that were begun, those that are over; seconds since the run began.
  using OnProgress = std::function<void(uint64_t ended, double seconds)>;

  // Connects `connections` times to `server`.
  LoadGenerator(const ServerTarget& server, uint32_t connections);
  ~LoadGenerator();
  LoadGenerator(const LoadGenerator&) = delete;

  const std::shared_ptr<grpc::Channel>& channel() const { return channels_.front(); }

  // Runs to the end of the plan, or until `stop`, asked many times a second, says so: what is open
  // then is cut off. Requests that are refused with the advice to try again are neither sent again
  // nor errors; in a closed loop the place of one stays empty for as long as the server asked, and
  // errors come at most once a second from each place. REQUIRES: plan.requests or plan.seconds.
  LoadResult Run(const LoadPlan& plan, const std::function<bool()>& stop,
                 const OnProgress& on_progress);

 private:
  const std::string address_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
};

}  // namespace tidegate
