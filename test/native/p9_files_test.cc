#include <dirent.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <set>

#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

constexpr uint32_t kReadOnly = 0;
constexpr uint32_t kWriteOnly = 1;
constexpr uint32_t kReadWrite = 2;

TEST_F(P9Test, AttributesAreTheHosts) {
  WriteFile(host_ / "file", std::string(10000, 'x'));
  ASSERT_EQ(chmod((host_ / "file").c_str(), 04751), 0);
  ASSERT_EQ(chown((host_ / "file").c_str(), 1234, 567), 0);
  ASSERT_EQ(chmod((host_ / "file").c_str(), 04751), 0);
  const timespec times[2] = {{1000000007, 123456789}, {1500000001, 987654321}};
  ASSERT_EQ(utimensat(AT_FDCWD, (host_ / "file").c_str(), times, 0), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  Attributes found;
  ASSERT_EQ(client_.GetAttributes(1, &found), 0);
  const struct stat expected = Lstat(host_ / "file");
  EXPECT_EQ(found.valid & kStatBasic, kStatBasic);
  EXPECT_EQ(found.mode, S_IFREG | 04751u);
  EXPECT_EQ(found.uid, 1234u);
  EXPECT_EQ(found.gid, 567u);
  EXPECT_EQ(found.nlink, 1u);
  EXPECT_EQ(found.size, 10000u);
  EXPECT_EQ(found.blocks, static_cast<uint64_t>(expected.st_blocks));
  EXPECT_EQ(found.blksize, static_cast<uint64_t>(expected.st_blksize));
  EXPECT_EQ(found.atime, 1000000007u);
  EXPECT_EQ(found.atime_ns, 123456789u);
  EXPECT_EQ(found.mtime, 1500000001u);
  EXPECT_EQ(found.mtime_ns, 987654321u);
  EXPECT_EQ(found.ctime, static_cast<uint64_t>(expected.st_ctim.tv_sec));
  EXPECT_EQ(found.ctime_ns, static_cast<uint64_t>(expected.st_ctim.tv_nsec));
  EXPECT_EQ(found.gen, 0u);
  if ((found.valid & kStatBtime) != 0) {
    EXPECT_GT(found.btime, 1500000001u);
  }
  ASSERT_EQ(client_.GetAttributes(1, &found, kStatBasic), 0);
  EXPECT_EQ(found.valid, kStatBasic);
}

TEST_F(P9Test, DeviceNumbersAreEncodedAsTheKernelDoes) {
  ASSERT_EQ(mknod((host_ / "dev").c_str(), S_IFCHR | 0600, makedev(0xabc, 0xdef12)), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dev"}), 0);
  Attributes found;
  ASSERT_EQ(client_.GetAttributes(1, &found), 0);
  EXPECT_EQ(found.mode, S_IFCHR | 0600u);
  // new_encode_dev: minor & 0xff, major << 8, the rest of minor << 12.
  EXPECT_EQ(found.rdev, 0x12u | 0xabcu << 8 | (0xdef00u << 12));
}

TEST_F(P9Test, StatFsSaysThatThisIs9p) {
  Reply reply = client_.Call(kTstatfs, Fields().U32(kRoot));
  ASSERT_EQ(reply.type, kTstatfs + 1);
  struct statfs expected;
  ASSERT_EQ(statfs(host_.c_str(), &expected), 0);
  EXPECT_EQ(reply.U32(), 0x01021997u);
  EXPECT_EQ(reply.U32(), static_cast<uint32_t>(expected.f_bsize));
  EXPECT_EQ(reply.U64(), expected.f_blocks);
}

TEST_F(P9Test, FilesAreReadAndWritten) {
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Create(1, "file", kReadWrite, 0640, 77), 0);
  std::string big(100000, '\0');
  for (size_t i = 0; i < big.size(); i++) big[i] = static_cast<char>(i * 7 + i / 251);
  ASSERT_EQ(client_.Write(1, 0, big), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), big);
  std::string data;
  ASSERT_EQ(client_.Read(1, 0, 1 << 20, &data), 0);
  EXPECT_EQ(data, big);
  ASSERT_EQ(client_.Read(1, 99990, 100, &data), 0);
  EXPECT_EQ(data, big.substr(99990));
  ASSERT_EQ(client_.Read(1, 100000, 100, &data), 0);
  EXPECT_EQ(data, "");
  ASSERT_EQ(client_.Read(1, uint64_t{1} << 40, 100, &data), 0);
  EXPECT_EQ(data, "");
  EXPECT_EQ(client_.Read(1, ~uint64_t{0}, 100, &data), EINVAL);
  EXPECT_EQ(client_.Write(1, ~uint64_t{0}, "x"), EINVAL);
  ASSERT_EQ(client_.Write(1, 10, ""), 0);
  EXPECT_EQ(client_.Sync(1), 0);
  EXPECT_EQ(client_.Sync(1, 1), 0);
  const struct stat attributes = Lstat(host_ / "file");
  EXPECT_EQ(attributes.st_mode, S_IFREG | 0640u);
  EXPECT_EQ(attributes.st_gid, 77u);
}

