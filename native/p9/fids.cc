#include "native/p9/fids.h"

namespace clearvm::p9 {
namespace {

constexpr size_t kFirstSlots = 256;
constexpr size_t kMaxSpare = 64;

}  // namespace

size_t FidTable::Home(uint32_t number) const {
  // v9fs numbers its fids from 0: a multiplicative hash spreads them, and any other choice, evenly.
  return (number * 0x9e3779b1u) & (slots_.size() - 1);
}

Fid* FidTable::Find(uint32_t number) {
  if (slots_.empty()) return nullptr;
  for (size_t slot = Home(number); slots_[slot] != nullptr;
       slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot]->number == number) return slots_[slot].get();
  }
  return nullptr;
}

Fid* FidTable::Insert(uint32_t number) {
  if (full()) return nullptr;
  if (size_ * 2 >= slots_.size()) Grow();
  std::unique_ptr<Fid> fid;
  if (spare_.empty()) {
    fid = std::make_unique<Fid>();
  } else {
    fid = std::move(spare_.back());
    spare_.pop_back();
  }
  fid->number = number;
  Fid* const result = fid.get();
  size_t slot = Home(number);
  while (slots_[slot] != nullptr) slot = (slot + 1) & (slots_.size() - 1);
  slots_[slot] = std::move(fid);
  size_++;
  return result;
}

void FidTable::Erase(Fid* fid) {
  const size_t mask = slots_.size() - 1;
  size_t hole = Home(fid->number);
  while (slots_[hole].get() != fid) hole = (hole + 1) & mask;
  std::unique_ptr<Fid> erased = std::move(slots_[hole]);
  // Move later entries of the probe sequence back over the hole, so that lookups need no
  // tombstones.
  for (size_t slot = (hole + 1) & mask; slots_[slot] != nullptr; slot = (slot + 1) & mask) {
    const size_t home = Home(slots_[slot]->number);
    if (((slot - home) & mask) >= ((slot - hole) & mask)) {
      slots_[hole] = std::move(slots_[slot]);
      hole = slot;
    }
  }
  size_--;
  *erased = Fid{};
  if (spare_.size() < kMaxSpare) spare_.push_back(std::move(erased));
}

void FidTable::Clear() {
  slots_.clear();
  spare_.clear();
  size_ = 0;
}

void FidTable::Grow() {
  std::vector<std::unique_ptr<Fid>> old = std::move(slots_);
  slots_.clear();
  slots_.resize(old.empty() ? kFirstSlots : old.size() * 2);
  for (std::unique_ptr<Fid>& fid : old) {
    if (fid == nullptr) continue;
    size_t slot = Home(fid->number);
    while (slots_[slot] != nullptr) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = std::move(fid);
  }
}

}  // namespace clearvm::p9
