#include "native/vmm/command_line.h"

#include <cstdio>

#include "native/kvm/memory.h"
#include "native/virtio/mmio.h"

namespace clearvm::vmm {
namespace {

// Line 0 is the timer's in every kernel. No legacy device claims one of the others, and each pin
// that lies before the first costs the kernel exits.
constexpr uint32_t kFirstIrq = 1;

// Documentation/admin-guide/kernel-parameters.txt; each with its reason.
constexpr const char* kArguments[] = {
    "console=hvc0",       // the kernel log goes to virtio-console
    "panic=-1",           // a panic ends the VM at once ...
    "reboot=t",           // ... and so does a reboot: by a triple fault, which needs no device
    "percpu_alloc=page",  // the embedded allocator reserves and clears far more (docs/benchmarks)
    "rcupdate.rcu_expedited=1",  // moving a process to a cgroup waits 29 ms otherwise, closing a
                                 // packet socket 30
    "page_reporting.page_reporting_order=4",  // freed memory goes back in pieces of 64 KiB; 4 MiB
                                              // unless told, which fragments seldom make up
    "no_timer_check",                         // there is no PIT whose ticks could be counted
    "tsc=nowatchdog",  // comparing the TSC with KVM's own clock, which is made of it, would wake an
                       // idle VM twice a second
    "no-kvmapf",       // KVM interrupts each vCPU of a restored VM for it, and wakes them all
    "swiotlb=noforce",  // no device needs the 64 MiB of bounce buffers of a guest beyond 4 GiB
};

}  // namespace

uint64_t DeviceAddress(size_t index) { return kvm::kMmioHoleStart + index * virtio::kMmioSize; }

uint32_t DeviceIrq(size_t index) { return kFirstIrq + static_cast<uint32_t>(index); }

std::string KernelCommandLine(uint32_t cpus, size_t devices, bool debug, const std::string& extra) {
  std::string line;
  for (const char* argument : kArguments) line.append(argument).push_back(' ');
  // Errors and worse only: every line printed is an exit or more.
  line += debug ? "loglevel=7" : "loglevel=4";
  // With one processor nobody adds a second, so the lock prefixes need not be patched out and in
  // again.
  if (cpus == 1) line += " noreplace-smp";
  if (cpus > 1) line += " irqaffinity=0";
  for (size_t i = 0; i < devices; i++) {
    char device[64];
    std::snprintf(device, sizeof device, " virtio_mmio.device=4K@0x%llx:%u",
                  static_cast<unsigned long long>(DeviceAddress(i)), DeviceIrq(i));
    line += device;
  }
  if (!extra.empty()) line.append(" ").append(extra);
  return line;
}

}  // namespace clearvm::vmm