TEST_F(P9Test, AccessModesHold) {
  WriteFile(host_ / "file", "text");
  std::string data;
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  EXPECT_EQ(client_.Read(1, 0, 4, &data), EBADF) << "not open yet";
  EXPECT_EQ(client_.Write(1, 0, "x"), EBADF);
  EXPECT_EQ(client_.Open(1, 3), EINVAL);
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  EXPECT_EQ(client_.Open(1, kReadOnly), EBADF) << "open already";
  EXPECT_EQ(client_.Write(1, 0, "x"), EBADF);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  ASSERT_EQ(client_.Open(2, kWriteOnly), 0);
  EXPECT_EQ(client_.Read(2, 0, 4, &data), EBADF);
  EXPECT_EQ(client_.Write(2, 0, "T"), 0);
  ASSERT_EQ(client_.Read(1, 0, 4, &data), 0);
  EXPECT_EQ(data, "Text");
}

TEST_F(P9Test, OpenFlagsAreHonoured) {
  WriteFile(host_ / "file", "0123456789");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.Open(1, kWriteOnly | kOpenAppend | kOpenSync | kOpenDsync), 0);
  ASSERT_EQ(client_.Write(1, 0, "ab"), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), "0123456789ab");
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  EXPECT_EQ(client_.Open(2, kReadOnly | kOpenDirectory), ENOTDIR);
  // Unknown bits, O_DIRECT, O_NONBLOCK, O_CREAT and O_PATH mean nothing here.
  ASSERT_EQ(
      client_.Open(2, kReadWrite | kOpenTruncate | kOpenNoAtime | 0xffe00040u | 0x4000 | 0x800), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), "");
  EXPECT_EQ(client_.Write(2, 3, "x"), 0);
}

TEST_F(P9Test, AppendingToAnExclusiveExportGoesWhereTheClientSays) {
  Export config;
  config.exclusive = true;
  Start(std::move(config));
  // The client has "0123" in its cache, and appends by O_DIRECT before that is written back.
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Create(1, "file", kReadWrite | kOpenAppend, 0644), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  ASSERT_EQ(client_.Open(2, kWriteOnly | kOpenAppend), 0);
  ASSERT_EQ(client_.Write(2, 4, "cd"), 0);
  ASSERT_EQ(client_.Write(1, 0, "0123"), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), "0123cd");
}

TEST_F(P9Test, CreateOpensWhatIsThereUnlessExclusive) {
  WriteFile(host_ / "file", "old");
  ASSERT_EQ(chmod((host_ / "file").c_str(), 0600), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  EXPECT_EQ(client_.Create(1, "file", kReadWrite | kOpenExclusive, 0644), EEXIST);
  ASSERT_EQ(client_.Create(1, "file", kReadWrite, 0644, 5), 0);
  EXPECT_EQ(Lstat(host_ / "file").st_mode & 07777, 0600u) << "a file that was there keeps its mode";
  EXPECT_EQ(Lstat(host_ / "file").st_gid, 0u);
  std::string data;
  ASSERT_EQ(client_.Read(1, 0, 10, &data), 0);
  EXPECT_EQ(data, "old");
  ASSERT_EQ(client_.Walk(kRoot, 2, {}), 0);
  ASSERT_EQ(client_.Create(2, "file", kReadWrite | kOpenTruncate, 0644), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), "");
  EXPECT_EQ(client_.Create(2, "x", kReadWrite, 0644), ENOTDIR) << "the fid is the file's now";
}

