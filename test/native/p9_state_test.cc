// A session that is saved and goes on over a copy of its files, as in a VM that is restored.
#include <cerrno>

#include "native/base/bytes.h"
#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

constexpr uint32_t kReadOnly = 0;
constexpr uint32_t kReadWrite = 2;

class P9StateTest : public P9Test {
 protected:
  std::string Save() {
    ByteWriter out;
    saved_ = server_->Save(out);
    return {reinterpret_cast<const char*>(out.bytes().data()), out.bytes().size()};
  }

  // A server over a copy of the files, with the session from there.
  Result<void> Restore(const std::string& state, Export config = {}) {
    const std::filesystem::path copy = top_ / ("copy" + std::to_string(copies_++));
    std::filesystem::copy(
        host_, copy,
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
    host_ = copy;
    return RestoreHere(state, std::move(config));
  }
  Result<void> RestoreHere(const std::string& state, Export config = {}) {
    server_.reset();
    config.root.reset(open(host_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    auto server = Server::Create(std::move(config));
    if (!server.ok()) return server.error();
    server_ = std::move(server).value();
    ByteReader in({reinterpret_cast<const uint8_t*>(state.data()), state.size()});
    return server_->Restore(in);
  }

  std::string ReadAll(uint32_t fid) {
    std::string data;
    EXPECT_EQ(client_.Read(fid, 0, 4096, &data), 0);
    return data;
  }

  Result<void> saved_;
  int copies_ = 0;
};

TEST_F(P9StateTest, OpenFilesAndTheirInodesGoOn) {
  std::filesystem::create_directories(host_ / "a/b");
  WriteFile(host_ / "a/b/file", "hello");
  WriteFile(host_ / "other", "other");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"a", "b", "file"}), 0);
  ASSERT_EQ(client_.Open(1, kReadWrite), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"a"}), 0);
  Attributes before;
  ASSERT_EQ(client_.GetAttributes(1, &before), 0);
  Attributes other;
  ASSERT_EQ(client_.Walk(kRoot, 3, {"other"}), 0);
  ASSERT_EQ(client_.GetAttributes(3, &other), 0);
  ASSERT_EQ(client_.Clunk(3), 0);

  const std::string state = Save();
  ASSERT_TRUE(saved_.ok()) << saved_.error().message;
  const std::filesystem::path original = host_;
  auto restored = Restore(state);
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  EXPECT_EQ(ReadAll(1), "hello");
  uint32_t written = 0;
  ASSERT_EQ(client_.Write(1, 5, " again", &written), 0);
  EXPECT_EQ(ReadFile(host_ / "a/b/file"), "hello again");
  EXPECT_EQ(ReadFile(original / "a/b/file"), "hello");
  Attributes after;
  ASSERT_EQ(client_.GetAttributes(1, &after), 0);
  EXPECT_EQ(after.qid.path, before.qid.path);
  // The same file by its name is the same inode to the guest; one that it did not know is another
  // than all that it knows.
  ASSERT_EQ(client_.Walk(2, 4, {"b", "file"}), 0);
  ASSERT_EQ(client_.GetAttributes(4, &after), 0);
  EXPECT_EQ(after.qid.path, before.qid.path);
  ASSERT_EQ(client_.Walk(kRoot, 5, {"other"}), 0);
  ASSERT_EQ(client_.GetAttributes(5, &after), 0);
  EXPECT_NE(after.qid.path >> 48, before.qid.path >> 48);
  EXPECT_NE(after.qid.path, other.qid.path);
}

TEST_F(P9StateTest, ASecondRestoreGivesOutNoInodeOfTheFirst) {
  WriteFile(host_ / "x", "x");
  ASSERT_TRUE(Restore(Save()).ok());
  ASSERT_EQ(client_.Walk(kRoot, 1, {"x"}), 0);
  Attributes first;
  ASSERT_EQ(client_.GetAttributes(1, &first), 0);
  ASSERT_EQ(client_.Clunk(1), 0);
  ASSERT_TRUE(RestoreHere(Save()).ok());
  ASSERT_EQ(client_.Walk(kRoot, 1, {"x"}), 0);
  Attributes second;
  ASSERT_EQ(client_.GetAttributes(1, &second), 0);
  EXPECT_NE(first.qid.path, second.qid.path);
}

