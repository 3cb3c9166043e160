#include <cerrno>

#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

class P9LockTest : public P9Test {
 protected:
  void SetUp() override {
    P9Test::SetUp();
    WriteFile(host_ / "file", "text");
    for (const uint32_t fid : {1, 2}) {
      ASSERT_EQ(client_.Walk(kRoot, fid, {"file"}), 0);
      ASSERT_EQ(client_.Open(fid, 2), 0);
    }
    other_.reset(open((host_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  }
  // Whether somebody else could lock these bytes now.
  bool Free(int16_t type, off_t start, off_t length) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_start = start;
    lock.l_len = length;
    EXPECT_EQ(fcntl(other_.get(), F_OFD_GETLK, &lock), 0);
    return lock.l_type == F_UNLCK;
  }
  bool Take(int16_t type, off_t start, off_t length) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_start = start;
    lock.l_len = length;
    return fcntl(other_.get(), F_OFD_SETLK, &lock) == 0;
  }
  // type, start, length of Rgetlock.
  std::tuple<int, uint64_t, uint64_t> Test(uint32_t fid, uint8_t type, uint64_t start,
                                           uint64_t length) {
    Reply reply = client_.Call(kTgetlock,
                               Fields().U32(fid).U8(type).U64(start).U64(length).U32(9).Text("me"));
    if (reply.type == kRlerror) return {-reply.error(), 0, 0};
    const int found = reply.U8();
    const uint64_t at = reply.U64();
    return {found, at, reply.U64()};
  }
  UniqueFd other_;
};

TEST_F(P9LockTest, OthersSeeTheLocks) {
  EXPECT_EQ(client_.Lock(1, kLockWrite, 10, 10), kLockSuccess);
  EXPECT_FALSE(Free(F_RDLCK, 0, 0));
  EXPECT_TRUE(Free(F_WRLCK, 0, 10));
  EXPECT_TRUE(Free(F_WRLCK, 20, 0));
  EXPECT_EQ(client_.Lock(1, kLockRead, 12, 2), kLockSuccess);
  EXPECT_TRUE(Free(F_RDLCK, 12, 2));
  EXPECT_FALSE(Free(F_WRLCK, 12, 2));
  EXPECT_FALSE(Free(F_RDLCK, 14, 1));
  EXPECT_EQ(client_.Lock(1, kLockUnlock, 0, 0), kLockSuccess);
  EXPECT_TRUE(Free(F_WRLCK, 0, 0));
}

TEST_F(P9LockTest, ConflictsWithOthersAreBlocked) {
  ASSERT_TRUE(Take(F_WRLCK, 5, 5));
  EXPECT_EQ(client_.Lock(1, kLockRead, 0, 0), kLockBlocked);
  EXPECT_EQ(client_.Lock(1, kLockWrite, 9, 1), kLockBlocked);
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 5), kLockSuccess);
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 8), kLockBlocked);
  EXPECT_FALSE(Free(F_RDLCK, 0, 5)) << "a lock that failed takes nothing away";
  EXPECT_EQ(Test(1, kLockRead, 0, 0), std::make_tuple(int{kLockWrite}, 5u, 5u));
  EXPECT_EQ(Test(1, kLockUnlock, 0, 0), std::make_tuple(int{kLockWrite}, 5u, 5u));
  EXPECT_EQ(Test(1, kLockWrite, 10, 0), std::make_tuple(int{kLockUnlock}, 10u, 0u));
  ASSERT_TRUE(Take(F_RDLCK, 5, 5));
  EXPECT_EQ(client_.Lock(1, kLockRead, 0, 0), kLockSuccess);
  EXPECT_EQ(Test(1, kLockUnlock, 0, 0), std::make_tuple(int{kLockUnlock}, 0u, 0u));
  EXPECT_EQ(Test(1, kLockWrite, 0, 0), std::make_tuple(int{kLockRead}, 5u, 5u));
}

