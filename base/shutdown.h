// Turns SIGTERM and SIGINT into an orderly stop.
#pragma once

namespace tidegate {

// Blocks SIGTERM and SIGINT in the calling thread and every thread it starts later, and ignores
// SIGPIPE. Call first in main().
void BlockShutdownSignals();

// Waits for SIGTERM or SIGINT and returns its number. REQUIRES: BlockShutdownSignals().
int WaitForShutdownSignal();

// From now on a further SIGTERM or SIGINT ends the process at once (a second Ctrl-C means now).
void ExitOnNextSignal();

}  // namespace tidegate
