#include <sys/resource.h>

#include <cerrno>

#include "test/native/p9_fixture.h"

namespace clearvm::p9::test {
namespace {

TEST_F(P9Test, ExportMustBeADirectory) {
  WriteFile(host_ / "file", "x");
  Export config;
  config.root.reset(open((host_ / "file").c_str(), O_PATH | O_CLOEXEC));
  auto server = Server::Create(std::move(config));
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code, "ERR_9P_EXPORT");
  EXPECT_NE(server.error().message.find("not a directory"), std::string::npos);
}

TEST_F(P9Test, ExportLimitsAreChecked) {
  const auto create = [this](uint32_t max_message, uint32_t max_fids) {
    Export config;
    config.root.reset(open(host_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    config.max_message = max_message;
    config.max_fids = max_fids;
    return Server::Create(std::move(config)).ok();
  };
  EXPECT_FALSE(create(4095, 1));
  EXPECT_TRUE(create(4096, 1));
  EXPECT_TRUE(create(1024 * 1024, 1));
  EXPECT_FALSE(create(1024 * 1024 + 1, 1));
  EXPECT_FALSE(create(4096, 0));
  EXPECT_FALSE(Server::Create(Export{}).ok());
}

TEST_F(P9Test, ProcOfAnotherProcessIsRefused) {
  Export config;
  config.root.reset(open(host_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  // Any directory in which the descriptor's number is no link to the root.
  config.proc_self_fd.reset(open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC));
  auto server = Server::Create(std::move(config));
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code, "ERR_9P_EXPORT");
}

TEST_F(P9Test, VersionNegotiates) {
  Reply reply = client_.Version(8192);
  EXPECT_EQ(reply.type, kTversion + 1);
  EXPECT_EQ(reply.tag, kNoTag);
  EXPECT_EQ(reply.U32(), 8192u);
  EXPECT_EQ(reply.Text(), "9P2000.L");
  reply = client_.Version(0x7fffffff);
  EXPECT_EQ(reply.U32(), 512u * 1024);
  EXPECT_EQ(client_.Version(4095).error(), EINVAL);
  reply = client_.Version(8192, "9P2000.u");
  EXPECT_EQ(reply.U32(), 8192u);
  EXPECT_EQ(reply.Text(), "unknown");
  EXPECT_EQ(client_.Attach(kRoot), EPROTO) << "no session without a version";
}

TEST_F(P9Test, VersionForgetsAllFids) {
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  client_.Version(kMsize);
  Attributes attributes;
  EXPECT_EQ(client_.GetAttributes(kRoot, &attributes), EBADF);
  EXPECT_EQ(client_.GetAttributes(1, &attributes), EBADF);
  EXPECT_EQ(client_.Attach(kRoot), 0);
}

TEST_F(P9Test, ResetForgetsTheSession) {
  server_->Reset();
  EXPECT_EQ(client_.Attach(1), EPROTO);
}

TEST_F(P9Test, AttachIsForTheWholeTreeOnly) {
  EXPECT_EQ(client_.Attach(1, 0, "/"), 0);
  EXPECT_EQ(client_.Attach(2, 0, "/.."), ENOENT);
  EXPECT_EQ(client_.Attach(2, 0, "sub"), ENOENT);
  EXPECT_EQ(client_.Attach(kRoot), EBADF) << "the fid is in use";
  EXPECT_EQ(client_.Attach(kNoFid), EBADF);
  EXPECT_EQ(client_.Do(kTattach, Fields().U32(2).U32(1).Text("").Text("").U32(0)), EBADF)
      << "an afid that nobody has authenticated";
  EXPECT_EQ(client_.Do(kTauth, Fields().U32(3).Text("").Text("").U32(0)), EOPNOTSUPP);
}

TEST_F(P9Test, FlushIsAnsweredAtOnce) { EXPECT_EQ(client_.Do(kTflush, Fields().U16(7)), 0); }

TEST_F(P9Test, WalkGivesQidsOfEveryStep) {
  std::filesystem::create_directories(host_ / "a/b");
  WriteFile(host_ / "a/b/file", "x");
  std::filesystem::create_symlink("/etc/passwd", host_ / "a/link");
  Reply reply = client_.WalkReply(kRoot, 1, {"a", "b", "file"});
  ASSERT_EQ(reply.U16(), 3);
  EXPECT_EQ(reply.TakeQid().type, kQidDirectory);
  EXPECT_EQ(reply.TakeQid().path, Lstat(host_ / "a/b").st_ino);
  const Qid file = reply.TakeQid();
  EXPECT_EQ(file.type, 0);
  EXPECT_EQ(file.path, Lstat(host_ / "a/b/file").st_ino);
  EXPECT_NE(file.version, 0u) << "v9fs 6.4 and later would not cache it";
  reply = client_.WalkReply(kRoot, 2, {"a", "link"});
  ASSERT_EQ(reply.U16(), 2);
  reply.TakeQid();
  EXPECT_EQ(reply.TakeQid().type, kQidSymlink);
}

TEST_F(P9Test, WalkThatStopsMidwayMakesNoFid) {
  std::filesystem::create_directory(host_ / "a");
  Reply reply = client_.WalkReply(kRoot, 1, {"a", "nothing", "x"});
  EXPECT_EQ(reply.U16(), 1);
  Attributes attributes;
  EXPECT_EQ(client_.GetAttributes(1, &attributes), EBADF);
  EXPECT_EQ(client_.Walk(kRoot, 1, {"nothing"}), ENOENT);
}

TEST_F(P9Test, WalkNeedsADirectory) {
  WriteFile(host_ / "file", "x");
  std::filesystem::create_directory_symlink("/", host_ / "link");
  EXPECT_EQ(client_.Walk(kRoot, 1, {"file", "x"}), -1);
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
  EXPECT_EQ(client_.Walk(1, 2, {"x"}), ENOTDIR);
  ASSERT_EQ(client_.Walk(kRoot, 3, {"link"}), 0);
  EXPECT_EQ(client_.Walk(3, 4, {"etc"}), ENOTDIR) << "symbolic links are the guest's to follow";
}

TEST_F(P9Test, WalkInPlaceAndClone) {
  std::filesystem::create_directory(host_ / "a");
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Walk(1, 1, {"a"}), 0);
  Attributes attributes;
  ASSERT_EQ(client_.GetAttributes(1, &attributes), 0);
  EXPECT_EQ(attributes.qid.path, Lstat(host_ / "a").st_ino);
  EXPECT_EQ(client_.Walk(1, 1, {"nothing"}), ENOENT);
  ASSERT_EQ(client_.GetAttributes(1, &attributes), 0) << "a failed walk leaves the fid";
  EXPECT_EQ(client_.Walk(1, kRoot, {}), EBADF) << "the new fid is in use";
  EXPECT_EQ(client_.Walk(1, kNoFid, {}), EBADF);
}

TEST_F(P9Test, WalkUpStaysInTheExport) {
  std::filesystem::create_directories(host_ / "a/b");
  Reply reply = client_.WalkReply(kRoot, 1, {"..", "..", "a", "b", "..", "..", "..", "a"});
  ASSERT_EQ(reply.U16(), 8);
  const uint64_t root = Lstat(host_).st_ino;
  const uint64_t a = Lstat(host_ / "a").st_ino;
  const uint64_t b = Lstat(host_ / "a/b").st_ino;
  for (const uint64_t expected : {root, root, a, b, a, root, root, a}) {
    EXPECT_EQ(reply.TakeQid().path, expected);
  }
}

TEST_F(P9Test, WalkUpFromAMovedDirectoryDoesNotLeaveTheExport) {
  std::filesystem::create_directory(host_ / "a");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"a"}), 0);
  std::filesystem::rename(host_ / "a", outside_ / "a");
  EXPECT_EQ(client_.Walk(1, 2, {".."}), EXDEV);
  EXPECT_EQ(client_.Walk(1, 2, {"..", "secret"}), EXDEV);
}

