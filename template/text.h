// A string that remembers which of its bytes came from outside (message contents) and which from
// the chat template itself. Whatever a template does to a content (trim it, slice it, glue it to a
// role marker), the marks travel with the bytes; so a prompt can be split into ids without
// "<|im_end|>" in a user's text ever becoming the control token.
//
// Bytes are UTF-8 where the inputs are. Thread-compatible.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tidegate::jinja {

enum class Origin { kTemplate, kData };

class Text {
 public:
  // Bytes [begin, end).
  struct Span {
    size_t begin, end;
    bool operator==(const Span&) const = default;
  };

  Text() = default;
  explicit Text(std::string bytes, Origin origin = Origin::kTemplate);

  const std::string& bytes() const { return bytes_; }
  std::string_view view() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  // Bytes from outside: sorted, not empty, not touching.
  const std::vector<Span>& data_spans() const { return spans_; }
  // Whether any byte came from outside.
  bool has_data() const { return !spans_.empty(); }

  // Bytes [begin, end) with their marks. REQUIRES: begin <= end <= size().
  Text Sub(size_t begin, size_t end) const;
  void Append(const Text& other);
  void Append(std::string_view bytes, Origin origin = Origin::kTemplate);

  // Memory it takes, about; bytes.
  size_t cost() const { return bytes_.size() + spans_.size() * sizeof(Span); }

 private:
  void AddSpan(size_t begin, size_t end);

  std::string bytes_;
  std::vector<Span> spans_;
};

}  // namespace tidegate::jinja
