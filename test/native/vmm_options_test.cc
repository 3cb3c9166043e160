#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "native/vmm/options.h"

namespace clearvm::vmm {
namespace {

Result<Options> Parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "clearvm-vmm");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  return ParseOptions(static_cast<int>(arguments.size()), argv.data());
}

Options MustParse(std::vector<std::string> arguments) {
  arguments.push_back("--kernel=/k");
  auto options = Parse(arguments);
  EXPECT_TRUE(options.ok()) << (options.ok() ? "" : options.error().message);
  return options.ok() ? std::move(options).value() : Options{};
}

TEST(Options, DefaultsAreOneCpuAnd128MiB) {
  const Options options = MustParse({});
  EXPECT_EQ(options.cpus, 1u);
  EXPECT_EQ(options.memory, 128ull << 20);
  EXPECT_EQ(options.jail, JailMode::kSelf);
}

TEST(Options, SizesTakeUnits) {
  EXPECT_EQ(MustParse({"--memory=64m"}).memory, 64ull << 20);
  EXPECT_EQ(MustParse({"--memory=16g"}).memory, 16ull << 30);
  EXPECT_EQ(MustParse({"--memory=65536k"}).memory, 64ull << 20);
  EXPECT_EQ(MustParse({"--memory=67108865"}).memory, 64ull << 20) << "rounded down to pages";
}

TEST(Options, ASharesPathTakesTheRestOfTheArgument) {
  const Options options = MustParse({"--share", "tag=v0,ro,path=/a,b=c,ro"});
  ASSERT_EQ(options.exports.size(), 1u);
  EXPECT_EQ(options.exports[0].tag, "v0");
  EXPECT_TRUE(options.exports[0].read_only);
  EXPECT_EQ(options.jail_plan.shares[0].path, "/a,b=c,ro");
  EXPECT_TRUE(options.jail_plan.shares[0].read_only);
}

TEST(Options, AnOverlayNamesItsLayersTopmostFirst) {
  const Options options = MustParse({"--overlay", "tag=root,layers=/l,lower=b:a,state=/s,1"});
  ASSERT_EQ(options.jail_plan.overlays.size(), 1u);
  const jail::Overlay& overlay = options.jail_plan.overlays[0];
  EXPECT_EQ(overlay.layers, "/l");
  EXPECT_EQ(overlay.lower, (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(overlay.state, "/s,1");
  EXPECT_FALSE(overlay.user_xattrs);
  EXPECT_TRUE(MustParse({"--overlay", "tag=root,userxattr,layers=/l,lower=a,state=/s"})
                  .jail_plan.overlays[0]
                  .user_xattrs);
}

struct Bad {
  std::vector<std::string> arguments;
  const char* named;  // what the message must name
};

TEST(Options, ASpareHasAControlSocketAndATemplate) {
  const auto options =
      Parse({"--spare", "--control-fd=0", "--template=/t", "--unserved=root", "--kernel=/k"});
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_TRUE(options.value().spare);
}

class BadOptions : public testing::TestWithParam<Bad> {};

TEST_P(BadOptions, AreRefusedByName) {
  auto arguments = GetParam().arguments;
  arguments.push_back("--kernel=/k");
  const auto options = Parse(arguments);
  ASSERT_FALSE(options.ok());
  EXPECT_EQ(options.error().code, "ERR_VMM_OPTION");
  EXPECT_NE(options.error().message.find(GetParam().named), std::string::npos)
      << options.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadOptions,
    testing::Values(
        Bad{{"--cpus=0"}, "--cpus"}, Bad{{"--cpus=33"}, "--cpus"}, Bad{{"--cpus=two"}, "--cpus"},
        Bad{{"--cpu-limit=0"}, "--cpu-limit"}, Bad{{"--cpu-limit=32001"}, "--cpu-limit"},
        Bad{{"--memory=1m"}, "--memory"}, Bad{{"--memory="}, "--memory"},
        Bad{{"--memory=99999999999g"}, "--memory"}, Bad{{"--memory=-1"}, "--memory"},
        Bad{{"--control-fd=999"}, "--control-fd"}, Bad{{"--stdin-fd=x"}, "--stdin-fd"},
        Bad{{"--share=tag=a"}, "path="}, Bad{{"--share=path=/x"}, "tag="},
        Bad{{"--share=tag=a b,path=/x"}, "tag="}, Bad{{"--share=tag=a,rw,path=/x"}, "'rw'"},
        Bad{{"--share=tag=a,path=/x", "--share=tag=a,path=/y"}, "used twice"},
        Bad{{"--overlay=tag=a,layers=/l,state=/s"}, "lower="},
        Bad{{"--overlay=tag=a,layers=/l,lower=../x,state=/s"}, "../x"},
        Bad{{"--overlay=tag=a,layers=/l,lower=..,state=/s"}, "'..'"},
        Bad{{"--overlay=tag=a,layers=/l,lower=a::b,state=/s"}, "''"},
        Bad{{"--vsock=relative"}, "--vsock"}, Bad{{"--jail=maybe"}, "--jail"},
        Bad{{"--spare", "--control-fd=0"}, "--spare"}, Bad{{"--spare", "--template=/t"}, "--spare"},
        Bad{{"--spare", "--control-fd=0", "--template=/t", "--share=tag=a,path=/x"}, "--spare"},
        Bad{{"--kernel-fd=0"}, "given twice"}, Bad{{"--no-such-thing"}, "--no-such-thing"},
        Bad{{"stray"}, "stray"}));

TEST(Options, AKernelIsNeeded) {
  const auto options = Parse({"--cpus=1"});
  ASSERT_FALSE(options.ok());
  EXPECT_NE(options.error().message.find("--kernel"), std::string::npos);
}

}  // namespace
}  // namespace clearvm::vmm
