#include "base/connection_gate.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/descriptors.h"
#include "base/heap.h"
#include "base/live_listener.h"
#include "base/log.h"
#include "base/log_burst.h"
#include "base/memory_shedder.h"
#include "base/mutex.h"
#include "base/server_pair.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kDescriptorsPerConnection = 3;

// New connections a second, and at once: the rest waits in the backlog.
constexpr double kAcceptsPerSecond = 1000;
constexpr double kAcceptsAtOnce = 500;

constexpr milliseconds kTick{5};  // while something is throttled
constexpr milliseconds kQuietTick{250};
constexpr seconds kCheckInterval{1};       // deadlines, and whether the port lives
constexpr seconds kCrowdedRequestTime{5};  // for a whole message while others wait for room
constexpr seconds kTrimInterval{5};        // what clients made us allocate goes back to the kernel

// What an epoll event is about: the listener, the waker, or a connection's number and side.
constexpr uint64_t kListenerEvent = 0, kWakeEvent = 1;
uint64_t ClientEvent(uint64_t id) { return id << 1; }
uint64_t ServerEvent(uint64_t id) { return id << 1 | 1; }

}  // namespace

const char* RefusalName(Refusal refusal) {
  static constexpr const char* kNames[kRefusals] = {"connections", "address", "memory"};
  return kNames[static_cast<size_t>(refusal)];
}

// All of it runs on the gate's thread, but for what is atomic or under the mutex.
class ConnectionGate::Loop {
 public:
  Loop(LiveListener listener, const GateLimits& limits, HandOver hand_over,
       std::shared_ptr<GateStats> stats, std::shared_ptr<TlsServer> tls, UniqueFd epoll,
       UniqueFd wake);
  ~Loop() { Stop(milliseconds(0)); }

  void StopAccepting();
  void Stop(milliseconds flush_time);
  const ListenAddress& address() const { return address_; }

 private:
  struct Entry {
    std::unique_ptr<GatedConnection> connection;
    uint32_t client_events = 0, server_events = 0;  // as epoll knows them
  };

  void Run();
  void Wake();
  // False: the loop ends.
  bool ReadOrders(Clock::time_point now);
  void HandleEvent(uint64_t tag, uint32_t events, Clock::time_point now);
  void Tick(Clock::time_point now);
  void Check(Clock::time_point now);
  void ShedCalls();
  void ShedForMemory();
  void PublishCounts();

  void AcceptSome(Clock::time_point now);
  void AcceptOne(LiveListener::Accepted accepted, Clock::time_point now);
  std::optional<Refusal> MakeRoom(const std::string& peer);
  std::string WhyRefused(Refusal refusal) const;
  // Closes the connection without a call that has been quiet the longest; of `peer`, unless null.
  bool Evict(const std::string* peer);
  void ListenAgain();
  void ArmListener(bool armed);

  CloseReason ConnectToServer(GatedConnection& connection, Clock::time_point now);
  void AfterMove(Entry& entry, CloseReason reason, Clock::time_point now);
  void NoteThrottled(const GatedConnection& connection);
  bool Watch(int operation, int fd, uint64_t tag, uint32_t events);
  void Close(uint64_t id, CloseReason reason);

  const GateLimits limits_;
  const HandOver hand_over_;
  const std::shared_ptr<TlsServer> tls_;  // or null
  const UniqueFd epoll_, wake_;
  std::optional<LiveListener> listener_;
  const ListenAddress address_;
  const int max_connections_;
  bool listener_armed_ = false;
  double accept_tokens_ = kAcceptsAtOnce;

  const std::shared_ptr<GateStats> shared_stats_;
  GateStats& stats_ = *shared_stats_;
  GatedConnection::Counts counts_;
  CallWindow window_;  // outlives the connections
  uint64_t last_id_ = 0;
  std::unordered_map<uint64_t, Entry> connections_;
  std::unordered_map<std::string, int> per_address_;
  std::vector<uint64_t> throttled_;  // the first has waited the longest
  Clock::time_point last_tick_ = Clock::now(), last_check_ = last_tick_, last_trim_ = last_tick_;
  MemoryWatch memory_;
  std::array<LogBurst, kRefusals> refusal_log_;
  LogBurst shed_log_, memory_log_, throttle_log_, accept_log_, evict_log_, listen_log_;

