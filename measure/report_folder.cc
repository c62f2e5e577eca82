#include "measure/report_folder.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "packer/atomic_file.h"

namespace tidegate {
namespace {

constexpr const char* kStyle =
    "body{font-family:sans-serif;margin:2em;max-width:75em;color:#222;background:#fff}"
    "table{border-collapse:collapse}td,th{padding:.25em .7em;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "pre{background:#f4f4f4;padding:.8em;overflow-x:auto}figure{margin:1em 0}";

std::string Html(const ReportPage& page) {
  const std::string title = EscapeXml(page.title);
  std::string out = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>", title,
      "</title>\n<style>", kStyle, "</style></head><body>\n<h1>", title, "</h1>\n<p>",
      EscapeXml(page.about), "</p>\n<pre>", EscapeXml(page.command), "</pre>\n");
  for (const auto& [name, plot] : page.plots) {
    absl::StrAppend(&out, "<figure>", RenderSvg(plot), "</figure>\n");
  }
  const auto add_row = [&](const std::vector<std::string>& cells, const char* tag) {
    out.append("<tr>");
    for (const std::string& cell : cells) {
      absl::StrAppend(&out, "<", tag, ">", EscapeXml(cell), "</", tag, ">");
    }
    out.append("</tr>\n");
  };
  out.append("<table>\n");
  add_row(page.columns, "th");
  for (const std::vector<std::string>& row : page.rows) add_row(row, "td");
  out.append("</table>\n");
  if (!page.conclusions.empty()) {
    absl::StrAppend(&out, "<pre>", EscapeXml(page.conclusions), "</pre>\n");
  }
  return out + "</body></html>\n";
}

// Complete, but still without its name.
absl::StatusOr<AtomicFile> Written(const std::string& path, const std::string& text) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  const absl::Status status = WriteAt(file.fd(), 0, text.data(), text.size());
  if (!status.ok()) return Annotate(status, path);
  return file;
}

}  // namespace

absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  ASSIGN_OR_RETURN(AtomicFile file, Written(path, text));
  return file.Commit();
}

absl::Status MakeReportFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("cannot make the folder ", folder, ": ", error.message()));
}

absl::Status WriteReportFolder(const std::string& folder, const ReportPage& page) {
  // All are written before the first gets its name: a full drive leaves nothing of a report.
  std::vector<AtomicFile> files;
  const auto write = [&](const std::string& name, const std::string& text) {
    const std::string path = (std::filesystem::path(folder) / name).string();
    absl::StatusOr<AtomicFile> file = Written(path, text);
    if (file.ok()) files.push_back(*std::move(file));
    return file.status();
  };
  for (const auto& [name, plot] : page.plots) {
    RETURN_IF_ERROR(write(name + ".svg", RenderSvg(plot)));
  }
  RETURN_IF_ERROR(write("results.csv", page.csv));
  RETURN_IF_ERROR(write("index.html", Html(page)));
  for (AtomicFile& file : files) RETURN_IF_ERROR(file.Commit());
  return absl::OkStatus();
}

}  // namespace tidegate
