// The in-process machine: runs a piece of machine code, and hands back its exits.
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "native/addon/addon.h"
#include "native/kvm/exit.h"
#include "native/kvm/ioapic.h"
#include "native/kvm/long_mode.h"
#include "native/kvm/msrs.h"
#include "native/kvm/system.h"
#include "native/kvm/watchdog.h"

namespace clearvm::addon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kIoapicPins = 24;
// A write of a line's number to this port raises that line, for payloads that test interrupts.
constexpr uint16_t kRaisePort = 0xf4;

struct Options {
  std::vector<uint8_t> code;
  bool long_mode = false;
  uint64_t memory = 2 << 20;
  uint64_t load_address = 0x8000;
  uint32_t max_exits = 1000;
  std::chrono::milliseconds timeout{2000};
  std::string irqchip = "none";
  bool cpuid = true;
  std::deque<uint64_t> reads;
  std::optional<std::pair<uint64_t, uint32_t>> io_event_fd;
  std::vector<uint32_t> irq_fds;
  std::optional<std::pair<uint64_t, uint64_t>> dump;
};

struct Exit {
  std::string kind;
  uint64_t where = 0;  // port or address
  uint32_t size = 0;
  uint64_t value = 0;
  uint32_t reason = 0;
  std::string description = {};
};

class PayloadMachine {
 public:
  static Result<PayloadMachine> Create(const Options& options) {
    CLEARVM_ASSIGN(kvm::System system, kvm::System::Open());
    CLEARVM_ASSIGN(kvm::GuestMemory memory,
                   kvm::GuestMemory::Create(options.memory, kvm::Backing::kMemfd));
    CLEARVM_ASSIGN(kvm::Vm vm, system.CreateVm());
    CLEARVM_RETURN_IF_ERROR(vm.SetTssAddress());
    if (options.irqchip == "full") CLEARVM_RETURN_IF_ERROR(vm.CreateFullIrqchip());
    if (options.irqchip == "split") CLEARVM_RETURN_IF_ERROR(vm.CreateSplitIrqchip(kIoapicPins));
    CLEARVM_RETURN_IF_ERROR(vm.AddMemory(memory));
    CLEARVM_ASSIGN(kvm::Vcpu vcpu, vm.CreateVcpu(0));
    if (options.cpuid) {
      CLEARVM_ASSIGN(kvm::CpuidTable supported, system.SupportedCpuid());
      kvm::CpuidPolicy policy;
      policy.tsc_deadline = system.CheckExtension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
      policy.tsc_khz = vcpu.GetTscKhz();
      kvm::CpuidTable table = kvm::GuestCpuid(std::move(supported), policy);
      kvm::SetApicId(table, 0);
      CLEARVM_RETURN_IF_ERROR(vcpu.SetCpuid(table));
    }
    CLEARVM_ASSIGN(std::span<uint8_t> target,
                   memory.Slice(options.load_address, options.code.size()));
    std::memcpy(target.data(), options.code.data(), options.code.size());
    if (options.long_mode) {
      CLEARVM_ASSIGN(const kvm::LongModeTables tables, kvm::WriteLongModeTables(memory));
      kvm::LongModeEntry entry;
      entry.rip = entry.rsp = options.load_address;  // the stack grows down from the code
      entry.cr3 = tables.cr3;
      entry.gdt_address = tables.gdt_address;
      entry.gdt_limit = tables.gdt_limit;
      CLEARVM_RETURN_IF_ERROR(vcpu.EnterLongMode(entry));
    } else {
      const auto ip = static_cast<uint16_t>(options.load_address);
      CLEARVM_RETURN_IF_ERROR(vcpu.EnterRealMode(ip, ip));
    }
    PayloadMachine machine(std::move(vm), std::move(vcpu), std::move(memory));
    CLEARVM_RETURN_IF_ERROR(machine.BindEvents(options));
    return machine;
  }

  Result<void> Run(Options& options) {
    kvm::Ioapic ioapic(kIoapicPins, [this](std::span<const kvm::MsiRoute> routes) {
      return vm_.SetMsiRoutes(routes);
    });
    CLEARVM_ASSIGN(std::unique_ptr<kvm::Watchdog> watchdog, kvm::Watchdog::Start());
    const Clock::time_point deadline = Clock::now() + options.timeout;
    while (exits_.size() < options.max_exits) {
      CLEARVM_ASSIGN(const kvm::Vcpu::Event event, vcpu_.Run());
      if (Clock::now() >= deadline) {
        exits_.push_back({.kind = "timeout"});
        return {};
      }
      if (event == kvm::Vcpu::Event::kInterrupted) continue;
      CLEARVM_ASSIGN(const bool go_on, Handle(options, ioapic));
      if (!go_on) return {};
    }
    exits_.push_back({.kind = "exit-limit"});
    return {};
  }

  const std::vector<Exit>& exits() const { return exits_; }
  const kvm::GuestMemory& memory() const { return memory_; }
  Result<kvm_regs> registers() const { return vcpu_.GetRegs(); }

