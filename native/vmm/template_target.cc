#include "native/vmm/template_target.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cstdio>

namespace clearvm::vmm {
namespace {

constexpr char kUnfinished[] = ".new";  // behind the name

Error WriteError(const char* syscall, const std::string& path) {
  return SystemError("ERR_TEMPLATE_WRITE", syscall, "cannot make the template " + path);
}

}  // namespace

Result<std::unique_ptr<TemplateTarget>> TemplateTarget::Open(const std::string& path,
                                                             const TemplateOrigin& origin) {
  const size_t slash = path.rfind('/');
  const std::string parent = slash == 0 ? "/" : path.substr(0, slash);
  const std::string name = path.substr(slash + 1);
  UniqueFd directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return WriteError("open", path);
  if (::flock(directory.get(), LOCK_EX) != 0) return WriteError("flock", path);
  if (auto there = OpenTemplate(path, origin);
      there.ok() && CheckTemplateMemory(there.value()).ok()) {
    return Error{"ERR_TEMPLATE_EXISTS", 0, "", "the template " + path + " is there already"};
  }
  const std::string unfinished = name + kUnfinished;
  ::unlinkat(directory.get(), unfinished.c_str(), 0);
  UniqueFd file(
      ::openat(directory.get(), unfinished.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return WriteError("openat", path);
  return std::unique_ptr<TemplateTarget>(
      new TemplateTarget(std::move(directory), std::move(file), name, origin));
}

Result<void> TemplateTarget::Write(std::span<const uint8_t> state,
                                   const kvm::GuestMemory& memory) const {
  CLEARVM_RETURN_IF_ERROR(WriteTemplate(file_.get(), origin_, state, memory));
  if (::fsync(file_.get()) != 0) return WriteError("fsync", name_);
  if (::renameat(directory_.get(), (name_ + kUnfinished).c_str(), directory_.get(),
                 name_.c_str()) != 0) {
    return WriteError("renameat", name_);
  }
  if (::fsync(directory_.get()) != 0) return WriteError("fsync", name_);
  return {};
}

}  // namespace clearvm::vmm
