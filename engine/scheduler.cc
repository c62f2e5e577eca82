#include "engine/scheduler.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace tidegate {
namespace {

// Clients whose last admission is remembered while nothing of theirs runs or waits: one that sends
// its requests one by one takes turns with the others, instead of always being new.
constexpr size_t kClientsRemembered = 4096;

constexpr uint32_t kOldestShare = 4;  // the oldest prompt gets one part of so many

constexpr double kDecodeWeight = 0.25;  // of the newest step in decode_seconds_
constexpr double kPromptShare = 0.5;    // of a step without prompts, beyond the target
constexpr double kPromptFade = 0.75;    // of what older steps said about prompt rows

bool IsPrompt(const SequenceNeed& need) { return need.prompt_rows > 0; }

// The next of as few chunks as `limit` allows, all of them of even length.
uint32_t EvenChunk(uint64_t left, uint64_t limit) {
  const uint64_t chunks = (left + limit - 1) / limit;
  return static_cast<uint32_t>((left + chunks - 1) / chunks);
}

struct PromptShare {
  const SequenceNeed* need;
  uint64_t rows = 0;
};

// Deals `limit` rows to prompts that are given in order of admission. The result is in the order
// in which they take pages: the oldest, then those with the fewest rows left.
void DealRows(uint64_t limit, std::vector<PromptShare>& prompts) {
  if (prompts.size() == 1) {
    prompts[0].rows = EvenChunk(prompts[0].need->prompt_rows, limit);
    return;
  }
  const SequenceNeed* oldest = prompts[0].need;
  const uint64_t ensured =
      std::min<uint64_t>((limit + kOldestShare - 1) / kOldestShare, oldest->prompt_rows);
  limit -= ensured;
  std::stable_sort(prompts.begin(), prompts.end(), [](const PromptShare& a, const PromptShare& b) {
    return std::tuple(-int64_t{a.need->priority}, a.need->prompt_rows) <
           std::tuple(-int64_t{b.need->priority}, b.need->prompt_rows);
  });
  size_t oldest_at = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const bool is_oldest = prompts[i].need == oldest;
    if (is_oldest) oldest_at = i;
    const uint64_t had = is_oldest ? ensured : 0;
    const uint64_t more = std::min(limit, prompts[i].need->prompt_rows - had);
    prompts[i].rows = had + more;
    limit -= more;
  }
  std::rotate(prompts.begin(), prompts.begin() + oldest_at, prompts.begin() + oldest_at + 1);
}

}  // namespace

// A plan while it is made.
struct Scheduler::Draft {
  StepPlan plan;
  std::span<const SequenceNeed> running;
  std::vector<const SequenceNeed*>
      ranked;  // of `running`, those that go on, the first in rank first
  std::vector<const SequenceNeed*> admitted;
  absl::flat_hash_map<uint64_t, uint32_t> running_of;  // by client, sequences; for admission
  uint64_t free_pages = 0;
  uint32_t places = 0;  // that those of `ranked` and `admitted` take

  size_t size() const { return ranked.size() + admitted.size(); }
  bool GoesOn(const SequenceNeed& need) const {
    return std::find(plan.preempt.begin(), plan.preempt.end(), need.id) == plan.preempt.end();
  }
  void PreemptLast() {
    const SequenceNeed& last = *ranked.back();
    plan.preempt.push_back(last.id);
    free_pages += last.pages - last.pages_shared;
    ranked.pop_back();
  }
};

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits) {
  CHECK(limits.sequences_max > 0 && limits.prompt_rows_max > 0 && limits.page_tokens > 0);
}

uint64_t Scheduler::PagesOf(uint64_t positions) const {
  return (positions + limits_.page_tokens - 1) / limits_.page_tokens;
}

uint32_t Scheduler::PlacesOf(const SequenceNeed& need) const {
  return std::min(need.choices, limits_.sequences_max);
}