  Mutex mutex_;
  CondVar changed_;
  bool stop_accepting_ ABSL_GUARDED_BY(mutex_) = false;
  bool accepting_ ABSL_GUARDED_BY(mutex_) = true;
  std::optional<Clock::time_point> stop_at_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

ConnectionGate::Loop::Loop(LiveListener listener, const GateLimits& limits, HandOver hand_over,
                           std::shared_ptr<GateStats> stats, std::shared_ptr<TlsServer> tls,
                           UniqueFd epoll, UniqueFd wake)
    : limits_(limits),
      hand_over_(std::move(hand_over)),
      tls_(std::move(tls)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      listener_(std::move(listener)),
      address_(listener_->address()),
      max_connections_(AffordableConnections(limits.max_connections, kDescriptorsPerConnection)),
      shared_stats_(std::move(stats)),
      window_(limits.max_unanswered_calls),
      memory_(limits.max_memory) {
  Watch(EPOLL_CTL_ADD, wake_.get(), kWakeEvent, EPOLLIN);
  Watch(EPOLL_CTL_ADD, listener_->fd(), kListenerEvent, EPOLLIN);
  listener_armed_ = true;
  stats_.listening = true;
  thread_ = std::thread([this] { Run(); });
}

void ConnectionGate::Loop::Run() {
  std::array<epoll_event, 64> events;
  for (;;) {
    const bool busy = !throttled_.empty() || window_.held() > 0 || !listener_armed_;
    const int ready = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                 static_cast<int>((busy ? kTick : kQuietTick).count()));
    const Clock::time_point now = Clock::now();
    for (int i = 0; i < ready; ++i) HandleEvent(events[i].data.u64, events[i].events, now);
    ShedCalls();
    if (memory_.Due(now)) ShedForMemory();
    if (now - last_tick_ >= kTick) Tick(now);
    if (now - last_check_ >= kCheckInterval) Check(now);
    PublishCounts();
    if (!ReadOrders(now)) break;
  }
  while (!connections_.empty()) Close(connections_.begin()->first, CloseReason::kStopped);
  PublishCounts();
}

void ConnectionGate::Loop::HandleEvent(uint64_t tag, uint32_t events, Clock::time_point now) {
  if (tag == kListenerEvent) return AcceptSome(now);
  if (tag == kWakeEvent) {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof(count));
    return;
  }
  const auto found = connections_.find(tag >> 1);
  if (found == connections_.end()) return;  // closed earlier in this round
  GatedConnection& connection = *found->second.connection;
  CloseReason reason = CloseReason::kNone;
  if (tag == ClientEvent(connection.id())) {
    const bool reads = (connection.client_events() & EPOLLIN) != 0;
    // One that has closed while it has to wait is not waited for: gRPC would cancel its calls
    // anyway.
    const uint32_t ends = EPOLLHUP | EPOLLERR | (connection.throttled() ? EPOLLRDHUP : 0u);
    if ((events & ends) != 0) {
      reason = CloseReason::kClient;
    } else if ((events & EPOLLIN) != 0 && reads) {
      reason = connection.OnClientReadable(now);
    }
  } else if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !connection.server_closed()) {
    reason = connection.OnServerReadable(now);
  }
  if (reason == CloseReason::kNone && (events & EPOLLOUT) != 0) reason = connection.Continue(now);
  AfterMove(found->second, reason, now);
}

// Sets up the way to the server if it is time, follows what the connection waits for, ends it if it
// is done. `entry` may be gone afterwards.
void ConnectionGate::Loop::AfterMove(Entry& entry, CloseReason reason, Clock::time_point now) {
  GatedConnection& connection = *entry.connection;
  if (reason == CloseReason::kNone && connection.needs_server()) {
    reason = ConnectToServer(connection, now);
  }
  const uint64_t id = connection.id();
  if (reason != CloseReason::kNone) return Close(id, reason);
  if (connection.throttled()) NoteThrottled(connection);
  if (const uint32_t events = connection.client_events(); events != entry.client_events) {
    Watch(EPOLL_CTL_MOD, connection.client_fd(), ClientEvent(id), events);
    entry.client_events = events;
  }
  if (connection.server_fd() < 0) return;
  const uint32_t events = connection.server_events();
  if (connection.server_closed()) {  // it would report EPOLLHUP for ever
    Watch(EPOLL_CTL_DEL, connection.server_fd(), ServerEvent(id), 0);
  } else if (events != entry.server_events) {
    Watch(EPOLL_CTL_MOD, connection.server_fd(), ServerEvent(id), events);
    entry.server_events = events;
  }
}

