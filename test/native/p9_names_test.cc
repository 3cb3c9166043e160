#include <cerrno>

#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

TEST_F(P9Test, SymbolicLinksKeepAnyTarget) {
  const std::string longest(4095, 't');
  for (const std::string& target : {std::string("x"), std::string("../../etc/passwd"), longest}) {
    ASSERT_EQ(client_.Symlink(kRoot, "link", target), 0);
    ASSERT_EQ(client_.Walk(kRoot, 1, {"link"}), 0);
    std::string found;
    ASSERT_EQ(client_.ReadLink(1, &found), 0);
    EXPECT_EQ(found, target);
    EXPECT_EQ(std::filesystem::read_symlink(host_ / "link"), target);
    ASSERT_EQ(client_.Clunk(1), 0);
    ASSERT_EQ(client_.UnlinkAt(kRoot, "link"), 0);
  }
  EXPECT_EQ(client_.Symlink(kRoot, "link", longest + "t"), ENAMETOOLONG);
  EXPECT_EQ(client_.Symlink(kRoot, "link", std::string("a\0b", 3)), EINVAL);
  EXPECT_EQ(client_.Symlink(kRoot, "link", ""), ENOENT);
  std::string found;
  EXPECT_EQ(client_.ReadLink(kRoot, &found), EINVAL);
}

TEST_F(P9Test, HardLinksAreMade) {
  WriteFile(host_ / "file", "text");
  std::filesystem::create_symlink(outside_ / "secret", host_ / "link");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"link"}), 0);
  ASSERT_EQ(client_.Link(kRoot, 1, "second"), 0);
  EXPECT_EQ(Lstat(host_ / "second").st_ino, Lstat(host_ / "file").st_ino);
  EXPECT_EQ(client_.Link(kRoot, 1, "second"), EEXIST);
  ASSERT_EQ(client_.Link(kRoot, 2, "link2"), 0);
  EXPECT_EQ(Lstat(host_ / "link2").st_ino, Lstat(host_ / "link").st_ino)
      << "the link itself, not what it points to";
  EXPECT_EQ(client_.Link(kRoot, kRoot, "dir"), EPERM);
  EXPECT_EQ(client_.Link(1, 1, "x"), ENOTDIR);
  Attributes first, second;
  ASSERT_EQ(client_.Walk(kRoot, 3, {"second"}), 0);
  ASSERT_EQ(client_.GetAttributes(1, &first), 0);
  ASSERT_EQ(client_.SetAttributes(3, kSetMtime | kSetSize, 0, 0, 0, 100), 0);
  ASSERT_EQ(client_.GetAttributes(3, &second), 0);
  EXPECT_EQ(first.qid.path, second.qid.path);
  EXPECT_EQ(first.qid.version, second.qid.version) << "one file is one inode to v9fs";
}

TEST_F(P9Test, FilesAreUnlinked) {
  WriteFile(host_ / "file", "text");
  std::filesystem::create_directories(host_ / "dir/sub");
  EXPECT_EQ(client_.UnlinkAt(kRoot, "file", kUnlinkRemoveDir), ENOTDIR);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "file", 0x1000), EINVAL);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "dir"), EISDIR);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "dir", kUnlinkRemoveDir), ENOTEMPTY);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dir"}), 0);
  EXPECT_EQ(client_.UnlinkAt(1, "sub", kUnlinkRemoveDir), 0);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "dir", kUnlinkRemoveDir), 0);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "file"), 0);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "file"), ENOENT);
  EXPECT_TRUE(std::filesystem::is_empty(host_));
  EXPECT_EQ(client_.Mkdir(1, "x", 0755), ENOENT) << "the directory is gone, the fid is not";
  EXPECT_EQ(client_.Walk(1, 2, {"x"}), ENOENT);
}

