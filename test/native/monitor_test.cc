#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "native/monitor/json.h"
#include "native/monitor/json_log.h"
#include "native/monitor/request.h"
#include "native/monitor/restart.h"
#include "native/monitor/state_file.h"

namespace clearvm::monitor {
namespace {

using std::chrono::milliseconds;

std::span<const uint8_t> Bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class MonitorFiles : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/clearvm-monitor-XXXXXX";
    path_ = ::mkdtemp(name);
    directory_ = UniqueFd(::open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  void TearDown() override { [[maybe_unused]] int done = ::system(("rm -rf " + path_).c_str()); }

  JsonLog Open(uint64_t size, uint32_t files) {
    auto log = JsonLog::Open(directory_.get(), "log", size, files);
    EXPECT_TRUE(log.ok());
    return std::move(log).value();
  }
  // The file without the times, which every line ends with.
  std::string Read(const std::string& name) {
    std::ifstream file(path_ + "/" + name);
    std::string text;
    for (std::string line; std::getline(file, line);) {
      const size_t time = line.find(",\"time\":\"20");
      EXPECT_EQ(line.size() - time,
                std::string(",\"time\":\"2026-01-01T00:00:00.000000000Z\"}").size());
      text += line.substr(0, time) + "\n";
    }
    return text;
  }
  bool Exists(const std::string& name) { return ::access((path_ + "/" + name).c_str(), F_OK) == 0; }

  std::string path_;
  UniqueFd directory_;
};

TEST(MonitorJson, EscapesAsDockerDoes) {
  const auto json = [](std::string_view text) {
    std::string out;
    AppendJsonString(out, text);
    return out;
  };
  EXPECT_EQ(json("plain"), "\"plain\"");
  EXPECT_EQ(json("a\"\\\n\r\t\x01\x7f<&>"), R"("a\"\\\n\r\t\u0001\u007f\u003c\u0026\u003e")");
  EXPECT_EQ(json("ä€𝄞"), "\"ä€𝄞\"");
  EXPECT_EQ(json("\xe2\x80\xa8"), "\"\\u2028\"");
  // No UTF-8: a lone byte, a cut sequence, an overlong one, a surrogate, too large a number.
  EXPECT_EQ(json("\xff"), "\"\\ufffd\"");
  EXPECT_EQ(json("\xe2\x82"), "\"\\ufffd\\ufffd\"");
  EXPECT_EQ(json("\xc0\xaf"), "\"\\ufffd\\ufffd\"");
  EXPECT_EQ(json("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\"");
  EXPECT_EQ(json("\xf4\x90\x80\x80"), "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

TEST_F(MonitorFiles, LogHasALineForEachLine) {
  JsonLog log = Open(0, 1);
  log.Write(JsonLog::kStdout, Bytes("one\ntw"));
  log.Write(JsonLog::kStderr, Bytes("err\n"));
  log.Write(JsonLog::kStdout, Bytes("o\nno end"));
  log.Flush();
  EXPECT_EQ(Read("log"),
            "{\"log\":\"one\\n\",\"stream\":\"stdout\"\n"
            "{\"log\":\"err\\n\",\"stream\":\"stderr\"\n"
            "{\"log\":\"two\\n\",\"stream\":\"stdout\"\n"
            "{\"log\":\"no end\",\"stream\":\"stdout\"\n");
}

TEST_F(MonitorFiles, LongLinesAreCutAt16K) {
  JsonLog log = Open(0, 1);
  log.Write(JsonLog::kStdout, Bytes(std::string(40000, 'x') + "\n"));
  std::istringstream lines(Read("log"));
  std::vector<size_t> lengths;
  for (std::string line; std::getline(lines, line);) {
    lengths.push_back(static_cast<size_t>(std::count(line.begin(), line.end(), 'x')));
  }
  EXPECT_EQ(lengths, (std::vector<size_t>{16384, 16384, 40000 - 2 * 16384}));
}

TEST_F(MonitorFiles, LogRotates) {
  JsonLog log = Open(100, 3);
  for (int i = 0; i < 9; i++) log.Write(JsonLog::kStdout, Bytes(std::to_string(i) + "\n"));
  // Two lines of 76 bytes reach the size; the next one goes to a new file.
  EXPECT_NE(Read("log").find("\"8\\n"), std::string::npos);
  EXPECT_NE(Read("log.1").find("\"7\\n"), std::string::npos);
  EXPECT_NE(Read("log.2").find("\"5\\n"), std::string::npos);
  EXPECT_FALSE(Exists("log.3"));
}

TEST_F(MonitorFiles, LogOfOneFileIsEmptied) {
  JsonLog log = Open(100, 1);
  for (int i = 0; i < 5; i++) log.Write(JsonLog::kStdout, Bytes(std::to_string(i) + "\n"));
  EXPECT_EQ(Read("log"), "{\"log\":\"4\\n\",\"stream\":\"stdout\"\n");
  EXPECT_FALSE(Exists("log.1"));
}

TEST_F(MonitorFiles, NoLogIsNone) {
  JsonLog log = Open(0, 0);
  log.Write(JsonLog::kStdout, Bytes("x\n"));
  EXPECT_FALSE(Exists("log"));
}

TEST_F(MonitorFiles, FullDiskLosesLinesAndCutsNone) {
  // What a full disk does, a limit on file sizes does: a write that is short, then one that fails.
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{100, before.rlim_max};
  JsonLog log = Open(0, 1);
  ::setrlimit(RLIMIT_FSIZE, &small);
  log.Write(JsonLog::kStdout, Bytes("one\ntwo\n"));
  const std::string error = log.TakeError();
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_NE(error, "");
  EXPECT_EQ(log.TakeError(), "");
  EXPECT_EQ(Read("log"), "{\"log\":\"one\\n\",\"stream\":\"stdout\"\n");
  log.Write(JsonLog::kStdout, Bytes("three\n"));
  EXPECT_NE(Read("log").find("three"), std::string::npos);
}

TEST_F(MonitorFiles, StateIsWhole) {
  State state;
  state.status = "exited";
  state.exit_code = 3;
  state.error = "a \"quoted\" one";
  ASSERT_TRUE(WriteState(directory_.get(), state).ok());
  std::stringstream text;
  text << std::ifstream(path_ + "/state.json").rdbuf();
  EXPECT_NE(text.str().find("\"version\":1,\"status\":\"exited\""), std::string::npos);
  EXPECT_NE(text.str().find("\"exitCode\":3"), std::string::npos);
  EXPECT_NE(text.str().find("a \\\"quoted\\\" one"), std::string::npos);
  EXPECT_NE(text.str().find("\"monitor\":{\"pid\":" + std::to_string(::getpid()) +
                            ",\"startTime\":\"" + ProcessStartTime(::getpid()) + "\"}"),
            std::string::npos);
  // The space of the next one.
  EXPECT_TRUE(Exists("state.json.new"));
}

TEST(MonitorState, StartTimeIsOfTheProcess) {
  EXPECT_GT(std::stoull(ProcessStartTime(::getpid())), 0u);
  EXPECT_EQ(ProcessStartTime(1 << 30), "");
}

TEST(MonitorRestarts, PolicyDecides) {
  const auto next = [](clearvm_restart kind, uint32_t most, int code, bool stopped) {
    return Restarts().Next({kind, most}, code, stopped, milliseconds(0)).count();
  };
  EXPECT_LT(next(CLEARVM_RESTART_NO, 0, 1, false), 0);
  EXPECT_LT(next(CLEARVM_RESTART_ON_FAILURE, 0, 0, false), 0);
  EXPECT_EQ(next(CLEARVM_RESTART_ON_FAILURE, 0, 1, false), 100);
  EXPECT_EQ(next(CLEARVM_RESTART_ALWAYS, 0, 0, false), 100);
  EXPECT_EQ(next(CLEARVM_RESTART_UNLESS_STOPPED, 0, 0, false), 100);
  EXPECT_LT(next(CLEARVM_RESTART_ALWAYS, 0, 137, true), 0);
}

TEST(MonitorRestarts, PausesDoubleToAMinuteAndBeginAnewAfterAGoodRun) {
  Restarts restarts;
  const RestartPolicy always{CLEARVM_RESTART_ALWAYS, 0};
  std::vector<int64_t> pauses;
  for (int i = 0; i < 12; i++) {
    pauses.push_back(restarts.Next(always, 1, false, milliseconds(9'999)).count());
  }
  EXPECT_EQ(pauses, (std::vector<int64_t>{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200,
                                          60000, 60000}));
  EXPECT_EQ(restarts.Next(always, 1, false, milliseconds(10'000)).count(), 100);
  EXPECT_EQ(restarts.count(), 13u);
}

TEST(MonitorRestarts, OnFailureHasALimit) {
  Restarts restarts;
  const RestartPolicy policy{CLEARVM_RESTART_ON_FAILURE, 2};
  EXPECT_EQ(restarts.Next(policy, 1, false, milliseconds(0)).count(), 100);
  EXPECT_EQ(restarts.Next(policy, 1, false, milliseconds(0)).count(), 200);
  EXPECT_LT(restarts.Next(policy, 1, false, milliseconds(0)).count(), 0);
  EXPECT_EQ(restarts.count(), 2u);
}

class Tlvs {
 public:
  Tlvs& Add(uint16_t tag, std::string_view value) {
    const clearvm_tlv header{tag, 0, static_cast<uint32_t>(value.size())};
    bytes_.append(reinterpret_cast<const char*>(&header), sizeof header).append(value);
    return *this;
  }
  std::string bytes_;
};

std::string Minimal() {
  return Tlvs()
      .Add(CLEARVM_MONITOR_ID, "id")
      .Add(CLEARVM_MONITOR_VMM, "/vmm")
      .Add(CLEARVM_MONITOR_KERNEL, "/kernel")
      .Add(CLEARVM_MONITOR_INITRD, "/initrd")
      .Add(CLEARVM_MONITOR_SPEC, "spec")
      .bytes_;
}

TEST(MonitorRequest, IsRead) {
  Tlvs more;
  more.bytes_ = Minimal();
  more.Add(CLEARVM_MONITOR_ARG, "--cpus").Add(CLEARVM_MONITOR_ARG, "2");
  more.Add(CLEARVM_MONITOR_RESTART, std::string_view("\1\0\0\0\5\0\0\0", 8));
  more.Add(CLEARVM_MONITOR_LOG, std::string_view("\0\4\0\0\0\0\0\0\3\0\0\0", 12));
  more.Add(CLEARVM_MONITOR_REMOVE, "/gone");
  const auto request = ParseRequest(Bytes(more.bytes_));
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request.value().arguments, (std::vector<std::string>{"--cpus", "2"}));
  EXPECT_EQ(request.value().restart.kind, CLEARVM_RESTART_ON_FAILURE);
  EXPECT_EQ(request.value().restart.most, 5u);
  EXPECT_EQ(request.value().log_size, 1024u);
  EXPECT_EQ(request.value().log_files, 3u);
  EXPECT_EQ(request.value().remove, std::vector<std::string>{"/gone"});
}

TEST(MonitorRequest, IsRefusedWhereItIsWrong) {
  const auto refused = [](const std::string& bytes) { return !ParseRequest(Bytes(bytes)).ok(); };
  EXPECT_FALSE(refused(Minimal()));
  EXPECT_TRUE(refused(""));
  for (size_t i = 1; i < Minimal().size(); i++) EXPECT_TRUE(refused(Minimal().substr(0, i)));
  EXPECT_TRUE(refused(Minimal() + Tlvs().Add(999, "").bytes_));
  EXPECT_TRUE(refused(Minimal() + Tlvs().Add(CLEARVM_MONITOR_STDIO, "abc").bytes_));
  EXPECT_TRUE(refused(Minimal() + Tlvs().Add(CLEARVM_MONITOR_REMOVE, "relative").bytes_));
  EXPECT_TRUE(refused(
      Minimal() +
      Tlvs().Add(CLEARVM_MONITOR_RESTART, std::string_view("\11\0\0\0\0\0\0\0", 8)).bytes_));
}

// On a file system of its own, which is full by then.
TEST_F(MonitorFiles, WritesTheStateToAFullDisk) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounts a tmpfs";
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, "") ||
        ::mount("none", path_.c_str(), "tmpfs", 0, "size=64k") != 0) {
      ::_exit(1);
    }
    const UniqueFd directory(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    State state;
    state.status = "running";
    ReserveState(directory.get());
    const UniqueFd filler(::openat(directory.get(), "filler", O_WRONLY | O_CREAT, 0600));
    const std::string page(4096, 'x');
    while (::write(filler.get(), page.data(), page.size()) > 0) {
    }
    if (errno != ENOSPC) ::_exit(2);
    for (const char* status : {"running", "restarting", "running", "exited"}) {
      state.status = status;
      state.error = std::string(status[0] == 'e' ? 100'000 : 10, 'e');
      if (!WriteState(directory.get(), state).ok()) ::_exit(3);
      std::ifstream file(path_ + "/state.json");
      std::stringstream text;
      text << file.rdbuf();
      if (text.str().find(status) == std::string::npos || text.str().back() != '\n') ::_exit(4);
    }
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace clearvm::monitor