TEST_F(P9Test, NamesAreSingleAndOfLimitedLength) {
  std::filesystem::create_directories(host_ / "a/b");
  const std::string longest(255, 'n');
  WriteFile(host_ / longest, "x");
  EXPECT_EQ(client_.Walk(kRoot, 1, {"a/b"}), EINVAL);
  EXPECT_EQ(client_.Walk(kRoot, 1, {"/"}), EINVAL);
  EXPECT_EQ(client_.Walk(kRoot, 1, {""}), EINVAL);
  EXPECT_EQ(client_.Walk(kRoot, 1, {"."}), EINVAL);
  EXPECT_EQ(client_.Walk(kRoot, 1, {std::string("a\0b", 3)}), EINVAL);
  EXPECT_EQ(client_.Walk(kRoot, 1, {std::string(256, 'n')}), ENAMETOOLONG);
  EXPECT_EQ(client_.Walk(kRoot, 1, {longest}), 0);
  for (const char* name : {"..", ".", "", "../x", "a/x"}) {
    EXPECT_EQ(client_.Mkdir(kRoot, name, 0755), EINVAL) << name;
    EXPECT_EQ(client_.Mknod(kRoot, name, S_IFREG | 0644), EINVAL) << name;
    EXPECT_EQ(client_.Symlink(kRoot, name, "x"), EINVAL) << name;
    EXPECT_EQ(client_.Link(kRoot, 1, name), EINVAL) << name;
    EXPECT_EQ(client_.Create(kRoot, name, 0, 0644), EINVAL) << name;
    EXPECT_EQ(client_.UnlinkAt(kRoot, name), EINVAL) << name;
    EXPECT_EQ(client_.UnlinkAt(kRoot, name, kUnlinkRemoveDir), EINVAL) << name;
    EXPECT_EQ(client_.RenameAt(kRoot, name, kRoot, "y"), EINVAL) << name;
    EXPECT_EQ(client_.RenameAt(kRoot, "a", kRoot, name), EINVAL) << name;
    EXPECT_EQ(client_.Rename(1, kRoot, name), EINVAL) << name;
  }
}