  uint64_t TakeEventCount() const {
    uint64_t count = 0;
    if (event_.valid() && ::read(event_.get(), &count, sizeof(count)) < 0) count = 0;
    return count;
  }

 private:
  PayloadMachine(kvm::Vm vm, kvm::Vcpu vcpu, kvm::GuestMemory memory)
      : memory_(std::move(memory)), vm_(std::move(vm)), vcpu_(std::move(vcpu)) {}

  static Result<UniqueFd> MakeEventFd() {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd.valid()) return SystemError("ERR_EVENTFD", "eventfd", "cannot create an event");
    return fd;
  }

  Result<void> BindEvents(const Options& options) {
    if (options.io_event_fd) {
      CLEARVM_ASSIGN(event_, MakeEventFd());
      CLEARVM_RETURN_IF_ERROR(vm_.AddIoEventFd(event_.get(), options.io_event_fd->first,
                                               options.io_event_fd->second, std::nullopt));
    }
    for (const uint32_t line : options.irq_fds) {
      CLEARVM_ASSIGN(UniqueFd fd, MakeEventFd());
      CLEARVM_RETURN_IF_ERROR(vm_.AddIrqFd(fd.get(), line));
      lines_.emplace_back(line, std::move(fd));
    }
    return {};
  }

  // False when the run is over.
  Result<bool> Handle(Options& options, kvm::Ioapic& ioapic) {
    const kvm_run& run = vcpu_.run();
    switch (run.exit_reason) {
      case KVM_EXIT_IO:
        HandlePort(options);
        return true;
      case KVM_EXIT_MMIO:
        return HandleMmio(options, ioapic);
      case KVM_EXIT_IOAPIC_EOI:
        return true;
      case KVM_EXIT_HLT:
        exits_.push_back({.kind = "halt"});
        return false;
      case KVM_EXIT_SHUTDOWN:
        exits_.push_back({.kind = "shutdown"});
        return false;
      case KVM_EXIT_INTERNAL_ERROR:
        exits_.push_back({.kind = "internal-error",
                          .reason = run.internal.suberror,
                          .description = kvm::DescribeExit(vcpu_, memory_)});
        return false;
      default:
        exits_.push_back({.kind = "other",
                          .reason = run.exit_reason,
                          .description = kvm::DescribeExit(vcpu_, memory_)});
        return false;
    }
  }

  static uint64_t NextRead(Options& options) {
    if (options.reads.empty()) return 0;
    const uint64_t value = options.reads.front();
    options.reads.pop_front();
    return value;
  }

  void HandlePort(Options& options) {
    const auto& io = vcpu_.run().io;
    std::span<uint8_t> data = vcpu_.io_data();
    for (; io.size != 0 && data.size() >= io.size; data = data.subspan(io.size)) {
      Exit exit{.kind = "port-out", .where = io.port, .size = io.size};
      if (io.direction == KVM_EXIT_IO_IN) {
        exit.kind = "port-in";
        exit.value = NextRead(options);
        std::memcpy(data.data(), &exit.value, io.size);
      } else {
        std::memcpy(&exit.value, data.data(), io.size);
        if (io.port == kRaisePort) RaiseLine(exit.value);
      }
      exits_.push_back(std::move(exit));
    }
  }

  void RaiseLine(uint64_t line) {
    for (const auto& [number, fd] : lines_) {
      if (number == line) ::eventfd_write(fd.get(), 1);
    }
  }

  Result<bool> HandleMmio(Options& options, kvm::Ioapic& ioapic) {
    auto& mmio = vcpu_.run().mmio;
    const uint32_t size = std::min<uint32_t>(mmio.len, sizeof(mmio.data));
    const bool is_ioapic = options.irqchip == "split" && mmio.phys_addr >= kvm::kIoapicAddress &&
                           mmio.phys_addr - kvm::kIoapicAddress < kvm::kIoapicSize;
    Exit exit{.kind = "mmio-write", .where = mmio.phys_addr, .size = size};
    if (is_ioapic) {
      const uint64_t offset = mmio.phys_addr - kvm::kIoapicAddress;
      if (mmio.is_write) {
        CLEARVM_RETURN_IF_ERROR(ioapic.Write(offset, {mmio.data, size}));
      } else {
        ioapic.Read(offset, {mmio.data, size});
      }
      return true;  // the machine's own, not the payload's business with the test
    }
    if (mmio.is_write) {
      std::memcpy(&exit.value, mmio.data, size);
    } else {
      exit.kind = "mmio-read";
      exit.value = NextRead(options);
      std::memcpy(mmio.data, &exit.value, size);
    }
    exits_.push_back(std::move(exit));
    return true;
  }

  kvm::GuestMemory memory_;  // first, for it outlives the VM
  kvm::Vm vm_;
  kvm::Vcpu vcpu_;
  UniqueFd event_;
  std::vector<std::pair<uint32_t, UniqueFd>> lines_;
  std::vector<Exit> exits_;
};

Napi::Value Unsigned64(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }

uint64_t AsUnsigned(const Napi::Value& value) {
  return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
}

