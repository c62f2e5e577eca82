// Filters whose work is on lists and dicts.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/filters.h"
#include "template/operators.h"
#include "template/text_functions.h"

namespace tidegate::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// Strings that differ only in case count as equal.
absl::StatusOr<Value> IgnoreCase(Runtime& runtime, const Value& value) {
  if (!value.is_string()) return value;
  return runtime.MakeString(Text(LowerCase(value.string())));
}

// What sort, unique, min and max compare: the value or an attribute of it, in lower case or not.
absl::StatusOr<Value> SortKey(const FilterCall& call, const Value& value, bool case_sensitive,
                              const Value* attribute) {
  Value key = value;
  if (attribute != nullptr && !attribute->is_none()) {
    ASSIGN_OR_RETURN(key, AttributePath(call.runtime, value, *attribute));
  }
  return case_sensitive ? absl::StatusOr<Value>(key) : IgnoreCase(call.runtime, key);
}

struct Keyed {
  Value key, value;
};

// Sorts stably. The first error of a comparison wins.
absl::Status SortKeyed(Runtime& runtime, bool reverse, std::vector<Keyed>& items) {
  absl::Status status;
  const auto less = [&](const Keyed& a, const Keyed& b) {
    if (!status.ok()) return false;
    const absl::StatusOr<bool> result =
        reverse ? runtime.Less(b.key, a.key) : runtime.Less(a.key, b.key);
    if (!result.ok()) status = result.status();
    return result.ok() && *result;
  };
  // Merge sort: unlike std::sort it bears comparisons that contradict each other (NaN).
  std::stable_sort(items.begin(), items.end(), less);
  return status;
}

Result SortFilter(const FilterCall& call) {
  const bool reverse = BoolArgument(call.arguments, 0, "reverse", false);
  const bool case_sensitive = BoolArgument(call.arguments, 1, "case_sensitive", false);
  const Value* attribute = Argument(call.arguments, 2, "attribute");
  ASSIGN_OR_RETURN(const std::vector<Value> values, call.runtime.Items(call.input));
  std::vector<Keyed> items;
  for (const Value& value : values) {
    ASSIGN_OR_RETURN(Value key, SortKey(call, value, case_sensitive, attribute));
    items.push_back({std::move(key), value});
  }
  RETURN_IF_ERROR(SortKeyed(call.runtime, reverse, items));
  std::vector<Value> sorted;
  for (Keyed& item : items) sorted.push_back(std::move(item.value));
  return call.runtime.MakeList(std::move(sorted));
}

Result DictSortFilter(const FilterCall& call) {
  if (!call.input.is_dict()) return call.runtime.Error("dictsort needs a dict");
  const bool case_sensitive = BoolArgument(call.arguments, 0, "case_sensitive", false);
  ASSIGN_OR_RETURN(const Text by, TextArgument(call.runtime, call.arguments, 1, "by", "key"));
  const bool reverse = BoolArgument(call.arguments, 2, "reverse", false);
  if (by.view() != "key" && by.view() != "value") {
    return call.runtime.Error("dictsort sorts by 'key' or 'value'");
  }
  std::vector<Keyed> items;
  for (const auto& [key, value] : call.input.dict().entries) {
    ASSIGN_OR_RETURN(Value pair, call.runtime.MakeList({key, value}, List::Kind::kTuple));
    ASSIGN_OR_RETURN(Value sort_key,
                     SortKey(call, by.view() == "key" ? key : value, case_sensitive, nullptr));
    items.push_back({std::move(sort_key), std::move(pair)});
  }
  RETURN_IF_ERROR(SortKeyed(call.runtime, reverse, items));
  std::vector<Value> sorted;
  for (Keyed& item : items) sorted.push_back(std::move(item.value));
  return call.runtime.MakeList(std::move(sorted));
}

Result UniqueFilter(const FilterCall& call) {
  const bool case_sensitive = BoolArgument(call.arguments, 0, "case_sensitive", false);
  const Value* attribute = Argument(call.arguments, 1, "attribute");
  ASSIGN_OR_RETURN(const std::vector<Value> values, call.runtime.Items(call.input));
  std::vector<Value> seen, kept;
  for (const Value& value : values) {
    ASSIGN_OR_RETURN(Value key, SortKey(call, value, case_sensitive, attribute));
    bool is_new = true;
    for (const Value& old : seen) {
      ASSIGN_OR_RETURN(const bool equal, call.runtime.Equal(old, key));
      if (equal) is_new = false;
      if (equal) break;
    }
    if (!is_new) continue;
    seen.push_back(std::move(key));
    kept.push_back(value);
  }
  return call.runtime.MakeList(std::move(kept), List::Kind::kGenerator);
}