void ConnectionGate::Loop::NoteThrottled(const GatedConnection& connection) {
  if (std::find(throttled_.begin(), throttled_.end(), connection.id()) != throttled_.end()) return;
  throttled_.push_back(connection.id());
  throttle_log_.Warning(
      "slowed down a client at ", connection.address(),
      " that sends faster than is answered, or cancels calls at once: ", window_.held(),
      " calls without an answer (--max-unanswered-calls ", limits_.max_unanswered_calls, ")");
}

CloseReason ConnectionGate::Loop::ConnectToServer(GatedConnection& connection,
                                                  Clock::time_point now) {
  {
    MutexLock lock(mutex_);
    if (!accepting_) return CloseReason::kStopped;
  }
  std::optional<ServerPair> pair = MakeServerPair(connection.client());
  if (!pair.has_value()) return CloseReason::kNoDescriptors;
  const int gate_end = pair->gate.get();
  connection.SetServer(std::move(pair->gate));
  if (!Watch(EPOLL_CTL_ADD, gate_end, ServerEvent(connection.id()), 0)) {
    return CloseReason::kNoDescriptors;
  }
  // Before any byte lies there: or the server would begin to serve it on this thread.
  hand_over_(pair->server.release());
  return connection.Continue(now);
}

bool ConnectionGate::Loop::Watch(int operation, int fd, uint64_t tag, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = tag;
  return epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
}

void ConnectionGate::Loop::Close(uint64_t id, CloseReason reason) {
  const auto found = connections_.find(id);
  ++stats_.closed[static_cast<size_t>(reason)];
  const auto address = per_address_.find(found->second.connection->address());
  if (--address->second == 0) per_address_.erase(address);
  std::erase(throttled_, id);
  connections_.erase(found);
}

void ConnectionGate::Loop::Tick(Clock::time_point now) {
  const double seconds_passed = std::chrono::duration<double>(now - last_tick_).count();
  last_tick_ = now;
  accept_tokens_ = std::min(kAcceptsAtOnce, accept_tokens_ + seconds_passed * kAcceptsPerSecond);
  if (!listener_armed_) ArmListener(true);
  window_.Expire(now, [&](uint64_t id) -> CallWindow::Share* {
    const auto found = connections_.find(id);
    return found == connections_.end() ? nullptr : &found->second.connection->share();
  });
  for (const uint64_t id : std::exchange(throttled_, {})) {
    const auto found = connections_.find(id);
    if (found == connections_.end()) continue;
    AfterMove(found->second, found->second.connection->Continue(now), now);
  }
}

void ConnectionGate::Loop::ShedCalls() {
  while (counts_.open_calls > limits_.max_open_calls) {
    const auto most = std::max_element(
        connections_.begin(), connections_.end(), [](const auto& a, const auto& b) {
          return a.second.connection->open_calls() < b.second.connection->open_calls();
        });
    const GatedConnection& connection = *most->second.connection;
    shed_log_.Warning(counts_.open_calls, " open calls, more than ", limits_.max_open_calls,
                      ": closed the connection with the most, ", connection.open_calls(), " from ",
                      connection.address());
    Close(connection.id(), CloseReason::kShed);
  }
}

void ConnectionGate::Loop::ShedForMemory() {
  std::vector<ConnectionLoad> loads;
  for (const auto& [id, entry] : connections_) {
    loads.push_back({id, entry.connection->load(), entry.connection->open_calls()});
  }
  for (const uint64_t id : BusiestConnections(std::move(loads))) {
    memory_log_.Warning("memory runs short (", memory_.Describe(),
                        "): new connections are refused, and the busiest closed: one from ",
                        connections_.at(id).connection->address());
    Close(id, CloseReason::kMemory);
  }
}

