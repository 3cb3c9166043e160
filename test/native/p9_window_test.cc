// Files that a server shows in memory: which, where, for how long, and in another session.
#include <sys/mman.h>

#include "native/base/bytes.h"
#include "native/base/fd.h"
#include "native/p9/window.h"
#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

constexpr uint32_t kReadOnly = 0;
constexpr uint32_t kReadWrite = 2;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 64;

// As Machine::window() is: it reads as zeroes.
UniqueMapping NewMemory(uint64_t pages = kPages) {
  void* address = ::mmap(nullptr, pages * kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(address, MAP_FAILED);
  return {address, pages * kPage};
}

class P9WindowTest : public P9Test {
 protected:
  void SetUp() override {
    P9Test::SetUp();
    upper_ = top_ / "upper";
    std::filesystem::create_directory(upper_);
    StartWithWindow();
  }

  Export WindowConfig() {
    Export config;
    config.exclusive = true;
    config.window = memory_.bytes();
    config.upper.reset(::open(upper_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    return config;
  }
  void StartWithWindow() {
    server_.reset();
    Start(WindowConfig());
    server_->UseWindow();
  }

  // A file of that many pages; the first byte of each is different.
  std::string Write(const std::string& name, uint64_t pages) {
    std::string text(pages * kPage, '.');
    for (uint64_t i = 0; i < pages; i++) text[i * kPage] = static_cast<char>('A' + i);
    WriteFile(host_ / name, text);
    return text;
  }
  // The place that Rlopen names.
  uint32_t Open(uint32_t fid, const std::string& name, uint32_t flags = kReadOnly) {
    EXPECT_EQ(client_.Walk(kRoot, fid, {name}), 0);
    return OpenWalked(fid, flags);
  }
  uint32_t OpenWalked(uint32_t fid, uint32_t flags = kReadOnly) {
    Reply reply = client_.Call(kTlopen, Fields().U32(fid).U32(flags));
    EXPECT_EQ(reply.type, kTlopen + 1);
    reply.Bytes(kQidBytes);
    return reply.U32();
  }
  std::string Shown(uint32_t place, size_t bytes) {
    return {reinterpret_cast<const char*>(memory_.data()) + (place - 1) * kPage, bytes};
  }
  std::string Save() {
    ByteWriter out;
    auto saved = server_->Save(out);
    EXPECT_TRUE(saved.ok());
    return {reinterpret_cast<const char*>(out.bytes().data()), out.bytes().size()};
  }
  // Over a copy of the files, all of which are the image's.
  Result<void> Restore(const std::string& state, Export config) {
    const std::filesystem::path copy = top_ / "copy";
    std::filesystem::copy(host_, copy, std::filesystem::copy_options::recursive);
    host_ = copy;
    server_.reset();
    config.root.reset(::open(host_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    auto server = Server::Create(std::move(config));
    if (!server.ok()) return server.error();
    server_ = std::move(server).value();
    server_->UseWindow();
    ByteReader in({reinterpret_cast<const uint8_t*>(state.data()), state.size()});
    return server_->Restore(in);
  }

  UniqueMapping memory_ = NewMemory();
  std::filesystem::path upper_;
};

TEST_F(P9WindowTest, ShowsWhatIsInTheImageAndLargeEnough) {
  const std::string text = Write("file", 20);
  WriteFile(host_ / "small", std::string(1000, 's'));
  const uint32_t place = Open(1, "file");
  ASSERT_NE(place, 0u);
  EXPECT_EQ(Shown(place, text.size()), text);
  EXPECT_EQ(Open(2, "file"), place);
  EXPECT_EQ(Open(3, "small"), 0u);
  EXPECT_EQ(Open(4, "file", kReadWrite), 0u);
  std::filesystem::create_directory(host_ / "directory");
  EXPECT_EQ(Open(5, "directory"), 0u);
}

TEST_F(P9WindowTest, ClientsThatDoNotKnowItAreNotTold) {
  Write("file", 20);
  server_.reset();
  Start(WindowConfig());
  EXPECT_EQ(Open(1, "file"), 0u);
}

TEST_F(P9WindowTest, WhatIsInTheUpperDirectoryMayChange) {
  std::filesystem::create_directories(host_ / "a");
  std::filesystem::create_directories(upper_ / "a");
  Write("a/file", 20);
  Write("a/same", 20);
  WriteFile(upper_ / "a/file", "");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"a", "file"}), 0);
  EXPECT_EQ(OpenWalked(1), 0u);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"a", "same"}), 0);
  EXPECT_NE(OpenWalked(2), 0u);
  // A file in place of a directory, as whiteouts are.
  std::filesystem::create_directories(host_ / "b");
  Write("b/file", 20);
  WriteFile(upper_ / "b", "");
  ASSERT_EQ(client_.Walk(kRoot, 3, {"b", "file"}), 0);
  EXPECT_NE(OpenWalked(3), 0u);
}

TEST_F(P9WindowTest, WhatWasOpenedForWritingIsNotShownAgain) {
  const std::string text = Write("file", 20);
  const uint32_t place = Open(1, "file");
  ASSERT_NE(place, 0u);
  Open(2, "file", kReadWrite);
  WriteFile(upper_ / "file", "");  // as overlayfs does
  EXPECT_EQ(Open(3, "file"), 0u);
  // Who has it mapped keeps it, until nobody does.
  EXPECT_EQ(Shown(place, text.size()), text);
  ASSERT_EQ(client_.Clunk(1), 0);
  EXPECT_EQ(Shown(place, 4), std::string(4, '\0'));
}

