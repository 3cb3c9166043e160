// init's reading of /etc/passwd and /etc/group: the rules and messages are docker's and runc's.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "rootfs/parse_users.h"

namespace {

const std::string kPasswd =
    "root:x:0:0:root:/root:/bin/sh\n"
    "\n"
    "web:x:33:34:www:/srv/web:/usr/sbin/nologin\n"
    "  spaced:x:40:41::/home/spaced:/bin/sh  \n"
    "web:x:99:99::/second:/bin/sh\n"
    "100:x:200:200::/numeric-name:/bin/sh\n"
    "nohome:x:50:50:::\n"
    "short:x:60\n"
    "last:x:70:71::/last:/bin/sh";  // no newline
const std::string kGroup =
    "root:x:0:\n"
    "wheel:x:10:root,web\n"
    "web:x:34:\n"
    "tools:x:20:webby,web\n"
    "near:x:21:webby,we\n"
    "300:x:301:\n";

struct Found {
  int result;
  std::string error;
  uint32_t uid, gid;
  std::vector<uint32_t> groups;
  std::string home;
};

// The text lies in a heap block of exactly its size, so that ASan sees a read past it.
class Text {
 public:
  explicit Text(const std::string& text) : data_(text.begin(), text.end()) {}
  operator text_file() const { return {data_.data(), data_.size()}; }

 private:
  std::vector<char> data_;
};

Found Find(const char* user, const std::string& passwd = kPasswd, const std::string& group = kGroup,
           const std::vector<const char*>& additional = {}) {
  auto who = std::make_unique<identity>();
  char error[512] = "";
  int result = identity_find(user, Text(passwd), Text(group), who.get(), error, sizeof error);
  for (const char* name : additional)
    if (result == 0) result = identity_add_group(name, Text(group), who.get(), error, sizeof error);
  return {result,   error, who->uid, who->gid, {who->groups, who->groups + who->group_count},
          who->home};
}

using Groups = std::vector<uint32_t>;

TEST(InitUsersTest, NoUserIsRootWithItsGroups) {
  Found found = Find("");
  EXPECT_EQ(found.result, 0);
  EXPECT_EQ(found.uid, 0u);
  EXPECT_EQ(found.gid, 0u);
  EXPECT_EQ(found.groups, (Groups{0, 10}));
  EXPECT_EQ(found.home, "/root");
}

TEST(InitUsersTest, TheFirstEntryOfANameCounts) {
  Found found = Find("web");
  EXPECT_EQ(found.uid, 33u);
  EXPECT_EQ(found.gid, 34u);
  EXPECT_EQ(found.groups, (Groups{34, 10, 20}));
  EXPECT_EQ(found.home, "/srv/web");
}

TEST(InitUsersTest, ANumberIsAUidEvenWhereAUserIsNamedSo) {
  Found found = Find("100");
  EXPECT_EQ(found.uid, 100u);
  EXPECT_EQ(found.gid, 0u);
  EXPECT_EQ(found.home, "/");
  EXPECT_EQ(Find("200").home, "/numeric-name");
  EXPECT_EQ(Find("33").groups, (Groups{34, 10, 20}));
}

TEST(InitUsersTest, AnExplicitGroupReplacesTheGroups) {
  Found named = Find("web:tools");
  EXPECT_EQ(named.gid, 20u);
  EXPECT_EQ(named.groups, Groups{20});
  EXPECT_EQ(Find("web:4242").gid, 4242u);
  EXPECT_EQ(Find("300:300").gid, 300u) << "a number is a gid, even where a group is named so";
  Found nobody = Find("1234:10");
  EXPECT_EQ(nobody.uid, 1234u);
  EXPECT_EQ(nobody.gid, 10u);
}

TEST(InitUsersTest, ReadsIncompleteAndUntidyLines) {
  EXPECT_EQ(Find("spaced").uid, 40u);
  EXPECT_EQ(Find("nohome").home, "/");
  EXPECT_EQ(Find("short").uid, 60u);
  EXPECT_EQ(Find("short").gid, 0u);
  EXPECT_EQ(Find("last").gid, 71u);
}

TEST(InitUsersTest, WorksWithoutTheFiles) {
  Found found = Find("5:6", "", "");
  EXPECT_EQ(found.result, 0);
  EXPECT_EQ(found.uid, 5u);
  EXPECT_EQ(found.gid, 6u);
  EXPECT_EQ(Find("", "", "").home, "/");
}

TEST(InitUsersTest, SaysWhatItCannotFind) {
  EXPECT_EQ(Find("zoe").error, "unable to find user zoe: no matching entries in passwd file");
  EXPECT_EQ(Find("web:zoe").error, "unable to find group zoe: no matching entries in group file");
  EXPECT_EQ(Find("2147483648").error, "uids and gids must be in range 0-2147483647");
  EXPECT_EQ(Find("1:99999999999999999").error, "uids and gids must be in range 0-2147483647");
  EXPECT_EQ(Find("-1").error, "unable to find user -1: no matching entries in passwd file");
  EXPECT_EQ(Find("", kPasswd, kGroup, {"zoe"}).error, "Unable to find group zoe");
}

TEST(InitUsersTest, AddsGroupsOnceByNameOrNumber) {
  EXPECT_EQ(Find("web", kPasswd, kGroup, {"wheel", "77", "20", "300"}).groups,
            (Groups{34, 10, 20, 77, 301}));
}

TEST(InitUsersTest, CutsALongMessageInsteadOfOverrunning) {
  auto who = std::make_unique<identity>();
  char error[16];
  EXPECT_EQ(
      identity_find("a-user-with-a-long-name", Text(""), Text(""), who.get(), error, sizeof error),
      -1);
  EXPECT_STREQ(error, "unable to find ");
}

TEST(InitUsersTest, RefusesMoreGroupsThanTheKernelTakes) {
  std::string group;
  for (int i = 0; i <= IDENTITY_GROUPS_MAX; i++)
    group += "g:x:" + std::to_string(i + 1) + ":root\n";
  EXPECT_EQ(Find("", kPasswd, group).error, "the user is in more than 65536 groups");
}

}  // namespace
