// Which ids of the host's a user may give to a user namespace: subuid(5), subgid(5).
#ifndef CLEARVM_JAIL_ID_RANGES_H_
#define CLEARVM_JAIL_ID_RANGES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace clearvm::jail {

// Ids of the host's: `count` of them from `start` on, none above 2^32 - 2.
struct IdRange {
  uint32_t start;
  uint32_t count;  // not 0
};

// What the lines `owner:start:count` of /etc/subuid or /etc/subgid say of a user, by name (empty:
// it has none) or number. Lines that are something else are skipped, as newuidmap(1) does; of too
// many ranges for one mapping the first are taken.
std::vector<IdRange> FindIdRanges(std::string_view text, std::string_view name, uint32_t id);

// The arguments of newuidmap(1) behind the process id: root in the namespace is `id`, and the
// ranges follow it from 1 on, as far as there are 32-bit numbers.
std::vector<std::string> MappingArguments(uint32_t id, const std::vector<IdRange>& ranges);

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_ID_RANGES_H_
