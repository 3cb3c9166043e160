// Is this KVM hardware virtualization? Judged by what payloads do in it, not by the presence of a
// device.
#ifndef CLEARVM_KVM_PROBE_H_
#define CLEARVM_KVM_PROBE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "native/base/result.h"

namespace clearvm::kvm {

enum class Verdict {
  kHardware,  // payloads behave as on a processor
  kSoftware,  // KVM answers, but the guest does not behave as a processor would: no container can
              // run here
  kUnusable,  // no VM could be made at all
};

struct ProbeReport {
  Verdict verdict = Verdict::kUnusable;
  std::string reason;          // one sentence for people: why this verdict
  std::optional<Error> error;  // of the step that failed, for kUnusable
  int api_version = 0;         // 0: the device did not open
  struct Capability {
    const char* name;  // "KVM_CAP_IRQFD"
    int value;         // KVM_CHECK_EXTENSION
    bool required;     // ClearVM cannot run without it
  };
  std::vector<Capability> capabilities;
  double create_vm_ms = 0;  // of KVM_CREATE_VM alone
  // The counted loop, in rounds of two instructions.
  double ring0_instructions_per_second = 0;  // inside the guest; 0: did not finish
  double host_instructions_per_second = 0;   // the same loop, natively, in this process
  // What each instruction or event did in the guest.
  struct Check {
    const char* name;  // "syscall from ring 3", "cmpxchg16b", ...
    bool passed;
    std::string detail;  // what happened instead; empty when it passed
  };
  std::vector<Check> checks;
};

// Probes the KVM device at `path`. Never fails: what goes wrong is in the report. Takes
// milliseconds on hardware, and in all cases ends within about 3.5 s. Bounds its vCPUs with a
// Watchdog.
ProbeReport Probe(const std::string& path);

const char* VerdictName(Verdict verdict);  // "hardware", "software", "unusable"
// The report as lines of text, for `clearvm-vmm --probe`.
std::string FormatProbe(const ProbeReport& report);

}  // namespace clearvm::kvm

#endif  // CLEARVM_KVM_PROBE_H_
