#include "cli/load_generator.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>

#include "cli/client_options.h"
#include "grpcpp/grpcpp.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {
namespace {

using SteadyClock = std::chrono::steady_clock;

// How long the run may take to notice that it is to stop.
constexpr double kPollSeconds = 0.02;
// A place has one request in this time where they fail: a server that refuses connections would
// get thousands a second.
constexpr double kSecondsOfAnError = 1;
constexpr std::chrono::seconds kConnectTimeout{10};

// One request on its way. At any moment it waits for exactly one event of the completion queue.
struct OpenStream {
  enum class Step { kStart, kRead, kFinish };

  LoadMeter::Stream measured;
  Step step = Step::kStart;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader;
  v1::GenerateResponse response;
  std::optional<v1::Finished> finished;
  grpc::Status status;
};

class LoadRun {
 public:
  LoadRun(const LoadPlan& plan, const std::string& address,
          const std::vector<std::shared_ptr<grpc::Channel>>& channels)
      : plan_(plan),
        address_(address),
        request_(plan.request),
        arrivals_(plan.rate, plan.arrivals, plan.workload.seed),
        meter_(plan.goals) {
    for (const auto& channel : channels) stubs_.push_back(v1::GenerationService::NewStub(channel));
  }
  ~LoadRun() {
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  LoadRun(const LoadRun&) = delete;

  LoadResult Execute(const std::function<bool()>& stop,
                     const LoadGenerator::OnProgress& on_progress) {
    while (true) {
      const double now = Now();
      const bool time_is_up = plan_.seconds.has_value() && now >= *plan_.seconds;
      if (!cut_.has_value() && (time_is_up || stop())) CutOff(now);
      if (!cut_.has_value()) BeginWhatIsDue(now);
      on_progress(begun_ - open_.size(), now);
      if (open_.empty() && (cut_.has_value() || AllBegun())) break;
      HandleOneEvent();
    }
    return meter_.Finish(cut_.value_or(last_end_));
  }

 private:
  double Now() const { return std::chrono::duration<double>(SteadyClock::now() - begin_).count(); }
  bool AllBegun() const { return plan_.requests.has_value() && begun_ >= *plan_.requests; }
  bool HasPlace() const { return open_.size() + pauses_.size() < plan_.streams; }

  void CutOff(double now) {
    cut_ = now;
    for (const auto& [stream, unused] : open_) stream->context.TryCancel();
  }

  void BeginWhatIsDue(double now) {
    while (!pauses_.empty() && pauses_.top() <= now) pauses_.pop();
    while (!AllBegun() && HasPlace() && arrivals_.due() <= now) {
      // In a closed loop a request is due when a place for it is free.
      Begin(plan_.rate.has_value() ? arrivals_.due() : Now());
      arrivals_.Advance();
    }
  }

  void Begin(double due) {
    const uint64_t index = plan_.first_index + begun_;
    PlannedRequest planned = PlanRequest(plan_.workload, index);
    auto ids = request_.mutable_token_ids()->mutable_ids();
    ids->Assign(planned.prompt.begin(), planned.prompt.end());
    request_.set_max_tokens(planned.output_tokens);
    request_.mutable_sampling()->set_seed(planned.sampling_seed);
    auto owned = std::make_unique<OpenStream>();
    OpenStream* stream = owned.get();
    if (plan_.deadline.count() > 0) {
      stream->context.set_deadline(
          std::chrono::system_clock::now() +
          std::chrono::duration_cast<std::chrono::microseconds>(plan_.deadline));
    }
    const auto& stub = stubs_[begun_ % stubs_.size()];
    ++begun_;
    stream->measured = meter_.Begin(due, Now(), static_cast<uint32_t>(planned.prompt.size()));
    stream->reader = stub->PrepareAsyncGenerate(&stream->context, request_, &queue_);
    open_.emplace(stream, std::move(owned));
    stream->reader->StartCall(stream);
  }

  // Waits for an event until something else is to be done.
  void HandleOneEvent() {
    const double now = Now();
    double until = now + kPollSeconds;
    if (!cut_.has_value()) {
      if (plan_.seconds.has_value()) until = std::min(until, *plan_.seconds);
      if (!pauses_.empty()) until = std::min(until, pauses_.top());
      if (HasPlace() && !AllBegun()) until = std::min(until, arrivals_.due());
    }
    const auto wait = std::chrono::duration<double>(std::max(0.0, until - now));
    void* tag = nullptr;
    bool ok = false;
    const auto next =
        queue_.AsyncNext(&tag, &ok,
                         std::chrono::system_clock::now() +
                             std::chrono::duration_cast<std::chrono::system_clock::duration>(wait));
    if (next == grpc::CompletionQueue::GOT_EVENT) Handle(*static_cast<OpenStream*>(tag), ok);
  }

  void Handle(OpenStream& stream, bool ok) {
    const double now = Now();
    if (stream.step == OpenStream::Step::kFinish) return End(stream, now);
    if (ok && stream.step == OpenStream::Step::kRead) Take(stream, now);
    if (ok) {
      stream.step = OpenStream::Step::kRead;
      stream.reader->Read(&stream.response, &stream);
    } else {
      stream.step = OpenStream::Step::kFinish;
      stream.reader->Finish(&stream.status, &stream);
    }
  }

  void Take(OpenStream& stream, double now) {
    if (cut_.has_value()) return;  // what comes now came after the run
    if (stream.response.has_delta()) {
      meter_.Tokens(stream.measured, now,
                    static_cast<uint64_t>(stream.response.delta().token_ids_size()));
    } else if (stream.response.has_finished()) {
      stream.finished = stream.response.finished();
    }
  }

  void End(OpenStream& stream, double now) {
    if (cut_.has_value()) {
      meter_.CutOff(stream.measured, *cut_);
    } else if (stream.status.ok() && stream.finished.has_value()) {
      meter_.Complete(stream.measured, now, *stream.finished);
    } else {
      EndUnwell(stream, now);
    }
    last_end_ = now;
    open_.erase(&stream);
  }

  void EndUnwell(const OpenStream& stream, double now) {
    const grpc::Status status = stream.status.ok()
                                    ? grpc::Status(grpc::StatusCode::INTERNAL,
                                                   "the stream ended without its Finished event")
                                    : stream.status;
    const ErrorFacts facts = FactsOf(status);
    const bool refused = status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
                         facts.retry_seconds.has_value();
    if (refused) {
      meter_.Refuse(stream.measured, now);
    } else {
      const absl::Status explained = ExplainError(status, address_, "tidegate-engine");
      meter_.Fail(stream.measured, now, facts, std::string(explained.message()));
    }
    // Nobody waits in an open loop: the next one comes when it is due.
    if (plan_.rate.has_value()) return;
    pauses_.push(facts.retry_seconds.has_value()
                     ? now + *facts.retry_seconds
                     : std::max(now, stream.measured.start + kSecondsOfAnError));
  }

  const LoadPlan& plan_;
  const std::string& address_;
  const SteadyClock::time_point begin_ = SteadyClock::now();
  v1::GenerateRequest request_;  // the next one's prompt is written into it
  ArrivalTimes arrivals_;
  LoadMeter meter_;
  std::vector<std::unique_ptr<v1::GenerationService::Stub>> stubs_;
  grpc::CompletionQueue queue_;
  std::unordered_map<OpenStream*, std::unique_ptr<OpenStream>> open_;
  // When places of refused and failed requests are free again, the earliest first.
  std::priority_queue<double, std::vector<double>, std::greater<>> pauses_;
  uint64_t begun_ = 0;
  std::optional<double> cut_;
  double last_end_ = 0;
};

}  // namespace

LoadGenerator::LoadGenerator(const ServerTarget& server, uint32_t connections)
    : address_(server.address) {
  for (uint32_t i = 0; i < std::max(connections, 1u); ++i) {
    channels_.push_back(Dial(server, /*own_connection=*/true));
  }
}

LoadGenerator::~LoadGenerator() = default;

LoadResult LoadGenerator::Run(const LoadPlan& plan, const std::function<bool()>& stop,
                              const OnProgress& on_progress) {
  // Connecting is no part of the first requests' latencies. Who cannot connect learns it from them.
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  for (const auto& channel : channels_) channel->GetState(/*try_to_connect=*/true);
  for (const auto& channel : channels_) channel->WaitForConnected(deadline);
  return LoadRun(plan, address_, channels_).Execute(stop, on_progress);
}

}  // namespace tidegate
