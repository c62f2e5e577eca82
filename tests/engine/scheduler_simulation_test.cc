// The scheduler over thousands of steps of a machine that consists of numbers: pages, sequences
// that arrive, and plans that are carried out to the letter.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "engine/scheduler.h"

namespace tidegate::scheduler_simulation_test {

struct Job {
  uint64_t id = 0, client = 0;
  int32_t priority = 0;
  uint32_t prompt = 1, generate = 1;  // tokens

  uint32_t generated = 0;
  uint32_t positions = 0;  // computed
  uint32_t pages = 0;
  bool was_preempted = false;  // and has not been admitted since
  uint32_t preemptions = 0;
  uint64_t overtaken = 0;                               // by later ones of its priority
  uint64_t arrived = 0, first_token = 0, finished = 0;  // steps

  // The last token that was generated is computed by the next step.
  uint32_t tokens() const { return prompt + generated; }
  bool decodes = false;  // its prompt, and what preemption made prompt again, is computed
  uint32_t prompt_rows() const { return decodes ? 0 : tokens() - positions; }
  SequenceNeed need() const {
    return {.id = id,
            .client = client,
            .priority = priority,
            .prompt_rows = prompt_rows(),
            .positions = positions,
            .pages = pages};
  }
};

class World {
 public:
  World(const SchedulerLimits& limits, uint32_t pages)
      : limits_(limits), scheduler_(limits), free_pages_(pages) {}

  void Arrive(Job job) {
    job.id = next_id_++;
    job.arrived = step_;
    waiting_.push_back(job);
  }
  // False: a plan broke a rule, which the test then says.
  bool Step() {
    std::vector<SequenceNeed> running, waiting;
    for (const Job& job : running_) running.push_back(job.need());
    for (const Job& job : waiting_) waiting.push_back(job.need());
    const StepPlan plan = scheduler_.Next(running, waiting, static_cast<uint32_t>(free_pages_));
    ++step_;
    if (plan.rows.empty() && !(running.empty() && waiting.empty())) {
      ADD_FAILURE() << "no rows, but something runs or waits";
    }
    Preempt(plan.preempt);
    Admit(plan.admit);
    EXPECT_TRUE(plan.preempt.empty() || plan.admit.empty()) << "one in for another";
    Compute(plan.rows);
    return !testing::Test::HasFailure();
  }

  bool idle() const { return running_.empty() && waiting_.empty(); }
  uint64_t step() const { return step_; }
  const std::vector<Job>& running() const { return running_; }
  const std::vector<Job>& waiting() const { return waiting_; }
  const std::vector<Job>& finished() const { return finished_; }
  uint64_t rows_computed() const { return rows_computed_; }
  uint64_t rows_of(uint64_t client) { return rows_of_[client]; }
  const Job& Finished(uint64_t id) const {
    return *std::find_if(finished_.begin(), finished_.end(), [&](auto& j) { return j.id == id; });
  }

 private:
  static std::vector<Job>::iterator Find(std::vector<Job>& jobs, uint64_t id) {
    return std::find_if(jobs.begin(), jobs.end(), [&](const Job& job) { return job.id == id; });
  }

  void Preempt(const std::vector<uint64_t>& ids) {
    std::vector<Job> preempted;
    for (const uint64_t id : ids) {
      const auto job = Find(running_, id);
      ASSERT_NE(job, running_.end()) << "preempts what does not run";
      free_pages_ += job->pages;
      job->positions = job->pages = 0;
      job->decodes = false;
      job->was_preempted = true;
      ++job->preemptions;
      // Last in rank: nobody of a lower priority runs, nor a younger one of the same.
      for (auto other = running_.begin(); other != running_.end(); ++other) {
        EXPECT_GE(other->priority, job->priority);
        EXPECT_FALSE(other > job && other->priority == job->priority);
      }
      preempted.push_back(*job);
      running_.erase(job);
    }
    EXPECT_TRUE(ids.empty() || !running_.empty()) << "preempts the only one";
    waiting_.insert(waiting_.begin(), preempted.rbegin(), preempted.rend());
  }

  void Admit(const std::vector<uint64_t>& ids) {
    for (const uint64_t id : ids) {
      const auto found = Find(waiting_, id);
      ASSERT_NE(found, waiting_.end()) << "admits what does not wait";
      Job job = *found;
      waiting_.erase(found);
      for (Job& other : waiting_) {
        EXPECT_LE(other.priority, job.priority);
        if (job.was_preempted || other.priority != job.priority) continue;
        EXPECT_FALSE(other.was_preempted) << "what was preempted goes first";
        other.overtaken += other.id < job.id;
        EXPECT_LE(RunningOf(job.client), RunningOf(other.client)) << "the fewest first";
      }
      job.was_preempted = false;
      running_.push_back(job);
    }
    EXPECT_LE(running_.size(), limits_.sequences_max);
  }