Options ParseOptions(Napi::Object given) {
  Options options;
  const auto code = given.Get("code").As<Napi::Uint8Array>();
  options.code.assign(code.Data(), code.Data() + code.ByteLength());
  options.long_mode = given.Get("mode").As<Napi::String>().Utf8Value() == "long";
  if (given.Has("memory")) options.memory = AsUnsigned(given.Get("memory"));
  if (given.Has("loadAddress")) options.load_address = AsUnsigned(given.Get("loadAddress"));
  if (given.Has("maxExits")) options.max_exits = given.Get("maxExits").As<Napi::Number>();
  if (given.Has("timeoutMs")) {
    options.timeout = std::chrono::milliseconds(AsUnsigned(given.Get("timeoutMs")));
  }
  if (given.Has("irqchip")) options.irqchip = given.Get("irqchip").As<Napi::String>();
  if (given.Has("cpuid")) {
    options.cpuid = given.Get("cpuid").As<Napi::String>().Utf8Value() == "policy";
  }
  if (given.Has("reads")) {
    const auto reads = given.Get("reads").As<Napi::Array>();
    for (uint32_t i = 0; i < reads.Length(); ++i) options.reads.push_back(AsUnsigned(reads.Get(i)));
  }
  if (given.Has("ioEventFd")) {
    const auto event = given.Get("ioEventFd").As<Napi::Object>();
    options.io_event_fd = {AsUnsigned(event.Get("address")),
                           event.Get("length").As<Napi::Number>().Uint32Value()};
  }
  if (given.Has("irqFds")) {
    const auto lines = given.Get("irqFds").As<Napi::Array>();
    for (uint32_t i = 0; i < lines.Length(); ++i) {
      options.irq_fds.push_back(lines.Get(i).As<Napi::Number>());
    }
  }
  if (given.Has("dump")) {
    const auto dump = given.Get("dump").As<Napi::Object>();
    options.dump = {AsUnsigned(dump.Get("address")), AsUnsigned(dump.Get("length"))};
  }
  return options;
}

Napi::Object ToJs(Napi::Env env, const Exit& exit) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("kind", exit.kind);
  if (exit.size != 0) {
    result.Set(exit.kind.starts_with("port") ? "port" : "address",
               Napi::Number::New(env, static_cast<double>(exit.where)));
    result.Set("size", exit.size);
    result.Set("value", Napi::Number::New(env, static_cast<double>(exit.value)));
  }
  if (!exit.description.empty()) {
    result.Set(exit.kind == "other" ? "reason" : "suberror", exit.reason);
    result.Set("description", exit.description);
  }
  return result;
}

Napi::Object RegistersToJs(Napi::Env env, const kvm_regs& regs) {
  const std::pair<const char*, uint64_t> values[] = {
      {"rax", regs.rax}, {"rbx", regs.rbx},      {"rcx", regs.rcx}, {"rdx", regs.rdx},
      {"rsi", regs.rsi}, {"rdi", regs.rdi},      {"rbp", regs.rbp}, {"rsp", regs.rsp},
      {"r8", regs.r8},   {"r9", regs.r9},        {"r10", regs.r10}, {"r11", regs.r11},
      {"r12", regs.r12}, {"r13", regs.r13},      {"r14", regs.r14}, {"r15", regs.r15},
      {"rip", regs.rip}, {"rflags", regs.rflags}};
  Napi::Object result = Napi::Object::New(env);
  for (const auto& [name, value] : values) result.Set(name, Unsigned64(env, value));
  return result;
}

Napi::Value RunPayload(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject() ||
      !info[0].As<Napi::Object>().Get("code").IsTypedArray()) {
    throw Napi::TypeError::New(env, "runPayload({ code: Uint8Array, mode, ... })");
  }
  Options options = ParseOptions(info[0].As<Napi::Object>());
  Result<PayloadMachine> created = PayloadMachine::Create(options);
  if (!created.ok()) throw ToJsError(env, created.error());
  PayloadMachine& machine = created.value();
  if (Result<void> ran = machine.Run(options); !ran.ok()) throw ToJsError(env, ran.error());
  Result<kvm_regs> registers = machine.registers();
  if (!registers.ok()) throw ToJsError(env, registers.error());

  Napi::Object result = Napi::Object::New(env);
  Napi::Array exits = Napi::Array::New(env);
  for (const Exit& exit : machine.exits()) exits.Set(exits.Length(), ToJs(env, exit));
  result.Set("exits", exits);
  result.Set("registers", RegistersToJs(env, registers.value()));
  result.Set("ioEventFdCount",
             Napi::Number::New(env, static_cast<double>(machine.TakeEventCount())));
  if (options.dump) {
    Result<std::span<uint8_t>> bytes =
        machine.memory().Slice(options.dump->first, options.dump->second);
    if (!bytes.ok()) throw ToJsError(env, bytes.error());
    result.Set("dump",
               Napi::Buffer<uint8_t>::Copy(env, bytes.value().data(), bytes.value().size()));
  }
  return result;
}

}  // namespace

void RegisterPayload(Napi::Env env, Napi::Object exports) {
  exports.Set("runPayload", Napi::Function::New(env, RunPayload));
}

}  // namespace clearvm::addon
