// A client that means harm, over a socket: it must get errors and nothing else.
#include <poll.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <random>
#include <set>
#include <thread>

#include "test/native/p9_fixture.h"
#include "test/native/p9_socket.h"

namespace clearvm::p9::test {
namespace {

constexpr auto kRaceTime = std::chrono::milliseconds(1500);

class P9AttackTest : public P9Test {
 protected:
  void SetUp() override {
    P9Test::SetUp();
    Connect();
  }
  void TearDown() override {
    Disconnect();
    P9Test::TearDown();
  }
  void Connect() {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    mine_.reset(pair[0]);
    theirs_.reset(pair[1]);
    thread_ = std::thread([this] {
      ServeStream(theirs_.get(), server_.get(), 512 * 1024);
      shutdown(theirs_.get(), SHUT_RDWR);
    });
    ASSERT_EQ(attacker_.Version(kMsize).type, kTversion + 1);
    ASSERT_EQ(attacker_.Attach(kRoot), 0);
  }
  void Disconnect() {
    if (mine_.valid()) shutdown(mine_.get(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
  }
  std::string Send(const std::string& message) {
    if (!WriteAll(mine_.get(), message.data(), message.size())) return {};
    uint32_t size;
    if (!ReadAll(mine_.get(), &size, sizeof(size)) || size < sizeof(size)) return {};
    std::string reply(size, '\0');
    std::memcpy(reply.data(), &size, sizeof(size));
    if (!ReadAll(mine_.get(), reply.data() + sizeof(size), size - sizeof(size))) return {};
    return reply;
  }
  bool Alive() {
    Attributes attributes;
    return attacker_.Version(kMsize).type == kTversion + 1 && attacker_.Attach(kRoot) == 0 &&
           attacker_.GetAttributes(kRoot, &attributes) == 0;
  }
  void ExpectOutsideUntouched() {
    EXPECT_EQ(ReadFile(outside_ / "secret"), "secret");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(outside_), {}), 1);
    EXPECT_EQ(Lstat(outside_ / "secret").st_mode & 07777, 0644u);
    EXPECT_EQ(Lstat(outside_ / "secret").st_nlink, 1u);
  }
  // Runs `disturb` on another thread while `attack` runs here, for a while.
  template <typename Disturb, typename Attack>
  void Race(Disturb disturb, Attack attack) {
    std::atomic<bool> stop = false;
    std::thread other([&] {
      while (!stop) disturb();
    });
    const auto end = std::chrono::steady_clock::now() + kRaceTime;
    while (std::chrono::steady_clock::now() < end) attack();
    stop = true;
    other.join();
  }

