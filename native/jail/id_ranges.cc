#include "native/jail/id_ranges.h"

#include <algorithm>
#include <charconv>
#include <system_error>

namespace clearvm::jail {
namespace {

// The kernel takes 340 lines for a mapping (user_namespaces(7)); the first is the user's own id.
constexpr size_t kMaxRanges = 339;
constexpr uint64_t kIds = 0xffffffff;  // (uint32_t)-1 is no id

bool ParseNumber(std::string_view text, uint32_t* number) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, *number);
  return error == std::errc() && rest == end;
}

}  // namespace

std::vector<IdRange> FindIdRanges(std::string_view text, std::string_view name, uint32_t id) {
  std::vector<IdRange> ranges;
  while (!text.empty() && ranges.size() < kMaxRanges) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    const size_t first = line.find(':');
    if (first == std::string_view::npos) continue;
    const size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view owner = line.substr(0, first);
    IdRange range;
    if (owner.empty() || (owner != name && owner != std::to_string(id)) ||
        !ParseNumber(line.substr(first + 1, second - first - 1), &range.start) ||
        !ParseNumber(line.substr(second + 1), &range.count) || range.count == 0 ||
        uint64_t{range.start} + range.count > kIds) {
      continue;
    }
    ranges.push_back(range);
  }
  return ranges;
}

std::vector<std::string> MappingArguments(uint32_t id, const std::vector<IdRange>& ranges) {
  std::vector<std::string> arguments{"0", std::to_string(id), "1"};
  uint64_t next = 1;
  for (const IdRange& range : ranges) {
    const uint64_t count = std::min<uint64_t>(range.count, kIds - next);
    if (count == 0) break;
    for (uint64_t number : {next, uint64_t{range.start}, count}) {
      arguments.push_back(std::to_string(number));
    }
    next += count;
  }
  return arguments;
}

}  // namespace clearvm::jail
