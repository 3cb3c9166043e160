// What a host remembers of a template for as long as it is up: that its memory is good, as a copy
// in RAM; and which pages of it each fork writes at once.
#ifndef CLEARVM_VMM_TEMPLATE_CACHE_H_
#define CLEARVM_VMM_TEMPLATE_CACHE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/kvm/memory.h"
#include "native/vmm/template.h"

namespace clearvm::vmm {

// The files of one template in the cache all begin with `base`, an absolute path: best in a tmpfs
// with huge=advise, so that the kernel's text lies in huge pages. Behind it stands the template's
// identity, so that nothing of another template is ever taken for this one's.

// Replaces the template's memory by the cache's copy. Where there is none, checks it and makes one;
// where that cannot be made, the template's own file goes on to serve. Errors:
// CheckTemplateMemory's.
Result<void> UseCachedMemory(const std::string& base, Template* opened);

// Pages that forks of a template write before their container runs: what is known of them, or
// means to find out. Giving them their own copies in one go saves three faults for each.
class HotPages {
 public:
  // Reads the list; without a good one, opens what Record needs, for a jail will hide it. Never
  // fails: all that it does is save time.
  static HotPages Open(const std::string& base, const Template& opened);

  // Whether Record has yet to be called.
  bool Unknown() const { return pagemap_.valid(); }
  // Gives `memory`, which is new, its own pages; decides where it may have huge ones.
  void Populate(const kvm::GuestMemory& memory) const;
  // Writes down which pages `memory`, on which Populate was called, has of its own. Once, when the
  // container has started.
  void Record(const kvm::GuestMemory& memory);

 private:
  void Write(const kvm::GuestMemory& memory) const;
  void Close();

  std::vector<uint64_t>
      runs_;  // guest-physical address of the first byte, with the bytes behind it
  UniqueFd file_;
  UniqueFd pagemap_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_TEMPLATE_CACHE_H_
