// A VM on disk: a template, which waits for its orders, to be forked, or a snapshot of a
// container's. One file: header, state, then, from a page boundary on, the pages of memory that are
// not all zeros. docs/compatibility.md.
#ifndef CLEARVM_VMM_TEMPLATE_H_
#define CLEARVM_VMM_TEMPLATE_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "native/base/fd.h"
#include "native/base/result.h"
#include "native/kvm/memory.h"

namespace clearvm::vmm {

inline constexpr uint32_t kTemplateVersion = 4;
inline constexpr uint32_t kSnapshotVersion = 2;

// Which of the two a file is to be.
struct FileKind {
  std::array<char, 8> magic;
  uint32_t version;
  const char* name;  // for messages
  const char* code;  // what errors begin with: _MISSING, _DAMAGED ... stand behind it
  size_t most_head;  // bytes of header and state together
  // Whether a VM with less memory than that of which it was made can go on from it.
  bool larger_memory_fits;
};
// A vCPU takes 6 KiB, and a VM has at most 32.
inline constexpr FileKind kTemplateFile{{'C', 'L', 'E', 'A', 'R', 'V', 'M', 'T'},
                                        kTemplateVersion,
                                        "template",
                                        "ERR_TEMPLATE",
                                        1 << 20,
                                        true};
// Holds files, too (native/p9/session_state.cc).
inline constexpr FileKind kSnapshotFile{{'C', 'L', 'E', 'A', 'R', 'V', 'M', 'S'},
                                        kSnapshotVersion,
                                        "snapshot",
                                        "ERR_SNAPSHOT",
                                        512 << 20,
                                        false};

// Which file, in which condition: what has the same of all these has the same content.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  uint64_t modified = 0;  // ns since the epoch, as the next
  uint64_t changed = 0;
  bool operator==(const FileIdentity&) const = default;

  // One line, without '/'.
  std::string Text() const;
};

// Of the open file `fd`; all zeroes for -1. Errors: ERR_TEMPLATE.
Result<FileIdentity> IdentifyFile(int fd);

// What a template was made from and for: each must be the same for a VM that is to be forked from
// it, except that it may have less memory.
struct TemplateOrigin {
  std::array<char, 128> host{};  // its kernel's release and version; zeroes behind
  FileIdentity vmm;
  FileIdentity kernel;
  FileIdentity initrd;
  uint64_t memory = 0;  // bytes
  uint32_t cpus = 0;
  uint32_t devices = 0;  // virtio-mmio
  bool operator==(const TemplateOrigin&) const = default;
};

// For a VM with that kernel and initramfs (open files; -1: none) on this host and by this VMM;
// memory, cpus and devices are still 0. Errors: ERR_TEMPLATE.
Result<TemplateOrigin> DescribeOrigin(int kernel, int initrd);
// For a snapshot, whose memory holds what it runs on: vmm, kernel and initrd are zeroes.
TemplateOrigin DescribeHost();

struct Template {
  UniqueFd file;           // that holds the memory
  uint64_t file_size = 0;  // bytes
  FileIdentity identity;   // of the template, whatever holds its memory
  std::vector<kvm::MemoryExtent> extents;
  std::vector<uint8_t> state;  // of the machine and its devices
  uint64_t memory = 0;         // bytes that the VM had
  uint64_t memory_offset = 0;  // bytes, in the file; from there to its end it is memory
  uint32_t memory_checksum = 0;
};

// Opens the template at `path`, and checks everything but the memory's checksum. Errors:
// ERR_TEMPLATE_MISSING (there is none), ERR_TEMPLATE_DAMAGED (cut short, changed), and
// ERR_TEMPLATE_FOREIGN (no template, of another version, or made for another VM): the message says
// what.
Result<Template> OpenTemplate(const std::string& path, const TemplateOrigin& expected,
                              const FileKind& kind = kTemplateFile);
// The same of an open file.
Result<Template> ReadTemplate(UniqueFd file, const std::string& path,
                              const TemplateOrigin& expected, const FileKind& kind);

// Reads all of the template's memory. Errors: ERR_TEMPLATE_DAMAGED.
Result<void> CheckTemplateMemory(const Template& opened, const FileKind& kind = kTemplateFile);

// Writes one into the empty file `fd`; to flush it is the caller's. Errors: ERR_TEMPLATE_WRITE.
Result<void> WriteTemplate(int fd, const TemplateOrigin& origin, std::span<const uint8_t> state,
                           const kvm::GuestMemory& memory, const FileKind& kind = kTemplateFile);

}  // namespace clearvm::vmm

#endif  // CLEARVM_VMM_TEMPLATE_H_
