// The machine code that the probe runs in a guest. Each payload starts in 64-bit ring 0 and reports
// through kProbePort.
#ifndef CLEARVM_KVM_PROBE_PAYLOADS_H_
#define CLEARVM_KVM_PROBE_PAYLOADS_H_

#include <cstdint>
#include <span>

namespace clearvm::kvm {

inline constexpr uint16_t kProbePort = 0xf4;  // 4-byte writes
inline constexpr uint32_t kProbePassed = 0x600d;
inline constexpr uint32_t kProbeFailed = 0xbad;

// Selectors of the GDT that the ring-3 payloads expect. SYSCALL takes kernel code and, 8 above it,
// data; SYSRET takes 16 and 8 above kProbeSysretBase.
inline constexpr uint16_t kProbeKernelCode = 0x10;
inline constexpr uint16_t kProbeKernelData = 0x18;
inline constexpr uint16_t kProbeSysretBase = 0x18;
inline constexpr uint16_t kProbeUserData = 0x20;
inline constexpr uint16_t kProbeUserCode = 0x28;

// Where a ring-3 payload has its stack, guest-physical.
inline constexpr uint64_t kProbeUserStack = 0x30000;

// All payloads: position-independent, in one piece.
std::span<const uint8_t> ProbeCode();

// Entry points, as offsets into ProbeCode(). At entry rsi points to 1 KiB of zeros, 64-byte
// aligned.
struct ProbeEntries {
  uint64_t loop;  // counts rcx down to 0, two instructions a round
  uint64_t cmpxchg16b;
  uint64_t popcnt;
  uint64_t fwait;
  uint64_t stac_clac;
  uint64_t xsave;
  uint64_t int3;             // needs the gate of vector 3
  uint64_t page_fault;       // reads from rdi, which must be unmapped; needs the gate of vector 14
  uint64_t ring3_exception;  // needs the gate of vector 3, callable from ring 3, and a TSS
  uint64_t ring3_syscall;    // needs LSTAR
  uint64_t breakpoint_gate;  // handler of vector 3
  uint64_t page_fault_gate;  // handler of vector 14
  uint64_t syscall_target;   // for LSTAR
};
ProbeEntries GetProbeEntries();

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_PROBE_PAYLOADS_H_
