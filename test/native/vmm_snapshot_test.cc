// Snapshot files, and what a session keeps in them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "native/vmm/execs.h"
#include "native/vmm/snapshot_file.h"

namespace clearvm::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMemory = 16 << 20;

class SnapshotFileTest : public testing::Test {
 protected:
  SnapshotFileTest() {
    char name[] = "/tmp/clearvm-snapshot-XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/machine.vm";
    host_ = DescribeHost();
    host_.memory = kMemory;
    host_.cpus = 2;
    host_.devices = 3;
    auto memory = std::move(kvm::GuestMemory::Create(kMemory, kvm::Backing::kAnonymous)).value();
    for (uint64_t page : {2, 3, 1000}) *memory.Translate(page * kPage, 1) = 1;
    const UniqueFd file(::open(path_.c_str(), O_RDWR | O_CREAT, 0600));
    const auto written = WriteTemplate(file.get(), host_, state_, memory, kSnapshotFile);
    EXPECT_TRUE(written.ok()) << written.error().message;
  }
  ~SnapshotFileTest() override { (void)!std::system(("rm -rf " + directory_).c_str()); }

  std::string OpenError(const std::string& checked = "") {
    auto opened = OpenSnapshot(path_, checked, host_);
    return opened.ok() ? "" : opened.error().code;
  }
  // Without any change of its own to the file's times.
  void Flip(off_t at) const {
    const UniqueFd file(::open(path_.c_str(), O_RDWR));
    uint8_t byte = 0;
    ASSERT_EQ(::pread(file.get(), &byte, 1, at), 1);
    byte ^= 1;
    ASSERT_EQ(::pwrite(file.get(), &byte, 1, at), 1);
  }
  off_t Size() const {
    struct stat status {};
    EXPECT_EQ(::stat(path_.c_str(), &status), 0);
    return status.st_size;
  }

  std::string directory_;
  std::string path_;
  TemplateOrigin host_;
  std::vector<uint8_t> state_ = std::vector<uint8_t>(2 << 20, 7);  // more than a template may have
};

TEST_F(SnapshotFileTest, GivesBackWhatWasWritten) {
  auto opened = OpenSnapshot(path_, "", host_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value().state, state_);
}

TEST_F(SnapshotFileTest, AnyBitThatIsTurnedIsFound) {
  const off_t size = Size();
  // All of the header, then some of everything behind it.
  for (off_t at = 0; at < size; at += at < 400 ? 1 : 4093) {
    Flip(at);
    const std::string error = OpenError();
    // The gap up to the memory's first page is nobody's.
    const bool padding = at >= 304 + 4 + 2 * 24 + 4 + (2 << 20) && at < size - 3 * 4096;
    EXPECT_TRUE(error == "ERR_SNAPSHOT_DAMAGED" || error == "ERR_SNAPSHOT_FOREIGN" || padding)
        << at << ": " << error;
    Flip(at);
  }
  EXPECT_EQ(OpenError(), "");
}

TEST_F(SnapshotFileTest, CutOrGoneItIsRefused) {
  for (off_t size : {Size() - 1, Size() - 4096, off_t{5000}, off_t{100}, off_t{0}}) {
    ASSERT_EQ(::truncate(path_.c_str(), size), 0);
    EXPECT_NE(OpenError(), "") << size;
  }
  ::unlink(path_.c_str());
  EXPECT_EQ(OpenError(), "ERR_SNAPSHOT_MISSING");
}

TEST_F(SnapshotFileTest, ForAnotherHostOrVmItIsForeign) {
  const TemplateOrigin good = host_;
  host_.host[3] ^= 1;
  EXPECT_EQ(OpenError(), "ERR_SNAPSHOT_FOREIGN");
  for (const auto& change :
       std::vector<std::function<void()>>{[this] { host_.memory += kPage; },
                                          [this] { host_.cpus++; }, [this] { host_.devices--; }}) {
    host_ = good;
    change();
    EXPECT_EQ(OpenError(), "ERR_SNAPSHOT_FOREIGN");
  }
  host_ = good;
  auto other = OpenTemplate(path_, host_);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, "ERR_TEMPLATE_FOREIGN") << "nor is it a template";
}

