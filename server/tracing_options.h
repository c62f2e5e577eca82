// How requests are traced (span_exporter.h). Plain data.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace tidegate {

struct SpanExporterOptions {
  std::string endpoint;     // "HOST:PORT" or "unix:PATH" of a collector; "": nothing is traced
  double sample_ratio = 1;  // of requests whose callers do not say; [0, 1]
  std::string service_name = "tidegate";
  size_t max_queued = 2048;                             // requests
  std::chrono::milliseconds period{1000};               // from the first of a batch
  std::chrono::milliseconds export_timeout{5000};       // of a batch
  std::chrono::milliseconds last_export_timeout{1000};  // of those at the end
};

}  // namespace tidegate
