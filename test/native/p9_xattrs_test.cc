#include <sys/xattr.h>

#include <cerrno>
#include <set>

#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

class P9XattrTest : public P9Test {
 protected:
  void SetUp() override {
    P9Test::SetUp();
    WriteFile(host_ / "file", "text");
    if (setxattr((host_ / "file").c_str(), "user.probe", "", 0, 0) < 0) {
      GTEST_SKIP() << "no user attributes in " << host_;
    }
    removexattr((host_ / "file").c_str(), "user.probe");
    ASSERT_EQ(client_.Walk(kRoot, kFile, {"file"}), 0);
  }

  // As v9fs_fid_xattr_set does it.
  int Set(uint32_t fid, const std::string& name, const std::string& value, uint32_t flags = 0) {
    if (const int error = client_.Walk(fid, 900, {}); error != 0) return error;
    int error = client_.XattrCreate(900, name, value.size(), flags);
    if (error == 0 && !value.empty()) error = client_.Write(900, 0, value);
    const int clunk = client_.Clunk(900);
    return error != 0 ? error : clunk;
  }
  // As v9fs_fid_xattr_get does it; an empty name lists.
  int Get(uint32_t fid, const std::string& name, std::string* value) {
    uint64_t size = 0;
    if (const int error = client_.XattrWalk(fid, 901, name, &size); error != 0) return error;
    value->clear();
    while (value->size() < size) {
      std::string part;
      if (const int error = client_.Read(901, value->size(), 1000, &part); error != 0) return error;
      if (part.empty()) break;
      *value += part;
    }
    EXPECT_EQ(value->size(), size);
    return client_.Clunk(901);
  }
  std::set<std::string> List(uint32_t fid) {
    std::string text;
    EXPECT_EQ(Get(fid, "", &text), 0);
    std::set<std::string> names;
    std::istringstream stream(text);
    for (std::string name; std::getline(stream, name, '\0');) names.insert(name);
    return names;
  }

  static constexpr uint32_t kFile = 5;
};

TEST_F(P9XattrTest, ValuesAreSetReadListedAndRemoved) {
  std::string value;
  EXPECT_EQ(Get(kFile, "user.one", &value), ENODATA);
  ASSERT_EQ(Set(kFile, "user.one", "first"), 0);
  ASSERT_EQ(Set(kFile, "user.two", std::string("\0\1\2", 3)), 0);
  ASSERT_EQ(Set(kFile, "user.empty", ""), 0);
  ASSERT_EQ(Get(kFile, "user.one", &value), 0);
  EXPECT_EQ(value, "first");
  ASSERT_EQ(Get(kFile, "user.two", &value), 0);
  EXPECT_EQ(value, std::string("\0\1\2", 3));
  ASSERT_EQ(Get(kFile, "user.empty", &value), 0);
  EXPECT_EQ(value, "");
  EXPECT_EQ(List(kFile), (std::set<std::string>{"user.one", "user.two", "user.empty"}));
  EXPECT_EQ(Set(kFile, "user.one", "x", XATTR_CREATE), EEXIST);
  EXPECT_EQ(Set(kFile, "user.three", "x", XATTR_REPLACE), ENODATA);
  ASSERT_EQ(Set(kFile, "user.one", "", XATTR_REPLACE), 0) << "this is removexattr";
  EXPECT_EQ(Get(kFile, "user.one", &value), ENODATA);
  EXPECT_EQ(getxattr((host_ / "file").c_str(), "user.two", nullptr, 0), 3);
}

TEST_F(P9XattrTest, DirectoriesAndOpenFilesHaveThem) {
  ASSERT_EQ(Set(kRoot, "user.dir", "d"), 0);
  EXPECT_EQ(List(kRoot), (std::set<std::string>{"user.dir"}));
  ASSERT_EQ(client_.Open(kFile, 1), 0);
  ASSERT_EQ(Set(kFile, "user.open", "o"), 0);
  std::string value;
  ASSERT_EQ(Get(kFile, "user.open", &value), 0) << "write-only descriptors read attributes, too";
  EXPECT_EQ(value, "o");
  ASSERT_EQ(client_.UnlinkAt(kRoot, "file"), 0);
  ASSERT_EQ(Set(kFile, "user.gone", "g"), 0);
  EXPECT_EQ(List(kFile), (std::set<std::string>{"user.open", "user.gone"}));
}

TEST_F(P9XattrTest, OnlyNamespacesOfTheGuestAreServed) {
  std::string value;
  for (const char* name :
       {"user.clearvm.stat", "user.clearvm.x", "trusted.overlay.opaque", "trusted.overlay.redirect",
        "security.selinux", "security.ima", "system.sockprotoname", "btrfs.compression", "user.",
        "trusted.", "x", "usr.x"}) {
    EXPECT_EQ(Set(kFile, name, "v"), EOPNOTSUPP) << name;
    EXPECT_EQ(Get(kFile, name, &value), EOPNOTSUPP) << name;
  }
  EXPECT_EQ(Set(kFile, "", "v"), EOPNOTSUPP);
  EXPECT_EQ(Set(kFile, std::string("user.a\0b", 8), "v"), EINVAL);
  EXPECT_EQ(Set(kFile, "user." + std::string(251, 'n'), "v"), ERANGE);
  EXPECT_EQ(Set(kFile, "user." + std::string(250, 'n'), "v"), 0);
  ASSERT_EQ(Set(kFile, "trusted.mine", "t"), 0);
  ASSERT_EQ(setxattr((host_ / "file").c_str(), "user.clearvm.stat", "x", 1, 0), 0);
  ASSERT_EQ(setxattr((host_ / "file").c_str(), "trusted.overlay.origin", "x", 1, 0), 0);
  EXPECT_EQ(List(kFile), (std::set<std::string>{"trusted.mine", "user." + std::string(250, 'n')}));
}

