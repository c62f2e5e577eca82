// Chat templates: a bounded interpreter of the part of Jinja that models' templates use, which
// gives what Jinja2 gives in the environment that Hugging Face transformers makes for them
// (immutable sandbox, trim_blocks, lstrip_blocks, break and continue, {% generation %},
// raise_exception, strftime_now, a tojson without HTML escapes).
//
// Not a general Jinja: no inheritance, imports, call blocks, recursive loops, or anything that
// reaches outside. Ints have 64 bits. A template comes from a model file and may be hostile: Limits
// bound what a rendering takes. Thread-safe after Parse(): Render() is const.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "template/runtime.h"
#include "template/text.h"
#include "template/value.h"

namespace tidegate::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

class Template {
 public:
  // INVALID_ARGUMENT "line N: ..." for what is no template or more than is supported.
  static absl::StatusOr<std::unique_ptr<const Template>> Parse(std::string_view source);
  ~Template();

  // The text, with the marks of what came from outside (Value::Data). Errors: INVALID_ARGUMENT with
  // the message that the template raises itself; FAILED_PRECONDITION "line N: ..." for what cannot
  // be computed; RESOURCE_EXHAUSTED "line N: ..." at a limit.
  absl::StatusOr<Text> Render(const Variables& variables, std::time_t now,
                              const Limits& limits = {}) const;

 private:
  struct Tree;
  explicit Template(std::unique_ptr<const Tree> tree);
  std::unique_ptr<const Tree> tree_;
};

}  // namespace tidegate::jinja
