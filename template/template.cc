#include "template/template.h"

#include "base/status_macros.h"
#include "template/evaluator.h"
#include "template/parser.h"

namespace tidegate::jinja {

struct Template::Tree {
  Block block;
};

Template::Template(std::unique_ptr<const Tree> tree) : tree_(std::move(tree)) {}
Template::~Template() = default;

absl::StatusOr<std::unique_ptr<const Template>> Template::Parse(std::string_view source) {
  ASSIGN_OR_RETURN(Block block, ParseTemplate(source));
  return std::unique_ptr<const Template>(
      new Template(std::make_unique<const Tree>(Tree{std::move(block)})));
}

absl::StatusOr<Text> Template::Render(const Variables& variables, std::time_t now,
                                      const Limits& limits) const {
  return Evaluator(limits, now).Run(tree_->block, variables);
}

}  // namespace tidegate::jinja