TEST_F(P9XattrTest, CapabilitiesOfFilesAreKept) {
  // struct vfs_cap_data, revision 2, CAP_NET_RAW permitted and effective.
  const std::string capability(
      "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20);
  ASSERT_EQ(Set(kFile, "security.capability", capability), 0);
  std::string value;
  ASSERT_EQ(Get(kFile, "security.capability", &value), 0);
  EXPECT_EQ(value, capability);
  ASSERT_EQ(client_.Walk(kRoot, 6, {"file"}), 0);
  ASSERT_EQ(client_.Open(6, 2), 0);
  ASSERT_EQ(client_.Write(6, 0, "x"), 0);
  EXPECT_EQ(Get(kFile, "security.capability", &value), ENODATA) << "a write takes them away";
}

TEST_F(P9XattrTest, TransfersMustBeWholeAndInOrder) {
  ASSERT_EQ(client_.Walk(kFile, 1, {}), 0);
  ASSERT_EQ(client_.XattrCreate(1, "user.x", 10), 0);
  EXPECT_EQ(client_.Write(1, 5, "x"), EINVAL);
  ASSERT_EQ(client_.Write(1, 0, "01234"), 0);
  EXPECT_EQ(client_.Write(1, 0, "01234"), EINVAL);
  EXPECT_EQ(client_.Write(1, 5, "567890"), ENOSPC);
  Attributes attributes;
  std::string data;
  EXPECT_EQ(client_.Read(1, 0, 5, &data), EBADF);
  EXPECT_EQ(client_.Open(1, 0), EBADF);
  EXPECT_EQ(client_.Walk(1, 2, {}), EBADF);
  EXPECT_EQ(client_.SetAttributes(1, kSetMode, 0), EBADF);
  EXPECT_EQ(client_.Sync(1), EBADF);
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 0), -EBADF);
  EXPECT_EQ(client_.XattrCreate(1, "user.y", 10), EBADF);
  EXPECT_EQ(client_.Clunk(1), EIO) << "half a value is no value";
  EXPECT_EQ(Get(kFile, "user.x", &data), ENODATA);

  ASSERT_EQ(Set(kFile, "user.x", "0123456789"), 0);
  uint64_t size;
  ASSERT_EQ(client_.XattrWalk(kFile, 1, "user.x", &size), 0);
  EXPECT_EQ(size, 10u);
  ASSERT_EQ(client_.Read(1, 4, 3, &data), 0);
  EXPECT_EQ(data, "456");
  ASSERT_EQ(client_.Read(1, 10, 3, &data), 0);
  EXPECT_EQ(data, "");
  ASSERT_EQ(client_.Read(1, ~uint64_t{0}, ~0u, &data), 0);
  EXPECT_EQ(data, "");
  EXPECT_EQ(client_.Write(1, 0, "x"), EBADF);
  EXPECT_EQ(client_.XattrWalk(1, 2, "user.x", &size), EBADF);
  EXPECT_EQ(client_.XattrWalk(kFile, 1, "user.x", &size), EBADF);
}

TEST_F(P9XattrTest, SizesAndFlagsAreLimited) {
  ASSERT_EQ(client_.Walk(kFile, 1, {}), 0);
  EXPECT_EQ(client_.XattrCreate(1, "user.x", 65537), E2BIG);
  EXPECT_EQ(client_.XattrCreate(1, "user.x", ~uint64_t{0}), E2BIG);
  EXPECT_EQ(client_.XattrCreate(1, "user.x", 1, 4), EINVAL);
  EXPECT_EQ(client_.XattrCreate(1, "user.x", 1, 0x80000000), EINVAL);
}

TEST_F(P9XattrTest, AFloodOfTransfersIsBounded) {
  uint32_t fid = 1000;
  int error = 0;
  for (; fid < 2000 && error == 0; fid++) {
    ASSERT_EQ(client_.Walk(kFile, fid, {}), 0);
    error = client_.XattrCreate(fid, "user.x", 65536);
    if (error == 0) {
      ASSERT_EQ(client_.Write(fid, 0, std::string(65536, 'x')), 0);
    }
  }
  EXPECT_EQ(error, ENOSPC);
  EXPECT_EQ(fid, 1000u + 4 * 1024 * 1024 / 65536 + 1);
  std::string value;
  ASSERT_EQ(setxattr((host_ / "file").c_str(), "user.y", "y", 1, 0), 0);
  EXPECT_EQ(Get(kFile, "user.y", &value), ENOSPC) << "values that are read count as well";
  client_.Clunk(1000);
  EXPECT_EQ(Get(kFile, "user.y", &value), 0) << "memory comes back with the fid";
  client_.Version(kMsize);
  ASSERT_EQ(client_.Attach(kRoot), 0);
  ASSERT_EQ(client_.Walk(kRoot, kFile, {"file"}), 0);
  for (int i = 0; i < 3; i++) EXPECT_EQ(Get(kFile, "user.y", &value), 0);
}

}  // namespace
}  // namespace clearvm::p9::test
