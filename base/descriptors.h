// File descriptors of this process: how many it may have and has. Thread-safe.
#pragma once

namespace tidegate {

// Raises the soft limit to the hard one, which costs nothing and is what servers want. Call at the
// start of main(). Returns the limit that holds.
int RaiseDescriptorLimit();

int DescriptorLimit();
int OpenDescriptors();

// `wanted` connections of `descriptors_each`, or as many as leave some for the rest of us; then the
// log says so.
int AffordableConnections(int wanted, int descriptors_each);

}  // namespace tidegate
