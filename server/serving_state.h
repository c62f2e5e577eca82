// What all calls of a server share. Thread-safe.
#pragma once

#include <atomic>

#include "engine/engine.h"
#include "engine/request_limits.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"
#include "server/chat_prompt.h"
#include "server/load_report.h"
#include "server/metrics.h"
#include "server/open_streams.h"
#include "server/served_model.h"
#include "server/span_exporter.h"

namespace tidegate {

struct ServingState {
  Engine& engine;  // not owned
  const ServedModel model;
  EngineMetrics* const metrics;  // may be null; not owned
  ChatPrompts& chat;             // not owned
  OpenStreams& streams;          // not owned
  LoadReporter& load;            // not owned
  AccessControl& access;         // not owned
  AuditLog* const audit;         // may be null; not owned
  const int32_t max_priority = 0;
  const uint32_t max_choices = kDefaultMaxChoices;
  SpanExporter* const tracer = nullptr;  // may be null; not owned
  std::atomic<bool> draining = false;
};

}  // namespace tidegate
