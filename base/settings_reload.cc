#include "base/settings_reload.h"

#include "absl/strings/str_join.h"

namespace tidegate {

void TellOfUntaken(const std::vector<FlagValue>& before, const std::vector<FlagValue>& after) {
  const std::vector<std::string> changed = ChangedFlags(before, after, {"log-level"});
  if (changed.empty()) return;
  LogWarning("reload: changed, but in use only after the next start: ",
             absl::StrJoin(changed, ", "));
}

}  // namespace tidegate