TEST_F(P9StateTest, AFileIsFoundWhereItWasRenamedTo) {
  std::filesystem::create_directory(host_ / "d");
  WriteFile(host_ / "from", "text");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"from"}), 0);
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"d"}), 0);
  ASSERT_EQ(client_.RenameAt(kRoot, "from", 2, "to (deleted)"), 0);
  ASSERT_TRUE(Restore(Save()).ok());
  EXPECT_EQ(ReadAll(1), "text");
}

TEST_F(P9StateTest, AFileWithoutANameKeepsContentAndAttributes) {
  WriteFile(host_ / "gone", "content");
  ASSERT_EQ(truncate((host_ / "gone").c_str(), 3 << 20), 0);
  ASSERT_EQ(chown((host_ / "gone").c_str(), 12, 34), 0);
  ASSERT_EQ(chmod((host_ / "gone").c_str(), 04751), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"gone"}), 0);
  ASSERT_EQ(client_.Open(1, kReadWrite), 0);
  Attributes before;
  ASSERT_EQ(client_.UnlinkAt(kRoot, "gone"), 0);
  ASSERT_EQ(client_.GetAttributes(1, &before), 0);
  // Another one of that name: it is not to be taken for it.
  WriteFile(host_ / "gone", "another");
  WriteFile(host_ / "gone (deleted)", "a third");
  const std::string state = Save();
  ASSERT_TRUE(saved_.ok()) << saved_.error().message;
  EXPECT_LT(state.size(), 1u << 20);
  auto restored = Restore(state);
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  EXPECT_EQ(ReadAll(1).substr(0, 8), std::string("content\0", 8));
  Attributes after;
  ASSERT_EQ(client_.GetAttributes(1, &after), 0);
  EXPECT_EQ(after.size, before.size);
  EXPECT_EQ(after.mode, before.mode);
  EXPECT_EQ(after.uid, 12u);
  EXPECT_EQ(after.gid, 34u);
  EXPECT_EQ(after.mtime, before.mtime);
  EXPECT_EQ(after.mtime_ns, before.mtime_ns);
  EXPECT_EQ(after.nlink, 0u);
  EXPECT_EQ(after.qid.path, before.qid.path);
  uint32_t written = 0;
  ASSERT_EQ(client_.Write(1, 0, "CON", &written), 0);
  EXPECT_EQ(ReadAll(1).substr(0, 7), "CONtent");
  EXPECT_EQ(ReadFile(host_ / "gone"), "another");
  size_t names = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(host_)) names++;
  EXPECT_EQ(names, 2u);
}

TEST_F(P9StateTest, DirectoriesAndLinksWithoutANameComeBack) {
  std::filesystem::create_directory(host_ / "dir");
  ASSERT_EQ(symlink("target", (host_ / "link").c_str()), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dir"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"link"}), 0);
  ASSERT_EQ(rmdir((host_ / "dir").c_str()), 0);
  ASSERT_EQ(unlink((host_ / "link").c_str()), 0);
  auto restored = Restore(Save());
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  Attributes found;
  ASSERT_EQ(client_.GetAttributes(1, &found), 0);
  EXPECT_TRUE(S_ISDIR(found.mode));
  EXPECT_EQ(client_.Walk(1, 3, {"x"}), ENOENT);
  std::string target;
  ASSERT_EQ(client_.ReadLink(2, &target), 0);
  EXPECT_EQ(target, "target");
}

TEST_F(P9StateTest, AFileThatLivesOnByALinkIsTheSameFile) {
  WriteFile(host_ / "one", "1");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"one"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {}), 0);
  ASSERT_EQ(client_.Link(2, 1, "two"), 0);
  ASSERT_EQ(client_.Walk(kRoot, 3, {"one"}), 0);
  ASSERT_EQ(client_.Open(3, kReadWrite), 0);
  ASSERT_EQ(client_.UnlinkAt(kRoot, "one"), 0);
  auto restored = Restore(Save());
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  uint32_t written = 0;
  ASSERT_EQ(client_.Write(3, 0, "2", &written), 0);
  EXPECT_EQ(ReadFile(host_ / "two"), "2");
}

