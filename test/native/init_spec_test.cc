// init's parser of the spec: what the VMM sends is taken whole, and anything malformed is named and
// refused.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "native/protocol/agent.h"
#include "rootfs/parse_spec.h"

namespace {

using std::string_literals::operator""s;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string Tlv(uint16_t tag, const std::string& value, uint16_t reserved = 0) {
  clearvm_tlv header{tag, reserved, static_cast<uint32_t>(value.size())};
  return Bytes(header) + value;
}

std::string Mount(uint32_t options, const std::string& strings) {
  return Tlv(CLEARVM_SPEC_MOUNT, Bytes(clearvm_spec_mount{5, options, 0}) + strings);
}

const std::string kArgument = Tlv(CLEARVM_SPEC_ARG, "true");
const std::string kRoot = Tlv(CLEARVM_SPEC_ROOT, "9p\0root\0trans=virtio\0"s);
const std::string kMinimal = kArgument + kRoot;

// A parsed spec and the bytes that it points into: exactly as many as were given, so that ASan sees
// an overrun.
class Parsed {
 public:
  explicit Parsed(const std::string& tlvs, spec_kind kind = SPEC_CONTAINER)
      : data_(std::make_unique<uint8_t[]>(tlvs.size())) {
    memcpy(data_.get(), tlvs.data(), tlvs.size());
    wrong_ = spec_parse(data_.get(), tlvs.size(), kind, &spec_);
  }
  ~Parsed() { spec_free(&spec_); }
  Parsed(const Parsed&) = delete;
  Parsed& operator=(const Parsed&) = delete;

  std::string wrong() const { return wrong_ == nullptr ? "" : wrong_; }
  const spec* operator->() const { return &spec_; }