void ConnectionGate::Loop::Check(Clock::time_point now) {
  last_check_ = now;
  const auto request_timeout =
      window_.crowded() ? std::min<Clock::duration>(limits_.request_timeout, kCrowdedRequestTime)
                        : limits_.request_timeout;
  std::vector<std::pair<uint64_t, CloseReason>> ended;
  for (const auto& [id, entry] : connections_) {
    const CloseReason reason =
        entry.connection->CheckDeadlines(now, limits_.handshake_timeout, request_timeout);
    entry.connection->EndSecond();
    if (reason != CloseReason::kNone) ended.emplace_back(id, reason);
  }
  for (const auto& [id, reason] : ended) Close(id, reason);
  if (listener_.has_value() && !listener_->Lives()) ListenAgain();
  if (now - last_trim_ >= kTrimInterval) {
    last_trim_ = now;
    ReturnFreeHeap();
  }
}

void ConnectionGate::Loop::PublishCounts() {
  stats_.connections = static_cast<int>(connections_.size());
  stats_.throttled = static_cast<int>(throttled_.size());
  stats_.unanswered_calls = window_.held();
  stats_.open_calls = counts_.open_calls;
  stats_.calls = counts_.calls;
  stats_.abandoned_calls = counts_.abandoned_calls;
}

void ConnectionGate::Loop::AcceptSome(Clock::time_point now) {
  using Outcome = LiveListener::Outcome;
  if (!listener_.has_value()) return;
  for (; accept_tokens_ >= 1; accept_tokens_ -= 1) {
    LiveListener::Accepted accepted = listener_->Accept();
    if (accepted.outcome == Outcome::kNothing) return;
    if (accepted.outcome == Outcome::kDead) return ListenAgain();
    if (accepted.outcome == Outcome::kNoDescriptors) {
      accept_log_.Error("no descriptors left for a new connection (limit ", DescriptorLimit(),
                        "): raise ulimit -n or lower --max-connections");
      break;
    }
    AcceptOne(std::move(accepted), now);
  }
  ArmListener(false);  // until the next tick
}