// The bug that Clear Containers' users met most.
TEST_F(P9Test, OpenFilesLiveOnUnlinked) {
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Create(1, "file", 2, 0644), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  ASSERT_EQ(client_.Write(1, 0, "before"), 0);
  ASSERT_EQ(client_.UnlinkAt(kRoot, "file"), 0);
  WriteFile(host_ / "file", "another");
  ASSERT_EQ(client_.Write(1, 6, " after"), 0);
  std::string data;
  ASSERT_EQ(client_.Read(1, 0, 100, &data), 0);
  EXPECT_EQ(data, "before after");
  for (const uint32_t fid : {1, 2}) {
    Attributes attributes;
    ASSERT_EQ(client_.GetAttributes(fid, &attributes), 0);
    EXPECT_EQ(attributes.nlink, 0u);
    EXPECT_EQ(attributes.size, 12u);
    ASSERT_EQ(client_.SetAttributes(fid, kSetMode | kSetUid, 0600, 3), 0);
    ASSERT_EQ(client_.SetAttributes(fid, kSetMtime | kSetMtimeSet, 0, 0, 0, 0, 0, 0, 9, 0), 0);
    ASSERT_EQ(client_.GetAttributes(fid, &attributes), 0);
    EXPECT_EQ(attributes.mode, S_IFREG | 0600u);
    EXPECT_EQ(attributes.uid, 3u);
    EXPECT_EQ(attributes.mtime, 9u);
  }
  ASSERT_EQ(client_.SetAttributes(1, kSetSize, 0, 0, 0, 6), 0);
  ASSERT_EQ(client_.Walk(1, 3, {}), 0) << "an open fid can be cloned";
  ASSERT_EQ(client_.Open(3, 2), 0) << "and opened again, though it has no name any more";
  ASSERT_EQ(client_.Read(3, 0, 100, &data), 0);
  EXPECT_EQ(data, "before");
  EXPECT_EQ(client_.Sync(3), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), "another");
  EXPECT_EQ(Lstat(host_ / "file").st_uid, 0u);
}

TEST_F(P9Test, RenamesDoNotDisturbFids) {
  std::filesystem::create_directories(host_ / "a/b");
  WriteFile(host_ / "a/b/file", "text");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"a", "b"}), 0);
  ASSERT_EQ(client_.Walk(1, 2, {"file"}), 0);
  ASSERT_EQ(client_.Open(2, 0), 0);
  ASSERT_EQ(client_.RenameAt(kRoot, "a", kRoot, "c"), 0);
  ASSERT_EQ(client_.RenameAt(1, "file", kRoot, "moved"), 0);
  std::string data;
  ASSERT_EQ(client_.Read(2, 0, 10, &data), 0);
  EXPECT_EQ(data, "text");
  ASSERT_EQ(client_.Mkdir(1, "new", 0755), 0);
  EXPECT_TRUE(std::filesystem::is_directory(host_ / "c/b/new"));
  EXPECT_EQ(ReadFile(host_ / "moved"), "text");
  EXPECT_EQ(client_.RenameAt(kRoot, "nothing", kRoot, "x"), ENOENT);
  ASSERT_EQ(client_.Walk(kRoot, 3, {"c"}), 0);
  EXPECT_EQ(client_.RenameAt(kRoot, "c", 1, "x"), EINVAL) << "into itself";
  EXPECT_EQ(client_.RenameAt(2, "x", kRoot, "y"), ENOTDIR);
}

TEST_F(P9Test, RenameByFidFollowsIt) {
  std::filesystem::create_directory(host_ / "dir");
  WriteFile(host_ / "file", "text");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dir"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  ASSERT_EQ(client_.Rename(2, 1, "one"), 0);
  EXPECT_EQ(ReadFile(host_ / "dir/one"), "text");
  ASSERT_EQ(client_.Rename(2, kRoot, "two"), 0) << "the fid knows its new place";
  EXPECT_EQ(ReadFile(host_ / "two"), "text");
  ASSERT_EQ(client_.RenameAt(kRoot, "two", kRoot, "three"), 0);
  WriteFile(host_ / "two", "another");
  EXPECT_EQ(client_.Rename(2, kRoot, "four"), ESTALE) << "another file has its name now";
  EXPECT_EQ(client_.Remove(2), ESTALE);
  EXPECT_EQ(ReadFile(host_ / "two"), "another");
  EXPECT_EQ(client_.Rename(kRoot, 1, "x"), EINVAL);
}

TEST_F(P9Test, RemoveClunksInAnyCase) {
  std::filesystem::create_directories(host_ / "dir/sub");
  WriteFile(host_ / "file", "text");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"dir"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 3, {"dir", "sub"}), 0);
  EXPECT_EQ(client_.Remove(1), 0);
  EXPECT_EQ(client_.Remove(1), EBADF);
  EXPECT_EQ(client_.Remove(2), ENOTEMPTY);
  EXPECT_EQ(client_.Clunk(2), EBADF);
  EXPECT_EQ(client_.Remove(3), 0);
  EXPECT_FALSE(std::filesystem::exists(host_ / "dir/sub"));
  EXPECT_EQ(client_.Remove(kRoot), EBUSY);
  EXPECT_EQ(client_.Clunk(kRoot), EBADF);
}

TEST_F(P9Test, NamesMayBeAnyBytes) {
  const std::string name = "\xff\x01\n*?\\ \xc3\x28";
  ASSERT_EQ(client_.Mkdir(kRoot, name, 0755), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {name}), 0);
  ASSERT_EQ(client_.Mkdir(kRoot, "...", 0755), 0);
  EXPECT_TRUE(std::filesystem::is_directory(host_ / name));
}

}  // namespace
}  // namespace clearvm::p9::test
