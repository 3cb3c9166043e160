// Guest-physical memory in which a server shows files that do not change: the client reads and maps
// them there, and every VM of the host that does shares the pages of the host's cache.
#ifndef CLEARVM_P9_WINDOW_H_
#define CLEARVM_P9_WINDOW_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>

#include "native/p9/fids.h"

namespace clearvm::p9 {

// Where files are, and who still uses them. A place is the number of a page of 4096 bytes in the
// window, plus 1; 0 is none. Files without users stay until their room is needed: the next one to
// open them is served at once, and unmapping costs all vCPUs an interruption.
class Window {
 public:
  // `memory`: read-only, a multiple of 4096 bytes up to 4 GiB; it reads as zeroes, and outlives
  // this.
  explicit Window(std::span<uint8_t> memory) : memory_(memory) {}
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  ~Window() { Clear(); }

  // The place of a file that is shown, with one user more; else 0.
  uint32_t Find(const Node& file);
  // Shows a file that is not; `io` is open for reading. `size`: bytes. 0: there is no room.
  uint32_t Show(const Node& file, int io, uint64_t size);
  // The same at a certain place. False: it is taken by another file, or outside.
  bool ShowAt(uint32_t place, const Node& file, int io, uint64_t size);
  // Whether the file there is as it was when it was shown. If not, the client knows.
  bool Current(uint32_t place) const;
  // One user less.
  void Release(uint32_t place);
  // The file is about to change: nobody will find it again.
  void Forget(const Node& file);
  // No users, no files.
  void Clear();

 private:
  // Each file takes the host one or two mappings of the 65,530 that a process may have.
  static constexpr size_t kMaxFiles = 1024;

  using File = std::pair<dev_t, ino_t>;
  struct Shown {
    uint64_t pages;
    File file;
    uint32_t users;
    uint64_t idle_since;  // ticks; of one without users
  };
  uint64_t total() const { return memory_.size() / 4096; }
  // The first page of a gap, or total().
  uint64_t FindGap(uint64_t pages) const;
  bool Map(uint64_t first, const Node& file, int io, uint64_t pages);
  void Unmap(std::map<uint64_t, Shown>::iterator shown);
  bool EvictOne();

  std::span<uint8_t> memory_;
  std::map<uint64_t, Shown> shown_;  // by their first pages
  std::map<File, uint64_t> places_;  // first pages of those that may be found
  uint64_t ticks_ = 0;
};

}  // namespace clearvm::p9

#endif  // CLEARVM_P9_WINDOW_H_
