#include "server/grpc_log.h"

#include "base/log_burst.h"
#include "base/text.h"
#include "grpc/support/log.h"

namespace tidegate {
namespace {

void WriteLine(gpr_log_func_args* line) {
  static LogBurst& burst = *new LogBurst();  // threads of gRPC may outlive statics
  burst.Warning("grpc: ", Printable(line->message));
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(&WriteLine); }

}  // namespace tidegate
