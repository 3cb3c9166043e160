#include <gtest/gtest.h>

#include "native/jail/id_ranges.h"

namespace clearvm::jail {
namespace {

using Pairs = std::vector<std::pair<uint32_t, uint32_t>>;

Pairs Find(std::string_view text, std::string_view name, uint32_t id) {
  Pairs pairs;
  for (const IdRange& range : FindIdRanges(text, name, id)) {
    pairs.emplace_back(range.start, range.count);
  }
  return pairs;
}

TEST(IdRanges, AreAUsersByNameAndByNumber) {
  const char* text = "alice:100000:65536\nbob:1:2\n1234:300000:10\nalice:400000:5";
  EXPECT_EQ(Find(text, "alice", 1234), (Pairs{{100000, 65536}, {300000, 10}, {400000, 5}}));
  EXPECT_EQ(Find(text, "", 1234), (Pairs{{300000, 10}}));
  EXPECT_EQ(Find(text, "carol", 9), Pairs{});
  EXPECT_EQ(Find("", "alice", 1), Pairs{});
}

TEST(IdRanges, SkipsLinesThatAreNone) {
  for (const char* line : {"alice", "alice:", "alice:1", "alice:1:", "alice::1", "alice:1:0",
                           "alice:x:1", "alice:1:1x", "alice:1:1:1", "alice:-1:5", "alice: 1:5",
                           "alice:4294967296:1", "alice:4294967294:2", "alice:1:4294967295", ":1:5",
                           " alice:1:5", "#alice:1:5", "\n\n", ":::"}) {
    EXPECT_EQ(Find(std::string(line) + "\nalice:7:8\n", "alice", 5), (Pairs{{7, 8}})) << line;
  }
  EXPECT_EQ(Find("alice:4294967294:1", "alice", 5), (Pairs{{4294967294, 1}}));
}

TEST(IdRanges, AreNoMoreThanAMappingMayHave) {
  std::string text;
  for (int i = 0; i < 1000; i++) text += "alice:" + std::to_string(1000 + i) + ":1\n";
  EXPECT_EQ(FindIdRanges(text, "alice", 1).size(), 339u);
}

TEST(IdRanges, FollowTheUsersOwnIdInAMapping) {
  EXPECT_EQ(
      MappingArguments(1234, {{100000, 65536}, {7, 3}}),
      (std::vector<std::string>{"0", "1234", "1", "1", "100000", "65536", "65537", "7", "3"}));
  EXPECT_EQ(MappingArguments(5, {}), (std::vector<std::string>{"0", "5", "1"}));
  // No more numbers than there are.
  EXPECT_EQ(MappingArguments(5, {{0, 4294967294}, {0, 4294967294}}),
            (std::vector<std::string>{"0", "5", "1", "1", "0", "4294967294"}));
}

}  // namespace
}  // namespace clearvm::jail
