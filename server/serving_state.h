// What all calls of a server share. Thread-safe.
#pragma once

#include <atomic>

#include "engine/engine.h"
#include "server/chat_prompt.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace tidegate {

struct ServingState {
  Engine& engine;  // not owned
  const ServedModel model;
  EngineMetrics* const metrics;  // may be null; not owned
  ChatPrompts& chat;             // not owned
  std::atomic<bool> draining = false;
  std::atomic<int> open_streams = 0;  // Generate and Chat calls that gRPC has not let go of
};

}  // namespace tidegate
