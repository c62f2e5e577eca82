// Decides which sequences the next step computes, and how many tokens ("rows") of each.
//
// Continuous batching: sequences join and leave at every step. A sequence that decodes has its row
// in each step. Prompts share what is left: they are cut into chunks and computed beside decoding.
//
//   Rank       A higher priority goes before a lower one; within a priority, the older (in order of
//              admission) before the younger.
//   Admission  Goes by priority, then to what was preempted, then to the client that has the fewest
//              sequences running, then to the client that was admitted longest ago, then by
//              arrival. Nobody overtakes: if the first does not fit, the others wait too. A lower
//              priority waits for as long as a higher one does.
//   Prompts    One alone is cut into as few chunks as the limit allows, of even length. Of several,
//              the oldest gets a quarter of the rows, so that it ends whatever else arrives; the
//              rest goes by priority, then to the prompt that has the fewest rows left.
//   Pages      A sequence is admitted if the pages of its whole prompt and one more are free beside
//              what running prompts still need and one page for each sequence that decodes (two if
//              it was preempted: it is not to go in and out). One of several choices is admitted if
//              there is room for all of them. A row that decodes and finds no free
//              page preempts the last sequence in rank, itself at worst.
//
// Decisions only: no model, no clock. Owned by one thread, the one that decodes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace tidegate {

struct SchedulerLimits {
  uint32_t sequences_max = 0;    // that run at a time; at least 1
  uint32_t prompt_rows_max = 0;  // of a step, over all prompts; at least 1
  uint32_t page_tokens = 0;      // positions of one page of the KV cache; at least 1
  // How long a step with prompts beside sequences that decode should take; 0: any time. It is a
  // target: a step without prompts may take longer, and then one with prompts half as long again;
  // and a step with prompts computes at least Scheduler::kPromptRowsMin rows of them.
  double step_seconds_target = 0;
};

// What the scheduler knows of a sequence.
struct SequenceNeed {
  uint64_t id = 0;      // unique among running and waiting ones
  uint64_t client = 0;  // whose request it is
  int32_t priority = 0;
  // Rows of the prompt that are still to be computed; 0: it decodes. Preemption makes prompt again
  // of all tokens that were computed. A waiting sequence has at least 1.
  uint32_t prompt_rows = 0;
  uint32_t positions = 0;  // of tokens whose keys and values its pages hold
  uint32_t pages = 0;      // that it holds, those included that others hold too
  // How many of `pages` somebody else holds too: they stay when this sequence is preempted.
  uint32_t pages_shared = 0;
  // Sequences that it becomes when its prompt is computed, itself included: each takes a place from
  // the beginning (as far as there are so many), and pages beyond the full ones of the prompt.
  uint32_t choices = 1;
};

struct RowShare {
  uint64_t id = 0;
  uint32_t rows = 0;  // 1 of a sequence that decodes; of a prompt, its next rows

  bool operator==(const RowShare&) const = default;
};

// Carried out in this order: preempt, admit, compute.
struct StepPlan {
  std::vector<RowShare> rows;     // of the step; those that decode first
  std::vector<uint64_t> admit;    // waiting sequences that run from now on, in this order
  std::vector<uint64_t> preempt;  // running sequences that lose their pages and wait again
};

class Scheduler {
 public:
  static constexpr uint32_t kPromptRowsMin = 16;  // of a step, whatever the target

  explicit Scheduler(const SchedulerLimits& limits);

  // running: in order of admission. waiting: in order of arrival; what an earlier plan preempted is
  // among them, anywhere, with no pages. free_pages: those that nobody holds or that can be
  // evicted. A plan has rows as long as anything runs or waits. A sequence that runs alone gets its
  // rows even if their pages are not free: the page pool then refuses them, with an error for the
  // request.
  StepPlan Next(std::span<const SequenceNeed> running, std::span<const SequenceNeed> waiting,
                uint32_t free_pages);

  // The step computed these rows in `seconds`. Prompt rows beside decoding ones adapt by it.
  void OnStep(double seconds, uint32_t decode_rows, uint32_t prompt_rows);

 private:
  struct Draft;

  void PlanDecoding(Draft& draft) const;
  void Admit(Draft& draft, std::span<const SequenceNeed> waiting);
  const SequenceNeed* FirstOf(std::span<const SequenceNeed> waiting, const Draft& draft) const;
  void SharePromptRows(Draft& draft) const;
  // Prompt rows of a step in which so many sequences decode.
  uint32_t PromptRowsLimit(uint32_t decode_rows) const;
  uint64_t PagesOf(uint64_t positions) const;
  // That a sequence takes of sequences_max.
  uint32_t PlacesOf(const SequenceNeed& need) const;
  uint64_t PagesWanted(const SequenceNeed& need) const;
  void Forget(std::span<const SequenceNeed> running, std::span<const SequenceNeed> waiting);

  const SchedulerLimits limits_;
  absl::flat_hash_set<uint64_t> preempted_;  // ids that wait for this reason
  // By client, the number of its last admission, counted over all clients. A client not in here
  // goes first.
  absl::flat_hash_map<uint64_t, uint64_t> last_admission_;
  uint64_t admissions_ = 0;

  double decode_seconds_ = 0;  // of a step without prompts, smoothed; 0: not yet known
  // In steps with both: what prompts added to decode_seconds_, and their rows. Old steps fade.
  double prompt_seconds_ = 0;
  double prompt_rows_ = 0;
};

}  // namespace tidegate