// Until its prompt is computed, and one page to begin decoding with; other choices share the full
// pages of the prompt.
uint64_t Scheduler::PagesWanted(const SequenceNeed& need) const {
  const uint64_t positions = uint64_t{need.positions} + need.prompt_rows;
  const uint64_t one = PagesOf(positions) + 1;
  const uint64_t all = one + (PlacesOf(need) - 1) * (one - positions / limits_.page_tokens);
  return all - std::min<uint64_t>(all, need.pages);
}

StepPlan Scheduler::Next(std::span<const SequenceNeed> running,
                         std::span<const SequenceNeed> waiting, uint32_t free_pages) {
  Forget(running, waiting);
  Draft draft;
  draft.running = running;
  draft.free_pages = free_pages;
  for (const SequenceNeed& need : running) {
    draft.ranked.push_back(&need);
    draft.places += PlacesOf(need);
  }
  std::stable_sort(
      draft.ranked.begin(), draft.ranked.end(),
      [](const SequenceNeed* a, const SequenceNeed* b) { return a->priority > b->priority; });

  PlanDecoding(draft);
  if (draft.plan.preempt.empty()) Admit(draft, waiting);
  SharePromptRows(draft);
  // Prompts alone, none of which has a page left for a row.
  while (draft.plan.rows.empty() && draft.ranked.size() > 1) {
    draft.PreemptLast();
    SharePromptRows(draft);
  }
  for (const uint64_t id : draft.plan.preempt) preempted_.insert(id);
  return std::move(draft.plan);
}

void Scheduler::PlanDecoding(Draft& draft) const {
  // By rank: who is preempted comes after all that have their row already, or needs one itself.
  for (size_t i = 0; i < draft.ranked.size(); ++i) {
    const SequenceNeed& need = *draft.ranked[i];
    if (IsPrompt(need)) continue;
    const uint64_t wanted = PagesOf(uint64_t{need.positions} + 1) > need.pages ? 1 : 0;
    while (draft.free_pages < wanted && draft.ranked.size() > std::max<size_t>(i, 1)) {
      draft.PreemptLast();
    }
    if (i == draft.ranked.size()) break;  // It was the last in rank itself.
    draft.free_pages -= std::min(draft.free_pages, wanted);
    draft.plan.rows.push_back({need.id, 1});
  }
}

// The waiting sequence that is admitted next.
const SequenceNeed* Scheduler::FirstOf(std::span<const SequenceNeed> waiting,
                                       const Draft& draft) const {
  const auto order = [&](const SequenceNeed& need) {
    const auto running = draft.running_of.find(need.client);
    const auto last = last_admission_.find(need.client);
    return std::tuple(-int64_t{need.priority}, preempted_.contains(need.id) ? 0 : 1,
                      running == draft.running_of.end() ? 0 : running->second,
                      last == last_admission_.end() ? 0 : last->second);
  };
  const SequenceNeed* first = nullptr;
  decltype(order(waiting[0])) first_order;
  for (const SequenceNeed& need : waiting) {
    if (std::find(draft.admitted.begin(), draft.admitted.end(), &need) != draft.admitted.end()) {
      continue;
    }
    const auto order_of_need = order(need);
    if (first != nullptr && order_of_need >= first_order) continue;
    first = &need;
    first_order = order_of_need;
  }
  return first;
}

void Scheduler::Admit(Draft& draft, std::span<const SequenceNeed> waiting) {
  uint64_t promised = 0;  // pages, to prompts that run
  for (const SequenceNeed* need : draft.ranked) {
    if (IsPrompt(*need)) promised += PagesWanted(*need);
    draft.running_of[need->client] += PlacesOf(*need);
  }
  const uint64_t decoding = draft.plan.rows.size();
  while (draft.places < limits_.sequences_max) {
    const SequenceNeed* first = FirstOf(waiting, draft);
    if (first == nullptr || draft.places + PlacesOf(*first) > limits_.sequences_max) break;
    const uint64_t wanted = PagesWanted(*first);
    const uint64_t growth = decoding * (preempted_.contains(first->id) ? 2 : 1);
    // All pages are free where nothing runs: waiting would not help.
    if (draft.size() > 0 && promised + growth + wanted > draft.free_pages) break;
    promised += wanted;
    draft.admitted.push_back(first);
    draft.plan.admit.push_back(first->id);
    draft.running_of[first->client] += PlacesOf(*first);
    draft.places += PlacesOf(*first);
    preempted_.erase(first->id);
    last_admission_[first->client] = ++admissions_;
  }
}

