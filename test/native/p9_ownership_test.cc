#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cerrno>

#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

// Ownership::kXattrs, served as a user without privileges.
class P9OwnershipTest : public P9Test {
 protected:
  static constexpr uid_t kServer = 31337;

  void SetUp() override {
    P9Test::SetUp();
    if (setxattr(host_.c_str(), "user.probe", "", 0, 0) < 0) {
      GTEST_SKIP() << "no user attributes in " << host_;
    }
    removexattr(host_.c_str(), "user.probe");
    if (geteuid() == 0) {
      ASSERT_EQ(chmod(top_.c_str(), 0755), 0);
      ASSERT_EQ(chown(host_.c_str(), kServer, kServer), 0);
      ASSERT_EQ(setegid(kServer), 0);
      ASSERT_EQ(seteuid(kServer), 0);
    }
    Restart();
  }
  void TearDown() override {
    if (getuid() == 0) {
      ASSERT_EQ(seteuid(0), 0);
      ASSERT_EQ(setegid(0), 0);
    }
    P9Test::TearDown();
  }
  void Restart() {
    Export config;
    config.ownership = Ownership::kXattrs;
    Start(std::move(config));
  }
  Attributes Of(const std::string& name) {
    Attributes attributes = {};
    EXPECT_EQ(client_.Walk(kRoot, 800, {name}), 0) << name;
    EXPECT_EQ(client_.GetAttributes(800, &attributes), 0) << name;
    client_.Clunk(800);
    return attributes;
  }
};

TEST_F(P9OwnershipTest, OwnersModesAndTypesAreKept) {
  ASSERT_EQ(client_.Attach(1, 1000), 0);
  ASSERT_EQ(client_.Walk(1, 2, {}), 0);
  ASSERT_EQ(client_.Create(2, "file", 2, 04000, 100), 0);
  ASSERT_EQ(client_.Mkdir(1, "dir", 02000, 101), 0);
  ASSERT_EQ(client_.Mknod(1, "device", S_IFCHR | 0620, 5, 70000, 102), 0);
  ASSERT_EQ(client_.Mknod(1, "fifo", S_IFIFO | 0644, 0, 0, 103), 0);
  ASSERT_EQ(client_.Mknod(1, "socket", S_IFSOCK | 0755, 0, 0, 104), 0);
  ASSERT_EQ(client_.Symlink(1, "link", "/target"), 0);
  Restart();
  const std::vector<std::tuple<const char*, uint32_t, uint32_t>> expected = {
      {"file", S_IFREG | 04000u, 100},
      {"dir", S_IFDIR | 02000u, 101},
      {"device", S_IFCHR | 0620u, 102},
      {"fifo", S_IFIFO | 0644u, 103},
      {"socket", S_IFSOCK | 0755u, 104}};
  for (const auto& [name, mode, gid] : expected) {
    const Attributes found = Of(name);
    EXPECT_EQ(found.mode, mode) << name;
    EXPECT_EQ(found.uid, 1000u) << name;
    EXPECT_EQ(found.gid, gid) << name;
    const struct stat host = Lstat(host_ / name);
    EXPECT_EQ(host.st_uid, geteuid()) << name;
    EXPECT_EQ(host.st_mode & 07000, 0u) << name << ": no set-id bits on the host";
    EXPECT_TRUE(S_ISREG(host.st_mode) || S_ISDIR(host.st_mode)) << name;
  }
  EXPECT_EQ(Of("device").rdev, (70000u & 0xff) | 5u << 8 | (70000u & ~0xffu) << 12);
  EXPECT_TRUE(S_ISLNK(Of("link").mode));
  EXPECT_EQ(Of("link").uid, 0u);
}

TEST_F(P9OwnershipTest, FilesOfTheServersUserAreRoots) {
  WriteFile(host_ / "mine", "x");
  EXPECT_EQ(Of("mine").uid, 0u);
  EXPECT_EQ(Of("mine").gid, 0u);
  if (getuid() == 0) {
    ASSERT_EQ(seteuid(0), 0);
    WriteFile(host_ / "others", "x");
    ASSERT_EQ(chown((host_ / "others").c_str(), 7, 8), 0);
    ASSERT_EQ(seteuid(kServer), 0);
    EXPECT_EQ(Of("others").uid, 65534u);
    EXPECT_EQ(Of("others").gid, 65534u);
  }
}

