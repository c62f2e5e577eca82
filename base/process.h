// What every program of ours does first, so that whatever ends it says why. Called by main(),
// before other threads begin.
#pragma once

namespace tidegate {

// A write beyond the limit on file sizes (ulimit -f) becomes an error of that write instead of the
// end of the program. An exception that nobody catches is logged before it ends the program: ours
// throws none, but std::thread does where the limit on threads is reached, and so does `new`. Call
// once, in main().
void PrepareProcess();

}  // namespace tidegate
