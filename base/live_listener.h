// A listening socket that goes on listening: a lack of descriptors only makes it pause, and when
// the socket itself dies, or the file of a Unix socket is taken away, it listens anew on the same
// address.
//
// One thread. Accept() does not block; fd() is for epoll.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "base/listen_address.h"

namespace tidegate {

class LiveListener {
 public:
  static constexpr int kBacklog = 1024;

  static absl::StatusOr<LiveListener> Create(const ListenAddress& address);
  LiveListener(LiveListener&&) = default;
  LiveListener& operator=(LiveListener&&) = default;
  // Removes the file of a Unix socket, if it is still this one's.
  ~LiveListener();

  enum class Outcome {
    kAccepted,
    kNothing,        // nobody waits
    kNoDescriptors,  // or memory: try again in some milliseconds
    kDead,           // Revive() it
  };
  struct Accepted {
    Outcome outcome;
    UniqueFd fd;       // non-blocking
    std::string peer;  // PeerName()
  };
  Accepted Accept();

  // Whether clients that dial the address reach this socket, as far as the kernel says.
  bool Lives() const;
  absl::Status Revive();

  int fd() const { return socket_.fd.get(); }
  const ListenAddress& address() const { return socket_.address; }  // with the real port

 private:
  explicit LiveListener(ListeningSocket socket);
  bool OwnsPath() const;

  ListeningSocket socket_;
  dev_t device_ = 0;  // of a Unix socket's file
  ino_t inode_ = 0;
};

}  // namespace tidegate
