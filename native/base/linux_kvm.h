// <linux/kvm.h>, usable from C++. Include it instead of that, always.
//
// The headers of some kernels (6.1 among them) wrap flexible arrays in a struct that also has an
// empty struct, whose size is 0 in C but 1 in C++. The structures then come out too large, and with
// them the ioctl numbers, which hold the size: KVM answers EINVAL.
#ifndef CLEARVM_BASE_LINUX_KVM_H_
#define CLEARVM_BASE_LINUX_KVM_H_

#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]

#include <linux/kvm.h>  // IWYU pragma: export

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_irq_routing) == 8,
              "<linux/kvm.h> was included before native/base/linux_kvm.h, or is not as expected");

#endif  // CLEARVM_BASE_LINUX_KVM_H_
