// How deep a JSON text from outside is nested, before a parser that recurses, or builds a tree,
// looks at it. Stateless; any thread.
#pragma once

#include <string_view>

namespace tidegate {

// Whether objects and lists of `text` lie at most `max_depth` deep in each other. Of texts that are
// no JSON it says that, too, or not.
bool IsJsonDepthWithin(std::string_view text, int max_depth);

}  // namespace tidegate
