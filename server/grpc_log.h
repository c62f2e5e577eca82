// What the gRPC library has to say, as lines of our log.
//
// Left alone it writes to standard error by itself: lines of another form, with bytes of peers in
// them, as many as a peer causes. Thread-safe.
#pragma once

namespace tidegate {

// From now on its errors are warnings of ours: printable, cut, and at most a few in a while. For
// the whole process; again does no harm.
void TakeGrpcLog();

}  // namespace tidegate
