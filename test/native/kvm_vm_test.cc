// The KVM wrappers against /dev/kvm itself, by payloads that even a software KVM runs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <chrono>
#include <cstring>

#include "native/kvm/exit.h"
#include "native/kvm/long_mode.h"
#include "native/kvm/probe.h"
#include "native/kvm/system.h"
#include "native/kvm/vcpu_state.h"
#include "native/kvm/watchdog.h"

namespace clearvm::kvm {
namespace {

constexpr uint64_t kCode = 0x8000;

#define ASSERT_OK(expression)                           \
  do {                                                  \
    auto result = (expression);                         \
    ASSERT_TRUE(result.ok()) << result.error().message; \
  } while (0)

class KvmVm : public testing::Test {
 protected:
  void SetUp() override {
    if (::access(kDefaultDevice, R_OK | W_OK) != 0) GTEST_SKIP() << "no " << kDefaultDevice;
    Result<System> system = System::Open();
    ASSERT_TRUE(system.ok()) << system.error().message;
    system_.emplace(std::move(system).value());
    memory_.emplace(std::move(GuestMemory::Create(2 << 20, Backing::kMemfd)).value());
    Result<Vm> vm = system_->CreateVm();
    ASSERT_TRUE(vm.ok()) << vm.error().message;
    vm_.emplace(std::move(vm).value());
    ASSERT_OK(vm_->SetTssAddress());
  }

  // vCPU 0, about to run `code` in real mode.
  Vcpu RealMode(std::initializer_list<uint8_t> code) {
    EXPECT_TRUE(vm_->AddMemory(*memory_).ok());
    std::copy(code.begin(), code.end(), memory_->Translate(kCode, code.size()));
    Vcpu vcpu = std::move(vm_->CreateVcpu(0)).value();
    EXPECT_TRUE(vcpu.EnterRealMode(kCode, kCode).ok());
    return vcpu;
  }

  Vcpu LongMode(std::initializer_list<uint8_t> code) {
    EXPECT_TRUE(vm_->AddMemory(*memory_).ok());
    std::copy(code.begin(), code.end(), memory_->Translate(kCode, code.size()));
    const LongModeTables tables = WriteLongModeTables(*memory_).value();
    Vcpu vcpu = std::move(vm_->CreateVcpu(0)).value();
    LongModeEntry entry;
    entry.rip = entry.rsp = kCode;
    entry.rsi = 0x1122'3344'5566'7788;
    entry.cr3 = tables.cr3;
    entry.gdt_address = tables.gdt_address;
    entry.gdt_limit = tables.gdt_limit;
    EXPECT_TRUE(vcpu.EnterLongMode(entry).ok());
    return vcpu;
  }

  static void ExpectExit(Vcpu& vcpu, uint32_t reason) {
    Result<Vcpu::Event> event = vcpu.Run();
    ASSERT_TRUE(event.ok()) << event.error().message;
    ASSERT_EQ(event.value(), Vcpu::Event::kExit);
    EXPECT_STREQ(ExitName(vcpu.run().exit_reason), ExitName(reason));
  }

