#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

#include "native/vmm/affinity.h"

namespace clearvm::vmm {
namespace {

// On a thread of its own, which takes its processors with it.
std::string RunOn(std::string_view list, cpu_set_t* processors = nullptr) {
  std::string code;
  std::thread([&] {
    const Result<void> result = RunOnProcessors(list);
    if (!result.ok()) code = result.error().message;
    if (processors != nullptr) ::sched_getaffinity(0, sizeof *processors, processors);
  }).join();
  return code;
}

TEST(Affinity, AThreadRunsOnTheProcessorsOfAList) {
  cpu_set_t given;
  ASSERT_EQ(::sched_getaffinity(0, sizeof given, &given), 0);
  int first = 0;
  while (!CPU_ISSET(first, &given)) first++;
  const std::string number = std::to_string(first);
  cpu_set_t processors;
  EXPECT_EQ(RunOn(number + "-" + number + "," + number, &processors), "");
  EXPECT_EQ(CPU_COUNT(&processors), 1);
  EXPECT_TRUE(CPU_ISSET(first, &processors));
}

TEST(Affinity, WhatIsNoListChangesNothing) {
  cpu_set_t given;
  ASSERT_EQ(::sched_getaffinity(0, sizeof given, &given), 0);
  for (const char* list : {"", ",", "-1", "0-", "0,", "a", "0 ", "1-0", "0--1", "1024",
                           "99999999999999999999", "0-1024"}) {
    cpu_set_t processors;
    EXPECT_NE(RunOn(list, &processors).find("must be processors"), std::string::npos) << list;
    EXPECT_TRUE(CPU_EQUAL(&processors, &given)) << list;
  }
}

TEST(Affinity, ProcessorsThatAreNotThereAreNamed) {
  EXPECT_NE(RunOn("1023").find("--cpuset-cpus 1023: some of these"), std::string::npos);
}

}  // namespace
}  // namespace clearvm::vmm
