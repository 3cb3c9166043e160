#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "native/base/crc32c.h"
#include "native/vmm/template.h"
#include "native/vmm/template_target.h"

namespace clearvm::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMemory = 16 << 20;

TEST(Crc32c, MatchesTheVectorsOfTheSpecification) {
  // RFC 3720 appendix B.4.
  std::vector<uint8_t> bytes(32, 0);
  EXPECT_EQ(Crc32c(bytes), 0x8a9136aau);
  bytes.assign(32, 0xff);
  EXPECT_EQ(Crc32c(bytes), 0x62a8ab43u);
  for (uint8_t i = 0; i < 32; i++) bytes[i] = i;
  EXPECT_EQ(Crc32c(bytes), 0x46dd794eu);
  const std::span<const uint8_t> all(bytes);
  EXPECT_EQ(Crc32c(all.subspan(13), Crc32c(all.first(13))), Crc32c(all)) << "in two parts";
}

class TemplateTest : public testing::Test {
 protected:
  TemplateTest() {
    char name[] = "/tmp/clearvm-template-XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/a.vm";
    origin_.host[0] = 7;
    origin_.kernel.inode = 42;
    origin_.memory = kMemory;
    origin_.cpus = 2;
    origin_.devices = 4;
  }
  ~TemplateTest() override { (void)!std::system(("rm -rf " + directory_).c_str()); }