  UniqueFd mine_;
  UniqueFd theirs_;
  std::thread thread_;
  Client attacker_{[this](const std::string& message) { return Send(message); }};
};

TEST_F(P9AttackTest, FramesThatCannotBeDelimitedEndTheConnection) {
  for (const uint32_t size : {0u, 3u, 0xffffffffu, 0x80000000u}) {
    const auto bytes = std::string(reinterpret_cast<const char*>(&size), sizeof(size));
    EXPECT_EQ(Send(bytes), "") << size;
    Disconnect();
    Connect();
  }
  EXPECT_TRUE(Alive());
}

TEST_F(P9AttackTest, TinyFramesAreAnswered) {
  for (uint32_t size = 4; size < kHeaderBytes; size++) {
    std::string frame(size, '\xff');
    std::memcpy(frame.data(), &size, sizeof(size));
    EXPECT_EQ(attacker_.Raw(frame).error(), EPROTO);
  }
  EXPECT_TRUE(Alive());
}

TEST_F(P9AttackTest, RandomMessagesGetAnswers) {
  std::mt19937 random(4711);
  for (int i = 0; i < 20000; i++) {
    const uint32_t size = kHeaderBytes + random() % 64;
    std::string frame(size, '\0');
    for (char& byte : frame) byte = static_cast<char>(random() % (random() % 2 == 0 ? 4 : 256));
    std::memcpy(frame.data(), &size, sizeof(size));
    const Reply reply = attacker_.Raw(frame);
    ASSERT_TRUE(reply.type == kRlerror || reply.type == static_cast<uint8_t>(frame[4] + 1));
  }
  EXPECT_TRUE(Alive());
  ExpectOutsideUntouched();
}

TEST_F(P9AttackTest, LinksThatPointOutsideReachNothing) {
  std::filesystem::create_symlink(outside_, host_ / "absolute");
  std::filesystem::create_symlink("../outside", host_ / "relative");
  std::filesystem::create_symlink(outside_ / "secret", host_ / "file");
  std::filesystem::create_symlink("/proc/self/root", host_ / "magic");
  uint32_t fid = 0;
  for (const char* name : {"absolute", "relative", "file", "magic"}) {
    EXPECT_EQ(attacker_.Walk(kRoot, 999, {name, "secret"}), -1) << name;
    ASSERT_EQ(attacker_.Walk(kRoot, ++fid, {name}), 0);
    EXPECT_EQ(attacker_.Walk(fid, 999, {"secret"}), ENOTDIR);
    EXPECT_EQ(attacker_.Walk(fid, 999, {".."}), ENOTDIR);
    EXPECT_EQ(attacker_.Open(fid, 0), ELOOP);
    EXPECT_EQ(attacker_.Create(fid, "new", 2, 0644), ENOTDIR);
    EXPECT_EQ(attacker_.Mkdir(fid, "new", 0755), ENOTDIR);
    EXPECT_EQ(attacker_.Mknod(fid, "new", S_IFREG | 0644), ENOTDIR);
    EXPECT_EQ(attacker_.Symlink(fid, "new", "x"), ENOTDIR);
    EXPECT_EQ(attacker_.Link(fid, kRoot, "new"), ENOTDIR);
    EXPECT_EQ(attacker_.UnlinkAt(fid, "secret"), ENOTDIR);
    EXPECT_EQ(attacker_.RenameAt(fid, "secret", kRoot, "stolen"), ENOTDIR);
    EXPECT_EQ(attacker_.RenameAt(kRoot, "file", fid, "new"), ENOTDIR);
    EXPECT_EQ(attacker_.SetAttributes(fid, kSetMode, 0777), EOPNOTSUPP);
    EXPECT_EQ(attacker_.SetAttributes(fid, kSetSize, 0), EINVAL);
    EXPECT_EQ(attacker_.Lock(fid, kLockWrite, 0, 0), -EBADF);
  }
  ASSERT_EQ(attacker_.Walk(kRoot, 500, {}), 0);
  EXPECT_EQ(attacker_.Create(500, "file", 2 | kOpenTruncate, 0644), ELOOP);
  EXPECT_EQ(attacker_.Create(500, "file", 2 | kOpenTruncate | kOpenExclusive, 0644), EEXIST);
  ExpectOutsideUntouched();
}

TEST_F(P9AttackTest, ADirectoryThatBecomesALinkLeadsNowhere) {
  std::filesystem::create_directory(host_ / "real");
  std::filesystem::create_directory_symlink(outside_, host_ / "link");
  WriteFile(host_ / "real/secret", "harmless");
  const std::string dir = host_ / "dir";
  std::filesystem::rename(host_ / "real", dir);
  uint64_t attempts = 0;
  uint64_t reads = 0;
  Race(
      [&] {
        // The directory and the link change places.
        rename(dir.c_str(), (host_ / "real").c_str());
        rename((host_ / "link").c_str(), dir.c_str());
        rename(dir.c_str(), (host_ / "link").c_str());
        rename((host_ / "real").c_str(), dir.c_str());
      },
      [&] {
        attempts++;
        if (attacker_.Walk(kRoot, 1, {"dir", "secret"}) == 0) {
          std::string data;
          ASSERT_EQ(attacker_.Open(1, 0), 0);
          ASSERT_EQ(attacker_.Read(1, 0, 100, &data), 0);
          ASSERT_EQ(data, "harmless");
          attacker_.Clunk(1);
          reads++;
        }
        if (attacker_.Walk(kRoot, 2, {"dir"}) == 0) {
          attacker_.Mkdir(2, "new", 0755);
          attacker_.UnlinkAt(2, "new", kUnlinkRemoveDir);
          attacker_.RenameAt(2, "secret", 2, "secret2");
          attacker_.RenameAt(2, "secret2", 2, "secret");
          attacker_.Create(2, "file", 2, 0666);
          attacker_.Write(2, 0, "evil");
          attacker_.Remove(2);
        }
      });
  EXPECT_GT(attempts, 100u);
  EXPECT_GT(reads, 0u) << "the race was never lost: it proves nothing";
  ExpectOutsideUntouched();
}

TEST_F(P9AttackTest, ADirectoryThatIsMovedOutDoesNotOpenTheWayUp) {
  std::filesystem::create_directories(host_ / "a/b/c");
  const std::string inside = host_ / "a/b";
  const std::string moved = outside_ / "b";
  const std::set<uint64_t> allowed = {Lstat(host_).st_ino, Lstat(host_ / "a").st_ino,
                                      Lstat(host_ / "a/b").st_ino};
  ASSERT_EQ(attacker_.Walk(kRoot, 1, {"a", "b", "c"}), 0);
  uint64_t refused = 0;
  uint64_t walked = 0;
  Race(
      [&] {
        rename(inside.c_str(), moved.c_str());
        rename(moved.c_str(), inside.c_str());
      },
      [&] {
        Reply reply = attacker_.WalkReply(1, 2, {"..", "..", ".."});
        if (reply.type == kRlerror) {
          ASSERT_EQ(reply.error(), EXDEV);
          refused++;
          return;
        }
        const uint16_t count = reply.U16();
        for (uint16_t i = 0; i < count; i++) {
          ASSERT_EQ(allowed.count(reply.TakeQid().path), 1u);
          walked++;
        }
        attacker_.Clunk(2);
      });
  EXPECT_GT(refused, 0u);
  EXPECT_GT(walked, 0u);
  ExpectOutsideUntouched();
}

TEST_F(P9AttackTest, AFileThatBecomesADeviceIsNotOpened) {
  const std::string path = host_ / "node";
  WriteFile(host_ / "file", "file");
  ASSERT_EQ(mkfifo((host_ / "fifo").c_str(), 0666), 0);
  ASSERT_EQ(link((host_ / "file").c_str(), path.c_str()), 0);
  const std::string next = host_ / "next";
  // An open of the FIFO would hang; a thread that hangs fails the test by time.
  Race(
      [&] {
        for (const char* name : {"fifo", "file"}) {
          if (link((host_ / name).c_str(), next.c_str()) == 0) rename(next.c_str(), path.c_str());
        }
      },
      [&] {
        if (attacker_.Walk(kRoot, 1, {"node"}) == 0) {
          const int error = attacker_.Open(1, 1);
          ASSERT_TRUE(error == 0 || error == ENXIO) << error;
          attacker_.Clunk(1);
        }
        ASSERT_EQ(attacker_.Walk(kRoot, 2, {}), 0);
        const int error = attacker_.Create(2, "node", 1, 0666);
        ASSERT_TRUE(error == 0 || error == ENXIO || error == ENOENT) << error;
        attacker_.Clunk(2);
      });
  ExpectOutsideUntouched();
}

TEST_F(P9AttackTest, AHundredThousandFidsAreTooMany) {
  int error = 0;
  uint32_t fid = 1;
  // The clones share one descriptor: the fid limit ends it.
  for (; fid < 100000 && error == 0; fid++) error = attacker_.Walk(kRoot, fid * 2654435761u, {});
  EXPECT_EQ(error, ENFILE);
  EXPECT_EQ(fid, 65537u);
  EXPECT_TRUE(Alive());
}

TEST_F(P9AttackTest, DeepTreesAreWalkedUp) {
  ASSERT_EQ(attacker_.Walk(kRoot, 1, {}), 0);
  for (int depth = 0; depth < 1000; depth++) {
    ASSERT_EQ(attacker_.Mkdir(1, "d", 0755), 0);
    ASSERT_EQ(attacker_.Walk(1, 1, {"d"}), 0);
  }
  EXPECT_EQ(attacker_.Walk(1, 2, {"..", ".."}), 0);
  Attributes attributes;
  EXPECT_EQ(attacker_.GetAttributes(2, &attributes), 0);
}

}  // namespace
}  // namespace clearvm::p9::test
