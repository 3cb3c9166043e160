// The values of clearvm-vmm's options. `name`: the option's, for messages. Errors: ERR_VMM_OPTION.
#ifndef CLEARVM_VMM_OPTION_VALUES_H_
#define CLEARVM_VMM_OPTION_VALUES_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "native/base/result.h"
#include "native/vmm/options.h"

namespace clearvm::vmm {

Error BadOption(std::string_view name, std::string_view problem);

// Decimal, from `low` to `high`.
Result<uint64_t> ParseNumber(std::string_view name, std::string_view text, uint64_t low,
                             uint64_t high);
// Bytes, in whole pages: a number, with k, m or g behind it or not, of at least `low` bytes.
Result<uint64_t> ParseSize(std::string_view name, std::string_view text, uint64_t low);
// A descriptor that is open.
Result<int> ParseFd(std::string_view name, std::string_view text);
Result<void> TakeAbsolutePath(std::string& target, std::string_view name, std::string_view text);

// A 9p device more.
Result<void> AddExport(Options& options, std::string_view name, ExportOption entry);
// --share and --overlay: fields with commas between them, the path last.
Result<void> ParseShare(Options& options, std::string_view text);
Result<void> ParseOverlay(Options& options, std::string_view text);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_OPTION_VALUES_H_