TEST_F(P9Test, NewFilesHaveTheOwnerAndModeAskedFor) {
  umask(0077);
  ASSERT_EQ(client_.Attach(1, 4242), 0);
  ASSERT_EQ(client_.Walk(1, 2, {}), 0);
  ASSERT_EQ(client_.Create(2, "file", kReadWrite, 06777, 99), 0);
  ASSERT_EQ(client_.Mkdir(1, "dir", 03777, 98), 0);
  ASSERT_EQ(client_.Symlink(1, "link", "target", 97), 0);
  ASSERT_EQ(client_.Mknod(1, "fifo", S_IFIFO | 0666, 0, 0, 96), 0);
  ASSERT_EQ(client_.Mknod(1, "device", S_IFBLK | 0660, 7, 300, 95), 0);
  ASSERT_EQ(client_.Mknod(1, "node", 0604, 0, 0, 94), 0);
  umask(022);
  const std::vector<std::tuple<const char*, uint32_t, uint32_t>> expected = {
      {"file", S_IFREG | 06777u, 99},  {"dir", S_IFDIR | 03777u, 98},
      {"link", S_IFLNK | 0777u, 97},   {"fifo", S_IFIFO | 0666u, 96},
      {"device", S_IFBLK | 0660u, 95}, {"node", S_IFREG | 0604u, 94}};
  for (const auto& [name, mode, gid] : expected) {
    const struct stat attributes = Lstat(host_ / name);
    EXPECT_EQ(attributes.st_uid, 4242u) << name;
    EXPECT_EQ(attributes.st_gid, gid) << name;
    EXPECT_EQ(attributes.st_mode, mode) << name;
  }
  EXPECT_EQ(Lstat(host_ / "device").st_rdev, makedev(7, 300));
}

TEST_F(P9Test, AnAttachWithoutUidIsRoots) {
  ASSERT_EQ(client_.Attach(1, kNoUid), 0);
  ASSERT_EQ(client_.Mkdir(1, "dir", 0755), 0);
  EXPECT_EQ(Lstat(host_ / "dir").st_uid, 0u);
}

TEST_F(P9Test, NodesOfOddTypesAndNumbersAreRefused) {
  EXPECT_EQ(client_.Mknod(kRoot, "x", S_IFDIR | 0755), EINVAL);
  EXPECT_EQ(client_.Mknod(kRoot, "x", S_IFLNK | 0755), EINVAL);
  EXPECT_EQ(client_.Mknod(kRoot, "x", S_IFMT | 0755), EINVAL);
  EXPECT_EQ(client_.Mknod(kRoot, "x", S_IFCHR | 0755, 4096, 0), EINVAL);
  EXPECT_EQ(client_.Mknod(kRoot, "x", S_IFCHR | 0755, 0, 1 << 20), EINVAL);
  EXPECT_TRUE(std::filesystem::is_empty(host_));
}