TEST_F(P9Test, WalkOfTooManyNames) {
  EXPECT_EQ(client_.Walk(kRoot, 1, std::vector<std::string>(17, "..")), EINVAL);
  EXPECT_EQ(client_.Walk(kRoot, 1, std::vector<std::string>(16, "..")), 0);
}

TEST_F(P9Test, FidsAreLimitedAndComeBack) {
  Export config;
  config.max_fids = 500;
  Start(std::move(config));
  for (uint32_t fid = 1; fid < 500; fid++) {
    // Numbers that fall into the same slots of the table, and others.
    ASSERT_EQ(client_.Walk(kRoot, fid * 1024 + fid % 3, {}), 0) << fid;
  }
  EXPECT_EQ(client_.Walk(kRoot, 7, {}), ENFILE);
  EXPECT_EQ(client_.Attach(7), ENFILE);
  uint64_t size;
  EXPECT_EQ(client_.XattrWalk(kRoot, 7, "", &size), ENFILE);
  for (uint32_t fid = 1; fid < 500; fid += 2) {
    ASSERT_EQ(client_.Clunk(fid * 1024 + fid % 3), 0) << fid;
  }
  Attributes attributes;
  for (uint32_t fid = 1; fid < 500; fid++) {
    ASSERT_EQ(client_.GetAttributes(fid * 1024 + fid % 3, &attributes), fid % 2 == 1 ? EBADF : 0)
        << fid;
  }
  EXPECT_EQ(client_.Walk(kRoot, 7, {}), 0);
}

