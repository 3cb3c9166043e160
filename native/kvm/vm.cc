#include "native/kvm/vm.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <memory>
#include <string>

namespace clearvm::kvm {
namespace {

Result<void> AddEventFd(int vm, int eventfd, uint64_t address, uint32_t length,
                        std::optional<uint64_t> match, uint32_t flags) {
  kvm_ioeventfd request = {};
  request.datamatch = match.value_or(0);
  request.addr = address;
  request.len = length;
  request.fd = eventfd;
  request.flags = flags | (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0);
  if (::ioctl(vm, KVM_IOEVENTFD, &request) != 0) {
    return SystemError(
        "ERR_KVM_EVENTFD", "ioctl(KVM_IOEVENTFD)",
        "KVM cannot turn writes to address " + std::to_string(address) + " into an event");
  }
  return {};
}

}  // namespace

Result<void> Vm::SetTssAddress(uint64_t address) {
  if (::ioctl(fd_.get(), KVM_SET_TSS_ADDR, address) != 0) {
    return SystemError("ERR_KVM_SETUP", "ioctl(KVM_SET_TSS_ADDR)",
                       "KVM cannot place its real-mode TSS");
  }
  return {};
}

Result<void> Vm::CreateSplitIrqchip(uint32_t pins) {
  kvm_enable_cap request = {};
  request.cap = KVM_CAP_SPLIT_IRQCHIP;
  request.args[0] = pins;
  if (::ioctl(fd_.get(), KVM_ENABLE_CAP, &request) != 0) {
    return SystemError("ERR_KVM_SETUP", "ioctl(KVM_ENABLE_CAP, KVM_CAP_SPLIT_IRQCHIP)",
                       "KVM cannot provide local APICs with a separate IOAPIC");
  }
  return {};
}

Result<void> Vm::CreateFullIrqchip() {
  if (::ioctl(fd_.get(), KVM_CREATE_IRQCHIP, 0) != 0) {
    return SystemError("ERR_KVM_SETUP", "ioctl(KVM_CREATE_IRQCHIP)",
                       "KVM cannot provide an interrupt controller");
  }
  return {};
}

void Vm::DisablePmu() {
  kvm_enable_cap request = {};
  request.cap = KVM_CAP_PMU_CAPABILITY;
  request.args[0] = KVM_PMU_CAP_DISABLE;
  ::ioctl(fd_.get(), KVM_ENABLE_CAP, &request);
}

Result<void> Vm::SetMemorySlot(uint32_t slot, const MemoryRegion& region, bool read_only) {
  kvm_userspace_memory_region request = {};
  request.slot = slot;
  request.flags = read_only ? KVM_MEM_READONLY : 0;
  request.guest_phys_addr = region.guest_address;
  request.memory_size = region.size;
  request.userspace_addr = reinterpret_cast<uint64_t>(region.host_address);
  if (::ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &request) != 0) {
    return SystemError("ERR_KVM_MEMORY", "ioctl(KVM_SET_USER_MEMORY_REGION)",
                       "KVM refuses guest memory slot " + std::to_string(slot) + " of " +
                           std::to_string(region.size) + " bytes");
  }
  return {};
}

Result<void> Vm::AddMemory(const GuestMemory& memory) {
  uint32_t slot = 0;
  for (const MemoryRegion& region : memory.regions()) {
    CLEARVM_RETURN_IF_ERROR(SetMemorySlot(slot++, region));
  }
  return {};
}

Result<void> Vm::AddIoEventFd(int eventfd, uint64_t address, uint32_t length,
                              std::optional<uint64_t> match) {
  return AddEventFd(fd_.get(), eventfd, address, length, match, 0);
}

Result<void> Vm::AddPortEventFd(int eventfd, uint16_t port, uint32_t length,
                                std::optional<uint64_t> match) {
  return AddEventFd(fd_.get(), eventfd, port, length, match, KVM_IOEVENTFD_FLAG_PIO);
}

Result<void> Vm::AddCoalescedMmio(uint64_t address, uint32_t size) {
  kvm_coalesced_mmio_zone zone{};
  zone.addr = address;
  zone.size = size;
  if (::ioctl(fd_.get(), KVM_REGISTER_COALESCED_MMIO, &zone) != 0) {
    return SystemError("ERR_KVM_SETUP", "ioctl(KVM_REGISTER_COALESCED_MMIO)",
                       "KVM cannot collect writes to registers");
  }
  return {};
}

