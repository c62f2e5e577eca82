// A gRPC call of any method with bytes of the test's choice, as another language's client or an
// attacker sends them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"

namespace tidegate {

struct RawAnswer {
  grpc::Status status;
  size_t messages = 0;  // that came back
};

// `method`: "/package.Service/Method". Sends `messages`, ends the sending side, reads to the end.
inline RawAnswer RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                         const std::vector<std::string>& messages) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  void* tag = nullptr;
  bool ok = false;
  const auto done = [&] { return queue.Next(&tag, &ok) && ok; };
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(&tag);
  bool sent = done();
  for (const std::string& message : messages) {
    if (!sent) break;
    const grpc::Slice slice(message);
    call->Write(grpc::ByteBuffer(&slice, 1), &tag);
    sent = done();
  }
  if (sent) {
    call->WritesDone(&tag);
    done();
  }
  RawAnswer answer;
  grpc::ByteBuffer response;
  for (;; ++answer.messages) {
    call->Read(&response, &tag);
    if (!done()) break;
  }
  call->Finish(&answer.status, &tag);
  done();
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return answer;
}

}  // namespace tidegate