void ConnectionGate::Loop::AcceptOne(LiveListener::Accepted accepted, Clock::time_point now) {
  if (const std::optional<Refusal> refusal = MakeRoom(accepted.peer); refusal.has_value()) {
    const auto index = static_cast<size_t>(*refusal);
    ++stats_.refused[index];
    refusal_log_[index].Warning("refused a connection from ", accepted.peer, ": ",
                                WhyRefused(*refusal));
    const linger reset = {1, 0};  // no TIME_WAIT for a flood
    setsockopt(accepted.fd.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    return;
  }
  const uint64_t id = ++last_id_;
  ++stats_.accepted;
  ++per_address_[accepted.peer];
  std::unique_ptr<TlsStream> tls;
  if (tls_ != nullptr) tls = tls_->Accept(accepted.fd.get(), TlsProtocol::kHttp2, accepted.peer);
  auto connection = std::make_unique<GatedConnection>(
      id, std::move(accepted.fd), std::move(tls), std::move(accepted.peer), window_, counts_, now);
  const uint32_t events = connection->client_events();
  const bool watched = Watch(EPOLL_CTL_ADD, connection->client_fd(), ClientEvent(id), events);
  connections_.emplace(id, Entry{std::move(connection), events, 0});
  if (!watched) Close(id, CloseReason::kNoDescriptors);
}

std::string ConnectionGate::Loop::WhyRefused(Refusal refusal) const {
  if (refusal == Refusal::kMemory) return "memory runs short";
  return refusal == Refusal::kAddress
             ? absl::StrCat("all ", limits_.max_connections_per_address,
                            " of its address (--max-connections-per-address) have calls")
             : absl::StrCat("all ", max_connections_, " (--max-connections) have calls");
}

std::optional<Refusal> ConnectionGate::Loop::MakeRoom(const std::string& peer) {
  if (memory_.shedding()) return Refusal::kMemory;
  const auto address = per_address_.find(peer);
  if (address != per_address_.end() && address->second >= limits_.max_connections_per_address &&
      !Evict(&peer)) {
    return Refusal::kAddress;
  }
  if (static_cast<int>(connections_.size()) < max_connections_) return std::nullopt;
  // Who has the most connections gives one up first.
  const auto most =
      std::max_element(per_address_.begin(), per_address_.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  const std::string crowd = most->first;
  if (Evict(&crowd) || Evict(nullptr)) return std::nullopt;
  return Refusal::kConnections;
}

bool ConnectionGate::Loop::Evict(const std::string* peer) {
  const GatedConnection* victim = nullptr;
  for (const auto& [id, entry] : connections_) {
    const auto& connection = entry.connection;
    if (connection->open_calls() > 0) continue;
    if (peer != nullptr && connection->address() != *peer) continue;
    const bool quieter = victim == nullptr || connection->last_active() < victim->last_active();
    if (quieter) victim = connection.get();
  }
  if (victim == nullptr) return false;
  evict_log_.Warning("as many connections as allowed: closed one without calls from ",
                     victim->address(), " for a new one (--max-connections ", max_connections_,
                     ", --max-connections-per-address ", limits_.max_connections_per_address, ")");
  Close(victim->id(), CloseReason::kEvicted);
  return true;
}

void ConnectionGate::Loop::ArmListener(bool armed) {
  if (!listener_.has_value()) return;
  listener_armed_ = armed;
  Watch(EPOLL_CTL_MOD, listener_->fd(), kListenerEvent, armed ? EPOLLIN : 0u);
}

void ConnectionGate::Loop::ListenAgain() {
  const absl::Status status = listener_->Revive();
  stats_.listening = status.ok();
  if (status.ok()) {
    ++stats_.relistened;
    listener_armed_ = true;
    Watch(EPOLL_CTL_ADD, listener_->fd(), kListenerEvent, EPOLLIN);
    LogWarning("the port was dead: listening on ", address_.ToString(), " again");
  } else {
    listen_log_.Error("the port is dead, new attempts follow: ", std::string(status.message()));
  }
}

void ConnectionGate::Loop::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

bool ConnectionGate::Loop::ReadOrders(Clock::time_point now) {
  MutexLock lock(mutex_);
  if (stop_accepting_ && accepting_) {
    listener_.reset();
    listener_armed_ = true;  // nothing to arm
    stats_.listening = false;
    accepting_ = false;
    changed_.NotifyAll();
  }
  return !stop_at_.has_value() || (now < *stop_at_ && !connections_.empty());
}

void ConnectionGate::Loop::StopAccepting() {
  MutexLock lock(mutex_);
  stop_accepting_ = true;
  Wake();
  while (accepting_) changed_.Wait(mutex_);
}

void ConnectionGate::Loop::Stop(milliseconds flush_time) {
  if (!thread_.joinable()) return;
  StopAccepting();
  {
    MutexLock lock(mutex_);
    stop_at_ = Clock::now() + flush_time;
  }
  Wake();
  thread_.join();
}

absl::StatusOr<std::unique_ptr<ConnectionGate>> ConnectionGate::Start(
    const ListenAddress& address, const GateLimits& limits, HandOver hand_over,
    std::shared_ptr<GateStats> stats, std::shared_ptr<TlsServer> tls) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC)), wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll.valid() || !wake.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("epoll, eventfd: ", std::strerror(errno)));
  }
  ASSIGN_OR_RETURN(LiveListener listener, LiveListener::Create(address));
  return std::unique_ptr<ConnectionGate>(new ConnectionGate(
      std::make_unique<Loop>(std::move(listener), limits, std::move(hand_over), std::move(stats),
                             std::move(tls), std::move(epoll), std::move(wake))));
}

ConnectionGate::ConnectionGate(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
ConnectionGate::~ConnectionGate() = default;
void ConnectionGate::StopAccepting() { loop_->StopAccepting(); }
void ConnectionGate::Stop(milliseconds flush_time) { loop_->Stop(flush_time); }
const ListenAddress& ConnectionGate::address() const { return loop_->address(); }

}  // namespace tidegate
