#include "native/vmm/option_values.h"

#include <fcntl.h>

#include <charconv>

namespace clearvm::vmm {
namespace {

// "key=value,flag,last=everything,else": calls `take` with each key and value ("" for a flag).
// `last` ends the list.
template <typename Take>
Result<void> ForEachField(std::string_view text, std::string_view last, Take take) {
  while (!text.empty()) {
    const bool is_last =
        text.size() > last.size() && text.starts_with(last) && text[last.size()] == '=';
    const size_t comma = is_last ? std::string_view::npos : text.find(',');
    const std::string_view field = text.substr(0, comma);
    const size_t equals = field.find('=');
    CLEARVM_RETURN_IF_ERROR(take(field.substr(0, equals), equals == std::string_view::npos
                                                              ? std::string_view()
                                                              : field.substr(equals + 1)));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  return {};
}

bool ValidTag(std::string_view tag) {
  if (tag.empty() || tag.size() > 31) return false;
  for (char c : tag) {
    const bool valid = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-';
    if (!valid) return false;
  }
  return true;
}

}  // namespace

Error BadOption(std::string_view name, std::string_view problem) {
  return Error{"ERR_VMM_OPTION", 0, "", "--" + std::string(name) + ": " + std::string(problem)};
}

Result<uint64_t> ParseNumber(std::string_view name, std::string_view text, uint64_t low,
                             uint64_t high) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    return BadOption(name, "'" + std::string(text) + "' is not a number from " +
                               std::to_string(low) + " to " + std::to_string(high));
  }
  return value;
}

Result<uint64_t> ParseSize(std::string_view name, std::string_view text, uint64_t low) {
  int shift = 0;
  std::string_view digits = text;
  if (!digits.empty()) {
    const char unit = digits.back();
    shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : 0;
    if (shift > 0) digits.remove_suffix(1);
  }
  auto number = ParseNumber(name, digits, 0, kMaxMemory >> shift);
  if (!number.ok() || number.value() << shift < low) {
    return BadOption(name, "'" + std::string(text) + "' is not a size from " +
                               std::to_string(low >> 20) + "m to 1024g");
  }
  return (number.value() << shift) & ~0xfffull;
}

Result<int> ParseFd(std::string_view name, std::string_view text) {
  CLEARVM_ASSIGN(uint64_t number, ParseNumber(name, text, 0, 1 << 20));
  const int fd = static_cast<int>(number);
  if (::fcntl(fd, F_GETFD) < 0) {
    return BadOption(name, "file descriptor " + std::string(text) + " is not open");
  }
  return fd;
}

Result<void> AddExport(Options& options, std::string_view name, ExportOption entry) {
  if (!ValidTag(entry.tag)) return BadOption(name, "tag= must be 1 to 31 of [A-Za-z0-9_.-]");
  if (options.exports.size() >= kMaxExports) return BadOption(name, "more than 32 exports");
  for (const ExportOption& other : options.exports) {
    if (other.tag == entry.tag) return BadOption(name, "tag " + entry.tag + " is used twice");
  }
  options.exports.push_back(std::move(entry));
  return {};
}

Result<void> ParseShare(Options& options, std::string_view text) {
  ExportOption entry{"", true, false, options.jail_plan.shares.size(), false, p9::Ownership::kHost};
  std::string path;
  CLEARVM_RETURN_IF_ERROR(
      ForEachField(text, "path", [&](std::string_view key, std::string_view value) -> Result<void> {
        if (key == "tag") {
          entry.tag = value;
        } else if (key == "ro" && value.empty()) {
          entry.read_only = true;
        } else if (key == "ownership" && (value == "host" || value == "xattrs")) {
          entry.ownership = value == "host" ? p9::Ownership::kHost : p9::Ownership::kXattrs;
        } else if (key == "path") {
          path = value;
        } else {
          return BadOption("share", "'" + std::string(key) + "' is not a field of it");
        }
        return {};
      }));
  if (path.empty()) return BadOption("share", "path= is missing");
  options.jail_plan.shares.push_back({path, entry.read_only});
  return AddExport(options, "share", std::move(entry));
}

Result<void> ParseOverlay(Options& options, std::string_view text) {
  ExportOption entry{
      "", true, true, options.jail_plan.overlays.size(), false, p9::Ownership::kHost};
  entry.window = true;
  jail::Overlay overlay;
  std::string lower;
  CLEARVM_RETURN_IF_ERROR(ForEachField(
      text, "state", [&](std::string_view key, std::string_view value) -> Result<void> {
        if (key == "tag") {
          entry.tag = value;
        } else if (key == "ro" && value.empty()) {
          entry.read_only = overlay.read_only = true;
        } else if (key == "userxattr" && value.empty()) {
          overlay.user_xattrs = true;
        } else if (key == "private" && value.empty()) {
          entry.window = false;
        } else if (key == "layers") {
          overlay.layers = value;
        } else if (key == "lower") {
          lower = value;
        } else if (key == "base") {
          overlay.base = value;
        } else if (key == "state") {
          overlay.state = value;
        } else {
          return BadOption("overlay", "'" + std::string(key) + "' is not a field of it");
        }
        return {};
      }));
  if (overlay.layers.empty() || overlay.state.empty() || lower.empty()) {
    return BadOption("overlay", "layers=, lower= and state= are needed");
  }
  for (std::string_view rest = lower; !rest.empty();) {
    const size_t colon = rest.find(':');
    const std::string_view name = rest.substr(0, colon);
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of("/,\\") != std::string_view::npos) {
      return BadOption("overlay", "'" + std::string(name) + "' is not the name of a layer");
    }
    overlay.lower.emplace_back(name);
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  }
  options.jail_plan.overlays.push_back(std::move(overlay));
  return AddExport(options, "overlay", std::move(entry));
}

Result<void> TakeAbsolutePath(std::string& target, std::string_view name, std::string_view text) {
  if (text.empty() || text.front() != '/') return BadOption(name, "must be an absolute path");
  target = text;
  return {};
}

}  // namespace clearvm::vmm