  // Memory with a page at the start, two a short way behind, and one far away.
  static kvm::GuestMemory Memory() {
    auto memory = std::move(kvm::GuestMemory::Create(kMemory, kvm::Backing::kMemfd)).value();
    for (uint64_t page : kPages) *memory.Translate(page * kPage, 1) = static_cast<uint8_t>(page);
    return memory;
  }
  void Write() {
    auto target = TemplateTarget::Open(path_, origin_);
    ASSERT_TRUE(target.ok()) << target.error().message;
    const auto written = target.value()->Write(state_, Memory());
    ASSERT_TRUE(written.ok()) << written.error().message;
  }
  std::string OpenError() {
    auto opened = OpenTemplate(path_, origin_);
    if (!opened.ok()) return opened.error().code;
    auto checked = CheckTemplateMemory(opened.value());
    return checked.ok() ? "" : checked.error().code;
  }
  std::string Contents() const {
    std::string bytes(static_cast<size_t>(Size()), 0);
    const UniqueFd file(::open(path_.c_str(), O_RDONLY));
    EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  void SetContents(const std::string& bytes) const {
    const UniqueFd file(::open(path_.c_str(), O_WRONLY | O_TRUNC));
    EXPECT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  off_t Size() const {
    struct stat status;
    return ::stat(path_.c_str(), &status) == 0 ? status.st_size : -1;
  }

  static constexpr uint64_t kPages[] = {1, 5, 6, 2000};
  std::string directory_;
  std::string path_;
  TemplateOrigin origin_;
  std::vector<uint8_t> state_ = {1, 2, 3, 4, 5};
};

TEST_F(TemplateTest, GivesBackStateAndMemory) {
  Write();
  auto opened = OpenTemplate(path_, origin_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value().state, state_);
  ASSERT_EQ(opened.value().extents.size(), 2u) << "a short gap is kept, a long one is not";
  EXPECT_TRUE(CheckTemplateMemory(opened.value()).ok());
  auto memory = kvm::GuestMemory::CreateFrom(kMemory, opened.value().file.get(),
                                             opened.value().identity.size, opened.value().extents);
  ASSERT_TRUE(memory.ok()) << memory.error().message;
  for (uint64_t page = 0; page < kMemory / kPage; page++) {
    const bool set = std::ranges::find(kPages, page) != std::end(kPages);
    ASSERT_EQ(*memory.value().Translate(page * kPage, 1), set ? static_cast<uint8_t>(page) : 0);
  }
  *memory.value().Translate(kPage, 1) = 99;
  EXPECT_EQ(OpenError(), "") << "what a fork writes stays its own";
}

TEST_F(TemplateTest, CutShortWhileItIsOpenItIsDamaged) {
  Write();
  auto opened = OpenTemplate(path_, origin_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  ASSERT_EQ(::truncate(path_.c_str(), kPage), 0);
  auto checked = CheckTemplateMemory(opened.value());
  ASSERT_FALSE(checked.ok());
  EXPECT_EQ(checked.error().code, "ERR_TEMPLATE_DAMAGED");
}

TEST_F(TemplateTest, WithoutOneItIsMissing) { EXPECT_EQ(OpenError(), "ERR_TEMPLATE_MISSING"); }

TEST_F(TemplateTest, CutAnywhereItIsRefused) {
  Write();
  const std::string good = Contents();
  for (size_t size : {size_t{0}, size_t{1}, size_t{100}, size_t{304}, size_t{200}, size_t{4095},
                      size_t{4096}, good.size() - 1}) {
    SetContents(good.substr(0, size));
    EXPECT_EQ(OpenError().substr(0, 13), "ERR_TEMPLATE_") << size;
  }
  SetContents(good + "x");
  EXPECT_EQ(OpenError(), "ERR_TEMPLATE_DAMAGED");
}

TEST_F(TemplateTest, WithAnyBitTurnedItIsRefused) {
  Write();
  const std::string good = Contents();
  const auto head_size = static_cast<size_t>(*reinterpret_cast<const uint32_t*>(good.data() + 12));
  ASSERT_LT(head_size, kPage);
  // All of the head, and some of the memory. The gap between the two is padding.
  std::vector<size_t> places;
  for (size_t i = 0; i < head_size; i++) places.push_back(i);
  for (size_t i = kPage; i < good.size(); i += 509) places.push_back(i);
  for (size_t place : places) {
    std::string bad = good;
    bad[place] = static_cast<char>(bad[place] ^ 1 << (place % 8));
    SetContents(bad);
    ASSERT_EQ(OpenError().substr(0, 13), "ERR_TEMPLATE_") << "byte " << place;
  }
  SetContents(good);
  EXPECT_EQ(OpenError(), "");
}

TEST_F(TemplateTest, MadeForAnotherVmItIsForeign) {
  Write();
  const TemplateOrigin right = origin_;
  for (int what = 0; what < 7; what++) {
    origin_ = right;
    if (what == 0) origin_.host[31] = 1;
    if (what == 1) origin_.kernel.modified = 1;
    if (what == 2) origin_.initrd.size = 1;
    if (what == 3) origin_.memory += kPage;
    if (what == 4) origin_.cpus = 1;
    if (what == 5) origin_.devices = 5;
    if (what == 6) origin_.vmm.inode = 5;
    EXPECT_EQ(OpenError(), "ERR_TEMPLATE_FOREIGN") << what;
  }
}

TEST_F(TemplateTest, ForAVmWithLessMemoryItFits) {
  Write();
  origin_.memory -= kPage;
  auto opened = OpenTemplate(path_, origin_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value().memory, kMemory);
}

TEST_F(TemplateTest, OfAnotherVersionItIsForeign) {
  Write();
  std::string bytes = Contents();
  bytes[8]++;
  SetContents(bytes);
  EXPECT_EQ(OpenError(), "ERR_TEMPLATE_FOREIGN");
}

TEST_F(TemplateTest, AGoodOneIsNotMadeAgainAndABadOneIs) {
  Write();
  auto again = TemplateTarget::Open(path_, origin_);
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, "ERR_TEMPLATE_EXISTS");
  std::string bytes = Contents();
  bytes.back() = 'x';
  SetContents(bytes);
  Write();
  EXPECT_EQ(OpenError(), "");
}

TEST_F(TemplateTest, WhatWasLeftUnfinishedIsNeitherUsedNorInTheWay) {
  const UniqueFd rest(::open((path_ + ".new").c_str(), O_CREAT | O_WRONLY, 0600));
  EXPECT_EQ(OpenError(), "ERR_TEMPLATE_MISSING");
  Write();
  EXPECT_EQ(OpenError(), "");
  EXPECT_NE(::access((path_ + ".new").c_str(), F_OK), 0);
}

TEST(GuestMemoryFrom, RefusesExtentsThatMakeNoSense) {
  const UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  constexpr uint64_t kFile = 8 * kPage;
  ASSERT_EQ(::ftruncate(file.get(), kFile), 0);
  const std::vector<kvm::MemoryExtent> bad[] = {
      {{kMemory, kPage, 0}},                       // behind the memory
      {{kMemory - kPage, 2 * kPage, 0}},           // across its end
      {{0, kPage, kFile}},                         // behind the file
      {{0, 2 * kPage, kFile - kPage}},             // across its end
      {{0, UINT64_MAX & ~(kPage - 1), 0}},         // a size that wraps
      {{0, kPage, UINT64_MAX & ~(kPage - 1)}},     // an offset that wraps
      {{1, kPage, 0}},                             // not aligned
      {{0, 100, 0}},                               // not aligned
      {{0, kPage, 1}},                             // not aligned
      {{0, 0, 0}},                                 // empty
      {{0, 2 * kPage, 0}, {kPage, kPage, kPage}},  // overlapping
      {{kPage, kPage, 0}, {0, kPage, kPage}},      // out of order
  };
  for (size_t i = 0; i < std::size(bad); i++) {
    EXPECT_FALSE(kvm::GuestMemory::CreateFrom(kMemory, file.get(), kFile, bad[i]).ok()) << i;
  }
}

}  // namespace
}  // namespace clearvm::vmm