  std::optional<System> system_;
  std::optional<GuestMemory> memory_;
  std::optional<Vm> vm_;
};

TEST_F(KvmVm, RunsRealMode) {
  // mov al, 0x41; out 0x10, al; in ax, 0x12; hlt
  Vcpu vcpu = RealMode({0xb0, 0x41, 0xe6, 0x10, 0xe5, 0x12, 0xf4});
  ExpectExit(vcpu, KVM_EXIT_IO);
  EXPECT_EQ(vcpu.run().io.port, 0x10);
  ASSERT_EQ(vcpu.io_data().size(), 1u);
  EXPECT_EQ(vcpu.io_data()[0], 0x41);
  ExpectExit(vcpu, KVM_EXIT_IO);
  ASSERT_EQ(vcpu.io_data().size(), 2u);
  vcpu.io_data()[0] = 0x34;
  vcpu.io_data()[1] = 0x12;
  ExpectExit(vcpu, KVM_EXIT_HLT);
  EXPECT_EQ(vcpu.GetRegs().value().rax, 0x1234u);
}

TEST_F(KvmVm, EntersLongModeAsAsked) {
  // mov rax, rsi; mov bx, cs; mov cx, ds; mov rdx, cr3; hlt
  Vcpu vcpu = LongMode({0x48, 0x89, 0xf0, 0x8c, 0xcb, 0x8c, 0xd9, 0x0f, 0x20, 0xda, 0xf4});
  ExpectExit(vcpu, KVM_EXIT_HLT);
  const kvm_regs regs = vcpu.GetRegs().value();
  EXPECT_EQ(regs.rax, 0x1122'3344'5566'7788u);
  EXPECT_EQ(regs.rbx, 0x10u);
  EXPECT_EQ(regs.rcx, 0x18u);
  EXPECT_EQ(regs.rdx, kPageTables);
}

TEST_F(KvmVm, MapsBeyondTheFirstTwoMiBToThemselves) {
  // mov eax, 0x3ffff000; mov dword [rax], 0x2a; hlt: no RAM there, so it must exit with just that
  // address
  Vcpu vcpu = LongMode({0xb8, 0x00, 0xf0, 0xff, 0x3f, 0xc7, 0x00, 0x2a, 0, 0, 0, 0xf4});
  ExpectExit(vcpu, KVM_EXIT_MMIO);
  EXPECT_EQ(vcpu.run().mmio.phys_addr, 0x3fff'f000u);
  EXPECT_EQ(vcpu.run().mmio.is_write, 1);
  EXPECT_EQ(vcpu.run().mmio.len, 4u);
  EXPECT_EQ(vcpu.run().mmio.data[0], 0x2a);
  ExpectExit(vcpu, KVM_EXIT_HLT);
}

TEST_F(KvmVm, HasReadOnlySlots) {
  UniqueMapping page(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
  page.data()[0] = 0x77;
  ASSERT_OK(vm_->SetMemorySlot(7, {0x40'0000, 4096, page.data(), 0}, true));
  // mov eax, 0x400000; mov bl, [rax]; mov [rax], bl; hlt
  Vcpu vcpu = LongMode({0xb8, 0, 0, 0x40, 0, 0x8a, 0x18, 0x88, 0x18, 0xf4});
  ExpectExit(vcpu, KVM_EXIT_MMIO);
  EXPECT_EQ(vcpu.run().mmio.phys_addr, 0x40'0000u);
  EXPECT_EQ(vcpu.run().mmio.is_write, 1);
  EXPECT_EQ(vcpu.run().mmio.data[0], 0x77);
  EXPECT_EQ(page.data()[0], 0x77);
}

TEST_F(KvmVm, TurnsWritesIntoEvents) {
  UniqueFd any(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  UniqueFd two(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  ASSERT_OK(vm_->AddPortEventFd(any.get(), 0x20, 1, std::nullopt));
  ASSERT_OK(vm_->AddPortEventFd(two.get(), 0x30, 1, 2));
  // mov al, 2; out 0x20, al; out 0x30, al; mov al, 3; out 0x20, al; out 0x30, al; hlt
  Vcpu vcpu = RealMode({0xb0, 2, 0xe6, 0x20, 0xe6, 0x30, 0xb0, 3, 0xe6, 0x20, 0xe6, 0x30, 0xf4});
  ExpectExit(vcpu, KVM_EXIT_IO);  // 3 is not what the second event matches
  EXPECT_EQ(vcpu.run().io.port, 0x30);
  ExpectExit(vcpu, KVM_EXIT_HLT);
  eventfd_t count = 0;
  ASSERT_EQ(::eventfd_read(any.get(), &count), 0);
  EXPECT_EQ(count, 2u);
  ASSERT_EQ(::eventfd_read(two.get(), &count), 0);
  EXPECT_EQ(count, 1u);
}

TEST_F(KvmVm, StopsForAnExitRequest) {
  Vcpu vcpu = RealMode({0xeb, 0xfe});  // jmp self
  vcpu.RequestExit();
  EXPECT_EQ(vcpu.Run().value(), Vcpu::Event::kInterrupted);
  EXPECT_EQ(vcpu.Run().value(), Vcpu::Event::kInterrupted);
  vcpu.ClearExitRequest();
  std::unique_ptr<Watchdog> watchdog = std::move(Watchdog::Start()).value();
  EXPECT_EQ(vcpu.Run().value(), Vcpu::Event::kInterrupted);
}

TEST_F(KvmVm, WatchdogLeavesNoTimerBehind) {
  const int signal = SIGRTMIN + 1;
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  Watchdog::Start().value().reset();
  // Blocked again, as before; and were the timer still running, its signal would be pending by now.
  const timespec a_while = {0, 100'000'000};
  EXPECT_EQ(::nanosleep(&a_while, nullptr), 0);
  sigset_t pending;
  ASSERT_EQ(::sigpending(&pending), 0);
  EXPECT_EQ(sigismember(&pending, signal), 0);
  sigset_t mask;
  ASSERT_EQ(::pthread_sigmask(SIG_UNBLOCK, &set, &mask), 0);
  EXPECT_EQ(sigismember(&mask, signal), 1);
}

TEST_F(KvmVm, ReportsTheSupportedCpuid) {
  const CpuidTable table = system_->SupportedCpuid().value();
  EXPECT_NE(FindCpuid(table, 0), nullptr);
  EXPECT_NE(FindCpuid(table, 1), nullptr);
}

TEST_F(KvmVm, ShowsTheGuestItsCpuid) {
  CpuidPolicy policy;
  policy.cpus = 4;
  policy.tsc_deadline = true;
  CpuidTable table = GuestCpuid(system_->SupportedCpuid().value(), policy);
  SetApicId(table, 0);
  // mov eax, 1; cpuid; hlt
  Vcpu vcpu = LongMode({0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0xf4});
  ASSERT_OK(vcpu.SetCpuid(table));
  ExpectExit(vcpu, KVM_EXIT_HLT);
  const kvm_regs regs = vcpu.GetRegs().value();
  EXPECT_EQ(regs.rcx >> 31 & 1, 1u);  // hypervisor
  EXPECT_EQ(regs.rcx >> 24 & 1, 1u);  // TSC deadline
  EXPECT_EQ(regs.rcx >> 5 & 1, 0u);   // VMX
  EXPECT_EQ(regs.rbx >> 16 & 0xff, 4u);
  EXPECT_EQ(regs.rbx >> 24, 0u);
}

TEST_F(KvmVm, KeepsStateThatIsSet) {
  Vcpu vcpu = RealMode({0xf4});
  kvm_regs regs = vcpu.GetRegs().value();
  regs.r15 = 0xfeed'f00d;
  ASSERT_OK(vcpu.SetRegs(regs));
  EXPECT_EQ(vcpu.GetRegs().value().r15, 0xfeed'f00du);
  const uint32_t sysenter = 0x175;  // IA32_SYSENTER_ESP
  const kvm_msr_entry entry = {sysenter, 0, 0x1234'5678};
  ASSERT_OK(vcpu.SetMsrs({&entry, 1}));
  EXPECT_EQ(vcpu.GetMsrs({&sysenter, 1}).value()[0].data, 0x1234'5678u);
  const uint32_t nonsense = 0x1234'5678;
  EXPECT_EQ(vcpu.GetMsrs({&nonsense, 1}).error().code, "ERR_KVM_VCPU_STATE");
}

TEST_F(KvmVm, DescribesAnExit) {
  Vcpu vcpu = LongMode({0xb8, 0x05, 0, 0, 0, 0xe7, 0x99, 0xf4});  // mov eax, 5; out 0x99, eax; hlt
  ExpectExit(vcpu, KVM_EXIT_IO);
  const std::string text = DescribeExit(vcpu, *memory_);
  EXPECT_NE(text.find("vCPU 0: KVM_EXIT_IO (2) out port=0x99 size=4 count=1"), std::string::npos)
      << text;
  EXPECT_NE(text.find(" rax=0x5 "), std::string::npos) << text;
  EXPECT_NE(text.find(" cs=0x10 rip=0x800"), std::string::npos) << text;
  EXPECT_NE(text.find("f4"), std::string::npos) << text;
}

TEST_F(KvmVm, DescribesAnExitOfWildPageTables) {
  Vcpu vcpu = LongMode({0xe6, 0x99, 0xf4});
  ExpectExit(vcpu, KVM_EXIT_IO);
  for (const uint64_t entry : {~0ull, 0x7fff'ffff'f003ull, 0ull}) {
    std::memcpy(memory_->Translate(kPageTables, 8), &entry, sizeof(entry));
    EXPECT_NE(DescribeExit(vcpu, *memory_).find("code="), std::string::npos);
  }
}

TEST_F(KvmVm, ShutsDownOnATripleFault) {
  Vcpu vcpu = LongMode({0x0f, 0x0b});  // ud2, without an IDT
  ExpectExit(vcpu, KVM_EXIT_SHUTDOWN);
}

TEST_F(KvmVm, TakesMessagesAndRoutes) {
  ASSERT_OK(vm_->CreateSplitIrqchip(24));
  UniqueFd irq(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  ASSERT_OK(vm_->AddIrqFd(irq.get(), 5));
  const MsiRoute route = {5, {0xfee0'0000, 0x31}};
  ASSERT_OK(vm_->SetMsiRoutes({&route, 1}));
  ASSERT_OK(vm_->SetMsiRoutes({}));
  EXPECT_FALSE(vm_->AddIrqFd(-1, 5).ok());
}

TEST_F(KvmVm, EndsAHltWithInterruptsOff) {
  ASSERT_OK(vm_->CreateSplitIrqchip(24));
  // hlt; out 0x10, al; hlt; out 0x11, al
  Vcpu vcpu = RealMode({0xf4, 0xe6, 0x10, 0xf4, 0xe6, 0x11});
  ASSERT_OK(LoadVcpu(vcpu, SaveVcpu(vcpu, vcpu, {}).value()));  // KVM finds it by its local APIC
  std::unique_ptr<Watchdog> watchdog = std::move(Watchdog::Start()).value();
  const auto port = [&vcpu]() -> int {  // that it writes to, if it does within a second or more
    for (int patience = 0; patience < 50; patience++) {
      const Result<Vcpu::Event> event = vcpu.Run();
      if (!event.ok() || event.value() == Vcpu::Event::kExit) return vcpu.run().io.port;
    }
    return -1;
  };
  ASSERT_OK(vm_->Unhalt(0));  // before it halts
  EXPECT_EQ(port(), 0x10);
  EXPECT_EQ(port(), -1);
  ASSERT_OK(vm_->Unhalt(0));
  EXPECT_EQ(port(), 0x11);
}

TEST(KvmSystem, TellsItsErrorsApart) {
  EXPECT_EQ(System::Open("/nonexistent/kvm").error().code, "ERR_KVM_MISSING");
  EXPECT_EQ(System::Open("/dev/null").error().code, "ERR_KVM_VERSION");
  EXPECT_EQ(System::Open("/").error().code, "ERR_KVM_OPEN");
}

TEST(KvmProbe, ReportsWhyADeviceIsUnusable) {
  const ProbeReport report = Probe("/dev/null");
  EXPECT_EQ(report.verdict, Verdict::kUnusable);
  ASSERT_TRUE(report.error.has_value());
  EXPECT_EQ(report.error->code, "ERR_KVM_VERSION");
  EXPECT_NE(FormatProbe(report).find("kvm: unusable\n"), std::string::npos);
}

TEST_F(KvmVm, ProbeEndsAndGivesItsEvidence) {
  const auto start = std::chrono::steady_clock::now();
  const ProbeReport report = Probe(kDefaultDevice);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  ASSERT_NE(report.verdict, Verdict::kUnusable) << report.reason;
  EXPECT_GT(report.host_instructions_per_second, 1e6);
  EXPECT_GE(report.checks.size(), 5u);
  bool all_passed = true;
  for (const ProbeReport::Check& check : report.checks) {
    EXPECT_EQ(check.passed, check.detail.empty()) << check.name;
    all_passed = all_passed && check.passed;
  }
  EXPECT_EQ(report.verdict == Verdict::kHardware, all_passed) << report.reason;
}

}  // namespace
}  // namespace clearvm::kvm
