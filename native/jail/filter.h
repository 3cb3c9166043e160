// From rules to the BPF program that enforces them. The compiler runs it, so that no VM has to.
#ifndef CLEARVM_JAIL_FILTER_H_
#define CLEARVM_JAIL_FILTER_H_

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include <algorithm>
#include <cstddef>
#include <span>

#include "native/jail/seccomp.h"

namespace clearvm::jail {

inline constexpr uint32_t kSystemCalls = 470;  // more than there are

// A program's own memory is little-endian, so a 64-bit argument's low half comes first.
constexpr uint32_t ArgumentOffset(int index) {
  return offsetof(seccomp_data, args) + 8 * static_cast<uint32_t>(index);
}

using Filter = FixedList<sock_filter, 512>;

// What happens to the system calls from `first` on, up to the next segment's first.
struct FilterSegment {
  uint32_t first;
  const Rule* rule;  // nullptr: trapped
};

using FilterSegments = FixedList<FilterSegment, 256>;

constexpr bool SameChecks(const Rule* a, const Rule* b) {
  if (a == nullptr || b == nullptr) return a == b;
  return a->index == b->index && a->arguments == b->arguments;
}

// All numbers that there are, cut where what happens to them changes.
constexpr FilterSegments CutSegments(const Rules& sorted) {
  FilterSegments segments;
  segments.push_back({0, nullptr});
  const auto add = [&](uint32_t first, const Rule* rule) {
    if (segments.back().first == first) segments.pop_back();
    if (segments.empty() || !SameChecks(segments.back().rule, rule)) {
      segments.push_back({first, rule});
    }
  };
  for (const Rule& rule : sorted) {
    add(rule.number, &rule);
    add(rule.number + 1, nullptr);
  }
  return segments;
}

// Where a tree ends: at one of the returns, or (from kFirstCheck on) at a check of arguments.
enum FilterEnd : uint32_t { kTrapped, kAllowed, kForeign, kFirstCheck };

// A jump whose distance is known when all ends are in place.
struct OpenJump {
  size_t at;
  bool taken;  // jt, otherwise jf
  uint32_t end;
};

struct FilterBuilder {
  Filter program;
  FixedList<OpenJump, 512> jumps;
  FixedList<const Rule*, 32> checks;

  constexpr uint32_t EndOf(const Rule* rule) {
    if (rule == nullptr) return kTrapped;
    if (rule->index < 0) return kAllowed;
    for (uint32_t i = 0; i < checks.size(); i++) {
      if (SameChecks(checks[i], rule)) return kFirstCheck + i;
    }
    checks.push_back(rule);
    return kFirstCheck + static_cast<uint32_t>(checks.size()) - 1;
  }

  // The number of the system call is loaded. `end`: of the numbers that the last segment is weighed
  // by.
  constexpr void AddTree(std::span<const FilterSegment> segments, uint32_t end) {
    // Half of the numbers on each side, however few segments they are in.
    const uint32_t half = segments[0].first + (end - segments[0].first) / 2;
    size_t middle = 1;
    while (middle + 1 < segments.size() && segments[middle + 1].first <= half) middle++;
    const uint32_t border = segments[middle].first;
    const size_t at = program.size();
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, border, 0, 0));
    AddSide(segments.first(middle), border, at, false);
    AddSide(segments.subspan(middle), end, at, true);
  }

  constexpr void AddSide(std::span<const FilterSegment> side, uint32_t end, size_t at, bool taken) {
    if (side.size() == 1) return jumps.push_back({at, taken, EndOf(side[0].rule)});
    Land(at, taken, program.size());
    AddTree(side, end);
  }

  constexpr void AddCheck(const Rule& rule) {
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ArgumentOffset(rule.index)));
    for (uint32_t argument : rule.arguments) {
      jumps.push_back({program.size(), true, kAllowed});
      program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument, 0, 0));
    }
    jumps.push_back({program.size() - 1, false, kTrapped});
  }

  // A jump over more than 255 instructions cannot be written down.
  constexpr void Land(size_t at, bool taken, size_t target) {
    const size_t distance = target - at - 1;
    if (distance > 255) __builtin_trap();
    (taken ? program[at].jt : program[at].jf) = static_cast<uint8_t>(distance);
  }
};

// The BPF program that lets through what `rules` allow, on x86-64 only, and traps (SIGSYS)
// everything else. More than 256 instructions, or no rule: it does not compile.
//
// A search tree, because the kernel runs a new filter for each system call that there is, to learn
// which are always allowed; and each end of it there only once, because it also translates the
// filter. A list of rules took it four times as long (docs/benchmarks/boot.md).
constexpr Filter Compile(Rules rules) {
  std::sort(rules.begin(), rules.end(),
            [](const Rule& a, const Rule& b) { return a.number < b.number; });
  FilterBuilder to;
  to.program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
  to.jumps.push_back({1, false, kForeign});
  to.program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 0));
  to.program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  const FilterSegments segments = CutSegments(rules);
  to.AddTree({segments.begin(), segments.size()}, kSystemCalls);

  FixedList<size_t, 64> ends;
  for (uint32_t i = 0; i < kFirstCheck; i++) ends.push_back(0);
  for (const Rule* rule : to.checks) {
    ends.push_back(to.program.size());
    to.AddCheck(*rule);
  }
  constexpr uint32_t kReturns[kFirstCheck] = {SECCOMP_RET_TRAP, SECCOMP_RET_ALLOW,
                                              SECCOMP_RET_KILL_PROCESS};
  for (uint32_t i = 0; i < kFirstCheck; i++) {
    ends[i] = to.program.size();
    to.program.push_back(BPF_STMT(BPF_RET | BPF_K, kReturns[i]));
  }
  for (const OpenJump& jump : to.jumps) to.Land(jump.at, jump.taken, ends[jump.end]);
  return to.program;
}

}  // namespace clearvm::jail

#endif  // CLEARVM_JAIL_FILTER_H_
