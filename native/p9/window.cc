#include "native/p9/window.h"

#include <sys/mman.h>

#include <iterator>

namespace clearvm::p9 {
namespace {

constexpr uint64_t kPage = 4096;
uint64_t PagesOf(uint64_t size) { return size / kPage + (size % kPage != 0 ? 1 : 0); }

}  // namespace

uint32_t Window::Find(const Node& file) {
  const auto found = places_.find({file.device, file.inode});
  if (found == places_.end()) return 0;
  shown_.at(found->second).users++;
  return static_cast<uint32_t>(found->second + 1);
}

uint32_t Window::Show(const Node& file, int io, uint64_t size) {
  const uint64_t pages = PagesOf(size);
  if (pages == 0 || pages > total()) return 0;
  while (shown_.size() >= kMaxFiles) {
    if (!EvictOne()) return 0;
  }
  uint64_t first;
  while ((first = FindGap(pages)) == total()) {
    if (!EvictOne()) return 0;
  }
  return Map(first, file, io, pages) ? static_cast<uint32_t>(first + 1) : 0;
}

bool Window::ShowAt(uint32_t place, const Node& file, int io, uint64_t size) {
  const uint64_t first = uint64_t{place} - 1;
  const uint64_t pages = PagesOf(size);
  if (place == 0 || first >= total() || pages == 0 || pages > total() - first) return false;
  if (const auto same = shown_.find(first); same != shown_.end()) {
    if (same->second.file != File{file.device, file.inode}) return false;
    same->second.users++;
    return true;
  }
  const auto next = shown_.upper_bound(first);
  if (next != shown_.end() && next->first < first + pages) return false;
  if (next != shown_.begin()) {
    const auto& [start, before] = *std::prev(next);
    if (start + before.pages > first) return false;
  }
  return shown_.size() < kMaxFiles && Map(first, file, io, pages);
}

bool Window::Current(uint32_t place) const {
  const auto shown = shown_.find(uint64_t{place} - 1);
  if (shown == shown_.end()) return false;
  const auto found = places_.find(shown->second.file);
  return found != places_.end() && found->second == shown->first;
}

void Window::Release(uint32_t place) {
  const auto shown = shown_.find(uint64_t{place} - 1);
  if (shown == shown_.end() || --shown->second.users > 0) return;
  shown->second.idle_since = ticks_++;
  if (!Current(place)) Unmap(shown);
}

void Window::Forget(const Node& file) {
  const auto found = places_.find({file.device, file.inode});
  if (found == places_.end()) return;
  const auto shown = shown_.find(found->second);
  places_.erase(found);
  if (shown->second.users == 0) Unmap(shown);
}

void Window::Clear() {
  places_.clear();
  while (!shown_.empty()) Unmap(shown_.begin());
}

uint64_t Window::FindGap(uint64_t pages) const {
  uint64_t from = 0;
  for (const auto& [start, shown] : shown_) {
    if (start - from >= pages) return from;
    from = start + shown.pages;
  }
  return total() - from >= pages ? from : total();
}

bool Window::Map(uint64_t first, const Node& file, int io, uint64_t pages) {
  if (::mmap(memory_.data() + first * kPage, pages * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, io,
             0) == MAP_FAILED) {
    return false;
  }
  const File key{file.device, file.inode};
  shown_[first] = {pages, key, 1, 0};
  places_[key] = first;
  return true;
}

void Window::Unmap(std::map<uint64_t, Shown>::iterator shown) {
  // It may fail where mappings are at their limit: the file stays visible, which harms nobody.
  (void)::mmap(memory_.data() + shown->first * kPage, shown->second.pages * kPage, PROT_READ,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  const auto found = places_.find(shown->second.file);
  if (found != places_.end() && found->second == shown->first) places_.erase(found);
  shown_.erase(shown);
}

bool Window::EvictOne() {
  auto oldest = shown_.end();
  for (auto shown = shown_.begin(); shown != shown_.end(); ++shown) {
    if (shown->second.users > 0) continue;
    if (oldest == shown_.end() || shown->second.idle_since < oldest->second.idle_since) {
      oldest = shown;
    }
  }
  if (oldest == shown_.end()) return false;
  Unmap(oldest);
  return true;
}

}  // namespace clearvm::p9