  void Compute(const std::vector<RowShare>& rows) {
    uint32_t prompt_rows = 0, decode_rows = 0;
    std::set<uint64_t> seen;
    for (const RowShare& share : rows) {
      const auto found = Find(running_, share.id);
      ASSERT_NE(found, running_.end()) << "rows of what does not run";
      ASSERT_TRUE(seen.insert(share.id).second) << "two shares";
      Job& job = *found;
      (job.decodes ? decode_rows : prompt_rows) += share.rows;
      ASSERT_GE(share.rows, 1u);
      ASSERT_LE(share.rows, job.decodes ? 1 : job.prompt_rows());
      job.positions += share.rows;
      rows_computed_ += share.rows;
      rows_of_[job.client] += share.rows;
      const uint32_t pages = (job.positions + limits_.page_tokens - 1) / limits_.page_tokens;
      free_pages_ -= pages - job.pages;
      job.pages = pages;
      ASSERT_GE(free_pages_, 0) << "more pages than there are";
    }
    EXPECT_LE(prompt_rows, limits_.prompt_rows_max);
    for (const Job& job : running_) {
      EXPECT_TRUE(!job.decodes || seen.contains(job.id)) << "it decodes and has no row";
    }
    for (const uint64_t id : seen) Advance(id);
    scheduler_.OnStep(0.1 + 0.002 * prompt_rows, decode_rows, prompt_rows);
  }

  // All tokens are computed: the step gave the next one.
  void Advance(uint64_t id) {
    const auto job = Find(running_, id);
    if (job->positions < job->tokens()) return;
    job->decodes = true;
    if (job->generated == 0) job->first_token = step_;
    if (++job->generated < job->generate) return;
    job->finished = step_;
    free_pages_ += job->pages;
    finished_.push_back(*job);
    running_.erase(job);
  }

  size_t RunningOf(uint64_t client) const {
    return std::count_if(running_.begin(), running_.end(),
                         [&](const Job& job) { return job.client == client; });
  }