TEST_F(P9Test, SpecialFilesAreNeverOpened) {
  ASSERT_EQ(mkfifo((host_ / "fifo").c_str(), 0666), 0);
  ASSERT_EQ(mknod((host_ / "null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  ASSERT_EQ(mknod((host_ / "socket").c_str(), S_IFSOCK | 0666, 0), 0);
  std::filesystem::create_symlink(outside_ / "secret", host_ / "link");
  uint32_t fid = 1;
  for (const char* name : {"fifo", "null", "socket", "link"}) {
    const int expected = name == std::string("link") ? ELOOP : ENXIO;
    for (const uint32_t flags : {kReadOnly, kWriteOnly, kReadWrite}) {
      ASSERT_EQ(client_.Walk(kRoot, ++fid, {name}), 0);
      EXPECT_EQ(client_.Open(fid, flags), expected) << name;
      ASSERT_EQ(client_.Walk(kRoot, ++fid, {}), 0);
      EXPECT_EQ(client_.Create(fid, name, flags, 0644), expected) << name;
      EXPECT_EQ(client_.Create(fid, name, flags | kOpenTruncate, 0644), expected) << name;
    }
    ASSERT_EQ(client_.Walk(kRoot, ++fid, {name}), 0);
    EXPECT_EQ(client_.SetAttributes(fid, kSetSize, 0), EINVAL) << name;
    EXPECT_EQ(client_.Sync(fid), expected) << name;
    uint64_t size = 1;
    EXPECT_EQ(client_.XattrWalk(fid, 1, "", &size), 0);
    EXPECT_EQ(size, 0u);
    ASSERT_EQ(client_.Clunk(1), 0);
    EXPECT_EQ(client_.XattrWalk(fid, 1, "user.x", &size), EOPNOTSUPP);
    EXPECT_EQ(client_.XattrCreate(fid, "user.x", 1), EOPNOTSUPP);
  }
  EXPECT_EQ(ReadFile(outside_ / "secret"), "secret");
}

TEST_F(P9Test, AttributesAreSet) {
  WriteFile(host_ / "file", "0123456789");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  ASSERT_EQ(client_.SetAttributes(1, kSetMode | kSetUid | kSetGid, S_IFREG | 04711, 11, 22), 0);
  struct stat found = Lstat(host_ / "file");
  EXPECT_EQ(found.st_mode, S_IFREG | 04711u) << "the mode is set after the owner";
  EXPECT_EQ(found.st_uid, 11u);
  EXPECT_EQ(found.st_gid, 22u);
  ASSERT_EQ(client_.SetAttributes(1, kSetUid, 0, 33), 0);
  found = Lstat(host_ / "file");
  EXPECT_EQ(found.st_uid, 33u);
  EXPECT_EQ(found.st_gid, 22u);
  EXPECT_EQ(found.st_mode, S_IFREG | 0711u) << "a new owner takes the set-id bit away";

  ASSERT_EQ(client_.SetAttributes(1, kSetSize, 0, 0, 0, 4), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), "0123");
  ASSERT_EQ(client_.SetAttributes(1, kSetSize, 0, 0, 0, 6), 0);
  EXPECT_EQ(ReadFile(host_ / "file"), std::string("0123\0\0", 6));
  EXPECT_EQ(client_.SetAttributes(1, kSetSize, 0, 0, 0, ~uint64_t{0}), EFBIG);

  ASSERT_EQ(client_.SetAttributes(1, kSetAtime | kSetAtimeSet | kSetMtime | kSetMtimeSet, 0, 0, 0,
                                  0, 5, 6, 7, 8),
            0);
  found = Lstat(host_ / "file");
  EXPECT_EQ(found.st_atim.tv_sec, 5);
  EXPECT_EQ(found.st_atim.tv_nsec, 6);
  EXPECT_EQ(found.st_mtim.tv_sec, 7);
  EXPECT_EQ(found.st_mtim.tv_nsec, 8);
  ASSERT_EQ(client_.SetAttributes(1, kSetMtime, 0), 0);
  found = Lstat(host_ / "file");
  EXPECT_EQ(found.st_atim.tv_sec, 5);
  EXPECT_GT(found.st_mtim.tv_sec, 1700000000);
  EXPECT_EQ(client_.SetAttributes(1, kSetMtime | kSetMtimeSet, 0, 0, 0, 0, 0, 0, 0, 1000000000),
            EINVAL);
  EXPECT_EQ(client_.SetAttributes(1, kSetAtime | kSetAtimeSet, 0, 0, 0, 0, 0, UTIME_NOW), EINVAL);

  const timespec before = found.st_ctim;
  usleep(20000);
  ASSERT_EQ(client_.SetAttributes(1, kSetCtime, 0), 0);
  found = Lstat(host_ / "file");
  EXPECT_TRUE(found.st_ctim.tv_sec != before.tv_sec || found.st_ctim.tv_nsec != before.tv_nsec);
  EXPECT_EQ(found.st_uid, 33u);
}

TEST_F(P9Test, AttributesOfDirectoriesAndLinksAreSet) {
  ASSERT_EQ(client_.Mkdir(kRoot, "dir", 0755), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"dir"}), 0);
  ASSERT_EQ(client_.SetAttributes(1, kSetMode | kSetUid, 01777, 5), 0);
  EXPECT_EQ(Lstat(host_ / "dir").st_mode, S_IFDIR | 01777u);
  EXPECT_EQ(Lstat(host_ / "dir").st_uid, 5u);
  EXPECT_EQ(client_.SetAttributes(1, kSetSize, 0), EISDIR);

  // What a link points to is not touched, wherever it points.
  std::filesystem::create_symlink(outside_ / "secret", host_ / "link");
  const struct stat secret = Lstat(outside_ / "secret");
  ASSERT_EQ(client_.Walk(kRoot, 2, {"link"}), 0);
  ASSERT_EQ(client_.SetAttributes(2, kSetUid | kSetGid, 0, 8, 9), 0);
  EXPECT_EQ(client_.SetAttributes(2, kSetMode, 0777), EOPNOTSUPP);
  ASSERT_EQ(client_.SetAttributes(2, kSetMtime | kSetMtimeSet, 0, 0, 0, 0, 0, 0, 77, 0), 0);
  EXPECT_EQ(Lstat(host_ / "link").st_uid, 8u);
  EXPECT_EQ(Lstat(host_ / "link").st_gid, 9u);
  EXPECT_EQ(Lstat(host_ / "link").st_mtim.tv_sec, 77);
  const struct stat after = Lstat(outside_ / "secret");
  EXPECT_EQ(after.st_uid, secret.st_uid);
  EXPECT_EQ(after.st_mode, secret.st_mode);
  EXPECT_EQ(after.st_mtim.tv_sec, secret.st_mtim.tv_sec);
  EXPECT_EQ(after.st_ctim.tv_nsec, secret.st_ctim.tv_nsec);
}