Result<void> Vm::AddIrqFd(int eventfd, uint32_t gsi) {
  kvm_irqfd request = {};
  request.fd = static_cast<uint32_t>(eventfd);
  request.gsi = gsi;
  if (::ioctl(fd_.get(), KVM_IRQFD, &request) != 0) {
    return SystemError("ERR_KVM_EVENTFD", "ioctl(KVM_IRQFD)",
                       "KVM cannot bind interrupt line " + std::to_string(gsi) + " to an event");
  }
  return {};
}

Result<void> Vm::SetMsiRoutes(std::span<const MsiRoute> routes) {
  const size_t bytes = sizeof(kvm_irq_routing) + routes.size() * sizeof(kvm_irq_routing_entry);
  auto buffer = std::make_unique<uint8_t[]>(bytes);
  auto* table = reinterpret_cast<kvm_irq_routing*>(buffer.get());
  table->nr = static_cast<uint32_t>(routes.size());
  for (size_t i = 0; i < routes.size(); ++i) {
    kvm_irq_routing_entry& entry = table->entries[i];
    entry.gsi = routes[i].gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<uint32_t>(routes[i].msi.address);
    entry.u.msi.address_hi = static_cast<uint32_t>(routes[i].msi.address >> 32);
    entry.u.msi.data = routes[i].msi.data;
  }
  if (::ioctl(fd_.get(), KVM_SET_GSI_ROUTING, table) != 0) {
    return SystemError("ERR_KVM_IRQ", "ioctl(KVM_SET_GSI_ROUTING)",
                       "KVM cannot route the VM's interrupts");
  }
  return {};
}

Result<void> Vm::SignalMsi(const Msi& msi) {
  kvm_msi request = {};
  request.address_lo = static_cast<uint32_t>(msi.address);
  request.address_hi = static_cast<uint32_t>(msi.address >> 32);
  request.data = msi.data;
  if (::ioctl(fd_.get(), KVM_SIGNAL_MSI, &request) < 0) {
    return SystemError("ERR_KVM_IRQ", "ioctl(KVM_SIGNAL_MSI)", "KVM cannot deliver an interrupt");
  }
  return {};
}

Result<void> Vm::Unhalt(uint32_t apic_id) {
  // The delivery mode that KVM's own kicks have: "remote read", which no device sends.
  return SignalMsi({0xfee0'0000ull | apic_id << 12, 3u << 8});
}

Result<void> Vm::SetIrqLine(uint32_t gsi, bool high) {
  kvm_irq_level request = {};
  request.irq = gsi;
  request.level = high ? 1 : 0;
  if (::ioctl(fd_.get(), KVM_IRQ_LINE, &request) != 0) {
    return SystemError("ERR_KVM_IRQ", "ioctl(KVM_IRQ_LINE)",
                       "KVM cannot set interrupt line " + std::to_string(gsi));
  }
  return {};
}

Result<kvm_clock_data> Vm::GetClock() const {
  kvm_clock_data clock = {};
  if (::ioctl(fd_.get(), KVM_GET_CLOCK, &clock) != 0) {
    return SystemError("ERR_KVM_CLOCK", "ioctl(KVM_GET_CLOCK)", "KVM does not tell the VM's clock");
  }
  return clock;
}

Result<void> Vm::SetClock(const kvm_clock_data& clock) {
  if (::ioctl(fd_.get(), KVM_SET_CLOCK, &clock) != 0) {
    return SystemError("ERR_KVM_CLOCK", "ioctl(KVM_SET_CLOCK)", "KVM cannot set the VM's clock");
  }
  return {};
}

Result<Vcpu> Vm::CreateVcpu(uint32_t id) {
  UniqueFd fd(::ioctl(fd_.get(), KVM_CREATE_VCPU, id));
  if (!fd.valid()) {
    return SystemError("ERR_KVM_CREATE_VCPU", "ioctl(KVM_CREATE_VCPU)",
                       "KVM cannot create vCPU " + std::to_string(id));
  }
  void* address =
      ::mmap(nullptr, vcpu_mapping_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (address == MAP_FAILED) {
    return SystemError("ERR_KVM_CREATE_VCPU", "mmap",
                       "cannot map the run state of vCPU " + std::to_string(id));
  }
  return Vcpu(id, std::move(fd), UniqueMapping(address, vcpu_mapping_size_));
}

}  // namespace clearvm::kvm
