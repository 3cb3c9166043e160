#include <gtest/gtest.h>

#include <cstring>

#include "native/kvm/cpuid.h"
#include "native/kvm/msrs.h"

namespace clearvm::kvm {
namespace {

kvm_cpuid_entry2 Entry(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
                       uint32_t edx) {
  kvm_cpuid_entry2 entry = {};
  entry.function = function;
  entry.index = index;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

kvm_cpuid_entry2 Vendor(const char* name) {
  kvm_cpuid_entry2 entry = Entry(0, 0, 0x1f, 0, 0, 0);
  std::memcpy(&entry.ebx, name, 4);
  std::memcpy(&entry.edx, name + 4, 4);
  std::memcpy(&entry.ecx, name + 8, 4);
  return entry;
}

// A host that offers everything there is.
CpuidTable Everything(const char* vendor) {
  return {
      Vendor(vendor),
      Entry(0x1, 0, 0, 0xaa55aa55, 0xffffffff, 0xffffffff),
      Entry(0x4, 0, 0x1 | 1 << 5 | 0xfffu << 14, 0, 0, 0),  // L1
      Entry(0x4, 1, 0x3 | 3 << 5, 0, 0, 0),                 // L3
      Entry(0x4, 2, 0, 0, 0, 0),
      Entry(0x7, 0, 1, 0xffffffff, 0xffffffff, 0xffffffff),
      Entry(0xa, 0, 5, 5, 5, 5),
      Entry(0xb, 0, 9, 9, 9, 9),
      Entry(0xb, 1, 9, 9, 9, 9),
      Entry(0xd, 0, 0xffffffff, 11008, 11008, 0),
      Entry(0xd, 1, 0x1f, 3000, 0xffff, 0),
      Entry(0xd, 2, 256, 576, 0, 0),
      Entry(0xd, 3, 64, 960, 0, 0),
      Entry(0xd, 7, 1024, 1664, 0, 0),
      Entry(0xd, 9, 8, 2688, 0, 0),
      Entry(0xd, 18, 8192, 2816, 0, 0),
      Entry(0x1d, 0, 1, 1, 1, 1),
      Entry(0x1f, 0, 9, 9, 9, 9),
      Entry(0x40000000, 0, 0x40000001, 0, 0, 0),
      Entry(0x40000001, 0, 0xff, 0, 0, 0),
      Entry(0x80000001, 0, 0, 0, 0xffffffff, 0xffffffff),
      Entry(0x80000008, 0, 48, 0, 0xf0ff, 0),
      Entry(0x8000000a, 0, 1, 1, 1, 1),
      Entry(0x8000001d, 0, 0x1 | 1 << 5 | 0xfffu << 14, 0, 0, 0),
      Entry(0x8000001d, 3, 0x3 | 3 << 5, 0, 0, 0),
      Entry(0x8000001e, 0, 7, 7, 7, 7),
  };
}

bool Bit(uint32_t value, unsigned n) { return (value >> n & 1) != 0; }

TEST(Cpuid, HidesWhatCannotBePromised) {
  const CpuidTable table = GuestCpuid(Everything("GenuineIntel"), {});
  const kvm_cpuid_entry2* basic = FindCpuid(table, 1);
  ASSERT_NE(basic, nullptr);
  for (const unsigned hidden :
       {2u, 3u, 5u, 6u, 15u, 24u}) {  // DTES64, MONITOR, VMX, SMX, PDCM, deadline
    EXPECT_FALSE(Bit(basic->ecx, hidden)) << hidden;
  }
  for (const unsigned kept : {0u, 12u, 13u, 17u, 21u, 26u, 28u, 30u, 31u}) {
    EXPECT_TRUE(Bit(basic->ecx, kept)) << kept;
  }
  const kvm_cpuid_entry2* extended = FindCpuid(table, 7);
  ASSERT_NE(extended, nullptr);
  for (const unsigned hidden : {2u, 4u, 11u, 14u, 25u}) {  // SGX, HLE, RTM, MPX, PT
    EXPECT_FALSE(Bit(extended->ebx, hidden)) << hidden;
  }
  EXPECT_TRUE(Bit(extended->ebx, 9));    // ERMS as the host says
  EXPECT_TRUE(Bit(extended->ebx, 20));   // SMAP
  EXPECT_FALSE(Bit(extended->ecx, 5));   // WAITPKG
  EXPECT_FALSE(Bit(extended->edx, 24));  // AMX
  EXPECT_TRUE(Bit(extended->edx, 29));   // ARCH_CAPABILITIES: mitigations are kept
  EXPECT_FALSE(Bit(FindCpuid(table, 0x80000001)->ecx, 2));  // SVM
  for (const uint32_t leaf : {0xau, 0x1du, 0x1fu, 0x8000000au}) {
    EXPECT_EQ(FindCpuid(table, leaf), nullptr) << std::hex << leaf;
  }
}

TEST(Cpuid, TrimsXsaveToTheVisibleStates) {
  const CpuidTable table = GuestCpuid(Everything("GenuineIntel"), {});
  const kvm_cpuid_entry2* states = FindCpuid(table, 0xd, 0);
  ASSERT_NE(states, nullptr);
  EXPECT_EQ(states->eax, 0x2e7u);
  EXPECT_EQ(states->ecx, 2696u);  // the end of PKRU
  EXPECT_EQ(FindCpuid(table, 0xd, 3), nullptr);
  EXPECT_EQ(FindCpuid(table, 0xd, 18), nullptr);
  EXPECT_NE(FindCpuid(table, 0xd, 7), nullptr);
  EXPECT_EQ(FindCpuid(table, 0xd, 1)->ecx, 0u);
  EXPECT_FALSE(Bit(FindCpuid(table, 0xd, 1)->eax, 4));
}

TEST(Cpuid, ShowsOneCoreAsOneCore) {
  CpuidTable table = GuestCpuid(Everything("GenuineIntel"), {});
  SetApicId(table, 0);
  EXPECT_FALSE(Bit(FindCpuid(table, 1)->edx, 28));
  EXPECT_EQ(FindCpuid(table, 1)->ebx >> 16, 0x0001u);
  EXPECT_EQ(FindCpuid(table, 0xb, 1)->ebx, 1u);
  EXPECT_EQ(FindCpuid(table, 0xb, 1)->eax, 0u);
}

TEST(Cpuid, DescribesEveryTopologyTheSameWay) {
  const struct {
    uint32_t cpus;
    uint32_t bits;
  } cases[] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {8, 3}, {17, 5}, {32, 5}};
  for (const auto& [cpus, bits] : cases) {
    for (const char* vendor : {"GenuineIntel", "AuthenticAMD"}) {
      CpuidPolicy policy;
      policy.cpus = cpus;
      CpuidTable table = GuestCpuid(Everything(vendor), policy);
      for (uint32_t id = 0; id < cpus; ++id) {
        SetApicId(table, id);
        EXPECT_EQ(FindCpuid(table, 1)->ebx >> 24, id);
        EXPECT_EQ(FindCpuid(table, 0xb, 0)->edx, id);
        EXPECT_EQ(FindCpuid(table, 0xb, 1)->edx, id);
      }
      EXPECT_EQ(FindCpuid(table, 1)->ebx >> 16 & 0xff, 1u << bits);
      EXPECT_EQ(FindCpuid(table, 1)->ebx & 0xffff, 0xaa55u);
      EXPECT_EQ(Bit(FindCpuid(table, 1)->edx, 28), cpus > 1);
      EXPECT_EQ(FindCpuid(table, 0xb, 0)->ecx, 0x100u);
      EXPECT_EQ(FindCpuid(table, 0xb, 1)->ecx, 0x201u);
      EXPECT_EQ(FindCpuid(table, 0xb, 1)->eax, bits);
      EXPECT_EQ(FindCpuid(table, 0xb, 1)->ebx, cpus);
      EXPECT_EQ(FindCpuid(table, 4, 0)->eax >> 14 & 0xfff, 0u);
      EXPECT_EQ(FindCpuid(table, 4, 1)->eax >> 14 & 0xfff, (1u << bits) - 1);
      EXPECT_EQ(FindCpuid(table, 4, 1)->eax >> 26, (1u << bits) - 1);
    }
  }
}

TEST(Cpuid, DescribesAmdTopology) {
  CpuidPolicy policy;
  policy.cpus = 6;
  CpuidTable table = GuestCpuid(Everything("AuthenticAMD"), policy);
  SetApicId(table, 5);
  EXPECT_EQ(FindCpuid(table, 0x80000008)->ecx, 0x3005u);
  EXPECT_TRUE(Bit(FindCpuid(table, 0x80000001)->ecx, 1));
  EXPECT_EQ(FindCpuid(table, 0x8000001e)->eax, 5u);
  EXPECT_EQ(FindCpuid(table, 0x8000001e)->ebx, 5u);
  EXPECT_EQ(FindCpuid(table, 0x8000001e)->ecx, 0u);
  EXPECT_EQ(FindCpuid(table, 0x8000001d, 0)->eax >> 14 & 0xfff, 0u);
  EXPECT_EQ(FindCpuid(table, 0x8000001d, 3)->eax >> 14 & 0xfff, 7u);
}

TEST(Cpuid, TellsTheTime) {
  CpuidPolicy policy;
  policy.tsc_deadline = true;
  policy.tsc_khz = 2'500'000;
  const CpuidTable table = GuestCpuid(Everything("GenuineIntel"), policy);
  EXPECT_TRUE(Bit(FindCpuid(table, 1)->ecx, 24));
  EXPECT_EQ(FindCpuid(table, 0x40000000)->eax, 0x40000010u);
  EXPECT_EQ(FindCpuid(table, 0x40000010)->eax, 2'500'000u);
  EXPECT_EQ(FindCpuid(table, 0x40000010)->ebx, 1'000'000u);
  const CpuidTable unknown = GuestCpuid(Everything("GenuineIntel"), {});
  EXPECT_EQ(FindCpuid(unknown, 0x40000010), nullptr);
  EXPECT_EQ(FindCpuid(unknown, 0x40000000)->eax, 0x40000001u);
}

TEST(Cpuid, SavedGuestsFitWhereFeaturesAndTscRateAreTheSame) {
  const auto told = [](uint32_t khz) {
    CpuidPolicy policy;
    policy.tsc_khz = khz;
    return GuestCpuid(Everything("GenuineIntel"), policy);
  };
  // A rate is measured, and KVM takes 250 millionths for no difference.
  for (uint32_t khz : {2'500'000u, 2'500'625u, 2'499'376u}) {
    EXPECT_TRUE(CpuidFits(told(2'500'000), told(khz))) << khz;
    EXPECT_TRUE(CpuidFits(told(khz), told(2'500'000))) << khz;
  }
  for (uint32_t khz : {0u, 2'500'626u, 2'499'374u, 4'294'967'295u}) {
    EXPECT_FALSE(CpuidFits(told(2'500'000), told(khz))) << khz;
    EXPECT_FALSE(CpuidFits(told(khz), told(2'500'000))) << khz;
  }
  CpuidTable other = told(2'500'000);
  FindCpuid(other, 0x7)->ebx ^= 1;
  EXPECT_FALSE(CpuidFits(told(2'500'000), other));
  EXPECT_FALSE(CpuidFits({}, other));
}

TEST(Cpuid, TakesAnEmptyTable) {
  CpuidTable table = GuestCpuid({}, {});
  SetApicId(table, 3);
  EXPECT_TRUE(table.empty());
  EXPECT_FALSE(IsIntel(table));
}

TEST(Msrs, AreForIntelOnly) {
  EXPECT_TRUE(BootMsrs(Everything("AuthenticAMD")).empty());
  const auto msrs = BootMsrs(Everything("GenuineIntel"));
  ASSERT_EQ(msrs.size(), 1u);
  EXPECT_EQ(msrs[0].index, 0x1a0u);
  EXPECT_EQ(msrs[0].data & 1, 1u);  // fast strings
}

}  // namespace
}  // namespace clearvm::kvm
