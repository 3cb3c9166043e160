// <linux/kvm.h>, as C++ must see it. Include this, never that.
#ifndef CLEARVM_BASE_LINUX_KVM_H_
#define CLEARVM_BASE_LINUX_KVM_H_

#include <linux/stddef.h>

// The kernel wraps flexible arrays together with an empty struct, which takes no space in C but a
// byte in C++: that shifts the arrays of kvm_cpuid2, kvm_msrs, kvm_irq_routing and others, and
// changes the numbers of their ioctls.
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]

#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_irq_routing) == 8);

#endif  // CLEARVM_BASE_LINUX_KVM_H_
