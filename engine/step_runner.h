// The sequences that run, and the steps that compute them: asks the scheduler which rows are next,
// lets the decoder compute them, hands out what comes of it, and keeps the prefix index. Made anew
// at every attach. Owned by the decode thread.
//
// While a step waits for the store, the owner may end sequences (End*); they are told at once and
// forgotten when no step uses them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/attached_model.h"
#include "engine/engine_options.h"
#include "engine/engine_stats.h"
#include "engine/kv/prefix_index.h"
#include "engine/request_queue.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/steering.h"

namespace tidegate {

// What a step did. Rows are those that were computed, also for sequences that failed.
struct StepResult {
  uint32_t decode_rows = 0, prompt_rows = 0;
  uint32_t sequences = 0;
  uint64_t generated_tokens = 0;
  uint64_t prompt_tokens = 0;  // of prompts that became complete
  double seconds = 0, stall_seconds = 0;
  double dense_instead_tokens = 0;
  bool steered = false;  // one of its sequences at least
};

class StepRunner {
 public:
  // Pointers are not owned and outlive it; steering and observer may be null.
  StepRunner(const EngineOptions& options, const AttachedModel* model, Steering* steering,
             EngineObserver* observer);
  ~StepRunner();

  // Plans the next step. queued: of the requests that wait outside (RequestQueue::needs). Returns
  // the ids of those that it wants: the caller passes each to Admit(), in this order, before
  // Step().
  const std::vector<uint64_t>& Plan(std::span<const SequenceNeed> queued);
  void Admit(WaitingRequest request);

  // Computes the planned rows. Whatever fails ends the sequences that it concerns.
  StepResult Step();

  // Ends those for which `ends` holds, and says whether there were any. `id`: of the request.
  bool EndIf(FinishReason reason, const absl::Status& status,
             const std::function<bool(uint64_t id, const Sequence& sequence)>& ends);

  // Tells the sinks of prompts that are not through how far they are.
  void ReportProgress() const;

  // A step is under way, and all of its sequences have ended meanwhile.
  bool StepIsMoot() const;

  bool empty() const { return Live() == 0; }
  uint32_t running() const { return static_cast<uint32_t>(Live() - waiting()); }
  uint32_t waiting() const;  // of those that were admitted
  uint64_t preemptions() const { return preemptions_; }
  uint64_t kv_tokens_used() const;
  PrefixStats prefix_stats() const { return prefix_.stats(); }

 private:
  struct Running {
    uint64_t id = 0;
    uint64_t request = 0;  // id of the first choice
    std::unique_ptr<Sequence> sequence;
    // A choice that has nothing of its own until the first one's prompt is complete.
    bool follows = false;
    bool ended = false;  // its sink has been told
    bool waits = false;  // without pages: preempted, or a choice without a place
  };

  size_t Live() const;
  SequenceNeed NeedOf(const Running& running);
  Running* Find(uint64_t id);
  // The choices that follow this one, if it is the first.
  template <typename Visit>
  void ForFollowers(const Running& first, const Visit& visit);
  // Lets choices compute the prompt themselves whose first one is gone.
  void FreeFollowers();
  void Preempt(Running& running);
  PrefixKey KeyOf(const Sequence& sequence) const;
  // Begins a sequence with the pages that are known of its prompt.
  void AdoptPrefix(Sequence& sequence);
  void KeepPrefix(const Sequence& sequence);
  void GatherStep();
  absl::Status RunRows(std::span<const size_t> which, StepResult& result);
  void TakeLogits(Running& running, uint32_t row, std::span<float> logits);
  void Advance(std::span<const size_t> which, StepResult& result);
  // Emits the token that was sampled, if any.
  void Emit(Running& running, const PassAccounts& cost, double stall_seconds, StepResult& result);
  void Fail(std::span<const size_t> which, const absl::Status& status);
  void Sweep();

  const EngineOptions& options_;
  const AttachedModel& model_;
  Steering* const steering_;
  EngineObserver* const observer_;
  PrefixIndex prefix_;
  Scheduler scheduler_;
  std::vector<Running> running_;  // in order of admission, with those that were preempted
  StepPlan plan_;
  uint64_t preemptions_ = 0;
  // The shares of the present step; empty between steps.
  struct Share {
    Running* running;
    uint32_t rows;
  };
  std::vector<Share> stepping_;
  std::vector<BatchSequence> batch_;
  std::vector<float> logits_;       // for a choice to spoil
  std::vector<Running*> branched_;  // choices that this step has set off
  StepCost cost_;
};

}  // namespace tidegate