  const SchedulerLimits limits_;
  Scheduler scheduler_;
  int64_t free_pages_;
  uint64_t step_ = 0, next_id_ = 1, rows_computed_ = 0;
  std::map<uint64_t, uint64_t> rows_of_;
  std::vector<Job> running_, waiting_, finished_;
};

// Sizes, limits and arrivals by chance: no rule is broken, and everybody finishes.
TEST(SchedulerSimulationTest, EverybodyFinishesWhateverComes) {
  uint64_t preemptions = 0, rows_wanted = 0, rows_computed = 0;
  for (uint32_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const auto any = [&](uint32_t low, uint32_t high) {
      return low + static_cast<uint32_t>(random() % (high - low + 1));
    };
    const SchedulerLimits limits = {.sequences_max = any(1, 16),
                                    .prompt_rows_max = any(1, 4) == 1 ? any(1, 8) : any(16, 300),
                                    .page_tokens = any(1, 32),
                                    .step_seconds_target = any(0, 1) * 0.2};
    const uint32_t clients = any(1, 4), priorities = any(1, 2);
    const uint32_t prompt_max = any(1, 300), generate_max = any(1, 100);
    const uint32_t largest = (prompt_max + generate_max) / limits.page_tokens + 1;
    World world(limits, largest * any(1, 4) + 1);
    uint64_t work = 0;
    for (int i = 0; i < 60; ++i) {
      for (uint32_t steps = any(0, 1) * any(0, 30); steps > 0; --steps) ASSERT_TRUE(world.Step());
      const Job job = {.client = any(1, clients),
                       .priority = static_cast<int32_t>(any(1, priorities)),
                       .prompt = any(1, prompt_max),
                       .generate = any(1, generate_max)};
      work += job.prompt + job.generate;
      world.Arrive(job);
    }
    // Were they to run one after the other, a row a step, each would be through by then.
    const uint64_t last = world.step() + work;
    while (!world.idle() && world.step() < last) ASSERT_TRUE(world.Step());
    ASSERT_TRUE(world.idle()) << world.running().size() << " run, " << world.waiting().size()
                              << " wait";
    ASSERT_EQ(world.finished().size(), 60u);
    for (const Job& job : world.finished()) {
      preemptions += job.preemptions;
      // Others may catch up with its client, each by no more than all places, at each of its turns.
      EXPECT_LE(job.overtaken, clients * limits.sequences_max * 60);
    }
    rows_wanted += work;
    rows_computed += world.rows_computed();
  }
  EXPECT_GT(preemptions, 200u) << "this simulation is to meet them";
  EXPECT_LT(rows_computed, rows_wanted * 21 / 20) << "thrash";
}

TEST(SchedulerSimulationTest, AShortPromptUnderALongOneHasItsFirstTokenWithinTwoSteps) {
  for (const uint32_t decoding : {0, 1, 6}) {
    for (const double target : {0.0, 0.05, 0.3}) {
      for (const uint32_t chunk : {16, 64, 256, 512}) {
        SCOPED_TRACE(testing::Message()
                     << decoding << " decode, target " << target << ", chunk " << chunk);
        World world({.sequences_max = 16,
                     .prompt_rows_max = chunk,
                     .page_tokens = 32,
                     .step_seconds_target = target},
                    10'000);
        for (uint32_t i = 0; i < decoding; ++i) world.Arrive({.prompt = 1, .generate = 500});
        ASSERT_TRUE(world.Step());
        world.Arrive({.prompt = 2000, .generate = 1});
        ASSERT_TRUE(world.Step());
        world.Arrive({.prompt = 20, .generate = 1});
        const uint64_t arrived = world.step();
        ASSERT_TRUE(world.Step());
        ASSERT_TRUE(world.Step());
        ASSERT_EQ(world.finished().size(), 1u);
        EXPECT_EQ(world.finished()[0].prompt, 20u);
        EXPECT_LE(world.finished()[0].first_token, arrived + 2);
      }
    }
  }
}

// A stream of short prompts that never ends: the long one is read nevertheless.
TEST(SchedulerSimulationTest, ALongPromptAdvancesUnderShortOnes) {
  World world({.sequences_max = 16, .prompt_rows_max = 64, .page_tokens = 32}, 10'000);
  world.Arrive({.client = 1, .prompt = 2000, .generate = 1});
  for (int i = 0; i < 2000 / 16 + 1; ++i) {
    for (int k = 0; k < 4; ++k) world.Arrive({.client = 2, .prompt = 40, .generate = 1});
    ASSERT_TRUE(world.Step());
  }
  EXPECT_EQ(world.Finished(1).prompt, 2000u);
}

TEST(SchedulerSimulationTest, ClientsHaveEqualPartsHoweverMuchTheyAskFor) {
  for (const uint32_t places : {1, 3, 8}) {
    SCOPED_TRACE(testing::Message() << places << " places");
    World world({.sequences_max = places, .prompt_rows_max = 256, .page_tokens = 32}, 10'000);
    for (int i = 0; i < 1000; ++i) world.Arrive({.client = 1, .prompt = 30, .generate = 20});
    for (int i = 0; i < 300; ++i) world.Arrive({.client = 2, .prompt = 30, .generate = 20});
    for (int i = 0; i < 600; ++i) ASSERT_TRUE(world.Step());
    EXPECT_GT(world.rows_of(1), 0.8 * world.rows_of(2));
    EXPECT_GT(world.rows_of(2), 0.8 * world.rows_of(1));
  }
}

// Client 9 sends its next request some steps after it has the answer to the last one. It takes
// turns with the hundreds that others have sent at once: neither waits longer than a turn.
TEST(SchedulerSimulationTest, OneRequestAtATimeTakesTurnsWithHundreds) {
  World world({.sequences_max = 1, .prompt_rows_max = 256, .page_tokens = 32}, 10'000);
  for (int i = 0; i < 300; ++i) {
    for (uint64_t client = 1; client <= 3; ++client) {
      world.Arrive({.client = client, .prompt = 30, .generate = 20});
    }
  }
  uint32_t idle_steps = 0;
  for (int i = 0; i < 4000; ++i) {
    const auto of_nine = [](const Job& job) { return job.client == 9; };
    const bool absent = std::none_of(world.running().begin(), world.running().end(), of_nine) &&
                        std::none_of(world.waiting().begin(), world.waiting().end(), of_nine);
    idle_steps = absent ? idle_steps + 1 : 0;
    if (idle_steps == 5) world.Arrive({.client = 9, .prompt = 30, .generate = 20});
    ASSERT_TRUE(world.Step());
  }
  for (uint64_t client = 1; client <= 3; ++client) {
    EXPECT_GT(world.rows_of(client), 0.8 * world.rows_of(9)) << client;
    EXPECT_GT(world.rows_of(9), 0.8 * world.rows_of(client)) << client;
  }
}

// More sequences than the pages carry to their ends: what is computed twice stays a small part.
TEST(SchedulerSimulationTest, ScarcePagesDoNotThrash) {
  World world({.sequences_max = 32, .prompt_rows_max = 256, .page_tokens = 32}, /*pages=*/60);
  uint64_t work = 0;
  for (int i = 0; i < 100; ++i) {
    world.Arrive({.prompt = 40, .generate = 300});
    work += 340;
  }
  while (!world.idle() && world.step() < 20'000) ASSERT_TRUE(world.Step());
  ASSERT_TRUE(world.idle());
  uint32_t worst = 0;
  for (const Job& job : world.finished()) worst = std::max(worst, job.preemptions);
  EXPECT_GT(worst, 0u) << "the pages were to be scarce";
  EXPECT_LE(worst, 2u);
  EXPECT_LT(world.rows_computed(), work * 4 / 3);
}

}  // namespace tidegate::scheduler_simulation_test