TEST_F(P9Test, ModesOfNodesAreSetWithoutOpeningThem) {
  ASSERT_EQ(mkfifo((host_ / "fifo").c_str(), 0666), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"fifo"}), 0);
  ASSERT_EQ(client_.SetAttributes(1, kSetMode, 0600), 0);
  EXPECT_EQ(Lstat(host_ / "fifo").st_mode, S_IFIFO | 0600u);
}

TEST_F(P9Test, SetIdBitsGoWithAWriteOrTruncation) {
  const auto prepare = [this](mode_t mode) {
    WriteFile(host_ / "file", "text");
    ASSERT_EQ(chmod((host_ / "file").c_str(), mode), 0);
  };
  const auto mode = [this] { return Lstat(host_ / "file").st_mode & 07777; };
  uint32_t fid = 0;

  prepare(06755);
  ASSERT_EQ(client_.Walk(kRoot, ++fid, {"file"}), 0);
  ASSERT_EQ(client_.Open(fid, kReadWrite), 0);
  ASSERT_EQ(client_.Write(fid, 0, ""), 0);
  EXPECT_EQ(mode(), 06755u) << "nothing was written";
  ASSERT_EQ(client_.Write(fid, 0, "x"), 0);
  EXPECT_EQ(mode(), 0755u);
  prepare(06755);
  ASSERT_EQ(client_.Write(fid, 0, "y"), 0);
  EXPECT_EQ(mode(), 0755u) << "bits that came after the opening, too";

  prepare(06755);
  ASSERT_EQ(client_.SetAttributes(fid, kSetSize, 0, 0, 0, 1), 0);
  EXPECT_EQ(mode(), 0755u);
  prepare(04755);
  ASSERT_EQ(client_.Walk(kRoot, ++fid, {"file"}), 0);
  ASSERT_EQ(client_.SetAttributes(fid, kSetSize, 0, 0, 0, 1), 0);
  EXPECT_EQ(mode(), 0755u);
  prepare(04755);
  ASSERT_EQ(client_.Walk(kRoot, ++fid, {"file"}), 0);
  ASSERT_EQ(client_.Open(fid, kWriteOnly | kOpenTruncate), 0);
  EXPECT_EQ(mode(), 0755u);

  prepare(02644);
  ASSERT_EQ(client_.Write(fid, 0, "x"), 0);
  EXPECT_EQ(mode(), 02644u) << "set-group-id without group execution marks mandatory locking";
}