void Scheduler::SharePromptRows(Draft& draft) const {
  std::vector<PromptShare> prompts;  // in order of admission
  for (const SequenceNeed& need : draft.running) {
    if (IsPrompt(need) && draft.GoesOn(need)) prompts.push_back({&need});
  }
  for (const SequenceNeed* need : draft.admitted) prompts.push_back({need});
  if (prompts.empty()) return;
  DealRows(PromptRowsLimit(static_cast<uint32_t>(draft.plan.rows.size())), prompts);
  for (PromptShare& prompt : prompts) {
    const SequenceNeed& need = *prompt.need;
    if (draft.size() > 1) {
      const uint64_t room = (need.pages + draft.free_pages) * limits_.page_tokens;
      prompt.rows = std::min(prompt.rows, room - std::min<uint64_t>(room, need.positions));
    }
    if (prompt.rows == 0) continue;
    const uint64_t held = PagesOf(need.positions + prompt.rows);
    const uint64_t taken = held - std::min<uint64_t>(held, need.pages);
    draft.free_pages -= std::min(draft.free_pages, taken);
    draft.plan.rows.push_back({need.id, static_cast<uint32_t>(prompt.rows)});
  }
}

uint32_t Scheduler::PromptRowsLimit(uint32_t decode_rows) const {
  const uint32_t most = limits_.prompt_rows_max, least = std::min(kPromptRowsMin, most);
  if (decode_rows == 0 || limits_.step_seconds_target <= 0) return most;
  if (prompt_rows_ == 0) return least;  // Nothing is known: begin carefully.
  // Where decoding alone takes longer than the target, prompts may still take half as long.
  const double spare =
      std::max(limits_.step_seconds_target - decode_seconds_, decode_seconds_ * kPromptShare);
  if (spare <= 0) return least;
  const double seconds_per_row = prompt_seconds_ / prompt_rows_;
  if (spare >= seconds_per_row * most) return most;
  return std::max(least, static_cast<uint32_t>(spare / seconds_per_row));
}

void Scheduler::OnStep(double seconds, uint32_t decode_rows, uint32_t prompt_rows) {
  // Prompts alone have no target to keep, and read the weights for themselves.
  if (decode_rows == 0 || !(seconds > 0)) return;
  if (prompt_rows == 0) {
    const double weight = decode_seconds_ > 0 ? kDecodeWeight : 1;
    decode_seconds_ += weight * (seconds - decode_seconds_);
    return;
  }
  // Sequences have left since, or the cache is warm.
  decode_seconds_ = std::min(decode_seconds_, seconds);
  prompt_seconds_ = kPromptFade * prompt_seconds_ + (seconds - decode_seconds_);
  prompt_rows_ = kPromptFade * prompt_rows_ + prompt_rows;
}

void Scheduler::Forget(std::span<const SequenceNeed> running,
                       std::span<const SequenceNeed> waiting) {
  if (!preempted_.empty()) {  // Some may have been cancelled.
    absl::flat_hash_set<uint64_t> still;
    for (const SequenceNeed& need : waiting) {
      if (preempted_.contains(need.id)) still.insert(need.id);
    }
    preempted_ = std::move(still);
  }
  if (last_admission_.size() <= kClientsRemembered) return;
  absl::flat_hash_map<uint64_t, uint64_t> present;
  for (const auto needs : {running, waiting}) {
    for (const SequenceNeed& need : needs) {
      const auto last = last_admission_.find(need.client);
      if (last != last_admission_.end()) present.insert(*last);
    }
  }
  last_admission_ = std::move(present);
}

}  // namespace tidegate