TEST_F(P9LockTest, TheGuestDoesNotConflictWithItself) {
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 10), kLockSuccess);
  EXPECT_EQ(client_.Lock(2, kLockRead, 0, 20), kLockSuccess);
  EXPECT_FALSE(Free(F_RDLCK, 0, 10));
  EXPECT_TRUE(Free(F_RDLCK, 10, 10));
  EXPECT_EQ(client_.Lock(1, kLockUnlock, 0, 0), kLockSuccess);
  EXPECT_TRUE(Free(F_RDLCK, 0, 10)) << "what remains is the other fid's read lock";
  EXPECT_FALSE(Free(F_WRLCK, 0, 10));
  EXPECT_EQ(client_.Clunk(2), 0);
  EXPECT_TRUE(Free(F_WRLCK, 0, 0));
}

TEST_F(P9LockTest, LocksEndWithTheirFid) {
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 0), kLockSuccess);
  EXPECT_EQ(client_.Clunk(2), 0);
  EXPECT_FALSE(Free(F_WRLCK, 0, 0)) << "closing another descriptor of the file is no matter";
  EXPECT_EQ(client_.Clunk(1), 0);
  EXPECT_TRUE(Free(F_WRLCK, 0, 0));
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Open(1, 0), 0);
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 0), kLockSuccess) << "flock takes read-only descriptors";
  EXPECT_FALSE(Free(F_RDLCK, 0, 0));
  client_.Version(kMsize);
  EXPECT_TRUE(Free(F_WRLCK, 0, 0));
}

TEST_F(P9LockTest, OnAReadOnlyExportAWriteLockIsAReadLockToOthers) {
  Export config;
  config.read_only = true;
  Start(std::move(config));
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Open(1, 0), 0);
  EXPECT_EQ(client_.Lock(1, kLockWrite, 0, 0), kLockSuccess);
  EXPECT_TRUE(Free(F_RDLCK, 0, 0));
  EXPECT_FALSE(Free(F_WRLCK, 0, 0));
}

TEST_F(P9LockTest, RangesAndTypesAreChecked) {
  EXPECT_EQ(client_.Lock(1, 3, 0, 0), -EINVAL);
  EXPECT_EQ(client_.Lock(1, kLockRead, uint64_t{1} << 63, 0), -EINVAL);
  EXPECT_EQ(client_.Lock(1, kLockRead, ~uint64_t{0}, ~uint64_t{0}), -EINVAL);
  EXPECT_EQ(client_.Lock(1, kLockRead, 1, uint64_t{1} << 63), -EINVAL);
  EXPECT_EQ(client_.Lock(1, kLockRead, (uint64_t{1} << 63) - 1, 1), kLockSuccess);
  EXPECT_EQ(std::get<0>(Test(1, 3, 0, 0)), -EINVAL);
  EXPECT_EQ(client_.Lock(kRoot, kLockRead, 0, 0), -EBADF) << "not open";
  ASSERT_EQ(client_.Walk(kRoot, 3, {}), 0);
  ASSERT_EQ(client_.Open(3, 0), 0);
  EXPECT_EQ(client_.Lock(3, kLockWrite, 0, 0), kLockSuccess) << "directories: the guest's affair";
  EXPECT_EQ(std::get<0>(Test(3, kLockWrite, 0, 0)), int{kLockUnlock});
}

TEST_F(P9LockTest, AFloodOfLocksIsBounded) {
  int status = kLockSuccess;
  uint32_t i = 0;
  for (; i < 6000 && status == kLockSuccess; i++) {
    status = client_.Lock(1, i % 2 == 0 ? kLockRead : kLockWrite, uint64_t{i} * 2, 1);
  }
  EXPECT_EQ(status, kLockError);
  EXPECT_EQ(i, 4097u);
  EXPECT_EQ(client_.Lock(1, kLockUnlock, 0, 0), kLockSuccess);
  EXPECT_TRUE(Free(F_WRLCK, 0, 0));
}

}  // namespace
}  // namespace clearvm::p9::test