TEST_F(P9Test, DirectoriesAreListed) {
  std::filesystem::create_directory(host_ / "sub");
  std::filesystem::create_symlink("x", host_ / "link");
  WriteFile(host_ / "file", "x");
  WriteFile(host_ / std::string(255, 'L'), "x");
  ASSERT_EQ(mkfifo((host_ / "fifo").c_str(), 0666), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  std::vector<DirEntry> entries;
  EXPECT_EQ(client_.ReadDirectory(1, 0, 8192, &entries), EBADF) << "not open";
  ASSERT_EQ(client_.Open(1, kReadOnly | kOpenDirectory), 0);
  ASSERT_EQ(client_.ReadDirectory(1, 0, 8192, &entries), 0);
  ASSERT_EQ(entries.size(), 7u);
  const uint64_t root = Lstat(host_).st_ino;
  for (const DirEntry& entry : entries) {
    if (entry.name == "." || entry.name == "..") {
      EXPECT_EQ(entry.qid.path, root) << "above the root there is nothing";
      EXPECT_EQ(entry.type, DT_DIR);
      continue;
    }
    const struct stat attributes = Lstat(host_ / entry.name);
    EXPECT_EQ(entry.qid.path, attributes.st_ino) << entry.name;
    EXPECT_EQ(entry.type, IFTODT(attributes.st_mode)) << entry.name;
    EXPECT_EQ(entry.qid.type, S_ISDIR(attributes.st_mode)   ? kQidDirectory
                              : S_ISLNK(attributes.st_mode) ? kQidSymlink
                                                            : 0);
  }
  std::vector<DirEntry> rest;
  ASSERT_EQ(client_.ReadDirectory(1, entries.back().offset, 8192, &rest), 0);
  EXPECT_TRUE(rest.empty());
  std::string data;
  EXPECT_EQ(client_.Read(1, 0, 100, &data), EISDIR);
  EXPECT_EQ(client_.Write(1, 0, "x"), EBADF);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"sub"}), 0);
  EXPECT_EQ(client_.Open(2, kReadWrite), EISDIR);
  EXPECT_EQ(client_.Open(2, kReadOnly | kOpenTruncate), EISDIR);
  ASSERT_EQ(client_.Open(2, kReadOnly), 0);
  ASSERT_EQ(client_.ReadDirectory(2, 0, 8192, &rest), 0);
  ASSERT_EQ(rest.size(), 2u);
  for (const DirEntry& entry : rest) {
    EXPECT_EQ(entry.qid.path, entry.name == ".." ? root : Lstat(host_ / "sub").st_ino);
  }
  EXPECT_EQ(client_.Sync(2), 0);
}

TEST_F(P9Test, LargeDirectoriesAreListedInPiecesOfAnySize) {
  std::set<std::string> names = {".", ".."};
  for (int i = 0; i < 3000; i++) {
    const std::string name = std::to_string(i) + std::string(static_cast<size_t>(i) % 200, 'n');
    WriteFile(host_ / name, "");
    names.insert(name);
  }
  for (const uint32_t count : {300u, 1000u, 4097u, 65536u, 500000u}) {
    ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
    ASSERT_EQ(client_.Open(1, kReadOnly), 0);
    std::multiset<std::string> found;
    uint64_t offset = 0;
    while (true) {
      std::vector<DirEntry> entries;
      ASSERT_EQ(client_.ReadDirectory(1, offset, count, &entries), 0) << count;
      if (entries.empty()) break;
      for (const DirEntry& entry : entries) found.insert(entry.name);
      offset = entries.back().offset;
    }
    EXPECT_EQ(found, std::multiset<std::string>(names.begin(), names.end())) << count;
    ASSERT_EQ(client_.Clunk(1), 0);
  }
}

TEST_F(P9Test, DirectoriesAreListedWhileTheyAreEmptied) {
  for (int i = 0; i < 2000; i++) WriteFile(host_ / ("file" + std::to_string(i)), "");
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  uint64_t offset = 0;
  while (true) {
    std::vector<DirEntry> entries;
    ASSERT_EQ(client_.ReadDirectory(1, offset, 2000, &entries), 0);
    if (entries.empty()) break;
    for (const DirEntry& entry : entries) {
      if (entry.name[0] != '.') {
        ASSERT_EQ(client_.UnlinkAt(kRoot, entry.name), 0) << entry.name;
      }
    }
    offset = entries.back().offset;
  }
  EXPECT_TRUE(std::filesystem::is_empty(host_));
}

