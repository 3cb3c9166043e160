#include "native/vmm/affinity.h"

#include <sched.h>

#include <charconv>
#include <string>

namespace clearvm::vmm {
namespace {

Error Malformed(std::string_view list) {
  return {"ERR_CPUSET", 0, "",
          "--cpuset-cpus \"" + std::string(list) + "\": must be processors, as in 0-3,7"};
}

// A number at the beginning of the text, which is taken away.
bool TakeNumber(std::string_view& text, size_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number >= CPU_SETSIZE) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool Take(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

Result<void> RunOnProcessors(std::string_view list) {
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  std::string_view rest = list;
  do {
    size_t first = 0;
    if (!TakeNumber(rest, first)) return Malformed(list);
    size_t last = first;
    if (Take(rest, '-') && (!TakeNumber(rest, last) || last < first)) return Malformed(list);
    for (size_t cpu = first; cpu <= last; cpu++) CPU_SET(cpu, &wanted);
  } while (Take(rest, ','));
  if (!rest.empty()) return Malformed(list);
  cpu_set_t given;
  if (::sched_setaffinity(0, sizeof wanted, &wanted) == 0 &&
      ::sched_getaffinity(0, sizeof given, &given) == 0 && CPU_EQUAL(&wanted, &given)) {
    return {};
  }
  return Error{"ERR_CPUSET", 0, "",
               "--cpuset-cpus " + std::string(list) +
                   ": some of these processors are not there, or not for this process"};
}

}  // namespace clearvm::vmm
