#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>

#include "native/base/journal.h"

namespace clearvm {
namespace {

class Journal : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/clearvm-journal-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  void TearDown() override { [[maybe_unused]] int done = ::system(("rm -rf " + path_).c_str()); }
  std::string Read(const std::string& name) {
    std::ifstream file(path_ + "/events/" + name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  Result<void> Append(std::string_view lines, uint64_t most = 1 << 20) {
    return AppendToJournal(path_ + "/events", lines, most);
  }
  std::string path_;
};

TEST_F(Journal, IsMadeAndAppendedTo) {
  EXPECT_TRUE(Append("one\n").ok());
  EXPECT_TRUE(Append("two\nthree\n").ok());
  EXPECT_EQ(Read("journal"), "one\ntwo\nthree\n");
  struct stat info;
  ASSERT_EQ(::stat((path_ + "/events/journal").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(Journal, IsRotatedWhenItIsFull) {
  for (const char* line : {"one\n", "two\n", "three\n", "four\n"})
    EXPECT_TRUE(Append(line, 8).ok());
  EXPECT_EQ(Read("journal.1"), "one\ntwo\n");
  EXPECT_EQ(Read("journal"), "three\nfour\n");
  EXPECT_TRUE(Append("five\n", 8).ok());
  EXPECT_EQ(Read("journal.1"), "three\nfour\n");
}

TEST_F(Journal, FollowsNoLink) {
  ASSERT_EQ(::mkdir((path_ + "/events").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("../secret", (path_ + "/events/journal").c_str()), 0);
  EXPECT_EQ(Append("line\n").error().code, "ERR_JOURNAL");
  EXPECT_NE(::access((path_ + "/secret").c_str(), F_OK), 0);
}

TEST_F(Journal, KeepsEveryLineOfManyWriters) {
  constexpr int kWriters = 8;
  constexpr int kLines = 200;
  for (int writer = 0; writer < kWriters; writer++) {
    if (::fork() != 0) continue;
    for (int i = 0; i < kLines; i++) {
      const std::string line = std::to_string(writer) + " " + std::to_string(i) + "\n";
      if (!Append(line, 6000).ok()) ::_exit(1);
    }
    ::_exit(0);
  }
  for (int status, i = 0; i < kWriters; i++) {
    ASSERT_GT(::wait(&status), 0);
    EXPECT_EQ(status, 0);
  }
  // The older of two files may have gone: what is left are whole lines, in each writer's order.
  std::map<int, int> last;
  std::stringstream lines(Read("journal.1") + Read("journal"));
  int writer, number, count = 0;
  for (std::string line; std::getline(lines, line); count++) {
    ASSERT_EQ(::sscanf(line.c_str(), "%d %d", &writer, &number), 2) << line;
    const int before = last.contains(writer) ? last[writer] : number - 1;
    EXPECT_EQ(number, before + 1);
    last[writer] = number;
  }
  EXPECT_GT(count, 6000 / 7);
}

}  // namespace
}  // namespace clearvm
