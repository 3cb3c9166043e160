// The BPF programs of the jail, run as the kernel would run them.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/seccomp.h>

#include <cstring>
#include <set>

#include "native/jail/filter.h"
#include "native/jail/rules.h"

namespace clearvm::jail {
namespace {

// What a program returns: classic BPF, as far as Compile uses it.
uint32_t Evaluate(std::span<const sock_filter> program, const seccomp_data& data) {
  uint32_t accumulator = 0;
  for (size_t at = 0; at < program.size(); at++) {
    const sock_filter& step = program[at];
    switch (step.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        std::memcpy(&accumulator, reinterpret_cast<const uint8_t*>(&data) + step.k, 4);
        break;
      case BPF_JMP | BPF_JA:
        at += step.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        at += accumulator == step.k ? step.jt : step.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        at += accumulator >= step.k ? step.jt : step.jf;
        break;
      case BPF_RET | BPF_K:
        return step.k;
      default:
        ADD_FAILURE() << "instruction " << step.code;
        return 0;
    }
  }
  ADD_FAILURE() << "the program has no end";
  return 0;
}

class JailFilter : public testing::TestWithParam<ThreadKind> {};

TEST_P(JailFilter, LetsThroughWhatTheRulesAllow) {
  const Rules rules = RulesFor(GetParam());
  const std::span<const sock_filter> program = FilterFor(GetParam());
  std::set<uint32_t> seen;
  for (const Rule& rule : rules) EXPECT_TRUE(seen.insert(rule.number).second) << rule.number;

  for (uint32_t number = 0; number < kSystemCalls; number++) {
    seccomp_data data{};
    data.arch = AUDIT_ARCH_X86_64;
    data.nr = static_cast<int>(number);
    const auto rule = std::find_if(rules.begin(), rules.end(),
                                   [&](const Rule& entry) { return entry.number == number; });
    if (rule == rules.end() || rule->index < 0) {
      const uint32_t expected = rule == rules.end() ? SECCOMP_RET_TRAP : SECCOMP_RET_ALLOW;
      EXPECT_EQ(Evaluate(program, data), expected) << number;
      continue;
    }
    for (uint32_t argument : rule->arguments) {
      data.args[rule->index] = argument;
      EXPECT_EQ(Evaluate(program, data), SECCOMP_RET_ALLOW) << number;
    }
    data.args[rule->index] = 0x7fffffff;
    EXPECT_EQ(Evaluate(program, data), SECCOMP_RET_TRAP) << number;
  }
}

TEST_P(JailFilter, KillsOtherArchitectures) {
  seccomp_data data{};
  data.arch = AUDIT_ARCH_I386;
  EXPECT_EQ(Evaluate(FilterFor(GetParam()), data), SECCOMP_RET_KILL_PROCESS);
}

INSTANTIATE_TEST_SUITE_P(Kinds, JailFilter,
                         testing::Values(ThreadKind::kMain, ThreadKind::kVcpu,
                                         ThreadKind::kVcpuStarter, ThreadKind::kIo,
                                         ThreadKind::kFs));

TEST(JailFilter, TheEndOfStartingLeavesWhatAVcpuMayDo) {
  for (uint32_t number = 0; number < kSystemCalls; number++) {
    seccomp_data data{};
    data.arch = AUDIT_ARCH_X86_64;
    data.nr = static_cast<int>(number);
    const uint32_t starter = Evaluate(FilterFor(ThreadKind::kVcpuStarter), data);
    const uint32_t end = Evaluate(EndStartingFilter(), data);
    // SECCOMP_RET_TRAP goes before SECCOMP_RET_ALLOW (seccomp(2)).
    EXPECT_EQ(std::min(starter, end), Evaluate(FilterFor(ThreadKind::kVcpu), data)) << number;
  }
}

}  // namespace
}  // namespace clearvm::jail