// min and max.
Result ExtremeFilter(const FilterCall& call) {
  const bool case_sensitive = BoolArgument(call.arguments, 0, "case_sensitive", false);
  const Value* attribute = Argument(call.arguments, 1, "attribute");
  ASSIGN_OR_RETURN(const std::vector<Value> values, call.runtime.Items(call.input));
  if (values.empty()) return call.runtime.Undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSIGN_OR_RETURN(Value key, SortKey(call, values[i], case_sensitive, attribute));
    bool better = i == 0;
    if (i > 0) {
      ASSIGN_OR_RETURN(better, call.name == "min" ? call.runtime.Less(key, best_key)
                                                  : call.runtime.Less(best_key, key));
    }
    if (!better) continue;
    best = i;
    best_key = std::move(key);
  }
  return values[best];
}

Result LengthFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const size_t length, call.runtime.Length(call.input));
  return Value(static_cast<int64_t>(length));
}

Result ListFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(std::vector<Value> items, call.runtime.Items(call.input));
  return call.runtime.MakeList(std::move(items));
}

Result FirstFilter(const FilterCall& call) {
  if (call.input.is_string() && !call.input.text().empty()) {
    return GetItem(call.runtime, call.input, Value(int64_t{0}));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  if (items.empty()) return call.runtime.Undefined("No first item, sequence was empty.");
  return items.front();
}

Result LastFilter(const FilterCall& call) {
  if (call.input.is_list() && call.input.list().kind == List::Kind::kGenerator) {
    return call.runtime.Error("last needs a list; put |list before it");
  }
  if (call.input.is_string() && !call.input.text().empty()) {
    return GetItem(call.runtime, call.input, Value(int64_t{-1}));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  if (items.empty()) return call.runtime.Undefined("No last item, sequence was empty.");
  return items.back();
}

Result ReverseFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(std::vector<Value> items, call.runtime.Items(call.input));
  std::reverse(items.begin(), items.end());
  if (!call.input.is_string()) {
    return call.runtime.MakeList(std::move(items), List::Kind::kGenerator);
  }
  Text text;
  for (const Value& item : items) text.Append(item.text());
  return call.runtime.MakeString(std::move(text));
}

Result JoinFilter(const FilterCall& call) {
  const Value* given = Argument(call.arguments, 0, "d");
  ASSIGN_OR_RETURN(const Text between,
                   given == nullptr ? absl::StatusOr<Text>(Text()) : call.runtime.ToText(*given));
  const Value* attribute = Argument(call.arguments, 1, "attribute");
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (attribute != nullptr && !attribute->is_none()) {
      ASSIGN_OR_RETURN(item, AttributePath(call.runtime, item, *attribute));
    }
    if (i > 0) RETURN_IF_ERROR(call.runtime.Append(between, out));
    ASSIGN_OR_RETURN(const Text text, call.runtime.ToText(item));
    RETURN_IF_ERROR(call.runtime.Append(text, out));
  }
  return call.runtime.MakeString(std::move(out));
}

Result ItemsFilter(const FilterCall& call) {
  if (call.input.is_undefined()) return call.runtime.MakeList({}, List::Kind::kGenerator);
  if (!call.input.is_dict()) return call.runtime.Error("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const auto& [key, value] : call.input.dict().entries) {
    ASSIGN_OR_RETURN(Value pair, call.runtime.MakeList({key, value}, List::Kind::kTuple));
    pairs.push_back(std::move(pair));
  }
  return call.runtime.MakeList(std::move(pairs), List::Kind::kGenerator);
}

Result SumFilter(const FilterCall& call) {
  const Value* attribute = Argument(call.arguments, 0, "attribute");
  const Value* start = Argument(call.arguments, 1, "start");
  Value sum = start != nullptr ? *start : Value(int64_t{0});
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  for (Value item : items) {
    if (attribute != nullptr && !attribute->is_none()) {
      ASSIGN_OR_RETURN(item, AttributePath(call.runtime, item, *attribute));
    }
    ASSIGN_OR_RETURN(sum, Arithmetic(call.runtime, "+", sum, item));
  }
  return sum;
}

// The arguments from `count` on.
Arguments Rest(const Arguments& arguments, size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(
      rest.positional.begin(),
      rest.positional.begin() + static_cast<ptrdiff_t>(std::min(count, rest.positional.size())));
  return rest;
}

