// Where a template is being made.
#ifndef CLEARVM_VMM_TEMPLATE_TARGET_H_
#define CLEARVM_VMM_TEMPLATE_TARGET_H_

#include <memory>
#include <span>
#include <string>

#include "native/base/fd.h"
#include "native/vmm/template.h"

namespace clearvm::vmm {

// A directory of templates, of which one is being made: under another name, so that nobody ever
// finds a part of it. One at a time: that is enough load for a host that has containers to run.
class TemplateTarget {
 public:
  // `path`: of the template, absolute. Waits until nobody else makes one there. What a process that
  // was killed has left is removed. Errors: ERR_TEMPLATE_WRITE; ERR_TEMPLATE_EXISTS: it is there,
  // and good.
  static Result<std::unique_ptr<TemplateTarget>> Open(const std::string& path,
                                                      const TemplateOrigin& origin);

  // Writes it, and gives it its name, in place of one that may be there. Works in a jail.
  Result<void> Write(std::span<const uint8_t> state, const kvm::GuestMemory& memory) const;

 private:
  TemplateTarget(UniqueFd directory, UniqueFd file, std::string name, const TemplateOrigin& origin)
      : directory_(std::move(directory)),
        file_(std::move(file)),
        name_(std::move(name)),
        origin_(origin) {}

  UniqueFd directory_;
  UniqueFd file_;
  std::string name_;
  TemplateOrigin origin_;
};

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_TEMPLATE_TARGET_H_