 private:
  std::unique_ptr<uint8_t[]> data_;
  spec spec_;
  const char* wrong_;
};

class InitSpecContainerTag : public testing::TestWithParam<std::string> {};

TEST(InitSpecTest, FillsInDefaults) {
  Parsed parsed(kMinimal);
  ASSERT_EQ(parsed.wrong(), "");
  EXPECT_STREQ(parsed->args[0], "true");
  EXPECT_EQ(parsed->args[1], nullptr);
  EXPECT_EQ(parsed->env[0], nullptr);
  EXPECT_STREQ(parsed->cwd, "/");
  EXPECT_STREQ(parsed->user, "");
  EXPECT_EQ(parsed->hostname, nullptr);
  EXPECT_STREQ(parsed->root_type, "9p");
  EXPECT_STREQ(parsed->root_source, "root");
  EXPECT_STREQ(parsed->root_data, "trans=virtio");
  EXPECT_FALSE(parsed->has_caps);
}

TEST(InitSpecTest, KeepsEveryFieldInOrder) {
  std::string tlvs =
      kMinimal + Tlv(CLEARVM_SPEC_ARG, "") + Tlv(CLEARVM_SPEC_ARG, "last") +
      Tlv(CLEARVM_SPEC_ENV, "A=1") + Tlv(CLEARVM_SPEC_ENV, "EMPTY=") +
      Tlv(CLEARVM_SPEC_CWD, "/srv") + Tlv(CLEARVM_SPEC_USER, "web:10") +
      Tlv(CLEARVM_SPEC_HOSTNAME, "box") + Mount(CLEARVM_MOUNT_FILE, "9p\0tag\0/data\0ro\0"s) +
      Tlv(CLEARVM_SPEC_RLIMIT, Bytes(7u) + Bytes(0u) + Bytes(100ul) + Bytes(~0ul)) +
      Tlv(CLEARVM_SPEC_CAPS, Bytes(spec_caps{1, 2, 3, 4, 5})) +
      Tlv(CLEARVM_SPEC_FLAGS, Bytes(uint32_t{CLEARVM_FLAG_TERMINAL | CLEARVM_FLAG_STDIN})) +
      Tlv(CLEARVM_SPEC_GROUP, "wheel") + Tlv(CLEARVM_SPEC_WINSIZE, Bytes(0x00500018u)) +
      Tlv(CLEARVM_SPEC_FILE, Bytes(0640u) + "/etc/hosts\0line\n\0end"s) +
      Tlv(CLEARVM_SPEC_SYSCTL, "net.core.somaxconn=4096") + Tlv(CLEARVM_SPEC_MASK, "/proc/kcore") +
      Tlv(CLEARVM_SPEC_READONLY, "/proc/sys");
  Parsed parsed(tlvs);
  ASSERT_EQ(parsed.wrong(), "");
  ASSERT_EQ(parsed->arg_count, 3u);
  EXPECT_STREQ(parsed->args[1], "");
  EXPECT_STREQ(parsed->args[2], "last");
  EXPECT_STREQ(parsed->env[0], "A=1");
  EXPECT_STREQ(parsed->env[1], "EMPTY=");
  EXPECT_STREQ(parsed->cwd, "/srv");
  EXPECT_STREQ(parsed->user, "web:10");
  EXPECT_STREQ(parsed->hostname, "box");
  ASSERT_EQ(parsed->mount_count, 1u);
  EXPECT_EQ(parsed->mounts[0].flags, 5u);
  EXPECT_EQ(parsed->mounts[0].options, CLEARVM_MOUNT_FILE);
  EXPECT_STREQ(parsed->mounts[0].source, "tag");
  EXPECT_STREQ(parsed->mounts[0].target, "/data");
  EXPECT_STREQ(parsed->mounts[0].data, "ro");
  ASSERT_EQ(parsed->rlimit_count, 1u);
  EXPECT_EQ(parsed->rlimits[0].resource, 7u);
  EXPECT_EQ(parsed->rlimits[0].soft, 100u);
  EXPECT_EQ(parsed->rlimits[0].hard, ~0ul);
  EXPECT_EQ(parsed->caps.ambient, 5u);
  EXPECT_EQ(parsed->flags, CLEARVM_FLAG_TERMINAL | CLEARVM_FLAG_STDIN);
  EXPECT_STREQ(parsed->groups[0], "wheel");
  EXPECT_EQ(parsed->rows, 24);
  EXPECT_EQ(parsed->columns, 80);
  ASSERT_EQ(parsed->file_count, 1u);
  EXPECT_EQ(parsed->files[0].mode, 0640u);
  EXPECT_STREQ(parsed->files[0].path, "/etc/hosts");
  EXPECT_EQ(std::string(parsed->files[0].content, parsed->files[0].length), "line\n\0end"s);
  EXPECT_STREQ(parsed->sysctls[0], "net.core.somaxconn=4096");
  ASSERT_EQ(parsed->masked_count, 1u);
  EXPECT_STREQ(parsed->masked[0], "/proc/kcore");
  ASSERT_EQ(parsed->readonly_count, 1u);
  EXPECT_STREQ(parsed->readonly[0], "/proc/sys");
}

TEST(InitSpecTest, EverySpecCutShortIsRefusedOrStillWhole) {
  std::string tlvs =
      kMinimal + Mount(0, "9p\0tag\0/data\0ro\0"s) + Tlv(CLEARVM_SPEC_FILE, Bytes(0u) + "/f\0x"s);
  for (size_t length = 0; length < tlvs.size(); length++) {
    Parsed parsed(tlvs.substr(0, length));
    bool at_boundary = length == kMinimal.size() ||
                       length == kMinimal.size() + Mount(0, "9p\0tag\0/data\0ro\0"s).size();
    EXPECT_EQ(parsed.wrong() == "", at_boundary)
        << "cut to " << length << " bytes: " << parsed.wrong();
  }
}

TEST(InitSpecTest, NamesWhatIsWrong) {
  const std::pair<std::string, std::string> cases[] = {
      {kRoot, "ARG is missing"},
      {kArgument, "ROOT is missing"},
      {kMinimal + Tlv(19, ""), "unknown tag"},
      {kMinimal + Tlv(0, ""), "unknown tag"},
      {kMinimal + Tlv(CLEARVM_SPEC_ARG, "x", 1), "a header has reserved bits set"},
      {kMinimal + Tlv(CLEARVM_SPEC_ARG, "a\0b"s), "a string has a NUL in it"},
      {kMinimal + kRoot, "a tag that may come once comes twice"},
      {kMinimal + Tlv(CLEARVM_SPEC_ENV, "NOVALUE"), "ENV is not NAME=value"},
      {kMinimal + Tlv(CLEARVM_SPEC_ENV, "=x"), "ENV is not NAME=value"},
      {kMinimal + Tlv(CLEARVM_SPEC_CWD, "relative"), "CWD is not an absolute path"},
      {kMinimal + Tlv(CLEARVM_SPEC_CWD, "/" + std::string(4096, 'x')),
       "CWD is not an absolute path"},
      {kMinimal + Tlv(CLEARVM_SPEC_HOSTNAME, ""), "HOSTNAME is not 1 to 64 bytes"},
      {kMinimal + Tlv(CLEARVM_SPEC_HOSTNAME, std::string(65, 'h')),
       "HOSTNAME is not 1 to 64 bytes"},
      {kMinimal + Tlv(CLEARVM_SPEC_GROUP, ""), "GROUP is empty"},
      {kMinimal + Tlv(CLEARVM_SPEC_SYSCTL, "a.b"), "SYSCTL is not name=value"},
      {kMinimal + Tlv(CLEARVM_SPEC_MASK, "proc"), "MASK is not an absolute path"},
      {kMinimal + Tlv(CLEARVM_SPEC_READONLY, ""), "READONLY is not an absolute path"},
      {kMinimal + Tlv(CLEARVM_SPEC_PIDS, "7"), "PIDS is not 4 bytes"},
      {kMinimal + Tlv(CLEARVM_SPEC_PIDS, Bytes(0u)), "PIDS is 0"},
      {kMinimal + Tlv(CLEARVM_SPEC_OOM_SCORE, "7"), "OOM_SCORE is not 4 bytes"},
      {kMinimal + Tlv(CLEARVM_SPEC_OOM_SCORE, Bytes(-1001)), "OOM_SCORE is out of range"},
      {kMinimal + Tlv(CLEARVM_SPEC_OOM_SCORE, Bytes(1001)), "OOM_SCORE is out of range"},
      {kMinimal + Tlv(CLEARVM_SPEC_MOUNT, "short"), "MOUNT is too short"},
      {kMinimal + Mount(0, "9p\0tag\0/data\0ro"s), "MOUNT is not four strings"},
      {kMinimal + Mount(0, "9p\0tag\0/data\0ro\0more\0"s), "MOUNT is not four strings"},
      {kMinimal + Mount(0, "9p\0tag\0data\0ro\0"s), "MOUNT's target is not an absolute path"},
      {kMinimal + Mount(2, "9p\0tag\0/data\0ro\0"s), "MOUNT has unknown options"},
      {kMinimal + Tlv(CLEARVM_SPEC_FILE, Bytes(0644u) + "/etc/hosts"), "FILE's path does not end"},
      {kMinimal + Tlv(CLEARVM_SPEC_FILE, Bytes(0644u) + "hosts\0"s), "FILE's path is not absolute"},
      {kMinimal + Tlv(CLEARVM_SPEC_FILE, Bytes(010000u) + "/f\0"s),
       "FILE's mode is more than permission bits"},
      {kMinimal + Tlv(CLEARVM_SPEC_RLIMIT, "x"), "RLIMIT is not 24 bytes"},
      {kMinimal + Tlv(CLEARVM_SPEC_RLIMIT, Bytes(99u) + Bytes(0u) + Bytes(1ul) + Bytes(1ul)),
       "RLIMIT is unknown"},
      {kMinimal + Tlv(CLEARVM_SPEC_RLIMIT, Bytes(7u) + Bytes(0u) + Bytes(2ul) + Bytes(1ul)),
       "RLIMIT's soft limit is above its hard limit"},
      {kMinimal + Tlv(CLEARVM_SPEC_CAPS, "x"), "CAPS is not five masks"},
      {kMinimal + Tlv(CLEARVM_SPEC_FLAGS, Bytes(0x10u)), "FLAGS has unknown bits"},
      {kMinimal + Tlv(CLEARVM_SPEC_WINSIZE, "x"), "WINSIZE is not 4 bytes"},
      {kArgument + Tlv(CLEARVM_SPEC_ROOT, "9p\0root"s), "ROOT is not three strings"},
  };
  for (const auto& [tlvs, wrong] : cases) EXPECT_EQ(Parsed(tlvs).wrong(), wrong);
}

TEST(InitSpecTest, TheLastOfEqualVariablesCounts) {
  Parsed parsed(kMinimal + Tlv(CLEARVM_SPEC_ENV, "PATHS=no") + Tlv(CLEARVM_SPEC_ENV, "PATH=/a") +
                Tlv(CLEARVM_SPEC_ENV, "PATH=/b"));
  ASSERT_EQ(parsed.wrong(), "");
  EXPECT_STREQ(env_get(parsed->env, "PATH"), "/b");
  EXPECT_EQ(env_get(parsed->env, "PAT"), nullptr);
}

TEST_P(InitSpecContainerTag, IsRefusedInAnExec) {
  Parsed parsed(kArgument + GetParam(), SPEC_EXEC);
  EXPECT_EQ(parsed.wrong(), "a tag that is about the container");
}

INSTANTIATE_TEST_SUITE_P(
    Tags, InitSpecContainerTag,
    testing::Values(kRoot, Tlv(CLEARVM_SPEC_HOSTNAME, "x"), Mount(0, "a\0b\0/c\0\0"s),
                    Tlv(CLEARVM_SPEC_FILE, Bytes(0644u) + "/f\0x"s),
                    Tlv(CLEARVM_SPEC_SYSCTL, "a=b"), Tlv(CLEARVM_SPEC_MASK, "/m"),
                    Tlv(CLEARVM_SPEC_READONLY, "/r"), Tlv(CLEARVM_SPEC_PIDS, Bytes(7u)),
                    Tlv(CLEARVM_SPEC_OOM_SCORE, Bytes(7))));

TEST(InitSpecTest, NeedsNoRootInAnExec) {
  Parsed parsed(kArgument + Tlv(CLEARVM_SPEC_FLAGS, Bytes(uint32_t{CLEARVM_FLAG_BUILTIN})),
                SPEC_EXEC);
  EXPECT_EQ(parsed.wrong(), "");
  EXPECT_EQ(parsed->flags, CLEARVM_FLAG_BUILTIN);
}

}  // namespace