TEST_F(P9Test, DescriptorsRunningOutAreAnError) {
  for (int i = 0; i < 100; i++) WriteFile(host_ / std::to_string(i), "x");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  int error = 0;
  uint32_t fid = 1;
  for (; fid <= 100 && error == 0; fid++) {
    error = client_.Walk(kRoot, fid, {std::to_string(fid - 1)});
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(error, EMFILE);
  EXPECT_EQ(client_.Walk(kRoot, fid, {"1"}), 0) << "and nothing is broken by it";
}

TEST_F(P9Test, UnknownFidsAreErrorsEverywhere) {
  const uint32_t bad = 99;
  Attributes attributes;
  std::string text;
  std::vector<DirEntry> entries;
  uint64_t size;
  EXPECT_EQ(client_.Walk(bad, 1, {}), EBADF);
  EXPECT_EQ(client_.Clunk(bad), EBADF);
  EXPECT_EQ(client_.Open(bad, 0), EBADF);
  EXPECT_EQ(client_.Create(bad, "x", 0, 0644), EBADF);
  EXPECT_EQ(client_.Read(bad, 0, 1, &text), EBADF);
  EXPECT_EQ(client_.Write(bad, 0, "x"), EBADF);
  EXPECT_EQ(client_.ReadDirectory(bad, 0, 1000, &entries), EBADF);
  EXPECT_EQ(client_.GetAttributes(bad, &attributes), EBADF);
  EXPECT_EQ(client_.SetAttributes(bad, kSetMode, 0644), EBADF);
  EXPECT_EQ(client_.Do(kTstatfs, Fields().U32(bad)), EBADF);
  EXPECT_EQ(client_.Mkdir(bad, "x", 0755), EBADF);
  EXPECT_EQ(client_.Mknod(bad, "x", S_IFREG), EBADF);
  EXPECT_EQ(client_.Symlink(bad, "x", "y"), EBADF);
  EXPECT_EQ(client_.ReadLink(bad, &text), EBADF);
  EXPECT_EQ(client_.Link(kRoot, bad, "x"), EBADF);
  EXPECT_EQ(client_.Link(bad, kRoot, "x"), EBADF);
  EXPECT_EQ(client_.Rename(bad, kRoot, "x"), EBADF);
  EXPECT_EQ(client_.Rename(kRoot, bad, "x"), EBADF);
  EXPECT_EQ(client_.RenameAt(bad, "x", kRoot, "y"), EBADF);
  EXPECT_EQ(client_.RenameAt(kRoot, "x", bad, "y"), EBADF);
  EXPECT_EQ(client_.UnlinkAt(bad, "x"), EBADF);
  EXPECT_EQ(client_.Remove(bad), EBADF);
  EXPECT_EQ(client_.Sync(bad), EBADF);
  EXPECT_EQ(client_.Lock(bad, kLockWrite, 0, 0), -EBADF);
  EXPECT_EQ(client_.Do(kTgetlock, Fields().U32(bad).U8(0).U64(0).U64(0).U32(1).Text("x")), EBADF);
  EXPECT_EQ(client_.XattrWalk(bad, 1, "", &size), EBADF);
  EXPECT_EQ(client_.XattrCreate(bad, "user.x", 1), EBADF);
}

// Every message, cut to every length and stretched, with a size field that tells the truth and one
// that does not.
TEST_F(P9Test, WrongLengthsAreErrors) {
  const std::vector<std::pair<uint8_t, Fields>> messages = {
      {kTversion, Fields().U32(8192).Text("9P2000.L")},
      {kTattach, Fields().U32(50).U32(kNoFid).Text("u").Text("").U32(0)},
      {kTflush, Fields().U16(1)},
      {kTwalk, Fields().U32(0).U32(51).U16(2).Text("a").Text("b")},
      {kTlopen, Fields().U32(0).U32(0)},
      {kTlcreate, Fields().U32(0).Text("n").U32(0).U32(0644).U32(0)},
      {kTread, Fields().U32(0).U64(0).U32(5)},
      {kTwrite, Fields().U32(0).U64(0).U32(3).Bytes("abc")},
      {kTreaddir, Fields().U32(0).U64(0).U32(500)},
      {kTgetattr, Fields().U32(0).U64(0x3fff)},
      {kTsetattr, Fields().U32(0).U32(0).U32(0).U32(0).U32(0).U64(0).U64(0).U64(0).U64(0).U64(0)},
      {kTstatfs, Fields().U32(0)},
      {kTmkdir, Fields().U32(0).Text("d").U32(0755).U32(0)},
      {kTmknod, Fields().U32(0).Text("m").U32(S_IFREG | 0644).U32(0).U32(0).U32(0)},
      {kTsymlink, Fields().U32(0).Text("s").Text("t").U32(0)},
      {kTreadlink, Fields().U32(0)},
      {kTlink, Fields().U32(0).U32(0).Text("l")},
      {kTrename, Fields().U32(0).U32(0).Text("r")},
      {kTrenameat, Fields().U32(0).Text("x").U32(0).Text("y")},
      {kTunlinkat, Fields().U32(0).Text("u").U32(0)},
      {kTremove, Fields().U32(0)},
      {kTfsync, Fields().U32(0).U32(0)},
      {kTlock, Fields().U32(0).U8(0).U32(0).U64(0).U64(0).U32(0).Text("c")},
      {kTgetlock, Fields().U32(0).U8(0).U64(0).U64(0).U32(0).Text("c")},
      {kTxattrwalk, Fields().U32(0).U32(52).Text("user.x")},
      {kTxattrcreate, Fields().U32(0).Text("user.x").U64(1).U32(0)},
      {kTclunk, Fields().U32(0)},
  };
  for (const auto& [type, fields] : messages) {
    const std::string whole = Client::Message(type, 7, fields);
    for (size_t length = 0; length < whole.size(); length++) {
      std::string lying = whole.substr(0, length);
      EXPECT_EQ(client_.Raw(lying).error(), EPROTO) << int{type} << " cut to " << length;
      if (length < kHeaderBytes) continue;
      std::string honest = lying;
      const auto size = static_cast<uint32_t>(honest.size());
      std::memcpy(honest.data(), &size, sizeof(size));
      EXPECT_EQ(client_.Raw(honest).error(), EPROTO) << int{type} << " of " << length;
    }
    EXPECT_EQ(client_.Raw(whole + "x").error(), EPROTO) << int{type} << " stretched";
    std::string stretched = whole + "x";
    const auto size = static_cast<uint32_t>(stretched.size());
    std::memcpy(stretched.data(), &size, sizeof(size));
    EXPECT_EQ(client_.Raw(stretched).error(), EPROTO) << int{type} << " stretched honestly";
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(host_), {}), 0)
      << "none of them did anything";
}