Result MapFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  const bool by_filter = !call.arguments.positional.empty();
  const Value* attribute = by_filter ? nullptr : Argument(call.arguments, SIZE_MAX, "attribute");
  const Value* otherwise = Argument(call.arguments, SIZE_MAX, "default");
  if (!by_filter && attribute == nullptr) {
    return call.runtime.Error("map requires a filter argument");
  }
  std::vector<Value> mapped;
  for (const Value& item : items) {
    if (by_filter) {
      const Value& name = call.arguments.positional[0];
      if (!name.is_string()) return call.runtime.Error("map needs the name of a filter");
      ASSIGN_OR_RETURN(Value value,
                       ApplyFilter(call.runtime, name.string(), item, Rest(call.arguments, 1)));
      mapped.push_back(std::move(value));
    } else {
      ASSIGN_OR_RETURN(Value value, AttributePath(call.runtime, item, *attribute));
      mapped.push_back(value.is_undefined() && otherwise != nullptr ? *otherwise : value);
    }
  }
  return call.runtime.MakeList(std::move(mapped), List::Kind::kGenerator);
}

// select, reject, selectattr, rejectattr.
Result SelectFilter(const FilterCall& call) {
  const bool by_attribute = call.name == "selectattr" || call.name == "rejectattr";
  const bool keep = call.name == "select" || call.name == "selectattr";
  const size_t test_at = by_attribute ? 1 : 0;
  const Arguments rest = Rest(call.arguments, test_at + 1);
  const Value* attribute = by_attribute ? Argument(call.arguments, 0, "") : nullptr;
  if (by_attribute && attribute == nullptr) {
    return call.runtime.Error("Missing parameter for attribute name");
  }
  const Value* test = Argument(call.arguments, test_at, "");
  if (test != nullptr && !test->is_string()) {
    return call.runtime.Error(Cat(call.name, " needs the name of a test"));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value value = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(value, AttributePath(call.runtime, item, *attribute));
    }
    bool passes = value.Truth();
    if (test != nullptr) {
      ASSIGN_OR_RETURN(passes, ApplyTest(call.runtime, test->string(), value, rest));
    }
    if (passes == keep) kept.push_back(item);
  }
  return call.runtime.MakeList(std::move(kept), List::Kind::kGenerator);
}

Result AttrFilter(const FilterCall& call) {
  // Attributes in Python's sense alone: keys of a dict are none.
  const Value* name = Argument(call.arguments, 0, "name");
  if (name == nullptr || !name->is_string()) return call.runtime.Error("attr needs a name");
  if (call.input.is_dict()) return call.runtime.Undefined("a dict has no such attribute");
  return GetAttribute(call.runtime, call.input, name->string());
}

Result BatchFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const int64_t size,
                   IntArgument(call.runtime, call.arguments, 0, "linecount", 0));
  if (size <= 0) return call.runtime.Error("batch needs a size above 0");
  const Value* fill = Argument(call.arguments, 1, "fill_with");
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(call.input));
  std::vector<Value> batches, batch;
  for (size_t i = 0; i < items.size(); ++i) {
    batch.push_back(items[i]);
    const bool last = i + 1 == items.size();
    if (batch.size() < static_cast<size_t>(size) && !last) continue;
    while (last && fill != nullptr && !fill->is_none() &&
           batch.size() < static_cast<size_t>(size)) {
      RETURN_IF_ERROR(call.runtime.Charge(1));
      batch.push_back(*fill);
    }
    ASSIGN_OR_RETURN(Value made, call.runtime.MakeList(std::exchange(batch, {})));
    batches.push_back(std::move(made));
  }
  return call.runtime.MakeList(std::move(batches), List::Kind::kGenerator);
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"sort", SortFilter},         {"dictsort", DictSortFilter}, {"unique", UniqueFilter},
    {"min", ExtremeFilter},       {"max", ExtremeFilter},       {"length", LengthFilter},
    {"count", LengthFilter},      {"list", ListFilter},         {"first", FirstFilter},
    {"last", LastFilter},         {"reverse", ReverseFilter},   {"join", JoinFilter},
    {"items", ItemsFilter},       {"sum", SumFilter},           {"map", MapFilter},
    {"select", SelectFilter},     {"reject", SelectFilter},     {"selectattr", SelectFilter},
    {"rejectattr", SelectFilter}, {"attr", AttrFilter},         {"batch", BatchFilter},
};

}  // namespace

FilterFunction FindSequenceFilter(std::string_view name) {
  const auto found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kFilters) ? nullptr : found->second;
}

absl::StatusOr<Value> AttributePath(Runtime& runtime, const Value& object, const Value& path) {
  if (!path.is_string()) return GetItem(runtime, object, path);
  const absl::string_view text(path.string().data(), path.string().size());
  RETURN_IF_ERROR(runtime.Charge(1 + text.size() / 8));
  Value value = object;
  for (const absl::string_view part : absl::StrSplit(text, '.')) {
    int64_t index = 0;
    const std::string_view name(part.data(), part.size());
    ASSIGN_OR_RETURN(value, absl::SimpleAtoi(part, &index)
                                ? GetItem(runtime, value, Value(index))
                                : GetItem(runtime, value, Value::Trusted(name)));
  }
  return value;
}

}  // namespace tidegate::jinja
