#include "base/call_window.h"

#include "base/check.h"

namespace tidegate {

bool CallWindow::Begin(Share& share) {
  const int mine = share.held + share.abandoned;
  const bool room = mine < kSharePlaces && held_ < places_;
  const bool assured = mine < kAssuredPlaces && held_ < kAssuredPlacesAll * places_;
  if (!room && !assured) return false;
  ++share.held;
  ++held_;
  return true;
}

bool CallWindow::AddBytes(Share& share, size_t bytes) {
  const bool room = bytes_ < kBytes || share.bytes < kAssuredBytes;
  if (!room) return false;
  share.bytes += bytes;
  bytes_ += bytes;
  return true;
}

void CallWindow::GiveBack(Share& share, size_t bytes) {
  CHECK(share.bytes >= bytes);
  share.bytes -= bytes;
  bytes_ -= bytes;
}

void CallWindow::Answered(Share& share, size_t bytes) {
  CHECK(share.held > 0);
  GiveBack(share, bytes);
  --share.held;
  --held_;
}

void CallWindow::Abandoned(Share& share, size_t bytes, uint64_t connection, Clock::time_point now) {
  CHECK(share.held > 0);
  GiveBack(share, bytes);
  --share.held;
  ++share.abandoned;
  expiries_.push_back({now + kAbandonedTime, connection, 1});
}

void CallWindow::CloseShare(Share& share, Clock::time_point now) {
  // Places of abandoned calls are in the queue already, under the connection's number.
  if (share.held > 0) expiries_.push_back({now + kAbandonedTime, 0, share.held});
  GiveBack(share, share.bytes);
  share = {};
}

}  // namespace tidegate