TEST_F(P9Test, UnknownTypesAreNotSupported) {
  for (int type = 0; type < 256; type++) {
    const std::string message = Client::Message(static_cast<uint8_t>(type), 3, Fields());
    const Reply reply = client_.Raw(message);
    EXPECT_EQ(reply.type, kRlerror) << type;
    EXPECT_EQ(reply.tag, 3) << type;
    EXPECT_TRUE(reply.error() == EOPNOTSUPP || reply.error() == EPROTO) << type;
  }
}

TEST_F(P9Test, MessagesLargerThanMsizeAreErrors) {
  client_.Version(4096);
  ASSERT_EQ(client_.Attach(kRoot), 0);
  ASSERT_EQ(client_.Walk(kRoot, 1, {}), 0);
  ASSERT_EQ(client_.Create(1, "f", 2, 0644), 0);
  EXPECT_EQ(client_.Write(1, 0, std::string(4096 - kWriteHeader, 'x')), 0);
  EXPECT_EQ(client_.Write(1, 0, std::string(4096 - kWriteHeader + 1, 'x')), EMSGSIZE);
  std::string data;
  ASSERT_EQ(client_.Read(1, 0, 1 << 20, &data), 0);
  EXPECT_EQ(data.size(), 4096 - kWriteHeader);
  EXPECT_EQ(client_.Raw(Client::Message(kTwalk, 1, Fields().Bytes(std::string(9000, 'x')))).error(),
            EMSGSIZE);
}

TEST_F(P9Test, RepliesThatDoNotFitAreErrors) {
  reply_bytes_ = 10;
  EXPECT_EQ(Exchange(Client::Message(kTstatfs, 1, Fields().U32(kRoot))).size(), 0u)
      << "not even an error fits";
  reply_bytes_ = kErrorBytes;
  EXPECT_EQ(client_.Do(kTstatfs, Fields().U32(kRoot)), EMSGSIZE);
  WriteFile(host_ / "file", "0123456789");
  ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), EMSGSIZE);
  reply_bytes_ = 100;
  ASSERT_EQ(client_.Walk(kRoot, 2, {"file"}), 0);
  ASSERT_EQ(client_.Open(2, 0), 0);
  reply_bytes_ = kReadHeader + 4;
  std::string data;
  ASSERT_EQ(client_.Read(2, 0, 100, &data), 0);
  EXPECT_EQ(data, "0123");
  reply_bytes_ = kReadHeader;
  ASSERT_EQ(client_.Read(2, 0, 100, &data), 0);
  EXPECT_EQ(data, "");
}

TEST_F(P9Test, BuffersMayBeScatteredAnyhow) {
  WriteFile(host_ / "file", "0123456789abcdef");
  for (const size_t part : {1, 2, 3, 7, 11, 12, 23, 24, 100}) {
    request_part_ = part;
    reply_part_ = part;
    reply_bytes_ = 1000;
    ASSERT_EQ(client_.Walk(kRoot, 1, {"file"}), 0);
    ASSERT_EQ(client_.Open(1, 2), 0);
    std::string data;
    ASSERT_EQ(client_.Read(1, 3, 5, &data), 0);
    EXPECT_EQ(data, "34567");
    ASSERT_EQ(client_.Write(1, 2, "XY"), 0);
    EXPECT_EQ(ReadFile(host_ / "file"), "01XY456789abcdef");
    ASSERT_EQ(client_.Write(1, 2, "23"), 0);
    ASSERT_EQ(client_.Clunk(1), 0);
  }
}

}  // namespace
}  // namespace clearvm::p9::test
