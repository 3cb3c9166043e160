#include "native/kvm/probe.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "native/base/linux_kvm.h"
#include "native/kvm/exit.h"
#include "native/kvm/long_mode.h"
#include "native/kvm/probe_payloads.h"
#include "native/kvm/system.h"
#include "native/kvm/watchdog.h"

namespace clearvm::kvm {
namespace {

using Clock = std::chrono::steady_clock;

// Guest-physical places, above the tables of long_mode.h.
constexpr uint64_t kMemorySize = 2ull << 20;
constexpr uint64_t kCode = 0x8000;
constexpr uint64_t kIdt = 0x10000;
constexpr uint64_t kTss = 0x11000;
constexpr uint64_t kGdt = 0x12000;
constexpr uint64_t kScratch = 0x13000;
constexpr uint64_t kStack = 0x20000;
constexpr uint64_t kInterruptStack = 0x28000;
constexpr uint64_t kUnmapped = 0x20'0000;

constexpr auto kRunLimit = std::chrono::milliseconds(1000);    // for one payload
constexpr auto kTotalLimit = std::chrono::milliseconds(2500);  // no payload starts after this
constexpr uint32_t kLoopRounds = 100'000;
constexpr int kLoopRepeats = 3;  // the best counts: others may be using the machine
constexpr auto kLoopSlow = std::chrono::milliseconds(300);  // slower than that is not noise

constexpr uint32_t kMsrStar = 0xc000'0081;
constexpr uint32_t kMsrLstar = 0xc000'0082;
constexpr uint64_t kEferSyscall = 1ull << 0;
constexpr uint64_t kCr4OsXsave = 1ull << 18;
constexpr uint64_t kPageUser = 1ull << 2;

struct WantedCapability {
  int cap;
  const char* name;
  bool required;
};
#define CLEARVM_CAP(cap, required) \
  { cap, #cap, required }
constexpr WantedCapability kCapabilities[] = {
    CLEARVM_CAP(KVM_CAP_USER_MEMORY, true),    CLEARVM_CAP(KVM_CAP_EXT_CPUID, true),
    CLEARVM_CAP(KVM_CAP_SET_TSS_ADDR, true),   CLEARVM_CAP(KVM_CAP_IRQCHIP, true),
    CLEARVM_CAP(KVM_CAP_SPLIT_IRQCHIP, true),  CLEARVM_CAP(KVM_CAP_IRQ_ROUTING, true),
    CLEARVM_CAP(KVM_CAP_IRQFD, true),          CLEARVM_CAP(KVM_CAP_IOEVENTFD, true),
    CLEARVM_CAP(KVM_CAP_IMMEDIATE_EXIT, true), CLEARVM_CAP(KVM_CAP_TSC_DEADLINE_TIMER, false),
    CLEARVM_CAP(KVM_CAP_ADJUST_CLOCK, false),  CLEARVM_CAP(KVM_CAP_PMU_CAPABILITY, false),
    CLEARVM_CAP(KVM_CAP_NR_VCPUS, false),      CLEARVM_CAP(KVM_CAP_MAX_VCPUS, false),
    CLEARVM_CAP(KVM_CAP_NR_MEMSLOTS, false),
};
#undef CLEARVM_CAP

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// The loop of the payload, in this process.
Clock::duration TimeHostLoop() {
  uint32_t rounds = kLoopRounds;
  const Clock::time_point start = Clock::now();
  asm volatile("1: dec %0\n jnz 1b" : "+r"(rounds) : : "cc");
  return Clock::now() - start;
}

// One VM that runs payload after payload, each on a vCPU of its own, for what one leaves behind
// must not decide the next.
class Machine {
 public:
  static Result<Machine> Create(const System& system, double& create_vm_ms) {
    CLEARVM_ASSIGN(GuestMemory memory, GuestMemory::Create(kMemorySize, Backing::kAnonymous));
    const Clock::time_point start = Clock::now();
    CLEARVM_ASSIGN(Vm vm, system.CreateVm());
    create_vm_ms = Seconds(Clock::now() - start) * 1000;
    CLEARVM_RETURN_IF_ERROR(vm.SetTssAddress());
    CLEARVM_RETURN_IF_ERROR(vm.AddMemory(memory));
    // A KVM that cannot tell is no good (RunChecks says so), but how its guests behave is still
    // worth knowing.
    Result<CpuidTable> supported = system.SupportedCpuid();
    Machine machine(std::move(vm), std::move(memory),
                    supported.ok() ? GuestCpuid(std::move(supported.value()), {}) : CpuidTable());
    CLEARVM_RETURN_IF_ERROR(machine.FillMemory());
    return machine;
  }

  struct Outcome {
    bool passed = false;
    std::string detail;
    Clock::duration time{};
  };

  // Runs the payload at `entry`. An Error means that the VM itself does not work.
  Result<Outcome> Run(uint64_t entry) {
    CLEARVM_ASSIGN(Vcpu vcpu, vm_.CreateVcpu(next_vcpu_));
    SetApicId(cpuid_, next_vcpu_++);
    if (!cpuid_.empty()) CLEARVM_RETURN_IF_ERROR(vcpu.SetCpuid(cpuid_));
    CLEARVM_RETURN_IF_ERROR(Enter(vcpu, entry));
    CLEARVM_ASSIGN(std::unique_ptr<Watchdog> watchdog, Watchdog::Start());
    const Clock::time_point start = Clock::now();
    for (;;) {
      CLEARVM_ASSIGN(const Vcpu::Event event, vcpu.Run());
      if (event == Vcpu::Event::kExit) break;
      if (Clock::now() - start > kRunLimit) return Outcome{false, "it did not end", {}};
    }
    return Judge(vcpu, Clock::now() - start);
  }

  bool has_cpuid() const { return !cpuid_.empty(); }
  // Whether the guest's CPUID has `bit` of leaf `function`'s `reg`; true when there is no CPUID to
  // look at.
  bool Offers(uint32_t function, uint32_t kvm_cpuid_entry2::*reg, unsigned bit) const {
    if (cpuid_.empty()) return true;
    const kvm_cpuid_entry2* entry = FindCpuid(cpuid_, function);
    return entry != nullptr && ((entry->*reg) >> bit & 1) != 0;
  }

 private:
  Machine(Vm vm, GuestMemory memory, CpuidTable cpuid)
      : memory_(std::move(memory)), vm_(std::move(vm)), cpuid_(std::move(cpuid)) {}

  void Put(uint64_t address, uint64_t value) {
    std::memcpy(memory_.Translate(address, sizeof(value)), &value, sizeof(value));
  }

  void SetGate(unsigned vector, uint64_t handler) {
    constexpr uint64_t kPresentRing3InterruptGate = 0xeeull << 40;
    Put(kIdt + vector * 16, (handler & 0xffff) | kProbeKernelCode << 16 |
                                kPresentRing3InterruptGate | (handler >> 16) << 48);
    Put(kIdt + vector * 16 + 8, handler >> 32);
  }

  Result<void> FillMemory() {
    CLEARVM_ASSIGN(tables_, WriteLongModeTables(memory_));
    for (uint64_t table = kPageTables; table < kLongModeEnd; table += 4096) {
      uint8_t* first = memory_.Translate(table, 1);
      *first |= kPageUser;  // ring 3 runs in the first 2 MiB
    }
    Put(kLongModeEnd - 4096 + sizeof(uint64_t), 0);  // and the second 2 MiB are unmapped
    const std::span<const uint8_t> code = ProbeCode();
    std::memcpy(memory_.Translate(kCode, code.size()), code.data(), code.size());
    // Flat segments, all accessed.
    Put(kGdt + kProbeKernelCode, 0x00af'9b00'0000'ffff);
    Put(kGdt + kProbeKernelData, 0x00cf'9300'0000'ffff);
    Put(kGdt + kProbeUserData, 0x00cf'f300'0000'ffff);
    Put(kGdt + kProbeUserCode, 0x00af'fb00'0000'ffff);
    Put(kTss + 4, kInterruptStack);  // RSP0
    const ProbeEntries entries = GetProbeEntries();
    SetGate(3, kCode + entries.breakpoint_gate);
    SetGate(14, kCode + entries.page_fault_gate);
    return {};
  }

  Result<void> Enter(Vcpu& vcpu, uint64_t entry) {
    LongModeEntry state;
    state.rip = kCode + entry;
    state.rsp = kStack;
    state.rsi = kScratch;
    state.cr3 = tables_.cr3;
    state.gdt_address = kGdt;
    state.gdt_limit = kProbeUserCode + 7;
    CLEARVM_RETURN_IF_ERROR(vcpu.EnterLongMode(state));
    CLEARVM_ASSIGN(kvm_sregs sregs, vcpu.GetSregs());
    sregs.idt.base = kIdt;
    sregs.idt.limit = 15 * 16 - 1;
    sregs.tr.base = kTss;
    sregs.tr.limit = 103;
    sregs.efer |= kEferSyscall;
    if (Offers(1, &kvm_cpuid_entry2::ecx, 26)) sregs.cr4 |= kCr4OsXsave;
    CLEARVM_RETURN_IF_ERROR(vcpu.SetSregs(sregs));
    CLEARVM_ASSIGN(kvm_regs regs, vcpu.GetRegs());
    regs.rcx = kLoopRounds;
    regs.rdi = kUnmapped;
    CLEARVM_RETURN_IF_ERROR(vcpu.SetRegs(regs));
    const kvm_msr_entry msrs[] = {
        {kMsrStar, 0,
         static_cast<uint64_t>(kProbeSysretBase | 3) << 48 | static_cast<uint64_t>(kProbeKernelCode)
                                                                 << 32},
        {kMsrLstar, 0, kCode + GetProbeEntries().syscall_target},
    };
    return vcpu.SetMsrs(msrs);
  }

  Outcome Judge(Vcpu& vcpu, Clock::duration time) {
    const kvm_run& run = vcpu.run();
    if (run.exit_reason == KVM_EXIT_IO && run.io.direction == KVM_EXIT_IO_OUT &&
        run.io.port == kProbePort && vcpu.io_data().size() == sizeof(uint32_t)) {
      uint32_t report;
      std::memcpy(&report, vcpu.io_data().data(), sizeof(report));
      if (report == kProbePassed) return {true, "", time};
      return {false, "it gave a wrong result", time};
    }
    const Result<kvm_sregs> sregs = vcpu.GetSregs();
    const Result<kvm_regs> regs = vcpu.GetRegs();
    const uint64_t target = kCode + GetProbeEntries().syscall_target;
    if (sregs.ok() && regs.ok() && (sregs.value().cs.selector & 3) == 3 &&
        regs.value().rip >= target && regs.value().rip < kCode + ProbeCode().size()) {
      return {false, "the system call arrived at its ring-0 handler in ring 3", time};
    }
    return {false, DescribeExit(vcpu, memory_), time};
  }

  GuestMemory memory_;  // first, for it outlives the VM
  Vm vm_;
  CpuidTable cpuid_;
  LongModeTables tables_ = {};
  uint32_t next_vcpu_ = 0;
};

void ReadCapabilities(const System& system, ProbeReport& report) {
  for (const WantedCapability& wanted : kCapabilities) {
    report.capabilities.push_back(
        {wanted.name, system.CheckExtension(wanted.cap), wanted.required});
  }
}

Result<void> TimeLoops(Machine& machine, ProbeReport& report) {
  Clock::duration host = Clock::duration::max();
  for (int i = 0; i < kLoopRepeats; ++i) host = std::min(host, TimeHostLoop());
  report.host_instructions_per_second = 2.0 * kLoopRounds / Seconds(host);
  Clock::duration guest = Clock::duration::max();
  for (int i = 0; i < kLoopRepeats; ++i) {
    CLEARVM_ASSIGN(const Machine::Outcome outcome, machine.Run(GetProbeEntries().loop));
    if (!outcome.passed) {
      report.checks.push_back({"counted loop in ring 0", false, outcome.detail});
      return {};
    }
    guest = std::min(guest, outcome.time);
    if (outcome.time > kLoopSlow) break;
  }
  report.ring0_instructions_per_second = 2.0 * kLoopRounds / Seconds(guest);
  report.checks.push_back({"counted loop in ring 0", true, ""});
  return {};
}

Result<void> RunChecks(Machine& machine, Clock::time_point start, ProbeReport& report) {
  const ProbeEntries entries = GetProbeEntries();
  report.checks.push_back(
      {"CPUID", machine.has_cpuid(),
       machine.has_cpuid() ? "" : "KVM does not tell which leaves it supports"});
  // What the guest's CPUID does not offer is not asked for.
  const struct {
    const char* name;
    uint64_t entry;
    bool offered;
  } checks[] = {
      {"system call from ring 3", entries.ring3_syscall, true},
      {"exception in ring 3", entries.ring3_exception, true},
      {"page fault", entries.page_fault, true},
      {"int3", entries.int3, true},
      {"fwait", entries.fwait, true},
      {"cmpxchg16b", entries.cmpxchg16b, machine.Offers(1, &kvm_cpuid_entry2::ecx, 13)},
      {"popcnt", entries.popcnt, machine.Offers(1, &kvm_cpuid_entry2::ecx, 23)},
      {"xsave and xrstor", entries.xsave, machine.Offers(1, &kvm_cpuid_entry2::ecx, 26)},
      {"stac and clac", entries.stac_clac, machine.Offers(7, &kvm_cpuid_entry2::ebx, 20)},
  };
  for (const auto& check : checks) {
    if (!check.offered) continue;
    if (Clock::now() - start > kTotalLimit) {
      report.checks.push_back({check.name, false, "not tried: the probe had taken too long"});
      continue;
    }
    CLEARVM_ASSIGN(const Machine::Outcome outcome, machine.Run(check.entry));
    report.checks.push_back({check.name, outcome.passed, outcome.detail});
  }
  return {};
}

void Decide(ProbeReport& report) {
  std::string failed;
  for (const ProbeReport::Check& check : report.checks) {
    if (!check.passed) failed += (failed.empty() ? "" : ", ") + std::string(check.name);
  }
  if (!failed.empty()) {
    report.verdict = Verdict::kSoftware;
    report.reason =
        "KVM answers, but its guests do not behave as on a processor (failed: " + failed +
        "): this is a software imitation, on which no container can run";
    return;
  }
  for (const ProbeReport::Capability& capability : report.capabilities) {
    if (!capability.required || capability.value != 0) continue;
    report.verdict = Verdict::kUnusable;
    report.reason = std::string("the host's KVM lacks ") + capability.name +
                    ", which ClearVM needs: update the host's kernel";
    report.error = Error{"ERR_KVM_CAPABILITY", 0, "", report.reason};
    return;
  }
  report.verdict = Verdict::kHardware;
  report.reason = "guests run as on a processor";
}

}  // namespace

ProbeReport Probe(const std::string& path) {
  ProbeReport report;
  const Clock::time_point start = Clock::now();
  auto run = [&]() -> Result<void> {
    CLEARVM_ASSIGN(const System system, System::Open(path));
    report.api_version = system.api_version();
    ReadCapabilities(system, report);
    CLEARVM_ASSIGN(Machine machine, Machine::Create(system, report.create_vm_ms));
    CLEARVM_RETURN_IF_ERROR(TimeLoops(machine, report));
    return RunChecks(machine, start, report);
  };
  if (Result<void> result = run(); !result.ok()) {
    report.verdict = Verdict::kUnusable;
    report.reason = result.error().message;
    report.error = std::move(result.error());
    return report;
  }
  Decide(report);
  return report;
}

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHardware:
      return "hardware";
    case Verdict::kSoftware:
      return "software";
    case Verdict::kUnusable:
      break;
  }
  return "unusable";
}

std::string FormatProbe(const ProbeReport& report) {
  std::string text =
      std::string("kvm: ") + VerdictName(report.verdict) + "\nreason: " + report.reason + "\n";
  char line[160];
  if (report.error) text += "error: " + report.error->code + "\n";
  if (report.api_version != 0) text += "api: " + std::to_string(report.api_version) + "\n";
  for (const ProbeReport::Capability& capability : report.capabilities) {
    text += std::string("capability: ") + capability.name + " = " +
            std::to_string(capability.value) +
            (capability.required && capability.value == 0 ? " (needed)" : "") + "\n";
  }
  if (report.checks.empty()) return text;
  std::snprintf(line, sizeof(line), "create-vm: %.3f ms\n", report.create_vm_ms);
  text += line;
  std::snprintf(line, sizeof(line), "speed: ring 0 %.1f, host %.1f million instructions/s\n",
                report.ring0_instructions_per_second / 1e6,
                report.host_instructions_per_second / 1e6);
  text += line;
  for (const ProbeReport::Check& check : report.checks) {
    text += std::string("check: ") + check.name + ": " + (check.passed ? "passed" : "FAILED") +
            (check.detail.empty() ? "" : " (" + check.detail + ")") + "\n";
  }
  return text;
}

}  // namespace clearvm::kvm