TEST_F(P9Test, ListingsCanBeRewoundAndNeedRoom) {
  WriteFile(host_ / std::string(255, 'L'), "x");
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  std::vector<DirEntry> entries;
  ASSERT_EQ(client_.ReadDirectory(1, 0, 8192, &entries), 0);
  std::vector<DirEntry> again;
  ASSERT_EQ(client_.ReadDirectory(1, 0, 8192, &again), 0);
  EXPECT_EQ(entries.size(), again.size());
  entries.clear();
  EXPECT_EQ(client_.ReadDirectory(1, 0, 10, &entries), EMSGSIZE);
  EXPECT_EQ(client_.ReadDirectory(1, 0, 0, &entries), EMSGSIZE);
  ASSERT_EQ(client_.ReadDirectory(1, 0, 8192, &entries), 0);
  EXPECT_EQ(entries.size(), again.size()) << "a reply that did not fit loses nothing";
  EXPECT_EQ(client_.ReadDirectory(1, ~uint64_t{0}, 8192, &entries), EINVAL);
}

TEST_F(P9Test, ReadOnlyExportsAreNotChanged) {
  WriteFile(host_ / "file", "text");
  std::filesystem::create_directory(host_ / "dir");
  Export config;
  config.read_only = true;
  Start(std::move(config));
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  for (const uint32_t flags :
       {kWriteOnly, kReadWrite, kReadOnly | kOpenTruncate, kReadWrite | kOpenAppend}) {
    EXPECT_EQ(client_.Open(1, flags), EROFS) << flags;
  }
  EXPECT_EQ(client_.SetAttributes(1, kSetMode, 0777), EROFS);
  EXPECT_EQ(client_.SetAttributes(1, 0, 0), EROFS);
  EXPECT_EQ(client_.Create(kRoot, "new", kReadOnly, 0644), EROFS);
  EXPECT_EQ(client_.Create(kRoot, "file", kReadOnly, 0644), EROFS);
  EXPECT_EQ(client_.Mkdir(kRoot, "new", 0755), EROFS);
  EXPECT_EQ(client_.Mknod(kRoot, "new", S_IFREG), EROFS);
  EXPECT_EQ(client_.Symlink(kRoot, "new", "x"), EROFS);
  EXPECT_EQ(client_.Link(kRoot, 1, "new"), EROFS);
  EXPECT_EQ(client_.Rename(1, kRoot, "new"), EROFS);
  EXPECT_EQ(client_.RenameAt(kRoot, "file", kRoot, "new"), EROFS);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "file"), EROFS);
  EXPECT_EQ(client_.UnlinkAt(kRoot, "dir", kUnlinkRemoveDir), EROFS);
  EXPECT_EQ(client_.XattrCreate(1, "user.x", 1), EROFS);
  ASSERT_EQ(client_.Open(1, kReadOnly), 0);
  std::string data;
  ASSERT_EQ(client_.Read(1, 0, 10, &data), 0);
  EXPECT_EQ(data, "text");
  EXPECT_EQ(client_.Write(1, 0, "x"), EBADF);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  EXPECT_EQ(client_.Remove(2), EROFS);
  EXPECT_EQ(ReadFile(host_ / "file"), "text");
}

TEST_F(P9Test, QidsDifferAcrossDevices) {
  // A file system of its own below the export: its inode numbers may be those of files in the
  // other.
  std::filesystem::create_directory(host_ / "proc");
  Export config;
  config.root.reset();
  host_ = "/";
  Start({});
  ASSERT_EQ(client_.Walk(kRoot, 1, {"proc", "self"}), 0);
  ASSERT_EQ(client_.Walk(kRoot, 2, {"sys"}), 0);
  Attributes root, other, proc;
  ASSERT_EQ(client_.GetAttributes(kRoot, &root), 0);
  ASSERT_EQ(client_.GetAttributes(1, &proc), 0);
  ASSERT_EQ(client_.GetAttributes(2, &other), 0);
  EXPECT_EQ(root.qid.path >> 48, 0u);
  EXPECT_NE(proc.qid.path >> 48, 0u);
  EXPECT_NE(other.qid.path >> 48, 0u);
  EXPECT_NE(proc.qid.path >> 48, other.qid.path >> 48);
  EXPECT_EQ(client_.Walk(1, 3, {"root"}), ENOTDIR) << "/proc/self is a link";
  ASSERT_EQ(client_.Walk(kRoot, 3, {"proc", std::to_string(getpid()), "root"}), 0);
  EXPECT_EQ(client_.Walk(3, 4, {"etc"}), ENOTDIR) << "and /proc/PID/root is but a link, too";
  EXPECT_EQ(client_.Open(3, kReadOnly), ELOOP);
}

}  // namespace
}  // namespace clearvm::p9::test