TEST_F(P9WindowTest, WhatIsCutIsNotShownAgain) {
  Write("file", 20);
  const uint32_t place = Open(1, "file");
  ASSERT_NE(place, 0u);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  ASSERT_EQ(client_.SetAttributes(2, kSetSize, 0, 0, 0, 100), 0);
  WriteFile(upper_ / "file", "");
  EXPECT_EQ(Open(3, "file"), 0u);
}

TEST_F(P9WindowTest, StaysUntilItsRoomIsNeeded) {
  Write("first", 30);
  Write("second", 30);
  Write("third", 30);
  Write("larger", kPages + 1);
  const uint32_t first = Open(1, "first");
  const uint32_t second = Open(2, "second");
  ASSERT_NE(first, 0u);
  ASSERT_NE(second, 0u);
  EXPECT_EQ(Open(3, "third"), 0u);
  EXPECT_EQ(Open(4, "larger"), 0u);
  ASSERT_EQ(client_.Clunk(1), 0);
  EXPECT_EQ(Open(5, "first"), first);
  ASSERT_EQ(client_.Clunk(5), 0);
  EXPECT_EQ(Open(6, "third"), first);
  EXPECT_EQ(Open(7, "first"), 0u);
  EXPECT_EQ(Shown(second, 1), "A");
}

TEST_F(P9WindowTest, ANewSessionHasNothing) {
  Write("file", 20);
  const uint32_t place = Open(1, "file");
  ASSERT_NE(place, 0u);
  client_.Version(kMsize);
  EXPECT_EQ(Shown(place, 4), std::string(4, '\0'));
}

TEST_F(P9WindowTest, GoesOnInAnotherSession) {
  const std::string text = Write("file", 20);
  const std::string removed = Write("removed", 10);
  Write("closed", 10);
  Open(1, "closed");
  const uint32_t place = Open(2, "file");
  EXPECT_EQ(Open(3, "file"), place);
  const uint32_t nameless = Open(4, "removed");
  ASSERT_NE(nameless, 0u);
  ASSERT_EQ(client_.Clunk(1), 0);
  ASSERT_EQ(client_.UnlinkAt(kRoot, "removed"), 0);
  const std::string state = Save();
  memory_ = NewMemory();
  auto restored = Restore(state, WindowConfig());
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  EXPECT_EQ(Shown(place, text.size()), text);
  EXPECT_EQ(Shown(nameless, removed.size()), removed);
  EXPECT_EQ(Open(5, "file"), place);
}

TEST_F(P9WindowTest, WhatChangedIsNotShownInAnotherSession) {
  Write("file", 20);
  const uint32_t place = Open(1, "file");
  Open(2, "file", kReadWrite);
  const std::string state = Save();
  memory_ = NewMemory();
  ASSERT_TRUE(Restore(state, WindowConfig()).ok());
  EXPECT_EQ(Shown(place, 4), std::string(4, '\0'));
}

TEST_F(P9WindowTest, ASessionWithPlacesNeedsAWindow) {
  Write("file", 20);
  ASSERT_NE(Open(1, "file"), 0u);
  const std::string state = Save();
  auto restored = Restore(state, {});
  ASSERT_FALSE(restored.ok());
  EXPECT_EQ(restored.error().code, "ERR_DEVICE_STATE");
}

TEST(Window, PlacesThatAreTakenOrOutsideAreRefused) {
  UniqueMapping memory = NewMemory();
  Window window(memory.bytes());
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const auto node = [](ino_t inode) {
    Node result;
    result.inode = inode;
    return result;
  };
  EXPECT_TRUE(window.ShowAt(11, node(1), file.get(), 10 * kPage));
  EXPECT_TRUE(window.ShowAt(11, node(1), file.get(), 10 * kPage));
  EXPECT_FALSE(window.ShowAt(11, node(2), file.get(), 10 * kPage));
  EXPECT_FALSE(window.ShowAt(20, node(2), file.get(), kPage));
  EXPECT_FALSE(window.ShowAt(2, node(2), file.get(), 10 * kPage));
  EXPECT_FALSE(window.ShowAt(0, node(2), file.get(), kPage));
  EXPECT_FALSE(window.ShowAt(kPages + 1, node(2), file.get(), kPage));
  EXPECT_FALSE(window.ShowAt(kPages, node(2), file.get(), 2 * kPage));
  EXPECT_FALSE(window.ShowAt(UINT32_MAX, node(2), file.get(), UINT64_MAX));
  EXPECT_FALSE(window.ShowAt(40, node(2), file.get(), 0));
  EXPECT_TRUE(window.ShowAt(21, node(2), file.get(), kPage));
  EXPECT_TRUE(window.ShowAt(kPages, node(3), file.get(), kPage));
}

TEST(Window, TheOneThatWasLeftFirstGoesFirst) {
  UniqueMapping memory = NewMemory();
  Window window(memory.bytes());
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  Node nodes[4];
  for (ino_t i = 0; i < 4; i++) nodes[i].inode = i + 1;
  uint32_t places[3];
  for (int i = 0; i < 3; i++) places[i] = window.Show(nodes[i], file.get(), 20 * kPage);
  window.Release(places[1]);
  window.Release(places[0]);
  window.Release(places[2]);
  EXPECT_EQ(window.Find(nodes[1]), places[1]);
  EXPECT_EQ(window.Show(nodes[3], file.get(), 20 * kPage), places[0]);
  EXPECT_EQ(window.Find(nodes[0]), 0u);
  EXPECT_EQ(window.Find(nodes[2]), places[2]);
}

}  // namespace
}  // namespace clearvm::p9::test