TEST_F(SnapshotFileTest, ItsMemoryIsCheckedOnceAndAgainWhenTheFileHasChanged) {
  const std::string checked = directory_ + "/checked";
  ASSERT_EQ(OpenError(checked), "");
  EXPECT_EQ(::access(checked.c_str(), F_OK), 0);
  ASSERT_EQ(OpenError(checked), "");
  Flip(Size() - 1);
  EXPECT_EQ(OpenError(checked), "ERR_SNAPSHOT_DAMAGED");
}

TEST_F(SnapshotFileTest, ItIsLockedForAsLongAsItIsMapped) {
  const UniqueFd other(::open(path_.c_str(), O_RDWR));
  {
    auto opened = std::move(OpenSnapshot(path_, "", host_)).value();
    auto memory =
        kvm::GuestMemory::CreateFrom(kMemory, opened.file.get(), opened.file_size, opened.extents);
    ASSERT_TRUE(memory.ok());
    opened.file.reset();
    EXPECT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), -1);
    EXPECT_EQ(errno, EWOULDBLOCK);
  }
  EXPECT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(OpenError(), "ERR_SNAPSHOT_DAMAGED") << "it is being removed";
}

struct SentFrame {
  uint16_t type;
  uint32_t process;
  bool operator==(const SentFrame&) const = default;
};

class NoStreams final : public Streams {
 public:
  Result<void> Open(uint32_t, UniqueFd, UniqueFd) override { return {}; }
  void Change(uint32_t, virtio::Vsock::PortChange) override {}
};

class ExecsStateTest : public testing::Test {
 protected:
  NoStreams streams_;
  std::vector<SentFrame> sent_;
  Execs execs_{&streams_, [this](uint16_t type, uint32_t process, std::span<const uint8_t>) {
                 sent_.push_back({type, process});
               }};
  static std::vector<uint8_t> State(uint32_t number, uint8_t running, uint8_t terminal) {
    ByteWriter out;
    out.Put(uint32_t{number});
    out.Put(uint32_t{1});
    out.Put(number);
    for (uint8_t byte : {running, terminal, uint8_t{0}, uint8_t{0}}) out.Put(byte);
    return {out.bytes().begin(), out.bytes().end()};
  }
  bool Restore(std::span<const uint8_t> state) {
    ByteReader in(state);
    return execs_.Restore(in).ok() && in.Finished();
  }
  bool Say(uint16_t type, uint32_t process, std::span<const uint8_t> payload) {
    const clearvm_frame frame{static_cast<uint32_t>(payload.size()), type, 0, process};
    return execs_.OnAgentFrame(frame, payload);
  }
};

TEST_F(ExecsStateTest, ProcessesThatRanMayEndAndTerminalsHangUp) {
  ASSERT_TRUE(Restore(State(5, 1, 1)));
  EXPECT_TRUE(sent_.empty());
  execs_.HangUp();
  EXPECT_EQ(sent_, (std::vector<SentFrame>{{CLEARVM_AGENT_HANGUP, 5}}));
  ByteWriter again;
  execs_.Save(again);
  EXPECT_EQ(std::vector<uint8_t>(again.bytes().begin(), again.bytes().end()), State(5, 1, 1));
  const std::vector<uint8_t> status(8, 0);
  EXPECT_TRUE(Say(CLEARVM_AGENT_EXIT, 5, status));
  EXPECT_FALSE(Say(CLEARVM_AGENT_EXIT, 5, status)) << "it is known no more";
}

TEST_F(ExecsStateTest, OneThatWasStartingMayStart) {
  ASSERT_TRUE(Restore(State(5, 0, 0)));
  EXPECT_TRUE(Say(CLEARVM_AGENT_STARTED, 5, {}));
}

TEST_F(ExecsStateTest, NonsenseIsRefused) {
  EXPECT_FALSE(Restore(State(0, 1, 0)));
  const auto good = State(5, 1, 0);
  for (size_t size = 0; size < good.size(); size++) {
    EXPECT_FALSE(Restore(std::span(good).first(size))) << size;
  }
  EXPECT_TRUE(Restore(good));
  EXPECT_FALSE(Restore(good)) << "the same process twice";
}

}  // namespace
}  // namespace clearvm::vmm
