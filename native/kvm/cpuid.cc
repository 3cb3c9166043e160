#include "native/kvm/cpuid.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace clearvm::kvm {
namespace {

enum Register { kEax, kEbx, kEcx, kEdx };

uint32_t& Field(kvm_cpuid_entry2& entry, Register reg) {
  switch (reg) {
    case kEax:
      return entry.eax;
    case kEbx:
      return entry.ebx;
    case kEcx:
      return entry.ecx;
    case kEdx:
      break;
  }
  return entry.edx;
}

constexpr uint32_t Bit(unsigned n) { return 1u << n; }

struct HiddenBits {
  uint32_t function;
  uint32_t index;
  Register reg;
  uint32_t bits;
};

// Features that exist on some hosts, and that a guest of ours does not get. KVM itself hides most
// of these today; the list makes it a promise of ClearVM's, whatever a later KVM offers.
constexpr HiddenBits kHiddenBits[] = {
    // DTES64, DS_CPL, PDCM, and DS, all performance monitoring: counters see more of the host than
    // a tenant should, their state is in no
    // snapshot, and a VM with them is slower to enter.
    {0x1, 0, kEcx, Bit(2) | Bit(4) | Bit(15)},
    {0x1, 0, kEdx, Bit(21)},
    // MONITOR: mwait never leaves the guest, so an idle guest would hold its host CPU.
    {0x1, 0, kEcx, Bit(3)},
    // VMX, SMX: no virtual machines inside (their state is in no snapshot, and nesting is where
    // hypervisors break).
    {0x1, 0, kEcx, Bit(5) | Bit(6)},
    // EST, TM2, xTPR, DCA, ACPI, TM, PBE: power, heat and buses belong to the host.
    {0x1, 0, kEcx, Bit(7) | Bit(8) | Bit(14) | Bit(18)},
    {0x1, 0, kEdx, Bit(22) | Bit(29) | Bit(31)},
    // SGX and its launch control: enclave memory is not ours to give.
    {0x7, 0, kEbx, Bit(2)},
    {0x7, 0, kEcx, Bit(30)},
    // HLE, RTM, TSXLDTRK: microcode and the host's kernel take TSX away at run time.
    {0x7, 0, kEbx, Bit(4) | Bit(11)},
    {0x7, 0, kEdx, Bit(16)},
    // MPX: gone from Linux and from processors.
    {0x7, 0, kEbx, Bit(14)},
    // Resource director technology (monitoring, allocation), processor trace, architectural LBR:
    // the host's.
    {0x7, 0, kEbx, Bit(12) | Bit(15) | Bit(25)},
    {0x7, 0, kEdx, Bit(19)},
    // WAITPKG: umwait, like mwait, waits on the host's CPU.
    {0x7, 0, kEcx, Bit(5)},
    // Shadow stacks, branch tracking, key locker, PKS, ENQCMD, UINTR: supervisor or key state that
    // no snapshot of ours holds.
    {0x7, 0, kEcx, Bit(7) | Bit(23) | Bit(29) | Bit(31)},
    {0x7, 0, kEdx, Bit(5) | Bit(20)},
    // Bus-lock detection: an exception about the host's policy.
    {0x7, 0, kEcx, Bit(24)},
    // Hybrid part and platform configuration: a vCPU moves between the host's cores.
    {0x7, 0, kEdx, Bit(15) | Bit(18)},
    // AMX (BF16, TILE, INT8; FP16 and COMPLEX in subleaf 1) and APX: 8 KiB of state per vCPU that
    // the host grants by
    // request only (arch_prctl), and that we do not ask for.
    {0x7, 0, kEdx, Bit(22) | Bit(24) | Bit(25)},
    {0x7, 1, kEax, Bit(21)},
    {0x7, 1, kEdx, Bit(8) | Bit(21)},
    // HRESET, FRED, LKGS: the host's scheduler hints, and an event model that 6.x guests do not
    // need.
    {0x7, 1, kEax, Bit(17) | Bit(18) | Bit(22)},
    // XFD exists for AMX.
    {0xd, 1, kEax, Bit(4)},
    // SVM, extended APIC space, IBS, SKINIT, watchdog, LWP, TCE, node id MSR, performance counters
    // (core, north bridge, L2, data
    // breakpoints, TSC, last level), MONITORX: as for Intel's counterparts.
    {0x80000001, 0, kEcx,
     Bit(2) | Bit(3) | Bit(10) | Bit(12) | Bit(13) | Bit(15) | Bit(17) | Bit(19) | Bit(23) |
         Bit(24) | Bit(26) | Bit(27) | Bit(28) | Bit(29)},
};

// Leaves that belong to the features above. They read as zeros.
constexpr uint32_t kHiddenLeaves[] = {
    0x5,                     // MONITOR/MWAIT
    0xa,                     // performance monitoring
    0xf,        0x10,        // resource director technology
    0x12,                    // SGX
    0x14,                    // processor trace
    0x19,                    // key locker
    0x1a,                    // hybrid parts
    0x1b,                    // platform configuration
    0x1c,                    // last branch records
    0x1d,       0x1e,        // AMX
    0x23,                    // extended performance monitoring
    0x29,                    // APX
    0x8000000a,              // SVM
    0x8000001b, 0x8000001c,  // IBS, LWP
    0x8000001f,              // memory encryption
    0x80000020,              // bandwidth enforcement
    0x80000022, 0x80000023,  // performance monitoring, memory encryption keys
    0xb,        0x1f,        // topology: written anew below
    0x40000010,              // timing: the same
};

// What a guest may keep in XSAVE areas: x87, SSE, AVX, AVX-512 (three parts), PKRU. Bound
// registers, AMX tiles and all supervisor states are hidden above.
constexpr uint32_t kVisibleXcr0 = 0x2e7;

constexpr uint32_t kKvmSignature = 0x40000000;
constexpr uint32_t kKvmTiming = 0x40000010;
// The default of KVM's parameter tsc_tolerance_ppm.
constexpr uint64_t kTscTolerance = 250;  // millionths
// KVM's local APIC timer counts nanoseconds: a bus of 1 GHz (APIC_BUS_CYCLE_NS).
constexpr uint32_t kApicBusKhz = 1'000'000;

bool NamesVendor(const CpuidTable& table, const char (&vendor)[13]) {
  const kvm_cpuid_entry2* entry = FindCpuid(table, 0);
  if (entry == nullptr) return false;
  char name[12];
  std::memcpy(name, &entry->ebx, 4);
  std::memcpy(name + 4, &entry->edx, 4);
  std::memcpy(name + 8, &entry->ecx, 4);
  return std::memcmp(name, vendor, sizeof(name)) == 0;
}

bool IsAmd(const CpuidTable& table) {
  return NamesVendor(table, "AuthenticAMD") || NamesVendor(table, "HygonGenuine");
}

void Hide(CpuidTable& table) {
  std::erase_if(table, [](const kvm_cpuid_entry2& entry) {
    return std::ranges::find(kHiddenLeaves, entry.function) != std::end(kHiddenLeaves) ||
           (entry.function == 0xd && entry.index >= 2 &&
            (entry.index >= 32 || (kVisibleXcr0 & Bit(entry.index)) == 0));
  });
  for (const HiddenBits& hidden : kHiddenBits) {
    kvm_cpuid_entry2* entry = FindCpuid(table, hidden.function, hidden.index);
    if (entry != nullptr) Field(*entry, hidden.reg) &= ~hidden.bits;
  }
}

// The sizes that leaf 0xd gives follow from the states that are left (Intel SDM volume 1
// section 13.4).
void TrimXsave(CpuidTable& table) {
  constexpr uint32_t kLegacyAreaAndHeader = 576;  // bytes
  kvm_cpuid_entry2* states = FindCpuid(table, 0xd, 0);
  if (states == nullptr) return;
  states->eax &= kVisibleXcr0;
  states->edx = 0;
  uint32_t size = states->eax == 0 ? 0 : kLegacyAreaAndHeader;
  for (const kvm_cpuid_entry2& entry : table) {
    if (entry.function == 0xd && entry.index >= 2) size = std::max(size, entry.ebx + entry.eax);
  }
  // EBX is for the XCR0 of the moment: KVM keeps it up to date from here on.
  states->ebx = size;
  states->ecx = size;
  if (kvm_cpuid_entry2* compact = FindCpuid(table, 0xd, 1); compact != nullptr) {
    compact->ecx = 0;  // no supervisor states
    compact->edx = 0;
  }
}

// One package of `cpus` cores with one thread each; the last-level cache is shared by all, the
// others are each core's own.
void SetTopology(CpuidTable& table, uint32_t cpus) {
  const uint32_t id_bits = static_cast<uint32_t>(std::bit_width(cpus - 1));
  const uint32_t id_space = 1u << id_bits;
  const bool amd = IsAmd(table);

  if (kvm_cpuid_entry2* entry = FindCpuid(table, 0x1); entry != nullptr) {
    entry->ebx = (entry->ebx & 0xff00'ffff) | id_space << 16;
    entry->edx = cpus > 1 ? entry->edx | Bit(28) : entry->edx & ~Bit(28);  // HTT: more than one
  }
  for (kvm_cpuid_entry2& entry : table) {
    const uint32_t level = (entry.eax >> 5) & 7;
    const uint32_t sharing = level >= 3 ? id_space - 1 : 0;
    if (entry.function == 0x4 && (entry.eax & 0x1f) != 0) {
      entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (id_space - 1) << 26;
    } else if (entry.function == 0x8000001d && (entry.eax & 0x1f) != 0) {
      entry.eax = (entry.eax & 0xfc00'3fff) | sharing << 14;
    }
  }
  if (amd) {
    if (kvm_cpuid_entry2* entry = FindCpuid(table, 0x80000008); entry != nullptr) {
      entry->ecx = (entry->ecx & ~0xf0ffu) | id_bits << 12 | (cpus - 1);
    }
    if (kvm_cpuid_entry2* entry = FindCpuid(table, 0x80000001); entry != nullptr) {
      entry->ecx = cpus > 1 ? entry->ecx | Bit(1) : entry->ecx & ~Bit(1);  // CmpLegacy
    }
    if (kvm_cpuid_entry2* entry = FindCpuid(table, 0x8000001e); entry != nullptr) {
      entry->eax = entry->ebx = entry->ecx = entry->edx = 0;  // ids: SetApicId
    }
  }
  const kvm_cpuid_entry2* basic = FindCpuid(table, 0x0);
  if (basic == nullptr || basic->eax < 0xb) return;
  // Extended topology, Intel SDM volume 2A, leaf 0BH: level type in ECX[15:8], 1 is threads, 2 is
  // cores.
  for (uint32_t level = 0; level < 2; ++level) {
    kvm_cpuid_entry2 entry = {};
    entry.function = 0xb;
    entry.index = level;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = level == 0 ? 0 : id_bits;
    entry.ebx = level == 0 ? 1 : cpus;
    entry.ecx = level | (level + 1) << 8;
    table.push_back(entry);
  }
}

}  // namespace

kvm_cpuid_entry2* FindCpuid(CpuidTable& table, uint32_t function, uint32_t index) {
  for (kvm_cpuid_entry2& entry : table) {
    if (entry.function == function && entry.index == index) return &entry;
  }
  return nullptr;
}

const kvm_cpuid_entry2* FindCpuid(const CpuidTable& table, uint32_t function, uint32_t index) {
  return FindCpuid(const_cast<CpuidTable&>(table), function, index);
}

bool CpuidFits(CpuidTable then, const CpuidTable& now) {
  kvm_cpuid_entry2* old_timing = FindCpuid(then, kKvmTiming);
  const kvm_cpuid_entry2* timing = FindCpuid(now, kKvmTiming);
  if (old_timing != nullptr && timing != nullptr) {
    const auto [less, more] = std::minmax(old_timing->eax, timing->eax);
    if ((more - less) * uint64_t{1'000'000} <= less * kTscTolerance) old_timing->eax = timing->eax;
  }
  return then.size() == now.size() &&
         std::memcmp(then.data(), now.data(), now.size() * sizeof now[0]) == 0;
}

bool IsIntel(const CpuidTable& table) { return NamesVendor(table, "GenuineIntel"); }

CpuidTable GuestCpuid(CpuidTable supported, const CpuidPolicy& policy) {
  CpuidTable table = std::move(supported);
  Hide(table);
  TrimXsave(table);
  SetTopology(table, std::max(policy.cpus, 1u));
  if (kvm_cpuid_entry2* entry = FindCpuid(table, 0x1); entry != nullptr) {
    entry->ecx |= Bit(31);  // a hypervisor is present: makes the guest look for leaf 0x40000000
    entry->ecx = policy.tsc_deadline ? entry->ecx | Bit(24) : entry->ecx & ~Bit(24);
  }
  kvm_cpuid_entry2* signature = FindCpuid(table, kKvmSignature);
  if (signature != nullptr && policy.tsc_khz != 0) {
    signature->eax = std::max(signature->eax, kKvmTiming);
    kvm_cpuid_entry2 timing = {};
    timing.function = kKvmTiming;
    timing.eax = policy.tsc_khz;
    timing.ebx = kApicBusKhz;
    table.push_back(timing);
  }
  return table;
}

void SetApicId(CpuidTable& table, uint32_t apic_id) {
  const bool amd = IsAmd(table);
  for (kvm_cpuid_entry2& entry : table) {
    if (entry.function == 0x1) {
      entry.ebx = (entry.ebx & 0x00ff'ffff) | apic_id << 24;
    } else if (entry.function == 0xb) {
      entry.edx = apic_id;
    } else if (entry.function == 0x8000001e && amd) {
      entry.eax = apic_id;
      entry.ebx = apic_id & 0xff;  // the core's number; one thread each
    }
  }
}

}  // namespace clearvm::kvm