TEST_F(P9OwnershipTest, OwnersAndModesChange) {
  WriteFile(host_ / "file", "text");
  std::filesystem::create_directory(host_ / "dir");
  for (const char* name : {"file", "dir"}) {
    ASSERT_EQ(client_.Walk(kRoot, 1, {name}), 0);
    ASSERT_EQ(client_.SetAttributes(1, kSetUid | kSetGid, 0, 5, 6), 0);
    ASSERT_EQ(client_.SetAttributes(1, kSetMode, 07000), 0);
    Attributes found = Of(name);
    EXPECT_EQ(found.uid, 5u);
    EXPECT_EQ(found.gid, 6u);
    EXPECT_EQ(found.mode & 07777, 07000u);
    ASSERT_EQ(client_.SetAttributes(1, kSetGid, 0, 0, 9), 0);
    found = Of(name);
    EXPECT_EQ(found.uid, 5u);
    EXPECT_EQ(found.gid, 9u);
    ASSERT_EQ(client_.Clunk(1), 0);
  }
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dir"}), 0);
  EXPECT_EQ(client_.Mkdir(1, "sub", 0755), 0) << "the server still gets into it";
}

TEST_F(P9OwnershipTest, SetIdBitsGoWithAWrite) {
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Create(1, "file", 1, 06755), 0);
  EXPECT_EQ(Of("file").mode & 07777, 06755u);
  ASSERT_EQ(client_.Write(1, 0, "x"), 0);
  EXPECT_EQ(Of("file").mode & 07777, 0755u);
}

TEST_F(P9OwnershipTest, PlaceholdersAreNotOpenedAndTheirTypeIsNotListed) {
  ASSERT_EQ(client_.Mknod(kRoot, "device", S_IFBLK | 0666, 8, 0), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"device"}), 0);
  EXPECT_EQ(client_.Open(1, 0), ENXIO);
  ASSERT_EQ(client_.Walk(kRoot, 2, {}), 0);
  ASSERT_EQ(client_.Open(2, 0), 0);
  std::vector<DirEntry> entries;
  ASSERT_EQ(client_.ReadDirectory(2, 0, 4096, &entries), 0);
  ASSERT_EQ(entries.size(), 3u);
  for (const DirEntry& entry : entries) {
    EXPECT_EQ(entry.type, entry.name == "device" ? 0 : 4) << entry.name;
  }
}

TEST_F(P9OwnershipTest, ForgedAttributesAreNotBelieved) {
  WriteFile(host_ / "file", "text");
  std::filesystem::create_directory(host_ / "dir");
  const auto forge = [this](const char* name, uint32_t mode, size_t size) {
    const uint32_t value[5] = {1, 2, mode, 3, 4};
    EXPECT_EQ(setxattr((host_ / name).c_str(), "user.clearvm.stat", value, size, 0), 0);
    return Of(name).mode;
  };
  EXPECT_EQ(forge("file", S_IFDIR | 0755, 20) & S_IFMT, S_IFREG + 0u);
  EXPECT_EQ(forge("file", S_IFLNK | 0777, 20) & S_IFMT, S_IFREG + 0u);
  EXPECT_EQ(forge("file", 0xffffffff, 20) & S_IFMT, S_IFREG + 0u);
  EXPECT_EQ(forge("file", S_IFIFO | 0777, 19) & S_IFMT, S_IFREG + 0u);
  EXPECT_EQ(forge("dir", S_IFREG | 0755, 20) & S_IFMT, S_IFDIR + 0u);
  EXPECT_EQ(forge("file", S_IFIFO | 0777, 20) & S_IFMT, S_IFIFO + 0u);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dir"}), 0);
  EXPECT_EQ(client_.XattrCreate(1, "user.clearvm.stat", 20), EOPNOTSUPP);
  EXPECT_EQ(client_.XattrCreate(1, "trusted.x", 1), EOPNOTSUPP);
  EXPECT_EQ(client_.XattrCreate(1, "system.posix_acl_access", 1), EOPNOTSUPP);
  EXPECT_EQ(client_.XattrCreate(1, "user.fine", 1), 0);
}

}  // namespace
}  // namespace clearvm::p9::test
