// How many calls a server may have been given that it has not begun to answer.
//
// A gRPC server makes objects of kilobytes for a call as soon as it has read its header, and frees
// them when its threads come to it; a client that sends faster than that grows it without bound,
// and one that cancels what it sends is bounded by no limit of open streams (CVE-2023-44487). So
// calls take a place here before the server reads them. An answer gives the place back. A call that
// its client ended before any answer keeps its place for kAbandonedTime: nobody says when the
// server has dealt with it, and that time is what slows such clients down. The messages of calls
// without an answer are bounded in bytes as well: the server keeps what it has of them.
//
// Not thread-safe: it belongs to the thread of one ConnectionGate.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace tidegate {

class CallWindow {
 public:
  using Clock = std::chrono::steady_clock;

  // One connection's part of the window. Give all places back before it is destroyed (CloseShare).
  struct Share {
    int held = 0;       // places of calls that wait for an answer
    int abandoned = 0;  // places of calls that the client ended before one
    size_t bytes = 0;   // of messages of calls that wait for an answer
  };

  static constexpr std::chrono::milliseconds kAbandonedTime{500};
  static constexpr int kSharePlaces = 128;     // that one connection may have
  static constexpr int kAssuredPlaces = 4;     // that it may have although the window is full
  static constexpr int kAssuredPlacesAll = 2;  // times the window: the most that are ever held

  // Messages that all connections may have, and that each may have although that is reached.
  static constexpr size_t kBytes = 32 << 20;
  static constexpr size_t kAssuredBytes = 64 << 10;

  explicit CallWindow(int places) : places_(places) {}

  // Takes a place for a call; false: the connection has to wait.
  bool Begin(Share& share);
  // Takes room for a part of a call's message; false: the connection has to wait.
  bool AddBytes(Share& share, size_t bytes);
  // `bytes`: what the call has taken.
  void Answered(Share& share, size_t bytes);
  void Abandoned(Share& share, size_t bytes, uint64_t connection, Clock::time_point now);
  // The connection is gone: its places become free after kAbandonedTime.
  void CloseShare(Share& share, Clock::time_point now);

  // Frees places whose time has passed; `share_of`(connection) -> Share*, null when it is gone.
  template <typename ShareOf>
  void Expire(Clock::time_point now, ShareOf share_of) {
    while (!expiries_.empty() && expiries_.front().at <= now) {
      const Expiry expiry = expiries_.front();
      expiries_.pop_front();
      held_ -= expiry.places;
      Share* const share = expiry.connection == 0 ? nullptr : share_of(expiry.connection);
      if (share != nullptr) share->abandoned -= expiry.places;
    }
  }

  int held() const { return held_; }
  // Connections wait for each other: who dawdles has to go.
  bool crowded() const { return held_ >= places_ || bytes_ >= kBytes; }

 private:
  struct Expiry {
    Clock::time_point at;
    uint64_t connection;  // 0: gone
    int places;
  };

  void GiveBack(Share& share, size_t bytes);

  const int places_;
  int held_ = 0;
  size_t bytes_ = 0;
  std::deque<Expiry> expiries_;  // in order of time
};

}  // namespace tidegate