TEST_F(P9StateTest, WhatIsOpenAndGoneIsRefusedByName) {
  WriteFile(host_ / "needed", "x");
  WriteFile(host_ / "looked-at", "x");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"needed"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"looked-at"}), 0);
  const std::string unopened = Save();
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  const std::string opened = Save();
  ASSERT_EQ(unlink((host_ / "needed").c_str()), 0);
  ASSERT_EQ(unlink((host_ / "looked-at").c_str()), 0);
  auto refused = RestoreHere(opened);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, "ERR_SNAPSHOT_FILES");
  EXPECT_NE(refused.error().message.find("/needed"), std::string::npos);
  // Nobody has these open: the guest hears of it when it asks.
  ASSERT_TRUE(RestoreHere(unopened).ok());
  Attributes found;
  EXPECT_EQ(client_.GetAttributes(1, &found), EBADF);
  // In the root, which nobody else changes, nothing may be missing.
  Export root;
  root.exclusive = true;
  EXPECT_FALSE(RestoreHere(unopened, std::move(root)).ok());
}

TEST_F(P9StateTest, LocksAreTakenAgainOrRefused) {
  WriteFile(host_ / "db", "x");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"db"}), 0);
  ASSERT_EQ(client_.Open(1, kReadWrite), 0);
  ASSERT_EQ(client_.Lock(1, kLockWrite, 0, 100), kLockSuccess);
  const std::string state = Save();
  ASSERT_TRUE(RestoreHere(state).ok());
  UniqueFd other(open((host_ / "db").c_str(), O_RDWR | O_CLOEXEC));
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = 50;
  lock.l_len = 1;
  EXPECT_EQ(fcntl(other.get(), F_OFD_SETLK, &lock), -1);
  server_.reset();
  ASSERT_EQ(fcntl(other.get(), F_OFD_SETLK, &lock), 0);
  auto refused = RestoreHere(state);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, "ERR_SNAPSHOT_FILES");
  EXPECT_NE(refused.error().message.find("/db"), std::string::npos);
}

TEST_F(P9StateTest, APathNeverLeadsOutside) {
  WriteFile(host_ / "file", "inside");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  std::string state = Save();
  ASSERT_TRUE(saved_.ok());
  // Through a link in its place, and by a path of the same length that climbs.
  ASSERT_EQ(unlink((host_ / "file").c_str()), 0);
  ASSERT_EQ(symlink((outside_ / "secret").c_str(), (host_ / "file").c_str()), 0);
  EXPECT_FALSE(RestoreHere(state).ok());
  const size_t at = state.find("file");
  ASSERT_NE(at, std::string::npos);
  WriteFile(top_ / "x", "secret");
  state.replace(at, 4, "../x");
  EXPECT_FALSE(RestoreHere(state).ok());
}

TEST_F(P9StateTest, EveryCutIsRefused) {
  WriteFile(host_ / "file", "text");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Open(1, kReadWrite), 0);
  ASSERT_EQ(client_.UnlinkAt(kRoot, "file"), 0);
  const std::string state = Save();
  for (size_t length = 0; length < state.size(); length++) {
    EXPECT_FALSE(RestoreHere(state.substr(0, length)).ok()) << length;
  }
  EXPECT_TRUE(RestoreHere(state).ok());
}

}  // namespace
}  // namespace clearvm::p9::test
